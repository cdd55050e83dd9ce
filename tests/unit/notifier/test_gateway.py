from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from adapters.clock import SystemClock
from notifier.gateway import FeedTimes
from notifier.hub import HubLimits
from notifier.positions import decode_position, encode_position
from schemas.message import Message, TopicPartition
from tests.feed_rig import FeedClient, FeedRig, scored, until, uploaded


@pytest.fixture
async def rig() -> AsyncIterator[FeedRig]:
    made = FeedRig()
    async with made.notifier():
        yield made


async def closing(rig: FeedRig, *first: str | bytes) -> tuple[int, str]:
    async with connect(f"ws://{rig.url}/v1/feed") as socket:
        for message in first:
            await socket.send(message)
        return await read_to_the_end(socket, [])


async def read_to_the_end(socket: ClientConnection, got: list[dict[str, Any]]) -> tuple[int, str]:
    """Collect messages until the server closes; returns its code and reason."""
    try:
        async with asyncio.timeout(10):
            while True:
                got.append(json.loads(await socket.recv()))
    except ConnectionClosed as closed:
        return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")


async def test_a_subscriber_gets_hello_then_events_as_they_lie_on_kafka(rig: FeedRig) -> None:
    async with rig.client() as client:
        assert client.hello["type"] == "hello"
        assert client.hello["recovered"] is True
        assert client.hello["from"] == client.hello["to"]
        event = scored(1, "NG")
        rig.say(event)
        (message,) = await client.events(1)
    assert message["topic"] == "images.scored"
    assert message["event"] == json.loads(event.model_dump_json())
    assert decode_position(message["position"]).cluster_id == "cluster-1"


async def test_filters_are_kept_by_the_server(rig: FeedRig) -> None:
    async with (
        rig.client(verdicts=["NG"]) as bad,
        rig.client(products=["washer"], sources=["cam-2"]) as washers,
        rig.client(topics=["images.uploaded"]) as uploads,
        rig.client(images=[f"{3:032x}"]) as third,
    ):
        ng = rig.say(scored(1, "OK"), scored(2, "NG"))[1:]
        washer = rig.say(scored(3, product="washer", source="cam-2"))
        upload = rig.say(uploaded(4, product="washer"))
        assert await bad.ids(1) == ng
        assert await washers.ids(1) == washer
        assert await uploads.ids(1) == upload
        assert await third.ids(1) == washer


async def test_a_heartbeat_carries_server_time_and_the_position_also_when_nothing_matches(
    rig: FeedRig,
) -> None:
    async with rig.client(products=["none"]) as client:
        rig.say(*(scored(number) for number in range(5)))
        await until(lambda: rig.feed.hub.frontier[TopicPartition("images.scored", 0)] > 0)
        beat = await client.beat()
        assert beat["server_time"].endswith("Z")
        assert beat["broker"] == "up"
        assert beat["position"] == rig.feed.hub.position


async def test_a_client_that_was_away_gets_every_missed_event_once(rig: FeedRig) -> None:
    async with rig.client() as client:
        rig.say(scored(0))
        await client.events(1)
        position = client.position
    missed = rig.say(*(scored(number) for number in range(1, 40)))
    async with rig.client(position) as client:
        assert client.hello["recovered"] is True
        assert client.hello["from"] == position
        got = await client.ids(39)
        after = rig.say(scored(100))
        assert sorted(got) == sorted(missed)
        assert await client.ids(1) == after


async def test_a_notifier_that_was_restarted_serves_old_positions_from_the_log() -> None:
    rig = FeedRig()
    async with rig.notifier(), rig.client() as client:
        rig.say(scored(0))
        await client.events(1)
        position = client.position
    # More than the new notifier reads into its ring.
    missed = rig.say(*(scored(number) for number in range(1, 1500)))
    async with rig.notifier(), rig.client(position) as client:
        assert client.hello["recovered"] is True
        events = await client.events(len(missed))
        got = [message["event"]["event_id"] for message in events]
        assert sorted(got) == sorted(missed)
        for station in range(5):
            numbers = [
                int(message["event"]["subject"]["image_id"], 16)
                for message in events
                if message["event"]["subject"]["station"] == f"S-{station}"
            ]
            assert numbers == sorted(numbers)
        assert await client.ids(0) == []
        after = rig.say(scored(5000))
        assert await client.ids(1) == after


async def test_catching_up_while_events_keep_coming_leaves_no_gap() -> None:
    rig = FeedRig(HubLimits(ring_entries=50))
    rig.say(*(scored(number) for number in range(3000)))
    async with rig.notifier():
        everything = {record.value for record in rig.broker.records("images.scored")}
        stop = asyncio.Event()

        async def line() -> list[str]:
            said: list[str] = []
            while not stop.is_set():
                said += rig.say(scored(len(said)))
                await asyncio.sleep(0.002)
            return said

        producing = asyncio.create_task(line())
        async with rig.client("earliest") as client:
            got = set(await client.ids(3100))
            stop.set()
            said = await producing
            while not set(said) <= got:
                got |= set(await client.ids(1))
        assert len(everything) == 3000
        assert len(got) == 3000 + len(said)


async def test_a_client_whose_reader_of_the_log_stalls_misses_nothing() -> None:
    class FastClock(SystemClock):
        """Seconds pass a hundred times as fast, for those who look whether a reader stalls."""

        def monotonic(self) -> float:
            return 100 * super().monotonic()

    rig = FeedRig(HubLimits(ring_entries=50))
    rig.clock = FastClock()
    said = rig.say(*(scored(number) for number in range(1000)))
    stalled = 0

    async with rig.notifier():
        published = rig.broker.read

        def read(place: TopicPartition, start: int, limit: int) -> list[Any]:
            nonlocal stalled
            if len(rig.broker.readers) == 2 and start > 100 and not stalled:
                stalled += 1
                rig.broker.readers[-1].stall()
            return published(place, start, limit)

        rig.broker.read = read  # type: ignore[method-assign] # to stall it in the middle
        async with rig.client("earliest") as client:
            got = await client.ids(1000)
    assert stalled == 1
    assert sorted(got) == sorted(said)


async def test_a_notifier_is_no_larger_at_its_start_where_the_log_is_longer() -> None:
    """It takes the end of each partition into its ring, enough for who was cut off meanwhile."""
    rig = FeedRig()
    rig.say(*(scored(number) for number in range(1000)))
    ends = {place: rig.broker.end(place) for place in rig.broker.places(("images.scored",))}
    async with rig.notifier():
        hub = rig.feed.hub
        await until(lambda: all(hub.frontier[place] == end for place, end in ends.items()))
        assert hub.covers({place: end - 50 for place, end in ends.items()})
        assert not hub.covers({place: end - 51 for place, end in ends.items()})


async def test_earliest_is_the_whole_log(rig: FeedRig) -> None:
    said = rig.say(*(scored(number) for number in range(30)))
    await until(lambda: sum(rig.feed.hub.frontier.values()) >= 30)
    async with rig.client("earliest") as client:
        assert sorted(await client.ids(30)) == sorted(said)


async def test_a_position_of_another_cluster_is_told_and_news_flow(rig: FeedRig) -> None:
    foreign = encode_position("cluster-0", {TopicPartition("images.scored", 0): 7})
    async with rig.client(foreign) as client:
        assert client.hello["recovered"] is False
        assert client.hello["from"] == client.hello["to"]
        said = rig.say(scored(1))
        assert await client.ids(1) == said


async def test_offsets_that_the_log_has_let_go_of_are_told_with_the_range(rig: FeedRig) -> None:
    rig.say(*(scored(number) for number in range(100)))
    await until(lambda: sum(rig.feed.hub.frontier.values()) >= 100)
    rig.first = 10
    rig.feed.hub.open("cluster-1", (await rig.describe(["images.scored"])).end, {})
    old = encode_position("cluster-1", {TopicPartition("images.scored", 0): 3})
    async with rig.client(old) as client:
        assert client.hello["recovered"] is False
        start = decode_position(client.hello["from"]).offsets
        assert start[TopicPartition("images.scored", 0)] == 10
        left = sum(max(0, len(log) - 10) for log in rig.broker.log("images.scored"))
        assert len(set(await client.ids(left))) == left


@pytest.mark.parametrize(
    ("first", "code", "reason"),
    [
        ("{}", None, None),
        ("no json", 4000, "JSON"),
        ('{"subscribe": {"product": ["x"]}}', 4000, "subscribe.product"),
        ('{"position": "nonsense"}', 4000, "position"),
        (b"\x00\x01", 4000, "text"),
        (None, 4000, "subscribe within"),
    ],
)
async def test_a_first_message_that_means_nothing_is_answered_with_the_reason(
    rig: FeedRig, first: str | bytes | None, code: int | None, reason: str | None
) -> None:
    if code is None:
        async with rig.client() as client:
            assert client.hello["type"] == "hello"
        return
    got = await closing(rig, *([first] if first is not None else []))
    assert got[0] == code
    assert reason is not None
    assert reason in got[1]


async def until_cut_off(rig: FeedRig, good: FeedClient) -> tuple[list[str], list[float]]:
    """Say heavy events until only one client is left; returns ids and the other's delays."""
    said: list[str] = []
    delays: list[float] = []
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(30):
        while rig.feed.hub.clients == 2:
            sent_at = loop.time()
            said += rig.say(scored(1).model_copy(update={"reason": "x" * 20_000}))
            assert await good.ids(1) == said[-1:]
            delays.append(loop.time() - sent_at)
    return said, delays


async def test_a_client_that_does_not_read_is_closed_and_the_others_are_not_delayed() -> None:
    rig = FeedRig(HubLimits(queue_entries=50))
    async with rig.notifier(), rig.client() as good:
        slow = await connect(f"ws://{rig.url}/v1/feed", compression=None, max_queue=1)
        await slow.send('{"subscribe": {}}')
        await until(lambda: rig.feed.hub.clients == 2)
        slow.transport.pause_reading()
        said, delays = await until_cut_off(rig, good)
        assert sorted(delays)[len(delays) // 2] < 0.05
        slow.transport.resume_reading()
        got: list[dict[str, Any]] = []
        code, reason = await read_to_the_end(slow, got)
        assert code == 4008
        assert reason.startswith("slow, resume from")
        # It comes back with the last position it got and misses nothing.
        events = [message for message in got if message["type"] == "event"]
        have = [message["event"]["event_id"] for message in events]
        async with rig.client(events[-1]["position"]) as again:
            have += await again.ids(len(said) - len(have))
        assert have == said


async def test_an_outage_of_the_broker_is_told_and_leaves_no_gap(rig: FeedRig) -> None:
    async with rig.client() as client:
        first = rig.say(scored(1))
        assert await client.ids(1) == first
        rig.broker.is_down = True
        rig.broker.tell_news()
        await until(lambda: rig.feed.is_away)
        assert rig.feed.not_ready()
        while (beat := await client.beat())["broker"] != "away":
            pass
        assert beat["broker_away_since"] <= beat["server_time"]
        second = rig.say(scored(2))
        rig.broker.is_down = False
        assert await client.ids(1) == second
        assert rig.feed.not_ready() == []


async def test_another_log_behind_the_broker_sends_clients_back(rig: FeedRig) -> None:
    async with rig.client() as client:
        rig.cluster_id = "cluster-2"
        rig.broker.is_down = True
        rig.broker.tell_news()
        await until(lambda: rig.feed.is_away)
        rig.broker.is_down = False
        code, _ = await read_to_the_end(client.socket, [])
        assert code == 1012


async def test_a_record_that_is_no_event_is_passed_over(rig: FeedRig) -> None:
    async with rig.client() as client:
        rig.broker.append(Message("images.scored", b"k", b"no json"))
        rig.broker.append(Message("images.scored", b"k", None))
        said = rig.say(scored(1))
        assert await client.ids(1) == said


async def test_server_sent_events_carry_the_same_and_resume_by_last_event_id(
    rig: FeedRig,
) -> None:
    async with httpx.AsyncClient(base_url=f"http://{rig.url}", timeout=10) as http:

        async def read(count: int, headers: dict[str, str], **query: str) -> list[dict[str, str]]:
            got: list[dict[str, str]] = []
            part: dict[str, str] = {}
            async with http.stream(
                "GET", "/v1/feed/stream", params=query, headers=headers
            ) as response:
                assert response.status_code == 200
                assert response.headers["content-type"].startswith("text/event-stream")
                async for line in response.aiter_lines():
                    if line:
                        name, _, value = line.partition(": ")
                        part[name] = value
                        continue
                    if json.loads(part["data"])["type"] == "hello" and "position" not in query:
                        rig.say(scored(1, product="washer"), scored(2))
                    if json.loads(part["data"])["type"] == "event":
                        got.append(part)
                    part = {}
                    if len(got) == count:
                        break
            return got

        (first,) = await read(1, {}, products="bearing")
        message = json.loads(first["data"])
        assert message["event"]["subject"]["image_id"] == f"{2:032x}"
        assert message["position"] == first["id"]
        missed = rig.say(scored(3), scored(4))
        rest = await read(2, {"Last-Event-ID": first["id"]}, products="bearing", position="latest")
        ids = [json.loads(part["data"])["event"]["event_id"] for part in rest]
        assert sorted(ids) == sorted(missed)
        for query in ({"position": "nonsense"}, {"product": "typo"}):
            refused = await http.get("/v1/feed/stream", params=query)
            assert refused.status_code == 422


async def test_a_client_that_leaves_is_forgotten(rig: FeedRig) -> None:
    async with rig.client():
        await until(lambda: rig.feed.hub.clients == 1)
    await until(lambda: rig.feed.hub.clients == 0)


async def test_the_feed_that_has_not_begun_asks_to_come_back() -> None:
    rig = FeedRig(times=FeedTimes(subscribe_within_s=1))
    async with rig.notifier():
        rig.feed.hub.close()
        code, reason = await closing(rig, "{}")
        assert code == 1013
        assert "again" in reason
        async with httpx.AsyncClient(base_url=f"http://{rig.url}") as http:
            refused = await http.get("/v1/feed/stream")
            assert refused.status_code == 503
            assert refused.headers["retry-after"]
