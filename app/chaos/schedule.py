"""Seed → the faults of a run: reproducible, hard, and never so hard that no system could work.

Pure. Every minute kills each role and each server once, freezes one worker, ends another one
politely, disturbs connections and confuses the language model. What varies is dealt like cards,
so that no seed leaves a kind of fault out for long. Of three brokers one at a time is touched,
and it gets time to catch up before the next; and of every minute enough is left to the cameras
to send what they have.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Literal, NamedTuple, TypeVar

from app.chaos.fault_proxy import Mode

Card = TypeVar("Card")
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
_MOMENTS_TRIED = 50
# Of a minute at most so much is without an acknowledgement: in the rest the cameras, which keep
# what they could not send, catch up.
MOST_STOPPED_SHARE = 0.6
# After a kill a web role starts, after SIGTERM it ends what it began first; a frozen one goes on.
_WEB_BACK_S: dict[Action, float] = {"kill": 8.0, "end": 14.0, "freeze": 1.0}
_SERVER_BACK_S = 2.0
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


class _Deck(Generic[Card]):
    """Deals every card once, in random order, before any comes again."""

    def __init__(self, chance: random.Random, cards: Sequence[Card]) -> None:
        self._chance, self._cards = chance, cards
        self._left: list[Card] = []

    def deal(self) -> Card:
        if not self._left:
            self._left = self._chance.sample(self._cards, len(self._cards))
        return self._left.pop()


def plan(seed: int, minutes: float, ground: Ground) -> list[Fault]:
    """Return the faults of a run, in time order; equal for equal arguments."""
    dealer = _Dealer(random.Random(seed), ground)  # noqa: S311 - repeatable on purpose, no secret
    faults: list[Fault] = []
    start_s = 0.0
    while start_s < minutes * _MINUTE_S:
        length_s = min(_MINUTE_S, minutes * _MINUTE_S - start_s)
        if start_s and length_s < _MINUTE_S / 2:
            break  # too short for a minute's worth of faults
        faults += _leave_room(dealer.minute(start_s, length_s), length_s)
        start_s += _MINUTE_S
    return sorted(_spare_brokers(faults))


class _Dealer:
    """Deals the faults of one minute after the other."""

    def __init__(self, chance: random.Random, ground: Ground) -> None:
        self._chance, self._ground = chance, ground
        self._nodes = _Deck(chance, ground.nodes)
        # A worker that is frozen and the next one, which is ended: never both the same.
        pairs = zip(WORKERS, (*WORKERS[1:], WORKERS[0]), strict=True)
        self._frozen_and_ended = _Deck(chance, tuple(pairs))
        self._targets = _Deck(chance, (*ground.lines, "node"))
        self._modes = _Deck(chance, tuple(_LASTS_S))
        self._llm_modes = _Deck(chance, LLM_MODES)

    def minute(self, start_s: float, length_s: float) -> list[Fault]:
        """Whole faults in the first 90 %, so that each one is over when the minute is."""
        window = _Window(self._chance, start_s, length_s)
        frozen, ended = self._frozen_and_ended.deal()
        faults = [Fault(at, "kill", role) for role, at in _spread(self._chance, start_s, length_s)]
        faults += [
            window.fault("kill", server, self._chance.uniform(0.2, 4.0))
            for server in self._ground.servers
        ]
        # Early: the rest that a cluster needs after it must end before the next minute's kill.
        early = replace(window, first=0.02, last=0.45)
        down_s = round(self._chance.uniform(1.0, 6.0), 2)
        node = Fault(early.moment(0.0), "kill", self._nodes.deal(), down_s)
        faults += [
            node,
            window.fault("freeze", frozen, self._chance.uniform(1.0, 14.0)),
            window.fault("end", ended, 0.0),
            *(self._connection(window, node) for _ in range(_CONNECTION_FAULTS_A_MINUTE)),
        ]
        halves = (replace(window, last=0.45), replace(window, first=0.45))
        faults += [
            half.fault("llm", "llm-server", self._chance.uniform(3.0, 10.0), self._llm_modes.deal())
            for half in halves
        ]
        return faults

    def _connection(self, window: _Window, kill: Fault) -> Fault:
        target, mode = self._targets.deal(), self._modes.deal()
        lasts_s = self._chance.uniform(*_LASTS_S[mode])
        if target != "node":
            return window.fault("connection", target, lasts_s, mode)
        name = self._chance.choice(self._ground.nodes)
        for _ in range(_MOMENTS_TRIED):
            fault = window.fault("connection", name, lasts_s, mode)
            if fault.ends_s + 4.0 <= kill.at_s or kill.ends_s + _BROKER_REST_S <= fault.at_s - 1.0:
                break
        return fault


@dataclass(frozen=True, slots=True)
class _Window:
    """A part of a minute, as shares of it, in which faults begin and end."""

    chance: random.Random
    start_s: float
    length_s: float
    first: float = 0.0
    last: float = 0.9

    def moment(self, lasts_s: float) -> float:
        begin_s = self.first * self.length_s
        end_s = max(begin_s, self.last * self.length_s - lasts_s)
        return round(self.start_s + self.chance.uniform(begin_s, end_s), 2)

    def fault(self, action: Action, target: str, lasts_s: float, detail: str = "") -> Fault:
        """Place a fault; in a run of seconds it is shorter."""
        lasts_s = round(min(lasts_s, (self.last - self.first) * self.length_s / 2), 2)
        return Fault(self.moment(lasts_s), action, target, lasts_s, detail)


def _spread(chance: random.Random, start_s: float, length_s: float) -> Iterable[tuple[str, float]]:
    """Kill times of the workers, spread over a minute in random order, `web` never last.

    What comes while it is away is sent afterwards, before the minute is over.
    """
    order = chance.sample(WORKERS, len(WORKERS))
    if order[-1] == "web":
        order.insert(chance.randrange(len(order) - 1), order.pop())
    width = 0.9 * length_s / len(order)
    for number, role in enumerate(order):
        yield role, round(start_s + (number + chance.random()) * width, 2)


def stops_uploads(fault: Fault) -> tuple[float, float] | None:
    """From when until when no upload can be acknowledged, None where one can.

    An upload needs the web role, the object store and the database; it waits for no broker.
    """
    if fault.target == "web":
        return fault.at_s, fault.ends_s + _WEB_BACK_S[fault.action]
    if fault.target in SERVERS and fault.detail != "cut":
        return fault.at_s, fault.ends_s + _SERVER_BACK_S
    return None


def stopped_s(faults: Iterable[Fault]) -> float:
    """Seconds in which no upload can be acknowledged; faults that coincide count once."""
    total = end_s = 0.0
    for begin, end in sorted(span for fault in faults if (span := stops_uploads(fault))):
        total += max(0.0, end - max(begin, end_s))
        end_s = max(end_s, end)
    return total


def _leave_room(faults: Sequence[Fault], length_s: float) -> list[Fault]:
    """Leave out connection faults beyond which no system could acknowledge what it must."""
    kept = [fault for fault in faults if fault.action != "connection"]
    for fault in faults:
        if fault.action == "connection" and (
            stops_uploads(fault) is None
            or stopped_s([*kept, fault]) <= MOST_STOPPED_SHARE * length_s
        ):
            kept.append(fault)
    return kept


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
