"""Progress of a long job, for the page that waits for it: `jobs/<job_id>.json`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.errors import LinesideError, TransientError
from pipeline.ports import BlobStore, Clock

_WRITE_EVERY_S = 1.0
# Share of the whole time that each step took on two cores with 200 photos.
_STEPS = {"waiting": 0.0, "reading": 0.65, "coreset": 0.15, "calibrating": 0.18, "saving": 0.02}


@dataclass(slots=True)
class JobProgress:
    """Where a job stands; written by its thread, read by the reporter."""

    job_id: str
    product: str
    state: Literal["queued", "running", "done", "failed"] = "queued"
    step: str = "waiting"
    done: int = 0
    total: int = 0
    version: str | None = None
    error: str | None = None

    def at(self, step: str, done: int, total: int) -> None:
        """Note the place within a step."""
        self.state, self.step, self.done, self.total = "running", step, done, total

    def fraction(self) -> float:
        """Share of the whole work that is done, 0 to 1."""
        if self.state in {"done", "failed"}:
            return 1.0
        before = 0.0
        for name, share in _STEPS.items():
            if name == self.step:
                return before + share * (self.done / self.total if self.total else 0.0)
            before += share
        return before

    def as_json(self, elapsed_s: float) -> dict[str, Any]:
        """As the page reads it; `eta_s` from the pace so far, null before there is one."""
        fraction = self.fraction()
        eta_s = elapsed_s * (1 - fraction) / fraction if fraction > 0 else None
        return {
            "job_id": self.job_id,
            "product": self.product,
            "state": self.state,
            "step": self.step,
            "done": self.done,
            "total": self.total,
            "fraction": round(fraction, 3),
            "eta_s": None if eta_s is None else round(eta_s, 1),
            "version": self.version,
            "error": self.error,
        }


class JobBoard:
    """Where jobs are shown."""

    def __init__(self, store: BlobStore, clock: Clock) -> None:
        """Write into `store`; `clock` paces the writes."""
        self._store = store
        self._clock = clock

    async def write(self, job: JobProgress, elapsed_s: float = 0.0) -> None:
        """Show where the job stands now."""
        text = json.dumps(job.as_json(elapsed_s), ensure_ascii=False)
        await self._store.put(
            f"jobs/{job.job_id}.json", text.encode(), content_type="application/json"
        )

    async def fail(self, job: JobProgress, error: str) -> None:
        """Show that the job ended without a result, and why."""
        job.state, job.error = "failed", error
        await self._write_if_possible(job, 0.0)

    @asynccontextmanager
    async def reporting(self, job: JobProgress) -> AsyncIterator[None]:
        """Show the job about once a second while the context lasts; show why if it fails."""
        started = self._clock.monotonic()

        async def report() -> None:
            while True:
                await self._write_if_possible(job, self._clock.monotonic() - started)
                await self._clock.sleep(_WRITE_EVERY_S)

        reporter = asyncio.create_task(report(), name=f"job {job.job_id}")
        try:
            yield
        except (asyncio.CancelledError, TransientError):
            # The event stays uncommitted: it starts again, here or elsewhere, so the job waits.
            await self._end(reporter)
            job.state, job.step = "queued", "waiting"
            await self._write_if_possible(job, 0.0)
            raise
        except Exception as error:
            await self._end(reporter)
            await self.fail(job, job.error or str(error) or type(error).__name__)
            raise
        await self._end(reporter)

    async def _end(self, reporter: asyncio.Task[None]) -> None:
        reporter.cancel()
        await asyncio.wait([reporter])

    async def _write_if_possible(self, job: JobProgress, elapsed_s: float) -> None:
        """A page without progress is better than a bank without its last step."""
        try:
            await self.write(job, elapsed_s)
        except LinesideError:
            return
