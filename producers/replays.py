"""Dead letters back onto their topics: one runner at a time, each replay at its own pace."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from pipeline.errors import LinesideError, StalledError, TransientError
from pipeline.letters import PutBack, ReplayWork, answer_to, is_whole, record_of
from pipeline.ports import Clock, DescribeLog, EventSource, OpenReader
from pipeline.sealing import reopen
from schemas.dead_letters import DeadLetter
from schemas.message import Message, Record
from schemas.replays import replay_headers

logger = logging.getLogger(__name__)

# Letters of one transaction: as many as fall due in this time, within the bound.
_STEP_S = 0.2
_MOST_AT_ONCE = 20
_PAUSE_S = 5.0
# How long the log may take to hand out one record that lies in it.
_FETCH_S = 10.0
# Value, key and headers of one message that every log takes. The relay sends in order: a row that
# the log refuses would hold up all later ones, new images among them.
_LARGEST_BYTES = 1_024_000


class ReplayRunner:
    """Puts back what replays have chosen, through the outbox; a `Service`.

    All it knows lies in the tables: killed anywhere, the next one goes on with the next letter.
    """

    name = "replays"

    def __init__(
        self,
        replays: ReplayWork,
        open_reader: OpenReader,
        describe: DescribeLog,
        *,
        clock: Clock,
        poll_s: float = 1.0,
    ) -> None:
        """The log is read for what was too large for a letter to keep."""
        self._replays = replays
        self._open_reader = open_reader
        self._describe = describe
        self._clock = clock
        self._poll_s = poll_s
        self._news = asyncio.Event()
        # Monotonic time of each replay's next step.
        self._next_step: dict[str, float] = {}

    def wake(self) -> None:
        """Tell that there is a new replay; call it on the runner's event loop."""
        self._news.set()

    def not_ready(self) -> Sequence[str]:
        """Never a reason: a replay that waits hinders nobody."""
        return ()

    async def run(self) -> None:
        """Run replays until cancelled."""
        while True:
            try:
                async with self._replays.replay_lease():
                    while True:
                        self._news.clear()
                        await self._wait(await self.step())
            except LinesideError as error:
                # Refused questions as well: a replay that waits must not end who takes images.
                fields = {"action": "replay_waits", "reason": str(error)}
                logger.warning("dead letters cannot be put back now", extra=fields)
                await self._clock.sleep(_PAUSE_S)

    async def step(self) -> float | None:
        """Put back what is due; returns the seconds until more is, None with nothing to do."""
        running = await self._replays.running()
        now = self._clock.monotonic()
        self._next_step = {key: self._next_step.get(key, now) for key in running}
        for replay_id, rate_per_s in running.items():
            if self._next_step[replay_id] <= now:
                taken = await self._put_back(replay_id, rate_per_s)
                self._next_step[replay_id] = now + taken / rate_per_s
        if not running:
            return None
        return max(0.0, min(self._next_step.values()) - self._clock.monotonic())

    async def _wait(self, seconds: float | None) -> None:
        if seconds == 0.0:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(self._poll_s, seconds or self._poll_s)):
                await self._news.wait()

    async def _put_back(self, replay_id: str, rate_per_s: float) -> int:
        limit = max(1, min(_MOST_AT_ONCE, int(rate_per_s * _STEP_S)))
        letters = await self._replays.due(replay_id, limit)
        ready = [await self._prepare(replay_id, letter) for letter in letters]
        done = await self._replays.put_back(replay_id, ready)
        fields = {"action": "letters_put_back", "replay_id": replay_id, "letters": done}
        logger.info("dead letters were put back", extra=fields)
        return len(letters)

    async def _prepare(self, replay_id: str, letter: DeadLetter) -> PutBack:
        letter_id = str(letter.event_id)
        record = record_of(letter) if is_whole(letter) else await self._fetch(letter)
        if record is None:
            return PutBack(letter_id, passed_over="record_gone")
        headers = replay_headers(
            record.headers, letter_id=letter_id, run_id=replay_id, stage=letter.stage
        )
        message = Message(record.topic, record.key, record.value, headers)
        if _size_bytes(message) > _LARGEST_BYTES:
            return PutBack(letter_id, passed_over="too_large")
        event = reopen(record)
        answer_id = None if event is None else answer_to(letter.stage, event.event_id)
        return PutBack(letter_id, message, answer_id)

    async def _fetch(self, letter: DeadLetter) -> Record | None:
        """Read a record where it first lay; None when the log holds it no more."""
        wanted = record_of(letter)
        place, offset = wanted.topic_partition, wanted.offset
        extent = await self._describe([wanted.topic])
        if not extent.first.get(place, 0) <= offset < extent.end.get(place, 0):
            return None
        try:
            async with self._open_reader([wanted.topic], {place: offset}) as source:
                source.pause([other for other in extent.first if other != place])
                for record in await self._first(source):
                    is_it = record.offset == offset and record.key == wanted.key
                    return record if is_it else None
        except StalledError as error:
            raise TransientError(f"a record cannot be read again: {error}") from error
        raise TransientError(f"{wanted.topic} does not hand out offset {offset}; trying again")

    async def _first(self, source: EventSource) -> Sequence[Record]:
        deadline = self._clock.monotonic() + _FETCH_S
        while self._clock.monotonic() < deadline:
            if records := await source.poll(1, 1.0):
                return records
        return ()


def _size_bytes(message: Message) -> int:
    headers = sum(len(name) + len(content) for name, content in message.headers)
    return len(message.key or b"") + len(message.value or b"") + headers
