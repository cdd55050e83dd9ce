"""How far replays are, and what came of their letters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, and_, case, func, select

from adapters.sql.tables import dead_letter_replay_items, dead_letter_replays, dead_letters
from schemas.subject import rfc3339_ms

_r, _i, _l = dead_letter_replays.c, dead_letter_replay_items.c, dead_letters.c
_WAS_PUT_BACK = _i.put_back_at.is_not(None)
_TALLIES = {
    "put_back": _WAS_PUT_BACK,
    "passed_over": _i.passed_over.is_not(None),
    "returned": and_(_WAS_PUT_BACK, _l.returned_as.is_not(None)),
    "resolved": and_(_WAS_PUT_BACK, _l.returned_as.is_(None), _l.resolved_by.is_not(None)),
}


def read_replays(
    connection: Connection, *, replay_id: str | None = None, limit: int = 1, offset: int = 0
) -> list[dict[str, Any]]:
    """Return replays as HTTP shows them, newest first, or the one of that id."""
    found = select(dead_letter_replays).order_by(_r.requested_at.desc(), _r.replay_id)
    if replay_id is not None:
        found = found.where(_r.replay_id == replay_id)
    rows = connection.execute(found.limit(limit).offset(offset)).all()
    tallies = _tallies(connection, [row.replay_id for row in rows])
    reasons = _passed_over(connection, [row.replay_id for row in rows])
    return [
        _view(row._asdict(), tallies[row.replay_id], reasons.get(row.replay_id, {})) for row in rows
    ]


def _tallies(connection: Connection, ids: list[str]) -> dict[str, dict[str, int]]:
    sums = [
        func.coalesce(func.sum(case((condition, 1), else_=0)), 0).label(name)
        for name, condition in _TALLIES.items()
    ]
    counted = (
        select(_i.replay_id, *sums)
        .join(dead_letters, _l.event_id == _i.letter_id)
        .where(_i.replay_id.in_(ids))
        .group_by(_i.replay_id)
    )
    return {
        row.replay_id: {name: int(getattr(row, name)) for name in _TALLIES}
        for row in connection.execute(counted)
    }


def _passed_over(connection: Connection, ids: list[str]) -> dict[str, dict[str, int]]:
    counted = (
        select(_i.replay_id, _i.passed_over, func.count().label("letters"))
        .where(_i.replay_id.in_(ids), _i.passed_over.is_not(None))
        .group_by(_i.replay_id, _i.passed_over)
    )
    told: dict[str, dict[str, int]] = {}
    for row in connection.execute(counted):
        told.setdefault(row.replay_id, {})[row.passed_over] = row.letters
    return told


def _view(
    row: Mapping[str, Any], tally: Mapping[str, int], passed_over: Mapping[str, int]
) -> dict[str, Any]:
    left = row["letters"] - tally["put_back"] - tally["passed_over"]
    return {
        "replay_id": row["replay_id"],
        "state": row["state"],
        "requested_at": rfc3339_ms(row["requested_at"]),
        "requested_by": row["requested_by"],
        "reason": row["reason"],
        "chosen": row["chosen"],
        "again": row["again"],
        "rate_per_s": row["rate_per_s"],
        "letters": row["letters"],
        "left": left,
        **tally,
        "waiting": tally["put_back"] - tally["returned"] - tally["resolved"],
        "passed_over_for": dict(passed_over),
        "eta_s": round(left / row["rate_per_s"], 1) if row["state"] == "running" else None,
        "finished_at": row["finished_at"] and rfc3339_ms(row["finished_at"]),
        "steered": row["steered"],
        "progress_url": f"/v1/dead-letter-replays/{row['replay_id']}",
    }
