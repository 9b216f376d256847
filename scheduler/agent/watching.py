"""The agent's watch over its ranks: what shepherds leave on disk becomes events."""

from __future__ import annotations

import logging
import os
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from scheduler.agent.attempts import Attempt, RankState
from scheduler.agent.checkpoints import CheckpointFolders, CheckpointLook
from scheduler.agent.events import EventBook
from scheduler.agent.sharing import CpuShares
from scheduler.dispatch.wire import EventKind, RankExit

LOOK_S = 0.5
"""Time between looks at the ranks when no shepherd calls [s]: the bound for noticing a lost shepherd."""

_logger = logging.getLogger(__name__)


class RankWatch:
    """A thread that looks at every living rank, at once when a shepherd calls."""

    def __init__(
        self,
        notify: Path,
        changed: threading.Condition,
        cpus: CpuShares,
        events: EventBook,
        checkpoints: CheckpointFolders,
    ) -> None:
        """Begin to watch.

        Args:
            notify: the pipe that shepherds call through.
            changed: guards the attempts and `events`.
            cpus: the attempts on record, which others add to and take from, and the CPUs of their ranks.
            events: where what is seen is told.
            checkpoints: where ranks keep their checkpoints.

        Raises:
            OSError: the pipe cannot be opened.
        """
        self._changed = changed
        self._cpus = cpus
        self._events = events
        self._checkpoints = checkpoints
        self._checkpoint_look = CheckpointLook()
        self._notify = os.open(notify, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._is_closing = False
        self._thread = threading.Thread(target=self._watch, name="agent-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching; ranks and their shepherds go on."""
        with self._changed:
            self._is_closing = True
        with suppress(BlockingIOError):
            os.write(self._notify, b".")
        self._thread.join()
        self._checkpoint_look.close()
        os.close(self._notify)

    def _watch(self) -> None:
        while True:
            ready, _, _ = select.select([self._notify], [], [], LOOK_S)
            if ready:
                with suppress(BlockingIOError):
                    os.read(self._notify, 4096)
            with self._changed:
                if self._is_closing:
                    return
                alive = [
                    (a, n, r)
                    for a in self._cpus.attempts.values()
                    for n, r in a.ranks.items()
                    if r.exit is None
                ]
            for attempt, number, rank in alive:
                with _logged(f"rank {number} of {attempt.lease.attempt_id}"):
                    self._look(attempt, number, rank)
            with self._changed, _logged("who has which CPUs"):
                self._cpus.tell(alive)

    def _look(self, attempt: Attempt, number: int, rank: RankState) -> None:
        """Turn what a shepherd left on disk into events."""
        is_starting = rank.is_starting()
        end = rank.read_exit()
        if end is None and not is_starting:
            end = rank.find_lost()
        started_at = rank.read_start() if rank.started_at is None else None
        saved_at = self._checkpoint(attempt, number, rank, end)
        if started_at is None and end is None and saved_at is None:
            return
        with self._changed:
            name = attempt.lease.attempt_id
            if started_at is not None:
                rank.started_seq = rank.started_seq or self._events.next_seq()
            if saved_at is not None:
                self._events.drop(rank.checkpoint.seq)
                rank.checkpoint.tell(self._events.next_seq(), saved_at)
            if end is not None:
                rank.exited_seq = rank.exited_seq or self._events.next_seq()
            rank.save_seqs()
            if started_at is not None and rank.started_seq is not None:
                rank.started_at = started_at
                self._events.publish(rank.started_seq, name, number, started_at)
            if saved_at is not None and rank.checkpoint.seq is not None:
                self._events.publish(rank.checkpoint.seq, name, number, saved_at, EventKind.CHECKPOINTED)
            if end is not None and rank.exited_seq is not None:
                rank.exit = end
                self._events.publish_exit(rank.exited_seq, name, number, end)

    def _checkpoint(
        self, attempt: Attempt, number: int, rank: RankState, end: RankExit | None
    ) -> datetime | None:
        """The checkpoint of a rank that is to be told now: what it saved in its last moments too."""
        at = datetime.now(UTC)
        folder = self._checkpoints.folder(attempt.lease.job_id, number)
        seen_at = at if end is None else min(at, end.ended_at)
        rank.checkpoint.see(self._checkpoint_look.newest_ns(folder), seen_at)
        return rank.checkpoint.due(at, has_ended=end is not None)


@contextmanager
def _logged(what: str) -> Iterator[None]:
    """The edge of the watching thread: one damaged attempt must not blind it to the others."""
    try:
        yield
    except Exception:
        _logger.exception("cannot look at %s; trying again", what)
