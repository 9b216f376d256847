"""What comes together is written together, and one that cannot be does not hold back the others."""

from __future__ import annotations

import pytest
from sqlalchemy import event, func, select, text
from sqlalchemy.orm import Session

from quota import service as quota
from scheduler import apply as applying
from scheduler import jobs, nodes
from scheduler import submission as submissions
from scheduler.apply import Planned, apply
from scheduler.asked import ArrayAsked
from scheduler.cycling import cycle
from scheduler.dispatch.fake import Script
from scheduler.facts import LaunchCommitted
from scheduler.launch import record_all
from scheduler.lifecycle import InvalidTransition
from scheduler.model import JobState, ReasonCode, Request
from scheduler.plan import make_plan
from scheduler.snapshot import load
from scheduler.tables import AllocationRow, JobRow
from store import clock
from store.engine import snapshot, transaction


def submission(world, gpus=1, **more):
    fields = {
        "project": world.project,
        "user_id": world.principal.user_id,
        "name": "one",
        "command": ("true",),
    }
    return jobs.Submission(**(fields | {"request": Request(gpus, 600, ("h200",))} | more))


def submit_all(world, asked):
    with transaction(world.engine) as session:
        at = clock.now()
        return jobs.submit_all(session, asked, policy=quota.policy_in_force(session, at), at=at)


def test_submissions_side_by_side_are_jobs_as_any_other(world):
    project, principal = world.tenant("borealis", "business")
    world.award(project)
    other = submission(world, project=project, user_id=principal.user_id, name="two", env={"A": "1"})
    found = submit_all(world, [submission(world, 2), other, submission(world, 1, priority=7)])
    alone = world.submit(1)
    assert sorted({*found, alone}) == [*found, alone]
    assert [world.view(job).text.name for job in found] == ["one", "two", "one"]
    assert [world.view(job).priority for job in found] == [0, 0, 7]
    world.turn()
    assert {world.state(job) for job in found} == {JobState.RUNNING}
    world.check()


def test_of_submissions_side_by_side_all_are_refused_with_the_first(world):
    with pytest.raises(jobs.JobRefusedError, match="can never start"):
        submit_all(world, [submission(world), submission(world, 999)])
    with pytest.raises(ValueError, match="array"):
        submit_all(world, [submission(world), submission(world, array=ArrayAsked(2, 1))])
    with snapshot(world.engine) as session:
        assert session.scalar(select(func.count()).select_from(JobRow)) == 0
    world.check()


def test_each_project_of_submissions_side_by_side_has_its_own_bound(world, monkeypatch):
    monkeypatch.setattr(submissions, "MAX_PENDING_PER_PROJECT", 2)
    project, principal = world.tenant("borealis", "business")
    world.award(project)
    other = submission(world, project=project, user_id=principal.user_id)
    assert len(submit_all(world, [submission(world), other, submission(world), other])) == 4
    for full, slug in ((submission(world), world.project.slug), (other, "borealis")):
        with pytest.raises(jobs.JobRefusedError, match=f"2 jobs of project {slug} wait") as refused:
            submit_all(world, [full])
        assert (refused.value.code, refused.value.numbers) == ("QUEUE_FULL", {"limit": 2, "pending": 2})


def test_what_could_ever_fit_follows_the_nodes(world):
    world.submit(8, nodes=2)
    with transaction(world.engine) as session:
        nodes.drain(session, "n1", at=clock.now(), actor="system")
    with pytest.raises(jobs.JobRefusedError, match="can never start"):
        world.submit(8, nodes=2)
    with transaction(world.engine) as session:
        nodes.resume(session, "n1", at=clock.now(), actor="system")
    world.submit(8, nodes=2)


def test_one_gpu_that_is_held_costs_one_admission(world):
    held = world.submit(1, 600, Script())
    world.turn()
    uuid = world.view(held).slots[0].gpu_uuids[0]
    with transaction(world.engine) as session:  # as if a row had been left behind
        session.get_one(AllocationRow, (f"{held}-1", uuid)).released_at = None
    waiting = [world.submit(2) for _ in range(4)]
    with snapshot(world.engine) as session:
        at = clock.now()
        policy, digest = quota.in_force(session, at)
        plan = make_plan(load(session, at, policy), policy)
    planned = Planned(plan=plan, policy=policy, policy_digest=digest, release="test")
    with transaction(world.engine) as session:
        applied = apply(session, world.leader.held, planned)
    assert [found.why for found in applied.rejected] == [applying.GPU_TAKEN]
    assert len(applied.admitted) == 3
    assert sum(world.view(job).attempts for job in waiting) == 3
    assert world.balance().pending_s == 3 * 2 * 600
    with transaction(world.engine) as session:
        session.get_one(AllocationRow, (f"{held}-1", uuid)).released_at = clock.now()
    world.turn()
    world.check()


def test_a_launch_that_cannot_be_does_not_hold_back_the_records_of_others(world):
    first, second = world.submit(1), world.submit(1)
    world.cycle()
    now_ms = clock.to_ms(clock.now())
    never = LaunchCommitted(f"{first}-9", now_ms)
    facts = [LaunchCommitted(f"{first}-1", now_ms), never, LaunchCommitted(f"{second}-1", now_ms)]
    with pytest.raises(InvalidTransition):
        record_all(world.leader, facts)
    assert [world.kinds(job)[-1] for job in (first, second)] == ["attempt.dispatched"] * 2
    world.check_books()


def drain(world, _):
    with transaction(world.engine) as session:
        nodes.drain(session, "n0", at=clock.now(), actor="system")


def hold(world, waiting):
    with transaction(world.engine) as session:
        jobs.hold(session, world.principal, waiting[0], clock.now())


@pytest.mark.parametrize(
    ("meanwhile", "why"),
    [
        (lambda world, _: world.submit(1), []),
        (lambda world, waiting: world.cancel(waiting[0]), [applying.JOB_GONE]),
        (hold, [ReasonCode.HELD]),
        (drain, [ReasonCode.NO_CAPACITY] * 4),
    ],
    ids=["submitted", "cancelled", "held", "drained"],
)
def test_what_fit_said_holds_unless_something_it_read_changed(world, meanwhile, why):
    world.turn()
    waiting = [world.submit(2) for _ in range(4)]
    at = clock.now()
    with snapshot(world.engine) as session:
        policy, digest = quota.in_force(session, at)
        seen = world.warm.read(session, at, policy)
    plan = make_plan(seen, policy, world.warm.index)
    planned = Planned(plan=plan, policy=policy, policy_digest=digest, release="test", seen=seen)
    assert len(plan.effects) == 4
    meanwhile(world, waiting)
    with transaction(world.engine) as session:
        applied = apply(session, world.leader.held, planned, world.warm)
    assert [found.why for found in applied.rejected] == why
    assert len(applied.admitted) == 4 - len(why)
    world.turn()
    world.check()


def test_of_admissions_that_are_taken_back_at_their_very_end_no_record_is_left(world):
    """The database refuses what is written last, as the savepoint ends: the records were appended before."""
    world.turn()
    job_id = world.submit()
    refused = []

    def refuse(session):
        if session.get_nested_transaction() and not refused:
            refused.append(job_id)
            session.execute(text(f"INSERT INTO jobs SELECT * FROM jobs WHERE id = {job_id}"))

    event.listen(Session, "before_commit", refuse)
    try:
        applied = cycle(world.leader, "test", at=clock.now(), warm=world.warm)
    finally:
        event.remove(Session, "before_commit", refuse)
    assert refused
    assert [found.why for found in applied.rejected] == [applying.GPU_TAKEN]
    assert "job.admitted" not in world.kinds(job_id)
    assert world.turn().admitted == (f"{job_id}-1",)
    world.check()
