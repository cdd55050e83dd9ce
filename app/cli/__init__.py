"""The `lineside` command. It imports as little as can be before Ctrl-C is dealt with."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Let Ctrl-C end the process at once, by the signal itself.

    An import that KeyboardInterrupt breaks off prints a traceback, or swallows it; and while a
    command imports there is nothing yet that has to be ended in order.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield  # somebody ignores it, or listens already
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def main() -> None:
    """Run a command."""
    with quiet_imports():
        from app.cli.root import run  # noqa: PLC0415 - see above

    run()
