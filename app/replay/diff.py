"""What changed between two versions' answers, worst first; pure."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from app.replay.answers import Answer

Json = dict[str, Any]
Answers = Mapping[str, Answer]

# Which verdict a person's decision confirms; REVIEW leaves it to the person.
_CONFIRMS = {"OK": "ok", "NG": "ng"}


def compare(a: Answers, b: Answers, *, limit: int) -> Json:
    """Compare two versions' answers by image_id.

    Returns:
        numbers of `compared`, `only_in_a`, `only_in_b` and `changed`; `by_kind` counts changes as
        `OK → NG`; `images` are the changed ones, at most `limit`, the largest shift of strength
        first and before them those whose strength is gone; `scores` are statistics of strength.
    """
    both = sorted(a.keys() & b.keys())
    changed = [one for one in both if a[one].said != b[one].said]
    changed.sort(key=lambda one: (-_shift_or_more(a[one], b[one]), one))
    return {
        "compared": len(both),
        "only_in_a": len(a.keys() - b.keys()),
        "only_in_b": len(b.keys() - a.keys()),
        "changed": len(changed),
        "by_kind": dict(Counter(_kind(a[one], b[one]) for one in changed).most_common()),
        "labels": {
            "a": _labels(a[one] for one in both),
            "b": _labels(b[one] for one in both),
        },
        "scores": {
            "a": _spread(a[one].strength for one in both),
            "b": _spread(b[one].strength for one in both),
            "shift": _spread(_shift(a[one], b[one]) for one in both),
        },
        "images": [_row(a[one], b[one]) for one in changed[:limit]],
        "missing": {
            "only_in_a": sorted(a.keys() - b.keys())[:limit],
            "only_in_b": sorted(b.keys() - a.keys())[:limit],
        },
    }


def agreement(answers: Answers, decisions: Mapping[str, str]) -> Json:
    """Hold verdicts against what people decided (`ok`, `ng`), by image_id.

    Returns:
        of the `reviewed` images how many verdicts `agree`, how many `disagree`, with those that
        left the decision to a person or gave no verdict as `open`.
    """
    reviewed = [(answers[one].label, said) for one, said in decisions.items() if one in answers]
    settled = [(_CONFIRMS[label], said) for label, said in reviewed if label in _CONFIRMS]
    agree = sum(verdict == said for verdict, said in settled)
    return {
        "reviewed": len(reviewed),
        "agree": agree,
        "disagree": len(settled) - agree,
        "open": len(reviewed) - len(settled),
    }


def _shift(a: Answer, b: Answer) -> float | None:
    if a.strength is None or b.strength is None:
        return None
    return b.strength - a.strength


def _shift_or_more(a: Answer, b: Answer) -> float:
    shift = _shift(a, b)
    return float("inf") if shift is None else abs(shift)


def _kind(a: Answer, b: Answer) -> str:
    return f"{a.label} → {b.label}" if a.label != b.label else f"{a.label}, other nearest case"


def _labels(answers: Iterable[Answer]) -> dict[str, int]:
    return dict(sorted(Counter(one.label for one in answers).items()))


def _spread(values: Iterable[float | None]) -> Json | None:
    """Mean, extremes and quantiles, None where there is no value."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    return {
        "count": len(known),
        "mean": round(statistics.fmean(known), 4),
        "min": round(known[0], 4),
        "p50": round(known[len(known) // 2], 4),
        "p95": round(known[int(len(known) * 0.95)], 4),
        "max": round(known[-1], 4),
    }


def _row(a: Answer, b: Answer) -> Json:
    shift = _shift(a, b)
    return {
        "image_id": a.image_id,
        "product": a.product,
        "part_id": a.part_id,
        "shift": None if shift is None else round(shift, 4),
        "a": _said(a),
        "b": _said(b),
    }


def _said(one: Answer) -> Json:
    return {
        "label": one.label,
        "score": one.score,
        "threshold": one.threshold,
        "nearest": one.nearest,
    }
