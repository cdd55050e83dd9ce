"""Mends uploads that were begun and never finished, so that none hangs in between."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from datetime import timedelta

from pipeline.errors import PoisonError, TransientError
from pipeline.housekeeping import Reservations
from pipeline.ports import BlobStore, Clock, Outbox
from schemas.event import ImageEvent

logger = logging.getLogger(__name__)

OWN_PREFIX = "images/"


class Sweep:
    """Finishes or drops `storing` rows; it never deletes an object, since others may name it.

    The bytes are there and right: the image is accepted, as if its upload had not been
    interrupted. Otherwise the row goes: nobody was told 202, and the sender sends again.
    """

    name = "sweep"

    def __init__(
        self,
        store: BlobStore,
        outbox: Outbox,
        reservations: Reservations,
        *,
        clock: Clock,
        wake: Callable[[], None] = lambda: None,
        older_than_s: float = 120.0,
    ) -> None:
        """`older_than_s` must exceed the longest upload."""
        self._store = store
        self._outbox = outbox
        self._reservations = reservations
        self._clock = clock
        self._wake = wake
        self._older_than_s = older_than_s

    def not_ready(self) -> Sequence[str]:
        """Never a reason: unfinished uploads hinder nobody."""
        return ()

    async def run(self) -> None:
        """Sweep now and then, one sweep at a time across all processes, until cancelled."""
        while True:
            try:
                async with self._reservations.sweep_lease():
                    while True:
                        await self.sweep_once()
                        await self._clock.sleep(self._older_than_s / 2)
            except TransientError as error:
                fields = {"action": "sweep_waits", "reason": str(error)}
                logger.warning("unfinished uploads cannot be mended now", extra=fields)
                await self._clock.sleep(5.0)

    async def sweep_once(self, limit: int = 500) -> int:
        """Mend what is old enough; returns how many rows were finished or dropped."""
        before = self._clock.now() - timedelta(seconds=self._older_than_s)
        events = await self._reservations.unfinished(before, limit)
        for event in events:
            await self._mend(event)
        return len(events)

    async def _mend(self, event: ImageEvent) -> None:
        fields = {"image_id": event.subject.image_id, "key": event.subject.image.key}
        if await self._is_stored(event):
            await self._outbox.append([event])
            self._wake()
            logger.info("unfinished upload kept", extra={"action": "sweep_kept", **fields})
        else:
            await self._reservations.forget(event.subject.image_id)
            logger.info("unfinished upload dropped", extra={"action": "sweep_dropped", **fields})

    async def _is_stored(self, event: ImageEvent) -> bool:
        image = event.subject.image
        if not image.key.startswith(OWN_PREFIX):
            return False
        try:
            data = await self._store.get(image.key, max_bytes=image.size_bytes)
        except PoisonError:
            return False
        return hashlib.sha256(data).hexdigest() == image.sha256
