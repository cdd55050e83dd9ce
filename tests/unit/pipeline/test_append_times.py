"""How old the oldest unsettled record is, and what it costs to know."""

from __future__ import annotations

from pipeline.journal import Journal
from pipeline.work import Partition
from schemas.message import Record, TopicPartition

PLACE = TopicPartition("images.uploaded", 0)


def _admit(partition: Partition, offset: int, second: int) -> None:
    assert partition.admit(Record(*PLACE, offset, None, b"", (), 1000 * second)) is not None


def test_a_partition_that_keeps_up_remembers_no_more_after_a_year_than_after_a_minute() -> None:
    partition = Partition(PLACE, None, Journal())
    sizes = set()
    for offset in range(10_000, 12_000):
        _admit(partition, offset, offset)
        partition.tracker.finish(offset)
        sizes.add(len(partition._appended))
    assert len(sizes) == 1


def test_the_age_is_that_of_the_lowest_unsettled_record() -> None:
    partition = Partition(PLACE, None, Journal())
    for offset in range(5):
        _admit(partition, offset, 10 + offset)
    assert partition.oldest_ms == 10_000
    for offset in (0, 1, 3):
        partition.tracker.finish(offset)
    assert partition.oldest_ms == 12_000
    for offset in (2, 4):
        partition.tracker.finish(offset)
    _admit(partition, 5, 14)
    assert partition.oldest_ms == 14_000
