"""Counts of images by verdict, per lot and per time, folded from grouped rows. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from schemas.subject import rfc3339_ms

VERDICTS = ("OK", "NG", "REVIEW", "ERROR", "NOT_JUDGED")
# A quarter of an hour: fine enough to cut a day in any time zone of the world.
SLOT_SECONDS = 900
# Bounds of an answer: the latest lots, the latest buckets of time.
_LOTS = 100
_BUCKETS = 1000


class LotRow(NamedTuple):
    """Images of a lot with one verdict (None: waiting)."""

    lot_id: str | None
    verdict: str | None
    number: int
    last_received_at: datetime


class SlotRow(NamedTuple):
    """Images of a quarter of an hour with one verdict (None: waiting)."""

    slot: int
    verdict: str | None
    number: int


def slot_of(moment: datetime) -> int:
    """Return the number of the quarter of an hour since 1970."""
    return int(moment.timestamp()) // SLOT_SECONDS


def midnight(now: datetime, zone: ZoneInfo) -> datetime:
    """Return when today began at the site, in UTC."""
    local = now.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0)
    return local.astimezone(UTC)


def count(rows: Iterable[tuple[str | None, int]]) -> dict[str, int]:
    """Return `{total, OK, NG, REVIEW, ERROR, NOT_JUDGED, pending}` of (verdict, number) rows."""
    counts = {"total": 0, **dict.fromkeys(VERDICTS, 0), "pending": 0}
    for verdict, number in rows:
        counts["total"] += number
        counts[verdict or "pending"] += number
    return counts


def count_lots(rows: Iterable[LotRow]) -> list[dict[str, Any]]:
    """Return the counts of the latest lots, latest first."""
    by_lot: dict[str | None, list[LotRow]] = {}
    for row in rows:
        by_lot.setdefault(row.lot_id, []).append(row)
    latest = {lot: max(row.last_received_at for row in mine) for lot, mine in by_lot.items()}
    lots = sorted(by_lot, key=lambda lot: (latest[lot], lot or ""), reverse=True)[:_LOTS]
    return [
        {
            "lot_id": lot,
            "last_received_at": rfc3339_ms(latest[lot]),
            **count((row.verdict, row.number) for row in by_lot[lot]),
        }
        for lot in lots
    ]


def count_times(rows: Iterable[SlotRow], bucket: str, zone: ZoneInfo) -> list[dict[str, Any]]:
    """Return the counts of the site's latest hours or days that have any, oldest first."""
    by_start: dict[datetime, list[tuple[str | None, int]]] = {}
    for row in rows:
        start = _start(datetime.fromtimestamp(row.slot * SLOT_SECONDS, UTC), bucket, zone)
        by_start.setdefault(start, []).append((row.verdict, row.number))
    latest = sorted(by_start)[-_BUCKETS:]
    return [{"from": rfc3339_ms(start), **count(by_start[start])} for start in latest]


def _start(moment: datetime, bucket: str, zone: ZoneInfo) -> datetime:
    if bucket == "day":
        return midnight(moment, zone)
    local = moment.astimezone(zone)
    return local.replace(minute=0, second=0, microsecond=0).astimezone(UTC)
