"""The operators' notice of documents that run out, as a metric: counts by state, of the whole platform, no names."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Engine

from products.indicator import ALMATY
from products.registers_standing import due_by_state
from store.engine import snapshot

CACHE_S: Final = 60.0
"""Age up to which one reading serves further scrapes [s]: the figure changes once a day."""

FAMILY: Final = "kezek_register_documents_due"
"""Name of the metric."""


class DocumentsDue(Collector):
    """Collector over the documents; register it where `/metrics` is served. One reading a minute at most.

    Args:
        engine: the database.
        now: the clock; the day is that of Almaty.
        elapsed_s: a clock that never goes back [s].
    """

    def __init__(
        self, engine: Engine, now: Callable[[], datetime], *, elapsed_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._now = now
        self._elapsed_s = elapsed_s
        self._lock = threading.Lock()
        self._read: tuple[float, dict[str, int]] | None = None

    def describe(self) -> Iterable[Metric]:
        """The family without samples, so that registering reads nothing."""
        return [_family()]

    def collect(self) -> Iterable[Metric]:
        """The family, from a reading of at most `CACHE_S` ago."""
        with self._lock:
            if self._read is None or self._elapsed_s() - self._read[0] >= CACHE_S:
                with snapshot(self._engine) as session:
                    counts = due_by_state(session, self._now().astimezone(ALMATY).date())
                self._read = (self._elapsed_s(), counts)
            counts = self._read[1]
        family = _family()
        for state, count in sorted(counts.items()):
            family.add_metric([state], count)
        return [family]


def _family() -> GaugeMetricFamily:
    return GaugeMetricFamily(
        FAMILY,
        "Documents of dossiers that run out: reminder from 60 days before, alarm from 30, expired after.",
        labels=["state"],
    )
