"""Figures of guarantees on replays that can be followed by hand."""

from __future__ import annotations

import pytest

from scheduler.guarantees import Promise, judge
from scheduler.measures import Disruption, Ended


def ended(name, queue, gpus, submit_s, *spans):
    return Ended(queue, queue, gpus, submit_s, spans[-1][1], spans[-1][1] - spans[-1][0], spans, name)


HALF = {"a": Promise(4), "b": Promise(4)}


def test_a_borrower_that_gives_way():
    """8 GPUs. a's job takes all at 0; b's comes at 10 and begins at 30; a's runs again from 50 to 150."""
    jobs = [
        ended("1", "a", 8, 0, (0, 30), (50, 150)),
        ended("2", "b", 4, 10, (30, 50)),
        ended("3", "b", 2, 100, (150, 160)),
    ]
    found = judge(jobs, 8, HALF, Disruption(1, 0, 240, 0), {"1": 100.0, "2": 20.0})
    # a is owed 4 all of 150 s and holds none for 20; b is owed 4 for 40 s and 2 for 60, and waits 20 and 50.
    assert found["guarantee_shortfall_ratio"] == {
        "a": round(4 * 20 / 600, 6),
        "b": round((4 * 20 + 2 * 50) / (160 + 120), 6),
    }
    assert found["reclaim_latency_s"] == {"jobs": 2, "p50": 35.0, "p99": 49.7}
    assert found["borrowed_gpu_hours"] == round(4 * (30 + 100) / 3600, 6)
    assert found["lost_gpu_hours"] == round(240 / 3600, 6)
    assert found["preemptions_per_1000_jobs"] == pytest.approx(1000 / 3, abs=1e-6)
    assert found["longest_wait_s"] == 50
    # Between 30 and 50 four GPUs are idle, and a's 8 do not fit; nothing that waits could have had them.
    assert found["loss_of_capacity_ratio"] == 0.0
    assert found["finish_time_fairness"] == {"jobs": 2, "p99": 1.995, "max": 2.0, "share_above_1_05": 1.0}
    a, b = 1.0, (80 + 20) / 280
    assert found["jain_delivered"] == pytest.approx((a + b) ** 2 / (2 * (a * a + b * b)), abs=1e-6)


def test_idle_gpus_are_lost_only_while_a_waiting_job_could_have_them():
    """8 GPUs; 4 stand idle from 0 to 40. The job of 4 could have them unless its queue is capped at 4."""
    jobs = [
        ended("1", "a", 4, 0, (0, 40)),
        ended("2", "a", 4, 0, (40, 60)),
        ended("3", "b", 1, 20, (20, 30)),
    ]
    free = judge(jobs, 8, HALF, Disruption(), {})
    assert free["loss_of_capacity_ratio"] == round(4 * 20 / (8 * 20), 6)
    capped = judge(jobs, 8, HALF | {"a": Promise(4, cap_gpus=4)}, Disruption(), {})
    assert capped["loss_of_capacity_ratio"] == 0.0
    assert capped["finish_time_fairness"]["jobs"] == 0


def test_a_replay_without_jobs_has_figures_too():
    found = judge([], 8, {}, Disruption(), {})
    assert (found["longest_wait_s"], found["jain_delivered"], found["guarantee_shortfall_ratio"]) == (
        0,
        1,
        {},
    )
