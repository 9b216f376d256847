"""Random histories against the real tables and a real PostgreSQL, with the fake executor in place of nodes."""

from __future__ import annotations

import sys
import uuid
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from quota import service as quota
from quota.model import Policy
from scheduler import acts, jobs, nodes, notices
from scheduler.asked import Dependency
from scheduler.fields import ActKind, DependencyKind, Standing
from scheduler.fit import Fit, NoFit, fits_eligible, not_eligible
from scheduler.model import FINAL_STATES, Admit, JobState, PendingJob, Preempt, Snapshot
from scheduler.plan import make_plan
from scheduler.service import cycle
from scheduler.snapshot import load, pending_jobs
from scheduler.tables import JobRow
from scheduler.windows import WindowKind
from store import clock, embedded, engine
from store.engine import snapshot, transaction
from tenants.model import Principal

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))
from guarantees import denied, keep, world_of

STEPS = 12
"""Rules of one history: enough for submit, start, lose, restart and finish to meet."""

GRACE_S = 60
LATEST_S = 12 * 3_600
"""A history lasts so long at most, by the scheduler's clock: no job of it ages, and no grant ends."""


def policy_of(number: int, nominal: int, limits: dict[str, int]) -> dict[str, object]:
    """A policy under which two queues of 8 GPUs share, in force from another day than all before it."""
    rest = {"max_walltime": "1d", "preemption": {"grace": f"{GRACE_S}s"}}
    return {
        "policy": {
            "version": f"machine-{number}",
            "effective_from": f"2026-02-{number + 1:02}",
            "grounds": [
                {"kind": "order", "body": "authorised body", "number": str(number), "date": "2026-01-20"}
            ],
            "start_reservations": number % 3,
            "tree": {
                "science": {"nominal": nominal, **rest, **limits},
                "business": {"nominal": 8 - nominal, "default_walltime": "10m", **rest},
            },
            "routes": [{"category": "university", "queue": "science"}, {"queue": "business"}],
        }
    }


def test_no_history_breaks_an_invariant(  # noqa: C901 - the rules of one machine
    postgres, make_world
):
    admin = psycopg.connect(
        postgres.url.replace(f"@/{embedded.SERVER_USER}?", "@/postgres?"), autocommit=True
    )

    def database(name: str, like: str) -> Engine:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {like}")
        return engine.open_engine(
            postgres.url.replace(f"@/{embedded.SERVER_USER}?", f"@/{name}?"), pool_size=2
        )

    def enact_another(made: Engine, number: int, nominal: int, limits: dict[str, int]) -> None:
        with transaction(made) as session:
            quota.enact(session, policy_of(number, nominal, limits), at=clock.now(), actor="system")

    first = f"h_{uuid.uuid4().hex[:12]}"
    made = make_world(database(first, embedded.SERVER_USER), gpus=4)
    enact_another(made.engine, 1, 4, {})
    tenants = [(made.project, made.principal), made.tenant("borealis", "business")]
    made.award(tenants[1][0])
    made.pool.shutdown()
    made.engine.dispose()

    class Histories(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.name = f"h_{uuid.uuid4().hex[:12]}"
            self.engine = database(self.name, first)
            self.world = make_world(self.engine, gpus=4, like=made)
            self.tenants = tenants
            self.jobs: list[int] = []
            self.ended: dict[int, JobState] = {}
            self.later_s = 0
            self.policies = 1
            self.denied: dict[int, int] = {}
            self.looked = ""

        def teardown(self) -> None:
            self.world.check()
            self.world.pool.shutdown()
            self.engine.dispose()
            admin.execute(f"DROP DATABASE {self.name} WITH (FORCE)")

        def _running(self, data: st.DataObject) -> int | None:
            running = [job for job in self.jobs if self.world.state(job) is JobState.RUNNING]
            return data.draw(st.sampled_from(running)) if running else None

        @rule(
            asked=st.lists(
                st.tuples(
                    st.sampled_from([1, 2, 4, 4, 8]),
                    st.sampled_from([None, None, 1, 2]),
                    st.sampled_from([600, 7_200]),
                    st.integers(0, 1),
                    st.sampled_from(["", "", "", "held", "array", "afterok", "afterany", "later"]),
                ),
                min_size=1,
                max_size=3,
            )
        )
        def submit(self, asked: list[tuple[int, int | None, int, int, str]]) -> None:
            for gpus, count, walltime_s, tenant, how in asked:
                project, principal = self.tenants[tenant]
                more: dict[str, object] = {"project": project, "principal": principal}
                if how in {"afterok", "afterany"} and self.jobs:
                    before = self.world.view(self.jobs[-1])
                    if before.project_id == project.id:
                        more["depends_on"] = (Dependency(self.jobs[-1], DependencyKind(how)),)
                more |= {
                    "held": {"is_held": True},
                    "array": {"array": jobs.ArrayAsked(2, 1)},
                    "later": {"begin_at": clock.now() + timedelta(seconds=self.later_s + 300)},
                }.get(how, {})
                try:
                    first = self.world.submit(gpus + gpus % (count or 1), walltime_s, nodes=count, **more)
                except jobs.JobRefusedError:
                    continue  # too large for its queue's share under the policy in force
                self.jobs += [first, first + 1] if how == "array" else [first]

        @rule(minutes=st.sampled_from([0, 1, 1, 5, 30]))
        def turn(self, minutes: int) -> None:
            """Time goes by, minute by minute at first, and the scheduler's loop turns."""
            for step_s in [60] * min(minutes, 3) + [max(0, minutes - 3) * 60]:
                self.later_s = min(LATEST_S, self.later_s + step_s)
                self.cycle()
                self.world.dispatch()
                self.world.hear()
                self.world.stop_what_must()
                self.world.hear()

        def cycle(self) -> None:
            """A cycle: what it admits fits, what waits is refused, by `fit` alone; then it has nothing more to do."""
            at = clock.now() + timedelta(seconds=self.later_s)
            cycle(self.world.leader, "test", at=at)
            with snapshot(self.engine) as session:
                policy = quota.policy_in_force(session, at)
                after = load(session, at, policy)
            started = [found for found in after.live if found.admitted_ms == after.at_ms]
            world = world_of(after, policy, {found.id for found in started})
            for attempt in sorted(started, key=lambda found: found.admitted_seq):
                with snapshot(self.engine) as session:
                    job = self._as_waiting(session, attempt.job_id)
                found = fits_eligible(job, world, slots=attempt.slots)
                assert isinstance(found, Fit), found
                world.start(job, found)
            waiting = {job.id: job for job in after.pending}
            paid = {kept.job_id for kept in after.reservations if kept.is_reclaim}
            for job in after.pending:
                if job.id in paid:
                    continue  # it starts on what is being taken back for it, also where others came free meanwhile
                world = world_of(after, policy)
                for kept in after.reservations:
                    if kept.job_id != job.id:
                        keep(world, kept, waiting[kept.job_id], waiting[kept.job_id].queue)
                if not_eligible(job, world) is None:
                    assert isinstance(fits_eligible(job, world), NoFit), job
            again = make_plan(after, policy)
            assert [entry for entry in again.entries if isinstance(entry, Admit | Preempt)] == []
            self._watch(after, policy)

        def _as_waiting(self, session: Session, job_id: int) -> PendingJob:
            row = session.get_one(JobRow, job_id)
            (job,) = pending_jobs(session, [(row, False)], Standing())
            return replace(job, attempts=job.attempts - 1, array=None)

        def _watch(self, after: Snapshot, policy: Policy) -> None:
            """No borrower denies a guarantee longer than its grace, where nothing else stands in the way.

            GPUs on a silent node, or of an attempt that is stopping, wait for the proof that they are free.
            """
            is_clear = not self.world.silent and not any(found.is_stopping for found in after.live)
            now = denied(after, policy) if is_clear else set()
            self.denied = {job_id: self.denied.get(job_id, after.at_ms) for job_id in now}
            longest_ms = (GRACE_S + 60) * 1_000
            assert all(after.at_ms - since_ms <= longest_ms for since_ms in self.denied.values())

        @rule(nominal=st.sampled_from([0, 2, 4, 8]), limits=st.sampled_from([{}, {}, {"borrowing_limit": 0}]))
        def enact(self, nominal: int, limits: dict[str, int]) -> None:
            if self.policies < 27:
                self.policies += 1
                enact_another(self.engine, self.policies, nominal, limits)
                self.denied = {}

        @precondition(lambda self: self.jobs)
        @rule(
            data=st.data(),
            kind=st.sampled_from(list(ActKind)),
            is_queue=st.booleans(),
            minutes=st.integers(1, 90),
        )
        def act(self, data: st.DataObject, kind: ActKind, is_queue: bool, minutes: int) -> None:
            """An operator pauses a job or a queue, expedites or pins a job."""
            is_queue = is_queue and kind is ActKind.PAUSE
            job = None if is_queue else data.draw(st.sampled_from(self.jobs))
            asked = acts.NewAct(
                kind, job, "science" if is_queue else None, "a demonstration", self._in(minutes)
            )
            with transaction(self.engine) as session:
                acts.set_act(session, asked, user_id=self.world.principal.user_id, at=clock.now())
            self.denied = {}

        @rule()
        def end_act(self) -> None:
            with transaction(self.engine) as session:
                for standing in acts.list_acts(session, clock.now())[:1]:
                    acts.end_act(session, standing.id, user_id=self.world.principal.user_id, at=clock.now())

        @rule(
            kind=st.sampled_from(list(WindowKind)),
            node=st.sampled_from(["n0", "n1"]),
            begin=st.integers(0, 60),
        )
        def set_apart(self, kind: WindowKind, node: str, begin: int) -> None:
            project = (self.tenants[1][0].id,) if kind is WindowKind.RESERVATION else ()
            asked = acts.NewWindow(
                kind, (node,), project, self._in(begin), self._in(begin + 30), "a demonstration"
            )
            with transaction(self.engine) as session:
                acts.add_window(session, asked, user_id=self.world.principal.user_id, at=clock.now())
            self.denied = {}

        @rule()
        def give_back(self) -> None:
            with transaction(self.engine) as session:
                for window in acts.list_windows(session, clock.now())[:1]:
                    acts.remove_window(
                        session, window.id, user_id=self.world.principal.user_id, at=clock.now()
                    )

        def _in(self, minutes: int) -> datetime:
            return clock.now() + timedelta(seconds=self.later_s, minutes=minutes)

        @rule(node=st.sampled_from(["n0", "n1"]), is_back=st.booleans())
        def drain(self, node: str, is_back: bool) -> None:
            change = nodes.resume if is_back else nodes.drain
            with transaction(self.engine) as session:
                change(session, node, at=clock.now(), actor="system")
            self.denied = {}

        @rule(data=st.data())
        def save(self, data: st.DataObject) -> None:
            """A rank saves its work, as its agent sees it at the scheduler's instant."""
            job = self._running(data)
            view = None if job is None else self.world.view(job)
            if view is not None and view.attempt is not None and view.slots[0].node not in self.world.silent:
                at = clock.now() + timedelta(seconds=self.later_s)
                self.world.executor.checkpoint(view.slots[0].node, view.attempt.id, 0, at)

        @rule()
        def send_notices(self) -> None:
            with snapshot(self.engine) as session:
                told = notices.undelivered_notices(session)
            notices.send_notices(self.world.leader, told)

        @rule(data=st.data(), is_held=st.booleans())
        @precondition(lambda self: self.jobs)
        def hold(self, data: st.DataObject, is_held: bool) -> None:
            job = data.draw(st.sampled_from(self.jobs))
            if self.world.state(job) is JobState.PENDING:
                principal = self._principal(job)
                with transaction(self.engine) as session:
                    (jobs.hold if is_held else jobs.release)(session, principal, job, clock.now())
                self.denied = {}

        def _principal(self, job: int) -> Principal:
            owner = self.world.view(job).project_id
            return next(principal for project, principal in self.tenants if project.id == owner)

        @rule()
        def cycle_and_die(self) -> None:
            """The scheduler is killed after T2; the next one launches what it admitted."""
            self.cycle()
            self.world.lead(uuid.uuid4().hex)
            self.world.dispatch(is_fresh=False)

        @precondition(lambda self: self.jobs)
        @rule(data=st.data())
        def cancel(self, data: st.DataObject) -> None:
            job = data.draw(st.sampled_from(self.jobs))
            with transaction(self.engine) as session:
                jobs.cancel(session, self._principal(job), job, clock.now())

        @rule(data=st.data(), exit_code=st.sampled_from([0, 1]))
        def finish(self, data: st.DataObject, exit_code: int) -> None:
            job = self._running(data)
            if job is not None:
                self.world.finish(job, exit_code)

        @rule()
        def hear(self) -> None:
            self.world.hear()

        @precondition(lambda self: not self.world.silent)
        @rule(node=st.sampled_from(["n0", "n1"]))
        def lose(self, node: str) -> None:
            self.world.lose(node)

        @precondition(lambda self: self.world.silent)
        @rule()
        def regain(self) -> None:
            self.world.regain(next(iter(self.world.silent)))

        @rule()
        def restart(self) -> None:
            self.world.lead(uuid.uuid4().hex)

        @invariant()
        def tables_journal_and_ledger_agree(self) -> None:
            """After every rule that wrote anything: each one moves the server's horizon."""
            with snapshot(self.engine) as session:
                written = str(session.scalar(select(func.pg_current_snapshot())))
                rows = session.execute(select(JobRow.id, JobRow.state).order_by(JobRow.id)).all()
            if written == self.looked:
                return
            self.looked = written
            self.world.check_books()
            states = {row.id: JobState(row.state) for row in rows}
            assert sorted(states) == sorted(self.jobs)  # no job is lost
            assert {job: states[job] for job in self.ended} == self.ended  # or leaves its end
            self.ended = {job: state for job, state in states.items() if state in FINAL_STATES}

        @invariant()
        def no_gpu_of_a_node_runs_two_attempts(self) -> None:
            for node in self.world.node_names:
                alive = [status for status in self.world.executor.list_attempts(node) if status.is_alive]
                held = [uuid for status in alive for uuid in status.gpu_uuids]
                assert len(held) == len(set(held))

        @invariant()
        def no_job_runs_twice_at_once(self) -> None:
            alive = {
                status.attempt_id
                for node in self.world.node_names
                for status in self.world.executor.list_attempts(node)
                if status.is_alive
            }
            owners = [name.rpartition("-")[0] for name in alive]
            assert len(owners) == len(set(owners))

    try:
        run_state_machine_as_test(Histories, settings=settings(stateful_step_count=STEPS))
    finally:
        admin.execute(f"DROP DATABASE {first} WITH (FORCE)")
        admin.close()
