"""A collector whose one reading of the database serves the scrapes of the next few seconds."""

from __future__ import annotations

import math
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

CACHE_S: Final = 5.0
"""Age up to which one reading serves further scrapes [s]: a third of the common scrape interval of 15 s."""


class CachedCollector(Collector):
    """There is at most one reading at a time and one per CACHE_S, however many scrape.

    Args:
        elapsed_s: A clock that never goes back [s].
    """

    def __init__(self, elapsed_s: Callable[[], float] = time.monotonic) -> None:
        self._elapsed_s = elapsed_s
        self._lock = threading.Lock()
        self._families: tuple[Metric, ...] = ()
        self._fresh_until_s = -math.inf

    def describe(self) -> Iterable[Metric]:
        """Name nothing in advance, so that registering reads no database."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every family, of one snapshot of the database at most CACHE_S old."""
        with self._lock:  # who waits here finds the families that the one before read
            if self._elapsed_s() >= self._fresh_until_s:
                self._families = self.read()
                self._fresh_until_s = self._elapsed_s() + CACHE_S
            families = self._families
        yield from families

    @abstractmethod
    def read(self) -> tuple[Metric, ...]:
        """Read every family, in one snapshot."""
