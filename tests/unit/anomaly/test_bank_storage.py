from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from adapters.memory.objects import MemoryObjects
from consumers.anomaly.bank_files import (
    BankLibrary,
    BankUnavailableError,
    bank_prefix,
    pack_bank,
    read_bank,
    unpack_bank,
    write_bank,
)
from consumers.anomaly.calibration import calibrate
from consumers.anomaly.memory_bank import MemoryBank
from pipeline.errors import DependencyDownError
from schemas.configuration import BankPublished
from tests.anomaly_rig import AT, State

MODEL = "timm:tf_efficientnet_lite0@000000000000"


def bank(version: str = "v1", size: int = 4) -> MemoryBank:
    chance = torch.Generator().manual_seed(size)
    return MemoryBank(
        product="셀",
        version=version,
        vectors=torch.rand((size, 6), generator=chance),
        scale=torch.ones(6),
        owners=np.arange(size, dtype=np.int32) % 3,
        descriptors=torch.rand((3, 24), generator=chance),
        image_keys=("a", "b", "c"),
        model=MODEL,
        calibration=calibrate([1.0, 2.0, 3.0], [np.ones((2, 2), np.float32)] * 3),
    )


def published(made: MemoryBank, sha256: str, model: str = MODEL) -> BankPublished:
    return BankPublished.model_validate(
        {
            "event_id": "5a3f54b4-9d37-4d4e-b2a4-4a2c1f6d8d01",
            "occurred_at": AT,
            "product": made.product,
            "version": made.version,
            "prefix": bank_prefix(made.product, made.version),
            "sha256": sha256,
            "size_bytes": 1,
            "model": model,
            "normals": 3,
            "threshold": 1.0,
            "map_threshold": 1.0,
        }
    )


async def stored(store: MemoryObjects, state: State, made: MemoryBank, model: str = MODEL) -> str:
    files = pack_bank(made, {"seed": 0})
    await write_bank(store, made, files)
    state.events[f"{made.product}/{made.version}"] = published(made, files.sha256, model)
    return bank_prefix(made.product, made.version)


def test_a_bank_survives_its_files_unchanged() -> None:
    made = bank()
    files = pack_bank(made, {})
    back = unpack_bank(files, files.sha256)
    assert torch.equal(back.vectors, made.vectors)
    assert torch.equal(back.descriptors, made.descriptors)
    assert np.array_equal(back.owners, made.owners)
    assert (back.image_keys, back.calibration) == (made.image_keys, made.calibration)
    assert pack_bank(back, {}) == files


@pytest.mark.parametrize("name", ["bank.safetensors", "manifest.json"])
async def test_a_bank_with_one_changed_byte_is_refused(name: str) -> None:
    store, state = MemoryObjects(), State()
    prefix = await stored(store, state, bank())
    data = bytearray(await store.get(prefix + name))
    data[len(data) // 2] ^= 1
    store.corrupt(prefix + name, bytes(data))
    with pytest.raises(BankUnavailableError) as caught:
        await BankLibrary(store, state, MODEL).open("셀", "v1")
    assert caught.value.reason == "bank_damaged"


@pytest.mark.parametrize(
    ("version", "model", "reason"),
    [(None, MODEL, "no_bank"), ("v9", MODEL, "bank_unknown"), ("v1", "other@1", "bank_model")],
)
async def test_a_bank_that_cannot_judge_says_why(
    version: str | None, model: str, reason: str
) -> None:
    store, state = MemoryObjects(), State()
    await stored(store, state, bank(), model)
    with pytest.raises(BankUnavailableError) as caught:
        await BankLibrary(store, state, MODEL).open("셀", version)
    assert caught.value.reason == reason


async def test_a_bank_whose_arrays_are_missing_is_unknown() -> None:
    store, state = MemoryObjects(), State()
    prefix = await stored(store, state, bank())
    await store.delete(prefix + "bank.safetensors")
    with pytest.raises(BankUnavailableError) as caught:
        await read_bank(store, prefix, None)
    assert caught.value.reason == "bank_unknown"


async def test_a_store_that_is_away_is_no_verdict_on_the_bank() -> None:
    store, state = MemoryObjects(), State()
    await stored(store, state, bank())
    store.away = True
    with pytest.raises(DependencyDownError):
        await BankLibrary(store, state, MODEL).open("셀", "v1")


async def test_a_bank_is_read_once_while_it_is_held() -> None:
    store, state = MemoryObjects(), State()
    await stored(store, state, bank())
    library = BankLibrary(store, state, MODEL)
    first = await library.open("셀", "v1")
    store.away = True
    assert await library.open("셀", "v1") is first


async def test_the_bank_longest_unused_leaves_first() -> None:
    store, state = MemoryObjects(), State()
    sizes = {}
    for version in ("v1", "v2", "v3"):
        made = bank(version)
        sizes[version] = made.size_bytes
        await stored(store, state, made)
    library = BankLibrary(store, state, MODEL, capacity_bytes=2 * sizes["v1"])
    await library.open("셀", "v1")
    await library.open("셀", "v2")
    await library.open("셀", "v1")
    await library.open("셀", "v3")
    store.away = True
    assert (await library.open("셀", "v1")).version == "v1"
    with pytest.raises(DependencyDownError):
        await library.open("셀", "v2")


async def test_the_manifest_is_written_last() -> None:
    store = MemoryObjects()
    made = bank()
    await write_bank(store, made, pack_bank(made, {}))
    assert [key.rsplit("/", 1)[1] for _, key in store.calls] == [
        "bank.safetensors",
        "manifest.json",
    ]


def test_the_manifest_is_readable_by_people() -> None:
    manifest = json.loads(pack_bank(bank(), {"coreset_ratio": 0.01}).manifest)
    assert manifest["product"] == "셀"
    assert manifest["notes"] == {"coreset_ratio": 0.01}
    assert manifest["calibration"]["target_false_reject"] == 0.01
