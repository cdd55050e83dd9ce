"""Role to services: what each process is made of. A role is one process."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace

from adapters.clock import SystemClock
from adapters.health import HealthServer
from adapters.telemetry import CONTENT_TYPE, PrometheusTelemetry
from app.garbage import calm_collector
from app.logs import dump_tasks_on
from app.process import keep_freed_memory, wake_without_preempting
from app.resources import Resources, note_role, open_resources
from app.settings import Settings
from pipeline.guard import GuardedOpenSource
from pipeline.lifecycle import Service, run_services
from pipeline.loop_lag import LoopLag
from pipeline.replica import Gate, Replica
from pipeline.stage import Stage
from pipeline.worker import Worker
from pipeline.worker_settings import WorkerSettings
from schemas.topics import TOPICS, triggers_of


@dataclass(frozen=True)
class Kit:
    """What every builder gets."""

    resources: Resources
    clock: SystemClock
    telemetry: PrometheusTelemetry

    @property
    def settings(self) -> Settings:
        """Settings of this process."""
        return self.resources.settings

    @property
    def max_bytes(self) -> int:
        """Largest image that is taken."""
        return self.settings.web.upload_limit_mb * 1_000_000

    def worker(self, stage: Stage, settings: WorkerSettings | None = None) -> Worker:
        """Run a stage as a member of its group."""
        settings = settings or WorkerSettings()
        name, clock = stage.name, self.clock
        plain = self.resources.group(
            name,
            *triggers_of(name),
            drain_budget_s=settings.drain_budget_s * 2,
            gather_s=settings.gather_s,
        )
        witness = self.resources.witness(name)
        source = GuardedOpenSource(plain, witness, clock, self.telemetry, name)
        worker = Worker(stage, source, self.resources.sink, clock, self.telemetry, settings)
        worker.peek = self.resources.peek
        return worker

    def replica(
        self, topic: str, on_change: Callable[..., Awaitable[None]] | None = None
    ) -> Replica:
        """Follow a control topic."""
        return Replica(
            self.resources.open_reader,
            topic,
            key=TOPICS[topic].key,
            on_change=on_change,
            telemetry=self.telemetry,
        )


# A member takes turns between its partitions poll by poll: where an image takes a tenth of a
# second, polls of 500 would let those of one partition age for a minute behind the others.
_SLOW_WORK = WorkerSettings(poll_records=32, buffer_records=64)
# For stages that compute nothing. No more is read ahead than this: what waits long for its turn has
# left the processor's caches.
QUICK_WORK = WorkerSettings(batch_size=200, compute="inline", poll_records=200, buffer_records=400)

# The verdict goes first: where the two share few cores, each would take twice as long. Similar
# cases are looked for when it is mostly there; a batch that is full does not wait.
_FEW_CORES = 4
_SIMILAR_CASES_AFTER_S = 0.08 if (os.cpu_count() or 1) <= _FEW_CORES else 0.0

# Reports and tables follow every event of a verdict's way. Woken by each at once, they took a core
# from the very process that carries it on.
_NO_HURRY_S = 0.1 if (os.cpu_count() or 1) <= _FEW_CORES else 0.0

Builder = Callable[[Kit], AbstractAsyncContextManager[Sequence[Service]]]


@asynccontextmanager
async def build_embed(kit: Kit) -> AsyncIterator[Sequence[Service]]:
    """Similar cases: the stage, its index, and the search on a port of its own."""
    from app.embed_parts import build_parts, build_search_app  # noqa: PLC0415 - brings torch
    from app.serving import HttpServer  # noqa: PLC0415 - as above
    from consumers.embed.stage import EmbedStage  # noqa: PLC0415 - as above

    made = await asyncio.to_thread(build_parts, kit)
    search = kit.settings.search
    settings = replace(_SLOW_WORK, batch_size=8, linger_s=_SIMILAR_CASES_AFTER_S)
    yield [
        made.products,
        made.cases,
        made.indexer,
        Gate(kit.worker(EmbedStage(made.parts), settings), made.products),
        HttpServer(
            "search",
            build_search_app(kit, made),
            host=search.host,
            port=search.port,
            setting="LINESIDE_SEARCH__PORT",
        ),
    ]


@asynccontextmanager
async def build_anomaly(kit: Kit) -> AsyncIterator[Sequence[Service]]:
    """Verdicts, and the banks that they come from."""
    from app.anomaly_parts import build_parts  # noqa: PLC0415 - brings torch
    from consumers.anomaly.fit import BankBuildStage  # noqa: PLC0415 - as above
    from consumers.anomaly.stage import AnomalyStage  # noqa: PLC0415 - as above

    made = await asyncio.to_thread(build_parts, kit)
    eights = replace(_SLOW_WORK, batch_size=8)
    # A bank takes longer than any stop should: it is built again rather than waited for.
    builds = WorkerSettings(slots=1, drain_budget_s=1.0)
    yield [
        made.products,
        made.banks,
        Gate(kit.worker(AnomalyStage(made.parts), eights), made.products, made.banks),
        Gate(kit.worker(BankBuildStage(made.fit_parts), builds), made.products),
    ]


@asynccontextmanager
async def build_llm(kit: Kit) -> AsyncIterator[Sequence[Service]]:
    """Reports, from the manuals and a language model where there is one."""
    from app.llm_parts import build_parts, reports_at_once  # noqa: PLC0415 - brings the manuals' packages
    from consumers.llm.stage import LlmStage  # noqa: PLC0415 - as above

    made = build_parts(kit)
    slots = replace(_SLOW_WORK, slots=reports_at_once(kit.settings.llm), gather_s=_NO_HURRY_S)
    worker = Gate(kit.worker(LlmStage(made.parts), slots), made.products, made.manuals)
    yield [made.products, made.manuals, *made.services, worker]


@asynccontextmanager
async def build_record(kit: Kit) -> AsyncIterator[Sequence[Service]]:
    """Every derived event into the tables."""
    from consumers.record.stage import RecordStage  # noqa: PLC0415 - each role brings its own

    settings = replace(QUICK_WORK, priority_topics=(), gather_s=_NO_HURRY_S)
    yield [kit.worker(RecordStage(kit.resources.inspections), settings)]


@asynccontextmanager
async def build_web(kit: Kit) -> AsyncIterator[Sequence[Service]]:
    """Upload, relay, sweep, feed, console: one address for people and machines."""
    from app.web_parts import open_web  # noqa: PLC0415 - brings fastapi

    async with open_web(kit) as services:
        yield services


# What `up` runs, in this order; each waits for what it needs by itself.
ROLES: dict[str, Builder] = {
    "web": build_web,
    "anomaly": build_anomaly,
    "embed": build_embed,
    "llm": build_llm,
    "record": build_record,
}


# Roles in which a network computes.
_NETWORK_ROLES = ("embed", "anomaly")
# Roles that are on no verdict's way to the screen.
_SIDE_ROLES = ("embed", "llm", "record")


async def run_role(role: str, settings: Settings) -> int:
    """Run one role until it is told to stop; returns the exit code."""
    dump_tasks_on(signal.SIGUSR1)
    if role in _NETWORK_ROLES:
        keep_freed_memory()
    if role in _SIDE_ROLES:
        wake_without_preempting()
    telemetry = PrometheusTelemetry()
    async with open_resources(settings, role) as resources:
        kit = Kit(resources, SystemClock(), telemetry)
        async with ROLES[role](kit) as services:
            calm_collector()
            lag = LoopLag(telemetry)

            def not_ready() -> list[str]:
                return [reason for one in (lag, *services) for reason in one.not_ready()]

            health = HealthServer(
                not_ready,
                lambda: (telemetry.exposition(), CONTENT_TYPE),
                host=settings.health.host,
                port=settings.health.port,
            )
            noting = asyncio.create_task(_note(settings, role, health))
            code = await run_services([health, lag, *services])
            noting.cancel()
            return code


async def _note(settings: Settings, role: str, health: HealthServer) -> None:
    await health.listening.wait()
    note_role(settings, role, f"http://{settings.health.host}:{health.port}")
