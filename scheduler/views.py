"""Jobs as they are shown: one value with everything, lists by page, attempts and kept files.

Every query starts from `tenants.authz.visible_to`; texts a person wrote are read only where the caller may.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar, cast
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from scheduler import lifecycle
from scheduler.fields import (
    Fields,
    array_of,
    integer,
    optional_integer,
    optional_text,
    request_of,
    reservation_of,
    slots_of,
)
from scheduler.model import JobId, JobState, Numbers
from scheduler.rows import at_or_none, job_fields
from scheduler.shown import ArtefactView, AttemptRecord, JobText, JobView, RankRecord
from scheduler.tables import ArtefactRow, AttemptRow, JobRow, JobTextRow, NodeRow
from tenants.authz import Action, may, visible_to
from tenants.model import Principal, ProjectId
from tenants.tables import OrganisationRow, ProjectRow, UserRow

MAX_PAGE: Final = 200
"""Jobs, attempts or files of one page: an answer stays far below a megabyte."""

T = TypeVar("T")


class JobNotFoundError(LookupError):
    """There is no such job, or the caller may not see it: the two are told alike."""

    code: Final = "JOB_NOT_FOUND"

    def __init__(self, job_id: int) -> None:
        super().__init__(f"there is no job {job_id} that you may see; list your jobs to find its number")
        self.job_id = job_id


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A page of a list. `next_before_id` goes into the next query; None when this was the last page."""

    items: tuple[T, ...]
    next_before_id: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobQuery:
    """Which jobs to list, the newest first. `limit` is at most MAX_PAGE; `before_id` continues a page."""

    state: JobState | None = None
    project_id: UUID | None = None
    queue: str | None = None
    before_id: int | None = None
    limit: int = 50


def get(session: Session, principal: Principal, job_id: int) -> JobView:
    """One job.

    Raises:
        JobNotFoundError: there is no such job for this caller.
    """
    statement = select(JobRow).where(visible_to(principal, JobRow.project_id), JobRow.id == job_id)
    row = session.scalars(statement).one_or_none()
    if row is None:
        raise JobNotFoundError(job_id)
    return views_of(session, [row], principal)[0]


def list_jobs(session: Session, principal: Principal, query: JobQuery) -> Page[JobView]:
    """A page of the jobs the caller may see, the newest first."""
    limit = max(1, min(query.limit, MAX_PAGE))
    statement = select(JobRow).where(visible_to(principal, JobRow.project_id))
    if query.state is not None:
        statement = statement.where(JobRow.state == query.state.value)
    if query.project_id is not None:
        statement = statement.where(JobRow.project_id == query.project_id)
    if query.queue is not None:
        statement = statement.where(JobRow.queue == query.queue)
    if query.before_id is not None:
        statement = statement.where(JobRow.id < query.before_id)
    rows = session.scalars(statement.order_by(JobRow.id.desc()).limit(limit + 1)).all()
    shown = rows[:limit]
    following = shown[-1].id if len(rows) > limit else None
    return Page(tuple(views_of(session, shown, principal)), following)


def attempts_of(
    session: Session, principal: Principal, job_id: int, *, before: int | None = None
) -> list[AttemptRecord]:
    """Attempts of a job, the latest first, at most MAX_PAGE; `before` an attempt's number continues.

    Raises:
        JobNotFoundError: there is no such job for this caller.
    """
    highest = get(session, principal, job_id).attempts if before is None else before - 1
    ids = [
        lifecycle.attempt_id(JobId(job_id), number)
        for number in range(highest, max(0, highest - MAX_PAGE), -1)
    ]
    statement = (
        select(AttemptRow)
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .where(visible_to(principal, JobRow.project_id), AttemptRow.id.in_(ids))
    )
    found = map(attempt_record, session.scalars(statement))
    return sorted(found, key=lambda attempt: attempt.number, reverse=True)


def artefacts_of(
    session: Session, principal: Principal, job_id: int, *, after_id: int = 0, limit: int = MAX_PAGE
) -> list[ArtefactView]:
    """Files a job kept, in the order in which they were kept, at most MAX_PAGE.

    Raises:
        JobNotFoundError: there is no such job for this caller.
    """
    get(session, principal, job_id)
    rows = session.scalars(
        select(ArtefactRow)
        .join(JobRow, JobRow.id == ArtefactRow.job_id)
        .where(
            visible_to(principal, JobRow.project_id),
            ArtefactRow.job_id == job_id,
            ArtefactRow.id > after_id,
        )
        .order_by(ArtefactRow.id)
        .limit(max(1, min(limit, MAX_PAGE)))
    )
    return [
        ArtefactView(
            row.id,
            row.job_id,
            row.attempt_id,
            row.node,
            row.rank,
            row.path,
            row.size_bytes,
            row.digest,
            row.created_at,
        )
        for row in rows
    ]


def attempt_record(row: AttemptRow) -> AttemptRecord:
    """An attempt as it is shown."""
    return AttemptRecord(
        id=row.id,
        number=int(row.id.rpartition("-")[2]),
        state=JobState(row.state),
        share_class=row.share_class,
        grant_id=row.grant_id,
        claim_s=row.claim_s,
        used_s=row.used_s,
        ranks=tuple(_rank(number, rank) for number, rank in enumerate(row.ranks)),
        admitted_at=row.admitted_at,
        dispatched_at=row.dispatched_at,
        committed_at=row.committed_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        stop_why=row.stop_why,
        grace_s=row.grace_s,
        reclaimed_by=row.reclaimed_by,
        notice_ends_at=row.notice_ends_at,
        refunded_s=row.refunded_s,
        removed_at=row.removed_at,
    )


def _rank(number: int, rank: Fields) -> RankRecord:
    return RankRecord(
        rank=number,
        node=str(rank["node"]),
        gpu_uuids=tuple(cast("list[str]", rank["gpu_uuids"])),
        started_at=at_or_none(optional_integer(rank["started_ms"])),
        ended_at=at_or_none(optional_integer(rank["ended_ms"])),
        exit_code=optional_integer(rank["exit_code"]),
        signal=optional_integer(rank["signal"]),
        error=optional_text(rank["error"]),
    )


def views_of(session: Session, rows: Sequence[JobRow], principal: Principal | None = None) -> list[JobView]:
    """The views of rows already found visible; texts only where `principal` may read content (None = all)."""
    ids = [row.id for row in rows]
    current = {row.id: lifecycle.attempt_id(JobId(row.id), row.attempts) for row in rows}
    attempts = {
        attempt.job_id: attempt
        for attempt in session.scalars(select(AttemptRow).where(AttemptRow.id.in_(current.values())))
    }
    texts = {
        text.job_id: text for text in session.scalars(select(JobTextRow).where(JobTextRow.job_id.in_(ids)))
    }
    names = _names(session, rows)
    places = _places(session, rows)
    simulated = _simulated_nodes(session, attempts.values())
    return [
        _view(
            row,
            attempts.get(row.id),
            names[row.id],
            place=places.get(row.id),
            text=texts.get(row.id) if _may_read(principal, row) else None,
            simulated=simulated,
        )
        for row in rows
    ]


def _may_read(principal: Principal | None, row: JobRow) -> bool:
    return principal is None or may(principal, Action.READ_CONTENT, ProjectId(row.project_id))


def _names(session: Session, rows: Iterable[JobRow]) -> dict[int, tuple[str, str, str]]:
    """Slug of project and organisation and name of the user, per job."""
    found = session.execute(
        select(JobRow.id, ProjectRow.slug, OrganisationRow.slug.label("organisation"), UserRow.name)
        .join(ProjectRow, ProjectRow.id == JobRow.project_id)
        .join(OrganisationRow, OrganisationRow.id == ProjectRow.organisation_id)
        .join(UserRow, UserRow.id == JobRow.user_id)
        .where(JobRow.id.in_([row.id for row in rows]))
    )
    return {job_id: (project, organisation, user) for job_id, project, organisation, user in found}


def _places(session: Session, rows: Iterable[JobRow]) -> dict[int, int]:
    """Jobs ahead of each waiting one in its queue's order: priority, submission, id. O(waiting jobs)."""
    waiting = [row for row in rows if row.state == JobState.PENDING.value]
    if not waiting:
        return {}
    order = JobRow.priority.desc(), JobRow.submitted_at, JobRow.id
    place = func.row_number().over(partition_by=JobRow.queue, order_by=order).label("place")
    ranked = (
        select(JobRow.id, place)
        .where(
            JobRow.state == JobState.PENDING.value, JobRow.queue.in_(sorted({row.queue for row in waiting}))
        )
        .subquery()
    )
    found = session.execute(
        select(ranked.c.id, ranked.c.place).where(ranked.c.id.in_([row.id for row in waiting]))
    )
    return {job_id: place - 1 for job_id, place in found}


def _simulated_nodes(session: Session, attempts: Iterable[AttemptRow]) -> dict[str, bool]:
    names = {str(rank["node"]) for attempt in attempts for rank in attempt.ranks}
    if not names:
        return {}
    rows = session.execute(select(NodeRow.name, NodeRow.is_simulated).where(NodeRow.name.in_(names)))
    return {row.name: row.is_simulated for row in rows}


def _view(
    row: JobRow,
    attempt: AttemptRow | None,
    names: tuple[str, str, str],
    *,
    place: int | None,
    text: JobTextRow | None,
    simulated: Mapping[str, bool],
) -> JobView:
    project, organisation, user = names
    record = None if attempt is None else attempt_record(attempt)
    slots = () if attempt is None else slots_of(attempt.ranks)
    fields = job_fields(row)
    return JobView(
        id=row.id,
        project_id=row.project_id,
        project=project,
        organisation=organisation,
        user_id=row.user_id,
        user=user,
        queue=row.queue,
        state=JobState(row.state),
        reason=row.reason,
        reason_numbers=cast("Numbers", row.reason_numbers or {}),
        place=place,
        priority=row.priority,
        request=request_of(fields),
        bundle_digest=row.bundle_digest,
        is_held=row.is_held,
        begin_at=row.begin_at,
        depends_on=tuple((integer(one["job_id"]), str(one["kind"])) for one in row.depends_on),
        array=array_of(fields),
        array_index=row.array_index,
        planned_start=reservation_of(row.id, fields),
        preemptions=row.preemptions,
        is_cancel_requested=row.is_cancel_requested,
        attempts=row.attempts,
        attempt=record,
        slots=slots,
        is_simulated=any(simulated.get(slot.node, False) for slot in slots) if slots else None,
        exit_code=row.exit_code,
        exit_signal=row.exit_signal,
        exit_error=row.exit_error,
        gpu_seconds=row.gpu_seconds,
        submitted_at=row.submitted_at,
        back_off_until=row.back_off_until,
        first_started_at=row.first_started_at,
        finished_at=row.finished_at,
        text=None
        if text is None
        else JobText(text.name, tuple(text.command), dict(text.env), tuple(text.outputs)),
    )
