"""Carries a schedule out, and notes what each fault hit and how long recovery took."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import httpx

from app.chaos.fault_proxy import Mode
from app.chaos.load import Book
from app.chaos.schedule import WORKERS, Fault
from app.chaos.system import System
from app.chaos.watch import GroupWatch

_AIM_LIMIT_S = 15.0
_AIM_POLL_S = 0.05
_TRIES = 3
_RECOVERY_LIMIT_S = 180.0
_STAGES = ("anomaly", "embed", "llm", "record")


@dataclass(slots=True)
class Damage:
    """What was done: faults by kind and target, those that hit work in flight, recovery times."""

    done: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    kill_hits: Counter[str] = field(default_factory=Counter)
    recovery_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    never_recovered: list[str] = field(default_factory=list)

    def note(self, fault: Fault, *, hit: bool) -> None:
        """Count a fault that was carried out."""
        role = fault.target.partition("-")[0] if fault.target.startswith("broker") else fault.target
        kind = f"{fault.action} {fault.detail}".strip() if fault.detail else fault.action
        name = f"{kind} {role}"
        self.done[name] += 1
        self.hits[name] += hit
        if fault.action == "kill":
            self.kills[role] += 1
            self.kill_hits[role] += hit


@dataclass(slots=True)
class Striker:
    """Hands out the faults of a schedule; `heal` ends all that still last."""

    system: System
    book: Book
    groups: GroupWatch
    damage: Damage = field(default_factory=Damage)
    on_fault: Callable[[Fault, bool], None] = lambda _fault, _hit: None
    _frozen: set[int] = field(default_factory=set)
    _strikes: Counter[str] = field(default_factory=Counter)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self, faults: Sequence[Fault], began_s: float) -> None:
        """Carry all out; times count from the monotonic `began_s`."""
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                await asyncio.sleep(max(0.0, began_s + fault.at_s - time.monotonic()))
                group.create_task(self._strike(fault))

    async def heal(self) -> None:
        """Undo whatever lasts: connections pass, frozen processes go on, dead servers start."""
        for proxy in self.system.proxies.values():
            await proxy.turn("pass")
        self.system.llm.mode = "answer"
        for pid in self._frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    async def recovered(self) -> None:
        """Wait until everything that was killed works again, or was given up."""
        await asyncio.gather(*self._tasks)

    # -- one fault -------------------------------------------------------------------------
    async def _strike(self, fault: Fault) -> None:
        if fault.action == "connection":
            await self._disturb(fault)
        elif fault.action == "llm":
            await self._confuse(fault)
        elif fault.target in WORKERS:
            await self._strike_worker(fault)
        else:
            await self._kill_server(fault)

    async def _disturb(self, fault: Fault) -> None:
        proxy = self.system.proxies[fault.target]
        mode = cast("Mode", fault.detail)
        before = proxy.hits[mode]
        await proxy.turn(mode)
        await asyncio.sleep(fault.lasts_s)
        # Another fault may have turned it meanwhile: that one ends it.
        if proxy.mode == mode:
            await proxy.turn("pass")
        self._note(fault, hit=proxy.hits[mode] > before)

    async def _confuse(self, fault: Fault) -> None:
        llm = self.system.llm
        asked = len(llm.asked)
        llm.mode = fault.detail  # type: ignore[assignment] # schedule.LLM_MODES are modes of it
        await asyncio.sleep(fault.lasts_s)
        if llm.mode == fault.detail:
            llm.mode = "answer"
        self._note(fault, hit=len(llm.asked) > asked)

    async def _strike_worker(self, fault: Fault) -> None:
        role = fault.target
        if fault.action == "freeze":
            await self._freeze(fault, await self._process_of(role))
            return
        for _ in range(_TRIES if fault.action == "kill" else 1):
            if fault.action == "kill":
                process, hit = await self._kill_at_work(role)
            else:
                process = await self._process_of(role)
                hit = await self._is_busy(role)
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
            former, began = process.pid, time.monotonic()
            await process.wait()
            self._note(fault, hit=hit)
            recovery = self._time_recovery(role, began, partial(self._is_ready, role, former))
            if hit:
                return
            # A kill between two pieces of work proves little: once more, when it works again.
            await recovery

    async def _kill_at_work(self, role: str) -> tuple[asyncio.subprocess.Process, bool]:
        """SIGKILL a worker, if possible while it has work that is not committed."""
        deadline = time.monotonic() + _AIM_LIMIT_S
        while True:
            process = await self._process_of(role)
            hit = False
            if await self._is_busy(role):
                # Stopped for a moment, so that what was seen is still so when it dies.
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGSTOP)
                hit = await self._is_busy(role)
            if hit or time.monotonic() > deadline:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                return process, hit
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
            await asyncio.sleep(_AIM_POLL_S)

    async def _freeze(self, fault: Fault, process: asyncio.subprocess.Process) -> None:
        self._frozen.add(process.pid)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGSTOP)
        hit = await self._is_busy(fault.target)
        await asyncio.sleep(fault.lasts_s)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
        self._note(fault, hit=hit)

    async def _kill_server(self, fault: Fault) -> None:
        name = fault.target
        hit = self.book.in_flight > 0 or any([await self._is_busy(stage) for stage in _STAGES])
        began = time.monotonic()
        if name.startswith("broker"):
            number = int(name.rpartition("-")[2])
            self.system.broker.kill_node(number)
            await asyncio.sleep(fault.lasts_s)
            await self.system.broker.start_node(number)
            self._time_recovery("broker", began, self._is_whole)
        else:
            server = self.system.servers[name]
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(fault.lasts_s)
            await asyncio.to_thread(server.start)
            self.damage.recovery_s[name].append(time.monotonic() - began)
        self._note(fault, hit=hit)

    # -- what is going on ------------------------------------------------------------------
    async def _is_busy(self, role: str) -> bool:
        if role == "web":
            return self.book.in_flight > 0
        return bool(await self.groups.lag(role))

    async def _process_of(self, role: str) -> asyncio.subprocess.Process:
        """Return the process of a role, the next one where it is just being started again."""
        child = self.system.running.supervisor.children[role]
        while child.process is None or child.process.returncode is not None:  # noqa: ASYNC110 - no event
            await asyncio.sleep(_AIM_POLL_S)
        return child.process

    async def _is_ready(self, role: str, former_pid: int) -> bool:
        child = self.system.running.supervisor.children[role]
        if child.process is None or child.process.pid == former_pid:
            return False
        state = self.system.direct.state_dir
        try:
            note = json.loads((state / "roles" / f"{role}.json").read_text("utf-8"))
            async with httpx.AsyncClient(timeout=2, trust_env=False) as http:
                return (await http.get(f"{note['health_url']}/ready")).status_code == 200
        except (OSError, ValueError, httpx.TransportError):
            return False

    async def _is_whole(self) -> bool:
        """Whether every node is registered again."""
        return self.system.broker.not_ready() == [] and await self.groups.ends() is not None

    def _time_recovery(
        self, role: str, began: float, is_well: Callable[[], Awaitable[bool]]
    ) -> asyncio.Task[None]:
        self._strikes[role] += 1
        strike = self._strikes[role]

        async def wait() -> None:
            while not await is_well():
                if self._strikes[role] != strike:
                    return  # hit again before it was back: the last strike counts
                if time.monotonic() - began > _RECOVERY_LIMIT_S:
                    self.damage.never_recovered.append(role)
                    return
                await asyncio.sleep(0.1)
            self.damage.recovery_s[role].append(time.monotonic() - began)

        task = asyncio.create_task(wait())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _note(self, fault: Fault, *, hit: bool) -> None:
        self.damage.note(fault, hit=hit)
        self.on_fault(fault, hit)
