"""Explanations on a real database: intervals learned from the starts that came, and answers without a plan."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import event, text

from quota import service as quota
from scheduler import acts
from scheduler.explaining import SAME_MS, Explanations, explain_job, last_starts
from scheduler.fold import fold
from scheduler.interval import LEAST, REMEMBERED, Interval
from scheduler.model import JobState, ReasonCode
from scheduler.recurring import Every, Repeats
from scheduler.snapshot import load_windows
from scheduler.tables import JobRow
from scheduler.views import JobNotFoundError
from scheduler.windows import WindowKind
from store import clock, journal
from store.engine import snapshot, transaction


def explained(world, job_id, later_s=0.0):
    at = clock.from_ms(clock.to_ms(clock.now() + timedelta(seconds=later_s)))
    with snapshot(world.engine) as session:
        return at, explain_job(session, world.principal, job_id, at)


def fill(world):
    """Both of the queue's nodes are busy for an hour, and one job is planned behind them."""
    running = world.submit(8, 3_600)
    world.turn()
    waiting = world.submit(8, 600)
    world.turn()
    return running, waiting


def test_the_first_planned_start_is_kept_and_compared_with_the_start_that_came(world):
    running, waiting = fill(world)
    with snapshot(world.engine) as session:
        row = session.get_one(JobRow, waiting)
        told_at, told_start_at = row.told_at, row.told_start_at
        assert told_at is not None
        assert clock.to_ms(told_start_at) == world.view(waiting).planned_start.start_ms
        assert last_starts(session).interval(0, 1).learned_from == 0
    world.finish(running)
    world.hear()
    world.turn()
    with snapshot(world.engine) as session:
        row = session.get_one(JobRow, waiting)
        assert (row.told_at, row.told_start_at) == (told_at, told_start_at)
        assert row.first_started_at is not None
    world.check()


def test_an_interval_says_whether_it_was_learned(world):
    _, waiting = fill(world)
    at, found = explained(world, waiting)
    assert found.expected == Interval(clock.to_ms(at), found.start_ms, 0)
    # Twenty starts that came at half of the time they were told.
    for _ in range(LEAST):
        world.submit(1)
    with transaction(world.engine) as session:
        session.execute(
            text(
                "UPDATE jobs SET told_at = :at - interval '2 hours', told_start_at = :at, "
                "first_started_at = :at - interval '1 hour' WHERE told_at IS NULL"
            ),
            {"at": at},
        )
    with snapshot(world.engine) as session:
        row = session.get_one(JobRow, waiting)
        told_ms, start_ms = clock.to_ms(row.told_at), clock.to_ms(row.told_start_at)
    _, found = explained(world, waiting)
    half_ms = told_ms + (start_ms - told_ms) // 2
    assert abs(found.expected.from_ms - half_ms) <= 1
    assert abs(found.expected.to_ms - half_ms) <= 1
    assert found.expected.learned_from >= LEAST
    # Beyond what any of them waited nothing is known.
    at, found = explained(world, waiting, later_s=3_000)
    assert found.expected == Interval(clock.to_ms(at), max(clock.to_ms(at), start_ms), 0)


def test_a_start_that_was_put_off_is_told_anew(world):
    _, waiting = fill(world)
    with transaction(world.engine) as session:
        session.execute(text("UPDATE jobs SET told_start_at = told_at + interval '1 second'"))
    at, found = explained(world, waiting)
    assert found.expected == Interval(clock.to_ms(at), found.start_ms, 0)


def test_at_most_the_last_starts_are_read(world):
    for _ in range(3):
        world.submit(1)
    with transaction(world.engine) as session:
        session.execute(
            text(
                "INSERT INTO jobs (project_id, user_id, queue, state, priority, gpus, flavors, walltime_s, "
                "submitted_at, is_held, depends_on, preemptions, is_cancel_requested, attempts, launch_refusals, "
                "node_failures, gpu_seconds, node_labels, placement, told_at, told_start_at, first_started_at) "
                "SELECT project_id, user_id, queue, 'COMPLETED', 0, 1, flavors, 60, submitted_at, false, '[]', 0, "
                "false, 1, 0, 0, 0, node_labels, placement, submitted_at, submitted_at + interval '1 hour', "
                "submitted_at + interval '1 minute' FROM jobs, generate_series(1, :copies)"
            ),
            {"copies": REMEMBERED},
        )
        record = last_starts(session)
    assert record.interval(0, 60_000).learned_from == REMEMBERED


def test_a_job_that_can_never_start_is_answered_without_reading_those_that_wait(world):
    never = world.submit(8, 600, nodes=None)
    with transaction(world.engine) as session:
        session.execute(text("UPDATE jobs SET gpus = 99 WHERE id = :id"), {"id": never})
    for _ in range(5):
        world.submit(8)
    read: list[str] = []
    event.listen(world.engine, "before_cursor_execute", lambda *call: read.append(call[2]))
    _, found = explained(world, never)
    assert found.wait.reason is ReasonCode.NEVER_FITS
    assert [(one.what, one.new, one.is_now) for one in found.changes] == [("gpus", 8, False)]
    assert not [statement for statement in read if "pg_current_snapshot" in statement]
    assert len(read) < 12


def test_what_earlier_explanations_knew_changes_no_answer(world):
    """Jobs come, start and end between them; each is what one without any knowledge says."""
    known = Explanations()

    def both(job_id, later_ms=0):
        at = clock.from_ms(clock.to_ms(clock.now()) + later_ms)
        with snapshot(world.engine) as session:
            found = explain_job(session, world.principal, job_id, at, known)
            assert found == explain_job(session, world.principal, job_id, at)
        return found

    running, first = fill(world)
    second = world.submit(4, 7_200)
    assert both(first).wait.reason is ReasonCode.QUEUE_LIMIT
    assert both(second).place == 2
    third = world.submit(2, 60)
    assert both(third).place == 3
    world.finish(running)
    world.hear()
    world.turn()
    assert both(first) is None  # it runs
    found = both(second)
    assert (found.place, found.start_ms) == (1, both(second, later_ms=2 * SAME_MS).start_ms)


def test_an_explanation_that_waited_behind_a_later_one_takes_no_record_twice(world):
    """Its database snapshot is the older one; what is kept goes on from the later."""
    running, waiting = fill(world)
    known = Explanations()

    def ask(session, memory):
        return explain_job(session, world.principal, waiting, clock.now(), memory)

    with snapshot(world.engine) as session:
        ask(session, known)
    with snapshot(world.engine) as older:
        older.execute(text("SELECT 1"))  # its snapshot is of now
        world.submit(1)
        world.finish(running)
        world.hear()
        with snapshot(world.engine) as later:
            ask(later, known)
            before = known._last[0].version
        assert ask(older, known).wait == ask(older, None).wait
        assert known._last[0].version == before
    with snapshot(world.engine) as session:
        at = clock.now()
        assert known._warm.differences(session, at, quota.policy_in_force(session, at)) == ()


def test_explanations_of_one_moment_are_of_one_plan(world):
    _, waiting = fill(world)
    at, known = clock.now(), Explanations()

    def planned(later_ms):
        with snapshot(world.engine) as session:
            later = clock.from_ms(clock.to_ms(at) + later_ms)
            assert explain_job(session, world.principal, waiting, later, known) is not None
        return known._explainer._planned

    first = planned(0)
    assert planned(SAME_MS - 1) is first
    assert planned(SAME_MS) is not first
    assert planned(0) is not first  # earlier than the last
    last = planned(0)
    world.submit(1)
    assert planned(0) is not last


def test_nobody_else_is_told_and_who_runs_waits_for_nothing(world):
    running, waiting = fill(world)
    assert explained(world, running)[1] is None
    _, other = world.tenant("borealis", "business")
    with snapshot(world.engine) as session, pytest.raises(JobNotFoundError):
        explain_job(session, other, waiting, clock.now())
    with snapshot(world.engine) as session:
        assert [record.kind for record in journal.of_subject(session, f"job:{waiting}")][:2] == [
            "job.submitted",
            "job.reserved",
        ]


def test_a_recurring_window_folds_and_replays(world):
    at = clock.now()
    asked = acts.NewWindow(
        WindowKind.MAINTENANCE,
        ("n0", "n1"),
        (),
        at - timedelta(days=7, minutes=-10),
        at - timedelta(days=7, minutes=-20),
        "firmware",
        Repeats(Every.WEEK, 1, "Asia/Almaty", clock.to_ms(at + timedelta(days=30))),
    )
    with transaction(world.engine) as session:
        made = acts.add_window(session, asked, user_id=world.principal.user_id, at=at - timedelta(days=8))
    assert made.repeats == asked.repeats
    long, short = world.submit(1, 900), world.submit(1, 60)
    world.turn()
    assert (world.view(long).reason, world.view(short).state) == ("MAINTENANCE", JobState.RUNNING)
    with snapshot(world.engine) as session:
        assert fold(journal.read(session)).windows == load_windows(session)
        assert [one.id for one in acts.list_windows(session, clock.now())] == [made.id]
        assert acts.list_windows(session, at + timedelta(days=31)) == []
    world.check()
