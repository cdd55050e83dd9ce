"""`lineside up`, `worker` and `broker`: processes that run until told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from contextlib import suppress

import click

from app.settings import Settings, read_settings


def with_port(settings: Settings, port: int | None) -> Settings:
    """Return the settings with another web port."""
    if port is None:
        return settings
    web = settings.web.model_copy(update={"port": port})
    return settings.model_copy(update={"web": web})


async def wait_for_stop() -> int:
    """Wait for SIGINT or SIGTERM; returns the exit code that goes with it."""
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[int] = loop.create_future()

    def stop(code: int) -> None:
        if not stopped.done():
            stopped.set_result(code)

    loop.add_signal_handler(signal.SIGINT, stop, 130)
    loop.add_signal_handler(signal.SIGTERM, stop, 0)
    return await stopped


@click.command("up")
@click.option("--port", type=click.IntRange(1, 65535), help="Of the page; 5000 by default.")
def up(*, port: int | None) -> int:
    """Run every role on this machine until Ctrl-C."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    settings = with_port(read_settings(), port)
    return asyncio.run(_up(settings))


async def _up(settings: Settings) -> int:
    from app.up import running_system  # noqa: PLC0415 - the broker's packages are not in every role

    stopping = asyncio.create_task(wait_for_stop())
    system = running_system(settings, on_step=lambda step: click.echo(f"  {step}", err=True))
    opening = asyncio.create_task(system.__aenter__())
    await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not opening.done():
        opening.cancel()
        with suppress(asyncio.CancelledError):
            await opening
        return stopping.result()
    running = await opening
    try:
        click.echo(f"Lineside is up: {running.url}  (stop with Ctrl-C)")
        return await stopping
    finally:
        await system.__aexit__(None, None, None)


def _known_role(_: click.Context, __: click.Parameter, role: str) -> str:
    from app.roles import ROLES  # noqa: PLC0415 - brings every client; other commands need none

    if role not in ROLES:
        raise click.BadParameter(f"{role} is none of {', '.join(ROLES)}")
    return role


@click.command("worker")
@click.argument("role", callback=_known_role)
def worker(*, role: str) -> int:
    """Run one role until it is told to stop."""
    import uvloop  # noqa: PLC0415 - as below

    from app.logs import configure_logging  # noqa: PLC0415 - as below
    from app.roles import run_role  # noqa: PLC0415 - each role brings its own packages
    from app.supervisor import die_with_parent  # noqa: PLC0415 - as above

    die_with_parent()
    level = os.environ.get("LINESIDE_LOG_LEVEL", "INFO")
    configure_logging(level)
    # A verdict's way to the screen is mostly waiting for sockets, by three roles in turn: on the
    # standard library's loop it takes a fifth longer.
    return uvloop.run(run_role(role, read_settings()))


@click.command("broker")
@click.option("--port", type=click.IntRange(1, 65535), help="A free one by default.")
def broker(*, port: int | None) -> int:
    """Run the embedded Apache Kafka alone; its data stays in the state folder."""
    return asyncio.run(_broker(read_settings(), port))


async def _broker(settings: Settings, port: int | None) -> int:
    from adapters.embedded_broker import EmbeddedBroker  # noqa: PLC0415 - only here and in up

    chosen = port or settings.kafka.embedded_port
    async with EmbeddedBroker(settings.state_dir, port=chosen) as running:
        click.echo(f"Apache Kafka listens on {running.bootstrap_servers}  (stop with Ctrl-C)")
        stopping = asyncio.create_task(wait_for_stop())
        dying = asyncio.create_task(running.wait_died())
        await asyncio.wait({stopping, dying}, return_when=asyncio.FIRST_COMPLETED)
        dying.cancel()
        if stopping.done():
            return stopping.result()
        stopping.cancel()
        click.echo("the broker died; its log is in the state folder", err=True)
        return 1


COMMANDS = {"up": up, "worker": worker, "broker": broker}
