from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.anomaly.verdict import DEFAULT_BAND, decide_verdict

positive = st.floats(0.01, 1000)


@pytest.mark.parametrize(
    ("score", "verdict"),
    [(0.0, "OK"), (1.89, "OK"), (1.9, "REVIEW"), (2.0, "REVIEW"), (2.1, "REVIEW"), (2.11, "NG")],
)
def test_the_band_around_the_threshold_asks_a_person(score: float, verdict: str) -> None:
    assert decide_verdict(score, 2.0, (0.95, 1.05)).verdict == verdict


def test_an_empty_band_leaves_two_verdicts() -> None:
    assert decide_verdict(2.0, 2.0, (1.0, 1.0)).verdict == "OK"
    assert decide_verdict(2.0001, 2.0, (1.0, 1.0)).verdict == "NG"


@given(score=positive, more=positive, threshold=positive)
def test_a_higher_score_is_never_judged_milder(score: float, more: float, threshold: float) -> None:
    order = ["OK", "REVIEW", "NG"]
    first = decide_verdict(score, threshold, DEFAULT_BAND).verdict
    second = decide_verdict(score + more, threshold, DEFAULT_BAND).verdict
    assert order.index(first) <= order.index(second)


def test_each_verdict_has_a_reason_of_its_own() -> None:
    reasons = {decide_verdict(score, 2.0).reason for score in (1.0, 2.0, 3.0)}
    assert reasons == {"below_threshold", "within_review_band", "above_threshold"}
