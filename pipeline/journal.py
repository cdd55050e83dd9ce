"""The attempt journal in the commit's metadata: it finds records that kill the process.

A crash never reaches an `except`, so it is counted before work starts: each assignment commits the
same offset again with one more start. After two starts without progress the worker goes one record
at a time and commits each one's name before it starts; a record whose name was found twice on
starting again is the killer, on whichever machine its partition lands.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

# Kafka takes 4096 bytes of metadata; a name and a count take about 20.
_DEATHS_KEPT = 64


@dataclass(frozen=True, slots=True)
class JournalPolicy:
    """When to grow suspicious, and when to be sure."""

    careful_starts: int = 3
    deaths_to_bury: int = 2


@dataclass(slots=True)
class Journal:
    """What is known of one partition's starts. Offsets are log offsets."""

    policy: JournalPolicy = JournalPolicy()
    starts: int = 0
    deaths: dict[int, int] = field(default_factory=dict)
    named: int | None = None
    base: int = 0
    horizon: int | None = None

    @classmethod
    def read(cls, metadata: str, policy: JournalPolicy) -> Journal:
        """Read a commit's metadata; what is not a journal counts as an empty one."""
        journal = cls(policy)
        try:
            data: Any = json.loads(metadata or "{}")
            journal.starts = max(0, int(data.get("starts", 0)))
            deaths = dict(data.get("deaths", {}))
            journal.deaths = {int(offset): int(count) for offset, count in deaths.items()}
            named = data.get("named")
            if named is not None:
                journal.deaths[int(named)] = journal.deaths.get(int(named), 0) + 1
        except (ValueError, TypeError, AttributeError):
            return cls(policy)
        return journal

    def open(self, offset: int) -> str:
        """Count a start at the committed `offset`; return what to commit before any work."""
        self.starts += 1
        self.base = offset
        return self.note(offset)

    @property
    def is_careful(self) -> bool:
        """Whether records go one at a time, each named before it starts."""
        return self.starts >= self.policy.careful_starts

    def is_killer(self, offset: int) -> bool:
        """Whether this record has killed the process often enough to be buried unread."""
        return self.deaths.get(offset, 0) >= self.policy.deaths_to_bury

    def name(self, offset: int) -> None:
        """Name the record about to start; its note must be committed first."""
        self.named = offset

    def note(self, offset: int) -> str:
        """Return the metadata of a commit at `offset`; progress ends the count of starts."""
        self._progress(offset)
        return self._text(self.starts)

    def note_at_rest(self, offset: int) -> str:
        """Return the metadata of the last commit before an orderly end: this start was no crash."""
        self.named = None
        self._progress(offset)
        return self._text(max(0, self.starts - 1))

    def _progress(self, offset: int) -> None:
        if self.named is not None and offset > self.named:
            self.named = None
        if self.is_careful:
            past = offset > self.base if self.horizon is None else offset >= self.horizon
        else:
            past = offset > self.base
        if past:
            self.starts = 0
        self.deaths = {bad: count for bad, count in self.deaths.items() if bad >= offset}

    def _text(self, starts: int) -> str:
        data: dict[str, Any] = {}
        if starts:
            data["starts"] = starts
        if self.deaths:
            kept = sorted(self.deaths.items())[:_DEATHS_KEPT]
            data["deaths"] = {str(offset): count for offset, count in kept}
        if self.named is not None and starts:
            data["named"] = self.named
        return json.dumps(data, separators=(",", ":")) if data else ""
