"""The pages tell in words why a stage gave up, whatever the reason."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
_RAISED = re.compile(r'(?:PoisonError|MalformedEventError)\(\s*"([a-z0-9_]+)"')
# The worker's own: see pipeline/retries.py.
_OF_THE_WORKER = {"bug", "retries_exhausted"}
# Manuals are read by replicas, which refuse one and bury nothing.
_NEVER_BURIED = {"manual_type", "manual_unreadable", "manual_without_text"}


def reasons() -> list[str]:
    found = set(_OF_THE_WORKER)
    for folder in ("adapters", "consumers", "pipeline", "schemas"):
        for path in (ROOT / folder).rglob("*.py"):
            found |= set(_RAISED.findall(path.read_text("utf-8")))
    return sorted(found - _NEVER_BURIED)


@pytest.mark.parametrize("reason", reasons())
def test_every_reason_of_a_dead_letter_has_words(reason: str) -> None:
    texts = "".join(
        (ROOT / "console/web/src/i18n" / name).read_text("utf-8")
        for name in ("ko.ts", "ko-letters.ts")
    )
    assert f'"letters.why.{reason}"' in texts or f'"reason.{reason}"' in texts
