"""The report in the making, as `reports.streamed` shows it."""

from __future__ import annotations

import asyncio
import logging
from uuid import UUID

from consumers.llm.answer import Line
from pipeline.errors import TransientError
from pipeline.ports import Clock, EventSink
from schemas.codec import encode
from schemas.event import derived_event_id
from schemas.reports import ReportStreamed
from schemas.subject import Subject

logger = logging.getLogger(__name__)


class Preview:
    """Publishes checked sentences of one report; each `restart` replaces what was shown.

    Ids derive from the report's id, the worker's run and the attempt: a redelivery elsewhere is a
    stream of its own, so that two attempts never mix into one text. A sentence that cannot be
    published ends the preview and nothing else; the final report does not depend on it.
    """

    def __init__(
        self, subject: Subject, report_id: UUID, run_id: UUID, sink: EventSink, clock: Clock
    ) -> None:
        """Show nothing yet."""
        self._subject = subject
        self._report_id = report_id
        self._run_id = run_id
        self._sink = sink
        self._clock = clock
        self._attempt = 0
        self._sequence = 0
        self._is_open = True
        self._shown: tuple[Line, ...] = ()
        self._stream_id = self._next_stream()

    def _next_stream(self) -> UUID:
        return derived_event_id("llm-preview", self._report_id, f":{self._run_id}:{self._attempt}")

    def restart(self) -> None:
        """Let the next sentence replace all before it."""
        self._shown = ()
        if self._sequence:
            self._attempt += 1
            self._sequence = 0
            self._stream_id = self._next_stream()

    async def say(self, line: Line, *, last: bool = False) -> None:
        """Publish one sentence."""
        if not self._is_open:
            return
        event = ReportStreamed(
            event_id=derived_event_id("llm-preview", self._stream_id, f":{self._sequence}"),
            occurred_at=self._clock.now(),
            subject=self._subject,
            stream_id=self._stream_id,
            sequence=self._sequence,
            sentence=line.text,
            section=line.section,
            citations=line.citations,
            last=last,
        )
        self._sequence += 1
        try:
            await self._sink.publish([encode(event, source="/lineside/llm")])
        except TransientError as error:
            self._is_open = False
            logger.warning(
                "preview of a report stops",
                extra={"action": "preview_stopped", "error": str(error)},
            )

    async def show(self, lines: tuple[Line, ...], stop: asyncio.Event | None = None) -> None:
        """Publish a finished text in a stream of its own, unless it is what stands there.

        Setting `stop` leaves the rest out.
        """
        if self._shown == lines:
            return
        self.restart()
        for position, line in enumerate(lines, start=1):
            if stop is not None and stop.is_set():
                return
            await self.say(line, last=position == len(lines))
        self._shown = lines
