"""Reclaim, proved on random trees, jobs and running loads, and followed over time with the core itself."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quota.policy import parse_policy
from quota.tree import WHOLE
from scheduler.fit import Fit, NoFit, fits_eligible
from scheduler.model import Admit, Preempt, Reserve

sys.path.insert(0, str(Path(__file__).parent))
from cluster import MINUTE_MS, Cluster
from guarantees import borrowers, denied, keep, overtaken, world_of

LONG_MINUTES = 10_000
"""A walltime that nothing of a test outlives."""
LONG = st.just(LONG_MINUTES)
LONGEST_GRACE_MINUTES = 5


def entries(plan, kind):
    return [entry for entry in plan.entries if isinstance(entry, kind)]


def policy_of(tree, **more):
    ground = {"kind": "order", "body": "authorised body", "number": "7", "date": "2025-12-25"}
    document = {"version": "1", "effective_from": "2026-01-01", "grounds": [ground], "tree": tree}
    return parse_policy({"policy": document | {"routes": [{"queue": _first(tree)}]} | more})


def _first(tree):
    name, node = next(iter(tree.items()))
    below = (node or {}).get("children")
    return f"{name}/{_first(below)}" if below else name


@st.composite
def trees(draw, gpus, depth=2):
    """A tree of at most three levels whose children share `gpus` GPUs among them, and its queues."""
    count = draw(st.integers(2, 3))
    cuts = sorted(draw(st.lists(st.integers(0, gpus), min_size=count, max_size=count)))
    tree, queues = {}, []
    for number, nominal in enumerate(b - a for a, b in zip([0, *cuts], cuts, strict=False)):
        name = "abc"[number]
        node = {"nominal": nominal}
        limit = draw(st.sampled_from([None, None, None, "borrowing_limit", "lending_limit"]))
        if limit is not None:
            node[limit] = draw(st.integers(0, gpus))
        if depth and draw(st.integers(0, 2)) == 0:
            node["children"], below = draw(trees(nominal, depth - 1))
            queues += [f"{name}/{queue}" for queue in below]
        else:
            node["preemption"] = {"grace": f"{draw(st.sampled_from([1, 2, LONGEST_GRACE_MINUTES]))}m"}
            queues.append(name)
        tree[name] = node
    return tree, queues


@st.composite
def loads(draw, wall=LONG):
    """A cluster of a random tree with a random running load, and jobs that come to it."""
    sizes = draw(st.lists(st.sampled_from([2, 4, 8]), min_size=1, max_size=4))
    tree, queues = draw(trees(sum(sizes)))
    planned = {
        "start_reservations": draw(st.sampled_from([0, 0, 1, 4])),
        "borrowed_reservations": draw(st.sampled_from([1, 1, 4])),
    }
    cluster = Cluster(policy_of(tree, **planned), sizes)
    job = st.tuples(
        st.sampled_from([1, 1, 2, 2, 3, 4, 8]), st.sampled_from(queues), wall, st.sampled_from([0, 0, 1])
    )
    for _ in range(draw(st.integers(1, 3))):
        for gpus, queue, minutes, priority in draw(st.lists(job, max_size=8)):
            cluster.submit(min(gpus, sum(sizes)), queue, minutes, priority=priority)
        cluster.cycle()
        cluster.advance(draw(st.integers(1, 30)))
        for name in sorted(cluster.live):
            if draw(st.integers(0, 3)) == 0:
                cluster.live[name] = replace(cluster.live[name], checkpoint_ms=cluster.at_ms)
    for gpus, queue, minutes, priority in draw(st.lists(job, min_size=1, max_size=5)):
        cluster.submit(min(gpus, sum(sizes)), queue, minutes, priority=priority)
    return cluster


def run_on(attempt):
    """The attempt as if it had got no notice."""
    return replace(attempt, stop_ms=None, reclaimed_by=None)


@given(loads())
def test_no_eviction_is_useless(cluster):
    """Whoever got notices sent starts where it was told, and no later: followed over time."""
    plan = cluster.cycle()
    told = {entry.job_id: entry for entry in entries(plan, Reserve) if entry.is_reclaim}
    assert {entry.for_job for entry in entries(plan, Preempt)} <= set(told)
    while told:
        cluster.advance(1)
        for entry in entries(cluster.cycle(), Admit):
            before = told.pop(entry.job_id, None)
            if before is not None:
                assert cluster.at_ms <= before.start_ms  # sooner on what another reclaim freed
                assert tuple((slot.node, len(slot.gpu_uuids)) for slot in entry.slots) == before.place
        assert all(entry.start_ms > cluster.at_ms for entry in told.values())
        assert not set(told) - set(cluster.pending)


@given(loads())
def test_victims_are_minimal_by_inclusion(cluster):
    """Were any one victim to run on, the reclaimer would find no place when it is to start: so says `fit`."""
    plan = cluster.cycle()
    reclaimers = {entry.for_job for entry in entries(plan, Preempt)}
    if len(reclaimers) != 1:
        return  # several share what they free: the cycle's last step has its examples in test_turns
    (reclaim,) = [entry for entry in entries(plan, Reserve) if entry.job_id in reclaimers]
    job = cluster.pending[reclaim.job_id]
    victims = {entry.attempt_id for entry in entries(plan, Preempt)}
    ended = {
        name
        for name, found in cluster.live.items()
        if (found.stop_ms or reclaim.start_ms + 1) <= reclaim.start_ms
    }
    assert victims <= ended
    then = replace(cluster.snapshot(), at_ms=reclaim.start_ms, pending=(job,), reservations=())

    def found(spared=frozenset()):
        live = (run_on(attempt) if attempt.id in spared else attempt for attempt in then.live)
        world = world_of(replace(then, live=tuple(live)), cluster.policy, ended - spared)
        for kept in cluster.reservations:
            if kept.job_id != job.id:
                other = cluster.pending[kept.job_id]
                keep(world, kept, other, other.queue, is_begun=True)
        return fits_eligible(job, world)

    assert isinstance(found(), Fit)
    assert all(isinstance(found({victim}), NoFit) for victim in victims)


@given(loads())
def test_victims_are_borrowers_of_other_queues_and_lose_least(cluster):
    """No victim is taken while one on the same nodes, of as many GPUs there, has lower priority or loses less.

    Nor is one a victim again that is under notice already.
    """
    snapshot = cluster.snapshot()
    stopping = {attempt.id for attempt in snapshot.live if attempt.stop_ms is not None}
    lent = borrowers(snapshot, cluster.policy)
    plan = cluster.cycle()
    victims = {entry.attempt_id: entry.for_job for entry in entries(plan, Preempt)}
    assert not stopping & set(victims)
    runs = world_of(snapshot, cluster.policy).profiles["h200"].runs
    for name, job_id in victims.items():
        queue = cluster.pending[job_id].queue
        assert name in set().union(*(found for other, found in lent.items() if other != queue))
        mine = runs[name]
        for other in (
            set().union(*(found for its, found in lent.items() if its != queue)) - set(victims) - stopping
        ):
            its = runs[other]
            is_alike = (its.picks, its.queue, its.grace_ms) == (mine.picks, mine.queue, mine.grace_ms)
            if is_alike:
                loss = (mine.priority, mine.lost(snapshot.at_ms))
                assert loss <= (its.priority, its.lost(snapshot.at_ms))


@given(loads())
def test_reclaim_ends_and_nobody_evicts_each_other_in_turn(cluster):
    """Work that never ends on a cluster that nothing comes to any more: soon nobody gets notice."""
    jobs = len(cluster.known)
    for _ in range(jobs * (LONGEST_GRACE_MINUTES + 1)):
        cluster.cycle()
        cluster.advance(1)
    settled = len(cluster.log)
    for _ in range(3 * LONGEST_GRACE_MINUTES):
        plan = cluster.cycle()
        cluster.advance(1)
        assert entries(plan, Preempt) == []
        assert entries(plan, Admit) == []
    assert len(cluster.log) == settled
    notices = Counter(entry[1:] for entry in cluster.log if entry[0] == "notice")
    assert all((other, mine) not in notices for mine, other in notices)
    assert all(times == 1 for times in notices.values())


@given(loads(wall=st.sampled_from([3, 7, 20, LONG_MINUTES])), st.data())
def test_no_borrower_denies_a_guarantee_longer_than_its_grace(cluster, data):
    """Whatever comes, who is kept from its guarantee by a borrower runs a grace and a cycle later."""
    queues = sorted({job.queue for job in cluster.known.values()})
    since = {}
    for _ in range(25):
        before = cluster.snapshot()
        plan = cluster.cycle()
        assert overtaken(before, cluster.policy, plan) == set()
        now = denied(cluster.snapshot(), cluster.policy)
        since = {job_id: since.get(job_id, cluster.at_ms) for job_id in now}
        assert all(cluster.at_ms - at_ms <= LONGEST_GRACE_MINUTES * MINUTE_MS for at_ms in since.values())
        for entry in entries(plan, Preempt):
            assert entry.stop_ms <= cluster.at_ms + LONGEST_GRACE_MINUTES * MINUTE_MS
        cluster.advance(1)
        if data.draw(st.booleans()):
            minutes = data.draw(st.sampled_from([2, 3, 4, 30]))
            cluster.submit(data.draw(st.integers(1, 2)), data.draw(st.sampled_from(queues)), minutes)


LANDS_BY = 60 + 30 + 2 + 2
"""Minutes: a gang's age, the longest walltime, a grace and the cycles between."""


def lands(sizes, reservations, walls, *, is_shared):
    """Minutes until a gang of the whole nominal starts under a flood; nothing of its queue overtakes it once aged."""
    total = sum(sizes)
    nominal = total - 2 if is_shared else total
    tree = {"q": {"nominal": nominal, "preemption": {"grace": "2m"}}}
    tree["r"] = {"nominal": total - nominal, "preemption": {"grace": "2m"}}
    policy = policy_of(tree, aging={"full_after": "1h"}, start_reservations=reservations)
    cluster = Cluster(policy, sizes)
    coming = iter(walls * 1_000)
    for _ in range(total):
        cluster.submit(1, "q", next(coming))
    cluster.cycle()
    gang, came_ms = cluster.submit(nominal, "q", 60), cluster.at_ms
    while gang in cluster.pending:
        for queue in ("q", "q", "r") if is_shared else ("q", "q"):
            cluster.submit(1, queue, next(coming))
        before = cluster.snapshot()
        assert overtaken(before, policy, cluster.cycle()) == set()
        cluster.advance(1)
        assert cluster.at_ms - came_ms <= 2 * LANDS_BY * MINUTE_MS
    return (cluster.at_ms - came_ms) // MINUTE_MS


@given(
    st.lists(st.sampled_from([4, 8]), min_size=1, max_size=3),
    st.sampled_from([0, 1, 3]),
    st.lists(st.sampled_from([1, 3, 5, 10, 30]), min_size=5, max_size=40),
    st.booleans(),
)
@example(
    [8], 0, [30, 1, 3, 5, 10, 10, 30, 10, 30, 5, 30], True
)  # of those that looked again a later one was first
@example([4, 8], 3, [30, 30, 5, 1, 5], True)  # "r" starts its second job beside the gang's planned nodes
def test_a_gang_of_the_whole_nominal_lands_under_an_endless_flood(sizes, reservations, walls, is_shared):
    """Where another queue's entitled jobs may part the nodes, later by as long as these run."""
    minutes = lands(sizes, reservations, walls, is_shared=is_shared)
    assert minutes <= LANDS_BY + (max(walls) if is_shared else 0)


@pytest.mark.parametrize(
    ("reservations", "walls"),
    [
        (3, [10, 3, 3, 5, 3, 30, 3, 5, 10, 5]),  # the same, told before it was aged
        (0, [3, 30, 10, 5, 30, 3, 1, 5]),  # an entitled job of "r" took the place of a borrowed start
    ],
)
def test_a_gang_keeps_its_start_from_another_queue(reservations, walls):
    assert lands([4, 8], reservations, walls, is_shared=True) <= LANDS_BY


@given(
    st.lists(st.sampled_from([4, 8]), min_size=1, max_size=3),
    st.sampled_from([1, 2, 16]),
    st.lists(st.tuples(st.integers(1, 8), st.sampled_from([2, 9, 31, 200])), min_size=3, max_size=25),
    st.data(),
)
def test_no_lower_ordered_job_delays_a_planned_start(sizes, reservations, jobs, data):
    """Later jobs come all the time, and some end early: only who stands before a job may put its planned start off.

    All are of one queue and entitled or borrowed as room allows; one that stands before others may take its start
    sooner when something ends early, and they then give way to it.
    """
    planned = {"start_reservations": reservations, "borrowed_reservations": reservations}
    cluster = Cluster(policy_of({"q": {"nominal": sum(sizes)}}, **planned), sizes)
    told = {}
    for gpus, minutes in jobs:
        cluster.submit(min(gpus, sum(sizes)), "q", minutes)
        plan = cluster.cycle()
        for entry in entries(plan, Admit):
            assert told.pop(entry.job_id, plan.at_ms) >= plan.at_ms
        now = {entry.job_id: entry.start_ms for entry in entries(plan, Reserve)}
        changed = {job_id for job_id in now if now[job_id] != told.get(job_id)}
        changed |= {entry.job_id for entry in entries(plan, Admit)}
        later = {job_id for job_id in told if job_id not in now or now[job_id] > told[job_id]}
        assert all(min(changed, default=job_id) < job_id for job_id in later)
        told = now
        cluster.advance(1)
        if cluster.live and data.draw(st.integers(0, 5)) == 0:
            cluster.finish(data.draw(st.sampled_from(sorted(cluster.live))))


def test_an_aged_gang_that_took_back_is_overtaken_by_no_later_job_of_its_queue():
    """The room beside it while its victim has its grace is not given to those behind it, nor once it has waited on."""
    tree = {
        name: {"nominal": nominal, "preemption": {"grace": "2m"}} for name, nominal in (("q", 6), ("r", 2))
    }
    policy = policy_of(tree, aging={"full_after": "1h"}, start_reservations=0)
    cluster = Cluster(policy, [8])
    for _ in range(3):
        cluster.submit(1, "r", 300)
    cluster.submit(2, "q", 61)
    cluster.cycle()
    cluster.submit(3, "q", 61)
    cluster.cycle()
    gang = cluster.submit(6, "q", 60)
    cluster.advance(59)
    cluster.cycle()
    cluster.advance(1)
    later = cluster.submit(1, "q", 1)
    for _ in range(3):
        before = cluster.snapshot()
        plan = cluster.cycle()
        assert overtaken(before, policy, plan) == set()
        cluster.advance(1)
    assert gang not in cluster.pending
    assert later in cluster.pending


@pytest.mark.parametrize("reservations", [0, 1])
def test_a_stream_of_short_borrowers_denies_no_guarantee(reservations):
    """Each ends before its grace would, so none gets notice; the room that they leave is the owner's all the same.

    Found as a property: the owner's own start came sooner than taking back could buy, was not planned as no place
    among the planned starts was left, and the next borrower took what the last one left.
    """
    tree = {"a": {"nominal": 0, "preemption": {"grace": "5m"}}, "b": {"nominal": 8}}
    cluster = Cluster(policy_of(tree, start_reservations=reservations), [8])
    for _ in range(6):
        for _ in range(4):
            cluster.submit(1, "a", 3)
        cluster.cycle()
        cluster.advance(1)
    owner = cluster.submit(8, "b", 60)
    for _ in range(4):
        for _ in range(4):
            cluster.submit(1, "a", 3)
        cluster.cycle()
        cluster.advance(1)
    assert owner not in cluster.pending


def test_the_checks_can_fail():
    """A job that a borrower keeps out is found denied until its notice is sent."""
    tree = {name: {"nominal": 4, "preemption": {"grace": "2m"}} for name in "ab"}
    cluster = Cluster(policy_of(tree), [8])
    cluster.submit(8, "a", LONG_MINUTES)
    cluster.cycle()
    cluster.advance(1)
    job = cluster.submit(4, "b", 10)
    assert denied(cluster.snapshot(), cluster.policy) == {job}
    assert WHOLE in world_of(cluster.snapshot(), cluster.policy).shares
    cluster.cycle()
    assert denied(cluster.snapshot(), cluster.policy) == set()


def test_a_reclaimer_starts_on_what_the_sparing_of_anothers_victim_leaves():
    """The first takes back where least is lost, the second a larger one, in whose room the first finds place as well.

    Then the first one's victim runs on, and the second starts at once on what was kept for the first.
    """
    tree = {"a": {"nominal": 0, "preemption": {"grace": "1m"}}, "b": {"nominal": 5}}
    cluster = Cluster(policy_of(tree, start_reservations=0), [4, 4])
    small = cluster.submit(1, "a", LONG_MINUTES)
    cluster.submit(2, "b", LONG_MINUTES)
    large = cluster.submit(4, "a", LONG_MINUTES, priority=1)
    cluster.cycle()
    cluster.advance(2)
    first, second = cluster.submit(2, "b", LONG_MINUTES), cluster.submit(1, "b", LONG_MINUTES)
    plan = cluster.cycle()
    assert [entry.job_id for entry in entries(plan, Admit)] == [second]
    assert {(entry.attempt_id, entry.for_job) for entry in entries(plan, Preempt)} == {(f"{large}-1", first)}
    assert f"{small}-1" in cluster.live


def test_a_victim_of_a_start_planned_for_later_is_taken_back_for_who_is_entitled_now():
    """It would go on borrowing until its notice is sent, and deny the guarantee of the queue as long."""
    tree = {"a": {"nominal": 3}, "b": {"nominal": 1, "preemption": {"grace": "1m"}}}
    cluster = Cluster(policy_of(tree, start_reservations=4), [4])
    for _ in range(2):
        cluster.submit(1, "a", LONG_MINUTES)
    cluster.cycle()
    cluster.advance(1)
    borrower = cluster.submit(2, "b", LONG_MINUTES)
    cluster.cycle()
    cluster.advance(1)
    head = cluster.submit(3, "a", 3)
    (planned,) = entries(cluster.cycle(), Reserve)
    cluster.advance(1)
    small = cluster.submit(1, "a", 2)
    plan = cluster.cycle()
    assert {(entry.attempt_id, entry.for_job) for entry in entries(plan, Preempt)} == {
        (f"{borrower}-1", small)
    }
    told = {entry.job_id: entry.start_ms for entry in entries(plan, Reserve)}
    assert told == {head: planned.start_ms, small: cluster.at_ms + MINUTE_MS}
