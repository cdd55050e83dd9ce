from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest

from pipeline.errors import DependencyDownError, PoisonError, TransientError
from producers.ingest import Capture
from producers.relay import Relay
from schemas.message import Message, Position
from tests.ingest_rig import IngestRig, picture


@asynccontextmanager
async def running(relay: Relay) -> AsyncIterator[None]:
    task = asyncio.create_task(relay.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def rig() -> IngestRig:
    return IngestRig()


async def upload(rig: IngestRig, count: int) -> None:
    for number in range(count):
        await rig.ingest().accept(picture(number), Capture(product="bearing", station="S-1"))


async def until_published(rig: IngestRig, count: int) -> None:
    async with asyncio.timeout(5):
        while len(rig.published()) < count or await rig.outbox.pending(1):  # noqa: ASYNC110 - polls a fake
            await asyncio.sleep(0.005)


async def test_rows_are_published_in_order_once_and_marked(rig: IngestRig) -> None:
    await upload(rig, 7)
    waiting = [row.message.value for row in await rig.outbox.pending(100)]
    relay = Relay(rig.outbox, rig.broker, clock=rig.clock, batch=3)
    async with running(relay):
        await until_published(rig, 7)
    assert [record.value for record in rig.broker.records("images.uploaded")] == waiting
    assert relay.not_ready() == []


async def test_a_wake_up_publishes_at_once_and_the_poll_finds_rows_of_other_processes(
    rig: IngestRig,
) -> None:
    relay = Relay(rig.outbox, rig.broker, clock=rig.clock, poll_s=60)
    async with running(relay):
        await asyncio.sleep(0)
        await upload(rig, 1)
        relay.wake()
        await until_published(rig, 1)
    async with running(Relay(rig.outbox, rig.broker, clock=rig.clock, poll_s=0.01)):
        await asyncio.sleep(0)
        await rig.ingest().accept(picture(99), Capture(product="bearing"))
        await until_published(rig, 2)


async def test_two_relays_at_once_publish_nothing_twice(rig: IngestRig) -> None:
    await upload(rig, 20)
    one = Relay(rig.outbox, rig.broker, clock=rig.clock, batch=2, poll_s=0.01)
    two = Relay(rig.outbox, rig.broker, clock=rig.clock, batch=2, poll_s=0.01)
    async with running(one), running(two):
        await until_published(rig, 20)
    ids = [event.event_id for event in rig.published()]
    assert len(ids) == len(set(ids)) == 20


async def test_a_broker_outage_is_told_and_loses_nothing(
    rig: IngestRig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "producers.relay")
    await upload(rig, 3)
    rig.broker.is_down = True
    relay = Relay(rig.outbox, rig.broker, clock=rig.clock)
    async with running(relay):
        await rig.clock.advance(10)
        assert "outbox" in relay.not_ready()[0]
        assert rig.published() == []
        rig.broker.is_down = False
        await rig.clock.advance(10)
        await until_published(rig, 3)
        assert relay.not_ready() == []
    # Not with every try: an outage may last for hours.
    told = [(record.action, getattr(record, "reason", "")) for record in caplog.records]  # type: ignore[attr-defined]  # from `extra`
    assert [action for action, _ in told] == ["relay_waits", "relay_goes_on"]
    assert "down" in told[0][1]


async def test_later_rows_never_overtake_a_batch_that_failed(rig: IngestRig) -> None:
    class HalfWritten:
        """Writes the first message of a batch, then fails, as a broker that dies does."""

        failures = 3

        async def publish(self, messages: Sequence[Message]) -> Sequence[Position]:
            if self.failures:
                self.failures -= 1
                await rig.broker.publish(messages[:1])
                raise TransientError("outcome unknown")
            return await rig.broker.publish(messages)

    await upload(rig, 4)
    order = [row.message.value for row in await rig.outbox.pending(100)]
    async with running(Relay(rig.outbox, HalfWritten(), clock=rig.clock, batch=2)):
        await rig.clock.advance(30)
        async with asyncio.timeout(5):
            while await rig.outbox.pending(1):  # noqa: ASYNC110 - polls a fake
                await asyncio.sleep(0.005)
    seen = [record.value for record in rig.broker.records("images.uploaded")]
    assert list(dict.fromkeys(seen)) == order


async def test_a_message_that_can_never_be_published_is_set_aside_and_the_others_keep_their_order(
    rig: IngestRig, caplog: pytest.LogCaptureFixture
) -> None:
    await upload(rig, 6)
    waiting = await rig.outbox.pending(100)
    poison = waiting[2]

    class Strict:
        """Publishes nothing of a batch that holds the one, as a sink that checks sizes does."""

        async def publish(self, messages: Sequence[Message]) -> Sequence[Position]:
            if poison.message in messages:
                raise PoisonError("message_too_large", "1,100,000 bytes")
            return await rig.broker.publish(messages)

    relay = Relay(rig.outbox, Strict(), clock=rig.clock, batch=4, poll_s=0.01)
    async with running(relay):
        await until_published(rig, 5)
        await upload_one_more(rig)
        await until_published(rig, 6)
    seen = [record.value for record in rig.broker.records("images.uploaded")]
    assert seen[:5] == [row.message.value for row in waiting if row is not poison]
    assert rig.outbox.refused == {poison.row_id: "message_too_large: 1,100,000 bytes"}
    assert [getattr(record, "action", None) for record in caplog.records] == ["outbox_row_refused"]
    assert relay.not_ready() == []


async def upload_one_more(rig: IngestRig) -> None:
    await rig.ingest().accept(picture(99), Capture(product="bearing"))


async def test_a_database_outage_gives_the_lease_up_and_takes_it_again(
    rig: IngestRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await upload(rig, 1)
    original, failures = rig.outbox.pending, [DependencyDownError("database", "away")] * 2

    async def pending(limit: int) -> object:
        if failures:
            raise failures.pop()
        return await original(limit)

    monkeypatch.setattr(rig.outbox, "pending", pending)
    async with running(Relay(rig.outbox, rig.broker, clock=rig.clock)):
        await rig.clock.advance(10)
        assert len(rig.published()) == 1


async def test_a_relay_that_lost_its_lease_sends_nothing_more(rig: IngestRig) -> None:
    await upload(rig, 6)
    sent: list[int] = []

    class Slow:
        """Loses the lease while the first batch is on its way."""

        async def publish(self, messages: Sequence[Message]) -> Sequence[Position]:
            sent.append(len(messages))
            rig.outbox.relay_lease.is_lost = True
            return await rig.broker.publish(messages)

    relay = Relay(rig.outbox, Slow(), clock=rig.clock, batch=2)
    async with running(relay):
        await rig.clock.advance(20)
        assert sent == [2]
        assert "lease" in relay.not_ready()[0]
        rig.outbox.relay_lease.is_lost = False
        await rig.clock.advance(20)
        assert sent[:2] == [2, 2]


async def test_a_relay_keeps_out_its_predecessors_before_it_sends_and_does_so_every_day(
    rig: IngestRig,
) -> None:
    done: list[str] = []

    class Noted:
        async def publish(self, messages: Sequence[Message]) -> Sequence[Position]:
            done.append("sent")
            return await rig.broker.publish(messages)

    async def take_over() -> None:
        done.append("taken over")
        if len(done) == 1:
            raise DependencyDownError("kafka", "away")

    await upload(rig, 1)
    relay = Relay(rig.outbox, Noted(), clock=rig.clock, poll_s=0.01, take_over=take_over)
    async with running(relay):
        await rig.clock.advance(10)
        await until_published(rig, 1)
        assert done == ["taken over", "taken over", "sent"]
        await rig.clock.advance(86_400)
        await upload(rig, 1)
        async with asyncio.timeout(5):
            while done[3:4] != ["taken over"]:  # noqa: ASYNC110 - polls a fake
                await asyncio.sleep(0.005)


async def test_a_relay_that_waits_for_another_ones_end_is_no_reason_to_be_unready(
    rig: IngestRig,
) -> None:
    await upload(rig, 1)
    rig.broker.is_down = True
    one = Relay(rig.outbox, rig.broker, clock=rig.clock, poll_s=0.01)
    async with running(one):
        await rig.clock.advance(0.01)
        assert "outbox" in one.not_ready()[0]
        # While it pauses, another one takes the lease, and keeps it.
        async with rig.outbox.lease():
            await rig.clock.advance(10)
            assert one.not_ready() == []
        rig.broker.is_down = False
        await until_published(rig, 1)
        assert one.not_ready() == []
