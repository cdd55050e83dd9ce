"""`lineside outbox`: what the broker refused is shown, and sent again when a person says so."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from adapters.sql.engine import migrate, open_database
from adapters.sql.outbox import SqlOutbox
from app.cli.outbox import outbox
from app.doctor import _database
from app.settings import Settings
from pipeline.errors import ConfigError
from tests.story import Story, configured


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two uploads and one product's settings that were set aside, and an upload that waits."""
    monkeypatch.setenv("LINESIDE_STATE_DIR", str(tmp_path))

    async def fill() -> None:
        url = f"sqlite+aiosqlite:///{tmp_path / 'lineside.db'}"
        await migrate(url)
        async with open_database(url) as database:
            held = SqlOutbox(database, source="/lineside/web")
            await held.append([Story(f"P-{n}").uploaded for n in range(3)])
            await held.append([configured(1, "bearing")])
            first, second, _, product = await held.pending(10)
            for row in (first, second, product):
                await held.set_aside(row.row_id, "message_too_large: 2 MB, the limit is 1 MB")

    asyncio.run(fill())
    return tmp_path


def waiting(state: Path) -> list[int]:
    async def look() -> list[int]:
        async with open_database(f"sqlite+aiosqlite:///{state / 'lineside.db'}") as database:
            rows = await SqlOutbox(database, source="/lineside/web").pending(10)
            return [row.row_id for row in rows]

    return asyncio.run(look())


def run(*words: str) -> Result:
    return CliRunner().invoke(outbox, list(words))


def test_it_lists_what_was_set_aside_and_why(state: Path) -> None:
    assert waiting(state) == [3]
    shown = run("list").output
    assert "images.uploaded" in shown
    assert "2 MB, the limit is 1 MB" in " ".join(shown.split())
    (first, *others) = json.loads(run("list", "--json").output)["refused"]
    assert (first["row_id"], first["topic"]) == (1, "images.uploaded")
    assert len(others) == 2


def test_a_row_is_sent_again_and_the_act_is_kept(state: Path) -> None:
    assert run("retry", "2").exit_code == 0
    assert waiting(state) == [2, 3]
    (line,) = (state / "logs" / "audit.log").read_text("utf-8").splitlines()
    assert json.loads(line)["action"] == "outbox_row_retried"
    assert json.loads(line)["row_id"] == 2


def test_all_but_state_that_may_be_old_by_now(state: Path) -> None:
    done = run("retry", "--all")
    assert "2 events go to the relay again" in done.output
    assert "1 stay" in done.output
    assert waiting(state) == [1, 2, 3]
    refused = run("retry", "4").exception
    assert isinstance(refused, ConfigError)
    assert "make the change again" in str(refused)


def test_the_doctor_tells_of_what_was_set_aside_until_it_is_sent_again(state: Path) -> None:
    settings = Settings(state_dir=state)
    told = asyncio.run(_database(settings))
    assert told.startswith("warning: ")
    assert told.endswith("events set aside: 3, see lineside outbox list")
    assert run("retry", "--all").exit_code == 0
    assert "set aside: 1," in asyncio.run(_database(settings))


def test_what_was_not_set_aside_is_not_touched(state: Path) -> None:
    refused = run("retry", "1", "3").exception
    assert isinstance(refused, ConfigError)
    assert "row 3: not set aside" in str(refused)
    assert waiting(state) == [3]
    assert run("retry").exit_code == 2
    assert run("retry", "1", "--all").exit_code == 2
