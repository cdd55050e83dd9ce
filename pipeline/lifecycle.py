"""Life of a process: services that run until one fails or a signal asks all to stop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Service(Protocol):
    """Something that runs. Constructors only assign; `run` opens, works, and cleans up."""

    name: str

    async def run(self) -> None:
        """Run until cancelled; cancellation means: finish in order, within the drain budget."""
        ...

    def not_ready(self) -> Sequence[str]:
        """Reasons why it cannot work right now, none when it can."""
        ...
