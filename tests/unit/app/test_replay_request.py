from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner

from adapters.kafka.admin import KafkaAdmin, LogRange
from app.cli.root import root
from app.replay.request import (
    Request,
    Version,
    choose_stage,
    find_stretch,
    read_offsets,
)
from app.replay.side import checked_name
from app.replay.versions import _check_options, chosen_settings
from app.settings import Settings
from pipeline.errors import ConfigError
from pipeline.stretch import Span
from schemas.message import TopicPartition

SEOUL = ZoneInfo("Asia/Seoul")
NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)


def test_offsets_are_named_by_partition() -> None:
    assert read_offsets(("0:12", "2:0")) == {0: 12, 2: 0}
    with pytest.raises(ValueError, match="PARTITION:OFFSET"):
        read_offsets(("12",))


def test_a_topic_that_one_stage_reads_needs_no_stage() -> None:
    assert choose_stage("images.scored", None) == "llm"
    assert choose_stage("replays.bank-b", None) == "llm"
    assert choose_stage("images.uploaded", "embed") == "embed"


@pytest.mark.parametrize(
    ("topic", "stage", "told"),
    [
        ("images.uploaded", None, "--stage embed|anomaly"),
        ("images.uploaded", "llm", "of it can run: embed, anomaly"),
        ("images.nope", None, "images.uploaded, images.scored"),
        ("images.embedded", None, "no stage that can be replayed"),
        ("products.configured", "anomaly", "no stage that can be replayed"),
    ],
)
def test_a_stage_that_cannot_be_is_refused_with_those_that_can(
    topic: str, stage: str | None, told: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        choose_stage(topic, stage)
    assert told in str(refusal.value)


@pytest.mark.parametrize("name", ["live", "A", "a_b", "../x"])
def test_a_name_that_cannot_be_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        checked_name(name)


def test_options_of_another_stage_or_without_a_product_are_refused() -> None:
    with pytest.raises(ConfigError, match="--bank is for --stage anomaly"):
        _check_options(Request("x", "embed", version=Version(bank="b")))
    with pytest.raises(ConfigError, match="add --product"):
        _check_options(Request("x", "anomaly", version=Version(threshold=2.0)))


def test_a_model_is_chosen_for_its_stage_alone() -> None:
    settings = chosen_settings(Settings(), "embed", "open_clip:x")
    assert settings.embed.model == "open_clip:x"
    assert settings.anomaly == Settings().anomaly
    assert chosen_settings(Settings(), "anomaly", "timm:y").anomaly.backbone == "timm:y"


class Log:
    """What an admin tells of a topic with two partitions."""

    async def log_ranges(self, topics: list[str]) -> dict[TopicPartition, LogRange]:
        if topics == ["images.uploaded"]:
            return {_at(0): LogRange(5, 20), _at(1): LogRange(0, 8)}
        return {}

    async def offsets_at(self, _topics: list[str], timestamp_ms: int) -> dict[TopicPartition, int]:
        return {_at(0): timestamp_ms, _at(1): 8}


def _at(partition: int) -> TopicPartition:
    return TopicPartition("images.uploaded", partition)


async def _stretch(**options: Any) -> list[Span]:
    request = Request("x", "anomaly", **options)
    return list((await find_stretch(cast("KafkaAdmin", Log()), request)).values())


async def test_a_stretch_is_what_the_log_holds_now_unless_something_narrows_it() -> None:
    assert await _stretch() == [Span(5, 20), Span(0, 8)]
    assert await _stretch(since_ms=9) == [Span(9, 20), Span(8, 8)]
    assert await _stretch(until_ms=9) == [Span(5, 9), Span(0, 8)]
    # The log grew to 25 while the time was looked up.
    assert await _stretch(since_ms=25) == [Span(20, 20), Span(8, 8)]
    assert await _stretch(since_ms=15, until_ms=9) == [Span(15, 15), Span(8, 8)]
    assert await _stretch(partitions=frozenset({1})) == [Span(5, 5), Span(0, 8)]
    assert await _stretch(since_ms=9, from_offsets={1: 0}) == [Span(9, 20), Span(0, 8)]
    assert await _stretch(to_offsets={0: 5}) == [Span(5, 5), Span(0, 8)]


@pytest.mark.parametrize(
    "options",
    [{"topic": "images.scored"}, {"from_offsets": {0: 4}}, {"to_offsets": {1: 9}},
     {"partitions": frozenset({2})}],
)  # fmt: skip
async def test_a_stretch_that_the_log_does_not_hold_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        await _stretch(**options)


def test_the_command_refuses_what_it_cannot_read_with_what_to_write() -> None:
    def told(*words: str) -> str:
        result = CliRunner().invoke(root, ["replay", *words])
        assert result.exit_code != 0
        return result.output + str(result.exception)

    assert "--into NAME" in told("--stage", "anomaly")
    assert "how long ago: 90s, 30m" in told("--into", "x", "--stage", "embed", "--since", "soon")
    assert "PARTITION:OFFSET" in told("--into", "x", "--stage", "embed", "--from-offset", "7")
    assert "add --stage" in told("--into", "x")
