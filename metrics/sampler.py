"""The sampler: reads the exporters at an interval and adds what it saw to each running attempt's fold.

One tick: fetch every exporter's page (no database session is open meanwhile), then one transaction that locks
the running attempts' rows, adds, and commits. If it dies, jobs run on and coverage falls. Two of them at once, or
one after another, never count a moment twice: what lies before a row's ``observed_until`` is not added again.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Final

import httpx
from sqlalchemy import Engine, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from metrics.efficiency import EMPTY, Reading, merge, observe
from metrics.folds import from_json, to_json
from metrics.readings import PageError, parse_page
from metrics.tables import AttemptTelemetryRow
from scheduler.tables import AllocationRow
from store.engine import transaction

#: Seconds between ticks: half of what one reading may stand for, so that one lost tick loses no time.
INTERVAL_S: Final = 30.0
#: Seconds that an exporter may take: its own limit is 9.5.
FETCH_TIMEOUT_S: Final = 10.0
#: A page of 64 GPUs has 0.4 MiB; one exporter that simulates a whole machine has 50.
MAX_PAGE_BYTES: Final = 64 * 2**20
#: Exporters read in one tick: twice the machine that is planned for.
MAX_EXPORTERS: Final = 2500
#: Pages fetched side by side.
FETCHERS: Final = 16

_log = logging.getLogger(__name__)


class Sampler:
    """Adds telemetry to attempts. One thread calls ``tick``.

    Args:
        engine: The platform's database.
        exporters: Base addresses of the exporters, asked at each tick.
        clock: Now, aware UTC.
    """

    def __init__(
        self, engine: Engine, exporters: Callable[[], Sequence[str]], clock: Callable[[], datetime]
    ) -> None:
        self._engine = engine
        self._exporters = exporters
        self._clock = clock
        self._client = httpx.Client(timeout=FETCH_TIMEOUT_S)
        self._last: dict[str, Reading] = {}
        self._failing: frozenset[str] = frozenset()

    def tick(self) -> int:
        """Read all exporters once.

        Returns:
            Attempts to which something was added.
        """
        at = self._clock()
        readings = self._fetch_all(at)
        with transaction(self._engine) as session:
            added = self._add(session, readings, at)
        self._last = {
            uuid: reading for uuid, reading in {**self._last, **readings}.items() if reading.is_known
        }
        return added

    def run(self, stop: threading.Event, interval_s: float = INTERVAL_S) -> None:
        """Tick until told to stop; a database that is away costs coverage, not the loop.

        Args:
            stop: Ends the loop.
            interval_s: Seconds between ticks, at most half of ``MAX_OBSERVED_S``.
        """
        while not stop.wait(interval_s):
            try:
                self.tick()
            except OperationalError as error:
                _log.warning("telemetry of this tick is lost: %s", error.orig)

    def close(self) -> None:
        """Close the connections to the exporters."""
        self._client.close()

    def _fetch_all(self, at: datetime) -> dict[str, Reading]:
        urls = sorted(set(self._exporters()))
        if len(urls) > MAX_EXPORTERS:
            _log.error("%d exporters, only the first %d are read", len(urls), MAX_EXPORTERS)
            urls = urls[:MAX_EXPORTERS]
        found: dict[str, Reading] = {}
        failing: set[str] = set()
        with ThreadPoolExecutor(FETCHERS, thread_name_prefix="telemetry") as pool:
            for url, page in zip(urls, pool.map(self._fetch, urls), strict=True):
                try:
                    found |= parse_page(page or "", at.timestamp())
                except PageError as error:
                    _log.warning("%s: %s", url, error)
                    failing.add(url)
                if page is None:
                    failing.add(url)
        for url in sorted(failing - self._failing):
            _log.warning("no telemetry from %s; coverage falls until it answers", url)
        self._failing = frozenset(failing)
        return found

    def _fetch(self, url: str) -> str | None:
        try:
            with self._client.stream("GET", f"{url}/metrics") as answer:
                if not answer.is_success:
                    return None
                body = bytearray()
                for chunk in answer.iter_bytes():
                    body += chunk
                    if len(body) > MAX_PAGE_BYTES:
                        return None
                return body.decode(errors="replace")
        except httpx.HTTPError:
            return None

    def _add(self, session: Session, readings: dict[str, Reading], at: datetime) -> int:
        held = _held(session)
        added = 0
        for row in _locked(session, held):
            until_s = row.observed_until.timestamp()
            parts = [
                observe(self._last.get(uuid), readings[uuid], max(allocated_at.timestamp(), until_s))
                for uuid, allocated_at in held[row.attempt_id]
                if uuid in readings and readings[uuid].is_known
            ]
            # Without a reading the row stays, so that counters can tell of the gap when it ends.
            if parts and at > row.observed_until:
                row.fold = to_json(merge([from_json(row.fold), *parts]))
                row.observed_until = at
                added += 1
        return added


def _held(session: Session) -> dict[str, list[tuple[str, datetime]]]:
    """GPUs held now, with the moment since, by attempt."""
    held: dict[str, list[tuple[str, datetime]]] = defaultdict(list)
    for attempt_id, uuid, allocated_at in session.execute(
        select(AllocationRow.attempt_id, AllocationRow.gpu_uuid, AllocationRow.allocated_at).where(
            AllocationRow.released_at.is_(None)
        )
    ):
        held[attempt_id].append((uuid, allocated_at))
    return held


def _locked(
    session: Session, held: Mapping[str, Sequence[tuple[str, datetime]]]
) -> Sequence[AttemptTelemetryRow]:
    """A row of each attempt, locked in the order of ids: two samplers never wait for each other in a ring."""
    if not held:
        return ()
    session.execute(
        insert(AttemptTelemetryRow)
        .values(
            [
                {
                    "attempt_id": attempt_id,
                    "observed_until": min(allocated_at for _, allocated_at in held[attempt_id]),
                    "fold": to_json(EMPTY),
                }
                for attempt_id in sorted(held)
            ]
        )
        .on_conflict_do_nothing()
    )
    return session.scalars(
        select(AttemptTelemetryRow)
        .where(AttemptTelemetryRow.attempt_id.in_(held))
        .order_by(AttemptTelemetryRow.attempt_id)
        .with_for_update()
    ).all()
