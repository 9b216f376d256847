"""The scheduler's process: it holds the lease, cycles, dispatches, stops and observes until it is told to end.

One thread cycles. Calls to agents run in pools, so that a slow node never delays a plan; one thread per node
follows its events. At most one call works on an attempt at a time. Whoever loses the lease stops at once.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Final

import psycopg
from sqlalchemy import Engine, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from quota.service import NoPolicyError
from scheduler import nodes, notices, observe, retention, stops
from scheduler.apply import LEASE
from scheduler.calls import Calls, groups_of, in_groups
from scheduler.collecting import Collecting
from scheduler.cycling import cycle
from scheduler.dispatch.executor import Executor
from scheduler.launch import Leader, dispatch, dispatch_all
from scheduler.model import AttemptId, NodeState
from scheduler.shutdown import requeue_all_live
from scheduler.tables import NodeRow
from scheduler.warm import Warm
from scheduler.watch import Watcher
from store import clock, lease
from store.engine import WAKE_CHANNEL, snapshot, transaction

__all__ = ["LeaseLostError", "SchedulerService", "SchedulerSettings", "cycle", "requeue_all_live"]

LAUNCHES_MAX: Final = 32
"""Nodes of gangs launched at a time."""

HEAR_EVERY_S: Final = 2.0
"""Pause between two writes of when nodes were heard of [s]; readers judge a node by the minute."""

PROVE_EVERY_S: Final = 2.0
"""Pause between two looks at attempts that were told to stop and did not report their end [s]."""

REMOVAL: Final = AttemptId("removal")
"""Stands for the round of removing among the attempts that a call works on; it is no attempt's name."""

REMOVE_EVERY_S: Final = 60.0
"""Pause between two rounds of removing what ended long ago [s]: retention is counted in days."""

ACQUIRE_EVERY_S: Final = 0.2
"""Pause between two tries to take the lease from another holder [s]."""

LISTEN_S: Final = 1.0
"""How long one wait for a notification lasts [s]; the thread looks whether to end in between."""

_logger = logging.getLogger(__name__)


class LeaseLostError(RuntimeError):
    """Another process is the scheduler; this one has stopped writing and must end."""

    def __init__(self, epoch: int) -> None:
        super().__init__(
            f"the scheduler's lease with epoch {epoch} is lost; this process stops, start it again"
        )
        self.epoch = epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerSettings:
    """How a scheduler's process works.

    Attributes:
        holder: name of this process in the lease, unlike any other's and any earlier one's: a random id.
        database_url: for the connection that waits for notifications.
        release: version of the code, for the cycles' records.
        cycle_interval_ms: longest pause between two cycles.
        lease_ttl_s: how long the lease lasts unless renewed.
        node_down_after_s: silence after which a node counts as down.
        keep_days: days for which nodes keep the logs and outputs of an attempt after its end.
    """

    holder: str
    database_url: str
    release: str
    cycle_interval_ms: int = 1_000
    lease_ttl_s: int = 10
    node_down_after_s: int = 20
    keep_days: int = 30


class SchedulerService:
    """One scheduler; several may run, the one with the lease works.

    Args:
        engine: the database.
        urls: the agents' addresses by node, now; `scheduler.nodes.AgentsFile` reads them from a file.
        connect: an executor for such addresses; closing it is the caller's.
        settings: of this process.
        took: told of each phase of a cycle (read, plan, apply) and its seconds.
        beat: called at each turn, also while another process leads; whoever watches this one looks for it.
    """

    def __init__(
        self,
        engine: Engine,
        urls: Callable[[], Mapping[str, str]],
        connect: Callable[[Mapping[str, str]], Executor],
        settings: SchedulerSettings,
        *,
        took: Callable[[str, float], None] = lambda _phase, _seconds: None,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._took = took
        self._beat = beat
        self._engine = engine
        self._urls = urls
        self._connect = connect
        self._settings = settings
        self._stopping = threading.Event()
        self._lost = threading.Event()
        self._woken = threading.Event()
        self._warm = Warm()
        self._collecting = Collecting()
        self._threads: list[threading.Thread] = []
        self._watchers: dict[str, Watcher] = {}
        self._retired: list[Watcher] = []
        self._known_urls: dict[str, str] = {}
        self._heard_at: dict[str, float] = {}
        self._began = time.monotonic()
        self._next_hear = self._next_prove = self._next_remove = 0.0

    def stop(self) -> None:
        """End soon: no new cycle; what runs goes on, and a later scheduler follows it.

        Safe in a signal handler: another thread sets the events, as the interrupted one may hold their locks.
        """

        def end() -> None:
            self._stopping.set()
            self._woken.set()

        threading.Thread(target=end, name="stop", daemon=True).start()

    def run(self) -> None:
        """Take the lease, work until `stop`, give the lease back.

        Raises:
            LeaseLostError: another process took over.
        """
        held = self._acquire()
        if held is None:
            return
        _logger.info("leading with epoch %d", held.epoch)
        self._warm = Warm()
        calls, launches = Calls(self._lose, self._woken.set), ThreadPoolExecutor(LAUNCHES_MAX, "launch")
        leader = Leader(self._engine, self._connect({}), held, launches, self._stopping)
        self._began = time.monotonic()
        self._start(self._renew, held)
        self._start(self._listen)
        try:
            with self._collecting.settled():
                self._work(leader, calls)
        finally:
            self._stopping.set()
            calls.close()
            launches.shutdown(cancel_futures=True)
            for watcher in [*self._watchers.values(), *self._retired]:
                watcher.join()
            for thread in self._threads:
                thread.join()
        if self._lost.is_set():
            raise LeaseLostError(held.epoch)
        with transaction(self._engine) as session:
            lease.release(session, held, at=clock.now())

    # Lease and wake-ups

    def _acquire(self) -> lease.Held | None:
        while not self._stopping.is_set():
            self._beat()
            try:
                with transaction(self._engine) as session:
                    held = self._take_lease(session)
                if held is not None:
                    return held
            except DBAPIError:
                _logger.exception("the lease could not be asked for; trying again")
            self._stopping.wait(ACQUIRE_EVERY_S)
        return None

    def _take_lease(self, session: Session) -> lease.Held | None:
        settings = self._settings
        return lease.acquire(session, LEASE, settings.holder, at=clock.now(), ttl_s=settings.lease_ttl_s)

    def _renew(self, held: lease.Held) -> None:
        """Keep the lease; when it cannot be renewed well before its end, stop everything."""
        ttl_s = self._settings.lease_ttl_s
        while not self._stopping.wait(ttl_s / 4):
            try:
                with transaction(self._engine) as session:
                    renewed = self._take_lease(session)
            except DBAPIError as error:
                _logger.warning("the lease was not renewed: %s", error)
                if clock.now() > held.expires_at - timedelta(seconds=ttl_s / 4):
                    self._lose()
                continue
            if renewed is None or renewed.epoch != held.epoch:
                self._lose()
                return
            held = replace(held, expires_at=renewed.expires_at)

    def _lose(self) -> None:
        """Stop at once: the lease is another's."""
        self._lost.set()
        self._stopping.set()
        self._woken.set()

    def _listen(self) -> None:
        """Wake the cycle when a transaction notifies; the interval stands in while the connection is down."""
        while not self._stopping.is_set():
            try:
                with psycopg.connect(self._settings.database_url, autocommit=True) as connection:
                    connection.execute(f"LISTEN {WAKE_CHANNEL}")
                    self._woken.set()
                    while not self._stopping.is_set():
                        for _ in connection.notifies(timeout=LISTEN_S, stop_after=1):
                            self._woken.set()
            except psycopg.Error as error:
                _logger.warning("no wake-ups from the database: %s", error)
                self._stopping.wait(LISTEN_S)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, name=work.__name__.strip("_"), daemon=True)
        thread.start()
        self._threads.append(thread)

    # The loop

    def _work(self, leader: Leader, calls: Calls) -> None:
        while not self._stopping.is_set():
            pause_s = self._settings.cycle_interval_ms / 1_000
            self._beat()
            try:
                leader = self._follow_nodes(leader)
                pause_s = min(pause_s, self._turn(leader, calls))
            except lease.StaleEpochError:
                self._lose()
            except NoPolicyError as error:
                _logger.error("%s", error)  # noqa: TRY400 - the story is in the message
            except (DBAPIError, ValueError, OSError):
                # The database is away, or the agents' file or secret cannot be read just now.
                _logger.exception("the cycle was given up; the next one follows")
            if pause_s > 0:
                self._woken.wait(pause_s)
            self._woken.clear()

    def _turn(self, leader: Leader, calls: Calls) -> float:
        """One cycle, and the calls that it or earlier ones left to make; seconds until the next has to come."""
        began = self._warm.rebuilds
        applied = cycle(leader, self._settings.release, at=clock.now(), warm=self._warm, took=self._took)
        self._collecting.after_cycle(is_rebuilt=self._warm.rebuilds != began)
        for group in groups_of(calls.begin(applied.admitted)):
            calls.submit(group, partial(dispatch_all, leader, group, is_fresh=True))
        self._call_nodes(leader, calls)
        if applied.is_partial:
            return 0.0
        return math.inf if applied.next_ms is None else (applied.next_ms - clock.to_ms(clock.now())) / 1_000

    def _call_nodes(self, leader: Leader, calls: Calls) -> None:
        """Calls that this cycle or earlier ones left to make: notices, stops, late launches, proofs, removals."""
        with snapshot(self._engine) as session:
            noticed = notices.undelivered_notices(session)
            undelivered = stops.undelivered_stops(session)
            told = stops.told_stops(session) if time.monotonic() >= self._next_prove else []
        for group in in_groups(calls.begin(noticed), notices.NOTICES_TOGETHER):
            calls.submit(group, partial(notices.send_notices, leader, group))
        for group in in_groups(calls.begin(undelivered), stops.STOPS_TOGETHER):
            calls.submit(group, partial(stops.deliver_stops, leader, group))
        for attempt_id in calls.begin(self._warm.undispatched):
            calls.submit([attempt_id], partial(dispatch, leader, attempt_id, is_fresh=False))
        if told:
            self._next_prove = time.monotonic() + PROVE_EVERY_S
        for group in in_groups(calls.begin(told), stops.STOPS_TOGETHER):
            calls.submit(group, partial(stops.prove_absences, leader, group))
        if time.monotonic() >= self._next_remove:
            self._next_remove = time.monotonic() + REMOVE_EVERY_S
            before = clock.now() - timedelta(days=self._settings.keep_days)
            for group in in_groups(calls.begin([REMOVAL]), 1):
                calls.submit(group, partial(retention.remove_old, leader, before))

    # Nodes

    def _follow_nodes(self, leader: Leader) -> Leader:
        """Watch the nodes of the agents' file; note which were heard of and which are silent."""
        urls = dict(self._urls())
        if urls != self._known_urls:
            leader = replace(leader, executor=self._connect(urls))
            for name in [name for name, url in self._known_urls.items() if urls.get(name) != url]:
                retired = self._watchers.pop(name)
                retired.stop()
                self._retired.append(retired)
            for name, url in urls.items():
                if name not in self._watchers:
                    self._watchers[name] = Watcher(leader, name, url, self._hear, self._lose)
            self._known_urls = urls
        if time.monotonic() >= self._next_hear:
            self._next_hear = time.monotonic() + HEAR_EVERY_S
            self._judge_nodes(leader)
        return leader

    def _hear(self, node: str) -> None:
        self._heard_at[node] = time.monotonic()

    def _judge_nodes(self, leader: Leader) -> None:
        limit_s = self._settings.node_down_after_s
        now = time.monotonic()
        fresh = [name for name, at in list(self._heard_at.items()) if now - at <= limit_s]
        at = clock.now()
        with transaction(self._engine) as session:
            lease.fence(session, leader.held)
            if fresh:
                nodes.hear(session, fresh, at)
            known = session.scalars(select(NodeRow.name).where(NodeRow.state != NodeState.DOWN.value)).all()
        for name in known:
            if now - self._heard_at.get(name, self._began) > limit_s:
                with transaction(self._engine) as session:
                    lease.fence(session, leader.held)
                    nodes.mark_down(session, name, at=at, actor=leader.actor)
        observe.lose_nodes(leader)
