"""What the scheduler keeps from cycle to cycle is what the tables say, however transactions were interleaved."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from quota import service as quota
from scheduler import acts, jobs, telling, warm
from scheduler import apply as applying
from scheduler.apply import Planned, apply
from scheduler.asked import Dependency
from scheduler.cycling import cycle
from scheduler.dispatch.fake import Script
from scheduler.fields import ActKind, DependencyKind
from scheduler.known import Told
from scheduler.model import JobState, Request
from scheduler.plan import make_plan, plan_digest
from scheduler.replay import replay
from scheduler.snapshot import load
from scheduler.tables import JobRow
from scheduler.warm import Warm
from store import clock, journal, lease
from store.engine import snapshot, transaction
from store.tables import JournalRow
from tenants.model import ProjectStatus
from tenants.service import set_project_status


def differences(world, kept):
    with snapshot(world.engine) as session:
        at = clock.now()
        return kept.differences(session, at, quota.policy_in_force(session, at))


def test_a_transaction_that_commits_late_is_taken_when_it_becomes_visible(world):
    kept = Warm()
    assert differences(world, kept) == ()
    with transaction(world.engine) as early:  # its record gets the lower id and is seen last
        asked = jobs.Submission(
            project=world.tenant("boreas", "science")[0],
            user_id=world.principal.user_id,
            name="late",
            command=("true",),
            request=Request(1, 600, ("h200",)),
        )
        world.award(asked.project)
        late = jobs.submit(early, asked, policy=quota.policy_in_force(early, clock.now()), at=clock.now())
        other = world.submit()
        assert other > late.id
        assert differences(world, kept) == ()
        world.cycle()
        assert differences(world, kept) == ()
    assert differences(world, kept) == ()
    assert kept.rebuilds == 1
    world.turn()
    assert {world.state(job) for job in (late.id, other)} == {JobState.RUNNING}
    world.check()


def test_what_a_transaction_writes_after_it_caught_up_is_taken_though_a_younger_one_ended(world):
    kept = Warm()
    assert differences(world, kept) == ()
    asked = jobs.Submission(
        project=world.project,
        user_id=world.principal.user_id,
        name="own",
        command=("true",),
        request=Request(1, 600, ("h200",)),
    )
    with transaction(world.engine) as session:
        lease.fence(session, world.leader.held)
        own = int(session.scalar(text("SELECT pg_current_xact_id()::text")))
        with transaction(world.engine) as younger:
            journal.append(younger, "token.issued", "token:1", actor="system", at=clock.now(), data={})
            assert int(younger.scalar(text("SELECT pg_current_xact_id()::text"))) > own
        policy = quota.policy_in_force(session, clock.now())
        kept.catch_up(session, clock.now(), policy)
        jobs.submit(session, asked, policy=policy, at=clock.now())
    assert differences(world, kept) == ()
    assert kept.rebuilds == 1


def test_what_waits_runs_ends_and_is_set_above_it_is_followed_without_reading_the_tables(world):
    first = world.submit(2, 600, Script())
    world.turn()
    ok = (Dependency(first, DependencyKind.AFTER_OK),)
    not_ok = (Dependency(first, DependencyKind.AFTER_NOT_OK),)
    running = world.submit(2, 600)
    after = [world.submit(1, 600, depends_on=found) for found in (ok, not_ok)]
    on_live = world.submit(1, 600, depends_on=(Dependency(running, DependencyKind.AFTER_OK),))
    world.turn()
    assert [world.state(job) for job in after] == [JobState.RUNNING, JobState.PENDING]
    asked = acts.NewAct(ActKind.PAUSE, None, "science", "a test", clock.now() + timedelta(hours=1))
    with transaction(world.engine) as session:
        acts.set_act(session, asked, user_id=world.principal.user_id, at=clock.now())
    paused = world.submit(1, 600)
    world.turn()
    assert world.view(paused).reason == "PAUSED"
    world.finish(running)
    world.hear()
    world.turn(later_s=3_700)  # the act has expired
    assert [world.state(job) for job in (on_live, paused)] == [JobState.RUNNING, JobState.RUNNING]
    with transaction(world.engine) as session:
        set_project_status(session, world.project.id, ProjectStatus.SUSPENDED, actor="system", at=clock.now())
    with pytest.raises(jobs.JobRefusedError):
        world.submit(1, 600)
    world.lose("n0")
    world.turn()
    assert world.warm.rebuilds == 1
    world.check()


def test_a_record_of_an_unknown_kind_has_the_tables_read_anew(world):
    world.turn()
    with transaction(world.engine) as session:
        session.add(JournalRow(at=clock.now(), kind="moon.rose", subject="moon:1", actor="system", data={}))
    world.submit()
    world.turn()
    assert world.warm.rebuilds == 2


def test_a_record_that_does_not_follow_has_the_tables_read_anew(world):
    world.turn()
    with transaction(world.engine) as session:
        data = {"attempt_id": "7-1", "amount_s": 1}
        journal.append(
            session, "ledger.posted", f"grant:{world.grant.id}", actor="system", at=clock.now(), data=data
        )
    world.submit()
    assert world.turn().admitted
    assert world.warm.rebuilds == 2


@pytest.mark.parametrize(("most", "rebuilds"), [(2, 1), (1, 2)])
def test_more_records_than_are_folded_at_once_have_the_tables_read_anew(world, monkeypatch, most, rebuilds):
    world.turn()
    monkeypatch.setattr(warm, "MAX_RECORDS", most)
    for _ in range(2):
        world.submit(is_held=True)
    differences(world, world.warm)
    assert world.warm.rebuilds == rebuilds


def test_a_table_changed_by_hand_is_found_journaled_and_read_anew(world, monkeypatch):
    job_id = world.submit(is_held=True)
    world.turn()
    with transaction(world.engine) as session:
        session.get_one(JobRow, job_id).priority = 5
    monkeypatch.setattr(world.warm, "_compare_at", 0.0)
    world.turn()
    with snapshot(world.engine) as session:
        (told,) = journal.of_kind(session, "snapshot.differed")
    assert told.data == {"parts": ["pending"]}
    assert world.warm.rebuilds == 2


def test_reasons_are_told_a_part_at_a_time_and_reach_everyone(world, monkeypatch):
    monkeypatch.setattr(applying, "MAX_REASONS", 2)
    monkeypatch.setattr(applying, "MAX_REASONS_BESIDE", 2)
    waiting = [world.submit(8) for _ in range(6)]
    counts = [world.turn().waits_changed for _ in range(5)]
    assert max(counts) == 2
    told = [world.view(job).reason for job in waiting if world.state(job) is JobState.PENDING]
    assert len(told) == 5
    assert all(told)
    with transaction(world.engine) as session:
        for job in waiting[3:]:
            session.get_one(JobRow, job).is_held = True  # by hand, so that all reasons have to change
    world.warm.forget("a test changed the tables")
    for later_s in range(1, 5):
        world.turn(later_s=later_s)
    assert {world.view(job).reason for job in waiting[3:]} == {"HELD"}


def test_reasons_of_a_long_queue_are_told_again_once_a_second_and_first_ones_at_once(world, monkeypatch):
    monkeypatch.setattr(telling, "TOLD_AT_ONCE", 3)
    for _ in range(5):
        world.submit(8)
    world.turn()
    world.turn(later_s=1)  # what was told is read back
    known = world.warm.kept
    told = [job_id for job_id in range(2, 6) if known.reason(job_id)]
    assert len(told) == 4
    at_ms = clock.to_ms(clock.now()) + 10_000
    asked = known.to_tell(100, at_ms)
    assert asked == known.to_tell(100, at_ms)  # to ask moves nothing
    assert asked.job_ids == frozenset(told)  # long ago
    known.round = asked.after
    assert known.to_tell(100, at_ms).job_ids == frozenset()
    new = world.submit(8)
    with snapshot(world.engine) as session:
        world.warm.read(session, clock.now(), quota.policy_in_force(session, clock.now()))
    assert known.to_tell(100, at_ms).job_ids == {new}


def test_reasons_that_change_together_are_written_in_cycles_that_follow_each_other_at_once(
    world, monkeypatch
):
    monkeypatch.setattr(telling, "TOLD_AT_ONCE", 3)
    monkeypatch.setattr(applying, "MAX_WAIT_CHANGES", 2)
    world.submit(8)  # fills the queue's half of the nodes
    waiting = [world.submit(8) for _ in range(7)]
    for later_s in range(1, 9):
        world.turn(later_s=later_s)
    asked = acts.NewAct(ActKind.PAUSE, None, "science", "a test", clock.now() + timedelta(hours=1))
    with transaction(world.engine) as session:
        acts.set_act(session, asked, user_id=world.principal.user_id, at=clock.now())
    cycles, told_up_to = [], []
    for _ in waiting:  # one instant: no time passes that would open the round again
        cycles.append(world.cycle(later_s=20))
        told_up_to.append(world.warm.kept.round.told_up_to)
        if not cycles[-1].is_partial:
            break
    assert [job for applied in cycles for job in applied.waits] == waiting
    assert all(applied.waits_changed == 2 for applied in cycles[:-1])
    assert told_up_to == waiting[1::2] + waiting[-1:]
    assert {world.view(job).reason for job in waiting} == {"PAUSED"}
    world.check()


def test_a_cycle_that_changes_nothing_opens_no_transaction(world):
    def transactions():
        with snapshot(world.engine) as session:
            return session.scalar(text("SELECT pg_snapshot_xmax(pg_current_snapshot())"))

    world.submit(8)
    world.submit(8)
    for later_s in range(3):
        world.turn(later_s=later_s)
    before = transactions()
    at = clock.now() + timedelta(seconds=3)
    assert not cycle(world.leader, "test", at=at, warm=world.warm).has_effect
    assert transactions() == before
    held = world.submit(is_held=True)
    assert cycle(world.leader, "test", at=at, warm=world.warm).waits == (held,)
    assert transactions() > before


def test_records_of_cycles_from_before_reasons_came_in_parts_replay(world):
    world.submit(8)
    world.submit(8)
    world.turn()
    with snapshot(world.engine) as session:
        (cycle,) = journal.of_kind(session, "cycle.planned")
        policy = quota.policy_in_force(session, cycle.at)
    with snapshot(world.engine) as session:
        now = load(session, clock.now(), policy)
    assert replay(world.engine, cycle).differences == ()
    old = {name: value for name, value in cycle.data.items() if name not in {"effects_digest", "waits"}}
    empty = replace(now, live=(), pending=(), version="x")
    wrong = old | {"plan_digest": plan_digest(make_plan(empty, policy))}
    assert replay(world.engine, replace(cycle, data=wrong)).differences != ()


def test_admissions_are_known_without_being_read_back(world):
    world.turn()
    job_id = world.submit()
    at = clock.now()
    assert cycle(world.leader, "test", at=at, warm=world.warm).admitted
    with snapshot(world.engine) as session:
        known = world.warm.known(session, at, quota.policy_in_force(session, at))
        assert known.fields(job_id)["state"] == "ADMITTED"
    assert differences(world, world.warm) == ()
    assert world.warm.rebuilds == 1


def test_admissions_on_both_sides_of_what_runs_stand_in_their_order(world):
    kept = Warm()
    first = world.submit(is_held=True)
    middle = world.submit()
    cycle(world.leader, "test", at=clock.now(), warm=kept)
    world.submit()
    with transaction(world.engine) as session:
        jobs.release(session, world.principal, first, clock.now())
    cycle(world.leader, "test", at=clock.now(), warm=kept)
    assert world.state(first) is world.state(middle) is JobState.ADMITTED
    assert differences(world, kept) == ()


def test_what_others_write_while_a_cycle_writes_is_taken_though_its_own_is_not_read_back(world):
    kept, job_id = Warm(), world.submit()
    at = clock.now()
    with snapshot(world.engine) as session:
        policy, digest = quota.in_force(session, at)
        seen = kept.read(session, at, policy)
    planned = Planned(
        plan=make_plan(seen, policy), policy=policy, policy_digest=digest, release="test", seen=seen
    )

    def say(session):
        journal.append(session, "project.suspended", f"project:{uuid4()}", actor="system", at=at, data={})

    with transaction(world.engine) as older:
        older.scalar(text("SELECT pg_current_xact_id()"))
        with transaction(world.engine) as session:
            told = journal.noted(session)
            apply(session, world.leader.held, planned, kept)
            with transaction(world.engine) as younger:
                say(younger)
        kept.take_own([Told(*record) for record in told])
        say(older)
    known = kept.known(None, at, policy)
    assert known.fields(job_id)["state"] == "ADMITTED"
    with snapshot(world.engine) as session:
        kept.read(session, at, policy)
    suspended = [name for name, is_suspended in known._state.suspended.items() if is_suspended]
    assert len(suspended) == 2
    assert kept.rebuilds == 1


def test_a_transaction_that_did_not_commit_is_not_taken(world):
    kept, job_id = Warm(), world.submit()
    at = clock.now()
    with snapshot(world.engine) as session:
        policy, digest = quota.in_force(session, at)
        seen = kept.read(session, at, policy)
    planned = Planned(
        plan=make_plan(seen, policy), policy=policy, policy_digest=digest, release="test", seen=seen
    )
    with Session(world.engine) as session:
        assert apply(session, world.leader.held, planned, kept).admitted
        session.rollback()
    assert differences(world, kept) == ()
    assert kept.known(None, at, policy).fields(job_id)["state"] == "PENDING"
    assert kept.rebuilds == 1
