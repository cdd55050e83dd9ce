"""A language model that says what a test tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

Step = str | asyncio.Event | Exception


@dataclass(slots=True)
class MemoryTextModel:
    """Plays one script per call, the last one for ever.

    A script is a sequence of text pieces, events to wait for, and errors to raise. `prompts`
    holds what was asked as (system, user); `closed` counts iterators that ended, in any way.
    """

    scripts: Sequence[Sequence[Step]]
    name: str = "memory"
    prompts: list[tuple[str, str]] = field(default_factory=list)
    closed: int = 0

    async def stream(self, system: str, user: str, *, max_tokens: int) -> AsyncIterator[str]:
        """Yield the next script; one word counts as one token of `max_tokens`."""
        script = self.scripts[min(len(self.prompts), len(self.scripts) - 1)]
        self.prompts.append((system, user))
        budget = max_tokens
        try:
            for step in script:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, str):
                    budget -= len(step.split())
                    if budget < 0:
                        return
                    yield step
                else:
                    await step.wait()
        finally:
            self.closed += 1

    async def check(self) -> str:
        """Return the name, or raise the error that the first script opens with."""
        first = self.scripts[0][0] if self.scripts and self.scripts[0] else ""
        if isinstance(first, Exception):
            raise first
        return self.name
