"""Baselines step by step: who starts, and on what others hold."""

from __future__ import annotations

import pytest

from scheduler.baselines import Asked, Baseline, Stock

LETTERS = "abcdefgh"


def waiting(kind, nodes, size, *jobs):
    """A baseline with jobs (GPUs, walltime in milliseconds) that all came at 0."""
    baseline = Baseline(kind, nodes, size)
    for number, (gpus, walltime_ms) in enumerate(jobs):
        baseline.submit(Asked(number, gpus, walltime_ms, 0, "t"))
    return baseline


def begun(baseline, at_ms=0):
    return "".join(LETTERS[found.job.number] for found in baseline.plan(at_ms))


def test_a_gang_takes_entirely_free_nodes_alone():
    stock = Stock(3, 8)
    assert stock.pick(16) == ((0, 8), (1, 8))
    stock.move(((0, 1), (2, 1)), -1)
    assert stock.pick(16) is None
    assert stock.pick(15) == ((1, 8), (0, 7))
    assert stock.pick(23) is None


def test_easy_plans_its_head_for_the_first_end_that_frees_enough():
    """c's 6 GPUs are free when a ends, at 100: d would run past that, e does not."""
    assert begun(waiting("easy", 1, 8, (4, 100), (2, 300), (6, 50), (2, 200), (2, 100))) == "abe"


def test_behind_a_head_that_the_machine_never_holds_easy_starts_what_ends_first():
    """The head waits for all that runs; c would end behind that, d does not."""
    baseline = waiting("easy", 1, 8, (3, 100), (3, 200), (99, 50), (2, 201), (2, 200))
    assert begun(baseline) == "abe"


@pytest.mark.parametrize(("holds", "expected"), [(1, "ae"), (100, "a")])
def test_conservative_holds_so_many_starts_and_what_waits_beyond_keeps_nobody_out(
    monkeypatch, holds, expected
):
    """a runs to 100, b is planned to 150. c would be next, on 7 of 8 GPUs, which e would run into."""
    monkeypatch.setattr("scheduler.baselines.MAX_HOLDS", holds)
    baseline = waiting("conservative", 1, 8, (6, 100), (6, 50), (7, 200), (7, 250), (2, 400))
    assert begun(baseline) == expected


def test_conservative_plans_behind_the_next_end_where_enough_gpus_are_free_on_no_node():
    """Two nodes of 4, one GPU free on each: c's 2 are planned for the end of a, and until then d and e run."""
    baseline = waiting("conservative", 2, 4, (3, 100), (3, 200), (2, 50), (1, 100), (1, 150))
    assert begun(baseline) == "abde"
    baseline.end(0)
    assert begun(baseline, 100) == "c"


def test_conservative_starts_one_of_many_alike_and_the_others_wait_on():
    baseline = waiting("conservative", 1, 8, (6, 100), (8, 50), (1, 100), (1, 100), (1, 100))
    assert begun(baseline) == "acd"
    for number in (0, 2, 3):
        baseline.end(number)
    assert begun(baseline, 100) == "b"
    baseline.end(1)
    assert begun(baseline, 150) == "e"
