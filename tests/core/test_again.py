"""A cycle planned again at the same instant starts and evicts nothing more. Each case is one in which it did.

Found by random clusters: what keeps a job waiting must be known in full, and a planned start must stand as it was told.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from scheduler.model import (
    Admit,
    Array,
    JobId,
    JobState,
    LiveAttempt,
    Preempt,
    ReasonCode,
    Reservation,
    Reserve,
    ShareClass,
    Slot,
    Wait,
)
from scheduler.plan import make_plan

sys.path.insert(0, str(Path(__file__).parent))
from cluster import MINUTE_MS, PROJECT, Cluster

FOR_ALL = {"start_reservations": 6, "borrowed_reservations": 6}


def run(cluster, queue, place, until, *, since=9, grace=1, **rest):
    """Something runs on "n0:2 n1:1" (GPUs of each node) for so many minutes more."""
    taken = {uuid for attempt in cluster.live.values() for slot in attempt.slots for uuid in slot.gpu_uuids}
    slots = []
    for name, gpus in (item.split(":") for item in place.split()):
        free = [uuid for uuid in cluster.nodes[name].gpu_uuids if uuid not in taken]
        slots.append(Slot(name, tuple(free[: int(gpus)])))
    gpus = sum(len(slot.gpu_uuids) for slot in slots)
    since_ms = cluster.at_ms - since * MINUTE_MS
    job = cluster.pending.pop(cluster.submit(gpus, queue, since + until))
    attempt = LiveAttempt(
        id=f"{job.id}-1",
        job_id=job.id,
        project_id=PROJECT,
        queue=queue,
        request=job.request,
        slots=tuple(slots),
        state=JobState.RUNNING,
        admitted_ms=since_ms,
        committed_ms=since_ms,
        admitted_seq=cluster.submitted,
        grace_s=grace * 60,
        **rest,
    )
    cluster.live[attempt.id] = attempt


def stands(cluster, job_id, minutes, place, share_class=ShareClass.BORROWED):
    """The job was told a start a minute ago."""
    nodes = tuple((name, int(gpus)) for name, gpus in (item.split(":") for item in place.split()))
    start_ms, planned_ms = cluster.at_ms + minutes * MINUTE_MS, cluster.at_ms - MINUTE_MS
    kept = Reservation(job_id, start_ms, nodes, "h200", share_class, planned_ms)
    cluster.reservations = (*cluster.reservations, kept)


def settled(cluster):
    """The plan of a cycle that has nothing left to do when it is planned again: (starts, planned starts, reasons)."""
    plan = cluster.cycle()
    more = [entry for entry in cluster.plan().entries if isinstance(entry, Admit | Preempt)]
    assert more == []
    starts = [entry.job_id for entry in plan.entries if isinstance(entry, Admit)]
    planned = {
        entry.job_id: (entry.start_ms - cluster.at_ms) // MINUTE_MS
        for entry in plan.entries
        if isinstance(entry, Reserve)
    }
    return starts, planned, {entry.job_id: entry.reason for entry in plan.entries if isinstance(entry, Wait)}


def test_a_planned_start_that_counts_against_a_limit_moves(build):
    """p may hold 2 in all. Its head could start at once but for another queue's entitled job, and goes last."""
    tree = {
        "a": {"nominal": 0},
        "p": {"nominal": 2, "borrowing_limit": 0, "children": {"b": {"nominal": 1}, "c": {"nominal": 1}}},
    }
    cluster = Cluster(build.policy(tree, **FOR_ALL), [2, 4])
    head = cluster.submit(2, "p/b", 300, nodes=1)
    behind = cluster.submit(1, "p/b", 10)
    other = cluster.submit(1, "p/c", 10)
    starts, planned, _ = settled(cluster)
    assert starts == [other, behind]
    assert planned == {head: 10}


def test_an_aged_job_whose_array_is_full_shields_its_queue_no_more(build):
    tree = {"b": {"nominal": 4}, "c": {"nominal": 4}}
    cluster = Cluster(build.policy(tree, aging={"full_after": "5m"}, start_reservations=0), [8])
    run(cluster, "c", "n0:4", 30)
    array = Array(JobId(9), 1)
    first = cluster.submit(2, "b", 300, array=array)
    aged = cluster.submit(4, "c", 10, array=array)
    cluster.at_ms += 9 * MINUTE_MS
    later = cluster.submit(2, "c", 3)
    starts, _, reasons = settled(cluster)
    assert (starts, reasons) == ([first, later], {aged: ReasonCode.ARRAY_CAP})


def test_a_start_that_would_be_taken_back_for_waits_while_its_victims_run(build):
    """A GPU of its place is free before, and is the head's of its own queue until the victim goes."""
    tree = {"a": {"nominal": 5}, "b": {"nominal": 0}}
    cluster = Cluster(build.policy(tree, start_reservations=0), [4, 4])
    run(cluster, "b", "n1:2 n0:1", 1)
    run(cluster, "b", "n1:1", 40, grace=5)
    run(cluster, "a", "n0:3", 10)
    head = cluster.submit(4, "a", 10)
    behind = cluster.submit(1, "a", 50)
    stands(cluster, head, 1, "n1:3 n0:1")
    starts, planned, reasons = settled(cluster)
    assert (starts, planned) == ([], {head: 1, behind: 5})
    assert reasons[behind] is ReasonCode.RECLAIMING
    cluster.advance(1)
    assert settled(cluster)[0] == [head]
    cluster.advance(4)
    assert settled(cluster)[0] == [behind]


def test_a_planned_start_stands_on_what_another_takes_back(build):
    """The second start takes back two GPUs for one of its own; the first stands on the other, beside a start of now."""
    tree = {"a": {"nominal": 4}, "b": {"nominal": 2}, "c": {"nominal": 0}, "x": {"nominal": 0}}
    cluster = Cluster(build.policy(tree, start_reservations=6), [8])
    run(cluster, "x", "n0:2", 50)
    run(cluster, "b", "n0:1", 48)
    run(cluster, "a", "n0:1", 18)
    run(cluster, "x", "n0:1", 8)
    run(cluster, "b", "n0:1", 8)
    first = cluster.submit(4, "b", 40)
    second = cluster.submit(1, "b", 30)
    now = cluster.submit(1, "c", 30)
    stands(cluster, first, 8, "n0:4")
    stands(cluster, second, 8, "n0:1", ShareClass.ENTITLED)
    starts, planned, _ = settled(cluster)
    assert (starts, planned) == ([now], {first: 8, second: 8})
    cluster.advance(1)
    assert settled(cluster)[1] == {first: 7, second: 7}


def test_a_borrowed_start_is_within_the_nominal_once_what_it_waits_for_has_ended(build):
    """So a later job of its queue is not entitled beside it: it takes nothing back, and cannot put it off."""
    tree = {"a": {"nominal": 4}, "b": {"nominal": 2}, "x": {"nominal": 0}}
    cluster = Cluster(build.policy(tree, start_reservations=2, borrowed_reservations=2), [2, 8])
    run(cluster, "b", "n1:2", 27)
    run(cluster, "x", "n1:1", 28)
    run(cluster, "a", "n1:2", 27)
    run(cluster, "b", "n1:1", 27)
    first = cluster.submit(2, "a", 2, nodes=2)
    second = cluster.submit(1, "a", 7)
    stands(cluster, first, 0, "n0:1 n1:1", ShareClass.ENTITLED)
    stands(cluster, second, 2, "n0:1", ShareClass.ENTITLED)
    head = cluster.submit(2, "a", 7, nodes=1)
    later = cluster.submit(2, "a", 4, nodes=2)
    small = cluster.submit(1, "a", 5, nodes=1)
    starts, planned, reasons = settled(cluster)
    assert (starts, planned[head]) == ([first, second], 2)
    assert planned[later] == 9
    assert reasons[small] is ReasonCode.RESERVED_FOR


def test_a_planned_start_stands_though_what_was_planned_behind_it_takes_up_the_limit(build):
    """p/b lends one GPU of two. Beside the gang that is to borrow it, an entitled start was planned, which may."""
    children = {"b": {"nominal": 2, "lending_limit": 1}, "c": {"nominal": 3}}
    tree = {"a": {"nominal": 3}, "p": {"nominal": 5, "children": children}}
    cluster = Cluster(build.policy(tree, **FOR_ALL), [8, 4])
    first = [cluster.submit(1, "p/c", 9), cluster.submit(3, "a", 2)]
    cluster.submit(4, "p/b", 3, nodes=2)
    gang = cluster.submit(10, "p/c", 9)
    first.append(cluster.submit(2, "p/c", 2, nodes=1))
    cluster.submit(2, "p/c", 30)
    cluster.submit(3, "a", 9)
    starts, planned, _ = settled(cluster)
    assert sorted(starts) == sorted(first)
    assert planned[gang] == 5


def test_who_starts_after_all_makes_others_look_again(build):
    """A reclaim proves needless when another's victims end in time; who waited for its start then plans anew."""
    tree = {
        "a": {"nominal": 7, "borrowing_limit": 8, "preemption": {"grace": "1m"}},
        "p": {
            "nominal": 5,
            "borrowing_limit": 7,
            "children": {"b": {"nominal": 3}, "c": {"nominal": 2, "lending_limit": 1}},
        },
        "x": {"nominal": 0},
    }
    cluster = Cluster(build.policy(tree, start_reservations=2, borrowed_reservations=2), [8, 2, 8])
    run(cluster, "p/c", "n1:1", 9)
    run(cluster, "a", "n0:3", 2)
    run(cluster, "a", "n0:1 n2:1", 44)
    run(cluster, "x", "n2:1", 44, grace=2)
    run(cluster, "x", "n0:1", 44, grace=2)
    run(cluster, "a", "n0:2", 9)
    run(cluster, "x", "n2:1", 9, grace=2)
    run(cluster, "p/c", "n2:4", 44)
    run(cluster, "p/c", "n0:1", 44)
    run(cluster, "p/b", "n1:1", 44)
    first = cluster.submit(4, "a", 300)
    stands(cluster, first, 2, "n0:3 n2:1")
    small = cluster.submit(1, "a", 3)
    second = cluster.submit(2, "a", 300, nodes=1)
    starts, planned, _ = settled(cluster)
    assert (starts, planned) == ([small], {first: 2, second: 2})


def test_who_takes_nothing_back_for_a_planned_start_that_is_given_up_takes_back_then(build):
    """The head loses its place in its array to a start of another queue: the room that it was told is the owner's."""
    tree = {"a": {"nominal": 4}, "b": {"nominal": 4}, "x": {"nominal": 0}}
    cluster = Cluster(build.policy(tree, **FOR_ALL), [4, 4])
    run(cluster, "x", "n0:2 n1:2", 38)
    array = Array(JobId(2), 1)
    head = cluster.submit(8, "a", 10, is_expedited=True, array=array)
    stands(cluster, head, 38, "n0:4 n1:4")
    owner = cluster.submit(4, "a", 60, nodes=1)
    sibling = cluster.submit(1, "b", 10, array=array)
    starts, planned, reasons = settled(cluster)
    assert (starts, list(planned)) == ([sibling], [owner])
    assert reasons == {head: ReasonCode.ARRAY_CAP, owner: ReasonCode.RECLAIMING}


def test_nobody_gets_notice_in_place_of_one_that_has_just_begun(build):
    """Those who start over a planned start can have their notice later; the other's would have to go now."""
    tree = {"a": {"nominal": 3}, "b": {"nominal": 1}, "c": {"nominal": 2}, "x": {"nominal": 0}}
    tree["x"]["preemption"] = {"grace": "1m"}
    cluster = Cluster(build.policy(tree, start_reservations=0), [4, 4])
    run(cluster, "c", "n1:2", 5)
    run(cluster, "a", "n1:1", 48)
    run(cluster, "b", "n0:1 n1:1", 8, grace=5)
    run(cluster, "b", "n0:1", 30)
    owner = cluster.submit(2, "a", 20, nodes=2)
    over = [cluster.submit(1, "x", 10), cluster.submit(1, "x", 40)]
    starts, planned, _ = settled(cluster)
    assert (starts, planned) == (over, {owner: 5})


def test_who_gives_way_to_an_entitled_start_moves_no_other(build):
    """A start runs past an entitled planned one, which takes its GPUs back in time: what is planned beside it stands."""
    tree = {"a": {"nominal": 2}, "b": {"nominal": 2}, "x": {"nominal": 0, "preemption": {"grace": "1m"}}}
    cluster = Cluster(build.policy(tree, **FOR_ALL), [2, 4])
    run(cluster, "a", "n0:2", 10)
    run(cluster, "b", "n1:2", 90)
    borrower = cluster.submit(2, "x", 40, nodes=2)
    stands(cluster, borrower, 10, "n0:1 n1:1")
    owner = cluster.submit(2, "a", 40, nodes=2)
    stands(cluster, owner, 10, "n0:1 n1:1", ShareClass.ENTITLED)
    over = cluster.submit(1, "x", 60)
    starts, planned, _ = settled(cluster)
    assert (starts, planned) == ([over], {owner: 10, borrower: 10})


def test_nobody_is_evicted_on_a_flavor_that_no_grant_pays_for(build):
    """The job starts nowhere but on the other flavor: what it took back would lie idle."""
    tree = {"a": {"nominal": 2}, "x": {"nominal": 0, "preemption": {"grace": "5m"}}}
    cluster = Cluster(build.policy(tree), [2, 2], ["h200", "h100"])
    run(cluster, "x", "n0:2", 90, grace=5)
    run(cluster, "x", "n1:2", 90, grace=5)
    kinds = {name: cluster.nodes[held.slots[0].node].flavor for name, held in cluster.live.items()}
    cluster.live = {
        name: replace(held, request=replace(held.request, flavors=(kinds[name],)))
        for name, held in cluster.live.items()
    }
    job = cluster.submit(1, "a", 60, flavors=("h200", "h100"))
    for grants, victim in (("h200 h100", "n0"), ("h100", "n1"), ("h200", "n0")):
        snapshot = cluster.snapshot()
        paid = replace(
            snapshot, grants=tuple(grant for grant in snapshot.grants if grant.flavor in grants.split())
        )
        notices = [entry for entry in make_plan(paid, cluster.policy).entries if isinstance(entry, Preempt)]
        assert [entry.for_job for entry in notices] == [job]
        assert [cluster.live[entry.attempt_id].slots[0].node for entry in notices] == [victim]
