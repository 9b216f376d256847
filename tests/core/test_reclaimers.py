"""Who takes GPUs back in one cycle, and what is done when the start of one changes what another needs."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from scheduler.fit import NoFit
from scheduler.model import Admit, JobId, Preempt, ReasonCode, Reserve, ShareClass
from scheduler.profile import Hold
from scheduler.spare import replan_unsound, spare_needless, start_reclaimers
from scheduler.turns import Turns

sys.path.insert(0, str(Path(__file__).parent))
from cluster import MINUTE_MS, Cluster
from test_again import run

HALVES = {"q": {"nominal": 4}, "r": {"nominal": 4}}


def done(cluster):
    """What one cycle does: starts, planned starts in minutes from now, and victims with the job each is for."""
    entries = cluster.plan().entries
    return (
        [entry.job_id for entry in entries if isinstance(entry, Admit)],
        {e.job_id: (e.start_ms - cluster.at_ms) / MINUTE_MS for e in entries if isinstance(e, Reserve)},
        {(entry.attempt_id, entry.for_job) for entry in entries if isinstance(entry, Preempt)},
    )


def test_nobody_starts_on_what_is_kept_for_one_whose_own_queue_would_have_to_give_way(build):
    """The free GPU of n1 is kept for the pair of a: a may not take its own 3 GPUs back in exchange for it."""
    tree = {"a": {"nominal": 2}, "b": {"nominal": 1}, "c": {"nominal": 2}, "x": {"nominal": 0}}
    cluster = Cluster(build.policy(tree, start_reservations=5, borrowed_reservations=1), [8, 2])
    for queue, place, until in (("a", "n0:3", 38), ("b", "n0:4", 38), ("c", "n1:1", 293), ("x", "n0:1", 293)):
        run(cluster, queue, place, until, grace=0)
    one, pair = cluster.submit(1, "c", 10), cluster.submit(2, "a", 300)
    second = 1 / 60  # the least notice
    assert done(cluster) == ([], {one: second, pair: second}, {("1-1", one)})


def test_a_victim_whose_gpus_others_plan_to_start_on_is_not_spared(build):
    """c's job could do without the 8 GPUs of n1, but x's of 6 are told a start there."""
    tree = {"a": {"nominal": 5}, "b": {"nominal": 2}, "c": {"nominal": 2}, "x": {"nominal": 0}}
    cluster = Cluster(build.policy(tree, start_reservations=3, borrowed_reservations=5), [1, 8, 4, 2])
    run(cluster, "x", "n1:8", 294, since=6, grace=5)
    run(cluster, "c", "n2:4", 296, since=4, grace=0)
    run(cluster, "x", "n3:1", 296, since=4, grace=5)
    run(cluster, "a", "n0:1 n3:1", 43, since=2, grace=0)
    jobs = [("x", 6, 10), ("x", 3, 3), ("b", 1, 10), ("c", 1, 3), ("x", 6, 10)]
    six, three, of_b, of_c, last = [cluster.submit(gpus, queue, wall) for queue, gpus, wall in jobs]
    starts, planned, notices = done(cluster)
    assert (starts, notices) == ([], {("3-1", of_b), ("1-1", of_c)})
    assert planned == {six: 5, three: 15, of_b: 5, of_c: 5, last: 15}


@pytest.mark.parametrize("is_second", [False, True])
def test_victims_of_later_starts_are_taken_sooner_only_where_all_of_these_stand_all_the_same(
    build, is_second
):
    """q's own ends leave room for gangs on n0 and n1 in an hour, with what r borrows there. The pair wants n1's now."""
    policy = build.policy(
        {"q": {"nominal": 9}, "r": {"nominal": 0}}, start_reservations=9, borrowed_reservations=9
    )
    cluster = Cluster(policy, [4, 3, 1, 1, 1, 1])
    for place in ("n0:2", "n1:1", "n2:1 n3:1 n4:1 n5:1"):
        run(cluster, "q", place, 60)
    run(cluster, "r", "n0:2", 600, since=30)
    run(cluster, "r", "n1:2", 600, since=5)
    gang = cluster.submit(4, "q", 30, nodes=1)
    second = [cluster.submit(3, "q", 30, nodes=1)] if is_second else []
    pair = cluster.submit(2, "q", 300, nodes=1)
    starts, planned, notices = done(cluster)
    assert (starts, notices) == ([], set() if is_second else {("5-1", pair)})
    assert planned == {gang: 60, pair: 90 if is_second else 1} | dict.fromkeys(second, 60)


@pytest.mark.parametrize(("limit", "start"), [(2, None), (3, 15)])
def test_a_start_that_lost_its_gpus_is_planned_anew_or_given_up(build, monkeypatch, limit, start):
    """All 8 GPUs are borrowed, with 15 minutes of notice; two instants are too few to see beyond."""
    monkeypatch.setattr("scheduler.reserve.MAX_INSTANTS", limit)
    policy = build.policy({"q": {"nominal": 8}, "s": {"nominal": 0}})
    live = [
        build.live(10 + at, f"n0:{2 * at} n0:{2 * at + 1}", "s", wall_s=660 + 600 * at, grace_s=900)
        for at in range(4)
    ]
    turns = Turns(build.snapshot(pending=[build.job(1, 6)], live=live), policy)
    job, at_ms = turns.jobs[JobId(1)], build.now_ms
    turns.wait(job, NoFit(ReasonCode.NO_CAPACITY))
    lost = Hold(job.id, "q", "h200", 6, at_ms + 300_000, at_ms + 3_900_000, ((0, 6),), ShareClass.ENTITLED)
    turns.plan_start(lost)
    replan_unsound(turns)
    assert [(hold.start_ms - at_ms) / MINUTE_MS for hold in turns.world.holds()] == ([start] if start else [])
    assert turns.holders == set()
    assert (turns.waits[job.id].refusal.reason is ReasonCode.RECLAIMING) is (start is not None)


def reclaiming(build):
    """A cycle in which job 1 takes back what attempt 10-1 of r holds; 9-1 holds as much and would lose more."""
    live = [
        build.live(8, "n0:0 n0:1 n0:2 n0:3", "r", ran_s=180),
        build.live(9, "n0:4 n0:5", "r", grace_s=300, ran_s=120),
        build.live(10, "n0:6 n0:7", "r", grace_s=300),
    ]
    turns = Turns(build.snapshot(pending=[build.job(1, 2)], live=live), build.policy(HALVES))
    turns.keep_reclaims()
    turns.entitled()
    return turns


def test_a_reclaimer_whose_start_stands_no_more_starts_nowhere(build):
    """As when the start of another left it no budget: there is room, and it is not for this one."""
    turns = Turns(build.snapshot(pending=[build.job(1, 2)]), build.policy(HALVES))
    turns.reclaims.append(JobId(1))
    assert not start_reclaimers(turns)
    assert turns.starts == []


def test_who_could_buy_nothing_is_not_asked_again_while_nothing_changes(build):
    turns = reclaiming(build)
    turns.world.release(JobId(1))
    job = turns.jobs[JobId(1)]
    turns._unbought[turns.group(job)] = turns.world.version
    assert turns._take_back(job) is None
    turns._unbought[turns.group(job)] = turns.world.version - 1
    assert turns._take_back(job).victims == ("10-1",)


@pytest.mark.parametrize("times", [1, 2])
def test_a_needless_victim_is_spared_once(build, times):
    """No plan names one twice: it would be spared in vain. Of both victims job 1 needs one, whoever it is."""
    turns = reclaiming(build)
    hold = turns.world.release(JobId(1))
    turns.world.hold(replace(hold, victims=hold.victims + ("9-1",) * times))
    tried = turns.world.releases
    assert spare_needless(turns)
    assert [found.victims for found in turns.world.holds()] == [("10-1",)]
    assert turns.world.releases == tried + 2
