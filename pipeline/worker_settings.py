"""How a worker runs; immutable."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pipeline.breaker import ProbePace
from pipeline.burial import BurialLimit
from pipeline.journal import JournalPolicy
from pipeline.retries import Ladder


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Limits and paces of one worker. Times are seconds.

    Attributes:
        batch_size: most items of one `infer` call of a batch stage.
        slots: how many items a slot stage infers at once.
        load_concurrency: how many `load` and `save` calls run at once.
        compute: `inline` calls `infer` on the event loop: for stages that compute nothing.
        priority_topics: records of these are taken before all others.
        poll_records: most records of one poll.
        poll_timeout_s: longest wait of one poll.
        linger_s: how long to wait for more after the first records of a quiet time: batches grow,
            and on a machine with few cores whoever does not linger goes first.
        gather_s: how long the log may hold few records back, so that a stage in no hurry does not
            wake just when one is at work that somebody waits for.
        buffer_records: records read but not started at which partitions pause.
        pause_after_s: how long the buffer stays full before they do.
        held_records: records waiting for a failed one of their key at which a partition pauses.
        commit_interval_s: least time between two commits; the first goes at once.
        drain_budget_s: what started work gets on a revoke or a stop.
        publish_patience_s: how long a log that is there may refuse outputs before the worker stops.
        bug_tries: attempts of an event that raises an exception nobody named.
    """

    batch_size: int = 16
    slots: int = 4
    load_concurrency: int = 16
    compute: Literal["thread", "inline"] = "thread"
    priority_topics: tuple[str, ...] = ("inspections.requested",)
    poll_records: int = 500
    poll_timeout_s: float = 0.5
    linger_s: float = 0.0
    gather_s: float = 0.0
    buffer_records: int = 1000
    pause_after_s: float = 0.1
    held_records: int = 256
    commit_interval_s: float = 0.05
    drain_budget_s: float = 10.0
    publish_patience_s: float = 300.0
    bug_tries: int = 3
    ladder: Ladder = field(default_factory=Ladder)
    probe_pace: ProbePace = field(default_factory=ProbePace)
    journal: JournalPolicy = field(default_factory=JournalPolicy)
    burial_limit: BurialLimit | None = field(default_factory=BurialLimit)
