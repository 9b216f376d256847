"""Invariants 4, 9 and 12, each over a whole flow."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text

from scheduler import observe
from scheduler.dispatch.fake import Lies, Script
from scheduler.dispatch.wire import AgentCode, AttemptEvent, EventKind, OutputFile, RankExit
from scheduler.model import JobState
from scheduler.service import SchedulerService, SchedulerSettings
from store import clock, journal
from store.engine import snapshot, transaction

ROOT = Path(__file__).resolve().parents[2]


class Watched:
    """An executor that asserts, at each call, that its caller's thread holds no connection of the engine's pool."""

    def __init__(self, executor: Any, engine: Any) -> None:
        self._executor = executor
        self._held: Counter[int] = Counter()
        self._lock = threading.Lock()
        self.calls: Counter[str] = Counter()
        self.guilty: list[str] = []
        event.listen(engine, "checkout", lambda *_: self._count(1))
        event.listen(engine, "checkin", lambda *_: self._count(-1))

    def _count(self, change: int) -> None:
        with self._lock:
            self._held[threading.get_ident()] += change

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._executor, name)
        if name.startswith("_") or not callable(found):
            return found

        def called(*arguments: Any, **named: Any) -> Any:
            with self._lock:
                self.calls[name] += 1
                if self._held[threading.get_ident()]:
                    self.guilty.append(name)
            return found(*arguments, **named)

        return called


@pytest.fixture
def watched(world) -> Iterator[Watched]:
    made = Watched(world.executor, world.engine)
    world.executor = made
    world.lead("watched")
    yield made
    assert made.guilty == []


def test_the_watch_notices_a_call_inside_a_session(world):
    made = Watched(world.executor, world.engine)
    made.probe("n0")
    with transaction(world.engine) as session:
        session.execute(text("SELECT 1"))
        made.probe("n0")
    made.probe("n0")
    assert (made.calls["probe"], made.guilty) == (3, ["probe"])


def test_no_agent_is_asked_while_a_session_is_open(world, watched):
    """Every step that speaks to an agent, as the loop takes them: good and bad ends, stops, loss and return."""
    done, gang, stopped = world.submit(1, 600, Script()), world.submit(4, 600, nodes=2), world.submit(1, 600)
    world.turn()
    world.cancel(stopped)
    world.turn()
    world.finish(gang)
    world.hear()
    watched._executor._lies = Lies(refuses=AgentCode.DRAINING)
    refused = world.submit(1, 600)
    world.turn()
    assert world.state(refused) is JobState.PENDING
    watched._executor._lies = Lies(loses_answers=1)
    lost = world.submit(1, 600)
    world.turn()
    node = world.view(lost).slots[0].node
    world.lose(node)
    world.turn()
    watched._executor.finish(node, f"{lost}-1", 9)
    world.regain(node)
    observe.relist(world.leader, node)
    assert world.state(lost) is JobState.PENDING
    assert [world.state(job) for job in (done, gang, stopped)] == ["COMPLETED", "COMPLETED", "CANCELLED"]
    used = {"prepare", "launch", "signal", "observe", "list_attempts", "attempt", "probe", "remove"}
    assert used <= set(watched.calls)
    world.check()


def test_the_schedulers_own_threads_hold_no_session_during_a_call(world, watched, database, wait_until):
    service = SchedulerService(
        world.engine,
        lambda: {name: f"http://{name}" for name in world.node_names},
        lambda _: watched,
        SchedulerSettings(
            holder="service", database_url=database.url, release="test", cycle_interval_ms=50, lease_ttl_s=60
        ),
    )
    jobs = [world.submit(1, 600, Script()) for _ in range(3)]
    stopped = world.submit(2, 600)
    with transaction(world.engine) as session:
        session.execute(text("UPDATE leases SET expires_at = '2026-01-01T00:00:00Z'"))
    thread = threading.Thread(target=service.run)
    thread.start()
    try:
        wait_until(lambda: {world.state(job) for job in jobs} == {JobState.COMPLETED}, "the jobs end")
        wait_until(lambda: world.state(stopped) is JobState.RUNNING, "the last one runs")
        world.cancel(stopped)
        wait_until(lambda: world.state(stopped) is JobState.CANCELLED, "it is stopped")
    finally:
        service.stop()
        thread.join(20)
    assert not thread.is_alive()
    assert {"launch", "observe", "signal", "list_attempts"} <= set(watched.calls)


CANARY = "canary7c1f"


def test_journal_and_ledger_hold_nothing_a_person_wrote(world):
    project, principal = world.tenant(f"{CANARY}-organisation", "science")
    world.award(project)
    made: list[int] = []
    for end in ("ends", "fails", "stopped"):
        asked = {
            "project": project,
            "principal": principal,
            "name": f"{CANARY} {end}",
            "command": ("python", f"{CANARY}.py", f"--token={CANARY}"),
            "env": {f"NAME_{CANARY}": f"{CANARY}@example.org"},
            "outputs": (f"{CANARY}/*.bin",),
        }
        made.append(world.submit(1, 600, **asked))
    world.turn()
    ends, fails, stopped = made
    kept = RankExit(
        exit_code=0,
        signal=None,
        timeout=False,
        oom=False,
        started_at=clock.now(),
        ended_at=clock.now(),
        max_rss_bytes=1,
        outputs=(OutputFile(f"{CANARY}/model.bin", 3, "ab" * 32),),
    )
    told = AttemptEvent(
        seq=99, attempt_id=f"{ends}-1", rank=0, kind=EventKind.EXITED, at=clock.now(), exit=kept
    )
    observe.take_events(world.leader, [told])
    world.finish(fails, 3)
    world.principal = principal
    world.cancel(stopped)
    world.turn()
    assert [world.state(job) for job in made] == ["COMPLETED", "FAILED", "CANCELLED"]
    with snapshot(world.engine) as session:
        tables = {
            "journal": [record.canonical().decode() for record in journal.read(session)],
            "ledger": session.scalars(text("SELECT row_to_json(e)::text FROM ledger_entries e")).all(),
            "texts": session.scalars(text("SELECT row_to_json(t)::text FROM job_texts t")).all(),
            "artefacts": session.scalars(text("SELECT row_to_json(a)::text FROM artefacts a")).all(),
        }
    found = {name: sum(CANARY in row.casefold() for row in rows) for name, rows in tables.items()}
    assert found == {"journal": 0, "ledger": 0, "texts": 3, "artefacts": 1}
    assert len(tables["journal"]) > 20
    assert len(tables["ledger"]) > 5


WITHOUT_METRICS = """
import json, sys
for name in ("metrics", "prometheus_client", "pynvml"):
    sys.modules[name] = None  # importing it fails from here on
from scheduler.dispatch.fake import Script
from store.engine import open_engine
from tests.shell.conftest import World
import scheduler.agent.agent, scheduler.agent.shepherd, scheduler.service
world = World(open_engine(sys.argv[1]))
job = world.submit(2, 600, Script())
world.turn()
world.check()
world.pool.shutdown()
print(json.dumps(world.state(job)))
"""


def test_jobs_run_where_metrics_cannot_even_be_imported(database):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_METRICS, database.url],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == "COMPLETED"


def test_a_metrics_page_that_fails_changes_no_job(world):
    from prometheus_client import CollectorRegistry, generate_latest
    from sqlalchemy import create_engine
    from sqlalchemy.exc import OperationalError

    from metrics.controlplane import ControlPlane

    job = world.submit(1, 600, Script())
    registry = CollectorRegistry()
    registry.register(ControlPlane(create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none")))
    with pytest.raises(OperationalError):
        generate_latest(registry)
    world.turn()
    assert world.state(job) is JobState.COMPLETED
    world.check()
