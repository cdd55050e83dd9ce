from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from pipeline.counting import LotRow, SlotRow, count, count_lots, count_times, midnight, slot_of

SEOUL = ZoneInfo("Asia/Seoul")
KOLKATA = ZoneInfo("Asia/Kolkata")


def test_a_day_begins_at_the_sites_midnight() -> None:
    now = datetime(2026, 11, 23, 20, 0, tzinfo=UTC)  # 05:00 of the 24th in Seoul
    assert midnight(now, SEOUL) == datetime(2026, 11, 23, 15, 0, tzinfo=UTC)


def test_days_of_a_zone_with_half_hours_are_cut_right() -> None:
    before, after = (datetime(2026, 11, 23, 18, minute, tzinfo=UTC) for minute in (29, 31))
    rows = [SlotRow(slot_of(before), "OK", 1), SlotRow(slot_of(after), "NG", 2)]
    days = count_times(rows, "day", KOLKATA)
    assert [(day["from"], day["total"]) for day in days] == [
        ("2026-11-22T18:30:00.000Z", 1),
        ("2026-11-23T18:30:00.000Z", 2),
    ]


def test_counts_keep_waiting_and_not_judged_apart() -> None:
    counts = count([("OK", 3), (None, 2), ("NOT_JUDGED", 1), ("OK", 1)])
    assert counts == {
        "total": 7, "OK": 4, "NG": 0, "REVIEW": 0, "ERROR": 0, "NOT_JUDGED": 1, "pending": 2,
    }  # fmt: skip


def test_lots_are_listed_latest_first_with_images_without_a_lot() -> None:
    early, late = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    lots = count_lots([LotRow("A", "OK", 1, early), LotRow(None, "NG", 1, late)])
    assert [lot["lot_id"] for lot in lots] == [None, "A"]
