"""Stopping the whole platform: every rank ends, its job waits for the next start with its place kept."""

from __future__ import annotations

import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Final

from sqlalchemy import Engine, select

from scheduler import observe, stops
from scheduler.apply import LEASE
from scheduler.changes import job_of
from scheduler.dispatch.executor import Executor
from scheduler.dispatch.wire import Signal
from scheduler.facts import PlatformStopping
from scheduler.heard import Heard, take_heard
from scheduler.launch import Leader
from scheduler.model import AttemptId
from scheduler.side_by_side import call_nodes, log_failures
from scheduler.tables import AttemptRow
from store import clock, lease
from store.engine import snapshot, transaction

LEASE_TTL_S: Final = 60
"""How long the lease lasts that the stopping platform takes [s]: longer than stopping does."""

LEASE_WAIT_S: Final = 15.0
"""How long it waits for the lease of a scheduler that did not give it back [s]."""

CALLS_MAX: Final = 32
"""Nodes that are told to kill at a time."""

END_WAIT_S: Final = 20.0
"""How long it waits for killed ranks to be gone [s]; a kill takes milliseconds."""

PAUSE_S: Final = 0.05
"""Pause between two looks [s]."""

_logger = logging.getLogger(__name__)


def requeue_all_live(engine: Engine, executor: Executor, *, at: datetime) -> int:
    """Kill every rank and let the jobs wait again, their place kept; nobody's failure is counted.

    Call it when no scheduler of this platform runs any more. What an attempt used until `at` is charged. An
    attempt whose node does not answer stays live; the next scheduler goes on with it.

    Returns:
        Attempts that ended.

    Raises:
        StaleEpochError: another process became the scheduler meanwhile.
    """
    held = _acquire(engine)
    if held is None:
        _logger.warning("another scheduler holds the lease; its jobs are left to it")
        return 0
    with ThreadPoolExecutor(CALLS_MAX, "stop") as pool:
        leader = Leader(engine, executor, held, pool, threading.Event())
        attempts = _kill_all(leader, at)
        ended = _await_ends(leader, attempts)
    with transaction(engine) as session:
        lease.release(session, held, at=clock.now())
    return ended


def _acquire(engine: Engine) -> lease.Held | None:
    deadline = time.monotonic() + LEASE_WAIT_S
    while True:
        with transaction(engine) as session:
            holder = f"stop:{os.getpid()}"
            held = lease.acquire(session, LEASE, holder, at=clock.now(), ttl_s=LEASE_TTL_S)
        if held is not None or time.monotonic() > deadline:
            return held
        time.sleep(PAUSE_S)


def _kill_all(leader: Leader, at: datetime) -> list[AttemptId]:
    with snapshot(leader.engine) as session:
        attempts = [one.attempt_id for one in observe.live_on(session)]
    at_ms = clock.to_ms(at)
    heard = [Heard(job_of(attempt_id), PlatformStopping(attempt_id, at_ms)) for attempt_id in attempts]
    take_heard(leader, heard, at=clock.now())
    with snapshot(leader.engine) as session:
        rows = session.execute(select(AttemptRow.id, AttemptRow.ranks).where(AttemptRow.id.in_(attempts)))
        asked: dict[str, list[AttemptId]] = {}
        for row in rows:
            for node in {str(rank["node"]) for rank in row.ranks if rank["ended_ms"] is None}:
                asked.setdefault(node, []).append(AttemptId(row.id))

    def kill(node: str, attempt_id: AttemptId) -> None:
        leader.executor.signal(node, attempt_id, Signal.KILL, 0, leader.epoch)

    for answers in call_nodes(leader, asked, kill):
        log_failures(answers)
    return attempts


def _await_ends(leader: Leader, attempts: list[AttemptId]) -> int:
    """Wait until the ranks are gone, or END_WAIT_S; return how many attempts ended."""
    deadline = time.monotonic() + END_WAIT_S
    left = set(attempts)
    while left and time.monotonic() < deadline:
        stops.prove_absences(leader, sorted(left))
        with snapshot(leader.engine) as session:
            left = {one.attempt_id for one in observe.live_on(session)} & left
        if left:
            time.sleep(PAUSE_S)
    return len(attempts) - len(left)
