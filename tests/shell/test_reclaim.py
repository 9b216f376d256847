"""Borrowing and taking back on a real database: notice, grace, requeue with place kept, refund, replay."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace

import pytest
from sqlalchemy import event, select, text

from quota import service as quota
from quota.policy import parse_policy
from quota.tables import BalanceRow
from scheduler import acts, cycling, jobs, notices, observe, sampling, warm
from scheduler.asked import Dependency
from scheduler.changes import job_of
from scheduler.cycling import cycle
from scheduler.explaining import preview_policy
from scheduler.fields import ActKind, DependencyKind
from scheduler.journal_trace import read_journal
from scheduler.model import JobState, NodeState
from scheduler.snapshot import load
from scheduler.tables import AttemptRow, JobRow
from scheduler.windows import WindowKind
from store import clock, journal
from store.engine import snapshot, transaction

GRACE_S = 120
POLICY = {
    "policy": {
        "version": "test-2",
        "effective_from": "2026-02-01",
        "grounds": [{"kind": "order", "body": "authorised body", "number": "2", "date": "2026-01-20"}],
        "start_reservations": 4,
        "checkpoint": {"max_protected": "6h", "refund_cap": "1h"},
        "tree": {
            "science": {"nominal": "50%", "preemption": {"grace": f"{GRACE_S}s"}},
            "business": {"nominal": "50%", "default_walltime": "10m", "preemption": {"grace": f"{GRACE_S}s"}},
        },
        "routes": [{"category": "university", "queue": "science"}, {"queue": "business"}],
    }
}


@pytest.fixture
def shared(world):
    """Two queues of 8 GPUs that lend each other everything."""
    with transaction(world.engine) as session:
        quota.enact(session, POLICY, at=clock.now(), actor="system")
    world.owner, world.owner_principal = world.tenant("borealis", "business")
    world.award(world.owner)
    return world


def of_owner(world, gpus, **more):
    return world.submit(gpus, project=world.owner, principal=world.owner_principal, **more)


def attempt(world, job_id):
    with snapshot(world.engine) as session:
        statement = (
            select(AttemptRow).where(AttemptRow.job_id == job_id).order_by(AttemptRow.admitted_at.desc())
        )
        return session.scalars(statement).first()


def borrow(world, walltime_s=7_200):
    """A job within nominal, and one that borrows the other queue's half."""
    own, borrower = world.submit(8, walltime_s), world.submit(8, walltime_s)
    world.turn()
    assert [attempt(world, job_id).share_class for job_id in (own, borrower)] == ["entitled", "borrowed"]
    return own, borrower


def test_a_job_borrows_is_taken_back_waits_again_and_ends(shared):
    world = shared
    own, borrower = borrow(world)
    world.turn()
    owner = of_owner(world, 8)
    applied = world.turn(later_s=60)
    noticed = attempt(world, borrower)
    assert applied.preempting == (noticed.id,)
    assert noticed.reclaimed_by == owner
    view = world.view(owner)
    assert view.reason == "RECLAIMING"
    assert view.planned_start is not None
    ends_at = noticed.notice_ends_at
    assert view.planned_start.start_ms == clock.to_ms(ends_at)
    assert world.state(borrower) is JobState.RUNNING  # its grace runs
    assert world.turn(later_s=90).preempting == ()  # told once
    world.check()
    # Its ranks are asked to save their work, once.
    with snapshot(world.engine) as session:
        assert notices.undelivered_notices(session) == [noticed.id]
    assert notices.send_notices(world.leader, [noticed.id]) == frozenset()
    with snapshot(world.engine) as session:
        assert notices.undelivered_notices(session) == []
    # The grace ends: stopped, GPUs free, waiting again; the owner starts on exactly these.
    held = {slot.node for slot in world.view(borrower).slots}
    world.turn(later_s=60 + GRACE_S + 1)
    assert world.state(borrower) is JobState.PENDING
    world.turn(later_s=60 + GRACE_S + 2)
    assert world.state(owner) is JobState.RUNNING
    assert {slot.node for slot in world.view(owner).slots} == held
    back = world.view(borrower)
    assert back.preemptions == 1
    assert "job.requeued" in world.kinds(borrower)
    assert back.submitted_at < world.view(owner).submitted_at  # its place is kept
    ended = attempt(world, borrower)
    assert (ended.state, ended.stop_why) == ("PREEMPTED", "preempted")
    assert ended.refunded_s == min(ended.used_s, 8 * 3_600)
    assert back.gpu_seconds == 0  # all of it was lost, and is given back
    # The owner ends; the borrower runs again and completes.
    world.finish(owner)
    world.hear()
    world.turn(later_s=60 + GRACE_S + 3)
    assert world.state(borrower) is JobState.RUNNING
    for job_id in (borrower, own):
        world.finish(job_id)
    world.hear()
    assert [world.state(job_id) for job_id in (own, borrower, owner)] == [JobState.COMPLETED] * 3
    world.check()


def borrow_twice(world):
    """Science fills its half and borrows the other with two jobs of four GPUs."""
    own = world.submit(8, 7_200)
    borrowers = [world.submit(4, 7_200), world.submit(4, 7_200)]
    world.turn()
    classes = [attempt(world, job_id).share_class for job_id in (own, *borrowers)]
    assert classes == ["entitled", "borrowed", "borrowed"]
    return borrowers


def save(world, job_id, after_s, rank=0):
    """A rank saves its work so long after its attempt's commit, as its agent sees it."""
    row = attempt(world, job_id)
    at = row.committed_at + timedelta(seconds=after_s)
    world.executor.checkpoint(world.view(job_id).slots[rank].node, row.id, rank, at)
    world.hear()
    return clock.to_ms(at)


def test_the_borrower_that_saved_its_work_last_gives_way_and_is_given_back_what_came_after(shared):
    world = shared
    first, second = borrow_twice(world)
    # Without checkpoints the younger one of the two would go; the older one has saved its work.
    saved_ms = save(world, first, 900)
    owner = of_owner(world, 4)
    applied = world.turn(later_s=1_000)
    assert applied.preempting == (attempt(world, first).id,)
    assert "attempt.checkpointed" in world.kinds(first)
    assert "attempt.checkpointed" not in world.kinds(second)
    saved_again_ms = save(world, first, 1_010)  # on the notice's signal
    world.check()
    world.turn(later_s=1_000 + GRACE_S + 1)
    ended = attempt(world, first)
    assert (ended.state, ended.ranks[0]["checkpoint_ms"]) == ("PREEMPTED", saved_again_ms)
    assert saved_again_ms > saved_ms
    since_s = -(-(clock.to_ms(ended.stop_at) - saved_again_ms) // 1_000)
    assert ended.refunded_s == 4 * since_s
    assert 0 < since_s < GRACE_S
    assert ended.used_s > 4 * 1_000
    view = world.view(first)
    assert view.gpu_seconds == ended.used_s - ended.refunded_s  # what was saved is paid for
    world.turn(later_s=1_000 + GRACE_S + 2)
    assert world.state(owner) is JobState.RUNNING
    assert world.state(second) is JobState.RUNNING
    world.check()


def test_without_a_checkpoint_the_younger_one_gives_way_and_all_is_given_back(shared):
    world = shared
    _, second = borrow_twice(world)
    of_owner(world, 4)
    assert world.turn(later_s=1_000).preempting == (attempt(world, second).id,)
    world.turn(later_s=1_000 + GRACE_S + 1)
    ended = attempt(world, second)
    assert ended.refunded_s == ended.used_s > 0
    world.check()


def test_a_gangs_checkpoint_is_as_old_as_its_oldest_part(shared):
    world = shared
    gang = world.submit(8, 7_200, nodes=2)
    world.turn()

    def known():
        with snapshot(world.engine) as session:
            policy = quota.policy_in_force(session, clock.now())
            return load(session, clock.now(), policy).live[0].checkpoint_ms

    assert known() is None
    first_ms = save(world, gang, 100, rank=1)
    assert known() == first_ms  # one rank may save for all
    second_ms = save(world, gang, 110, rank=0)
    assert known() == first_ms
    save(world, gang, 200, rank=1)
    assert known() == second_ms
    # A scheduler that missed the events learns of it from the list.
    node = world.view(gang).slots[0].node
    world.executor._nodes[node].events.clear()
    third = attempt(world, gang).committed_at + timedelta(seconds=210)
    world.executor._nodes[node].runs[f"{gang}-1"].checkpoints[0] = third
    observe.relist(world.leader, node)
    assert attempt(world, gang).ranks[0]["checkpoint_ms"] == clock.to_ms(third)
    world.check()


def test_nobody_is_stopped_for_a_job_that_waits_no_more(shared):
    world = shared
    _, borrower = borrow(world)
    owner = of_owner(world, 8)
    assert world.turn(later_s=60).preempting
    with transaction(world.engine) as session:
        jobs.cancel(session, world.owner_principal, owner, clock.now())
    applied = world.turn(later_s=70)
    assert applied.spared == (attempt(world, borrower).id,)
    assert attempt(world, borrower).notice_ends_at is None
    world.turn(later_s=60 + GRACE_S + 5)
    assert world.state(borrower) is JobState.RUNNING
    world.check()


def test_a_victim_that_ends_by_itself_makes_room_at_once(shared):
    world = shared
    _, borrower = borrow(world)
    owner = of_owner(world, 8)
    world.turn(later_s=60)
    world.finish(borrower)
    world.hear()
    world.turn(later_s=61)
    assert world.state(borrower) is JobState.COMPLETED
    assert world.state(owner) is JobState.RUNNING
    world.check()


@pytest.mark.parametrize(
    "crash", ["before the grace ends", "after the stop was decided", "after it was told"]
)
def test_a_scheduler_that_dies_during_a_reclaim_is_followed(shared, crash):
    world = shared
    _, borrower = borrow(world)
    owner = of_owner(world, 8)
    world.turn(later_s=60)
    if crash != "before the grace ends":
        at = clock.now() + timedelta(seconds=60 + GRACE_S + 1)
        due = [attempt(world, borrower).id]
        assert notices.end_graces(world.leader, due, at) == due
        assert world.state(borrower) is JobState.COMPLETING
    if crash == "after it was told":
        world.stop_what_must()
    world.lead("second")
    for later_s in (1, 2, 3):
        world.turn(later_s=60 + GRACE_S + later_s)
    assert world.state(owner) is JobState.RUNNING
    assert world.state(borrower) is JobState.PENDING
    assert world.view(borrower).preemptions == 1
    world.check()


def test_a_cycle_locks_its_victims_before_balances_as_their_ends_do(shared, wait_until):
    """Else a cycle that admits and gives notice, and the end of the victim, each wait for the other."""
    world = shared
    world.submit(4, 7_200)
    borrower = world.submit(8, 7_200)
    world.turn()
    first, second = of_owner(world, 2), of_owner(world, 6)

    def is_blocked():
        with snapshot(world.engine) as session:
            waiting = text(
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid IN"
                " (SELECT pid FROM pg_stat_activity WHERE datname = current_database())"
            )
            return session.scalar(waiting) > 0

    with ThreadPoolExecutor(1) as pool:
        with transaction(world.engine) as ending:
            ending.execute(select(JobRow.id).where(JobRow.id == borrower).with_for_update())
            cycling = pool.submit(world.cycle, later_s=60)
            wait_until(is_blocked, "the cycle waits for its victim")
            ending.execute(select(BalanceRow.grant_id).with_for_update(nowait=True))
        applied = cycling.result(20)
    assert [job_of(name) for name in applied.admitted] == [first]
    assert applied.preempting == (attempt(world, borrower).id,)
    assert world.view(second).planned_start is not None
    world.check()


def test_a_pinned_job_is_never_a_victim_and_a_pin_expires(shared):
    world = shared
    _, borrower = borrow(world)
    with transaction(world.engine) as session:
        pin = acts.set_act(
            session,
            acts.NewAct(
                ActKind.PIN,
                borrower,
                None,
                "the exam of the year runs on it",
                clock.now() + timedelta(hours=1),
            ),
            user_id=world.principal.user_id,
            at=clock.now(),
        )
    of_owner(world, 8)
    assert world.turn(later_s=60).preempting == ()
    assert world.turn(later_s=3_700).preempting == (attempt(world, borrower).id,)
    with transaction(world.engine) as session:
        acts.end_act(session, pin.id, user_id=world.principal.user_id, at=clock.now())
    world.check()


def test_a_pause_keeps_a_queue_and_expedite_puts_first(shared):
    world = shared
    user = world.principal.user_id
    until = clock.now() + timedelta(hours=1)
    with transaction(world.engine) as session:
        pause = acts.set_act(
            session,
            acts.NewAct(ActKind.PAUSE, None, "science", "cooling fails", until),
            user_id=user,
            at=clock.now(),
        )
    first, second = world.submit(16), world.submit(16)
    world.turn()
    assert [world.view(job_id).reason for job_id in (first, second)] == ["PAUSED", "PAUSED"]
    with transaction(world.engine) as session:
        acts.end_act(session, pause.id, user_id=user, at=clock.now())
        acts.set_act(
            session,
            acts.NewAct(ActKind.EXPEDITE, second, None, "a deadline", until),
            user_id=user,
            at=clock.now(),
        )
    world.turn()
    assert world.state(second) is JobState.RUNNING
    assert world.view(first).reason == "WAITING_TURN"
    world.check()


def test_dependencies_are_met_by_the_way_a_job_ends(shared):
    world = shared
    base = world.submit(1)
    ok = world.submit(1, depends_on=(Dependency(base, DependencyKind.AFTER_OK),))
    bad = world.submit(1, depends_on=(Dependency(base, DependencyKind.AFTER_NOT_OK),))
    either = world.submit(1, depends_on=(Dependency(base, DependencyKind.AFTER_ANY),))
    world.turn()
    assert {world.view(job_id).reason for job_id in (ok, bad, either)} == {"DEPENDENCY"}
    assert world.view(ok).reason_numbers == {"job": base}
    world.finish(base)
    world.hear()
    world.turn()
    assert [world.state(job_id) for job_id in (ok, bad, either)] == [
        JobState.RUNNING,
        JobState.PENDING,
        JobState.RUNNING,
    ]
    world.check()


def test_a_job_that_was_to_run_after_a_failure_runs_after_it(shared):
    world = shared
    base = world.submit(1)
    ok = world.submit(1, depends_on=(Dependency(base, DependencyKind.AFTER_OK),))
    bad = world.submit(1, depends_on=(Dependency(base, DependencyKind.AFTER_NOT_OK),))
    world.turn()
    world.finish(base, 3)
    world.hear()
    world.turn()
    assert [world.state(job_id) for job_id in (base, bad)] == [JobState.FAILED, JobState.RUNNING]
    assert (world.state(ok), world.view(ok).reason) == (JobState.PENDING, "DEPENDENCY")
    world.check()


def test_lost_work_is_given_back_up_to_the_cap_of_the_policy(shared):
    """An hour of what was lost in an hour and a half."""
    world = shared
    _, borrower = borrow(world)
    of_owner(world, 8)
    ran_s = 5_400
    assert world.turn(later_s=ran_s).preempting == (attempt(world, borrower).id,)
    world.turn(later_s=ran_s + GRACE_S + 1)
    ended = attempt(world, borrower)
    assert ended.refunded_s == 8 * 3_600 < ended.used_s
    assert world.view(borrower).gpu_seconds == ended.used_s - ended.refunded_s
    world.check()


def test_a_dependency_is_a_job_of_the_project(shared):
    other = of_owner(shared, 1)
    with pytest.raises(jobs.JobRefusedError) as caught:
        shared.submit(1, depends_on=(Dependency(other, DependencyKind.AFTER_OK),))
    assert caught.value.code == "BAD_JOB"


def test_a_job_begins_no_earlier_than_asked(shared):
    world = shared
    later = world.submit(1, begin_at=clock.now() + timedelta(hours=1))
    world.turn()
    assert world.view(later).reason == "BEGIN_TIME"
    world.turn(later_s=3_601)
    assert world.state(later) is JobState.RUNNING
    world.check()


def test_a_window_keeps_its_nodes_and_its_projects_may_use_them(shared):
    world = shared
    user, now = world.principal.user_id, clock.now()
    with transaction(world.engine) as session:
        window = acts.add_window(
            session,
            acts.NewWindow(
                WindowKind.RESERVATION,
                ("n0", "n1"),
                (world.owner.id,),
                now,
                now + timedelta(hours=2),
                "a demonstration",
            ),
            user_id=user,
            at=now,
        )
    mine, theirs = world.submit(4), of_owner(world, 4)
    world.turn()
    assert world.state(theirs) is JobState.RUNNING
    assert world.view(mine).reason == "RESERVED_FOR"
    with transaction(world.engine) as session:
        acts.remove_window(session, window.id, user_id=user, at=clock.now())
    world.turn()
    assert world.state(mine) is JobState.RUNNING
    world.check()


def test_use_is_sampled_and_the_journal_knows_it(shared):
    world = shared
    borrow(world)
    at = clock.now()
    with snapshot(world.engine) as session:
        before = load(session, at, quota.policy_in_force(session, at)).usage
    assert before["science"] >= 16 * 3_600 * 1_000  # an entry charge of an interval for each GPU
    world.turn(later_s=3_700)
    with snapshot(world.engine) as session:
        samples = [record for record in journal.read(session) if record.kind == "usage.sampled"]
        after = load(session, at, quota.policy_in_force(session, at)).usage
    assert len(samples) == 2
    assert after == samples[-1].data["usage"]
    assert 16 * 3_600 * 1_000 <= after["science"] <= 16 * 3_800 * 1_000
    assert after["business"] == 0
    world.check()


def test_use_is_sampled_no_oftener_than_the_policy_says(shared):
    world = shared
    world.turn()
    with transaction(world.engine) as session:
        policy = quota.policy_in_force(session, clock.now())
        assert not sampling.sample_usage(session, policy, at=clock.now(), actor="scheduler:1")


def test_an_array_runs_so_many_at_a_time(shared):
    world = shared
    first = world.submit(1, array=jobs.ArrayAsked(3, 2))
    with snapshot(world.engine) as session:
        rows = session.scalars(select(JobRow).where(JobRow.array_id == first).order_by(JobRow.id)).all()
    ids = [row.id for row in rows]
    assert [row.array_index for row in rows] == [0, 1, 2]
    world.turn()
    assert [world.state(job_id) for job_id in ids] == [JobState.RUNNING, JobState.RUNNING, JobState.PENDING]
    assert world.view(ids[2]).reason == "ARRAY_CAP"
    world.finish(ids[0])
    world.hear()
    world.turn()
    assert world.state(ids[2]) is JobState.RUNNING
    world.check()


def test_a_lost_node_takes_a_planned_start_elsewhere(shared):
    world = shared
    _, borrower = borrow(world)
    owner = of_owner(world, 8)
    world.turn(later_s=60)
    lost = world.view(borrower).slots[0].node
    world.lose(lost)
    world.turn(later_s=61)
    assert world.state(owner) is JobState.PENDING
    with snapshot(world.engine) as session:
        from scheduler.tables import NodeRow

        assert session.get_one(NodeRow, lost).state == NodeState.DOWN.value
        told = [
            (record.kind, record.data["later_ms"], record.data.get("cause"))
            for record in journal.of_subject(session, f"job:{owner}")
            if record.kind in {"job.reserved", "job.unreserved"}
        ]
    (first, *_, last) = told
    assert first == ("job.reserved", 0, None)
    assert last[2] == "node_lost"
    world.check()


def test_the_platforms_own_load_is_replayed_under_another_policy(shared, tmp_path, capsys):
    import json

    from scheduler.simulate_cli import simulate_main

    world = shared
    done, running = world.submit(2), world.submit(1)
    world.turn()
    world.finish(done)
    world.hear()
    assert world.state(running) is JobState.RUNNING
    jobs_read, queues, policy, own_nodes = read_journal(world.engine, days=1, at=clock.now())
    assert [(job.id, job.gpus) for job in jobs_read] == [(str(done), 2)]
    assert (queues, policy.version) == (["science"], "test-2")
    assert jobs_read[0].asks == world.view(done).request
    assert [(node.name, node.flavor, len(node.gpu_uuids)) for node in own_nodes] == [
        ("n0", "h200", 8),
        ("n1", "h200", 8),
    ]
    on_its_own = ["--from-journal", "--json"]
    assert simulate_main(on_its_own, lambda days: read_journal(world.engine, days=days, at=clock.now())) == 0
    assert json.loads(capsys.readouterr().out)["jobs"] == 1
    argv = ["--from-journal", "--nodes", "2", "--json"]
    assert simulate_main(argv, lambda days: read_journal(world.engine, days=days, at=clock.now())) == 0
    assert json.loads(capsys.readouterr().out)["jobs"] == 1
    other = tmp_path / "other.yaml"
    other.write_text(json.dumps(WITHOUT_SCIENCE))
    argv += ["--policy", str(other)]
    assert simulate_main(argv, lambda days: read_journal(world.engine, days=days, at=clock.now())) == 2
    assert "science is no queue" in capsys.readouterr().err
    assert simulate_main(["--from-journal", "--nodes", "2"]) == 2


WITHOUT_SCIENCE = {
    "policy": {
        **POLICY["policy"],
        "version": "test-3",
        "effective_from": "2030-01-01",
        "tree": {"business": {"nominal": "100%"}},
        "routes": [{"queue": "business"}],
    }
}


def test_a_preview_names_who_gains_who_loses_and_who_would_be_reclaimed(shared):
    world = shared
    first = world.submit(8, 7_200)
    world.turn()
    waiting = world.submit(16, 7_200)
    tree = {"science": {"nominal": "25%"}, "business": {"nominal": "75%", "default_walltime": "10m"}}
    other = parse_policy({"policy": {**POLICY["policy"], "version": "test-4", "tree": tree}})
    with snapshot(world.engine) as session:
        found = preview_policy(session, other, clock.now())
    by_path = {one.path: one for one in found.queues}
    assert (by_path["science"].nominal_before, by_path["science"].nominal_after) == (8, 4)
    assert (by_path["science"].borrowed_before, by_path["science"].borrowed_after) == (0, 8)
    assert (by_path["business"].nominal_before, by_path["business"].nominal_after) == (8, 12)
    assert (found.preempting, found.admitted) == ((), ())
    assert world.state(first) is JobState.RUNNING
    assert world.state(waiting) is JobState.PENDING


def test_a_difference_that_comes_while_attempts_are_ended_is_journaled_by_the_next_cycle(shared, monkeypatch):
    """It is looked for once a cycle, by the reading whose finding the cycle tells."""
    monkeypatch.setattr(warm, "COMPARE_EVERY_S", 0.0)
    monkeypatch.setattr(shared.warm, "_compare_at", 0.0)
    held = shared.submit(is_held=True)
    _, borrower = borrow(shared)
    of_owner(shared, 8)
    assert shared.turn(later_s=60).preempting
    by_hand = f"UPDATE jobs SET priority = 5 WHERE id = {held}"  # with the end, that neither reading foresees
    with transaction(shared.engine) as session:
        session.execute(
            text(
                f"CREATE FUNCTION by_hand() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {by_hand};"
                " RETURN NULL; END $$"
            )
        )
        session.execute(text("CREATE TRIGGER by_hand AFTER UPDATE ON attempts EXECUTE FUNCTION by_hand()"))
    for later_s in (GRACE_S, GRACE_S + 1):
        cycle(shared.leader, "test", at=clock.now() + timedelta(seconds=60 + later_s), warm=shared.warm)
    assert attempt(shared, borrower).stop_why is not None
    with snapshot(shared.engine) as session:
        (told,) = journal.of_kind(session, "snapshot.differed")
    assert told.data == {"parts": ["pending"]}
    assert shared.warm.rebuilds == 2


def test_the_time_of_reading_is_that_of_the_readings_alone(shared, monkeypatch):
    """Each commit of what was written takes an hour by this clock: that of the ends of graces is in no phase."""
    passed_s = 0.0

    @event.listens_for(shared.engine, "commit")
    def pass_time(connection):
        nonlocal passed_s
        if not connection.get_execution_options().get("postgresql_readonly"):
            passed_s += 3_600.0

    _, borrower = borrow(shared)
    of_owner(shared, 8)
    assert shared.turn(later_s=60).preempting
    monkeypatch.setattr(cycling, "time", SimpleNamespace(monotonic=lambda: passed_s))
    took = {}
    at = clock.now() + timedelta(seconds=60 + GRACE_S + 1)
    cycle(shared.leader, "test", at=at, warm=shared.warm, took=took.__setitem__)
    assert attempt(shared, borrower).stop_why is not None
    assert took == {"read": 0.0, "plan": 0.0, "apply": 3_600.0}
    with snapshot(shared.engine) as session:
        assert journal.of_kind(session, "cycle.planned")[0].data["load_ms"] == 0
