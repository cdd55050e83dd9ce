"""Dead letters over HTTP, on a real SQLite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest_asyncio
from fastapi import FastAPI

from adapters.clock import SystemClock
from adapters.sql.dead_letters import SqlDeadLetters
from adapters.sql.replays import SqlReplays
from console.api.dead_letters import LetterDesk, build_dead_letters_router
from console.problems import install_problem_handlers
from pipeline.letters import PutBack
from schemas.dead_letters import DeadLetter
from tests.letters_rig import bury, record_of_event
from tests.story import Story, at, configured
from tests.tables import Tables, fresh_sqlite, sql_tables


@dataclass
class Rig:
    """A client of the routes, and the tables behind them."""

    http: httpx.AsyncClient
    tables: Tables
    wakes: list[int]

    async def call(self, method: str, path: str, status: int = 200, **arguments: Any) -> Any:
        answer = await self.http.request(method, path, **arguments)
        assert answer.status_code == status, (answer.status_code, answer.text)
        if status >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
        return answer.json()

    async def replay(self, status: int = 202, key: str | None = None, **body: Any) -> Any:
        headers = {"Idempotency-Key": key} if key else {}
        return await self.call(
            "POST", "/v1/dead-letters/replay", status, json=body, headers=headers
        )

    async def bury(self, number: int, stage: str = "anomaly") -> DeadLetter:
        record = record_of_event(Story(f"P-{number}").uploaded, offset=number)
        letter = bury(record, stage, when=at(number))
        await self.tables.inspections.save([letter])
        return letter


@pytest_asyncio.fixture
async def rig(tmp_path_factory: Any, tmp_path: Path) -> AsyncIterator[Rig]:
    url = await fresh_sqlite(tmp_path_factory.getbasetemp() / "template.db", tmp_path)
    async with sql_tables(url) as tables:
        assert tables.database is not None
        wakes: list[int] = []
        desk = LetterDesk(
            SqlDeadLetters(tables.database),
            SqlReplays(tables.database, lambda: None),
            SystemClock(),
            lambda: wakes.append(1),
        )
        app = FastAPI()
        install_problem_handlers(app)
        app.include_router(build_dead_letters_router(desk))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://console") as http:
            yield Rig(http, tables, wakes)


async def test_letters_are_listed_in_pages_with_counts(rig: Rig) -> None:
    letters = [await rig.bury(number) for number in range(5)]
    page = await rig.call("GET", "/v1/dead-letters", params={"state": "open", "limit": 3})
    rest = await rig.call(
        "GET", "/v1/dead-letters", params={"limit": 3, "cursor": page["next_cursor"]}
    )
    listed = [one["event_id"] for one in page["dead_letters"] + rest["dead_letters"]]
    assert listed == [str(letter.event_id) for letter in reversed(letters)]
    assert rest["next_cursor"] is None
    assert page["counts"][0] == {
        "stage": "anomaly", "reason": "corrupt_image", "open": 5, "replayed": 0, "resolved": 0,
    }  # fmt: skip


async def test_an_unknown_letter_or_replay_is_told_with_where_to_look(rig: Rig) -> None:
    nobody = uuid4()
    for path, slug in (
        ("dead-letters", "unknown_dead_letter"),
        ("dead-letter-replays", "unknown_replay"),
    ):
        problem = await rig.call("GET", f"/v1/{path}/{nobody}", 404)
        assert problem["slug"] == slug
        assert f"GET /v1/{path}" in problem["detail"]


async def test_a_replay_is_accepted_watched_stopped_and_resumed(rig: Rig) -> None:
    for number in range(3):
        await rig.bury(number)
    begun = await rig.replay(filter={"stage": "anomaly"}, requested_by="kim", reason="new lamp")
    assert (begun["letters"], rig.wakes) == (3, [1])
    path = begun["progress_url"]
    assert (await rig.call("GET", path))["state"] == "running"
    assert (await rig.call("POST", f"{path}/stop", json={"by": "lee"}))["state"] == "stopped"
    told = await rig.call("POST", f"{path}/resume")
    assert (told["state"], told["requested_by"], told["reason"]) == ("running", "kim", "new lamp")
    assert [act["by"] for act in told["steered"]] == ["lee", "operator"]
    listed = await rig.call("GET", "/v1/dead-letter-replays")
    assert [one["replay_id"] for one in listed["replays"]] == [begun["replay_id"]]


async def test_the_same_key_asks_for_the_same_replay(rig: Rig) -> None:
    await rig.bury(1)
    first = await rig.replay(key="once", filter={})
    again = await rig.replay(key="once", filter={})
    assert first["replay_id"] == again["replay_id"]
    assert (first["duplicate"], again["duplicate"]) == (False, True)


async def test_a_dry_run_answers_how_many_and_asks_nobody(rig: Rig) -> None:
    await rig.bury(1)
    told = await rig.replay(200, filter={}, dry_run=True)
    assert (told["letters"], told["dry_run"], rig.wakes) == (1, True, [])


async def test_what_cannot_be_replayed_is_refused_with_what_to_do(rig: Rig) -> None:
    assert (await rig.replay(422))["slug"] == "nothing_chosen"
    assert (await rig.replay(422, ids=[str(uuid4())], filter={}))["slug"] == "nothing_chosen"
    assert (await rig.replay(404, ids=[str(uuid4())]))["slug"] == "unknown_dead_letter"
    assert (await rig.replay(422, filter={"stages": "embed"}))["slug"] == "invalid_fields"
    assert (await rig.replay(422, filter={}, rate_per_s=0))["slug"] == "invalid_fields"
    assert (await rig.replay(409, filter={}))["slug"] == "nothing_to_replay"
    state = bury(record_of_event(configured(1)), "record")
    await rig.tables.inspections.save([state])
    problem = await rig.replay(409, ids=[str(state.event_id)])
    assert "save the product" in problem["detail"]


async def test_a_replay_that_is_done_cannot_be_steered(rig: Rig) -> None:
    letter = await rig.bury(1)
    begun = await rig.replay(ids=[str(letter.event_id)])
    assert rig.tables.database is not None
    work = SqlReplays(rig.tables.database, lambda: None)
    gone = PutBack(str(letter.event_id), passed_over="record_gone")
    await work.put_back(begun["replay_id"], [gone])
    problem = await rig.call("POST", f"{begun['progress_url']}/stop", 409)
    assert problem["slug"] == "replay_done"


async def test_a_value_of_any_kind_can_be_read(rig: Rig) -> None:
    plain = record_of_event(Story().uploaded)
    values = {
        b"\xff\xd8 a picture": "base64",
        b"shift report": "text",
        b'{"a": NaN}': "text",
        b'{"a": "\\ud800"}': "text",
        b"[" * 5000: "text",
        b'{"a": 1}': "json",
        None: "none",
    }
    for offset, (value, encoding) in enumerate(values.items()):
        letter = bury(plain._replace(value=value, offset=offset), "embed", reason="schema")
        await rig.tables.inspections.save([letter])
        told = await rig.call("GET", f"/v1/dead-letters/{letter.event_id}")
        assert told["record"]["value"]["encoding"] == encoding
        assert (told["image_id"], told["thumbnail_url"], told["subject"]) == (None, None, None)
