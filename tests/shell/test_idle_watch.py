"""The idle policy carried out: notices, the end, its books, and nothing twice, in PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, select, update
from sqlalchemy.exc import IntegrityError, ProgrammingError

from metrics import idle_policy
from metrics.idle import IdlePolicy, Step
from metrics.idle_watch import LEASE_TTL_S, IdleWatch
from metrics.stretches import StretchShapeError, of_json, tracked
from metrics.tables import AttemptTelemetryRow, IdleNoticeRow, IdlePolicyRow
from quota.policy import PolicyError
from scheduler.tables import AllocationRow, AttemptRow
from store import clock, journal
from store.engine import snapshot, transaction

EARNEST = IdlePolicy(is_dry_run=False)
MINUTE = timedelta(minutes=1)


class Idle:
    """A job of a scheduler that is driven by hand, with telemetry as the test says, and a watch over it."""

    def __init__(self, world: Any, *, gpus: int = 4, walltime_s: int = 36_000, **more: Any) -> None:
        self.world = world
        self.job_id = world.submit(gpus=gpus, walltime_s=walltime_s, **more)
        world.turn()
        self.attempt_id = f"{self.job_id}-1"
        with snapshot(world.engine) as session:
            self.start = session.get_one(AttemptRow, self.attempt_id).started_at
            self.uuids = session.scalars(
                select(AllocationRow.gpu_uuid).where(AllocationRow.attempt_id == self.attempt_id)
            ).all()
        self.at = self.start

    def watch(self, holder: str = "one") -> IdleWatch:
        return IdleWatch(self.world.engine, lambda: self.at, holder)

    def policy(self, policy: IdlePolicy) -> None:
        with transaction(self.world.engine) as session:
            idle_policy.put(session, policy, at=self.start, actor="system")

    def use(self, minute: float, *, busy: int = 0) -> None:
        """Telemetry at a minute: so many GPUs are busy, the others idle since the start or their last use."""
        at = self.start + minute * MINUTE
        with transaction(self.world.engine) as session:
            row = session.get(AttemptTelemetryRow, self.attempt_id)
            if row is None:
                row = AttemptTelemetryRow(
                    attempt_id=self.attempt_id, observed_until=self.start, fold={}, idle={}
                )
                session.add(row)
            seconds = (at - row.observed_until).total_seconds()
            row.idle = tracked(
                row.idle,
                {uuid: (0.9 if number < busy else 0.0, seconds) for number, uuid in enumerate(self.uuids)},
                at,
            )
            row.observed_until = at
        self.at = at

    def go(self, *minutes: float, busy: int = 0) -> list[int]:
        done = []
        for minute in minutes:
            self.use(minute, busy=busy)
            done.append(self.watch().tick())
        return done

    def notices(self) -> list[tuple[str, bool, bool]]:
        with snapshot(self.world.engine) as session:
            rows = session.scalars(select(IdleNoticeRow).order_by(IdleNoticeRow.id)).all()
        return [(row.step, row.is_dry_run, row.cleared_at is not None) for row in rows]

    def kinds(self) -> list[str]:
        return [kind for kind in self.world.kinds(self.job_id) if kind.startswith("idle.")]

    def record(self, kind: str) -> dict[str, Any]:
        with snapshot(self.world.engine) as session:
            (found,) = journal.of_kind(session, kind)
            return dict(found.data)


@pytest.fixture
def idle(make_world: Callable[..., Any], database: Any) -> Any:
    world = make_world(database.engine)
    yield Idle(world)
    world.pool.shutdown()


def test_two_notices_then_the_end_and_the_hours_return(idle: Idle) -> None:
    idle.policy(EARNEST)
    before = idle.world.balance()
    assert idle.go(29, 30, 31, 59, 60, 61, 119) == [0, 1, 0, 0, 1, 0, 0]
    assert idle.world.state(idle.job_id) == "RUNNING"
    assert idle.go(120, 121) == [1, 0]
    assert idle.kinds() == ["idle.notice", "idle.second_notice", "idle.cancelled"]
    view = idle.world.view(idle.job_id)
    assert (view.state, view.attempt.stop_why) == ("COMPLETING", "idle")
    idle.world.stop_what_must()
    idle.world.hear()
    ended = idle.world.view(idle.job_id)
    assert (ended.state, ended.exit_error, ended.is_cancel_requested) == ("CANCELLED", "IDLE", True)
    used_s = 4 * 120 * 60
    assert ended.gpu_seconds == ended.attempt.used_s
    assert 0 <= ended.gpu_seconds - used_s <= 8, "the charge ends where the decision fell"
    cancelled = idle.record("idle.cancelled")
    assert cancelled["returned_s"] == ended.attempt.claim_s - ended.attempt.used_s
    after = idle.world.balance()
    assert after.pending_s == 0
    assert after.remaining_s == before.remaining_s + before.pending_s - ended.attempt.used_s
    idle.world.check_books()


def test_notices_say_what_follows_and_when(idle: Idle) -> None:
    idle.policy(EARNEST)
    idle.go(30, 70)
    with snapshot(idle.world.engine) as session:
        first, second = session.scalars(select(IdleNoticeRow).order_by(IdleNoticeRow.id)).all()
    start = clock.from_ms(clock.to_ms(idle.start))
    assert (first.next_step, first.idle_gpus, first.gpus) == (Step.SECOND_NOTICE, 4, 4)
    assert abs(first.next_at - (start + 60 * MINUTE)) < timedelta(seconds=1)
    assert first.idle_s in {1799, 1800}
    assert (second.next_step, second.idle_s // 60) == (Step.CANCEL, 70)
    assert abs(second.next_at - (start + 130 * MINUTE)) < timedelta(seconds=1), "an hour after a late notice"
    assert second.returned_s is None


def test_dry_run_is_the_default_and_ends_nothing(idle: Idle) -> None:
    assert idle.go(30, 60, 120, 300) == [1, 1, 1, 0]
    assert idle.kinds() == ["idle.notice", "idle.second_notice", "idle.would_cancel"]
    assert idle.notices() == [(step.value, True, False) for step in Step]
    assert idle.world.state(idle.job_id) == "RUNNING"
    assert idle.record("idle.would_cancel")["returned_s"] > 0
    idle.world.check_books()


def test_what_a_dry_run_noted_is_no_notice(idle: Idle) -> None:
    idle.go(30, 60, 120)
    idle.policy(EARNEST)
    assert idle.go(121, 122, 150) == [1, 0, 0], "told for the first time only now"
    assert idle.go(151, 152, 211) == [1, 0, 1]
    assert idle.world.state(idle.job_id) == "COMPLETING"


def test_use_ends_the_stretch_and_clears_its_notices(idle: Idle) -> None:
    idle.policy(EARNEST)
    idle.go(30, 60)
    assert idle.go(61, busy=4) == [1]
    assert idle.notices() == [("notice", False, True), ("second_notice", False, True)]
    assert idle.go(121, 122) == [1, 0]
    assert idle.kinds() == ["idle.notice", "idle.second_notice", "idle.cleared", "idle.notice"]


def test_use_between_two_looks_voids_the_notices_too(idle: Idle) -> None:
    idle.policy(EARNEST)
    idle.go(30, 60)
    idle.use(61, busy=4)
    idle.use(62)
    assert idle.watch().tick() == 1
    assert idle.notices() == [("notice", False, True), ("second_notice", False, True)]
    assert idle.go(125) == [1]
    assert idle.kinds()[-2:] == ["idle.cleared", "idle.notice"]
    assert idle.world.state(idle.job_id) == "RUNNING"


def test_notices_of_a_stretch_that_ended_while_the_policy_was_off_are_void(idle: Idle) -> None:
    idle.policy(EARNEST)
    idle.go(30, 60)
    idle.policy(IdlePolicy(is_enabled=False))
    assert idle.go(61, busy=4) == [1]
    idle.policy(EARNEST)
    assert idle.go(150) == [1]
    assert idle.kinds()[-1] == "idle.notice"


def test_half_of_the_gpus_busy_and_interactive_jobs_are_left_alone(make_world: Any, database: Any) -> None:
    world = make_world(database.engine)
    half = Idle(world)
    half.policy(EARNEST)
    assert half.go(30, 60, 120, busy=2) == [0, 0, 0]
    person = Idle(world, is_interactive=True)
    assert person.go(30, 60, 120) == [0, 0, 0]
    assert world.view(person.job_id).is_interactive
    person.policy(IdlePolicy(is_dry_run=False, is_interactive_exempt=False))
    assert person.go(121) == [1]
    world.check_books()
    world.pool.shutdown()


def test_a_job_without_telemetry_is_not_idle(idle: Idle) -> None:
    idle.policy(EARNEST)
    idle.at = idle.start + timedelta(days=1)
    assert idle.watch().tick() == 0
    idle.use(30)
    idle.at = idle.start + timedelta(days=1)
    assert idle.watch().tick() == 0, "the exporter fell silent"


def test_a_restart_tells_nothing_twice(idle: Idle) -> None:
    idle.policy(EARNEST)
    idle.go(30)
    idle.at += timedelta(seconds=LEASE_TTL_S + 1)
    idle.use(32)
    assert idle.watch("another").tick() == 0
    assert idle.notices() == [("notice", False, False)]


def test_one_watch_works_at_a_time(idle: Idle) -> None:
    idle.policy(EARNEST)
    idle.use(1)
    idle.watch("one").tick()
    idle.use(2)
    assert idle.watch("one").tick() == 0
    idle.use(2.5)
    idle.policy(IdlePolicy(is_dry_run=False, notice_after=MINUTE))
    assert idle.watch("two").tick() == 0, "the lease is the first one's"
    assert idle.watch("one").tick() == 1


def test_an_orderly_end_gives_the_lease_back(idle: Idle) -> None:
    idle.policy(IdlePolicy(is_dry_run=False, notice_after=MINUTE))
    idle.use(0.9)
    first = idle.watch("one")
    assert first.tick() == 0, "it is not due yet"
    idle.use(1.5)
    assert idle.watch("two").tick() == 0, "the lease is the first one's"
    stop = threading.Event()
    stop.set()
    first.run(stop)
    assert idle.watch("two").tick() == 1
    first.release()
    assert idle.watch("three").tick() == 0, "what is not held is not given back"


def test_many_at_once_take_each_step_once(idle: Idle) -> None:
    idle.policy(EARNEST)
    idle.use(30)
    threads = [threading.Thread(target=idle.watch(f"w{number}").tick) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert idle.notices() == [("notice", False, False)]


def test_the_database_refuses_the_same_step_twice(idle: Idle) -> None:
    idle.go(30)
    with snapshot(idle.world.engine) as session:
        row = session.scalars(select(IdleNoticeRow)).one()
        again = {
            column.name: getattr(row, column.name)
            for column in IdleNoticeRow.__table__.columns
            if column.name != "id"
        }
    with (
        pytest.raises(IntegrityError, match="uq_idle_notices_open"),
        transaction(idle.world.engine) as session,
    ):
        session.add(IdleNoticeRow(**again))


def test_a_job_that_ends_meanwhile_is_left_alone(idle: Idle) -> None:
    idle.policy(EARNEST)
    idle.go(30, 60)
    idle.world.finish(idle.job_id)
    idle.world.hear()
    assert idle.go(120) == [0]
    assert idle.world.state(idle.job_id) == "COMPLETED"


def test_loop_goes_on_when_the_database_was_away(idle: Idle, caplog: pytest.LogCaptureFixture) -> None:
    idle.policy(EARNEST)
    idle.use(30)
    away = create_engine("postgresql+psycopg://nobody@127.0.0.1:9/none")
    engines = iter([away, idle.world.engine])
    stop = threading.Event()

    class Twice(IdleWatch):
        """The first tick meets a database that is away; after the second the loop is told to end."""

        def tick(self) -> int:
            self._engine = next(engines)
            if self._engine is not away:
                stop.set()
            return super().tick()

    Twice(away, lambda: idle.at, "one").run(stop, 0.01)
    away.dispose()
    assert "idle jobs were not looked after" in caplog.text
    assert idle.notices() == [("notice", False, False)]


def test_steps_of_a_tick_are_limited(make_world: Any, database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metrics.idle_watch.MAX_STEPS", 1)
    world = make_world(database.engine)
    first, second = Idle(world, gpus=1), Idle(world, gpus=1)
    first.use(30)
    second.use(30)
    second.at += timedelta(seconds=5)
    assert [second.watch().tick() for _ in range(3)] == [1, 1, 0]
    world.pool.shutdown()


def test_policy_is_versioned_and_journaled(idle: Idle) -> None:
    with snapshot(idle.world.engine) as session:
        default = idle_policy.in_force(session)
    assert (default.id, default.policy) == (None, IdlePolicy())
    idle.policy(EARNEST)
    idle.policy(EARNEST)
    idle.policy(IdlePolicy(notice_after=timedelta(minutes=10)))
    with snapshot(idle.world.engine) as session:
        found = idle_policy.in_force(session)
        records = journal.of_kind(session, "idle.policy_set")
    assert found.policy == IdlePolicy(notice_after=timedelta(minutes=10))
    assert [record.subject for record in records] == ["idle_policy:2", "idle_policy:1"], (
        "the same again is none"
    )
    assert records[0].data["digest"] == found.digest
    with pytest.raises(ProgrammingError, match="append-only"), transaction(idle.world.engine) as session:
        session.execute(update(IdlePolicyRow).values(digest="x"))
    idle.world.check()


def test_a_document_says_the_policy() -> None:
    assert idle_policy.load_text("idle_policy: {}") == IdlePolicy()
    text = """
    idle_policy:
      enabled: true
      dry_run: false
      notice_after: 10m
      second_notice_after: 20m
      cancel_after: 1h
      min_busy_share: 0.25
      min_coverage: 1
      exempt_interactive: false
    """
    policy = idle_policy.load_text(text)
    assert policy == IdlePolicy(
        is_dry_run=False,
        notice_after=10 * MINUTE,
        second_notice_after=20 * MINUTE,
        cancel_after=60 * MINUTE,
        min_busy_share=0.25,
        min_coverage=1.0,
        is_interactive_exempt=False,
    )
    assert idle_policy.parse(idle_policy.to_document(policy)) == policy


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must be a mapping"),
        ("policy: {}", "document.policy: unknown key"),
        ("idle_policy: {dryrun: true}", 'did you mean "dry_run"'),
        ("idle_policy: {dry_run: 1}", "idle_policy.dry_run: must be true or false"),
        ("idle_policy: {notice_after: 30}", "must be a whole number with a unit"),
        ("idle_policy: {cancel_after: 31d}", "idle_policy.cancel_after: is 31d, must be at most 30d"),
        ("idle_policy: {notice_after: 3h}", "second_notice_after must be longer than notice_after"),
        ("idle_policy: {min_busy_share: 2}", "min_busy_share must be above 0 and at most 1"),
        ("idle_policy: {min_busy_share: 0}", "must be a decimal above 0"),
    ],
)
def test_a_bad_document_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(PolicyError, match=said.replace("(", r"\(")):
        idle_policy.load_text(text)


def test_the_example_says_the_defaults_in_earnest() -> None:
    text = (Path(__file__).parents[2] / "examples" / "idle-policy.yaml").read_text("utf-8")
    assert idle_policy.load_text(text) == EARNEST


def test_the_longest_time_is_accepted() -> None:
    assert idle_policy.load_text("idle_policy: {cancel_after: 30d}").cancel_after == timedelta(days=30)


def test_stretches_are_kept_to_the_millisecond() -> None:
    at = datetime(2026, 3, 1, 9, 0, 0, 500_000, tzinfo=UTC)
    stored = tracked({}, {"a": (0.0, 30.0), "b": (0.5, 30.0), "c": (None, 30.0), "d": (0.0, 0.0)}, at)
    assert set(stored) == {"a"}
    assert of_json(stored)["a"].idle_since == at - timedelta(seconds=30)
    later = tracked(stored, {"a": (0.0, 15.0)}, at + timedelta(seconds=15))
    assert of_json(later)["a"].observed == timedelta(seconds=45)
    assert tracked(stored, {"a": (0.2, 15.0)}, at) == {}


@pytest.mark.parametrize("stored", [{"a": 1}, {"a": {"since_ms": None, "observed_ms": 1}}, {"a": {}}])
def test_what_is_no_stretch_is_refused(stored: dict[str, object]) -> None:
    with pytest.raises(StretchShapeError, match="the stored stretch of a cannot be read"):
        of_json(stored)
