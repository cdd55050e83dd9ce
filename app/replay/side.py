"""Replays as things that are kept: their topic, their objects and a note of what was run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from adapters.kafka.admin import KafkaAdmin
from pipeline.errors import ConfigError, ConflictError, DependencyDownError, PoisonError
from pipeline.ports import BlobStore
from schemas.side_topics import check_replay_name, replay_of, side_topic

Json = dict[str, Any]

# What `diff` calls the answers of the running system.
LIVE = "live"
_OBJECTS = "replays/"
# A broker on a busy machine may take longer than one answer's limit to make a topic.
_TRIES = 3


def objects_of(name: str) -> str:
    """Key prefix of a replay's objects."""
    return f"{_OBJECTS}{name}/"


def checked_name(name: str) -> str:
    """Return the name.

    Raises:
        ConfigError: no replay can have it.
    """
    if name == LIVE:
        raise ConfigError(f"{LIVE} means what the roles say; choose another name")
    try:
        return check_replay_name(name)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None


@dataclass(frozen=True, slots=True)
class SideTopics:
    """Replays of one cluster and one store."""

    admin: KafkaAdmin
    store: BlobStore

    async def open(
        self, name: str, plan: Json, *, append: bool, partitions: int, replication_factor: int
    ) -> Json:
        """Make a replay's topic, or take it up again; returns its note.

        Args:
            name: of the replay.
            plan: stage and version, which all runs into one topic share.
            append: take up an existing one.
            partitions: as many as the topic that is replayed, so that order per key holds.
            replication_factor: of the topic.

        Raises:
            ConfigError: it exists and `append` is not set, or holds another version's answers.
        """
        if append and (note := await self.note(name)) is not None:
            _check_same(name, note, plan)
            return {**plan, **note}
        await self._create(name, partitions, replication_factor)
        note = {"name": name, **plan, "created_at": datetime.now(UTC).isoformat(), "runs": []}
        await self.keep(note)
        return note

    async def _create(self, name: str, partitions: int, replication_factor: int) -> None:
        slow = False
        for left in reversed(range(_TRIES)):
            try:
                await self.admin.create_topic(
                    side_topic(name), partitions=partitions, replication_factor=replication_factor
                )
            except ConflictError:
                if slow:  # the try before this one was slow, not lost
                    return
                raise ConfigError(
                    f"there is a replay {name} already: choose another name, add to it with "
                    f"--append, or drop it with lineside replay remove {name}"
                ) from None
            except DependencyDownError:
                if not left:
                    raise
                slow = True
            else:
                return

    async def keep(self, note: Json) -> None:
        """Write a replay's note."""
        key = objects_of(note["name"]) + "replay.json"
        data = json.dumps(note, ensure_ascii=False).encode()
        await self.store.put(key, data, content_type="application/json")

    async def note(self, name: str) -> Json | None:
        """Return a replay's note, None if there is no such replay."""
        if side_topic(name).name not in await self.admin.topics():
            return None
        try:
            note: Json = json.loads(await self.store.get(objects_of(name) + "replay.json"))
        except PoisonError:  # its making was cut off between topic and note
            return {"name": name, "runs": []}
        return note

    async def list(self) -> list[Json]:
        """Return every replay with the number of its records, by name."""
        names = sorted(name for topic in await self.admin.topics() if (name := replay_of(topic)))
        rows = []
        for name in names:
            ranges = await self.admin.log_ranges([side_topic(name).name])
            records = sum(held.end - held.start for held in ranges.values())
            rows.append({**(await self.note(name) or {"name": name}), "records": records})
        return rows

    async def missing(self, name: str) -> ConfigError:
        """Return what to say of a replay that is not there: which ones are."""
        there = ", ".join(row["name"] for row in await self.list()) or "none"
        return ConfigError(f"there is no replay {name}; there are: {there}")

    async def exists(self, name: str) -> bool:
        """Whether a replay's topic or any object of it is there."""
        if side_topic(name).name in await self.admin.topics():
            return True
        async for _ in self.store.list(objects_of(name)):
            return True
        return False

    async def remove(self, name: str, on_progress: Callable[[int, int], None]) -> int:
        """Delete a replay's topic and objects; returns how many objects that were.

        `on_progress` is told how many of how many are gone.
        """
        await self.admin.delete_topic(side_topic(name).name)
        keys = [stat.key async for stat in self.store.list(objects_of(name))]
        # The note goes last: a removal that was cut off can be seen and repeated.
        keys.sort(key=lambda key: key.endswith("/replay.json"))
        for done, key in enumerate(keys, start=1):
            await self.store.delete(key)
            on_progress(done, len(keys))
        return len(keys)


def _check_same(name: str, note: Json, plan: Json) -> None:
    for field, wanted in plan.items():
        if field in note and note[field] != wanted:
            raise ConfigError(
                f"replay {name} holds {field} {note[field]}, not {wanted}: choose another name"
            )
