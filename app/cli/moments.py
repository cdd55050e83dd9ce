"""Times as people write them on the command line."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import click

from app.settings import read_settings

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def read_moment(text: str, now: datetime, zone: ZoneInfo) -> datetime:
    """Return a moment in UTC.

    Args:
        text: RFC 3339, a date (its midnight at the site), or how long ago: `90s`, `2h`, `7d`.
        now: aware.
        zone: the site's; also of a time that names none.

    Raises:
        ValueError: none of these.
        OverflowError: before the calendar begins.
    """
    ago = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if ago:
        moment = now - timedelta(**{_UNITS[ago[2]]: float(ago[1])})
    elif re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        day = date.fromisoformat(text)
        moment = datetime(day.year, day.month, day.day, tzinfo=zone)
    else:
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=zone)
    return moment.astimezone(UTC)


class Moment(click.ParamType):
    """An option's moment in UTC; a time without a zone is the site's, not this machine's."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Return it; fails with what is understood."""
        try:
            return read_moment(value, datetime.now(UTC), ZoneInfo(read_settings().site.timezone))
        except (ValueError, OverflowError):
            hint = "write 2026-11-26T08:00, 2026-11-26, or how long ago: 90s, 30m, 8h, 7d"
            self.fail(f"{value!r} is no time; {hint}", param, ctx)
