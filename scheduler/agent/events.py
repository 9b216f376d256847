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
                self.publish(rank.started_seq, name, number, rank.started_at, None)
            if rank.exited_seq is not None and rank.exit is not None:
                self.publish(rank.exited_seq, name, number, rank.exit.ended_at, rank.exit)

    def forget(self, attempt: Attempt) -> None:
        """Drop the events of an attempt that is removed."""
        for rank in attempt.ranks.values():
            for seq in (rank.started_seq, rank.exited_seq):
                self._events.pop(seq or 0, None)

    def next_seq(self) -> int:
        """A number never given before.

        Raises:
            OSError: it cannot be reserved.
        """
        self._state.reserve_seq(self.latest_seq + 1)
        self.latest_seq += 1
        return self.latest_seq

    def publish(self, seq: int, attempt_id: str, rank: int, at: datetime, end: RankExit | None) -> None:
        """Show an event; its number must be kept on disk before."""
        kind = EventKind.STARTED if end is None else EventKind.EXITED
        self._events[seq] = AttemptEvent(
            seq=seq, attempt_id=attempt_id, rank=rank, kind=kind, at=at, exit=end
        )
        self._changed.notify_all()

    def page(self, after: int, wait_s: float) -> EventPage:
        """Events numbered above `after`, in order; waits up to `wait_s` [s] for the first.

        Costs a pass over the events on record: as many as ranks not yet removed, times two.
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
