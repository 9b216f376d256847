"""Samples folded into a job's summary."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.efficiency import BINS, EMPTY, MAX_OBSERVED_S, Fold, Reading, merge, observe, quantile, summarise


def folded(*readings: Reading, began_s: float = 0.0) -> Fold:
    last: Reading | None = None
    parts = []
    for reading in readings:
        parts.append(observe(last, reading, began_s))
        last = reading
    return merge(parts)


def test_steady_job() -> None:
    readings = [
        Reading(
            at_s=15.0 * step, utilisation_ratio=0.8, memory_used_bytes=100 + step, energy_j=1000.0 + 9000.0 * step,
            throttled_s=3.0 * step,
        )
        for step in range(1, 5)
    ]  # fmt: skip
    summary = summarise(folded(*readings), held_s=60.0)
    assert summary.coverage_ratio == 1
    assert summary.mean_utilisation_ratio == pytest.approx(0.8)
    assert summary.p95_utilisation_ratio == 0.8
    assert summary.useful_s == pytest.approx(48)
    assert summary.idle_s == 0
    assert summary.memory_peak_bytes == 104
    # Three intervals have a counter at both ends; the time before the first reading has neither power nor counter.
    assert (summary.energy_j, summary.energy_coverage_ratio) == (27000.0, 0.75)
    assert summary.energy_kwh == pytest.approx(0.0075)
    assert summary.throttled_s == 9
    assert summary.held_gpu_hours == pytest.approx(1 / 60)


def test_nothing_known_is_no_data_and_never_zero() -> None:
    summary = summarise(EMPTY, held_s=3600.0)
    assert summary.coverage_ratio == 0
    for value in (
        *(summary.mean_utilisation_ratio, summary.p95_utilisation_ratio, summary.idle_s, summary.useful_s),
        *(summary.memory_peak_bytes, summary.energy_j, summary.energy_kwh, summary.throttled_s),
    ):
        assert value is None
    assert summarise(EMPTY, held_s=0.0).coverage_ratio is None


def test_gpu_that_does_not_answer_is_not_observed() -> None:
    assert observe(None, Reading(at_s=30.0, throttled_s=1.0), 0.0) == EMPTY


def test_idle_is_a_known_zero() -> None:
    summary = summarise(
        folded(Reading(at_s=30.0, utilisation_ratio=0.0), Reading(at_s=60.0, utilisation_ratio=0.01)), 60
    )
    assert summary.idle_s == 30
    assert summary.mean_utilisation_ratio == pytest.approx(0.005)


@pytest.mark.parametrize(
    ("gap_s", "seen_s"),
    [(MAX_OBSERVED_S, MAX_OBSERVED_S), (MAX_OBSERVED_S + 1, MAX_OBSERVED_S), (7200.0, MAX_OBSERVED_S)],
)
def test_a_gap_is_not_filled_with_guesses(gap_s: float, seen_s: float) -> None:
    first = Reading(at_s=10.0, utilisation_ratio=1.0, energy_j=5.0)
    then = Reading(at_s=10.0 + gap_s, utilisation_ratio=1.0, energy_j=5.0 + 700 * gap_s)
    fold = observe(first, then, 0.0)
    assert fold.observed_s == seen_s
    assert fold.energy_j == 700 * gap_s, "a counter knows the whole gap"
    assert fold.energy_observed_s == gap_s


def test_power_stands_in_where_there_is_no_counter() -> None:
    fold = folded(Reading(at_s=10.0, power_w=500.0), Reading(at_s=20.0, power_w=700.0))
    assert (fold.energy_j, fold.energy_observed_s) == (12000.0, 20.0)


def test_counters_reset_with_the_driver() -> None:
    fold = observe(Reading(at_s=0.0, energy_j=9e9), Reading(at_s=10.0, energy_j=400.0), 0.0)
    assert fold.energy_j == 400


def test_what_the_gpu_did_for_another_is_not_the_jobs() -> None:
    before = Reading(at_s=95.0, utilisation_ratio=1.0, energy_j=1000.0, xids={79: 1})
    now = Reading(at_s=110.0, utilisation_ratio=0.5, energy_j=9000.0, xids={79: 2})
    fold = observe(before, now, 100.0)
    assert fold.observed_s == 10
    assert (fold.energy_j, fold.energy_observed_s, fold.xids) == (0.0, 0.0, {})


def test_xids_since_the_first_reading() -> None:
    fold = folded(
        Reading(at_s=1.0, utilisation_ratio=1.0, xids={13: 4}),
        Reading(at_s=2.0, utilisation_ratio=1.0, xids={13: 5, 94: 1}),
        Reading(at_s=3.0, utilisation_ratio=1.0, xids={13: 5, 94: 3}),
        Reading(at_s=4.0, utilisation_ratio=1.0, xids={94: 1}),  # the exporter was restarted
    )
    assert fold.xids == {13: 1, 94: 4}


@pytest.mark.parametrize(("last_s", "now_s"), [(10.0, 10.0), (10.0, 9.0), (-20.0, -5.0)])
def test_skewed_clock_adds_nothing(last_s: float, now_s: float) -> None:
    before, now = Reading(at_s=last_s, utilisation_ratio=1.0), Reading(at_s=now_s, utilisation_ratio=1.0)
    assert observe(before, now, 0.0) == EMPTY


def test_throttling_is_never_longer_than_the_time() -> None:
    before, now = (
        Reading(at_s=0.0, throttled_s=0.0),
        Reading(at_s=10.0, utilisation_ratio=1.0, throttled_s=99.0),
    )
    assert observe(before, now, 0.0).throttled_s == 10


@pytest.mark.parametrize(
    ("ratio", "percent"), [(-0.1, 0), (0.0, 0), (0.005, 0), (0.99, 99), (1.0, 100), (1.7, 100)]
)
def test_bin_of_a_ratio(ratio: float, percent: int) -> None:
    fold = observe(None, Reading(at_s=1.0, utilisation_ratio=ratio), 0.0)
    assert fold.utilisation_s[percent] == 1
    assert sum(fold.utilisation_s) == 1


def test_quantile_counts_time_not_samples() -> None:
    seconds = [0.0] * BINS
    seconds[10], seconds[90] = 94.0, 6.0
    assert quantile(tuple(seconds), 0.94) == 0.1
    assert quantile(tuple(seconds), 0.95) == 0.9
    assert quantile(tuple(seconds), 1.0) == 0.9
    assert quantile((0.0,) * BINS, 0.95) is None


PERCENTS = st.lists(st.integers(0, 100), min_size=1, max_size=60)


@given(PERCENTS)
def test_quantile_is_exact_for_whole_percents(percents: list[int]) -> None:
    seconds = tuple(float(percents.count(percent)) for percent in range(BINS))
    rank = -(-95 * len(percents) // 100)
    assert quantile(seconds, 0.95) == sorted(percents)[rank - 1] / 100


@given(PERCENTS, st.randoms(use_true_random=False))
def test_merging_in_any_order_and_grouping_is_the_same(percents: list[int], chance: random.Random) -> None:
    readings = [
        Reading(
            at_s=15.0 * (step + 1),
            utilisation_ratio=percent / 100,
            energy_j=100.0 * step,
            memory_used_bytes=step,
        )
        for step, percent in enumerate(percents)
    ]
    parts = [observe(None, readings[0], 0.0), *(observe(one, two, 0.0) for one, two in pairwise(readings))]
    whole = merge(parts)
    chance.shuffle(parts)
    cut = chance.randint(0, len(parts))
    assert merge([merge(parts[:cut]), merge(parts[cut:])]) == whole
    summary = summarise(whole, held_s=15.0 * len(readings))
    assert summary.coverage_ratio == 1
    assert summary.mean_utilisation_ratio == pytest.approx(sum(percents) / len(percents) / 100)
    assert merge([whole, EMPTY]) == whole
