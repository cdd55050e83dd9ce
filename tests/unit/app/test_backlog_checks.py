from __future__ import annotations

from collections.abc import Callable

import pytest

from app.bench.backlog_checks import (
    Ledger,
    Patience,
    Result,
    Sample,
    Size,
    judge_memory,
    oldest_ms,
    report_stage,
    sizes_of,
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


def _samples(count: int = 60) -> list[Sample]:
    """Ten minutes of a drain: ages fall."""
    samples = []
    for look in range(count):
        share = look / (count - 1)
        age = None if look == count - 1 else 1000 * (1 - share) + 5 * (look % 3)
        lag = round(IMAGES * (1 - share))
        samples.append(Sample(600 * share, lag, age, 500.0))
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


def sizes(size_mb: Callable[[float], float], *, minutes: float = 10) -> list[Size]:
    """Sizes every two seconds by the minute of the drain; flat memory breathes by some MB."""
    looks = [2 * look / 60 for look in range(round(minutes * 30))]
    return [Size(60 * at, size_mb(at) + 4 * (number % 5)) for number, at in enumerate(looks)]


@pytest.mark.parametrize("leak_mb_per_min", [1.5, 4.2, 20.0])
def test_memory_that_grows_to_the_end_is_found(leak_mb_per_min: float) -> None:
    memory = judge_memory(sizes(lambda at: 200 + leak_mb_per_min * at))
    assert memory.slope_mb_per_min == pytest.approx(leak_mb_per_min, abs=0.2)
    assert memory.fault is not None
    assert memory.fault.startswith(f"memory grows by {memory.slope_mb_per_min:.1f} MB a minute")


def test_a_leak_that_only_begins_in_the_second_half_is_found() -> None:
    assert judge_memory(sizes(lambda at: 200 + 5 * max(0.0, at - 6))).fault is not None


def test_buffers_and_caches_may_fill_in_the_first_half() -> None:
    memory = judge_memory(sizes(lambda at: 200 + 30 * min(at, 4)))
    assert memory.fault is None
    assert memory.slope_mb_per_min == pytest.approx(0, abs=0.2)
    assert memory.peak_mb == pytest.approx(336, abs=1)


def test_a_cache_that_fills_all_the_while_is_growth_however_bounded_it_is() -> None:
    assert judge_memory(sizes(lambda at: 90 + 33 * at / 10)).fault is not None


def test_a_short_drain_may_breathe_and_a_long_one_may_not_hide_a_leak_behind_that() -> None:
    """20 MB of 1200 in two minutes is an allocator; for five minutes it is a leak."""
    assert judge_memory(sizes(lambda at: 1200 + 10 * at, minutes=4.2)).fault is None
    assert judge_memory(sizes(lambda at: 1200 + 10 * at, minutes=10)).fault is not None


def test_a_process_that_was_hardly_seen_is_not_judged() -> None:
    assert judge_memory([]).fault is None
    young = judge_memory(sizes(lambda at: 100 + 20 * at, minutes=3))
    assert (young.slope_mb_per_min, young.fault) == (None, None)
    assert young.peak_mb > 150


def test_a_process_that_is_gone_has_no_size() -> None:
    samples = _samples()
    samples[5] = samples[5]._replace(rss_mb=0.0)
    assert len(sizes_of(samples)) == len(samples) - 1


def test_a_drain_is_given_up_when_nothing_moves_for_two_minutes() -> None:
    patience = Patience()
    for now in range(0, 200, 2):
        patience.note(now, 500 if now > 50 else 1000 - now)
    assert patience.trouble == "nothing moved for 120 s, at 500 records"


def test_a_broker_without_a_turn_is_no_sign_that_nothing_moves() -> None:
    patience = Patience()
    patience.note(0, 500)
    for now in range(2, 290, 2):
        patience.note(now, None)
    for now in range(290, 400, 2):
        patience.note(now, 500)
    assert patience.trouble is None
    for now in range(400, 420, 2):
        patience.note(now, 500)
    assert patience.trouble is not None


def test_a_broker_that_stays_away_ends_the_wait() -> None:
    patience = Patience()
    for now in range(0, 310, 2):
        patience.note(now, None)
    assert patience.trouble == "the broker did not answer for 300 s"


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
