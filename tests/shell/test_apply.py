from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from quota import service as quota
from scheduler import apply as applying
from scheduler.apply import Planned, apply
from scheduler.changes import take
from scheduler.dispatch.fake import Script
from scheduler.facts import LaunchCommitted
from scheduler.launch import record
from scheduler.model import JobState
from scheduler.plan import make_plan
from scheduler.replay import replay_all
from scheduler.shutdown import requeue_all_live
from scheduler.snapshot import load
from scheduler.tables import AllocationRow, AttemptRow
from store import clock, journal, lease
from store.engine import snapshot, transaction


def plan_now(world):
    with snapshot(world.engine) as session:
        at = clock.now()
        policy, digest = quota.in_force(session, at)
        plan = make_plan(load(session, at, policy), policy)
    return Planned(plan=plan, policy=policy, policy_digest=digest, release="test")


def apply_now(world, planned, held=None):
    with transaction(world.engine) as session:
        return apply(session, held or world.leader.held, planned)


def records(world, kind):
    with snapshot(world.engine) as session:
        return [record for record in journal.read(session) if record.kind == kind]


def test_an_old_leader_writes_nothing(world):
    world.submit()
    planned, old = plan_now(world), world.leader.held
    world.lead("second")
    before = len(records(world, "cycle.planned"))
    with pytest.raises(lease.StaleEpochError):
        apply_now(world, planned, old)
    assert len(records(world, "cycle.planned")) == before
    assert apply_now(world, planned).admitted


def test_of_two_appliers_of_one_plan_one_wins(world):
    job_id = world.submit()
    planned = plan_now(world)
    start = threading.Barrier(2)

    def race(_):
        start.wait()
        return apply_now(world, planned)

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(race, range(2)))
    assert sorted(len(result.admitted) for result in results) == [0, 1]
    loser = next(result for result in results if not result.admitted)
    assert [found.why for found in loser.rejected] == [applying.JOB_GONE]
    assert not loser.has_effect
    assert world.view(job_id).attempts == 1
    world.check()


def test_a_plan_that_the_world_overtook_is_rejected_by_the_same_fit(world):
    first = world.submit(8)
    planned = plan_now(world)
    world.cancel(first)
    second = world.submit(8)
    world.turn()
    assert world.state(second) is JobState.RUNNING
    assert [found.why for found in apply_now(world, planned).rejected] == [applying.JOB_GONE]
    third = world.submit(4)
    stale = plan_now(world)
    assert not [entry for entry in stale.plan.entries if isinstance(entry, applying.Admit)]
    world.finish(second)
    world.hear()
    good = plan_now(world)
    fourth = world.submit(8, priority=9)
    world.turn()
    assert world.state(fourth) is JobState.RUNNING
    assert [found.why for found in apply_now(world, good).rejected] == ["QUEUE_LIMIT"]
    assert world.state(third) is JobState.PENDING
    world.check_books()  # a plan applied after a later one is replayed by nobody


def test_a_grant_is_claimed_once_when_two_jobs_race_for_its_rest(world):
    project, principal = world.tenant("small", "business")
    world.award(project, 1000)
    ids = [world.submit(1, 600, project=project, principal=principal) for _ in range(2)]
    world.turn()
    assert sorted(world.state(job_id).value for job_id in ids) == ["PENDING", "RUNNING"]
    with snapshot(world.engine) as session:
        assert quota.balances(session, [project.id])[0].balance.remaining_s == 400
    world.check()


def test_the_database_itself_refuses_a_gpu_that_is_held(world):
    held = world.submit(1, 600, Script())
    world.turn()
    with transaction(world.engine) as session:  # as if a row had been left behind
        session.get_one(
            AllocationRow, (f"{held}-1", world.view(held).slots[0].gpu_uuids[0])
        ).released_at = None
    job_id = world.submit(8)
    result = apply_now(world, plan_now(world))
    assert [found.why for found in result.rejected] == [applying.GPU_TAKEN]
    assert world.view(job_id).attempts == 0
    assert world.balance().pending_s == 0
    with transaction(world.engine) as session:
        session.get_one(
            AllocationRow, (f"{held}-1", world.view(held).slots[0].gpu_uuids[0])
        ).released_at = clock.now()
    assert world.turn().admitted
    world.check()


def test_a_transaction_admits_a_bounded_number_and_says_there_is_more(world, monkeypatch):
    monkeypatch.setattr(applying, "MAX_ADMISSIONS", 1)
    world.submit()
    world.submit()
    result = world.turn()
    assert (len(result.admitted), result.is_partial) == (1, True)
    result = world.turn()
    assert (len(result.admitted), result.is_partial) == (1, False)
    world.check()


def test_a_reason_is_written_when_its_code_changes_and_not_again(world, monkeypatch):
    monkeypatch.setattr(applying, "MAX_WAIT_CHANGES", 1)
    world.submit(8)
    ids = [world.submit(8), world.submit(8)]
    world.turn()
    assert world.turn().waits_changed == 1
    assert world.turn().waits_changed == 0
    assert all(world.view(job_id).reason for job_id in ids)
    world.check()


def test_an_attempt_past_its_walltime_is_stopped_by_the_plan(world):
    job_id = world.submit(1, 60)
    world.turn()
    assert world.turn(later_s=60).expired == ()
    assert world.turn(later_s=60 + 61).expired == (f"{job_id}-1",)
    assert world.state(job_id) is JobState.TIMEOUT
    assert world.balance().used_s <= 60
    world.check()


def test_a_launch_result_that_comes_too_late_is_dropped_and_journaled(world):
    job_id = world.submit(1, 600, Script())
    world.turn()
    record(world.leader, LaunchCommitted(f"{job_id}-1", clock.to_ms(clock.now())))
    (dropped,) = records(world, "stale.dropped")
    assert dropped.data == {"attempt_id": f"{job_id}-1", "fact": "LaunchCommitted", "why": "already_ended"}
    world.check()


def test_every_cycle_replays_and_a_changed_one_is_found(world):
    for gpus in (8, 4, 2):
        world.submit(gpus)
        world.turn()
    world.check()
    replayed = replay_all(world.engine)
    assert len(replayed) == 3
    cycle = records(world, "cycle.planned")[-1]
    forged = dict(cycle.data) | {"effects_digest": "0" * 64}
    unknown = dict(cycle.data) | {"policy": "no-such"}
    from dataclasses import replace

    from scheduler.replay import replay

    assert replay(world.engine, cycle).differences == ()
    assert replay(world.engine, replace(cycle, data=forged)).differences
    assert "no-such" in replay(world.engine, replace(cycle, data=unknown)).differences[0]


def test_the_fold_finds_a_table_changed_by_hand(world):
    from scheduler.compare import compare
    from scheduler.fold import fold

    job_id = world.submit()
    world.turn()
    with transaction(world.engine) as session:
        session.get_one(AttemptRow, f"{job_id}-1").claim_s += 1
    with snapshot(world.engine) as session:
        found = compare(session, fold(journal.read(session)))
    assert any(line.startswith(f"attempt {job_id}-1") for line in found)


def test_the_journal_holds_nothing_a_person_wrote(world):
    world.submit(
        1,
        600,
        Script(),
        name="my-secret-name",
        command=("python", "secret.py"),
        env={"TOKEN": "secret"},
        outputs=("secret*",),
    )
    world.turn()
    with snapshot(world.engine) as session:
        assert not [found for found in journal.read(session) if "secret" in str(found.data)]


def test_stopping_the_platform_counts_no_failure_and_keeps_the_place(world):
    running, waiting = world.submit(8), world.submit(8)
    world.turn()
    with transaction(world.engine) as session:
        lease.release(session, world.leader.held, at=datetime(2026, 1, 1, tzinfo=UTC))
    began = time.monotonic()
    assert requeue_all_live(world.engine, world.executor, at=clock.now()) == 1
    assert time.monotonic() - began < 10
    assert [world.view(job_id).place for job_id in (running, waiting)] == [0, 1]
    world.lead("next day")
    world.turn()
    assert [world.state(job_id) for job_id in (running, waiting)] == [JobState.RUNNING, JobState.PENDING]
    world.check()


def test_taking_a_fact_of_an_unknown_job_is_an_error(world):
    from scheduler.changes import UnknownJobError

    with transaction(world.engine) as session, pytest.raises(UnknownJobError):
        take(session, 999, LaunchCommitted("999-1", 1), at=clock.now(), actor="system")
