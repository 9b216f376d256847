"""A policy for a date to come: it takes force at its midnight in the running scheduler, and queues may be gone."""

from __future__ import annotations

from datetime import datetime, time, timedelta

import pytest

from quota import service as quota
from quota.document import PolicyError
from scheduler.explaining import preview_policy
from scheduler.model import JobState
from store import clock, journal
from store.engine import snapshot, transaction

TREE = {"labs": {"nominal": "25%", "max_walltime": "1d"}, "business": {"nominal": "75%"}}


def tomorrow():
    return clock.now().astimezone(clock.ALMATY).date() + timedelta(days=1)


def document(version, day, tree, **more):
    return {
        "policy": {
            "version": version,
            "effective_from": day.isoformat(),
            "grounds": [
                {"kind": "order", "body": "authorised body", "number": version, "date": "2026-01-20"}
            ],
            "tree": tree,
            "routes": [{"queue": next(iter(tree))}],
            **more,
        }
    }


def enact(world, *args, **more):
    with transaction(world.engine) as session:
        return quota.enact(session, document(*args, **more), at=clock.now(), actor="system")


def cycles(world):
    with snapshot(world.engine) as session:
        return [record.data["policy"] for record in journal.read(session) if record.kind == "cycle.planned"]


def test_a_policy_takes_force_at_its_midnight_without_a_restart(world):
    enact(world, "test-3", tomorrow(), TREE, moves={"science": "labs"})
    running, waiting = world.submit(8, 86_400), world.submit(4, 3_600)
    world.turn()
    assert (world.state(running), world.view(waiting).reason) == (JobState.RUNNING, "QUEUE_LIMIT")
    midnight = datetime.combine(tomorrow(), time(), clock.ALMATY)
    before_s = (midnight - clock.now()).total_seconds() - 5
    world.cycle(later_s=before_s)
    assert set(cycles(world)) == {"test-1"}
    applied = world.cycle(later_s=before_s + 5)
    assert cycles(world)[-1] == "test-3"
    # What ran goes on, and what waited starts: its queue's successor may borrow.
    assert world.state(running) is JobState.RUNNING
    assert applied.admitted == (f"{waiting}-1",)
    assert world.view(running).attempt.share_class == "entitled"
    world.check()


def test_work_of_a_queue_that_is_gone_counts_in_its_successor(world):
    enact(world, "test-3", tomorrow(), TREE, moves={"science": "labs"})
    job_id = world.submit(8, 3_600)
    midnight = datetime.combine(tomorrow(), time(), clock.ALMATY) + timedelta(seconds=1)
    with snapshot(world.engine) as session:
        other = quota.policy_in_force(session, midnight)
        found = preview_policy(session, other, clock.now())
    assert {one.path: one.nominal_after for one in found.queues} == {"business": 12, "labs": 4, "science": 0}
    assert world.cycle(later_s=(midnight - clock.now()).total_seconds()).admitted == (f"{job_id}-1",)
    assert world.view(job_id).attempt.share_class == "borrowed"  # 8 of a nominal of 4
    world.check()


def test_a_queue_that_is_gone_needs_a_successor_for_good(world):
    with pytest.raises(PolicyError) as refused:
        enact(world, "test-3", tomorrow(), TREE)
    assert (refused.value.code, refused.value.path) == ("BAD_POLICY", "policy.moves.science")
    assert "test-1" in str(refused.value)
    enact(world, "test-3", tomorrow(), TREE, moves={"science": "labs"})
    later = tomorrow() + timedelta(days=1)
    with pytest.raises(PolicyError) as refused:
        enact(world, "test-4", later, TREE)
    assert refused.value.path == "policy.moves.science"
    enact(
        world,
        "test-4",
        later,
        {"business": {"nominal": "100%"}},
        moves={"science": "business", "labs": "business"},
    )
