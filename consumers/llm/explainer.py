"""From a finding to a report: by the model where it answers, else of the manuals' own words."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from consumers.llm.evidence import Evidence, gather_evidence
from consumers.llm.extract import extract_report
from consumers.llm.finding import Finding
from consumers.llm.preview import Preview
from consumers.llm.prompt import build_prompt
from consumers.llm.report import Draft, assemble, refuse
from consumers.llm.retrieval import ManualIndex
from consumers.llm.turns import Turns
from consumers.llm.writing import Writer, Written, complete
from pipeline.breaker import Breaker, ProbePace
from pipeline.errors import DependencyDownError, LinesideError, PoisonError
from pipeline.ports import Clock
from schemas.images import InspectionRequested
from schemas.reports import Report

logger = logging.getLogger(__name__)

# An operator has the manual's own words by then, whatever the model does (console.md: 3 s).
PREVIEW_AFTER_S = 1.0
# A second attempt is worth the wait only if the first one broke off early.
_RETRY_WITHIN_S = 20.0
# While the server is away, one report in this many seconds tries it; the others do not wait.
_PROBES = ProbePace(first_s=1.0, longest_s=30.0)


@dataclass(slots=True)
class Timings:
    """Milliseconds of one report; `first_token` stays None when no model answered."""

    started: float
    retrieval: float | None = None
    first_token: float | None = None

    def as_event(self, now: float) -> dict[str, float]:
        """Return what `ImageExplained.timings_ms` carries."""
        known = {"retrieval": self.retrieval, "first_token": self.first_token}
        total = {"total": (now - self.started) * 1000}
        return {name: round(ms, 1) for name, ms in (known | total).items() if ms is not None}


@dataclass(frozen=True, slots=True)
class Case:
    """One report in the making."""

    finding: Finding
    evidence: Evidence
    extract: Draft
    preview: Preview
    timings: Timings


class Explainer:
    """Makes reports; `writer` None means that no language model is set."""

    def __init__(self, writer: Writer | None, clock: Clock, asks_at_once: int) -> None:
        """Start with the model trusted to answer so many at once."""
        self._writer = writer
        self._clock = clock
        self._breaker = Breaker(_PROBES)
        self._is_probed = False
        self._turns = Turns(asks_at_once)

    async def explain(
        self, finding: Finding, index: ManualIndex, preview: Preview, timings: Timings
    ) -> Report:
        """Return the report; whatever the model does, there is one or a reason.

        `degraded` names what made it poorer: `no_neighbours`, and `llm_away`, `llm_broke_off`,
        `llm_refused` or `llm_unusable` (no sentence passed the checks), joined by a comma.
        """
        evidence = await asyncio.to_thread(gather_evidence, index, finding)
        timings.retrieval = (self._clock.monotonic() - timings.started) * 1000
        poorer = "no_neighbours" if finding.embedded is None else None
        if evidence.refusal is not None:
            return refuse(finding, evidence.refusal, evidence.index_version, poorer)
        case = Case(finding, evidence, extract_report(finding, evidence), preview, timings)
        trouble: str | None = None
        if self._writer is not None:
            drafted = await self._ask(self._writer, case)
            if isinstance(drafted, Draft):
                return assemble(finding, evidence, drafted, degraded=poorer)
            trouble = drafted
        await preview.show(tuple(case.extract.lines))
        degraded = ",".join(part for part in (poorer, trouble) if part) or None
        return assemble(finding, evidence, case.extract, degraded=degraded)

    async def _ask(self, writer: Writer, case: Case) -> Draft | str:
        """Return the model's draft, or why there is none; an answer that broke off is retried.

        Whoever waits for a turn shows the manual's own words meanwhile, and learns with the
        others when the model is away.
        """
        urgent = isinstance(case.finding.trigger, InspectionRequested)
        trouble: str | None = "llm_away"
        latest: float | None = None
        for _ in range(2):
            if self._is_away:
                return "llm_away"
            written = Written()
            async with self._early_preview(case) as stop_preview, self._turns.turn(urgent=urgent):
                if self._is_away:
                    return "llm_away"
                latest = latest or self._clock.monotonic() + _RETRY_WITHIN_S
                trouble = await self._try(writer, case, written, stop_preview)
            if trouble is None:
                return await self._finish(writer, case, written)
            if trouble != "llm_broke_off" or self._clock.monotonic() > latest:
                break
        return trouble or "llm_away"

    @property
    def _is_away(self) -> bool:
        """Whether the server is known to be away, and another report tries it or none should."""
        if self._breaker.is_closed:
            return False
        return self._is_probed or self._clock.monotonic() < self._breaker.retry_at

    async def _try(
        self, writer: Writer, case: Case, written: Written, stop_preview: asyncio.Event
    ) -> str | None:
        """Have the model write once; returns why it gave nothing, None when it did.

        What others go by is noted before the turn passes on.
        """
        is_probe = not self._breaker.is_closed
        self._is_probed = self._is_probed or is_probe
        try:
            await self._write(writer, case, written, stop_preview)
        except LinesideError as error:
            return self._note(error)
        else:
            self._breaker.close()
            return None
        finally:
            if is_probe:
                self._is_probed = False

    async def _finish(self, writer: Writer, case: Case, written: Written) -> Draft | str:
        """Return the model's draft, completed by the manual, or that it is of no use."""
        if written.dropped:
            logger.info(
                "sentences without a source were dropped",
                extra={"action": "sentences_dropped", "faults": dict(written.dropped)},
            )
        if not written.is_useful:
            return "llm_unusable"
        draft, added = complete(written, case.extract, writer.name)
        for position, line in enumerate(added, start=1):
            await case.preview.say(line, last=position == len(added))
        return draft

    async def _write(
        self, writer: Writer, case: Case, written: Written, stop_preview: asyncio.Event
    ) -> None:
        prompt = build_prompt(case.finding, case.evidence)
        asked_at = self._clock.monotonic()
        async with aclosing(writer.write(case.finding, prompt, written)) as lines:
            async for line in lines:
                if case.timings.first_token is None:
                    case.timings.first_token = (self._clock.monotonic() - asked_at) * 1000
                if line is None:
                    continue
                if not stop_preview.is_set():
                    stop_preview.set()
                    case.preview.restart()
                await case.preview.say(line)

    def _note(self, error: LinesideError) -> str:
        """Say why the model gave nothing, and open the breaker when it is away."""
        logger.warning(
            "the language model gave no report",
            extra={"action": "llm_gave_nothing", "kind": type(error).__name__, "error": str(error)},
        )
        if isinstance(error, DependencyDownError):
            self._breaker.trip(self._clock.monotonic())
            return "llm_away"
        self._breaker.close()
        return "llm_refused" if isinstance(error, PoisonError) else "llm_broke_off"

    @asynccontextmanager
    async def _early_preview(self, case: Case) -> AsyncIterator[asyncio.Event]:
        """Show the manual's own words if the model takes longer than a second to its first line.

        Setting the event keeps them back, or waits for nothing: sentences under way are older
        than what replaces them.
        """
        stop = asyncio.Event()

        async def show_later() -> None:
            await self._clock.sleep(PREVIEW_AFTER_S)
            await case.preview.show(tuple(case.extract.lines), stop)

        task = asyncio.create_task(show_later())
        try:
            yield stop
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
