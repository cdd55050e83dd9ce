"""The facts of images, read from the tables, and the summary kept beside each image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import asdict, fields
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, select, update

from adapters.sql.letters import note_overtaken
from adapters.sql.tables import dead_letters, images, inspections, reviews
from pipeline.image_view import ImageFacts, ImageSummary, Kept, summarise
from pipeline.status import Act, Kind, Outcome, Trigger, asked_stages, overtaken_letters

_SUMMARY_COLUMNS = tuple(images.c[field.name] for field in fields(ImageSummary))
OF_IMAGES = (
    images.c.image_id,
    images.c.upload_event_id,
    images.c.upload_at,
    images.c.is_quiet,
    *_SUMMARY_COLUMNS,
)
_KIND: Mapping[str, Kind] = {"ImageSkipped": "skip"}
_REQUEST = "InspectionRequested"


def _of(columns: Collection[Any], key: Any) -> Select[Any]:
    return select(*columns).where(key.in_(bindparam("image_ids", expanding=True)))


_IMAGES = (
    _of(OF_IMAGES, images.c.image_id)
    .where(images.c.state == "accepted")
    .order_by(images.c.image_id)
    .with_for_update()
)
_LOCK = _of((images.c.image_id,), images.c.image_id).order_by(images.c.image_id).with_for_update()
_INSPECTIONS = _of(
    (
        inspections.c.image_id, inspections.c.event_id, inspections.c.type, inspections.c.stage,
        inspections.c.origin_event_id, inspections.c.origin_at, inspections.c.occurred_at,
        inspections.c.verdict, inspections.c.explain,
    ),
    inspections.c.image_id,
)  # fmt: skip
_DEAD_LETTERS = _of(
    (
        dead_letters.c.image_id, dead_letters.c.event_id, dead_letters.c.stage,
        dead_letters.c.origin_event_id, dead_letters.c.origin_at, dead_letters.c.occurred_at,
    ),
    dead_letters.c.image_id,
)  # fmt: skip
_REVIEWS = _of(
    (
        reviews.c.image_id, reviews.c.event_id, reviews.c.occurred_at, reviews.c.reviewer,
        reviews.c.decision, reviews.c.defect_type, reviews.c.undoes, reviews.c.acknowledges,
    ),
    reviews.c.image_id,
)  # fmt: skip
_UPDATE = (
    update(images)
    .where(images.c.image_id == bindparam("which"))
    .values({column.name: bindparam(column.name) for column in _SUMMARY_COLUMNS})
)


def refresh(connection: Connection, image_ids: Collection[str]) -> None:
    """Renew the summaries of images from their facts, within the transaction that changed them.

    The images' rows are locked before their facts are read, so that these are the latest.
    """
    if not image_ids:
        return
    rows = connection.execute(_IMAGES, {"image_ids": sorted(image_ids)}).all()
    facts = read_facts(connection, rows)
    changed = []
    overtaken: dict[str, str] = {}
    for row in rows:
        of_image = facts[row.image_id]
        overtaken |= overtaken_letters(of_image.upload, of_image.outcomes)
        summary = summarise(of_image)
        if summary != summary_of(row):
            changed.append({"which": row.image_id, **asdict(summary)})
    if changed:
        connection.execute(_UPDATE, changed)
    note_overtaken(connection, overtaken)


def lock_images(connection: Connection, image_ids: Collection[str]) -> None:
    """Lock images' rows in the order of their ids, until the transaction ends."""
    connection.execute(_LOCK, {"image_ids": sorted(image_ids)})


def summary_of(row: Row[Any]) -> ImageSummary:
    """Return the summary that a row of `images` holds."""
    return ImageSummary(**{column.name: getattr(row, column.name) for column in _SUMMARY_COLUMNS})


def read_facts(connection: Connection, rows: Collection[Row[Any]]) -> dict[str, ImageFacts]:
    """Return the facts of images, by image_id; `rows` are theirs in `images`."""
    given = {"image_ids": [row.image_id for row in rows]}
    requests: dict[str, list[Trigger]] = defaultdict(list)
    outcomes: dict[str, list[Outcome]] = defaultdict(list)
    acts: dict[str, list[Act]] = defaultdict(list)
    for row in connection.execute(_INSPECTIONS, given):
        if row.type == _REQUEST:
            stages = asked_stages(row.stage, explain=row.explain)
            requests[row.image_id].append(Trigger(row.event_id, row.occurred_at, stages))
        else:
            outcomes[row.image_id].append(_outcome(row, _KIND.get(row.type, "result"), row.verdict))
    for row in connection.execute(_DEAD_LETTERS, given):
        buried = _outcome(row, "dead_letter", None)
        outcomes[row.image_id].append(buried._replace(buried_at=row.occurred_at))
    for row in connection.execute(_REVIEWS, given):
        acts[row.image_id].append(Act(*row[1:]))
    return {
        row.image_id: ImageFacts(
            _upload(row), requests[row.image_id], outcomes[row.image_id], acts[row.image_id],
            quiet=row.is_quiet,
        )
        for row in rows
    }  # fmt: skip


def _outcome(row: Row[Any], kind: Kind, verdict: str | None) -> Outcome:
    return Outcome(
        row.event_id, kind, row.stage, row.origin_event_id, row.origin_at, verdict
    )  # fmt: skip


def _upload(row: Row[Any]) -> Trigger | None:
    if row.upload_event_id is None:
        return None
    return Trigger(row.upload_event_id, row.upload_at, ("embed", "anomaly", "llm"))


def read_events(connection: Connection, image_id: str) -> dict[str, Kept]:
    """Return every event kept about an image, by event_id."""
    kept: dict[str, Kept] = {}
    for table, type_name in ((reviews, "ReviewRecorded"), (dead_letters, "DeadLetter")):
        found = select(table.c.event_id, table.c.payload).where(table.c.image_id == image_id)
        for event_id, payload in connection.execute(found):
            kept[event_id] = Kept(type_name, payload)
    columns = (inspections.c.event_id, inspections.c.type, inspections.c.payload)
    of_image = select(*columns).where(inspections.c.image_id == image_id)
    for event_id, name, payload in connection.execute(of_image):
        kept[event_id] = Kept(name, payload)
    return kept
