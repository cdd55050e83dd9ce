from __future__ import annotations

import numpy as np
import pytest

from consumers.anomaly.calibration import Calibration, calibrate, quantile_above


def test_with_enough_normals_the_bound_is_the_conformal_rank() -> None:
    bound, source = quantile_above([float(v) for v in range(1, 201)], 0.01)
    assert bound == 199.0
    assert source == "conformal 99 % quantile of 200 normals"


def test_with_too_few_normals_the_bound_lies_above_all_and_says_so() -> None:
    values = [1.0, 1.1, 1.2, 0.9, 1.05]
    bound, source = quantile_above(values, 0.01)
    assert bound > max(values)
    assert "5 normals are too few" in source


@pytest.mark.parametrize("count", [20, 50, 99, 200])
def test_fresh_normals_pass_the_bound_at_about_the_stated_rate(count: int) -> None:
    chance = np.random.default_rng(5)
    rates = []
    for _ in range(300):
        draws = np.exp(chance.normal(0.5, 0.2, count + 500))
        bound, _ = quantile_above(draws[:count].tolist(), 0.01)
        rates.append(float((draws[count:] > bound).mean()))
    assert 0.003 < float(np.mean(rates)) < 0.016


def test_equal_scores_give_a_bound_that_none_of_them_passes() -> None:
    bound, _ = quantile_above([2.0] * 10, 0.01)
    assert bound == pytest.approx(2.0)
    assert bound >= 2.0


def test_map_thresholds_are_ordered_and_nearly_all_normals_stay_below_them() -> None:
    chance = np.random.default_rng(1)
    maps = [chance.gamma(9, 0.1, (12, 16)).astype(np.float32) for _ in range(40)]
    made = calibrate([float(one.mean()) for one in maps], maps)
    assert 0 < made.map_low <= made.map_threshold < made.map_high
    assert sum(one.max() > made.map_threshold for one in maps) <= 2
    assert made.map_threshold <= (made.map_low + made.map_high) / 2 + 1e-6
    assert np.mean([(one > made.map_low).mean() for one in maps]) == pytest.approx(0.005, abs=2e-3)


def test_percentile_counts_the_normals_below() -> None:
    made = calibrate([1.0, 2.0, 3.0, 4.0], [np.ones((2, 2), np.float32)] * 4)
    assert [made.percentile(score) for score in (0.5, 2.5, 9.0)] == [0.0, 50.0, 100.0]


def test_a_calibration_survives_json() -> None:
    made = calibrate([1.0, 2.0, 3.0], [np.full((2, 2), v, np.float32) for v in (1, 2, 3)])
    assert Calibration.from_json(made.as_json()) == made
