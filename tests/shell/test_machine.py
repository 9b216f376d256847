"""Random histories against the real tables and a real PostgreSQL, with the fake executor in place of nodes."""

from __future__ import annotations

import uuid

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

from scheduler.model import JobState
from store import embedded, engine

STEPS = 12
"""Rules of one history: enough for submit, start, lose, restart and finish to meet."""

MAX_HISTORIES = 15
"""Histories of one run: each makes a database of its own."""

FINAL = {JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED, JobState.NODE_FAIL}


def test_no_history_breaks_an_invariant(  # noqa: C901 - the rules of one machine
    postgres, make_world
):
    admin = postgres.url.replace(f"@/{embedded.SERVER_USER}?", "@/postgres?")

    class Histories(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.name = f"h_{uuid.uuid4().hex[:12]}"
            with psycopg.connect(admin, autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {self.name} TEMPLATE {embedded.SERVER_USER}")
            self.engine = engine.open_engine(
                postgres.url.replace(f"@/{embedded.SERVER_USER}?", f"@/{self.name}?"), pool_size=2
            )
            self.world = make_world(self.engine, gpus=4)
            self.jobs: list[int] = []
            self.ended: dict[int, JobState] = {}
            self.launches: dict[str, int] = {}

        def teardown(self) -> None:
            self.world.check()
            self.world.pool.shutdown()
            self.engine.dispose()
            with psycopg.connect(admin, autocommit=True) as connection:
                connection.execute(f"DROP DATABASE {self.name} WITH (FORCE)")

        def _running(self, data: st.DataObject) -> int | None:
            running = [job for job in self.jobs if self.world.state(job) is JobState.RUNNING]
            return data.draw(st.sampled_from(running)) if running else None

        @rule(gpus=st.integers(1, 4), nodes=st.sampled_from([None, 1, 2]), is_held=st.booleans())
        def submit(self, gpus: int, nodes: int | None, is_held: bool) -> None:
            gpus += gpus % (nodes or 1)
            self.jobs.append(self.world.submit(gpus, 600, nodes=nodes, is_held=is_held))

        @rule()
        def turn(self) -> None:
            self.world.turn()

        @rule()
        def cycle_and_die(self) -> None:
            """The scheduler is killed after T2; the next one launches what it admitted."""
            self.world.cycle()
            self.world.lead(uuid.uuid4().hex)
            self.world.dispatch(is_fresh=False)

        @precondition(lambda self: self.jobs)
        @rule(data=st.data())
        def cancel(self, data: st.DataObject) -> None:
            self.world.cancel(data.draw(st.sampled_from(self.jobs)))

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
            self.world.check_books()

        @invariant()
        def no_job_is_lost_or_leaves_its_end(self) -> None:
            for job in self.jobs:
                state = self.world.state(job)
                assert self.ended.get(job, state) is state
                if state in FINAL:
                    self.ended[job] = state

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

    run_state_machine_as_test(
        Histories,
        settings=settings(
            stateful_step_count=STEPS, max_examples=min(settings.default.max_examples, MAX_HISTORIES)
        ),
    )
