"""Progress bars and tables on stderr and stdout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table on stdout; absent values show as a dash."""
    drawn = Table(box=None, pad_edge=False, header_style="dim")
    for heading in headings:
        drawn.add_column(heading, overflow="fold")
    for row in rows:
        drawn.add_row(*("-" if value is None else str(value) for value in row))
    Console().print(drawn)


class Bars:
    """One bar per thing, which shows its current step and the time that is left."""

    def __init__(self, progress: Progress) -> None:
        """Draw on `progress`."""
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._steps: dict[str, str] = {}

    def reporter(self, name: str) -> Callable[[str, int, int], None]:
        """Return `report(step, done, total)` for one thing."""

        def report(step: str, done: int, total: int) -> None:
            label = f"{name} · {step}"
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(label, total=total or None)
            elif self._steps[name] != step:  # a new step has a new end and a new pace
                self._progress.reset(self._tasks[name], description=label, total=total or None)
            self._steps[name] = step
            self._progress.update(self._tasks[name], completed=done, total=total or None)

        return report


@contextmanager
def progress_bars(*, quiet: bool = False) -> Iterator[Bars]:
    """Show bars on stderr; plain lines where it is no terminal; nothing when `quiet`."""
    console = Console(stderr=True, quiet=quiet)
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=False,
    ) as progress:
        yield Bars(progress)
