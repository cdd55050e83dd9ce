"""When images came, from the tables (port `Arrivals`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, false, func, select

from adapters.sql.engine import Database
from adapters.sql.tables import IS_WAITING, images
from pipeline.line import MOST_COUNTED, THINNED_COUNT, THINNED_S, Waiting

_SOURCES = 200
_COUNTS = (images.c.state == "accepted", images.c.is_quiet == false())


class SqlArrivals:
    """Walks indexes: a look costs some look-ups, however many images.

    `images_by_source` for when cameras sent, `images_waiting` for what has no verdict.
    """

    def __init__(self, database: Database) -> None:
        """Only assign."""
        self._database = database

    async def last(self, since: datetime) -> Mapping[str, datetime]:
        """Return when each source that sent anything since then sent its last image."""
        return await self._database.read(lambda connection: _last(connection, since))

    async def thinned(self, source: str, since: datetime) -> Sequence[datetime]:
        """Return a source's thinned arrivals, newest first; at most `THINNED_COUNT`."""
        return await self._database.read(lambda connection: _thinned(connection, source, since))

    async def waiting(self, since: datetime, before: datetime) -> Waiting | None:
        """Return what was received in between and has no verdict; None if nothing."""
        wanted = (
            IS_WAITING[self._database.dialect],
            images.c.received_at >= since,
            images.c.received_at < before,
        )
        oldest = (
            select(images.c.image_id, images.c.received_at)
            .where(*wanted)
            .order_by(images.c.received_at)
            .limit(1)
        )
        # Ends after some look-ups, however far the line is behind.
        counted = select(images.c.image_id).where(*wanted).limit(MOST_COUNTED + 1).subquery()
        number = select(func.count()).select_from(counted)

        def work(connection: Connection) -> Waiting | None:
            row = connection.execute(oldest).one_or_none()
            if row is None:
                return None
            count = connection.scalar(number) or 1
            return Waiting(
                row.image_id, row.received_at, min(count, MOST_COUNTED), count > MOST_COUNTED
            )

        return await self._database.read(work)


def _last(connection: Connection, since: datetime) -> dict[str, datetime]:
    """Step from name to name through the index, instead of reading every image."""
    found: dict[str, datetime] = {}
    name: str | None = ""
    for _ in range(_SOURCES):
        name = connection.scalar(select(func.min(images.c.source)).where(images.c.source > name))
        if name is None:
            break
        last_at = _newest(connection, name, since, None)
        if last_at is not None:
            found[name] = last_at
    return found


def _thinned(connection: Connection, source: str, since: datetime) -> list[datetime]:
    taken: list[datetime] = []
    while len(taken) < THINNED_COUNT:
        until = taken[-1] - timedelta(seconds=THINNED_S) if taken else None
        moment = _newest(connection, source, since, until)
        if moment is None:
            break
        taken.append(moment)
    return taken


def _newest(
    connection: Connection, source: str, since: datetime, until: datetime | None
) -> datetime | None:
    query = select(images.c.received_at).where(
        images.c.source == source, images.c.received_at >= since, *_COUNTS
    )
    if until is not None:
        query = query.where(images.c.received_at <= until)
    return connection.scalar(query.order_by(images.c.received_at.desc()).limit(1))
