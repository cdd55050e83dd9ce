"""Dead letters as the tables hold them: pages, counts, and one with its history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, case, func, or_, select

from adapters.sql.engine import Database
from adapters.sql.tables import (
    dead_letter_replay_items,
    dead_letter_replays,
    dead_letters,
    images,
    outbox,
)
from pipeline.image_view import decode_cursor, encode_cursor
from pipeline.letter_view import line_view, record_view, return_view
from pipeline.letters import LetterFilter, LetterState
from schemas.dead_letters import DeadLetter

_c = dead_letters.c
_WAS_PUT_BACK = or_(_c.replayed_at.is_not(None), _c.returned_as.is_not(None))
IN_STATE: dict[LetterState, ColumnElement[bool]] = {
    "open": and_(_c.resolved_by.is_(None), _c.replayed_at.is_(None), _c.returned_as.is_(None)),
    "replayed": and_(_c.resolved_by.is_(None), _WAS_PUT_BACK),
    "resolved": _c.resolved_by.is_not(None),
}
STATE = case(
    (IN_STATE["resolved"], "resolved"), (IN_STATE["replayed"], "replayed"), else_="open"
).label("state")
# All but the payload, which may be a megabyte.
_LINE = (
    *(column for column in dead_letters.c if column.name != "payload"),
    STATE,
    images.c.image_id.label("known_image"),
    images.c.part_id,
    images.c.lot_id,
    images.c.station,
)
# A record's letters, and the returns of one letter: dozens at most, bounded all the same.
_RELATED = 200


def letter_conditions(wanted: LetterFilter) -> list[ColumnElement[bool]]:
    """Return what a filter asks of `dead_letters`."""
    conditions: list[ColumnElement[bool]] = []
    for name in ("stage", "reason", "product"):
        value = getattr(wanted, name)
        if value is not None:
            conditions.append(_c[name] == value)
    if wanted.since is not None:
        conditions.append(_c.occurred_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(_c.occurred_at < wanted.until)
    if wanted.state is not None:
        conditions.append(IN_STATE[wanted.state])
    return conditions


def _lines() -> Select[Any]:
    image = and_(images.c.image_id == _c.image_id, images.c.state == "accepted")
    return select(*_LINE).select_from(dead_letters.outerjoin(images, image))


class SqlDeadLetters:
    """`DeadLetters` on SQLite or PostgreSQL."""

    def __init__(self, database: Database) -> None:
        """Read through `database`."""
        self._database = database

    async def list(
        self, letter_filter: LetterFilter, *, cursor: str | None, limit: int
    ) -> tuple[Sequence[dict[str, Any]], str | None]:
        """Return a page, newest first, and the cursor of the next one."""
        page = _lines().where(*letter_conditions(letter_filter))
        if cursor is not None:
            at, letter_id = decode_cursor(cursor)
            earlier = and_(_c.occurred_at == at, _c.event_id < letter_id)
            page = page.where(or_(_c.occurred_at < at, earlier))
        page = page.order_by(_c.occurred_at.desc(), _c.event_id.desc()).limit(limit + 1)
        rows = await self._database.read(lambda connection: connection.execute(page).all())
        last = rows[limit - 1] if len(rows) > limit else None
        return (
            [line_view(row._asdict()) for row in rows[:limit]],
            encode_cursor(last.occurred_at, last.event_id) if last else None,
        )

    async def counts(self, letter_filter: LetterFilter) -> Sequence[dict[str, Any]]:
        """Count by stage and reason, per state (port `DeadLetters`)."""
        span = LetterFilter(
            product=letter_filter.product, since=letter_filter.since, until=letter_filter.until
        )
        tallies = [
            func.coalesce(func.sum(case((condition, 1), else_=0)), 0).label(name)
            for name, condition in IN_STATE.items()
        ]
        counted = (
            select(_c.stage, _c.reason, *tallies)
            .where(*letter_conditions(span))
            .group_by(_c.stage, _c.reason)
            .order_by(_c.stage, _c.reason)
        )
        rows = await self._database.read(lambda connection: connection.execute(counted).all())
        return [dict(row._asdict()) for row in rows]

    async def get(self, letter_id: str) -> dict[str, Any] | None:
        """Return one letter with its history, None if unknown."""
        return await self._database.read(lambda connection: _whole(connection, letter_id))


def _whole(connection: Connection, letter_id: str) -> dict[str, Any] | None:
    row = connection.execute(_lines().where(_c.event_id == letter_id)).one_or_none()
    if row is None:
        return None
    payload = connection.scalar(select(_c.payload).where(_c.event_id == letter_id))
    letter = DeadLetter.model_validate(payload)
    same_record = and_(
        _c.topic == row.topic,
        _c.partition == row.partition,
        _c.offset == row.offset,
        _c.event_id != letter_id,
    )
    beside = _lines().where(same_record).order_by(_c.stage).limit(_RELATED)
    return {
        **line_view(row._asdict()),
        **record_view(letter),
        "history": {
            "earlier": _formers(connection, row.replay_of),
            "returned": _returns(connection, letter_id),
            "other_stages": [line_view(one._asdict()) for one in connection.execute(beside)],
            "replays": _replays_of(connection, letter_id),
        },
    }


def _formers(connection: Connection, letter_id: str | None) -> list[dict[str, Any]]:
    """Letters that this one came from by replays, the latest first."""
    found: list[dict[str, Any]] = []
    seen: set[str] = set()
    while letter_id is not None and letter_id not in seen and len(found) < _RELATED:
        seen.add(letter_id)
        row = connection.execute(_lines().where(_c.event_id == letter_id)).one_or_none()
        if row is None:
            break
        found.append(line_view(row._asdict()))
        letter_id = row.replay_of
    return found


def _returns(connection: Connection, letter_id: str) -> list[dict[str, Any]]:
    """Letters that replays of this one came back as, oldest first."""
    back = _lines().where(_c.replay_of == letter_id).order_by(_c.occurred_at).limit(_RELATED)
    return [line_view(row._asdict()) for row in connection.execute(back)]


def _replays_of(connection: Connection, letter_id: str) -> list[dict[str, Any]]:
    items, replays = dead_letter_replay_items.c, dead_letter_replays.c
    found = (
        select(
            replays.replay_id, replays.requested_by, replays.requested_at, replays.reason,
            replays.state, items.put_back_at, items.passed_over, outbox.c.published_at,
            outbox.c.topic, outbox.c.partition, outbox.c.offset, _c.resolved_by, _c.resolved_at,
            _c.returned_as,
        )
        .select_from(dead_letter_replay_items)
        .join(dead_letter_replays, replays.replay_id == items.replay_id)
        .join(dead_letters, _c.event_id == items.letter_id)
        .outerjoin(outbox, outbox.c.event_id == items.outbox_id)
        .where(items.letter_id == letter_id)
        .order_by(replays.requested_at.desc(), replays.replay_id)
        .limit(_RELATED)
    )  # fmt: skip
    return [return_view(row._asdict()) for row in connection.execute(found)]
