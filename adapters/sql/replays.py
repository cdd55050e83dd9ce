"""Replays of dead letters: begun, worked through and told, each step one transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any
from uuid import uuid5

from sqlalchemy import Connection, func, literal, select, update

from adapters.sql.dead_letters import letter_conditions
from adapters.sql.engine import Database
from adapters.sql.leases import hold
from adapters.sql.outbox import stored_headers
from adapters.sql.projection import clean
from adapters.sql.replay_choice import left_out, takeable
from adapters.sql.replay_progress import read_replays
from adapters.sql.statements import insert
from adapters.sql.tables import (
    dead_letter_replay_items,
    dead_letter_replays,
    dead_letters,
    outbox,
)
from pipeline.letters import Action, PutBack, ReplayOrder
from schemas.dead_letters import DeadLetter
from schemas.event import NAMESPACE
from schemas.message import Message
from schemas.subject import rfc3339_ms

_r, _i, _l = dead_letter_replays.c, dead_letter_replay_items.c, dead_letters.c
_IS_DUE = (_i.put_back_at.is_(None), _i.passed_over.is_(None))
_FROM_TO: dict[Action, tuple[str, str]] = {
    "stop": ("running", "stopped"),
    "resume": ("stopped", "running"),
}


class SqlReplays:
    """`Replays` and `ReplayWork` on SQLite or PostgreSQL."""

    def __init__(self, database: Database, on_append: Callable[[], None]) -> None:
        """`on_append` wakes the relay of this process."""
        self._database = database
        self._on_append = on_append

    # -- as people ask for them --------------------------------------------------------------

    async def begin(self, order: ReplayOrder, *, dry_run: bool) -> dict[str, Any]:
        """Fix the letters of a replay and let it run (port `Replays`)."""

        def work(connection: Connection) -> dict[str, Any]:
            known = _letters_of(connection, order.replay_id)
            if known is not None:
                return {"letters": known, "left_out": {}, "duplicate": True}
            wanted = [*letter_conditions(order.letter_filter), *takeable(again=order.again)]
            if order.letter_ids is not None:
                wanted = [_l.event_id.in_(order.letter_ids), *takeable(again=order.again)]
            told: dict[str, Any] = {"duplicate": False, "left_out": left_out(connection, order)}
            told["letters"] = connection.scalar(
                select(func.count()).select_from(dead_letters).where(*wanted)
            )
            if told["letters"] and not dry_run:
                connection.execute(dead_letter_replays.insert(), _row(order, told["letters"]))
                _fix_letters(connection, order.replay_id, wanted)
            return told

        if dry_run:
            return await self._database.read(work)
        return await self._database.write(work)

    async def list(self, *, limit: int, offset: int) -> Sequence[dict[str, Any]]:
        """Return replays, newest first."""
        return await self._database.read(
            lambda connection: read_replays(connection, limit=limit, offset=offset)
        )

    async def get(self, replay_id: str) -> dict[str, Any] | None:
        """Return one replay, None if unknown."""
        found = await self._database.read(
            lambda connection: read_replays(connection, replay_id=replay_id)
        )
        return found[0] if found else None

    async def steer(self, replay_id: str, action: Action, by: str) -> None:
        """Stop a running replay, or let a stopped one go on (port `Replays`)."""
        before, after = _FROM_TO[action]
        mine = select(_r.steered).where(_r.replay_id == replay_id, _r.state == before)

        def work(connection: Connection) -> None:
            steered = connection.scalar(mine.with_for_update())
            if steered is None:
                return
            acts = [*steered, {"action": action, "by": clean(by), "at": rfc3339_ms(_now())}]
            changed = update(dead_letter_replays).where(_r.replay_id == replay_id)
            connection.execute(changed.values(state=after, steered=acts))

        await self._database.write(work)

    # -- as the runner works through them ----------------------------------------------------

    async def running(self) -> Mapping[str, float]:
        """Return the replays that have letters left, oldest first, with letters a second."""
        found = (
            select(_r.replay_id, _r.rate_per_s)
            .where(_r.state == "running")
            .order_by(_r.requested_at, _r.replay_id)
        )
        rows = await self._database.read(lambda connection: connection.execute(found).all())
        return {row.replay_id: row.rate_per_s for row in rows}

    async def due(self, replay_id: str, limit: int) -> Sequence[DeadLetter]:
        """Return its next letters, oldest first."""
        found = (
            select(_l.payload)
            .join(dead_letter_replay_items, _i.letter_id == _l.event_id)
            .where(_i.replay_id == replay_id, *_IS_DUE)
            .order_by(_i.place)
            .limit(limit)
        )
        rows = await self._database.read(lambda connection: connection.scalars(found).all())
        return [DeadLetter.model_validate(payload) for payload in rows]

    async def put_back(self, replay_id: str, letters: Sequence[PutBack]) -> int:
        """Write outbox rows and marks in one transaction (port `ReplayWork`)."""
        dialect = self._database.dialect
        mine = select(_r.again).where(_r.replay_id == replay_id, _r.state == "running")

        def work(connection: Connection) -> int:
            again = connection.scalar(mine.with_for_update())
            if again is None:
                return 0
            done = sum(
                _put_back(connection, dialect, replay_id, letter, again=again) for letter in letters
            )
            _finish(connection, replay_id)
            return done

        done = await self._database.write(work)
        if done:
            self._on_append()
        return done

    @asynccontextmanager
    async def replay_lease(self) -> AsyncIterator[None]:
        """Wait to be the only runner (port `ReplayWork`)."""
        async with hold(self._database, "replays"):
            yield


def _now() -> datetime:
    return datetime.now(UTC)


def _letters_of(connection: Connection, replay_id: str) -> int | None:
    letters: int | None = connection.scalar(select(_r.letters).where(_r.replay_id == replay_id))
    return letters


def _row(order: ReplayOrder, letters: int) -> dict[str, Any]:
    chosen: dict[str, Any] = {"ids": list(order.letter_ids or ())}
    if order.letter_ids is None:
        asked = asdict(order.letter_filter)
        chosen = {
            "filter": {
                name: rfc3339_ms(value) if isinstance(value, datetime) else value
                for name, value in asked.items()
                if value is not None
            }
        }
    return {
        "replay_id": order.replay_id,
        "state": "running",
        "requested_at": order.requested_at,
        "requested_by": clean(order.requested_by),
        "reason": order.reason and clean(order.reason),
        "chosen": chosen,
        "again": order.again,
        "rate_per_s": order.rate_per_s,
        "letters": letters,
        "finished_at": None,
        "steered": [],
    }


def _fix_letters(connection: Connection, replay_id: str, wanted: Sequence[Any]) -> None:
    """Oldest first: as they lay in the log, so that records of one key keep their order."""
    place = func.row_number().over(order_by=(_l.occurred_at, _l.event_id))
    chosen = select(literal(replay_id), place, _l.event_id).where(*wanted)
    connection.execute(
        dead_letter_replay_items.insert().from_select(["replay_id", "place", "letter_id"], chosen)
    )


def _put_back(
    connection: Connection, dialect: str, replay_id: str, letter: PutBack, *, again: bool
) -> bool:
    item = select(_i.place).where(
        _i.replay_id == replay_id, _i.letter_id == letter.letter_id, *_IS_DUE
    )
    if connection.scalar(item) is None:
        return False
    mine = select(_l.resolved_by, _l.returned_as, _l.replayed_at)
    row = connection.execute(mine.where(_l.event_id == letter.letter_id).with_for_update()).one()
    passed_over = letter.passed_over or _settled_meanwhile(row, again=again)
    now = _now()
    values: dict[str, Any] = {"passed_over": passed_over}
    if passed_over is None:
        assert letter.message is not None
        outbox_id = str(uuid5(NAMESPACE, f"replay:{replay_id}:{letter.letter_id}"))
        _append(connection, dialect, outbox_id, letter.message)
        values = {"put_back_at": now, "outbox_id": outbox_id}
        marked: dict[str, Any] = {"replayed_at": now}
        if letter.answer_id is not None:
            marked["answer_id"] = func.coalesce(_l.answer_id, letter.answer_id)
        changed = update(dead_letters).where(_l.event_id == letter.letter_id)
        connection.execute(changed.values(**marked))
    changed_item = update(dead_letter_replay_items).where(
        _i.replay_id == replay_id, _i.letter_id == letter.letter_id
    )
    connection.execute(changed_item.values(**values))
    return passed_over is None


def _settled_meanwhile(row: Any, *, again: bool) -> str | None:
    if row.resolved_by is not None:
        return "resolved"
    if row.returned_as is not None:
        return "returned"
    return "waiting" if row.replayed_at is not None and not again else None


def _append(connection: Connection, dialect: str, outbox_id: str, message: Message) -> None:
    row = {
        "event_id": outbox_id,
        "topic": message.topic,
        "key": message.key,
        "value": message.value,
        "headers": stored_headers(message.headers),
        "created_at": _now(),
    }
    connection.execute(insert(dialect, outbox).on_conflict_do_nothing(), row)


def _finish(connection: Connection, replay_id: str) -> None:
    left = select(_i.place).where(_i.replay_id == replay_id, *_IS_DUE).limit(1)
    if connection.scalar(left) is None:
        done = update(dead_letter_replays).where(_r.replay_id == replay_id)
        connection.execute(done.values(state="done", finished_at=_now()))
