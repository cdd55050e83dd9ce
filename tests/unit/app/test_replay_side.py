from __future__ import annotations

from typing import Any, cast

import pytest

from adapters.kafka.admin import KafkaAdmin, LogRange
from adapters.memory.objects import MemoryObjects
from app.replay.side import SideTopics, objects_of
from pipeline.errors import ConfigError, ConflictError, DependencyDownError
from schemas.message import TopicPartition
from schemas.topics import Topic

PLAN = {"stage": "anomaly", "version": {"banks": {"cap": "b1"}}}


class Cluster:
    """Topics by name; the next `slow` creations time out after they were done."""

    def __init__(self, *, slow: int = 0, away: int = 0) -> None:
        self.names = {"images.uploaded"}
        self.slow = slow
        self.away = away

    async def topics(self) -> dict[str, int]:
        return dict.fromkeys(self.names, 3)

    async def create_topic(self, topic: Topic, **_: int) -> None:
        if self.away:
            self.away -= 1
            raise DependencyDownError("kafka", "no answer")
        if topic.name in self.names:
            raise ConflictError
        self.names.add(topic.name)
        if self.slow:
            self.slow -= 1
            raise DependencyDownError("kafka", "no answer")

    async def delete_topic(self, name: str) -> None:
        self.names.discard(name)

    async def log_ranges(self, topics: list[str]) -> dict[TopicPartition, LogRange]:
        return {TopicPartition(topic, 0): LogRange(2, 9) for topic in topics}


def make(cluster: Cluster) -> SideTopics:
    return SideTopics(cast("KafkaAdmin", cluster), MemoryObjects())


async def opened(side: SideTopics, plan: dict[str, Any], *, append: bool = False) -> Any:
    return await side.open("trial", plan, append=append, partitions=3, replication_factor=1)


async def test_a_replay_is_noted_before_it_runs() -> None:
    side = make(Cluster())
    await opened(side, PLAN)
    assert [row | {"created_at": ""} for row in await side.list()] == [
        {"name": "trial", **PLAN, "created_at": "", "runs": [], "records": 7}
    ]


@pytest.mark.parametrize("cluster", [Cluster(slow=1), Cluster(away=2)])
async def test_a_broker_that_is_slow_to_answer_is_asked_again(cluster: Cluster) -> None:
    side = make(cluster)
    assert (await opened(side, PLAN))["name"] == "trial"


async def test_a_broker_that_stays_away_is_said() -> None:
    with pytest.raises(DependencyDownError):
        await opened(make(Cluster(away=9)), PLAN)


async def test_a_name_that_is_taken_is_refused_with_what_to_do() -> None:
    side = make(Cluster())
    await opened(side, PLAN)
    with pytest.raises(ConfigError, match=r"--append.*lineside replay remove trial"):
        await opened(side, PLAN)


async def test_only_the_same_version_is_added_to_a_replay() -> None:
    side = make(Cluster())
    first = await opened(side, PLAN)
    assert await opened(side, PLAN, append=True) == first
    with pytest.raises(ConfigError, match="choose another name"):
        await opened(side, PLAN | {"version": {"banks": {"cap": "b2"}}}, append=True)


async def test_a_replay_whose_making_was_cut_off_can_be_taken_up_and_removed() -> None:
    cluster = Cluster()
    cluster.names.add("replays.trial")
    side = make(cluster)
    assert (await opened(side, PLAN, append=True))["stage"] == "anomaly"
    assert await side.remove("trial", lambda *_: None) == 0
    assert not await side.exists("trial")


async def test_objects_of_a_replay_are_removed_with_the_note_last() -> None:
    side = make(Cluster())
    await opened(side, PLAN)
    store = cast("MemoryObjects", side.store)
    for key in ("heatmaps/1.png", "zz.png"):
        await store.put(objects_of("trial") + key, b"1", content_type="image/png")
    await store.put("replays/trial-2/heatmaps/1.png", b"1", content_type="image/png")
    told: list[tuple[int, int]] = []
    assert await side.remove("trial", lambda *progress: told.append(progress)) == 3
    assert told == [(1, 3), (2, 3), (3, 3)]
    deleted = [key for operation, key in store.calls if operation == "delete"]
    assert deleted[-1] == "replays/trial/replay.json"
    assert store.keys() == ["replays/trial-2/heatmaps/1.png"]
    assert not await side.exists("trial")
