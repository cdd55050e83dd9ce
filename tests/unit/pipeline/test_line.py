from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from adapters.memory.arrivals import MemoryArrivals
from adapters.memory.tables import MemoryTables
from pipeline.line import LineWatch, Silence
from tests.story import Story, at


class Line:
    """Images that came at the given seconds, and what the watch says of them."""

    def __init__(self) -> None:
        self.tables = MemoryTables()
        self.watch = LineWatch(MemoryArrivals(self.tables))
        self.sent = 0

    def send(self, source: str | None, *seconds: float, **subject: Any) -> None:
        for moment in seconds:
            self.sent += 1
            story = Story(f"P-{self.sent}", received_s=moment, source=source, **subject)
            self.tables.write(story.uploaded)

    async def silent(self, seconds: float) -> Sequence[Silence]:
        return await self.watch.silent(at(seconds))

    async def names(self, seconds: float) -> list[str]:
        return [silence.source for silence in await self.silent(seconds)]


def every(gap_s: float, until_s: float) -> list[float]:
    return [number * gap_s for number in range(int(until_s / gap_s) + 1)]


async def test_a_camera_that_sent_regularly_and_stops_is_silent_after_a_minute() -> None:
    line = Line()
    line.send("cam-1", *every(5, 600))
    assert await line.names(659) == []
    assert await line.silent(660) == [Silence("cam-1", at(600), 60.0)]
    line.send("cam-1", 700)
    assert await line.names(705) == []


async def test_a_slow_camera_is_given_three_times_its_longest_gap() -> None:
    line = Line()
    line.send("cam-1", *every(120, 40 * 120))
    assert await line.names(40 * 120 + 359) == []
    assert await line.silent(40 * 120 + 360) == [Silence("cam-1", at(40 * 120), 360.0)]


@pytest.mark.parametrize(
    ("moments", "why"),
    [
        (every(1800, 5 * 3600), "seldom: no 21 images in twelve hours"),
        ([n * 0.1 for n in range(500)], "one heap of files in a minute"),
        (every(5, 290), "it has only just begun"),
        ([*every(20, 200), *(4000 + s for s in every(20, 200))], "it pauses for an hour by habit"),
    ],
)
async def test_there_is_no_alarm_without_an_expectation(moments: list[float], why: str) -> None:
    line = Line()
    line.send("cam-1", *moments)
    assert await line.names(moments[-1] + 1700) == [], why


async def test_a_break_makes_the_watch_patient_until_the_line_runs_again() -> None:
    line = Line()
    line.send("cam-1", *every(5, 600), *(3000 + s for s in every(5, 120)))
    assert await line.names(3120 + 600) == []
    line.send("cam-1", *(3125 + s for s in every(5, 400)))
    assert await line.names(3525 + 61) == ["cam-1"]


async def test_only_production_images_of_cameras_are_expected() -> None:
    line = Line()
    line.send("console", *every(5, 600))
    line.send(None, *every(5, 600))
    line.send("golden", *every(5, 600), purpose="golden")
    line.send("history", *every(5, 600), is_historical=True)
    assert await line.names(1000) == []


async def test_a_source_that_is_off_for_half_a_day_is_no_news() -> None:
    line = Line()
    line.send("cam-1", *every(5, 600))
    assert await line.names(600 + timedelta(hours=11).total_seconds()) == ["cam-1"]
    assert await line.names(600 + timedelta(hours=13).total_seconds()) == []


async def test_the_longest_silence_comes_first() -> None:
    line = Line()
    line.send("cam-1", *every(5, 700))
    line.send("cam-2", *every(5, 600))
    line.send("cam-3", *every(5, 900))
    assert await line.names(900) == ["cam-2", "cam-1"]


async def test_images_that_wait_too_long_for_a_verdict_are_counted() -> None:
    line = Line()
    line.send("cam-1", 0, 1, 5)
    done = Story("done", received_s=2)
    line.tables.write(done.uploaded)
    line.tables.write(done.scored("OK"))
    assert await line.watch.late(at(10)) is None
    late = await line.watch.late(at(12))
    assert late is not None
    assert (late.received_at, late.images, late.has_more) == (at(0), 2, False)
