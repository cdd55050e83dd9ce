"""The upload on SQLite and files behind a small gate: `overload_server.py STATE PORT GATE_MB`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from adapters.clock import SystemClock
from adapters.objects import open_objects
from adapters.sql.engine import migrate
from console.problems import install_problem_handlers
from producers.ingest import Ingest, IngestPorts
from producers.upload_api import UploadGate, build_router
from tests.story import configured
from tests.tables import sql_tables


async def serve(state: Path, port: int, gate_bytes: int) -> None:
    url = f"sqlite+aiosqlite:///{state / 'lineside.db'}"
    await migrate(url)
    async with open_objects((state / "objects").as_uri()) as objects, sql_tables(url) as tables:
        await tables.outbox.append([configured(1)])
        ports = IngestPorts(
            store=objects,
            bucket=objects.bucket,
            outbox=tables.outbox,
            catalog=tables.catalog,
            find_image=tables.inspections.get,
            clock=SystemClock(),
        )
        app = FastAPI()
        app.include_router(build_router(Ingest(ports), UploadGate(max_bytes=gate_bytes)))
        install_problem_handlers(app)
        config = uvicorn.Config(app, port=port, log_config=None, lifespan="off")
        await uvicorn.Server(config).serve()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
