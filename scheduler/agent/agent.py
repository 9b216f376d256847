"""The agent of one node: what it may start, what it started, what it tells."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from scheduler.agent.attempts import Attempt, RankState
from scheduler.agent.bundles import BundleStore
from scheduler.agent.checkpoints import CheckpointFolders
from scheduler.agent.config import AgentConfig
from scheduler.agent.events import EventBook
from scheduler.agent.holdings import Holdings
from scheduler.agent.isolation import UID_COUNT, UID_FIRST, survey
from scheduler.agent.launching import Launcher, RankCpus, RankFiles
from scheduler.agent.refusal import RefusalError
from scheduler.agent.sharing import CpuShares
from scheduler.agent.state import StateDir
from scheduler.agent.watching import RankWatch
from scheduler.dispatch.fields import WireError
from scheduler.dispatch.limits import MAX_ATTEMPTS
from scheduler.dispatch.wire import (
    AgentCode,
    AttemptStatus,
    EventPage,
    LaunchReceipt,
    Lease,
    LogPage,
    NodeProbe,
    Prepared,
    PrepareRequest,
    Signal,
)

AGENT_VERSION = "1"
START_WAIT_S = 10.0
"""Time a signal waits for a rank that is just being started [s]: a start takes 50 ms."""

_logger = logging.getLogger(__name__)


class NodeAgent:
    """One node's agent; every method is safe to call from several threads."""

    def __init__(self, config: AgentConfig) -> None:
        """Open the state, adopt what still runs, and begin to watch.

        Raises:
            OSError: the state directory cannot be used.
            WireError: the agent's record is damaged.
        """
        self._config = config
        self._state = StateDir(config.state)
        self._bundles = BundleStore(self._state.bundles)
        self._protections = survey(self._state.attempts, config.job_env, config.hidden)
        self._checkpoints = CheckpointFolders(config.checkpoints)
        self._checkpoints.make()
        self._launcher = Launcher(
            config.node, self._state, self._bundles, self._protections, config.job_env, self._checkpoints
        )
        self._changed = threading.Condition()
        self._attempts = dict(self._load())
        gpus = (g.uuid for g in config.inventory.gpus)
        self._holdings = Holdings(config.node, config.address, gpus, self._attempts)
        self._cpus = CpuShares(frozenset(os.sched_getaffinity(0)), len(config.inventory.gpus), self._attempts)
        self._events = EventBook(self._state, self._changed)
        with self._changed:
            for attempt in self._attempts.values():
                self._events.restore(attempt)
        self._watch = RankWatch(
            self._state.notify, self._changed, self._cpus, self._events, self._checkpoints
        )

    def close(self) -> None:
        """Stop watching; ranks and their shepherds go on."""
        with self._changed:
            self._events.close()
        self._watch.close()
        self._state.close()

    @property
    def port(self) -> int:
        """Where the agent listened last, 0 before its first start."""
        return self._state.record.port

    def keep_port(self, port: int) -> None:
        """Remember where the agent listens, for its next start.

        Raises:
            OSError: the file system fails.
        """
        with self._changed:
            self._state.save(replace(self._state.record, port=port))

    def probe(self) -> NodeProbe:
        """The node as it is now."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        with self._changed:
            return NodeProbe(
                node=self._config.node,
                boot_id=self._state.boot_id,
                agent_version=AGENT_VERSION,
                gpus=self._config.inventory.gpus,
                simulated=self._config.inventory.simulated,
                cpus=len(self._cpus.cpus),
                memory_bytes=memory,
                labels=dict(self._config.labels),
                isolation=self._protections.names,
                highest_epoch=self._state.record.highest_epoch,
                draining=self._state.record.draining,
                attempts=tuple(sorted(self._attempts)),
                latest_seq=self._events.latest_seq,
            )

    def follow(self, epoch: int) -> None:
        """Accept a command of the scheduler with this fencing epoch, and of none before it any more.

        Raises:
            RefusalError: a later scheduler has commanded already (``STALE_EPOCH``).
            OSError: the epoch cannot be kept.
        """
        with self._changed:
            highest = self._state.record.highest_epoch
            if epoch < highest:
                raise RefusalError(
                    AgentCode.STALE_EPOCH,
                    f"epoch {epoch} is over, node {self._config.node} follows {highest}; stop commanding",
                    {"highest_epoch": highest},
                )
            if epoch > highest:
                self._state.save(replace(self._state.record, highest_epoch=epoch))

    def drain(self, *, is_draining: bool) -> None:
        """Refuse launches from now on, or accept them again.

        Raises:
            OSError: it cannot be kept.
        """
        with self._changed:
            self._state.save(replace(self._state.record, draining=is_draining))

    def put_bundle(self, sha256: str, data: bytes) -> None:
        """See `BundleStore.put`."""
        self._bundles.put(sha256, data)

    def prepare(self, request: PrepareRequest) -> Prepared:
        """Hold GPUs and a port for an attempt for `RESERVATION_S`, or longer if it is launched.

        Raises:
            RefusalError: draining, a GPU unknown or busy, no port, too many reservations.
        """
        with self._changed:
            attempt = self._attempts.get(request.attempt_id)
            if attempt is None:
                self._refuse_when_draining()
                port = self._holdings.reserve(request)
            else:
                port = attempt.lease.master_port
            return Prepared(
                attempt_id=request.attempt_id,
                has_bundle=request.bundle is None or self._bundles.has(request.bundle),
                master_addr=self._config.address if request.wants_endpoint else None,
                master_port=port if request.wants_endpoint else None,
            )

    def launch(self, lease: Lease) -> LaunchReceipt:
        """Start a lease's ranks, once however often it is asked.

        Raises:
            RefusalError: another lease has the name, draining, bundle missing, GPU unknown or busy.
            OSError: the attempt cannot be written; nothing is started.
        """
        with self._changed:
            attempt = self._attempts.get(lease.attempt_id)
            if attempt is not None:
                if replace(attempt.lease, epoch=lease.epoch) != lease:
                    raise RefusalError(
                        AgentCode.LEASE_MISMATCH,
                        f"attempt {lease.attempt_id} runs under another lease; give a new attempt a new id",
                    )
                return _receipt(attempt)
            self._refuse_when_draining()
            self._holdings.check(lease.attempt_id, tuple(u for r in lease.ranks for u in r.gpu_uuids))
            if len(self._attempts) >= MAX_ATTEMPTS:
                raise RefusalError(
                    AgentCode.DRAINING, f"{MAX_ATTEMPTS} attempts are on record; remove ended ones"
                )
            committed_at = datetime.now(UTC)
            uid = self._next_uid() if self._protections.own_uid else None
            own = self._cpus.take(lease)
            left = self._cpus.left(own)
            aside = {rank.rank: self._cpus.aside(lease, len(rank.gpu_uuids)) for rank in lease.ranks}
            self._launcher.commit(lease, committed_at.timestamp(), uid, RankCpus(own, left, aside))
            attempt = Attempt(lease, committed_at, self._launcher.folder(lease.attempt_id), uid, own)
            for rank in lease.ranks:
                state = RankState(RankFiles(attempt.folder, rank.rank))
                state.load_seqs()
                state.told_cpus = left
                try:
                    state.starting = self._launcher.start(lease.attempt_id, rank.rank)
                except OSError:
                    _logger.exception("no shepherd for rank %d of %s", rank.rank, lease.attempt_id)
                attempt.ranks[rank.rank] = state
            self._attempts[lease.attempt_id] = attempt
            self._holdings.release(lease.attempt_id)
            return _receipt(attempt)

    def signal(self, attempt_id: str, signal: Signal, kill_after_s: int) -> None:
        """Pass a signal to the shepherds of an attempt; ended ranks hear nothing.

        Raises:
            RefusalError: no such attempt.
        """
        with self._changed:
            if signal is not Signal.CHECKPOINT and self._holdings.release(attempt_id):
                return
            ranks = [r for r in self._find(attempt_id).ranks.values() if r.exit is None]
        command = f"term {kill_after_s}" if signal is Signal.TERM else str(signal)
        deadline = time.monotonic() + START_WAIT_S
        for rank in ranks:
            starting = rank.starting
            if starting is not None:
                with suppress(Exception):  # the shepherd is late; the command goes where it will be read
                    starting.wait(max(0.0, deadline - time.monotonic()))
            rank.send(command)

    def attempts(self) -> tuple[AttemptStatus, ...]:
        """Every attempt on record, by name."""
        with self._changed:
            return tuple(self._attempts[name].status() for name in sorted(self._attempts))

    def attempt(self, attempt_id: str) -> AttemptStatus:
        """One attempt.

        Raises:
            RefusalError: no such attempt.
        """
        with self._changed:
            return self._find(attempt_id).status()

    def events(self, after: int, wait_s: float) -> EventPage:
        """Events numbered above `after`, in order; waits up to `wait_s` [s] for the first."""
        with self._changed:
            return self._events.page(after, wait_s)

    def logs(self, attempt_id: str, rank: int, offset: int, limit: int) -> LogPage:
        """At most `limit` bytes of a rank's log from `offset` on; a page past the end is empty.

        Raises:
            RefusalError: no such attempt or rank.
        """
        with self._changed:
            state = self._find_rank(attempt_id, rank)
            has_ended = state.exit is not None
        try:
            with state.files.log.open("rb") as file:
                file.seek(offset)
                data = file.read(limit)
                size = os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            return LogPage(b"", offset, has_ended)
        end = offset + len(data)
        return LogPage(data, end, has_ended and end >= size)

    def output(self, attempt_id: str, rank: int, path: str) -> Path:
        """Where a kept output is.

        Raises:
            RefusalError: no such attempt, rank or output.
        """
        with self._changed:
            state = self._find_rank(attempt_id, rank)
            kept = () if state.exit is None else state.exit.outputs
            if path in {o.path for o in kept}:
                return state.files.outputs / path
        raise RefusalError(AgentCode.NOT_FOUND, f"rank {rank} of {attempt_id} kept no output {path[:200]!r}")

    def remove(self, attempt_id: str) -> None:
        """Forget an ended attempt and its files; unknown is fine.

        Raises:
            RefusalError: it is alive.
            OSError: the file system fails.
        """
        with self._changed:
            attempt = self._attempts.get(attempt_id)
            if attempt is None:
                self._holdings.release(attempt_id)
                return
            if attempt.is_alive:
                raise RefusalError(
                    AgentCode.ATTEMPT_ALIVE, f"attempt {attempt_id} has living ranks; signal it, then remove"
                )
            del self._attempts[attempt_id]
            self._events.forget(attempt)
        self._state.discard(attempt.folder)
        self._checkpoints.forget(attempt_id, attempt.lease.job_id)

    # What the methods above share; called with the lock held.

    def _refuse_when_draining(self) -> None:
        if self._state.record.draining:
            raise RefusalError(AgentCode.DRAINING, f"node {self._config.node} is draining; use another")

    def _find(self, attempt_id: str) -> Attempt:
        attempt = self._attempts.get(attempt_id)
        if attempt is None:
            raise RefusalError(
                AgentCode.NOT_FOUND, f"node {self._config.node} knows no attempt {attempt_id[:64]!r}"
            )
        return attempt

    def _find_rank(self, attempt_id: str, rank: int) -> RankState:
        state = self._find(attempt_id).ranks.get(rank)
        if state is None:
            raise RefusalError(AgentCode.NOT_FOUND, f"attempt {attempt_id} has no rank {rank} on this node")
        return state

    def _next_uid(self) -> int:
        used = {a.uid for a in self._attempts.values() if a.is_alive}
        number = self._state.record.uid_next
        while UID_FIRST + number % UID_COUNT in used and len(used) < UID_COUNT:
            number += 1
        self._state.save(replace(self._state.record, uid_next=number + 1))
        return UID_FIRST + number % UID_COUNT

    def _load(self) -> Iterator[tuple[str, Attempt]]:
        for folder in sorted(self._state.attempts.iterdir()):
            try:
                yield folder.name, Attempt.load(folder)
            except (OSError, WireError):
                _logger.exception("attempt folder %s is damaged and set aside", folder)


def _receipt(attempt: Attempt) -> LaunchReceipt:
    return LaunchReceipt(
        attempt_id=attempt.lease.attempt_id,
        ranks=tuple(sorted(attempt.ranks)),
        committed_at=attempt.committed_at,
    )
