"""What the web role is made of."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version

import httpx

from adapters.kafka.progress import KafkaProgress
from adapters.pictures import overlay, thumbnail
from adapters.sql.unanswered import SqlUnanswered
from app.resources import local_folders
from app.roles import Kit
from app.serving import HttpServer
from app.web import WebParts, build_web_app
from console.api.dead_letters import LetterDesk, build_dead_letters_router
from console.api.needs import ConsoleNeeds, Pictures, SiteFacts
from console.api.router import build_router as build_console
from console.api.search import SearchDesk
from consumers.llm.manual_files import read_manual
from notifier.feed import Feed
from notifier.gateway import build_router as build_feed
from notifier.hub import Hub
from pipeline.lifecycle import Service
from producers.folder_watch import FolderWatcher, WatchOptions
from producers.image_check import check_image
from producers.ingest import Ingest, IngestLimits, IngestPorts
from producers.reconciler import Reconciler, ReconcilerPace, ReconcilerPorts
from producers.relay import Relay
from producers.replays import ReplayRunner
from producers.room import Room, RoomLimits
from producers.sweep import Sweep
from producers.upload_api import build_router as build_upload


@dataclass(frozen=True)
class WebRole:
    """Services that run beside the HTTP server."""

    ingest: Ingest
    relay: Relay
    sweep: Sweep
    room: Room
    reconciler: Reconciler
    feed: Feed
    replays: ReplayRunner
    watchers: Sequence[Service]

    @property
    def services(self) -> list[Service]:
        """All of them."""
        return [
            self.relay,
            self.sweep,
            self.room,
            self.reconciler,
            self.feed,
            self.replays,
            *self.watchers,
        ]


@asynccontextmanager
async def open_web(kit: Kit) -> AsyncIterator[Sequence[Service]]:
    """Put upload, relay, sweep, feed and console together behind one address."""
    settings = kit.settings
    role = _build(kit)
    async with httpx.AsyncClient(trust_env=False) as http:
        needs = _console_needs(kit)
        search = SearchDesk(
            http, settings.search.url, kit.resources.catalog, max_bytes=kit.max_bytes
        )

        def not_ready() -> list[str]:
            return [reason for service in role.services for reason in service.not_ready()]

        parts = WebParts(
            routers=[
                build_upload(role.ingest, telemetry=kit.telemetry),
                build_console(needs, search),
                build_dead_letters_router(_letter_desk(kit, role)),
                build_feed(role.feed),
            ],
            not_ready=not_ready,
            telemetry=kit.telemetry,
            monotonic=kit.clock.monotonic,
        )
        server = HttpServer(
            "web",
            build_web_app(settings, parts),
            host=settings.web.host,
            port=settings.web.port,
            setting="LINESIDE_WEB__PORT",
        )
        yield [*role.services, server]


def _build(kit: Kit) -> WebRole:
    resources, clock = kit.resources, kit.clock
    sink = resources.relay_sink
    relay = Relay(resources.outbox, sink, clock=clock, take_over=sink.take_over)
    resources.on_append.append(relay.wake)
    feed = Feed(
        Hub(), resources.open_reader, resources.describe_log, clock=clock, telemetry=kit.telemetry
    )
    room = _room(kit, lambda: feed.is_away or bool(relay.not_ready()))
    ports = IngestPorts(
        store=resources.objects,
        bucket=resources.objects.bucket,
        outbox=resources.outbox,
        catalog=resources.catalog,
        find_image=resources.inspections.get,
        clock=clock,
        wake=relay.wake,
        check_room=room.check,
    )
    ingest = Ingest(ports, IngestLimits(max_bytes=kit.max_bytes))
    sweep = Sweep(
        resources.objects, resources.outbox, resources.outbox, clock=clock, wake=relay.wake
    )
    replays = ReplayRunner(
        resources.replays, resources.open_reader, resources.describe_log, clock=clock
    )
    watchers = _watchers(kit, ingest)
    return WebRole(ingest, relay, sweep, room, _reconciler(kit), feed, replays, watchers)


def _room(kit: Kit, broker_away: Callable[[], bool]) -> Room:
    web = kit.settings.web
    limits = RoomLimits(
        rows=web.outbox_limit_rows,
        free_bytes=web.min_free_disk_mb * 1_000_000,
        accept_without_broker=web.broker_outage == "accept",
        keep_s=web.outbox_keep_days * 86_400,
    )
    folders = local_folders(kit.settings)

    def free_bytes() -> int:
        return min(shutil.disk_usage(folder).free for folder in folders)

    return Room(
        kit.resources.outbox,
        free_bytes,
        clock=kit.clock,
        limits=limits,
        broker_away=broker_away,
        telemetry=kit.telemetry,
    )


def _reconciler(kit: Kit) -> Reconciler:
    resources = kit.resources
    ports = ReconcilerPorts(
        images=SqlUnanswered(resources.database),
        progress=KafkaProgress(resources.connection),
        sink=resources.sink,
        clock=kit.clock,
    )
    pace = ReconcilerPace(after_s=kit.settings.web.reconcile_after_s)
    return Reconciler(ports, source="/lineside/web", pace=pace, telemetry=kit.telemetry)


def _letter_desk(kit: Kit, role: WebRole) -> LetterDesk:
    resources = kit.resources
    return LetterDesk(resources.letters, resources.replays, kit.clock, role.replays.wake)


def _watchers(kit: Kit, ingest: Ingest) -> list[Service]:
    folder = kit.settings.folder
    if folder.path is None:
        return []
    options = WatchOptions(product=folder.product)
    return [FolderWatcher(ingest, folder.path, clock=kit.clock, options=options)]


def _console_needs(kit: Kit) -> ConsoleNeeds:
    settings, resources = kit.settings, kit.resources
    return ConsoleNeeds(
        outbox=resources.outbox,
        inspections=resources.inspections,
        arrivals=resources.arrivals,
        catalog=resources.catalog,
        store=resources.objects,
        clock=kit.clock,
        pictures=Pictures(check_image, thumbnail, overlay),
        site=SiteFacts(
            version=version("lineside"),
            timezone=settings.site.timezone,
            has_llm=settings.llm.base_url is not None,
            upload_limit_mb=settings.web.upload_limit_mb,
        ),
        bucket=resources.objects.bucket,
        read_pages=_read_pages,
    )


def _read_pages(data: bytes, name: str, content_type: str) -> dict[int, str]:
    """Text of a manual's pages, as the report cites them; needs the llm extra for PDF."""
    return dict(read_manual(data, file_name=name, content_type=content_type).pages)
