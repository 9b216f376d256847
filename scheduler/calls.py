"""Calls that a scheduler's pool makes about attempts: one at a time works on an attempt; what fails is tried again."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from scheduler.dispatch import executor as executors
from scheduler.model import AttemptId
from store import lease

CALLS_MAX: Final = 8
"""Calls at a time: each holds a database connection for milliseconds only."""

GROUP_MAX: Final = 16
"""Attempts launched one after the other and recorded by one transaction: a node that does not answer delays no more."""

RETRY_S: Final = 5.0
"""Pause before an attempt whose node did not answer is tried again [s]."""

Work = Callable[[], Collection[AttemptId] | None]
"""What a call does; it may name attempts that it could not finish, which are tried again after a pause."""

_logger = logging.getLogger(__name__)


def groups_of(attempts: Sequence[AttemptId]) -> list[Sequence[AttemptId]]:
    """Attempts in the groups that are dispatched side by side: each alone up to CALLS_MAX, GROUP_MAX at most."""
    size = min(GROUP_MAX, max(1, math.ceil(len(attempts) / CALLS_MAX)))
    return list(in_groups(attempts, size))


def in_groups(attempts: Sequence[AttemptId], most: int) -> Iterator[Sequence[AttemptId]]:
    """Attempts in their order, `most` together."""
    for begin in range(0, len(attempts), most):
        yield attempts[begin : begin + most]


@dataclass(slots=True)
class Calls:
    """Calls under way, their attempts, and when those whose node did not answer may be tried again.

    Args:
        lose: called when a call finds that another process is the scheduler.
        ended: called behind each call.
    """

    lose: Callable[[], None]
    ended: Callable[[], object]
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(CALLS_MAX, "call"))
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _running: set[AttemptId] = field(default_factory=set)
    _not_before: dict[AttemptId, float] = field(default_factory=dict)

    def begin(self, attempts: Sequence[AttemptId]) -> list[AttemptId]:
        """Take attempts, but those that another call has or whose pause lasts; `submit` gives them back."""
        now = time.monotonic()
        with self._lock:
            free = [
                attempt_id
                for attempt_id in attempts
                if attempt_id not in self._running and self._not_before.get(attempt_id, 0.0) <= now
            ]
            for attempt_id in free:
                self._not_before.pop(attempt_id, None)
            self._running.update(free)
        return free

    def submit(self, attempts: Sequence[AttemptId], work: Work) -> None:
        """Let the pool work on attempts that were begun; what fails is tried again after RETRY_S."""

        def run() -> None:
            again: Collection[AttemptId] = ()
            try:
                again = work() or ()
            except (lease.StaleEpochError, executors.StaleEpochError):
                self.lose()
            except executors.ExecutorError as error:
                _logger.warning("attempts %s: %s; trying again", ", ".join(attempts), error)
                again = attempts
            except Exception:
                _logger.exception("attempts %s: a call failed; trying again", ", ".join(attempts))
                again = attempts
            finally:
                self._end(attempts, again)
                self.ended()

        self._pool.submit(run)

    def _end(self, attempts: Sequence[AttemptId], again: Collection[AttemptId]) -> None:
        not_before = time.monotonic() + RETRY_S
        with self._lock:
            self._running.difference_update(attempts)
            self._not_before.update(dict.fromkeys(again, not_before))

    def close(self) -> None:
        """Make no further calls and wait for those under way."""
        self._pool.shutdown(cancel_futures=True)
