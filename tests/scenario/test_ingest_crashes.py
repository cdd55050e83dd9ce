"""A process that dies anywhere on the way in loses no image and makes none twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from pipeline.errors import PoisonError
from producers.ingest import Capture, Ingest
from producers.relay import Relay
from producers.sweep import Sweep
from tests.ingest_rig import IngestRig, picture


class ProcessDiedError(BaseException):
    """SIGKILL, as far as one process in memory can have it."""


class Dying:
    """A port whose process dies before or after one of its calls."""

    def __init__(self, target: Any, method: str, when: str) -> None:
        self._target, self._method, self._when = target, method, when

    def __getattr__(self, name: str) -> Any:
        found: Callable[..., Any] = getattr(self._target, name)
        if name != self._method:
            return found

        async def call(*args: Any, **kwargs: Any) -> Any:
            if self._when == "before":
                raise ProcessDiedError
            await found(*args, **kwargs)
            raise ProcessDiedError

        return call


STEPS = [
    (port, method, when)
    for port, method in (
        ("outbox", "reserve"),
        ("store", "put"),
        ("outbox", "append"),
        ("sink", "publish"),
        ("outbox", "mark_published"),
    )
    for when in ("before", "after")
]
CAPTURE = Capture(product="bearing", part_id="P-1", idempotency_key="shot-1")


async def relay_everything(rig: IngestRig, outbox: Any, sink: Any) -> None:
    task = asyncio.create_task(Relay(outbox, sink, clock=rig.clock).run())
    try:
        async with asyncio.timeout(5):
            while not task.done() and await rig.outbox.pending(1):  # noqa: ASYNC110 - polls a fake
                await asyncio.sleep(0.002)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, ProcessDiedError):
            await task


async def one_life(rig: IngestRig, port: str, method: str, when: str) -> bool:
    """Run one process until it dies; returns whether the sender got its 202."""
    ports = rig.ports()
    outbox: Any = Dying(rig.outbox, method, when) if port == "outbox" else rig.outbox
    store: Any = Dying(rig.objects, method, when) if port == "store" else rig.objects
    sink: Any = Dying(rig.broker, method, when) if port == "sink" else rig.broker
    try:
        await Ingest(replace(ports, outbox=outbox, store=store)).accept(picture(), CAPTURE)
    except ProcessDiedError:
        return False
    await relay_everything(rig, outbox, sink)
    return True


async def next_life(rig: IngestRig) -> None:
    """Sweep and relay, as the process that starts afterwards does."""
    await rig.clock.advance(600)
    await Sweep(rig.objects, rig.outbox, rig.outbox, clock=rig.clock).sweep_once()
    await relay_everything(rig, rig.outbox, rig.broker)


@pytest.mark.parametrize(("port", "method", "when"), STEPS)
async def test_the_sender_tries_again_and_there_is_exactly_one_image(
    port: str, method: str, when: str
) -> None:
    rig = IngestRig()
    was_answered = await one_life(rig, port, method, when)
    if not was_answered:
        await rig.ingest().accept(picture(), CAPTURE)
    await next_life(rig)
    assert len({event.event_id for event in rig.published()}) == 1
    assert [row.state for row in rig.tables.images.values()] == ["accepted"]
    assert len(rig.objects.keys()) == 1


@pytest.mark.parametrize(("port", "method", "when"), STEPS)
async def test_without_another_try_the_image_is_whole_or_was_never_promised(
    port: str, method: str, when: str
) -> None:
    rig = IngestRig()
    was_answered = await one_life(rig, port, method, when)
    await next_life(rig)
    events = {event.event_id for event in rig.published()}
    rows = [row.state for row in rig.tables.images.values()]
    # Nothing may hang in between: either all of it is there, or no trace of a row.
    assert (len(events), rows) in ((1, ["accepted"]), (0, []))
    if was_answered:
        assert len(events) == 1


async def test_bytes_that_were_stored_before_the_crash_are_mended_by_the_sweep() -> None:
    rig = IngestRig()
    assert not await one_life(rig, "outbox", "append", "before")
    assert await rig.outbox.pending(10) == []
    await next_life(rig)
    assert len(rig.published()) == 1
    answer = await rig.ingest().accept(picture(), CAPTURE)
    assert answer.duplicate


async def test_wrong_bytes_under_the_key_are_never_accepted_and_never_deleted() -> None:
    rig = IngestRig()
    assert not await one_life(rig, "outbox", "append", "before")
    (key,) = rig.objects.keys()
    rig.objects.corrupt(key, b"other bytes")
    await next_life(rig)
    assert rig.published() == []
    assert rig.tables.images == {}
    assert await rig.objects.get(key) == b"other bytes"
    await rig.ingest().accept(picture(), CAPTURE)
    assert await rig.objects.get(key) == picture()


async def test_the_sweep_leaves_young_uploads_and_the_store_alone() -> None:
    rig = IngestRig()
    assert not await one_life(rig, "outbox", "reserve", "after")
    sweep = Sweep(rig.objects, rig.outbox, rig.outbox, clock=rig.clock)
    assert await sweep.sweep_once() == 0
    rig.objects.fail("get", PoisonError("object_missing"))
    await rig.clock.advance(600)
    assert await sweep.sweep_once() == 1
    assert rig.tables.images == {}
    assert {operation for operation, _ in rig.objects.calls} <= {"get", "stat", "put"}
