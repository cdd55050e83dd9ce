"""What the web role is made of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version

import httpx

from adapters.pictures import overlay, thumbnail
from app.roles import Kit
from app.serving import HttpServer
from app.web import WebParts, build_web_app
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
from producers.relay import Relay
from producers.sweep import Sweep
from producers.upload_api import build_router as build_upload


@dataclass(frozen=True)
class WebRole:
    """Services that run beside the HTTP server."""

    ingest: Ingest
    relay: Relay
    sweep: Sweep
    feed: Feed
    watchers: Sequence[Service]

    @property
    def services(self) -> list[Service]:
        """All of them."""
        return [self.relay, self.sweep, self.feed, *self.watchers]


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
                build_upload(role.ingest),
                build_console(needs, search),
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
    relay = Relay(resources.outbox, resources.sink, clock=clock)
    resources.on_append.append(relay.wake)
    ports = IngestPorts(
        store=resources.objects,
        bucket=resources.objects.bucket,
        outbox=resources.outbox,
        catalog=resources.catalog,
        find_image=resources.inspections.get,
        clock=clock,
        wake=relay.wake,
    )
    ingest = Ingest(ports, IngestLimits(max_bytes=kit.max_bytes))
    sweep = Sweep(
        resources.objects, resources.outbox, resources.outbox, clock=clock, wake=relay.wake
    )
    feed = Feed(
        Hub(), resources.open_reader, resources.describe_log, clock=clock, telemetry=kit.telemetry
    )
    return WebRole(ingest, relay, sweep, feed, _watchers(kit, ingest))


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
