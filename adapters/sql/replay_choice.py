"""Which dead letters a replay may take, and why it leaves others out."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, exists, select, true

from adapters.sql.tables import dead_letter_replay_items, dead_letter_replays, dead_letters
from pipeline.letters import ReplayOrder, is_state
from schemas.topics import TOPICS

_r, _i, _l = dead_letter_replays.c, dead_letter_replay_items.c, dead_letters.c
_STATE_TOPICS = tuple(name for name in TOPICS if is_state(name))
# Letters that a replay takes, which has not come to them yet.
_QUEUED = exists().where(
    _i.letter_id == _l.event_id,
    _i.put_back_at.is_(None),
    _i.passed_over.is_(None),
    _r.replay_id == _i.replay_id,
    _r.state == "running",
)


def takeable(*, again: bool) -> tuple[ColumnElement[bool], ...]:
    """Return what a letter must be to be put back."""
    unanswered = and_(_l.resolved_by.is_(None), _l.returned_as.is_(None))
    untouched = true() if again else _l.replayed_at.is_(None)
    return (unanswered, untouched, _l.topic.not_in(_STATE_TOPICS), ~_QUEUED)


def left_out(connection: Connection, order: ReplayOrder) -> dict[str, int]:
    """Count the named letters that cannot be taken, by reason; a filter names none."""
    if order.letter_ids is None:
        return {}
    columns = (
        _l.event_id, _l.topic, _l.resolved_by, _l.returned_as, _l.replayed_at,
        _QUEUED.label("is_queued"),
    )  # fmt: skip
    rows = connection.execute(select(*columns).where(_l.event_id.in_(order.letter_ids))).all()
    why = Counter(_why_not(row, again=order.again) for row in rows)
    why["unknown"] = len(set(order.letter_ids)) - len(rows)
    return {reason: letters for reason, letters in why.items() if reason and letters}


def _why_not(row: Row[Any], *, again: bool) -> str:
    """Return why a letter cannot be taken, nothing for one that can."""
    reasons = {
        "resolved": row.resolved_by is not None,
        "returned": row.returned_as is not None,
        "queued": row.is_queued,
        "waiting": row.replayed_at is not None and not again,
        "state_topic": is_state(row.topic),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")
