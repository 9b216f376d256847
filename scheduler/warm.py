"""The snapshot kept warm: read from the tables once, then patched with the records that became visible since.

A record carries the transaction that wrote it, and a database snapshot says which transactions it sees: what one
cycle saw and the last did not is exactly what changed between them, however transactions were interleaved. On
doubt all is read anew.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Final, cast

from sqlalchemy import Row, func, select, text
from sqlalchemy.orm import Session

from quota import service as quota
from quota.fold import Books
from quota.model import Policy
from quota.tables import GrantRow
from scheduler.fold import FoldedState
from scheduler.index import Index
from scheduler.known import Known, Told
from scheduler.model import AttemptId, JobState, Snapshot
from scheduler.replay import Visibility
from scheduler.rows import attempt_fields, job_fields
from scheduler.snapshot import LIVE, load, load_acts, load_nodes, load_windows
from scheduler.tables import AttemptRow, JobRow, UsageRow
from store import clock, journal
from tenants.model import ProjectStatus
from tenants.tables import ProjectRow

MAX_RECORDS: Final = 20_000
"""Records folded at once; more of them cost as much as reading the tables, and hold as much memory."""

COMPARE_EVERY_S: Final = 300.0
"""Pause between two comparisons of what is kept with the tables [s]: a minute's load of a large queue a day."""

DIFFERED: Final = "snapshot.differed"
"""Kind of the record that says that what was kept was not what the tables say."""

_OF_CYCLES: Final = "cycle.planned"
"""Records that change nothing a plan reads."""

OWN: Final = frozenset({"job.admitted", "job.waits", "ledger.pending", _OF_CYCLES})
"""Kinds of records of a transaction that need not be read back: it held the locks of all that they are about before
it caught up, or, of grants, what others write meanwhile may come in any order."""

_UNFINISHED: Final = (JobState.PENDING.value, *LIVE)

_SINCE: Final = text("""
WITH now AS MATERIALIZED (SELECT pg_current_snapshot() AS seen)
SELECT now.seen::text AS version, pg_current_xact_id_if_assigned()::text AS own,
  journal.id, journal.kind, journal.subject, journal.data
FROM now LEFT JOIN journal
  ON journal.xid >= pg_snapshot_xmin(CAST(:before AS pg_snapshot))
 AND NOT pg_visible_in_snapshot(journal.xid, CAST(:before AS pg_snapshot))
 AND pg_visible_in_snapshot(journal.xid, now.seen)
 AND journal.xid IS DISTINCT FROM pg_current_xact_id_if_assigned()
 AND journal.kind <> 'cycle.planned'
ORDER BY journal.id LIMIT :most
""")
"""One statement, so that the records and the snapshot they belong to are of one instant in any isolation."""

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Kept:
    """What is known, and the database snapshot up to which it is."""

    known: Known
    version: str
    own: int | None = None
    """The transaction that it was read in, where that writes itself: what it wrote is not taken."""


class Warm:
    """A process's snapshot and index, kept from one reading to the next: from cycle to cycle, or explanation.

    One thread at a time uses it, with database snapshots in the order in which they were taken.
    """

    def __init__(self) -> None:
        self.index: Index = Index()
        self.rebuilds = 0
        self._kept: _Kept | None = None
        self._compare_at = time.monotonic() + COMPARE_EVERY_S

    def forget(self, why: str) -> None:
        """Read everything anew the next time."""
        if self._kept is not None:
            _logger.warning("the kept snapshot is read anew: %s", why)
        self._kept = None

    def read(self, session: Session, at: datetime, policy: Policy) -> Snapshot:
        """The snapshot at an instant: what is kept and what came since. O(changes), from the tables O(all).

        Args:
            session: one of `store.engine.snapshot`, so that what is read from the tables is of one instant.
            at: the instant to plan for.
            policy: in force then.
        """
        if self._kept is not None:
            self._follow(session, self._kept)
        if self._kept is None:
            self._kept = _read_all(session)
            self.index = Index()
            self.rebuilds += 1
        return _snapshot(session, self._kept, at, policy)

    def catch_up(self, session: Session, at: datetime, policy: Policy) -> tuple[Known, Snapshot]:
        """What is known now, inside a transaction that holds locks: rows it locked change no more.

        Where nothing is kept, the tables are read and what they say is not kept, as the transaction's statements
        see different instants.
        """
        if self._kept is not None:
            self._follow(session, self._kept)
        kept = _read_all(session) if self._kept is None else self._kept
        return kept.known, _snapshot(session, kept, at, policy)

    def known(self, session: Session, at: datetime, policy: Policy) -> Known:
        """What is known as of the last reading, from the tables where nothing is kept."""
        return self.catch_up(session, at, policy)[0] if self._kept is None else self._kept.known

    @property
    def kept(self) -> Known | None:
        """What is known as of the last reading; None where nothing is kept."""
        return None if self._kept is None else self._kept.known

    def is_ahead_of(self, session: Session) -> bool:
        """Whether the session's snapshot is older than the last one read: records would be taken over twice."""
        if self._kept is None:
            return False
        seen = str(session.scalar(select(func.pg_current_snapshot())))
        return _order(seen) < _order(self._kept.version)

    @property
    def undispatched(self) -> list[AttemptId]:
        """Attempts that no agent is known to have, as of the last reading."""
        return [] if self._kept is None else self._kept.known.undispatched()

    def _follow(self, session: Session, kept: _Kept) -> None:
        """Take the records that became visible since; forget everything on doubt."""
        bound = _SINCE.bindparams(before=kept.version, most=MAX_RECORDS + 1)
        rows = session.execute(bound).all()
        if len(rows) > MAX_RECORDS:
            self.forget(f"more than {MAX_RECORDS} records came since the last cycle")
            return
        records = [Told(row.kind, row.subject, row.data) for row in rows if row.id is not None]
        unknown = {record.kind for record in records} - journal.KINDS.keys()
        if unknown:
            self.forget(f"records of an unknown kind came: {', '.join(sorted(unknown))}")
            return
        if self._take(kept, records):
            kept.version = _without_own(rows[0].version, rows[0].own)
            kept.own = None if rows[0].own is None else int(rows[0].own)

    def _take(self, kept: _Kept, records: Sequence[Told]) -> bool:
        """Take records over; where one does not follow those before it, all is read anew."""
        try:
            kept.known.take(records)
        except (LookupError, TypeError, ValueError):
            _logger.exception("a record does not follow those before it")
            self.forget("a record could not be taken")
            return False
        return True

    def take_own(self, records: Sequence[Told]) -> None:
        """What the transaction of the last `catch_up` wrote, all of it, now that it is committed.

        Where there is more than `OWN`, or it did not catch up, the next reading finds it in the journal.
        """
        kept = self._kept
        if kept is None or kept.own is None or not OWN.issuperset(record.kind for record in records):
            return
        told = [record for record in records if record.kind != _OF_CYCLES]
        if self._take(kept, told):
            kept.version, kept.own = _with_own(kept.version, kept.own), None

    def differences(self, session: Session, at: datetime, policy: Policy) -> tuple[str, ...]:
        """Parts of the kept snapshot that are not what the tables say; the session sees one instant."""
        mine, tables = self.read(session, at, policy), load(session, at, policy)
        same = replace(mine, version=tables.version)
        return tuple(
            name
            for name in (one.name for one in fields(tables))
            if getattr(same, name) != getattr(tables, name)
        )

    def is_comparison_due(self) -> bool:
        """Whether what is kept should be set beside the tables; once asked, not again for a while."""
        if time.monotonic() < self._compare_at:
            return False
        self._compare_at = time.monotonic() + COMPARE_EVERY_S
        return True


def tell_differences(session: Session, parts: Sequence[str], *, at: datetime, actor: str) -> None:
    """Journal that what was kept was not what the tables say."""
    _logger.error("the kept snapshot differs from the tables in %s; it is read anew", ", ".join(parts))
    data: dict[str, object] = {"parts": list(parts)}
    journal.append(session, DIFFERED, "lease:scheduler", actor=actor, at=at, data=data)


def _without_own(version: str, own: str | None) -> str:
    """The snapshot's text with the reader's own transaction among the running ones.

    PostgreSQL leaves it out of the list, so that once a younger one has ended it would count as seen; but what it
    writes after this has not been taken.
    """
    seen = Visibility.parse(version)
    if own is None or int(own) >= seen.xmax:
        return version
    running = ",".join(map(str, sorted(seen.running | {int(own)})))
    return f"{min(seen.xmin, int(own))}:{seen.xmax}:{running}"


def _with_own(version: str, own: int) -> str:
    """The snapshot's text with a transaction, and nothing else, seen that ended behind it."""
    seen = Visibility.parse(version)
    running = sorted(seen.running.union(range(seen.xmax, own)) - {own})
    return f"{seen.xmin}:{max(seen.xmax, own + 1)}:{','.join(map(str, running))}"


def _snapshot(session: Session, kept: _Kept, at: datetime, policy: Policy) -> Snapshot:
    missing = kept.known.missing()
    if missing:
        found = session.execute(select(JobRow.id, JobRow.state).where(JobRow.id.in_(missing)))
        kept.known.tell_ended({row.id: row.state for row in found})
    return kept.known.snapshot(clock.to_ms(at), kept.version, policy)


def _read_all(session: Session) -> _Kept:
    """What is known, from the tables; of one instant where the session is."""
    version = str(session.scalar(text("SELECT pg_current_snapshot()::text")))
    jobs = session.execute(select(JobRow.__table__).where(JobRow.state.in_(_UNFINISHED)))
    attempts = session.execute(select(AttemptRow.__table__).where(AttemptRow.state.in_(LIVE)))
    usage = session.execute(select(UsageRow.queue, UsageRow.used_gpu_ms, UsageRow.sampled_at)).all()
    suspended = session.scalars(
        select(ProjectRow.id).where(ProjectRow.status == ProjectStatus.SUSPENDED.value)
    )
    sampled_ms = max((clock.to_ms(row.sampled_at) for row in usage), default=0)
    state = FoldedState(
        jobs={row.id: job_fields(_job(row)) for row in jobs},
        attempts={row.id: attempt_fields(_attempt(row)) | {"ranks": row.ranks} for row in attempts},
        nodes={node.name: node for node in load_nodes(session)},
        suspended={str(project_id): True for project_id in suspended},
        acts=load_acts(session),
        windows=load_windows(session),
        usage={row.queue: row.used_gpu_ms for row in usage},
        sampled_ms=sampled_ms,
        books=Books({grant.id: grant for grant in quota.grants(session)}),
    )
    return _Kept(Known(state, {}, _admissions(session, sampled_ms)), version)


def _job(row: Row[tuple[object, ...]]) -> JobRow:
    """A row of the table, which has the mapped class's attributes, without the cost of making objects."""
    return cast("JobRow", row)


def _attempt(row: Row[tuple[object, ...]]) -> AttemptRow:
    """The same for attempts."""
    return cast("AttemptRow", row)


def _admissions(session: Session, since_ms: int) -> dict[tuple[int, str, str], int]:
    """GPUs admitted since the last sample of use, by instant, queue and flavor."""
    rows = session.execute(
        select(AttemptRow.admitted_at, JobRow.queue, GrantRow.flavor, func.sum(JobRow.gpus).label("gpus"))
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .join(GrantRow, GrantRow.id == AttemptRow.grant_id)
        .where(AttemptRow.admitted_at >= clock.from_ms(since_ms))
        .group_by(AttemptRow.admitted_at, JobRow.queue, GrantRow.flavor)
    )
    found: dict[tuple[int, str, str], int] = {}
    for row in rows:
        key = (clock.to_ms(row.admitted_at), row.queue, row.flavor)
        found[key] = found.get(key, 0) + int(row.gpus)
    return found


def _order(version: str) -> tuple[int, int, int]:
    """Of two database snapshots, taken one after the other, the earlier has the smaller; equal ones see the same.

    Source: PostgreSQL's `pg_snapshot`, written as xmin:xmax:those under way. All three change one way only.
    """
    xmin, xmax, under_way = version.split(":")
    return int(xmin), int(xmax), -len(under_way.split(",")) if under_way else 0
