"""doctor tells what is away from what refuses the credentials, and says what to do."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.chaos.scripted_llm import ScriptedLlm
from tests.services import kafka_server


@pytest.fixture
def bare_kafka(tmp_path: Path) -> Iterator[str]:
    """A broker on which nobody made topics yet."""
    with kafka_server(tmp_path / "kafka") as servers:
        yield servers


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _findings(folder: Path, **variables: str) -> dict[str, tuple[str, str]]:
    """Run the command as a user does; returns state and detail by check."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("LINESIDE_")}
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("lineside")), "doctor", "--json",
        env={**clean, "LINESIDE_STATE_DIR": str(folder), **variables},
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert out, err.decode()
    found = {row[0]: (row[1], row[2]) for row in map(_row, json.loads(out)["findings"])}
    is_bad = any(state not in {"ok", "warning"} for state, _ in found.values())
    assert process.returncode == (1 if is_bad else 0)
    return found


def _row(finding: dict[str, str]) -> tuple[str, str, str]:
    return finding["name"], finding["state"], finding["detail"]


async def test_each_dependency_that_is_away_is_named_with_what_to_do(tmp_path: Path) -> None:
    port = _closed_port()
    found = await _findings(
        tmp_path,
        LINESIDE_KAFKA__BOOTSTRAP_SERVERS=f"127.0.0.1:{port}",
        LINESIDE_OBJECTS__URL=f"s3://lineside?endpoint=http://127.0.0.1:{port}",
        LINESIDE_OBJECTS__ACCESS_KEY="a",
        LINESIDE_OBJECTS__SECRET_KEY="b-long-enough",
        LINESIDE_DATABASE__URL=f"postgresql+asyncpg://u:p@127.0.0.1:{port}/d",
        LINESIDE_LLM__BASE_URL=f"http://127.0.0.1:{port}",
        LINESIDE_ANOMALY__BACKBONE="timm:wide_resnet50_2.tv_in1k",
        HF_HUB_OFFLINE="1",
    )
    assert {name for name, (state, _) in found.items() if state == "away"} == {
        "broker", "storage", "database", "llm server",
    }  # fmt: skip
    assert found["anomaly weights"][0] == "wrong"
    assert (
        "LINESIDE_ANOMALY" in found["anomaly weights"][1]
        or "weights" in found["anomaly weights"][1]
    )
    assert found["embed weights"][0] == "ok"


@pytest.mark.needs_s3
@pytest.mark.needs_postgres
async def test_wrong_credentials_are_told_from_away(
    tmp_path: Path, s3: tuple[str, str, str], bare_kafka: str
) -> None:
    url, access, _ = s3
    async with ScriptedLlm(api_key="right") as llm:
        found = await _findings(
            tmp_path,
            LINESIDE_KAFKA__BOOTSTRAP_SERVERS=bare_kafka,
            LINESIDE_OBJECTS__URL=f"s3://lineside?endpoint={url}",
            LINESIDE_OBJECTS__ACCESS_KEY=access,
            LINESIDE_OBJECTS__SECRET_KEY="not-the-secret-key",
            LINESIDE_LLM__BASE_URL=llm.url,
            LINESIDE_LLM__API_KEY="wrong",
        )
    assert found["storage"][0] == "refused", found["storage"]
    assert found["llm server"][0] == "refused", found["llm server"]
    # The broker answers, but nobody made the topics.
    assert found["broker"][0] == "wrong", found["broker"]
    assert "topics apply" in found["broker"][1]
