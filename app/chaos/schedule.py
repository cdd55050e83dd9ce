"""Seed → the faults of a run: reproducible, hard, and never so hard that no system could work.

Pure. Every minute kills each role and each server once, freezes one worker, ends another one
politely, and disturbs connections. Of three brokers one at a time is touched, and it gets time
to catch up before the next.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from app.chaos.fault_proxy import Mode

Action = Literal[
    "kill",  # SIGKILL; servers are started again after `lasts_s`, workers by their supervisor
    "freeze",  # SIGSTOP, and SIGCONT after `lasts_s`
    "end",  # SIGTERM
    "connection",  # `detail` is the proxy's mode
    "llm",  # `detail` is what the language model server does
]
WORKERS = ("web", "anomaly", "embed", "llm", "record")
SERVERS = ("database", "objects")
LLM_MODES = (
    "overloaded", "loading", "failed", "hang", "stall", "die", "cut", "broken_json",
    "overloaded_event", "prose", "slow",
)  # fmt: skip

_MINUTE_S = 60.0
_CONNECTION_FAULTS_A_MINUTE = 5
# A broker that was killed loads its log and catches up before another one may go.
_BROKER_REST_S = 22.0
# How long a mode lasts, seconds; what never heals by itself is short.
_LASTS_S: dict[Mode, tuple[float, float]] = {
    "cut": (0.0, 3.0),
    "refuse": (1.0, 5.0),
    "delay": (4.0, 10.0),
    "blackhole": (2.0, 8.0),
    "half_open": (0.5, 2.0),
    "throttle": (3.0, 8.0),
}


class Fault(NamedTuple):
    """What happens to whom, when after the start, and for how long, seconds.

    `target` is a worker, `broker-N`, `database`, `objects` or `llm-server`.
    """

    at_s: float
    action: Action
    target: str
    lasts_s: float = 0.0
    detail: str = ""

    def __str__(self) -> str:
        """One line for people."""
        detail = f" {self.detail}" if self.detail else ""
        lasts = f" for {self.lasts_s:.1f} s" if self.lasts_s else ""
        return f"{self.at_s:7.1f} s  {self.action:10} {self.target}{detail}{lasts}"

    @property
    def ends_s(self) -> float:
        """When it is over."""
        return self.at_s + self.lasts_s


@dataclass(frozen=True, slots=True)
class Ground:
    """What there is to break.

    Attributes:
        brokers: nodes of the cluster, 1 or 3.
        servers: which of `SERVERS` run as processes; the others are files and cannot be away.
    """

    brokers: int = 1
    servers: Sequence[str] = SERVERS

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the broker's nodes."""
        return tuple(f"broker-{number}" for number in range(1, self.brokers + 1))

    @property
    def lines(self) -> tuple[str, ...]:
        """What connections can be disturbed, the cluster's nodes aside."""
        return (*self.servers, "llm-server")


def plan(seed: int, minutes: float, ground: Ground) -> list[Fault]:
    """Return the faults of a run, in time order; equal for equal arguments."""
    chance = random.Random(seed)  # noqa: S311 - repeatable on purpose, no secret
    faults: list[Fault] = []
    start_s = 0.0
    while start_s < minutes * _MINUTE_S:
        length_s = min(_MINUTE_S, minutes * _MINUTE_S - start_s)
        if start_s and length_s < _MINUTE_S / 2:
            break  # too short for a minute's worth of faults
        faults += _minute(chance, start_s, length_s, ground)
        start_s += _MINUTE_S
    return sorted(_spare_brokers(faults))


def _minute(chance: random.Random, start_s: float, length_s: float, ground: Ground) -> list[Fault]:
    # Whole faults in the first 90 %, so that each one is over, or nearly, when the minute is.
    def moment() -> float:
        return round(start_s + chance.uniform(0.0, 0.9) * length_s, 2)

    faults = [Fault(at, "kill", role) for role, at in _spread(chance, start_s, length_s)]
    faults += [
        Fault(moment(), "kill", server, round(chance.uniform(0.2, 4.0), 2))
        for server in ground.servers
    ]
    node = chance.choice(ground.nodes)
    # Early: the rest that a cluster needs after it must end before the next minute's kill.
    at = round(start_s + chance.uniform(0.02, 0.45) * length_s, 2)
    faults.append(Fault(at, "kill", node, round(chance.uniform(1.0, 6.0), 2)))
    faults.append(
        Fault(moment(), "freeze", chance.choice(WORKERS), round(chance.uniform(1.0, 14.0), 2))
    )
    faults.append(Fault(moment(), "end", chance.choice(WORKERS)))
    for _ in range(_CONNECTION_FAULTS_A_MINUTE):
        target = chance.choice((*ground.lines, chance.choice(ground.nodes)))
        mode = chance.choice(list(_LASTS_S))
        lasts = round(chance.uniform(*_LASTS_S[mode]), 2)
        faults.append(Fault(moment(), "connection", target, lasts, mode))
    lasts = round(chance.uniform(3.0, 10.0), 2)
    faults.append(Fault(moment(), "llm", "llm-server", lasts, chance.choice(LLM_MODES)))
    return faults


def _spread(chance: random.Random, start_s: float, length_s: float) -> Iterable[tuple[str, float]]:
    """Kill times of the workers, spread over a minute in random order."""
    order = chance.sample(WORKERS, len(WORKERS))
    width = 0.9 * length_s / len(order)
    for number, role in enumerate(order):
        yield role, round(start_s + (number + chance.random()) * width, 2)


def _spare_brokers(faults: Sequence[Fault]) -> list[Fault]:
    """Leave out what would touch a second node, or the same again, while one is not whole."""
    kept = [fault for fault in faults if not fault.target.startswith("broker")]
    kills = [f for f in faults if f.target.startswith("broker") and f.action == "kill"]
    taken = [(kill.at_s - 1.0, kill.ends_s + _BROKER_REST_S) for kill in kills]
    kept += kills
    for fault in sorted(set(faults) - set(kept)):
        span = (fault.at_s - 1.0, fault.ends_s + 3.0)
        if all(span[1] <= begin or end <= span[0] for begin, end in taken):
            kept.append(fault)
            taken.append(span)
    return kept
