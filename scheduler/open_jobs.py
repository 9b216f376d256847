"""Jobs locked to be changed by facts, with their current attempts: read together, told, written together.

Rows are plain values: what the ORM adds to each attribute and each row costs more than all that is decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from types import SimpleNamespace
from typing import Final, TypeVar, cast

from sqlalchemy import BigInteger, Column, DateTime, Table, Text, any_, literal, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from scheduler import lifecycle
from scheduler.facts import JobView
from scheduler.fields import Fields
from scheduler.model import JobId
from scheduler.rows import job_view, ms_or_none
from scheduler.tables import AttemptRow, JobRow
from store import journal
from store.base import Base
from store.rewrite import update_all

_JOB: Final = (
    "id",
    "state",
    "gpus",
    "walltime_s",
    "attempts",
    "launch_refusals",
    "node_failures",
    "is_cancel_requested",
    "preemptions",
    "back_off_until",
    "reason",
    "reason_numbers",
    "reservation",
    "told_at",
    "told_start_at",
    "first_started_at",
    "finished_at",
    "exit_code",
    "exit_signal",
    "exit_error",
    "gpu_seconds",
)
_ATTEMPT: Final = (
    "id",
    "job_id",
    "state",
    "grant_id",
    "claim_s",
    "ranks",
    "reclaimed_by",
    "notice_ends_at",
    "notice_sent_at",
    "refund_cap_s",
    "refunded_s",
    "dispatched_at",
    "committed_at",
    "started_at",
    "ended_at",
    "stop_why",
    "stop_at",
    "stop_sent_at",
    "verdict",
    "used_s",
)
_NOT_TOLD: Final = frozenset({"reason_numbers", "ranks", "notice_sent_at", "stop_sent_at"})
"""Columns that records do not carry as they are: figures of a moment, ranks by their number, what was delivered."""

T = TypeVar("T", bound=Base)


def job_of(attempt_id: str) -> JobId:
    """The job of an attempt, by its name.

    Raises:
        ValueError: it is no attempt's name.
    """
    return JobId(int(attempt_id.rpartition("-")[0]))


class UnknownJobError(LookupError):
    """A fact speaks of a job that was never submitted."""

    def __init__(self, job_id: int) -> None:
        super().__init__(f"there is no job {job_id}")
        self.job_id = job_id


@dataclass(slots=True)
class OpenJob:
    """A locked job and its current attempt, with what of them the journal has been told so far.

    Attributes:
        job: its columns that facts change or read; a plain value, as `attempt` is.
        attempt: the current or last one, None before the first.
        view: both as the lifecycle sees them; whoever changes them brings it along.
        ranks: those that changed since the last record, by number.
    """

    job: JobRow
    attempt: AttemptRow | None
    view: JobView
    _read: tuple[Fields, Fields]
    _told: tuple[Fields, Fields]
    ranks: dict[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, job: JobRow, attempt: AttemptRow | None) -> OpenJob:
        """As it was read."""
        rows = dict(vars(job)), {} if attempt is None else dict(vars(attempt))
        return cls(job, attempt, job_view(job, attempt), rows, (dict(rows[0]), dict(rows[1])))

    def changes(self) -> Fields:
        """What changed since the last call, as a record carries it."""
        data: Fields = {}
        job = _changed(self.job, self._told[0], _told_names(JobRow))
        if job:
            data["job"] = job
        if self.attempt is not None:
            data["attempt_id"] = self.attempt.id
            attempt = _changed(self.attempt, self._told[1], _told_names(AttemptRow))
            if attempt:
                data["attempt"] = attempt
            if self.ranks:
                data["ranks"], self.ranks = self.ranks, {}
        return data

    def unwritten(self) -> tuple[Collection[str], Collection[str]]:
        """Columns of the job and of the attempt that differ from what was read."""
        job = _differing(vars(self.job), self._read[0])
        attempt = () if self.attempt is None else _differing(vars(self.attempt), self._read[1])
        return job, attempt


def _differing(now: Mapping[str, object], before: Mapping[str, object]) -> list[str]:
    """Columns of another value; most are the very object that was read."""
    return [name for name, value in now.items() if value is not before[name] and value != before[name]]


def _changed(
    row: Base, told: Fields, names: Mapping[str, tuple[str, Callable[[object], object] | None]]
) -> Fields:
    """Columns that differ from what was told, by their names in the journal; they count as told from here on."""
    found: Fields = {}
    now = vars(row)
    for column in _differing(now, told):
        value = told[column] = now[column]
        if column in names:
            name, convert = names[column]
            found[name] = value if convert is None else convert(value)
    return found


@cache
def _told_names(kind: type[Base]) -> dict[str, tuple[str, Callable[[object], object] | None]]:
    """Names of columns in the journal, where instants are milliseconds; see `scheduler.rows`."""
    found: dict[str, tuple[str, Callable[[object], object] | None]] = {}
    for column in cast("Table", kind.__table__).columns:
        if isinstance(column.type, DateTime):
            convert = cast("Callable[[object], object]", ms_or_none)
            found[column.key] = (column.key.removesuffix("_at") + "_ms", convert)
        else:
            found[column.key] = (column.key, None)
    return {name: how for name, how in found.items() if name not in _NOT_TOLD}


class OpenJobs(Mapping[JobId, OpenJob]):
    """Jobs locked in the order of their ids, as everywhere, and what is written of them at the end.

    Args:
        session: the open unit of work; what it holds unflushed is flushed.
        job_ids: the jobs.
        at: instant of the changes by the platform's clock.
        actor: as the journal names actors.
        with_attempts: whether their current attempts are read; else records say nothing of any.

    Raises:
        UnknownJobError: there is no such job.
    """

    def __init__(
        self,
        session: Session,
        job_ids: Collection[JobId],
        *,
        at: datetime,
        actor: str,
        with_attempts: bool = True,
    ) -> None:
        self.session: Final = session
        self.at: Final = at
        self.actor: Final = actor
        session.flush()
        wanted = any_(literal(sorted(job_ids), ARRAY(BigInteger)))
        locked = select(*_columns(JobRow, _JOB)).where(JobRow.id == wanted).order_by(JobRow.id)
        rows = [_plain(JobRow, _JOB, row) for row in session.execute(locked.with_for_update())]
        unknown = set(job_ids).difference(JobId(row.id) for row in rows)
        if unknown:
            raise UnknownJobError(min(unknown))
        # Read behind the locks: what a transaction that held them wrote is seen.
        names = [
            lifecycle.attempt_id(JobId(row.id), row.attempts)
            for row in rows
            if with_attempts and row.attempts
        ]
        current = select(*_columns(AttemptRow, _ATTEMPT)).where(
            AttemptRow.id == any_(literal(names, ARRAY(Text)))
        )
        found = [_plain(AttemptRow, _ATTEMPT, row) for row in session.execute(current)] if names else []
        attempts = {attempt.job_id: attempt for attempt in found}
        self._jobs: Final = {JobId(row.id): OpenJob.of(row, attempts.get(row.id)) for row in rows}

    def __getitem__(self, job_id: JobId) -> OpenJob:
        return self._jobs[job_id]

    def __iter__(self) -> Iterator[JobId]:
        return iter(self._jobs)

    def __len__(self) -> int:
        return len(self._jobs)

    def tell(self, one: OpenJob, kind: str, details: Mapping[str, object] | None = None) -> None:
        """Journal a record about a job with all that changed of it since the last."""
        data = dict(details or {}) | one.changes()
        subject = f"job:{one.job.id}"
        journal.append(self.session, kind, subject, actor=self.actor, at=self.at, data=data)

    def write(self) -> None:
        """Write what changed, a statement for the jobs and one for the attempts."""
        changed = [(one, *one.unwritten()) for one in self._jobs.values()]
        update_all(self.session, JobRow, [(vars(one.job), columns) for one, columns, _ in changed])
        update_all(
            self.session,
            AttemptRow,
            [(vars(one.attempt), columns) for one, _, columns in changed if one.attempt is not None],
        )


@cache
def _columns(kind: type[Base], names: tuple[str, ...]) -> list[Column[object]]:
    table = cast("Table", kind.__table__)
    return [table.c[name] for name in names]


def _plain(_kind: type[T], names: Sequence[str], row: Sequence[object]) -> T:
    """A row's values with the mapped class's attributes."""
    return cast("T", SimpleNamespace(**dict(zip(names, row, strict=True))))
