"""Ctrl-C, SIGTERM and a closed terminal, at any moment of `lineside demo`."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.cli.demo import _free_port_from
from app.settings import Settings, WebSettings
from app.up import free_port, to_the_end

ROOT = Path(__file__).parents[3]

_START = """
from app.cli import main
sys.argv = ["lineside", "demo", *globals().get("options", ())]
main()
"""

# Sends Ctrl-C when a module is looked for, that is in the midst of the import of another.
_AT_IMPORT = """
import os, signal, sys
wanted = sys.argv[1]
class Striker:
    def find_spec(self, name, path=None, target=None):
        if name == wanted:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Striker())
"""

# A demo that blocks a thread for ever and strikes itself, again while it ends in order.
_AT_WORK = """
import asyncio, os, signal, sys, threading
import app.demo.run
numbers = [int(number) for number in sys.argv[1:]]
def strike():
    if numbers:
        os.kill(os.getpid(), numbers.pop(0))
async def run_demo(settings, options):
    asyncio.get_running_loop().call_soon(strike)
    asyncio.get_running_loop().call_soon(strike)
    try:
        await asyncio.to_thread(threading.Event().wait)
    finally:
        for _ in range(9):
            strike()
            await asyncio.sleep(0)
        print("ended in order", flush=True)
app.demo.run.run_demo = run_demo
"""

_FULL_DISK = """
import errno, os, sys
import app.demo.run
async def run_demo(settings, options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/plant/a.jpg")
app.demo.run.run_demo = run_demo
"""


def hear_hangups() -> None:
    """As in a shell, also where the tests themselves run under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def run(
    code: str, *arguments: object, before: Callable[[], object] = hear_hangups
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code + _START, *map(str, arguments)],
        cwd=ROOT,
        # No folder can be there: a demo that goes on ends at once.
        env={**os.environ, "LINESIDE_STATE_DIR": "/dev/null/state"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        preexec_fn=before,
    )


@pytest.mark.parametrize(
    "module", ["click", "pipeline.errors", "app.cli.demo", "psutil", "app.demo.run", "app.up"]
)
def test_ctrl_c_amid_an_import_ends_the_command_without_a_traceback(module: str) -> None:
    ended = run(_AT_IMPORT, module)
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_demo_in_order_whatever_a_thread_does(number: signal.Signals) -> None:
    ended = run(_AT_WORK, number)
    assert ended.returncode == 128 + number
    assert ended.stdout == "ended in order\n"
    assert "stopped; everything is kept" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_second_ctrl_c_does_not_break_off_the_orderly_end() -> None:
    ended = run(_AT_WORK, signal.SIGINT, signal.SIGINT, signal.SIGTERM)
    assert (ended.returncode, ended.stdout) == (130, "ended in order\n")


def test_under_nohup_a_closed_terminal_is_ignored_and_sigterm_is_not() -> None:
    ended = run(
        _AT_WORK,
        signal.SIGHUP,
        signal.SIGTERM,
        before=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert (ended.returncode, ended.stdout) == (143, "ended in order\n")


def test_a_terminal_that_refuses_words_as_it_goes_ends_the_demo_like_its_signal() -> None:
    code = _AT_WORK.replace(
        "await asyncio.to_thread(threading.Event().wait)",
        "raise OSError(5, 'the terminal is gone')",
    )
    assert code != _AT_WORK
    ended = run(code, signal.SIGHUP)
    assert ended.returncode == 128 + signal.SIGHUP
    assert "Traceback" not in ended.stderr


async def test_a_step_of_the_stop_is_taken_to_its_end_whoever_is_cancelled() -> None:
    has_begun, may_end = asyncio.Event(), asyncio.Event()
    ended: list[str] = []

    async def stop() -> None:
        has_begun.set()
        await may_end.wait()
        ended.append("in order")

    ending = asyncio.create_task(to_the_end(stop))
    await has_begun.wait()
    for _ in range(2):
        ending.cancel()
        await asyncio.sleep(0)
    may_end.set()
    await ending
    assert ended == ["in order"]


def test_a_disk_that_fills_up_is_one_line() -> None:
    ended = run(_FULL_DISK)
    assert ended.returncode == 2
    assert ended.stderr == "lineside: the disk is full (/plant/a.jpg); make room and try again\n"


def test_two_demos_that_start_at_once_take_two_ports() -> None:
    settings = Settings(web=WebSettings(port=free_port()))
    with ExitStack() as first, ExitStack() as second:
        ports = {_free_port_from(settings, kept) for kept in (first, second)}
        assert len(ports) == 2
        assert settings.web.port in ports
        with socket.create_server(("127.0.0.1", settings.web.port)):
            pass  # the web role can listen where its demo holds the port


def test_a_named_port_that_is_in_use_is_told_before_anything_is_made() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run("import sys; options = ['--port', sys.argv[1]]", port)
    assert ended.returncode == 2
    expected = f"port {port} on 127.0.0.1 cannot be used (Address already in use)"
    assert ended.stderr == f"lineside: {expected}; set --port to a free one\n"


def test_a_port_is_free_again_when_its_demo_has_ended() -> None:
    settings = Settings(web=WebSettings(port=free_port()))
    for _ in range(2):
        with ExitStack() as kept:
            assert _free_port_from(settings, kept) == settings.web.port


def test_where_somebody_listens_the_next_port_is_taken_and_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, ExitStack() as kept:
        port = taken.getsockname()[1]
        chosen = _free_port_from(Settings(web=WebSettings(port=port)), kept)
    assert chosen > port
    assert capsys.readouterr().err == f"port {port} is in use; this demo takes {chosen}\n"
