from __future__ import annotations

import shlex
from typing import Any

import pytest

from app.cli.replay import _command_to_go_on, _show, _show_diff, replay
from app.replay.answers import Answer
from app.replay.diff import agreement, compare

SUMMARY: dict[str, Any] = {
    "into": "replays.trial", "stage": "anomaly", "read": 9, "skipped": 1, "processed": 6,
    "published": 5, "dead_lettered": 1, "silent": 0, "unfinished": 2, "seconds": 2.5,
    "by_verdict": {"NG": 2, "OK": 3}, "interrupted": False, "error": None,
    "version": {"model": "m@1", "banks": {"cap": "b1"}, "threshold": None, "revision": None},
    "offsets": {"0": [0, 4], "2": [10, 12]},
}  # fmt: skip


def test_a_summary_says_what_ran_and_what_came_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    _show(SUMMARY, "")
    said = capsys.readouterr().out
    assert "anomaly cap: b1, model m@1: took 2.5 s" in said
    for word in ("read", "skipped", "dead_lettered", "unfinished", "NG"):
        assert word in said
    assert "silent" not in said
    assert "--append" not in said


def test_an_interrupted_replay_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    _show({**SUMMARY, "interrupted": True}, "lineside replay --into trial")
    assert "go on with: lineside replay --into trial\n" in capsys.readouterr().out


def test_the_command_to_go_on_can_be_pasted_and_asks_for_the_rest_of_the_same() -> None:
    words = [
        "--topic", "images.uploaded", "--stage", "anomaly", "--into", "trial", "--every",
        "--since", "2026-11-20T08:00:00+09:00", "--product", "cap's", "--partition", "0",
        "--partition", "2", "--from-offset", "0:1", "--to-offset", "2:99", "--model", "m v2",
        "--threshold", "0.5", "--limit", "10", "--rate", "3",
    ]  # fmt: skip

    def read(given: list[str]) -> dict[str, Any]:
        options: dict[str, Any] = replay.make_context("replay", [*given]).params
        return options

    typed = shlex.split(_command_to_go_on(_given(read(words)), SUMMARY))
    assert typed[:2] == ["lineside", "replay"]
    again = read(typed[2:])
    assert again.pop("append")
    assert again.pop("from_offset") == ("0:4", "2:12")
    assert again.pop("limit") == 10 - 6
    before = read(words)
    assert again == {name: before[name] for name in again}
    assert before.keys() - again.keys() == {"append", "from_offset", "limit"}


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "as_json"}


def test_what_stopped_a_replay_is_said_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    _show({**SUMMARY, "error": "the stage is broken"}, "")
    assert "stopped: the stage is broken" in capsys.readouterr().err


def test_a_diff_shows_kinds_scores_reviews_and_images(capsys: pytest.CaptureFixture[str]) -> None:
    a = {"1": Answer("1", "cap", "p-1", "OK", 0.5, 1.0, 0.5)}
    b = {"1": Answer("1", "cap", "p-1", "NG", 1.5, 1.0, 1.5)}
    reviews = {"a": agreement(a, {"1": "ng"}), "b": agreement(b, {"1": "ng"})}
    result = {"a": "live", "b": "strict", "stage": "anomaly", "reviews": reviews}
    _show_diff({**compare(a, b, limit=5), **result})
    said = capsys.readouterr().out
    assert "anomaly: 1 compared, 1 changed, 0 only in live, 0 only in strict" in said
    assert "OK → NG" in said
    assert "NG 1.50 / 1.00" in said
    assert "live against 1 reviews: 0 agree, 1 disagree, 0 open" in said
    assert "strict against 1 reviews: 1 agree, 0 disagree, 0 open" in said


def test_a_diff_of_neighbours_shows_the_nearest_cases(capsys: pytest.CaptureFixture[str]) -> None:
    a = {"1": Answer("1", "cap", None, "scratch", strength=0.9, nearest="case-1")}
    b = {"1": Answer("1", "cap", None, "scratch", strength=0.8, nearest="case-2")}
    _show_diff({**compare(a, b, limit=5), "a": "live", "b": "clip", "stage": "embed"})
    said = capsys.readouterr().out
    assert "scratch, other nearest case" in said
    assert "similarity" in said
    assert "scratch case-2" in said
