"""A waiting job's row and what of it the journal has been told: what changed goes into the next record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from scheduler.fields import Fields
from scheduler.model import JobId
from scheduler.open_jobs import UnknownJobError
from scheduler.rows import job_fields
from scheduler.tables import JobRow
from store import journal


@dataclass(slots=True)
class Book:
    """A job that no attempt is changed of; `told` is what the journal knows of it."""

    session: Session
    job: JobRow
    at: datetime
    actor: str
    told: Fields

    @classmethod
    def open(cls, session: Session, job_id: JobId, *, at: datetime, actor: str) -> Book:
        """Lock the job's row.

        Raises:
            UnknownJobError: there is no such job.
        """
        fresh = {"populate_existing": True}
        locked = select(JobRow).where(JobRow.id == job_id).with_for_update().execution_options(**fresh)
        job = session.scalars(locked).one_or_none()
        if job is None:
            raise UnknownJobError(job_id)
        return cls.of(session, job, at=at, actor=actor)

    @classmethod
    def of(cls, session: Session, job: JobRow, *, at: datetime, actor: str) -> Book:
        """Take a row that is locked already."""
        return cls(session, job, at, actor, job_fields(job))

    def tell(self, kind: str, details: Mapping[str, object] | None = None) -> None:
        """Journal a record about the job with all that changed since the last."""
        now, told = job_fields(self.job), self.told
        changed = {name: value for name, value in now.items() if name not in told or told[name] != value}
        data = dict(details or {}) | ({"job": changed} if changed else {})
        self.told = now
        subject = f"job:{self.job.id}"
        journal.append(self.session, kind, subject, actor=self.actor, at=self.at, data=data)
