"""`lineside demo`."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import Coroutine, Iterable
from contextlib import ExitStack
from typing import Any, TextIO

import click
import psutil
from pydantic import SecretStr

from app.cli import quiet_imports
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
    with quiet_imports():
        from app.demo.run import DemoOptions, run_demo  # noqa: PLC0415 - optional packages
        from app.up import check_port  # noqa: PLC0415 - as above

    token = lan_url = None
    if lan:
        settings, token = _open_to_lan(settings)
    if port:  # before a minute of drawing, not after it
        check_port(settings.web.host, port, "--port to a free one")
    with ExitStack() as kept:
        settings = with_port(settings, port or _free_port_from(settings, kept))
        if token:
            lan_url = f"http://{_lan_address()}:{settings.web.port}"
        options = DemoOptions(once=once, as_json=as_json, token=token, lan_url=lan_url)
        return asyncio.run(_interruptible(run_demo(settings, options)))


async def _interruptible(work: Coroutine[Any, Any, int]) -> int:
    """Stop in order on Ctrl-C, SIGTERM and a closed terminal; returns what a shell expects then."""
    task = asyncio.ensure_future(work)
    heard: list[signal.Signals] = []
    terminals = [stream for stream in (sys.stdout, sys.stderr) if stream.isatty()]

    def hear(number: signal.Signals) -> None:
        heard.append(number)
        if len(heard) > 1:  # a second one must not break off the stop: processes would be left
            return
        task.cancel()
        if number is signal.SIGHUP:
            _leave(terminals)
        click.echo("stopping", err=True)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        is_nohup = number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN
        if not is_nohup:
            loop.add_signal_handler(number, hear, number)
    try:
        return await task
    except (asyncio.CancelledError, OSError):  # a terminal that is gone refuses words as well
        if not heard:
            raise
    click.echo("stopped; everything is kept in the state folder", err=True)
    sys.stdout.flush()
    # A thread may still draw or download, and Python would wait for it. All else has ended.
    os._exit(128 + heard[0])


def _leave(terminals: Iterable[TextIO]) -> None:
    """Print into nothing from now on: words for a terminal that is gone must not break the stop."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in terminals:
        os.dup2(nothing, stream.fileno())


def _free_port_from(settings: Settings, kept: ExitStack) -> int:
    """Take the set port when it is free, else the next one: two demos may run at once.

    It is long until `web` listens. Until then, and on, a UDP socket of the same number, which
    goes with this process, tells other demos that the port is taken.
    """
    first = settings.web.port
    for port in range(first, first + 50):
        with ExitStack() as tried:
            probe = tried.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            claim = tried.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            try:
                probe.bind((settings.web.host, port))
                claim.bind(("127.0.0.1", port))
            except OSError:
                continue
            probe.close()
            kept.push(tried.pop_all())
        if port != first:
            click.echo(f"port {first} is in use; this demo takes {port}", err=True)
        return port
    raise click.ClickException(
        f"ports {first} to {first + 49} are all in use; name one with --port"
    )


def _open_to_lan(settings: Settings) -> tuple[Settings, str]:
    """Return settings that listen everywhere, and the token that lets a phone in."""
    token = secrets.token_urlsafe(12)
    web = settings.web.model_copy(
        update={"host": "0.0.0.0", "tokens": (SecretStr(token),)}  # noqa: S104 - asked for, with a token
    )
    return settings.model_copy(update={"web": web}), token


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
