"""What somebody asks of a replay, and which offsets that means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from adapters.kafka.admin import KafkaAdmin, LogRange
from pipeline.errors import ConfigError
from pipeline.stretch import Span
from schemas.message import TopicPartition
from schemas.side_topics import replay_of
from schemas.topics import TOPICS, triggers_of

# Stages whose output depends on a version; `record` would write tables.
STAGES = ("embed", "anomaly", "llm")


@dataclass(frozen=True, slots=True)
class Version:
    """Which version of a stage is to run; what is absent is as configured now.

    Attributes:
        bank: anomaly: version of a published bank.
        threshold: anomaly: in place of the bank's or the product's.
        revision: anomaly: the product's record of that revision.
        model: anomaly: the backbone; embed: the encoder; llm: the model that the server is asked.
        every: also what sender or policy leave out.
    """

    bank: str | None = None
    threshold: float | None = None
    revision: int | None = None
    model: str | None = None
    every: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """One replay. Times are Unix milliseconds UTC; offsets are by partition number."""

    name: str
    stage: str
    topic: str = "images.uploaded"
    since_ms: int | None = None
    until_ms: int | None = None
    product: str | None = None
    limit: int | None = None
    rate: float | None = None
    append: bool = False
    version: Version = Version()
    from_offsets: Mapping[int, int] = field(default_factory=dict)
    to_offsets: Mapping[int, int] = field(default_factory=dict)
    partitions: frozenset[int] = frozenset()


def choose_stage(topic: str, stage: str | None) -> str:
    """Return the stage to run on a topic, the only possible one when none is named.

    Raises:
        ConfigError: unknown topic or stage, none or several are possible; lists them.
    """
    of_replay = replay_of(topic) is not None
    if topic not in TOPICS and not of_replay:
        names = ", ".join(name for name in TOPICS if _takers(name))
        raise ConfigError(f"no topic {topic}; these can be replayed: {names}, replays.NAME")
    # A replay holds verdicts; with them the report stage can go on.
    possible = ("llm",) if of_replay else _takers(topic)
    if not possible:
        raise ConfigError(f"no stage that can be replayed reads {topic}")
    if stage is None and len(possible) > 1:
        raise ConfigError(f"{topic} is read by several stages: add --stage {'|'.join(possible)}")
    chosen = stage or possible[0]
    if chosen not in possible:
        raise ConfigError(f"{chosen} does not read {topic}; of it can run: {', '.join(possible)}")
    return chosen


def _takers(topic: str) -> tuple[str, ...]:
    return tuple(stage for stage in STAGES if topic in triggers_of(stage))


def read_offsets(texts: tuple[str, ...]) -> dict[int, int]:
    """Read `PARTITION:OFFSET` each.

    Raises:
        ValueError: another form.
    """
    offsets = {}
    for text in texts:
        match = re.fullmatch(r"(\d+):(\d+)", text)
        if match is None:
            raise ValueError(f"{text} is not PARTITION:OFFSET")
        offsets[int(match[1])] = int(match[2])
    return offsets


async def find_stretch(admin: KafkaAdmin, request: Request) -> dict[TopicPartition, Span]:
    """Return the offsets to read of every partition, empty spans where there is nothing to do.

    The end is what the log holds now: what arrives later is not part of the replay.

    Raises:
        ConfigError: the topic does not exist, or holds no such partition or offset.
    """
    topic = request.topic
    ranges = await admin.log_ranges([topic])
    if not ranges:
        raise ConfigError(f"Kafka has no topic {topic}; run: lineside topics list")
    named = {*request.from_offsets, *request.to_offsets, *request.partitions}
    unknown = sorted(number for number in named if TopicPartition(topic, number) not in ranges)
    if unknown:
        raise ConfigError(f"{topic} has partitions 0 to {len(ranges) - 1}, not {unknown[0]}")
    starts = {place: held.start for place, held in ranges.items()}
    stops = {place: held.end for place, held in ranges.items()}
    if request.since_ms is not None:
        starts |= await admin.offsets_at([topic], request.since_ms)
    if request.until_ms is not None:
        stops |= await admin.offsets_at([topic], request.until_ms)
    spans = {}
    for place, held in ranges.items():
        # Times were looked up a moment later: the log may have grown past this end.
        start = _named(request.from_offsets, place, held, min(starts[place], held.end))
        stop = _named(request.to_offsets, place, held, min(stops[place], held.end))
        is_wanted = not request.partitions or place.partition in request.partitions
        spans[place] = Span(start, max(start, stop) if is_wanted else start)
    return spans


def _named(
    offsets: Mapping[int, int], place: TopicPartition, held: LogRange, otherwise: int
) -> int:
    offset = offsets.get(place.partition, otherwise)
    if not held.start <= offset <= held.end:
        raise ConfigError(
            f"{place.topic}[{place.partition}] holds offsets {held.start} to {held.end}, "
            f"not {offset}"
        )
    return offset
