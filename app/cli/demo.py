"""`lineside demo`."""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
import signal
import socket

import click
import psutil
from pydantic import SecretStr

from app.cli.processes import with_port
from app.settings import Settings, read_settings


@click.command("demo")
@click.option("--once", is_flag=True, help="End when every image is complete.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object as the last line.")
@click.option("--lan", is_flag=True, help="Let a phone on this network in, with a token.")
@click.option("--port", type=click.IntRange(1, 65535), help="Of the page; 5000 or the next free.")
@click.option("--clean", is_flag=True, help="Remove the state folder and end.")
def demo(*, once: bool, as_json: bool, lan: bool, port: int | None, clean: bool) -> int:
    """Run everything on this machine with sample data; ends with a table of what was judged."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    settings = read_settings()
    if clean:
        return _clean(settings)
    from app.demo.run import DemoOptions  # noqa: PLC0415 - the samples' packages are optional

    settings = with_port(settings, port or _free_port_from(settings))
    token = address = None
    if lan:
        settings, token, address = _open_to_lan(settings)
    options = DemoOptions(once=once, as_json=as_json, token=token, shown_url=address)
    try:
        return asyncio.run(_interruptible(settings, options))
    except (KeyboardInterrupt, asyncio.CancelledError):
        click.echo("stopped; everything is kept in the state folder", err=True)
        return 130


async def _interruptible(settings: Settings, options: object) -> int:
    """Turn SIGTERM and a closed terminal into the same orderly stop as Ctrl-C."""
    from app.demo.run import DemoOptions, run_demo  # noqa: PLC0415 - as above

    assert isinstance(options, DemoOptions)
    task = asyncio.ensure_future(run_demo(settings, options))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    return await task


def _free_port_from(settings: Settings) -> int:
    """Take the set port when it is free, else the next one: two demos may run at once."""
    first = settings.web.port
    for port in range(first, first + 50):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.web.host, port))
            except OSError:
                continue
        if port != first:
            click.echo(f"port {first} is in use; this demo takes {port}", err=True)
        return port
    raise click.ClickException(
        f"ports {first} to {first + 49} are all in use; name one with --port"
    )


def _open_to_lan(settings: Settings) -> tuple[Settings, str, str]:
    """Return settings that listen everywhere, the token, and the address for a phone."""
    token = secrets.token_urlsafe(12)
    web = settings.web.model_copy(
        update={"host": "0.0.0.0", "tokens": (SecretStr(token),)}  # noqa: S104 - asked for, with a token
    )
    address = f"http://{_lan_address()}:{settings.web.port}/login?token={token}"
    return settings.model_copy(update={"web": web}), token, address


def _lan_address() -> str:
    """Address of this machine in its network, of the first interface that is up."""
    stats = psutil.net_if_stats()
    for name, addresses in psutil.net_if_addrs().items():
        for address in addresses:
            is_lan = address.family == socket.AF_INET and not address.address.startswith("127.")
            if is_lan and stats[name].isup:
                return str(address.address)
    return "127.0.0.1"


def _clean(settings: Settings) -> int:
    from app.up import state_lock  # noqa: PLC0415 - needs the broker's packages

    folder = settings.state_dir.resolve()
    if folder.exists():
        with state_lock(folder):
            pass
        shutil.rmtree(folder)
    click.echo(f"{folder} is gone")
    return 0


COMMANDS = {"demo": demo}
