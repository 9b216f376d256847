"""The agent's events: numbered once, in order, kept with the attempts they are about."""

from __future__ import annotations

import threading
import time
from datetime import datetime

from scheduler.agent.attempts import Attempt
from scheduler.agent.state import StateDir
from scheduler.dispatch.limits import MAX_EVENTS_PER_PAGE
from scheduler.dispatch.wire import AttemptEvent, EventKind, EventPage, RankExit


class EventBook:
    """Events by number. Numbers grow for ever; a restart leaves a gap, never a repetition.

    All methods are called with `changed` held; `page` lets go of it while it waits.
    """

    def __init__(self, state: StateDir, changed: threading.Condition) -> None:
        """Begin above every number ever given."""
        self._state = state
        self._changed = changed
        self._events: dict[int, AttemptEvent] = {}
        self._is_closed = False
        self.latest_seq = state.record.seq_reserved

    def close(self) -> None:
        """Let every waiting reader go."""
        self._is_closed = True
        self._changed.notify_all()

    def restore(self, attempt: Attempt) -> None:
        """Bring back the events of an attempt after a restart, under their numbers."""
        name = attempt.lease.attempt_id
        for number, rank in attempt.ranks.items():
            if rank.started_seq is not None and rank.started_at is not None:
                self.publish(rank.started_seq, name, number, rank.started_at)
            saved = rank.checkpoint
            if saved.seq is not None and saved.reported_at is not None:
                self.publish(saved.seq, name, number, saved.reported_at, EventKind.CHECKPOINTED)
            if rank.exited_seq is not None and rank.exit is not None:
                self.publish_exit(rank.exited_seq, name, number, rank.exit)

    def forget(self, attempt: Attempt) -> None:
        """Drop the events of an attempt that is removed."""
        for rank in attempt.ranks.values():
            for seq in (rank.started_seq, rank.checkpoint.seq, rank.exited_seq):
                self.drop(seq)

    def drop(self, seq: int | None) -> None:
        """Drop an event, if there is one, that another took the place of."""
        self._events.pop(seq or 0, None)

    def next_seq(self) -> int:
        """A number never given before.

        Raises:
            OSError: it cannot be reserved.
        """
        self._state.reserve_seq(self.latest_seq + 1)
        self.latest_seq += 1
        return self.latest_seq

    def publish(
        self, seq: int, attempt_id: str, rank: int, at: datetime, kind: EventKind = EventKind.STARTED
    ) -> None:
        """Show that a rank started or saved its work; the number must be kept on disk before."""
        self._show(AttemptEvent(seq=seq, attempt_id=attempt_id, rank=rank, kind=kind, at=at))

    def publish_exit(self, seq: int, attempt_id: str, rank: int, end: RankExit) -> None:
        """Show a rank's end; the number must be kept on disk before."""
        kind = EventKind.EXITED
        self._show(
            AttemptEvent(seq=seq, attempt_id=attempt_id, rank=rank, kind=kind, at=end.ended_at, exit=end)
        )

    def _show(self, event: AttemptEvent) -> None:
        self._events[event.seq] = event
        self._changed.notify_all()

    def page(self, after: int, wait_s: float) -> EventPage:
        """Events numbered above `after`, in order; waits up to `wait_s` [s] for the first.

        Costs a pass over the events on record: as many as ranks not yet removed, times three.
        """
        deadline = time.monotonic() + wait_s
        while True:
            found = sorted(seq for seq in self._events if seq > after)[:MAX_EVENTS_PER_PAGE]
            left = deadline - time.monotonic()
            if found or left <= 0 or self._is_closed:
                break
            self._changed.wait(left)
        events = tuple(self._events[seq] for seq in found)
        return EventPage(self._state.boot_id, found[-1] if found else after, events)
