"""One thread per node: it registers the node, lists its attempts, and follows its events by long poll."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from sqlalchemy.exc import DBAPIError

from scheduler import nodes, observe
from scheduler.dispatch import executor as executors
from scheduler.launch import Leader
from store import clock, lease
from store.engine import transaction

OBSERVE_WAIT_S: Final = 3.0
"""Length of one long poll [s]: a silent node is noticed within it, and a stopping scheduler waits no longer."""

RELIST_EVERY_S: Final = 30.0
"""Pause between two listings of a node's attempts [s]: the bound for noticing what no event told."""

PAUSE_S: Final = 0.5
"""Pause after a node did not answer [s]."""

MIN_POLL_S: Final = 0.02
"""Least time between two polls of a node [s]: bursts of events come in one page, and no agent can make us spin."""

_logger = logging.getLogger(__name__)


class Watcher:
    """Follows one node from its making on until `stop`.

    Args:
        leader: the leading scheduler.
        node: the node.
        url: its agent's address.
        hear: called each time the node answered.
        lose: called when another process turned out to be the scheduler.
    """

    def __init__(
        self, leader: Leader, node: str, url: str, hear: Callable[[str], None], lose: Callable[[], None]
    ) -> None:
        self._leader = leader
        self._node = node
        self._url = url
        self._hear = hear
        self._lose = lose
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch-{node}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Follow the node no more; the thread ends within a long poll."""
        self._stopped.set()

    def join(self) -> None:
        """Stop and wait for the thread's end."""
        self.stop()
        self._thread.join()

    @property
    def _is_over(self) -> bool:
        return self._stopped.is_set() or self._leader.stopping.is_set()

    def _run(self) -> None:
        while not self._is_over:
            try:
                self._follow()
            except (lease.StaleEpochError, executors.StaleEpochError):
                if not self._is_over:
                    self._lose()
                return
            except (executors.ExecutorError, DBAPIError, nodes.NodeRefusedError) as error:
                _logger.warning("node %s: %s", self._node, error)
            except Exception:
                _logger.exception("node %s: watching it failed; trying again", self._node)
            self._leader.stopping.wait(PAUSE_S)

    def _follow(self) -> None:
        """Register the node, list its attempts, then follow its events until something fails.

        The last event's number is read before the attempts are listed, so that nothing falls in between.
        """
        leader, node = self._leader, self._node
        probe = leader.executor.probe(node)
        # From this command on the node refuses those of every earlier scheduler; the name is no attempt's.
        leader.executor.remove(node, f"epoch-{leader.epoch}", leader.epoch)
        self._hear(node)
        with transaction(leader.engine) as session:
            lease.fence(session, leader.held)
            nodes.register(session, probe, self._url, at=clock.now(), actor=leader.actor)
        observe.relist(leader, node, is_back=True)
        listed_at, after = time.monotonic(), probe.latest_seq
        while not self._is_over:
            asked_at = time.monotonic()
            page = leader.executor.observe(node, after, OBSERVE_WAIT_S)
            self._hear(node)
            if page.boot_id != probe.boot_id:
                return  # the node began anew: so do we
            observe.take_events(leader, page.events)
            after = page.next_after
            if time.monotonic() - listed_at >= RELIST_EVERY_S:
                observe.relist(leader, node)
                listed_at = time.monotonic()
            self._stopped.wait(max(0.0, asked_at + MIN_POLL_S - time.monotonic()))
