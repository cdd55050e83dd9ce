"""Writing events into the tables, in the transaction of the caller."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table, select

from adapters.sql.letters import note_answers, note_letters
from adapters.sql.projection import Name, Write, image_row, project, subject_of
from adapters.sql.statements import statement
from adapters.sql.summaries import lock_images, refresh
from adapters.sql.tables import dead_letters, images, inspections, reviews
from schemas.event import Event
from schemas.subject import Subject

_ORDER: tuple[Name, ...] = ("upload", "inspection", "review", "dead_letter", "response")
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
    subjects = {s.image_id: s for s in map(subject_of, events) if s is not None}
    _hold_images(connection, dialect, subjects)
    known = _known_ids(connection, rows)
    is_new = [_take(writes, known) for writes in projected]
    for name in _ORDER:
        if rows[name]:
            connection.execute(statement(dialect, name), sorted(rows[name], key=_row_key))
    for index, writes in enumerate(projected):
        if writes and writes[-1].name not in (*_ORDER, "image"):
            is_new[index] = write_state(connection, dialect, writes)
    note_answers(connection, events)
    note_letters(connection, rows["dead_letter"])
    refresh(connection, subjects)
    return is_new


def _hold_images(connection: Connection, dialect: str, subjects: Mapping[str, Subject]) -> None:
    """Make sure that the images' rows exist, and lock them all, always in the order of their ids.

    Nothing else is locked before, so that two processes never wait for each other in a ring; and
    of two that write about one image, the second sees what the first wrote.
    """
    if subjects:
        rows = [image_row(subjects[name], state="accepted") for name in sorted(subjects)]
        connection.execute(statement(dialect, "image"), rows)
        lock_images(connection, subjects)


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
