from __future__ import annotations

import pytest

from app.bench.backlog_checks import (
    Ledger,
    Result,
    Sample,
    memory_fault,
    oldest_ms,
    report_stage,
)

IMAGES = 40


def _ledger() -> Ledger:
    """Every image answered once, two keys in turn on one partition each."""
    numbers = {f"image-{number:02}": number for number in range(IMAGES)}
    results = [
        Result(image, f"event-{image}", ("images.scored", number % 2), b"%d" % (number % 2))
        for image, number in numbers.items()
    ]
    return Ledger(numbers, results)


def _samples(count: int = 60, *, growth_mb: float = 0.0) -> list[Sample]:
    """Ten minutes of a drain: ages fall, memory breathes."""
    samples = []
    for look in range(count):
        share = look / (count - 1)
        age = None if look == count - 1 else 1000 * (1 - share) + 5 * (look % 3)
        lag = round(IMAGES * (1 - share))
        rss_mb = 500 + 4 * (look % 5) + growth_mb * share
        samples.append(Sample(600 * share, lag, age, rss_mb))
    return samples


def _faults(ledger: Ledger, samples: list[Sample], *, ordered: bool = True) -> str:
    return "; ".join(report_stage(ledger, samples, ordered=ordered).faults)


def test_a_drain_in_order_passes() -> None:
    report = report_stage(_ledger(), _samples(), ordered=True)
    assert report.faults == ()
    assert (report.results, report.lost, report.double) == (IMAGES, 0, 0)
    assert report.throughput == pytest.approx(IMAGES / 600, abs=0.01)


def test_a_planted_loss_is_found() -> None:
    ledger = _ledger()
    del ledger.results[7]
    assert "1 images have no result" in _faults(ledger, _samples())


@pytest.mark.parametrize("event_id", ["event-image-07", "event-other"])
def test_a_planted_double_is_found_whatever_its_event_id(event_id: str) -> None:
    ledger = _ledger()
    ledger.results.append(ledger.results[7]._replace(event_id=event_id))
    assert "1 results are double" in _faults(ledger, _samples())


def test_a_planted_swap_of_one_key_is_found_unless_no_order_is_promised() -> None:
    ledger = _ledger()
    results = ledger.results
    results[10], results[12] = results[12], results[10]
    assert "1 results are out of their key's order" in _faults(ledger, _samples())
    assert _faults(ledger, _samples(), ordered=False) == ""


def test_other_keys_may_come_in_any_order() -> None:
    ledger = _ledger()
    results = ledger.results
    results[10], results[11] = results[11], results[10]
    assert _faults(ledger, _samples()) == ""


def test_memory_that_grows_is_found() -> None:
    assert "memory grows by 20.3 MB a minute" in _faults(_ledger(), _samples(growth_mb=200))
    assert _faults(_ledger(), _samples(growth_mb=5)) == ""
    assert memory_fault(_samples(growth_mb=60)) is not None
    assert memory_fault(_samples(growth_mb=60), cache_mb=30) is None


def test_what_happens_before_the_first_image_is_no_part_of_the_drain() -> None:
    starting = [Sample(-100 + look, IMAGES, 900 + look, 5 * look) for look in range(100)]
    drain = _samples()
    report = report_stage(_ledger(), starting + drain, ordered=True)
    assert report.faults == ()
    assert report.throughput == pytest.approx(IMAGES / 600, abs=0.01)


def test_an_age_that_rises_is_found() -> None:
    samples = _samples()
    samples[30] = replace_age(samples[30], 900.0)
    assert "the oldest age rises" in _faults(_ledger(), samples)


def test_an_age_that_stays_is_found() -> None:
    samples = _samples()
    samples[-1] = replace_age(samples[-1], 3.0)
    assert "the oldest age ends at 3 s" in _faults(_ledger(), samples)


def replace_age(sample: Sample, age_s: float) -> Sample:
    return sample._replace(oldest_age_s=age_s)


def test_the_oldest_is_that_of_the_partition_farthest_behind() -> None:
    times = {0: [100, 200, 300], 1: [150, 250]}
    assert oldest_ms([(0, 2), (1, 0)], times) == 150
    assert oldest_ms([(0, None), (1, 2)], times) == 100
    assert oldest_ms([(0, 3), (1, 2)], times) is None
