"""Reads two versions' answers, from side topics or from what is live, and compares them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AsyncExitStack
from typing import Any

from adapters.clock import SystemClock
from app.replay.answers import Answer, Collector, live_answer
from app.replay.diff import agreement, compare
from app.replay.run import open_side
from app.replay.side import LIVE, Json, SideTopics, checked_name
from app.resources import Resources
from app.settings import Settings
from pipeline.errors import ConfigError
from pipeline.ports import Commit
from pipeline.stretch import Selection, Span, StretchSource
from schemas.codec import MalformedEventError, decode
from schemas.event import Event
from schemas.message import TopicPartition
from schemas.side_topics import side_topic

_AT_ONCE = 16
_POLL_RECORDS = 500
_POLL_S = 0.5

Progress = Callable[[str, int, int], None]


async def diff_replays(
    settings: Settings, a: str, b: str, *, limit: int, with_reviews: bool, show: Progress
) -> Json:
    """Compare the answers of two replays, or of one with what is live.

    With `live`, only the images of the replay are looked up.

    Raises:
        ConfigError: no such replay, both are live, or they are of different stages.
    """
    if a == b:
        raise ConfigError(f"{a} is compared with itself; name two different replays, or live")
    async with AsyncExitStack() as stack:
        resources, side = await open_side(settings, stack)
        notes = {name: await _note(side, name) for name in (a, b) if name != LIVE}
        stages = {str(note.get("stage")) for note in notes.values()}
        if len(stages) > 1:
            raise ConfigError(f"{a} and {b} are of different stages: {', '.join(sorted(stages))}")
        stage = stages.pop()
        answers = {name: await _side_answers(resources, side, name, show) for name in notes}
        if LIVE in (a, b):
            wanted = next(iter(answers.values())).keys()
            answers[LIVE] = await _live_answers(resources, stage, wanted, show)
        result: Json = {
            "a": a,
            "b": b,
            "stage": stage,
            "versions": {
                "a": notes.get(a, {}).get("version"),
                "b": notes.get(b, {}).get("version"),
            },
            **compare(answers[a], answers[b], limit=limit),
        }
        if with_reviews:
            both = answers[a].keys() & answers[b].keys()
            decisions = await _decisions(resources, both, show)
            result["reviews"] = {
                "a": agreement(answers[a], decisions),
                "b": agreement(answers[b], decisions),
            }
        return result


async def _note(side: SideTopics, name: str) -> Json:
    note = await side.note(checked_name(name))
    if note is None:
        raise await side.missing(name)
    return note


async def _side_answers(
    resources: Resources, side: SideTopics, name: str, show: Progress
) -> Mapping[str, Answer]:
    ranges = await side.admin.log_ranges([side_topic(name).name])
    stretch = {place: Span(held.start, held.end) for place, held in ranges.items()}
    total = sum(span.stop - span.start for span in stretch.values())
    found = Collector()
    async for batch in _read(resources, stretch):
        for event in batch:
            found.add(event)
        show(f"reading {name}", found.events, total)
    return found.answers()


async def _read(
    resources: Resources, stretch: Mapping[TopicPartition, Span]
) -> AsyncIterator[list[Event]]:
    """Yield the events of a stretch; what a stranger wrote among them is left out."""
    source = StretchSource(resources.open_reader, stretch, Selection(), SystemClock())
    async with source(_NobodyListens()) as reader:
        while not source.is_exhausted:
            batch: list[Event] = []
            for record in await reader.poll(_POLL_RECORDS, _POLL_S):
                try:
                    batch.append(decode(record))
                except MalformedEventError:
                    continue
            yield batch


class _NobodyListens:
    """An `AssignmentListener` for a reader whose positions nobody commits."""

    async def assigned(self, partitions: Mapping[TopicPartition, Commit | None]) -> None:
        """Do nothing."""

    async def revoked(self, partitions: Collection[TopicPartition]) -> None:
        """Do nothing."""


async def _views(
    resources: Resources, image_ids: Collection[str], show: Progress
) -> AsyncIterator[dict[str, Any]]:
    ids = sorted(image_ids)
    for start in range(0, len(ids), _AT_ONCE):
        chunk = ids[start : start + _AT_ONCE]
        found = await asyncio.gather(*(resources.inspections.get(one) for one in chunk))
        show("reading the tables", start + len(chunk), len(ids))
        for view in found:
            if view is not None:
                yield view


async def _live_answers(
    resources: Resources, stage: str, image_ids: Collection[str], show: Progress
) -> Mapping[str, Answer]:
    answers: dict[str, Answer] = {}
    async for view in _views(resources, image_ids, show):
        answer = live_answer(view, stage)
        if answer is not None:
            answers[answer.image_id] = answer
    return answers


async def _decisions(
    resources: Resources, image_ids: Collection[str], show: Progress
) -> dict[str, str]:
    """Return what people decided, of the images where they have."""
    return {
        view["image_id"]: view["decision"]["decision"]
        async for view in _views(resources, image_ids, show)
        if view["decision"] and view["decision"]["decision"] in ("ok", "ng")
    }
