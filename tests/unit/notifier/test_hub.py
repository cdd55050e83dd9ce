from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from notifier.hub import Cursor, Facets, FeedFilter, Hub, HubLimits, Subscriber
from notifier.positions import decode_position, encode_position
from schemas.message import TopicPartition

PLACE = TopicPartition("images.scored", 0)
OTHER = TopicPartition("images.scored", 1)


def hub(**limits: float) -> Hub:
    made = Hub(HubLimits(**limits))  # type: ignore[arg-type] # int or float by name
    made.open("cluster", {PLACE: 0, OTHER: 0}, {PLACE: 0, OTHER: 0})
    return made


def say(hub: Hub, offset: int, *, place: TopicPartition = PLACE, now_s: float = 0.0) -> None:
    facets = Facets(place.topic, "bearing", "cam-1", "NG", f"{offset:032x}")
    hub.publish(place, offset, facets, f'{{"n":{offset}}}', now_s)


def live(hub: Hub, **wanted: frozenset[str]) -> Subscriber:
    subscriber = Subscriber(FeedFilter(**wanted), lambda: None)
    hub.attach(subscriber, Cursor(hub.latest()))
    return subscriber


def numbers(subscriber: Subscriber) -> list[int]:
    return [json.loads(entry.text)["event"]["n"] for entry in subscriber.take(10_000)]


def test_a_message_is_what_the_interface_says() -> None:
    feed = hub()
    subscriber = live(feed)
    say(feed, 0)
    (entry,) = subscriber.take()
    message = json.loads(entry.text)
    assert message == {
        "type": "event",
        "topic": "images.scored",
        "position": entry.position,
        "event": {"n": 0},
    }
    assert decode_position(entry.position).offsets[PLACE] == 1
    assert entry.sse == f"id: {entry.position}\ndata: {entry.text}\n\n".encode()


def test_all_clients_share_one_text() -> None:
    feed = hub()
    clients = [live(feed) for _ in range(3)]
    say(feed, 0)
    texts = [client.take()[0].text for client in clients]
    assert all(text is texts[0] for text in texts)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, True),
        ({"products": ["bearing"]}, True),
        ({"products": ["washer"]}, False),
        ({"verdicts": ["NG", "REVIEW"], "sources": ["cam-1"]}, True),
        ({"verdicts": ["OK"], "sources": ["cam-1"]}, False),
        ({"topics": ["images.scored"]}, True),
        ({"images": ["0" * 32]}, True),
        ({"images": ["1" * 32]}, False),
    ],
)
def test_every_list_that_is_given_must_match(
    wanted: dict[str, list[str]], *, expected: bool
) -> None:
    feed = hub()
    subscriber = Subscriber(FeedFilter.model_validate(wanted), lambda: None)
    feed.attach(subscriber, Cursor(feed.latest()))
    say(feed, 0)
    assert bool(subscriber.take()) is expected


def test_an_event_without_a_verdict_does_not_match_a_list_of_verdicts() -> None:
    wanted = FeedFilter(verdicts=frozenset({"NG"}))
    assert not wanted.matches(Facets("images.uploaded", "bearing", "cam-1"))


def test_an_unknown_filter_is_refused_and_not_ignored() -> None:
    with pytest.raises(ValidationError):
        FeedFilter.model_validate({"product": ["bearing"]})


def test_a_slow_client_is_cut_off_and_the_others_get_everything() -> None:
    feed = hub(queue_entries=5)
    slow, fast, got = live(feed), live(feed), []
    for offset in range(20):
        say(feed, offset)
        got += numbers(fast)
    assert slow.slow
    assert slow.take() == []
    assert got == list(range(20))
    assert feed.clients == 1


def test_a_client_whose_oldest_event_waits_too_long_is_slow() -> None:
    feed = hub(queue_age_s=10)
    subscriber = live(feed)
    say(feed, 0, now_s=0)
    say(feed, 1, now_s=9)
    assert not subscriber.slow
    say(feed, 2, now_s=11)
    assert subscriber.slow


def test_a_client_with_too_many_characters_waiting_is_slow() -> None:
    feed = hub(queue_chars=500)
    subscriber = live(feed)
    for offset in range(5):
        say(feed, offset)
    assert subscriber.slow


def test_the_ring_serves_what_it_holds_and_knows_what_it_does_not() -> None:
    feed = hub(ring_entries=10)
    for offset in range(25):
        say(feed, offset)
    assert not feed.covers({PLACE: 14, OTHER: 0})
    assert feed.covers({PLACE: 15, OTHER: 0})
    cursor = Cursor({PLACE: 20, OTHER: 0})
    entries = feed.replay(cursor, FeedFilter())
    assert [entry.offset for entry in entries] == [20, 21, 22, 23, 24]
    assert feed.is_caught_up(cursor)


def test_old_entries_leave_the_ring_by_age_and_by_size() -> None:
    aged = hub(ring_s=60)
    say(aged, 0, now_s=0)
    say(aged, 1, now_s=61)
    assert not aged.covers({PLACE: 0, OTHER: 0})
    heavy = hub(ring_chars=400)
    for offset in range(10):
        say(heavy, offset)
    assert not heavy.covers({PLACE: 5, OTHER: 0})


def test_replay_in_pieces_and_then_live_has_no_gap_and_no_double() -> None:
    feed = hub()
    for offset in range(10):
        say(feed, offset)
    cursor, got = Cursor({PLACE: 3, OTHER: 0}), []
    subscriber = Subscriber(FeedFilter(), lambda: None)
    while not feed.is_caught_up(cursor):
        got += [entry.offset for entry in feed.replay(cursor, FeedFilter(), 3)]
        if len(got) < 6:
            say(feed, max(10, feed.frontier[PLACE]))
    feed.attach(subscriber, cursor)
    for offset in range(feed.frontier[PLACE], 15):
        say(feed, offset)
    got += [entry.offset for entry in subscriber.take()]
    assert got == list(range(3, 15))


def test_what_a_client_read_ahead_from_the_log_does_not_come_again() -> None:
    feed = hub()
    subscriber = Subscriber(FeedFilter(), lambda: None)
    feed.attach(subscriber, Cursor({PLACE: 3, OTHER: 0}))
    for offset in range(5):
        say(feed, offset)
        say(feed, offset, place=OTHER)
    entries = subscriber.take()
    assert [entry.offset for entry in entries if entry.place == PLACE] == [3, 4]
    assert [entry.offset for entry in entries if entry.place == OTHER] == [0, 1, 2, 3, 4]


def test_a_new_log_sends_everybody_back_to_subscribe() -> None:
    feed = hub()
    subscriber = live(feed)
    generation = feed.generation
    feed.open("another", {PLACE: 0}, {PLACE: 0})
    assert subscriber.reset
    assert feed.generation != generation
    assert feed.clients == 0


def test_records_read_again_after_a_reconnect_are_told_once() -> None:
    feed = hub()
    subscriber = live(feed)
    for offset in (0, 1, 0, 1, 2):
        say(feed, offset)
    assert numbers(subscriber) == [0, 1, 2]


def test_a_position_survives_the_way_through_a_client() -> None:
    offsets = {TopicPartition("a", 0): 5, TopicPartition("a", 2): 7, TopicPartition("b", 1): 0}
    text = encode_position("4L6g3nShT-eMCtK--X86sw", offsets)
    assert text.isascii()
    assert decode_position(text) == ("4L6g3nShT-eMCtK--X86sw", offsets)


@pytest.mark.parametrize("text", ["", "latest!", "e30", "eyJjIjoxfQ", "AAAA", "가", "x" * 200_000])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="position"):
        decode_position(text)
