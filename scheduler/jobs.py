"""Jobs as a front door uses them: submit, cancel, hold, release, look at.

Every query of rows that a tenant owns starts from `tenants.authz.visible_to`; what a caller may not see does not
exist for it. What may be done is asked by the caller with `tenants.authz.may` before it is done here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from quota.model import Policy
from scheduler.asked import (
    MAX_ARRAY,
    MAX_COMMAND_ARGS,
    MAX_COMMAND_BYTES,
    MAX_CPUS_PER_GPU,
    MAX_DEPENDENCIES,
    MAX_ENV_BYTES,
    MAX_ENV_ENTRIES,
    MAX_GPUS,
    MAX_MEMORY_BYTES,
    MAX_NAME_CHARS,
    MAX_NODE_LABELS,
    MAX_OUTPUT_CHARS,
    MAX_OUTPUTS,
    MAX_PRIORITY,
    MAX_WALLTIME_S,
    ArrayAsked,
    Dependency,
    JobRefusedError,
    Submission,
)
from scheduler.book import Book
from scheduler.changes import take
from scheduler.dispatch.limits import MAX_BUNDLE_BYTES
from scheduler.facts import CancelRequested
from scheduler.figures import (
    BusyWith,
    ClusterView,
    NodeView,
    QueueUse,
    SliceUse,
    busy_with,
    cluster,
    queue_use,
)
from scheduler.model import JobId, JobState
from scheduler.shown import ArtefactView, AttemptRecord, JobText, JobView, RankRecord
from scheduler.submission import MAX_PENDING_PER_PROJECT, accept, accept_all
from scheduler.tables import BundleRow, JobRow
from scheduler.views import (
    JobNotFoundError,
    JobQuery,
    Page,
    artefacts_of,
    attempts_of,
    get,
    list_jobs,
    views_of,
)
from store import clock
from store.engine import wake
from tenants.authz import Action, visible_to
from tenants.model import Principal

__all__ = [
    "MAX_ARRAY",
    "MAX_COMMAND_ARGS",
    "MAX_COMMAND_BYTES",
    "MAX_CPUS_PER_GPU",
    "MAX_DEPENDENCIES",
    "MAX_ENV_BYTES",
    "MAX_ENV_ENTRIES",
    "MAX_GPUS",
    "MAX_MEMORY_BYTES",
    "MAX_NAME_CHARS",
    "MAX_NODE_LABELS",
    "MAX_OUTPUTS",
    "MAX_OUTPUT_CHARS",
    "MAX_PENDING_PER_PROJECT",
    "MAX_PRIORITY",
    "MAX_WALLTIME_S",
    "ArrayAsked",
    "ArtefactView",
    "AttemptRecord",
    "BundleRefusedError",
    "BusyWith",
    "ClusterView",
    "Dependency",
    "JobNotFoundError",
    "JobQuery",
    "JobRefusedError",
    "JobStateError",
    "JobText",
    "JobView",
    "NodeView",
    "Page",
    "QueueUse",
    "RankRecord",
    "SliceUse",
    "Submission",
    "artefacts_of",
    "attempts_of",
    "busy_with",
    "cancel",
    "cluster",
    "get",
    "hold",
    "list_jobs",
    "put_bundle",
    "queue_use",
    "release",
    "submit",
    "submit_all",
]


class JobStateError(ValueError):
    """The job is in a state in which this cannot be done, such as holding one that runs."""

    code: Final = "JOB_STATE"

    def __init__(self, job_id: int, state: str, act: str) -> None:
        super().__init__(f"job {job_id} is {state}; to {act} it must be {JobState.PENDING.value}")
        self.job_id = job_id
        self.state = state
        self.act = act


class BundleRefusedError(ValueError):
    """A bundle that is empty or too large."""

    code: Final = "BUNDLE_SIZE"

    def __init__(self, size_bytes: int) -> None:
        super().__init__(
            f"the bundle has {size_bytes} bytes; it must have 1 to {MAX_BUNDLE_BYTES}: leave data sets out of it"
        )
        self.size_bytes = size_bytes
        self.max_bytes = MAX_BUNDLE_BYTES


def submit(session: Session, submission: Submission, *, policy: Policy, at: datetime) -> JobView:
    """Accept a job (T1), or refuse what can never run as it is asked.

    Args:
        session: the open unit of work; it is committed by the caller.
        submission: the job; the caller has asked whether its user may submit for the project.
        policy: the policy in force at `at`.
        at: the instant of the submission; kept to the millisecond.

    Raises:
        JobRefusedError: with a code and figures; nothing was written.
    """
    row = accept(session, submission, policy=policy, at=clock.from_ms(clock.to_ms(at)))
    wake(session)
    return views_of(session, [row])[0]


def submit_all(
    session: Session, submissions: Sequence[Submission], *, policy: Policy, at: datetime
) -> list[JobId]:
    """Accept jobs that came side by side in one transaction: one wait for the disk serves them all.

    Args:
        session: the open unit of work; it is committed by the caller.
        submissions: each a job of its own, no arrays; the caller has asked for each whether its user may submit.
        policy: the policy in force at `at`.
        at: the instant of the submissions; kept to the millisecond.

    Returns:
        The jobs' numbers, in their order.

    Raises:
        JobRefusedError: of the first that is refused; nothing was written. Submit them one by one then.
    """
    rows = accept_all(session, submissions, policy=policy, at=clock.from_ms(clock.to_ms(at)))
    wake(session)
    return [JobId(row.id) for row in rows]


def _visible(session: Session, principal: Principal, job_id: int) -> JobId:
    """The job's id if the caller may act on it.

    Raises:
        JobNotFoundError: it does not exist, or not for this caller.
    """
    statement = select(JobRow.id).where(
        visible_to(principal, JobRow.project_id, Action.SUBMIT), JobRow.id == job_id
    )
    if session.scalar(statement) is None:
        raise JobNotFoundError(job_id)
    return JobId(job_id)


def cancel(session: Session, principal: Principal, job_id: int, at: datetime) -> JobView:
    """Cancel a job: at once where it waits, else its ranks are stopped; one that ended stays as it is.

    Raises:
        JobNotFoundError: there is no such job for this caller.
    """
    known = _visible(session, principal, job_id)
    fact = CancelRequested(str(principal.user_id), clock.to_ms(at))
    take(session, known, fact, at=at, actor=f"user:{principal.user_id}")
    wake(session)
    return get(session, principal, job_id)


def hold(session: Session, principal: Principal, job_id: int, at: datetime) -> JobView:
    """Keep a waiting job from starting; again is fine.

    Raises:
        JobNotFoundError: there is no such job for this caller.
        JobStateError: it does not wait.
    """
    return _set_held(session, principal, job_id, at, "hold")


def release(session: Session, principal: Principal, job_id: int, at: datetime) -> JobView:
    """Let a held job start again, its place kept; again is fine.

    Raises:
        JobNotFoundError: there is no such job for this caller.
        JobStateError: it does not wait.
    """
    return _set_held(session, principal, job_id, at, "release")


def _set_held(session: Session, principal: Principal, job_id: int, at: datetime, act: str) -> JobView:
    known = _visible(session, principal, job_id)
    book = Book.open(session, known, at=at, actor=f"user:{principal.user_id}")
    if book.job.state != JobState.PENDING.value:
        raise JobStateError(job_id, book.job.state, act)
    is_held = act == "hold"
    if book.job.is_held is not is_held:
        book.job.is_held = is_held
        book.tell("job.held" if is_held else "job.released")
        wake(session)
    session.flush()
    return get(session, principal, job_id)


def put_bundle(session: Session, data: bytes, at: datetime) -> str:
    """Keep an uploaded bundle and return its SHA-256 (hex); the same bytes again are kept once.

    Raises:
        BundleRefusedError: it is empty or larger than MAX_BUNDLE_BYTES.
    """
    if not 1 <= len(data) <= MAX_BUNDLE_BYTES:
        raise BundleRefusedError(len(data))
    digest = hashlib.sha256(data).hexdigest()
    row = {"digest": digest, "data": data, "size_bytes": len(data), "created_at": at}
    session.execute(insert(BundleRow).values(row).on_conflict_do_nothing())
    return digest
