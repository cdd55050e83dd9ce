from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from adapters import weights as module
from adapters.weights import HUB_FILES, HubFile, file_sha256, load_weights
from pipeline.errors import ConfigError

MODEL = "timm:made_up"


def test_an_explicit_file_comes_before_everything(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    save_file({"a": torch.arange(4.0)}, path)
    loaded = load_weights(MODEL, path)
    assert torch.equal(loaded.state_dict["a"], torch.arange(4.0))
    assert loaded.sha256 == file_sha256(path)
    assert loaded.source == f"file {path}"


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_torch_file_is_read_with_or_without_its_wrapper(tmp_path: Path, *, wrapped: bool) -> None:
    path = tmp_path / "mine.pth"
    state = {"a": torch.ones(2)}
    torch.save({"state_dict": state} if wrapped else state, path)
    assert list(load_weights(MODEL, path).state_dict) == ["a"]


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (sys.exit, ("code ran",))


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(ConfigError, match="load safely"):
        load_weights(MODEL, path)


@pytest.mark.parametrize("content", [b"", b"not weights"])
@pytest.mark.parametrize("name", ["x.safetensors", "x.pth"])
def test_a_broken_file_is_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=name):
        load_weights(MODEL, path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_weights(MODEL, tmp_path / "absent.pth")


def test_a_model_without_known_weights_names_those_that_have_some() -> None:
    with pytest.raises(ConfigError, match="dinov2:vit_small_patch14"):
        load_weights(MODEL)


def test_every_hub_file_is_pinned_to_a_commit_and_a_digest() -> None:
    for pinned in HUB_FILES.values():
        assert len(pinned.revision) == 40
        assert len(pinned.sha256) == 64
        assert int(pinned.revision, 16) > 0
        assert int(pinned.sha256, 16) > 0


def test_a_hub_copy_with_other_bytes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(1)}, path)
    pinned = HubFile("who/what", "0" * 40, path.name, "f" * 64)
    monkeypatch.setattr(module, "HUB_FILES", {MODEL: pinned})
    monkeypatch.setattr(module, "_hub_file", lambda _model, _pinned: path)
    with pytest.raises(ConfigError, match="damaged"):
        load_weights(MODEL)
    monkeypatch.setattr(module, "HUB_FILES", {MODEL: pinned._replace(sha256=file_sha256(path))})
    assert load_weights(MODEL).source == f"hub who/what@{'0' * 40}"


def test_reading_about_weights_does_not_bring_torch() -> None:
    code = "import sys, adapters.weights; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
