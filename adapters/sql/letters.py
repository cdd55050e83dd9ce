"""What becomes of dead letters when events arrive, in the transaction that writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Table, bindparam, or_, select, update

from adapters.sql import tables as t
from adapters.sql.tables import dead_letters, images
from schemas.event import Event

_UNRESOLVED = select(dead_letters.c.event_id, dead_letters.c.answer_id).where(
    dead_letters.c.answer_id.in_(bindparam("ids", expanding=True)),
    dead_letters.c.resolved_by.is_(None),
)
_RESOLVE = (
    update(dead_letters)
    .where(dead_letters.c.event_id == bindparam("letter_id"))
    .values(resolved_by=dead_letters.c.answer_id, resolved_at=bindparam("at"))
)
_OVERTAKE = (
    update(dead_letters)
    .where(dead_letters.c.event_id == bindparam("letter_id"), dead_letters.c.resolved_by.is_(None))
    .values(resolved_by=bindparam("answer"), resolved_at=bindparam("at"))
)
# A copy that came back beside another one stands for both.
_RETURN = (
    update(dead_letters)
    .where(
        or_(
            dead_letters.c.event_id == bindparam("former"),
            dead_letters.c.replay_of == bindparam("former"),
        ),
        dead_letters.c.event_id != bindparam("letter_id"),
        dead_letters.c.returned_as.is_(None),
        dead_letters.c.resolved_by.is_(None),
    )
    .values(returned_as=bindparam("letter_id"))
)
# Where the event lies that answers a letter; an upload lies in its image's row.
_ANSWERS: tuple[Table, ...] = (
    t.inspections, t.reviews, t.dead_letters, t.model_parameters, t.banks, t.cases, t.manuals,
)  # fmt: skip


def note_answers(connection: Connection, events: Sequence[Event]) -> None:
    """Resolve the letters that these events answer."""
    known_at = {str(event.event_id): event.occurred_at for event in events}
    rows = connection.execute(_UNRESOLVED, {"ids": list(known_at)}).all()
    if rows:
        resolved = [{"letter_id": row.event_id, "at": known_at[row.answer_id]} for row in rows]
        connection.execute(_RESOLVE, sorted(resolved, key=lambda row: str(row["letter_id"])))


def note_overtaken(connection: Connection, overtaken: Mapping[str, str]) -> None:
    """Resolve letters of images that were inspected again since."""
    now = datetime.now(UTC)
    rows = [
        {"letter_id": letter_id, "answer": overtaken[letter_id], "at": now}
        for letter_id in sorted(overtaken)
    ]
    if rows:
        connection.execute(_OVERTAKE, rows)


def note_letters(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Link letters that a replay returned as, and resolve those whose answer came before them."""
    for row in rows:
        letter_id = row["event_id"]
        if row["replay_of"] is not None:
            connection.execute(_RETURN, {"former": row["replay_of"], "letter_id": letter_id})
        answered_at = _answered_at(connection, row)
        if answered_at is not None:
            connection.execute(_RESOLVE, {"letter_id": letter_id, "at": answered_at})


def _answered_at(connection: Connection, row: Mapping[str, Any]) -> datetime | None:
    answer_id = row["answer_id"]
    if answer_id is None:
        return None
    found = [select(c.occurred_at).where(c.event_id == answer_id) for c in (a.c for a in _ANSWERS)]
    found.append(
        select(images.c.upload_at).where(
            images.c.image_id == row["image_id"],
            images.c.upload_event_id == answer_id,
            images.c.state == "accepted",
        )
    )
    for one in found:
        at: datetime | None = connection.scalar(one.limit(1))
        if at is not None:
            return at
    return None
