"""Reading from the journal which starts jobs were told, by how much each moved, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import zip_longest
from typing import Final, cast

from sqlalchemy.orm import Session

from scheduler.causes import MoveCause
from scheduler.fields import integer
from scheduler.model import JobId
from store import clock, journal
from store.journal import Record

MAX_STARTS_TOLD: Final = 20
"""Planned starts told of one job [count], the newest first: what a person reads; the job's events have all."""
MAX_MOVES_READ: Final = 1_000
"""Records of each kind read for what moved of late [count]: one cycle of a large cluster plans hundreds anew."""

_PLANNED: Final = "job.reserved"
_GIVEN_UP: Final = "job.unreserved"
_STARTED: Final = "job.admitted"


@dataclass(frozen=True, slots=True)
class StartTold:
    """A planned start as it was told, moved or given up.

    Args:
        at: when; aware UTC.
        start_at: when the job was to start from then on, None = its start was planned no more.
        later_s: seconds later than planned before, negative = sooner; 0 for the first, and where only the place
            changed; None where it was given up.
        cause: why it comes later or was given up; None where it does neither.
        is_first: nothing was planned before it.
    """

    job_id: JobId
    at: datetime
    start_at: datetime | None
    later_s: int | None
    cause: MoveCause | None
    is_first: bool


def starts_told(session: Session, job_id: JobId) -> tuple[StartTold, ...]:
    """The last starts that a job was told, the newest first, at most MAX_STARTS_TOLD. Visibility is the caller's."""
    # A start that comes ends its plan without a record of its own but the admission.
    kinds = (_PLANNED, _GIVEN_UP, _STARTED)
    records = journal.latest(session, f"job:{job_id}", kinds, limit=2 * MAX_STARTS_TOLD + 1)
    told = [
        _told(record, is_first=older is None or older.kind != _PLANNED)
        for record, older in zip_longest(records, records[1:])
        if record.kind != _STARTED
    ]
    return tuple(told[:MAX_STARTS_TOLD])


def moved_lately(session: Session) -> tuple[StartTold, ...]:
    """Planned starts of all jobs that were put off or given up, the newest first.

    Those among the last MAX_MOVES_READ records of each kind. Visibility is the caller's.
    """
    records = [
        record
        for kind in (_PLANNED, _GIVEN_UP)
        for record in journal.of_kind(session, kind, limit=MAX_MOVES_READ)
        if record.data.get("cause") is not None
    ]
    return tuple(_told(record, is_first=False) for record in sorted(records, key=lambda r: -r.id))


def _told(record: Record, *, is_first: bool) -> StartTold:
    cause = record.data.get("cause")
    is_given_up = record.kind == _GIVEN_UP
    return StartTold(
        job_id=JobId(int(record.subject.removeprefix("job:"))),
        at=record.at,
        start_at=None if is_given_up else _start_at(record.data),
        later_s=None if is_given_up else integer(record.data["later_ms"]) // 1_000,
        cause=None if cause is None else MoveCause(str(cause)),
        is_first=is_first,
    )


def _start_at(data: Mapping[str, object]) -> datetime:
    """The planned start that a record of one carries: it is among the fields that changed."""
    job = cast("Mapping[str, Mapping[str, object]]", data["job"])
    return clock.from_ms(integer(job["reservation"]["start_ms"]))
