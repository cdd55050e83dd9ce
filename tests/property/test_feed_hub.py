"""Whatever happens in whatever order, a client that stays gets everything it wants, in order."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from notifier.hub import Cursor, Entry, Facets, FeedFilter, Hub, HubLimits, Subscriber
from notifier.positions import decode_position
from schemas.message import TopicPartition

PLACES = [TopicPartition("images.scored", number) for number in range(3)]
PRODUCTS = ["bearing", "washer"]


class Client:
    """A client that obeys the protocol: it resumes from the last position it got."""

    def __init__(self, wanted: FeedFilter) -> None:
        self.wanted = wanted
        self.got: dict[TopicPartition, list[int]] = {place: [] for place in PLACES}
        self.resume: dict[TopicPartition, int] = dict.fromkeys(PLACES, 0)
        self.subscriber: Subscriber | None = None
        self.cursor: Cursor | None = Cursor(dict(self.resume))

    def take(self, entries: list[Entry]) -> None:
        for entry in entries:
            self.got[entry.place].append(entry.offset)
            self.resume = decode_position(entry.position).offsets


class FeedMachine(RuleBasedStateMachine):
    """The log is a list per partition; the hub reads it in any interleaving."""

    @initialize(
        entries=st.integers(1, 30), queue=st.integers(1, 8), wanted=st.lists(st.integers(0, 2))
    )
    def begin(self, entries: int, queue: int, wanted: list[int]) -> None:
        self.hub = Hub(HubLimits(ring_entries=entries, queue_entries=queue))
        start = dict.fromkeys(PLACES, 0)
        self.hub.open("cluster", start, start)
        self.log: dict[TopicPartition, list[str]] = {place: [] for place in PLACES}
        filters = [FeedFilter(), FeedFilter(products=frozenset({"bearing"}))]
        self.clients = [Client(filters[index % 2]) for index in wanted] or [Client(FeedFilter())]

    @rule(place=st.sampled_from(PLACES), product=st.sampled_from(PRODUCTS))
    def append(self, place: TopicPartition, product: str) -> None:
        self.log[place].append(product)

    @rule(place=st.sampled_from(PLACES), count=st.integers(1, 10))
    def feed_reads(self, place: TopicPartition, count: int) -> None:
        begin = self.hub.frontier[place]
        for offset in range(begin, min(begin + count, len(self.log[place]))):
            facets = Facets(place.topic, self.log[place][offset])
            self.hub.publish(place, offset, facets, "{}", 0.0)

    @rule(index=st.integers(0, 9), count=st.integers(1, 5))
    def client_works(self, index: int, count: int) -> None:
        client = self.clients[index % len(self.clients)]
        if client.subscriber is not None:
            client.take(client.subscriber.take(count))
            if client.subscriber.slow:
                self.comes_back(client)
        elif client.cursor is not None and self.hub.covers(client.cursor.offsets):
            client.take(self.hub.replay(client.cursor, client.wanted, count))
            if self.hub.is_caught_up(client.cursor):
                client.subscriber = Subscriber(client.wanted, lambda: None)
                self.hub.attach(client.subscriber, client.cursor)
        else:
            self.reads_the_log(client, count)

    @rule(index=st.integers(0, 9), count=st.integers(1, 5))
    def client_reads_ahead_of_the_hub(self, index: int, count: int) -> None:
        client = self.clients[index % len(self.clients)]
        if client.subscriber is None:
            self.reads_the_log(client, count)

    @rule(index=st.integers(0, 9))
    def connection_breaks(self, index: int) -> None:
        self.comes_back(self.clients[index % len(self.clients)])

    def comes_back(self, client: Client) -> None:
        if client.subscriber is not None:
            self.hub.detach(client.subscriber)
        client.subscriber, client.cursor = None, Cursor(dict(client.resume))

    def reads_the_log(self, client: Client, count: int) -> None:
        assert client.cursor is not None
        for place in PLACES:
            begin = client.cursor.offsets[place]
            for offset in range(begin, min(begin + count, len(self.log[place]))):
                client.cursor.offsets[place] = offset + 1
                if client.wanted.matches(Facets(place.topic, self.log[place][offset])):
                    client.got[place].append(offset)
                    client.resume = dict(client.cursor.offsets)

    def wanted_of(self, client: Client, place: TopicPartition) -> list[int]:
        return [
            offset
            for offset, product in enumerate(self.log[place])
            if client.wanted.matches(Facets(place.topic, product))
        ]

    @invariant()
    def nothing_is_missing_and_nothing_is_out_of_order(self) -> None:
        for client in getattr(self, "clients", []):
            for place in PLACES:
                firsts = list(dict.fromkeys(client.got[place]))
                assert firsts == self.wanted_of(client, place)[: len(firsts)]

    def teardown(self) -> None:
        """In the end, when the log rests, everybody has everything."""
        for place in PLACES:
            if getattr(self, "hub", None):
                self.feed_reads(place, 10_000)
        for index, client in enumerate(getattr(self, "clients", [])):
            for _ in range(500):
                self.client_works(index, 5)
            for place in PLACES:
                assert set(client.got[place]) == set(self.wanted_of(client, place))


FeedMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestFeed = FeedMachine.TestCase
