from __future__ import annotations

from typing import Any

import pytest
from aiokafka import errors

from adapters.kafka.shares import Shares


class Client:
    """aiokafka's buffers: `getmany` empties one partition before it looks at the next."""

    def __init__(self, **counts: int) -> None:
        self.buffers = {name: list(range(count)) for name, count in counts.items()}
        self.errors: dict[str, Exception] = {}
        self.calls = 0

    async def getmany(self, *places: str, max_records: int, timeout_ms: int = 0) -> dict[str, Any]:
        assert timeout_ms >= 0
        self.calls += 1
        found: dict[str, Any] = {}
        for place in places:
            if place in self.errors and not found:
                raise self.errors.pop(place)
            rows = self.buffers[place][:max_records]
            if rows:
                del self.buffers[place][: len(rows)]
                found[place] = rows
                max_records -= len(rows)
            if not max_records:
                break
        return found


@pytest.mark.parametrize("size", [1, 2, 5, 90])
async def test_behind_a_backlog_every_partition_gets_its_turn(size: int) -> None:
    client = Client(a=3000, b=3000, c=3000)
    shares = Shares(client)
    taken = dict.fromkeys("abc", 0)
    for _ in range(10 + 300 // size):
        batches = await shares.take("abc", size, 0.1)
        assert sum(map(len, batches.values())) <= size
        for place, rows in batches.items():
            assert rows == list(range(taken[place], taken[place] + len(rows)))
            taken[place] += len(rows)
    assert min(taken.values()) > 0
    assert max(taken.values()) - min(taken.values()) <= size


async def test_everything_is_taken_and_an_idle_consumer_is_asked_once_a_poll() -> None:
    client = Client(a=7, b=100, c=0)
    shares = Shares(client)
    taken = 0
    while batches := await shares.take("abc", 10, 0.1):
        taken += sum(map(len, batches.values()))
    assert taken == 107
    before = client.calls
    assert await shares.take("abc", 10, 0.1) == {}
    assert client.calls == before + 1


async def test_an_error_of_one_partition_loses_nothing_that_another_gave() -> None:
    client = Client(a=4, b=4)
    client.errors["b"] = errors.NoOffsetForPartitionError("b")
    shares = Shares(client)
    assert await shares.take("ab", 2, 0.1) == {"a": [0]}
    with pytest.raises(errors.NoOffsetForPartitionError):
        await shares.take("ab", 2, 0.1)
    assert await shares.take("ab", 2, 0.1) == {"a": [1], "b": [0]}
