from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.demo.publishing import Sent
from app.demo.summary import print_summary, refusals, summarise

FULL = json.dumps({"slug": "storage_full", "detail": "the server's disk is full (objects)"})


def sent(refused: str | None) -> Sent:
    return Sent("cap", Path("x.jpg"), is_defect=False, label=None, refused=refused)


def test_why_uploads_were_refused_is_told_with_how_often(
    capsys: pytest.CaptureFixture[str],
) -> None:
    items = [sent(FULL), sent("Bad Gateway"), sent(FULL)]
    assert refusals(items) == [("the server's disk is full (objects)", 2), ("Bad Gateway", 1)]
    meta = {"broker": "Kafka", "url": "http://127.0.0.1", "seconds": 1.0}
    summary = summarise(items, baselines={}, taught={"cap": (1, 0)}, meta=meta)
    print_summary(summary, items)
    told = capsys.readouterr().out
    assert "2 refused: the server's disk is full (objects)" in told
    assert "1 refused: Bad Gateway" in told


def test_without_refusals_nothing_is_told() -> None:
    assert refusals([sent(None)]) == []
