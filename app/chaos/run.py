"""`lineside bench chaos`: a whole system under load and faults, then judged by the ledger."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer

from app.chaos.collect import read_index, read_log, read_rows, read_statuses
from app.chaos.facts import Facts, Sent
from app.chaos.ledger import judge, live_cases
from app.chaos.load import STATIONS, Book, Saboteur, Station, open_http, review_some
from app.chaos.memory import judge_memory
from app.chaos.poison import Poisoner
from app.chaos.product import Taught, teach
from app.chaos.report import Outcome, figures
from app.chaos.schedule import Fault, plan
from app.chaos.strike import Striker
from app.chaos.system import PARTITIONS, System, open_system
from app.chaos.watch import FeedClient, GroupWatch, MemoryWatch, running
from app.resources import open_store
from pipeline.errors import ConfigError
from schemas.message import TopicPartition

Json = dict[str, Any]
Tell = Callable[[str], None]

_TOLD_EVERY_S = 10.0
_CATCH_UP_S = 60.0
_REST_S = 300.0
_READERS = ("embed", "anomaly", "llm", "record")


@dataclass(frozen=True, slots=True)
class ChaosPlan:
    """What to run: how long, which faults, on how many brokers, at how many images a second."""

    minutes: float
    seed: int
    brokers: int = 1
    rate: float = 1.5


async def bench_chaos(folder: Path, wanted: ChaosPlan, tell: Tell) -> Json:
    """Run it below `folder`, which keeps state and logs; returns the figures.

    Raises:
        ConfigError: the system does not even start, or does not work while nothing disturbs it.
    """
    async with open_system(folder, brokers=wanted.brokers, on_step=tell) as system:
        tell(", ".join(f"{name}: {what}" for name, what in system.parts.items()))
        tell("teaching the product")
        taught = await asyncio.to_thread(teach, system.url, folder / "data")
        run = _Run(system, wanted, taught, tell)
        return await run.run()


class _Run:
    """One run on a system that is up."""

    def __init__(self, system: System, wanted: ChaosPlan, taught: Taught, tell: Tell) -> None:
        self.system, self.wanted, self.taught, self.tell = system, wanted, taught, tell
        self.book = Book()
        self.feed = FeedClient(system.url)
        self.groups = GroupWatch(system.connection)
        self.memory = MemoryWatch(self._pids, self._works_since)
        self.striker = Striker(system, self.book, self.groups, on_fault=self._told_fault)
        self.faults = plan(wanted.seed, wanted.minutes, system.ground)
        self.began_s = 0.0
        self.in_time = 0
        self.troubles: list[str] = []
        self.settled: set[str] = set()

    async def run(self) -> Json:
        for fault in self.faults:
            self.tell(str(fault))
        try:
            async with running(self.feed.run, self.groups.run, self.memory.run, self._progress):
                await self._disturb()
                await self._rest()
                facts = await self._collect()
        finally:
            await self.groups.close()
        self.tell("judging")
        violations = await asyncio.to_thread(judge, facts)
        outcome = Outcome(
            minutes=self.wanted.minutes,
            stated_rate=self.wanted.rate,
            brokers=self.wanted.brokers,
            seed=self.wanted.seed,
            parts=self.system.parts,
            book=self.book,
            in_time=self.in_time,
            damage=self.striker.damage,
            proxies=self.system.proxies,
            feed=self.feed,
            memory=judge_memory(self.memory.samples),
            facts=facts,
            violations=violations,
            troubles=self.troubles,
        )
        return figures(outcome)

    # -- load and faults -------------------------------------------------------------------
    async def _disturb(self) -> None:
        wanted, system = self.wanted, self.system
        dice = random.Random(wanted.seed)  # noqa: S311 - repeatable on purpose, no secret
        producer = AIOKafkaProducer(
            bootstrap_servers=system.broker.direct_servers,
            acks="all",
            enable_idempotence=True,
            max_request_size=1_048_000,
        )
        async with (
            open_http(system.url) as http,
            open_store(system.direct) as store,
            producer,
        ):
            self.began_s = time.monotonic()
            until_s = self.began_s + wanted.minutes * 60
            over = asyncio.Event()
            stations = [
                Station(f"station-{number}", http, self.book, random.Random(dice.random()))  # noqa: S311 - as above
                for number in range(STATIONS)
            ]
            saboteur_station = Station("poison", http, self.book, random.Random(dice.random()))  # noqa: S311 - as above
            saboteur = Saboteur(saboteur_station, producer, store, PARTITIONS)
            poison = iter(Poisoner(wanted.seed, self.taught.pictures))
            sending = asyncio.gather(
                *(one.run(self.taught.pictures, STATIONS / wanted.rate, over) for one in stations),
                saboteur.run(poison, over),
                review_some(http, self.book, self._is_defect(), over),
            )
            striking = asyncio.create_task(self.striker.run(self.faults, self.began_s))
            try:
                await asyncio.sleep(max(0.0, until_s - time.monotonic()))
                self.in_time = self.book.good
                # Kills that missed are repeated, and need work to hit.
                await striking
                over.set()
                self.tell("healing")
                await self.striker.heal()
                await asyncio.wait_for(sending, _CATCH_UP_S)
            except TimeoutError:
                self.troubles.append(f"senders are not done {_CATCH_UP_S:g} s after the last fault")
            finally:
                striking.cancel()
                sending.cancel()

    def _is_defect(self) -> Callable[[Sent], bool]:
        bad = {
            sha256 for (sha256, _), said in self.taught.judgements.items() if said.verdict == "NG"
        }
        return lambda sent: sent.sha256 in bad

    # -- rest ------------------------------------------------------------------------------
    async def _rest(self) -> None:
        """Wait until everything is answered, committed and shown, at most five minutes."""
        self.tell("coming to rest")
        began = time.monotonic()
        await self.striker.recovered()
        deadline = began + _REST_S
        unrest = "nothing was looked at"
        while unrest and time.monotonic() < deadline:
            unrest = await self._unrest()
            await asyncio.sleep(0.5)
        if unrest:
            self.troubles.append(f"not at rest {_REST_S:g} s after the last fault: {unrest}")
        self.tell(f"at rest after {time.monotonic() - began:.1f} s")

    async def _unrest(self) -> str:
        """Say what is not at rest, empty when all is."""
        for stage in _READERS:
            lag = await self.groups.lag(stage)
            if lag != 0:
                return f"{stage} has not committed {lag} records"
        waiting = [one for one in self.book.sent if one.image_id not in self.settled]
        async with open_http(self.system.url) as http:
            statuses = await read_statuses(http, waiting, 0.1)
        open_ones = [image_id for image_id, status in statuses.items() if status == "pending"]
        self.settled.update(statuses.keys() - set(open_ones))
        if open_ones:
            return f"{len(open_ones)} images are pending, {open_ones[0]} among them"
        ends = await self.groups.ends()
        if ends is None:
            return "the brokers are away"
        return "" if self.feed.has_reached(ends) else "the feed has not caught up"

    async def _collect(self) -> Facts:
        self.tell("reading the log, the tables and the index")
        async with open_http(self.system.url) as http:
            statuses = await read_statuses(http, self.book.sent, 30.0)
        ends = await self._ends()
        log = await read_log(self.system.connection, ends)
        search = self.system.running.supervisor.environment["LINESIDE_SEARCH__URL"]
        return Facts(
            sent=tuple(self.book.sent),
            acted=tuple(self.book.acted),
            log=log,
            rows=await read_rows(self.system.direct.database_url),
            statuses=statuses,
            judgements=self.taught.judgements,
            planted=self.book.planted,
            commits=tuple(self.groups.commits),
            indexed=await read_index(search, self.taught.pictures[0], len(live_cases(log))),
            feed=self.feed.facts(ends),
        )

    async def _ends(self) -> Mapping[TopicPartition, int]:
        deadline = time.monotonic() + _CATCH_UP_S
        while time.monotonic() < deadline:
            ends = await self.groups.ends()
            if ends is not None:
                return ends
        raise ConfigError("the brokers do not answer after the run; see their logs")

    # -- telling ---------------------------------------------------------------------------
    def _pids(self) -> dict[str, int]:
        children = self.system.running.supervisor.children
        roles = {
            role: child.process.pid
            for role, child in children.items()
            if child.process is not None and child.process.returncode is None
        }
        nodes = self.system.broker.pid_of_node.items()
        return roles | {f"broker-{number}": pid for number, pid in nodes}

    def _works_since(self, role: str, created: float) -> float | None:
        """A role notes its address when everything in it is built; a broker just starts."""
        if role not in self.system.running.supervisor.children:
            return created
        try:
            noted = (self.system.direct.state_dir / "roles" / f"{role}.json").stat().st_mtime
        except OSError:
            return None
        return noted if noted > created else None

    def _told_fault(self, fault: Fault, hit: bool) -> None:  # noqa: FBT001 - a callback's two values
        at_s = time.monotonic() - self.began_s
        self.tell(f"{at_s:7.1f} s  done: {fault}{', hit work in flight' if hit else ''}")

    async def _progress(self) -> None:
        while True:
            await asyncio.sleep(_TOLD_EVERY_S)
            if self.began_s:
                book, damage = self.book, self.striker.damage
                self.tell(
                    f"{time.monotonic() - self.began_s:7.1f} s  "
                    f"{book.good} of {book.asked} acknowledged, "
                    f"{sum(damage.done.values())} faults, {self.feed.events} feed events"
                )
