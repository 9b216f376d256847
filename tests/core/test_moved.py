"""A planned start that comes later, or comes no more, has one cause, and the cause is true."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scheduler.causes import MoveCause
from scheduler.model import JobId, JobState, Moved, NodeState, Reservation, Reserve, ShareClass
from scheduler.plan import make_plan, plan_digest
from scheduler.windows import Window, WindowKind

sys.path.insert(0, str(Path(__file__).parent))
from cluster import Cluster
from test_plan_properties import QUEUES, policy_of

HOUR_MS = 3_600_000
TREE = {"a": {"nominal": 8}, "b": {"nominal": 8}}


def kept(build, **changes):
    """Job 1 is to start in an hour on all of n0."""
    fields = {
        "job_id": JobId(1),
        "start_ms": build.now_ms + HOUR_MS,
        "place": (("n0", 8),),
        "flavor": "h200",
        "share_class": ShareClass.BORROWED,
        "planned_ms": build.now_ms - 1_000,
        "policy_version": "1",
        "capacity_gpus": 16,
    }
    return Reservation(**(fields | changes))


def moved(build, *, standing=None, policy=None, nodes=None, live=None, job=None, others=(), **rest):
    """What became of the start when the world is as told; n1 is busy for a day."""
    nodes = build.nodes(8, 8) if nodes is None else nodes
    held = {number: " ".join(f"n{number}:{gpu}" for gpu in range(8)) for number in (0, 1)}
    if live is None:
        live = [build.live(8, held[0], "b", wall_s=3_660)]
    live = [*live, build.live(9, held[1], "a", wall_s=90_000, is_protected=False)]
    pending = [job or build.job(1, 8, "a", nodes=1), *others]
    snapshot = build.snapshot(nodes, pending, live, reservations=(standing or kept(build),), **rest)
    return make_plan(snapshot, policy or build.policy(TREE)).moved


def cause(*args, **rest):
    (found,) = moved(*args, **rest)
    return found.cause


def test_a_start_that_stands_has_not_moved(build):
    assert moved(build) == ()


def test_a_start_that_comes_sooner_has_no_cause(build):
    assert moved(build, standing=kept(build, start_ms=build.now_ms + 2 * HOUR_MS)) == ()


def test_by_how_much_and_why(build):
    nodes = (build.node("n0", state=NodeState.DOWN), build.node("n1"))
    (found,) = moved(build, nodes=nodes, live=[])
    assert found == Moved(JobId(1), 90_000_000 - 60_000 - HOUR_MS, MoveCause.NODE_LOST)


def test_what_changed_is_told_apart(build):
    up, busy = build.node("n0"), build.node("n1")
    drained = (build.node("n0", state=NodeState.DRAINED), busy)
    assert cause(build, nodes=drained, live=[]) is MoveCause.OPERATOR_ACT
    longer = [build.live(8, " ".join(f"n0:{gpu}" for gpu in range(8)), "b", wall_s=7_260)]
    assert cause(build, live=longer) is MoveCause.REPLANNED  # nothing that is known explains it
    assert cause(build, live=[replace(longer[0], is_protected=True)]) is MoveCause.OPERATOR_ACT
    uncommitted = [replace(longer[0], committed_ms=None, state=JobState.ADMITTED)]
    assert cause(build, live=uncommitted) is MoveCause.OVERDUE
    missed = kept(build, start_ms=build.now_ms - 1)
    assert cause(build, standing=missed, live=longer) is MoveCause.OVERDUE
    other = kept(build, policy_version="0")
    assert cause(build, standing=other, live=longer) is MoveCause.POLICY_CHANGED
    unknown = kept(build, policy_version="", capacity_gpus=None)
    assert cause(build, standing=unknown, live=longer) is MoveCause.REPLANNED
    fewer = kept(build, capacity_gpus=24)
    assert cause(build, standing=fewer, live=longer) is MoveCause.NODE_LOST
    gone = (up, busy, build.node("n2", state=NodeState.DRAINED))
    assert cause(build, standing=fewer, live=longer, nodes=gone) is MoveCause.OPERATOR_ACT


def test_a_window_over_the_place(build):
    window = Window("w1", WindowKind.MAINTENANCE, frozenset({"n0"}), build.now_ms + HOUR_MS, 10**15)
    assert cause(build, windows=(window,)) is MoveCause.WINDOW
    elsewhere = replace(window, nodes=frozenset({"n1"}))
    assert moved(build, windows=(elsewhere,)) == ()
    mine = replace(window, projects=frozenset({build.project}))
    assert moved(build, windows=(mine,)) == ()


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({"is_held": True}, MoveCause.NOT_ELIGIBLE),
        ({"is_paused": True}, MoveCause.OPERATOR_ACT),
        ({"is_suspended": True}, MoveCause.OPERATOR_ACT),
    ],
)
def test_a_job_that_may_not_start_any_more_loses_its_start(build, state, expected):
    (found,) = moved(build, job=build.job(1, 8, "a", nodes=1, **state))
    assert found == Moved(JobId(1), None, expected)


def test_entitled_work_goes_before_a_borrowed_start_and_an_operator_may_have_put_it_there(build):
    entitled = build.job(2, 8, "b", nodes=1, wall_s=7_200)
    now = kept(build, start_ms=build.now_ms, share_class=ShareClass.BORROWED)
    rest = {"standing": now, "live": [], "policy": build.policy(TREE)}
    assert cause(build, others=[entitled], **rest) is MoveCause.ENTITLED_WORK
    first = replace(entitled, is_expedited=True)
    assert cause(build, others=[first], **rest) is MoveCause.OPERATOR_ACT


def test_an_aged_job_of_the_queue_keeps_its_right(build):
    aged = build.job(2, 8, "a", nodes=1, age_s=8 * 86_400)
    policy = build.policy({"a": {"nominal": 16}})
    live = [build.live(8, "n0:0 n0:1 n0:2 n0:3 n0:4 n0:5 n0:6", "a", wall_s=7_260)]
    job = build.job(1, 1, "a", nodes=1)
    standing = kept(build, start_ms=build.now_ms, place=(("n0", 1),))
    assert cause(build, job=job, standing=standing, live=live, others=[aged], policy=policy) is MoveCause.AGED


def test_an_aged_job_gives_a_start_as_borrowed_work_up_for_one_that_lasts(build):
    """Its own queue's 8 GPUs come free in a day: until then others may take back what it borrowed."""
    (found,) = moved(build, job=build.job(1, 8, "a", nodes=1, age_s=8 * 86_400))
    assert found == Moved(JobId(1), 90_000_000 - 60_000 - HOUR_MS, MoveCause.AGED)


def test_causes_are_no_part_of_the_plans_digest(build):
    snapshot = build.snapshot(pending=[build.job(1, 8)])
    plan = make_plan(snapshot, build.policy())
    assert plan_digest(plan) == plan_digest(replace(plan, moved=(), capacity_gpus=None))


def act(chance, cluster, draw):
    """Something that may move planned starts."""
    total = sum(len(node.gpu_uuids) for node in cluster.nodes.values())
    for _ in range(chance.choice([0, 1, 2])):
        nodes = chance.choice([None, None, 1, 2])
        gpus = min(chance.randint(1, 10), total)
        gpus += nodes == 2 and gpus % 2
        cluster.submit(gpus, chance.choice(QUEUES), chance.choice([3, 10, 45, 300]), nodes=nodes)
    what = chance.random()
    if what < 0.1 and cluster.live:
        cluster.finish(chance.choice(sorted(cluster.live)))
    elif what < 0.14:
        cluster.set_node(chance.choice(sorted(cluster.nodes)), chance.choice(list(NodeState)))
    elif what < 0.18:
        cluster.policy = draw(str(int(cluster.policy.version) + 1))
    elif what < 0.22 and cluster.live:
        name = chance.choice(sorted(cluster.live))
        cluster.live[name] = replace(cluster.live[name], is_protected=True)
    elif what < 0.3 and cluster.pending:
        job_id = chance.choice(sorted(cluster.pending))
        changed = chance.choice([{"is_held": True}, {"is_paused": True}, {"is_expedited": True}])
        cluster.pending[job_id] = replace(cluster.pending[job_id], **changed)


@given(seed=st.integers(0, 10**9))
@example(71)  # planned on what a job was to take back that then found room sooner
def test_every_start_that_comes_later_has_a_cause_that_is_true(seed):
    chance = random.Random(seed)  # noqa: S311 - a reproducible cluster, no secret
    sizes = [chance.choice([2, 4, 8]) for _ in range(chance.randint(1, 4))]
    total = sum(sizes)

    def draw(version):
        shares = (chance.randint(0, total // 2), chance.randint(0, total // 4), chance.randint(0, total // 4))
        return replace(policy_of(*shares, {}, chance.choice([1, 3])), version=version)

    cluster = Cluster(draw("0"), sizes)
    due_ms = None
    for _ in range(20):
        act(chance, cluster, draw)
        snapshot = cluster.snapshot()
        plan = cluster.cycle()
        planned = {entry.job_id: entry for entry in plan.entries if isinstance(entry, Reserve)}
        later = {
            one.job_id: one
            for one in snapshot.reservations
            if one.job_id in cluster.pending
            and (one.job_id not in planned or planned[one.job_id].start_ms > one.start_ms)
        }
        assert {one.job_id for one in plan.moved} == set(later)
        is_late = due_ms is not None and due_ms < snapshot.at_ms  # a notice that was due was sent later
        for one in plan.moved:
            assert_true(one, later[one.job_id], snapshot, plan, cluster, is_late=is_late)
        due_ms = plan.next_ms
        cluster.advance(chance.choice([0, 1, 2]))


def assert_true(found, standing, snapshot, plan, cluster, *, is_late):
    job = cluster.pending[found.job_id]
    states = {node.state for node in snapshot.nodes}
    shares = {entry.share_class for entry in plan.effects if hasattr(entry, "share_class")}
    holds = {
        MoveCause.ENTITLED_WORK: ShareClass.ENTITLED in shares,
        MoveCause.NODE_LOST: NodeState.DOWN in states
        or sum(snapshot.capacity.values()) < standing.capacity_gpus,
        MoveCause.POLICY_CHANGED: standing.policy_version != cluster.policy.version,
        MoveCause.OPERATOR_ACT: job.is_paused
        or NodeState.DRAINED in states
        or any(attempt.is_protected for attempt in snapshot.live)
        or any(other.is_expedited for other in snapshot.pending),
        MoveCause.OVERDUE: True,
        MoveCause.AGED: False,  # nobody waits long enough here
        MoveCause.NOT_ELIGIBLE: job.is_held,
        MoveCause.REPLANNED: is_late,
    }
    assert holds[found.cause], found
