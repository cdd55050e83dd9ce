"""A group member that is replaced when it froze, behind the same port as a plain one.

The worker sees one source. When the watchdog has seen enough, the partitions are handed over as in
a revoke, the client is closed, and a new one joins; when new ones freeze as well, reading ends in a
StalledError and whoever runs the process starts it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Self

from pipeline.errors import DependencyDownError, StalledError, TransientError
from pipeline.ports import (
    AssignmentListener,
    Clock,
    Commit,
    EventSource,
    GroupWitness,
    OpenSource,
    WitnessView,
)
from pipeline.telemetry import Telemetry
from pipeline.watchdog import Symptom, Watchdog, WatchPolicy
from schemas.message import Record, TopicPartition

logger = logging.getLogger(__name__)

_NO_MEMBER = "this member left its group; a new one joins"


class GuardedOpenSource:
    """Opens group members that a watchdog looks after (port `OpenSource`)."""

    def __init__(
        self,
        open_source: OpenSource,
        witness: GroupWitness,
        clock: Clock,
        telemetry: Telemetry,
        stage: str,
        policy: WatchPolicy | None = None,
    ) -> None:
        """Guard what `open_source` opens."""
        self._open_source = open_source
        self._witness = witness
        self._clock = clock
        self._telemetry = telemetry
        self._stage = stage
        self._policy = policy or WatchPolicy()

    def __call__(self, listener: AssignmentListener) -> AbstractAsyncContextManager[EventSource]:
        """Open for one listener; a broker that is away is waited for in `poll`."""
        watchdog = Watchdog(self._policy, self._clock.monotonic())
        look = _Look(self._witness, watchdog, self._clock)
        return GuardedSource(self, listener, watchdog, look)

    def open_member(self, listener: AssignmentListener) -> AbstractAsyncContextManager[EventSource]:
        """Open a plain member."""
        return self._open_source(listener)

    def monotonic(self) -> float:
        """Seconds, for intervals."""
        return self._clock.monotonic()

    def note_rebuild(self, symptom: Symptom) -> None:
        """Say and count that a member is replaced."""
        logger.warning(
            "group member is frozen, a new one joins",
            extra={
                "action": "member_rebuilt", "stage": self._stage,
                "reason": symptom.slug, "error": symptom.sentence,
            },
        )  # fmt: skip
        self._telemetry.count("member_rebuilds", stage=self._stage, reason=symptom.slug)


class GuardedSource:
    """One member at a time (port `EventSource`)."""

    def __init__(
        self,
        opening: GuardedOpenSource,
        listener: AssignmentListener,
        watchdog: Watchdog,
        look: _Look,
    ) -> None:
        """Use `GuardedOpenSource`."""
        self._opening = opening
        self._listener = listener
        self._watchdog = watchdog
        self._look = look
        self._member: EventSource | None = None
        self._ear: _Ear | None = None
        self._stack = AsyncExitStack()
        self._paused: set[TopicPartition] = set()

    async def __aenter__(self) -> Self:
        """Join, unless the broker is away."""
        with contextlib.suppress(DependencyDownError):
            await self._join()
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the group."""
        self._look.cancel()
        await self._leave()

    async def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        """Return records, as a plain member does; replaces a frozen one.

        Raises:
            DependencyDownError: the broker is away; call again.
            StalledError: new members froze as well, or this one cannot go on.
        """
        if self._member is None:
            await self._join_again()
            return ()
        began = self._opening.monotonic()
        try:
            records = await self._member.poll(max_records, timeout_s)
            self._watchdog.polled(self._opening.monotonic() - began)
        except DependencyDownError:
            # A frozen connection looks so from inside; the witness knows better.
            self._watchdog.polled(self._opening.monotonic() - began)
            await self._judge()
            raise
        await self._judge()
        return records

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        """Return nothing of these until `resume`, also from the next member."""
        self._paused |= set(partitions)
        self._watchdog.pauses(self._paused)
        if self._member is not None:
            self._member.pause(partitions)

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        """Undo `pause`."""
        self._paused -= set(partitions)
        self._watchdog.pauses(self._paused)
        if self._member is not None:
            self._member.resume(partitions)

    async def commit(self, offsets: Mapping[TopicPartition, Commit]) -> None:
        """Commit explicit positions through the present member.

        Raises:
            TransientError: the group has moved on, or the broker is away.
        """
        if self._member is None:
            raise TransientError(_NO_MEMBER)
        self._watchdog.committing(self._opening.monotonic())
        try:
            await self._member.commit(offsets)
        except DependencyDownError:
            raise
        except TransientError:
            self._watchdog.committed()
            raise
        self._watchdog.committed()

    async def end_offsets(self) -> Mapping[TopicPartition, int]:
        """Next offset to be written of each partition read.

        Raises:
            DependencyDownError: the broker is away.
        """
        if self._member is None:
            raise DependencyDownError("kafka", _NO_MEMBER)
        return await self._member.end_offsets()

    async def _judge(self) -> None:
        symptom = self._look.result(self._member)
        if symptom is not None:
            await self._replace(symptom)

    async def _replace(self, symptom: Symptom) -> None:
        """Give the present member up.

        Raises:
            StalledError: it was one too many.
        """
        if self._watchdog.is_at_its_end:
            raise StalledError(
                f"this group member froze ({symptom.sentence}), and so did the ones before it; "
                "the process ends so that a new one can try, nothing is lost"
            )
        self._opening.note_rebuild(symptom)
        await self._leave(in_order=True)
        self._watchdog.rebuilt(self._opening.monotonic())

    async def _join_again(self) -> None:
        """Open a member once the broker answers: a client that begins before takes long to fail."""
        symptom = await self._look.at_once()
        if symptom is not None:
            await self._replace(symptom)
        else:
            await self._join()

    async def _join(self) -> None:
        self._ear = _Ear(self._listener, self._watchdog)
        member = await self._stack.enter_async_context(self._opening.open_member(self._ear))
        self._member = member
        if self._paused:
            member.pause(self._paused)

    async def _leave(self, *, in_order: bool = False) -> None:
        """Close the present member; `in_order` hands its partitions over first."""
        self._look.cancel()
        ear, self._ear = self._ear, None
        if ear is not None:
            ear.is_deaf = True
            if in_order and ear.owned:
                await self._listener.revoked(list(ear.owned))
        self._member = None
        stack, self._stack = self._stack, AsyncExitStack()
        await stack.aclose()


class _Ear:
    """Passes on what one member hears of its partitions, until that member is given up."""

    def __init__(self, listener: AssignmentListener, watchdog: Watchdog) -> None:
        self._listener = listener
        self._watchdog = watchdog
        self.owned: set[TopicPartition] = set()
        self.is_deaf = False

    async def assigned(self, partitions: Mapping[TopicPartition, Commit | None]) -> None:
        if self.is_deaf:
            return
        await self._listener.assigned(partitions)
        self.owned = set(partitions)
        self._watchdog.owns(self.owned)

    async def revoked(self, partitions: Collection[TopicPartition]) -> None:
        if self.is_deaf:
            return
        await self._listener.revoked(partitions)
        self.owned -= set(partitions)
        self._watchdog.owns(self.owned)


class _Look:
    """Asks the witness beside the polls, one question at a time."""

    def __init__(self, witness: GroupWitness, watchdog: Watchdog, clock: Clock) -> None:
        self._witness = witness
        self._watchdog = watchdog
        self._clock = clock
        self._asking: asyncio.Task[WitnessView] | None = None

    def result(self, member: EventSource | None) -> Symptom | None:
        """Judge by the last look, if it has ended; begin another when it is time."""
        now = self._clock.monotonic()
        if self._asking is None:
            if self._watchdog.wants_look(now):
                self._watchdog.looked(now)
                self._asking = asyncio.create_task(_seen(self._witness, member))
            return None
        if not self._asking.done():
            return None
        asked, self._asking = self._asking, None
        try:
            return self._watchdog.judge(asked.result(), now)
        except DependencyDownError:
            self._watchdog.away()
        except (Exception, asyncio.CancelledError):
            # Whatever ails the one who looked, the member may be well and has work to do; a client
            # may also have been cancelled by its own library.
            logger.exception("group member cannot be looked at", extra={"action": "witness_failed"})
            self._watchdog.away()
        return None

    async def at_once(self) -> Symptom | None:
        """Ask without a member, and wait for the answer.

        Raises:
            DependencyDownError: the broker is away, or takes connections and says nothing yet.
        """
        try:
            view = await self._witness(None)
        except DependencyDownError:
            self._watchdog.away()
            raise
        symptom = self._watchdog.judge(view, self._clock.monotonic())
        if symptom is None and not view.answers:
            raise DependencyDownError("kafka", "the broker takes connections and answers none")
        return symptom

    def cancel(self) -> None:
        """Forget a question: it was about a member that is gone."""
        if self._asking is not None:
            self._asking.cancel()
            self._asking.add_done_callback(_look_at)
            self._asking = None


async def _seen(witness: GroupWitness, member: EventSource | None) -> WitnessView:
    return await witness(member)


def _look_at(task: asyncio.Task[WitnessView]) -> None:
    """Take note of an outcome that nobody waits for any more."""
    if not task.cancelled():
        task.exception()
