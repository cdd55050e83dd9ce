from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import click
import pytest

from app.cli.moments import Moment, read_moment

SEOUL = ZoneInfo("Asia/Seoul")
NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-26T10:00:00Z", "2026-11-26T10:00:00+00:00"),
        ("2026-11-26T10:00:00.250+09:00", "2026-11-26T01:00:00.250+00:00"),
        ("2026-11-26T10:00", "2026-11-26T01:00:00+00:00"),
        ("2026-11-26", "2026-11-25T15:00:00+00:00"),
        ("90s", "2026-11-26T11:58:30+00:00"),
        ("2h", "2026-11-26T10:00:00+00:00"),
        ("1.5h", "2026-11-26T10:30:00+00:00"),
        ("7d", "2026-11-19T12:00:00+00:00"),
    ],
)
def test_a_time_is_a_moment_a_day_at_the_site_or_how_long_ago(text: str, moment: str) -> None:
    assert read_moment(text, NOW, SEOUL) == datetime.fromisoformat(moment)


@pytest.mark.parametrize("text", ["", "yesterday", "2w", "2026-13-01", "-2h", "99999999d"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises((ValueError, OverflowError), match=r".+"):
        read_moment(text, NOW, SEOUL)


def test_a_time_without_a_zone_is_the_sites_whatever_this_machines_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TZ", "America/Lima")
    monkeypatch.setenv("LINESIDE_SITE__TIMEZONE", "Asia/Seoul")
    told = Moment().convert("2026-11-26T08:00", None, None)
    assert told == datetime(2026, 11, 25, 23, 0, tzinfo=UTC)


def test_an_option_that_is_no_time_says_what_to_write() -> None:
    with pytest.raises(click.BadParameter, match="'soon' is no time; write 2026-11-26T08:00"):
        Moment().convert("soon", None, None)
