"""Walking the queues: who is passed, who is shut out, and who gets a planned start after all."""

from __future__ import annotations

import sys
from pathlib import Path

from scheduler.model import Admit, NodeState, ReasonCode, Reservation, Reserve, ShareClass, Wait
from scheduler.plan import make_plan
from scheduler.turns import Turns

sys.path.insert(0, str(Path(__file__).parent))
from cluster import Cluster
from test_again import run


def done(plan):
    """Starts, planned starts in minutes from now, and reasons."""
    return (
        [entry.job_id for entry in plan.entries if isinstance(entry, Admit)],
        {e.job_id: (e.start_ms - plan.at_ms) / 60_000 for e in plan.entries if isinstance(e, Reserve)},
        {entry.job_id: entry.reason for entry in plan.entries if isinstance(entry, Wait)},
    )


def test_who_was_shut_out_plans_a_start_once_another_needs_his_no_more(build):
    """The one planned start there may be is a's pair's until it starts: then the gang of b has it."""
    tree = {"a": {"nominal": 1}, "b": {"nominal": 0}, "x": {"nominal": 0}}
    cluster = Cluster(build.policy(tree, start_reservations=1, borrowed_reservations=2), [2, 2])
    run(cluster, "x", "n1:2", 60)
    pair, own, gang = cluster.submit(2, "a", 300), cluster.submit(1, "a", 45), cluster.submit(4, "b", 10)
    starts, planned, reasons = done(cluster.plan())
    assert (starts, planned) == ([pair], {own: 1, gang: 300})
    assert reasons == {own: ReasonCode.RECLAIMING, gang: ReasonCode.NO_CAPACITY}


def test_a_job_that_was_passed_and_has_no_start_in_sight_keeps_nobody_out(build):
    """It needs the node that is down."""
    cluster = Cluster(build.policy({"a": {"nominal": 1}}, start_reservations=1), [1, 1])
    cluster.set_node("n1", NodeState.DOWN)
    gang, small = cluster.submit(2, "a", 10), cluster.submit(1, "a", 45)
    assert done(cluster.plan()) == ([small], {}, {gang: ReasonCode.NO_CAPACITY})


def test_jobs_of_a_queue_that_the_policy_has_no_more_are_told_so_and_keep_nobody_out(build):
    cluster = Cluster(build.policy({"a": {"nominal": 1}}), [1])
    strays = [cluster.submit(1, "gone", 10) for _ in range(3)]
    job = cluster.submit(1, "a", 45)
    assert done(cluster.plan()) == ([job], {}, dict.fromkeys(strays, ReasonCode.NEVER_FITS))
    numbers = {entry.numbers["limit"] for entry in cluster.plan().entries if isinstance(entry, Wait)}
    assert numbers == {"queue"}


def test_a_planned_start_of_a_queue_without_a_line_is_left_where_it_is(build):
    """No snapshot gives one: who is eligible is of a queue of the policy, and so has a line. Else nobody has a turn."""
    start_ms = build.now_ms + 60_000
    kept = Reservation(1, start_ms, (("n0", 1),), "h200", ShareClass.ENTITLED, build.now_ms - 1)
    snapshot = build.snapshot(pending=[build.job(1)], reservations=(kept,))
    assert done(make_plan(snapshot, build.policy()))[0] == [1]
    turns = Turns(snapshot, build.policy())
    del turns.lines["q"]
    turns.planned()
    assert (turns.starts, turns.world.held[1].start_ms) == ([], start_ms)
