"""Writing events into the tables, in the transaction of the caller."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table, select

from adapters.sql.projection import Name, Write, project, subject_of
from adapters.sql.statements import statement
from adapters.sql.summaries import refresh
from adapters.sql.tables import dead_letters, images, inspections, reviews
from schemas.event import Event

# Locks are taken in this order, and within a statement in the order of its rows' keys, so that
# two record processes never wait for each other in a ring.
_ORDER: tuple[Name, ...] = (
    "image", "upload", "inspection", "review", "dead_letter", "response",
)  # fmt: skip
_BY_EVENT_ID: dict[Name, Table] = {
    "inspection": inspections,
    "review": reviews,
    "dead_letter": dead_letters,
}


def write_events(connection: Connection, dialect: str, events: Sequence[Event]) -> list[bool]:
    """Write the rows of events and renew the summaries of their images.

    Returns, per event, whether it was new. The first of an id wins; of a product, a bank, a case
    or a manual the newest state wins.
    """
    projected = [project(event) for event in events]
    rows: dict[Name, list[dict[str, Any]]] = defaultdict(list)
    for write in (write for writes in projected for write in writes):
        rows[write.name].append(write.row)
    known = _known_ids(connection, rows)
    is_new = [_take(writes, known) for writes in projected]
    for name in _ORDER:
        if rows[name]:
            connection.execute(statement(dialect, name), sorted(rows[name], key=_row_key))
    for index, writes in enumerate(projected):
        if writes and writes[-1].name not in _ORDER:
            is_new[index] = write_state(connection, dialect, writes)
    refresh(connection, {s.image_id for s in map(subject_of, events) if s is not None})
    return is_new


def write_state(connection: Connection, dialect: str, writes: Sequence[Write]) -> bool:
    """Write one configuration event; returns whether the state it is about changed."""
    changed = 0
    for write in writes:
        changed = connection.execute(statement(dialect, write.name), write.row).rowcount
    return changed > 0


def _row_key(row: Mapping[str, Any]) -> tuple[str, str]:
    return (row.get("image_id") or "", row.get("event_id") or "")


def _known_ids(
    connection: Connection, rows: dict[Name, list[dict[str, Any]]]
) -> set[tuple[Name, str]]:
    """Return the ids of a batch that the tables hold already."""
    known: set[tuple[Name, str]] = set()
    for name, table in _BY_EVENT_ID.items():
        ids = [row["event_id"] for row in rows[name]]
        if ids:
            found = select(table.c.event_id).where(table.c.event_id.in_(ids))
            known.update((name, event_id) for event_id in connection.scalars(found))
    if uploads := [row["image_id"] for row in rows["upload"]]:
        accepted = select(images.c.image_id).where(
            images.c.image_id.in_(uploads),
            images.c.state == "accepted",
            images.c.upload_event_id.is_not(None),
        )
        known.update(("upload", image_id) for image_id in connection.scalars(accepted))
    return known


def _take(writes: Sequence[Write], known: set[tuple[Name, str]]) -> bool:
    """Whether an event of the first kinds is new; it is known from then on."""
    for write in writes:
        if write.name == "upload" or write.name in _BY_EVENT_ID:
            key = (write.name, write.row["image_id" if write.name == "upload" else "event_id"])
            if key in known:
                return False
            known.add(key)
            return True
    return False
