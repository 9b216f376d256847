"""Quota over time: what counts against a limit, and what the next cycle may rely on."""

from __future__ import annotations

import pytest

from quota.tree import tree_of
from scheduler.model import JobId, ShareClass
from scheduler.profile import Hold, Run
from scheduler.shares import Ask, Shares

LIMITED = {"p": {"nominal": 2, "borrowing_limit": 1, "children": {"a": {"nominal": 1}, "b": {"nominal": 1}}}}
"""Of 8 GPUs, 3 may be held below p."""


def shares_of(build, *runs, charges=None):
    """The queues below p with runs of (number, queue, GPUs, end)."""
    placed = {}
    for number, queue, gpus, end_ms in runs:
        run = Run(f"{number}-1", JobId(number), queue, "h200", gpus, ((0, gpus),), (0, number), end_ms)
        placed.setdefault(queue, []).append((run.order, run.id, run))
    return Shares(tree_of(build.policy(LIMITED), 8), 0, placed, charges)


def ask(start_ms, **rest):
    return Ask("p/a", 2, start_ms, start_ms + 100, is_entitled=False, **rest)


@pytest.mark.parametrize(
    ("start_ms", "end_ms", "is_refused_beside", "is_refused_past"),
    [(0, 50, True, False), (50, 90, True, False), (200, 300, False, False)],
)
def test_a_planned_start_that_a_job_may_run_past_counts_against_no_limit(
    build, start_ms, end_ms, is_refused_beside, is_refused_past
):
    shares = shares_of(build)
    shares.hold(Hold(JobId(9), "p/b", "h200", 2, start_ms, end_ms, ((0, 2),), ShareClass.ENTITLED))
    assert (shares.refusal(ask(0)) is not None) is is_refused_beside
    assert (shares.refusal(ask(0, past={JobId(9)})) is not None) is is_refused_past


def test_of_two_planned_starts_only_those_of_the_instant_are_left_out(build):
    """Job 8's is over when job 9's begins: both may be run past, and each counts while it lasts alone."""
    shares = shares_of(build, (7, "p/b", 1, 500))
    for number, start_ms in ((8, 10), (9, 20)):
        hold = Hold(JobId(number), "p/b", "h200", 2, start_ms, start_ms + 10, ((0, 2),), ShareClass.ENTITLED)
        shares.hold(hold)
    assert shares.refusal(ask(0, past={JobId(8), JobId(9)})) is None
    assert shares.refusal(ask(0, past={JobId(8)})).used_gpus == 3
    wide = Ask("p/a", 3, 0, 100, is_entitled=False, past={JobId(8), JobId(9)})
    assert shares.refusal(wide).used_gpus == 1


def test_a_run_that_is_over_by_then_makes_no_room_by_giving_way(build):
    shares = shares_of(build, (1, "p/b", 2, 50), (2, "p/b", 2, 500))
    assert shares.refusal(ask(60, without={"1-1"})).used_gpus == 2
    assert shares.refusal(ask(60, without={"1-1", "2-1"})) is None


def test_the_next_cycle_takes_over_charges_of_what_runs_and_none_of_what_a_plan_ends(build):
    charges = {}
    shares = shares_of(build, (1, "p/a", 1, 50), (2, "p/b", 2, 50), charges=charges)
    ((_, _, run),) = shares._by_queue["p/b"]
    shares.ends_anew(run, 20)
    assert shares.charged("p/a", 0) == (1, frozenset())
    assert shares.charged("p/b", 0) == (0, {"2-1"})
    assert charges.keys() == {"p/a"}
