from __future__ import annotations

from adapters.sql.fresh_rows import FreshRows
from pipeline.ports import OutboxRow
from schemas.message import Message


def row(row_id: int, value: bytes = b"{}") -> OutboxRow:
    return OutboxRow(row_id, Message("images.uploaded", b"key", value, ()))


def test_rows_are_given_once_and_only_to_the_relay() -> None:
    fresh = FreshRows()
    fresh.note([row(1)])
    assert not fresh.take(10, 1000)
    with fresh.held():
        fresh.note([row(2), row(3)])
        assert fresh.take(10, 1000) == [row(2), row(3)]
        assert not fresh.take(10, 1000)
        fresh.note([row(4)])
    with fresh.held():
        assert not fresh.take(10, 1000)


def test_a_query_that_was_faster_than_the_append_s_own_word_counts() -> None:
    fresh = FreshRows()
    with fresh.held():
        fresh.gave([row(1)])
        fresh.note([row(1)])
        assert not fresh.take(10, 1000)
        fresh.note([row(2)])
        fresh.gave([row(2)])
        assert not fresh.take(10, 1000)
        fresh.note([row(3)])
        fresh.gave([])
        assert fresh.take(10, 1000) == [row(3)]


def test_rows_that_were_handed_over_are_not_taken_again() -> None:
    fresh = FreshRows()
    with fresh.held():
        fresh.note([row(1)])
        fresh.take(10, 1000)
        fresh.note([row(1)])
        assert not fresh.take(10, 1000)


def test_what_is_more_than_the_relay_wants_is_left_to_the_table() -> None:
    fresh = FreshRows()
    with fresh.held():
        fresh.note([row(1), row(2)])
        assert not fresh.take(1, 1000)
        fresh.note([row(3, b"12345")])
        assert not fresh.take(10, 4)


def test_a_table_that_was_emptied_counts_from_one_again() -> None:
    fresh = FreshRows()
    with fresh.held():
        fresh.gave([row(100)])
        fresh.note([row(1)])
        assert not fresh.take(10, 1000)  # in doubt the table is asked
        fresh.gave([row(1)])
        fresh.note([row(2)])
        assert fresh.take(10, 1000) == [row(2)]
