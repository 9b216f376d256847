"""What is asked before a job is accepted: limits, queue, whether it can ever fit, budget; and its row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import ARRAY, Uuid, any_, func, literal, select
from sqlalchemy.orm import Session

from quota import ledger
from quota import service as quota
from quota.model import Grant, Policy, QuotaNode
from quota.policy import policy_queue
from scheduler import fit
from scheduler.asked import JobRefusedError, Submission, check_texts
from scheduler.inventory import bounds_of
from scheduler.model import JobState, ReasonCode
from scheduler.rows import job_fields
from scheduler.tables import BundleRow, JobRow, JobTextRow
from store import bulk, clock, journal
from tenants.model import Project, ProjectStatus
from tenants.tables import ProjectRow

MAX_PENDING_PER_PROJECT: Final = 5_000
"""Jobs of a project that may wait at once: an array of hyper-parameters fits, a runaway loop does not."""


def accept(session: Session, submission: Submission, *, policy: Policy, at: datetime) -> JobRow:
    """Write an acceptable job's rows and record, of an array those of all its jobs; `at` has whole milliseconds.

    Returns:
        The job's row; of an array that of its first job, whose number is the array's.

    Raises:
        JobRefusedError: with a code and figures; nothing was written.
    """
    check_texts(submission)
    project, array = submission.project, submission.array
    _check_projects(session, {project.id: 1 if array is None else array.count}, {project.id: project})
    offer = Offer(policy, bounds_of(session, at, policy), quota.balances(session, [submission.project.id]))
    submission = check(session, submission, offer, at)
    if submission.array is None:
        return insert_all(session, [submission], at)[0]
    (first,) = insert_all(session, [submission], at, ArrayPlace(None, 0))
    count = submission.array.count
    insert_all(session, [submission] * (count - 1), at, ArrayPlace(first.id, 1))
    return first


def accept_all(
    session: Session, submissions: Sequence[Submission], *, policy: Policy, at: datetime
) -> list[JobRow]:
    """`accept` for several jobs that stand alone; of each kind of question one is asked of the database.

    Raises:
        JobRefusedError: of the first that is refused; the transaction has to end without a commit.
        ValueError: one is an array.
    """
    by_project: dict[UUID, list[Submission]] = {}
    for submission in submissions:
        check_texts(submission)
        if submission.array is not None:
            raise ValueError("an array is a submission by itself; accept it alone")
        by_project.setdefault(submission.project.id, []).append(submission)
    projects = {project_id: found[0].project for project_id, found in by_project.items()}
    _check_projects(session, {project_id: len(found) for project_id, found in by_project.items()}, projects)
    bounds = bounds_of(session, at, policy)
    grants: dict[UUID, list[Grant]] = {project_id: [] for project_id in by_project}
    for grant in quota.balances(session, by_project):
        grants[grant.project_id].append(grant)
    checked = [
        check(session, asked, Offer(policy, bounds, grants[asked.project.id]), at) for asked in submissions
    ]
    return insert_all(session, checked, at)


@dataclass(frozen=True, slots=True)
class Offer:
    """What a submission is judged by: the policy, what could ever fit, and the grants of its project."""

    policy: Policy
    bounds: fit.Bounds
    grants: Sequence[Grant]


def check(session: Session, submission: Submission, offer: Offer, at: datetime) -> Submission:
    """The submission with its defaults, when it can run as it is asked.

    Raises:
        JobRefusedError: with a code and figures.
    """
    _check_dependencies(session, submission)
    submission = _with_defaults(submission, _queue(submission, offer.policy, offer.bounds), offer.grants)
    request = submission.request
    never = fit.can_ever_fit(request, submission.project.queue, offer.bounds)
    if never is not None:
        message = f"a job of {request.gpus} GPUs for {request.walltime_s} s can never start: {never.limit}"
        raise JobRefusedError(ReasonCode.NEVER_FITS, never.numbers, message)
    _check_budget(submission, offer.grants, at)
    _check_bundle(session, submission.bundle_digest)
    return submission


@dataclass(frozen=True, slots=True)
class ArrayPlace:
    """Where a job stands in its array; the first one's number is the array's."""

    array_id: int | None
    index: int


def _check_dependencies(session: Session, submission: Submission) -> None:
    """A job may depend on jobs of its own project."""
    wanted = {dependency.job_id for dependency in submission.depends_on}
    if not wanted:
        return
    own = select(JobRow.id).where(JobRow.id.in_(wanted), JobRow.project_id == submission.project.id)
    missing = sorted(wanted.difference(session.scalars(own)))
    if missing:
        message = (
            f"project {submission.project.slug} has no job {missing[0]} to depend on; name one of its own"
        )
        raise JobRefusedError("BAD_JOB", {"field": "depends_on", "job": missing[0]}, message)


def _check_projects(session: Session, counts: Mapping[UUID, int], by_id: Mapping[UUID, Project]) -> None:
    """Lock the projects, so that their limits hold for submissions side by side.

    Args:
        session: the open unit of work.
        counts: how many jobs each is to get.
        by_id: the projects.
    """
    is_asked = ProjectRow.id == any_(literal(list(counts), ARRAY(Uuid)))
    locked = (  # in one order, so that none waits for another in a ring
        select(ProjectRow.id, ProjectRow.status)
        .where(is_asked)
        .order_by(ProjectRow.id)
        .with_for_update(key_share=True)
    )
    status = {row.id: row.status for row in session.execute(locked)}
    waiting = (
        select(JobRow.id)
        .where(JobRow.project_id == ProjectRow.id, JobRow.state == JobState.PENDING.value)
        .limit(MAX_PENDING_PER_PROJECT)
        .correlate(ProjectRow)
        .subquery()
    )
    count = select(func.count()).select_from(waiting).correlate(ProjectRow).scalar_subquery().label("jobs")
    # Behind the lock: it sees what those who held it before have committed.
    pending = {row.id: row.jobs for row in session.execute(select(ProjectRow.id, count).where(is_asked))}
    for project_id in sorted(counts):
        project, found = by_id[project_id], pending[project_id]
        if status[project_id] != ProjectStatus.ACTIVE.value:
            message = f"project {project.slug} is suspended; an operator can resume it"
            raise JobRefusedError(ReasonCode.PROJECT_SUSPENDED, {"project": project.slug}, message)
        if found + counts[project_id] > MAX_PENDING_PER_PROJECT:
            message = f"{found} jobs of project {project.slug} wait already; wait for some, or cancel them"
            numbers: dict[str, int | str] = {"limit": MAX_PENDING_PER_PROJECT, "pending": found}
            raise JobRefusedError("QUEUE_FULL", numbers, message)


def _queue(submission: Submission, policy: Policy, bounds: fit.Bounds) -> QuotaNode:
    path = policy_queue(policy, submission.project.queue)
    node = bounds.queues.get(path)
    if node is not None:
        return node
    message = f"policy {policy.version} has no queue {path} and no successor of it; an operator must name one"
    raise JobRefusedError("QUEUE_UNKNOWN", {"queue": path, "policy": policy.version}, message)


def _with_defaults(submission: Submission, queue: QuotaNode, held: Sequence[Grant]) -> Submission:
    """The submission with the queue's walltime and the project's flavors where none are named."""
    request = submission.request
    if request.walltime_s == 0:
        if queue.default_walltime_s is None:
            message = f"queue {queue.path} has no default walltime; name one"
            raise JobRefusedError("WALLTIME_MISSING", {"queue": queue.path}, message)
        request = replace(request, walltime_s=queue.default_walltime_s)
    if not request.flavors:
        grants = sorted(held, key=lambda grant: (grant.ends_ms, grant.id))
        if not grants:
            message = f"project {submission.project.slug} has no grant of GPU time; ask for one"
            raise JobRefusedError(ReasonCode.GRANT_NOT_ACTIVE, {"grants": 0}, message)
        request = replace(request, flavors=tuple(dict.fromkeys(grant.flavor for grant in grants)))
    return replace(submission, request=request)


def _check_budget(submission: Submission, held: Sequence[Grant], at: datetime) -> None:
    """Some grant can still hold the walltime, and one of those could cover the claim were nothing pending."""
    request, at_ms = submission.request, clock.to_ms(at)
    grants = [
        grant
        for grant in held
        if grant.flavor in request.flavors
        and max(at_ms, grant.starts_ms) + request.walltime_s * fit.MS <= grant.ends_ms
    ]
    if not grants:
        numbers: dict[str, int | str] = {
            "flavors": ",".join(request.flavors),
            "walltime_s": request.walltime_s,
        }
        message = (
            "no grant of these flavors lasts until the job's walltime ends; shorten it or ask for a grant"
        )
        raise JobRefusedError(ReasonCode.GRANT_NOT_ACTIVE, numbers, message)
    refusal = ledger.coverable([grant.balance for grant in grants], fit.claim_s(request))
    if refusal is not None:
        found: dict[str, int | str] = {
            "claim_s": refusal.claim_s,
            "remaining_s": refusal.remaining_s,
            "pending_s": refusal.pending_s,
        }
        message = (
            f"the job claims {refusal.claim_s} device-seconds, more than any grant of the project has left"
        )
        raise JobRefusedError(ReasonCode.BUDGET_EXHAUSTED, found, message)


def _check_bundle(session: Session, digest: str | None) -> None:
    if digest is None:
        return
    if session.scalar(select(BundleRow.digest).where(BundleRow.digest == digest)) is None:
        message = f"there is no bundle {digest}; upload it first"
        raise JobRefusedError("BUNDLE_UNKNOWN", {"digest": digest}, message)


def insert_all(
    session: Session, submissions: Sequence[Submission], at: datetime, first: ArrayPlace | None = None
) -> list[JobRow]:
    """Enter jobs that were checked: their rows, texts and records, each kind in one statement.

    Args:
        session: the open unit of work.
        submissions: with their defaults.
        at: the instant of the submission.
        first: where the first of them stands in its array, for jobs of one.
    """
    places = [
        None if first is None else ArrayPlace(first.array_id, first.index + n)
        for n in range(len(submissions))
    ]
    rows = [_row(asked, at, place) for asked, place in zip(submissions, places, strict=True)]
    for row, number in zip(rows, bulk.next_ids(session, JobRow, len(rows)), strict=True):
        row.id = number
    for row, place in zip(rows, places, strict=True):
        if place is not None and place.array_id is None:
            row.array_id = row.id
    texts = [
        bulk.plain(
            JobTextRow,
            job_id=row.id,
            name=asked.name.strip(),
            command=list(asked.command),
            env=dict(asked.env),
            outputs=list(asked.outputs),
        )
        for asked, row in zip(submissions, rows, strict=True)
    ]
    bulk.insert_all(session, rows)
    bulk.insert_all(session, texts)
    with journal.together(session):
        for asked, row in zip(submissions, rows, strict=True):
            data: dict[str, object] = {"job": job_fields(row)}
            actor = f"user:{asked.user_id}"
            journal.append(session, "job.submitted", f"job:{row.id}", actor=actor, at=at, data=data)
    return rows


def _row(submission: Submission, at: datetime, place: ArrayPlace | None) -> JobRow:
    request = submission.request
    return bulk.plain(
        JobRow,
        project_id=submission.project.id,
        user_id=submission.user_id,
        queue=submission.project.queue,
        state=JobState.PENDING.value,
        priority=submission.priority,
        gpus=request.gpus,
        nodes=request.nodes,
        flavors=list(request.flavors),
        walltime_s=request.walltime_s,
        memory_bytes_per_rank=request.memory_bytes_per_rank,
        node_labels=dict(request.node_labels),
        topology_required=request.topology_required,
        topology_preferred=request.topology_preferred,
        placement=request.placement.value,
        cpus_per_gpu=request.cpus_per_gpu,
        memory_bytes_per_gpu=request.memory_bytes_per_gpu,
        bundle_digest=submission.bundle_digest,
        submitted_at=at,
        is_held=submission.is_held,
        is_interactive=submission.is_interactive,
        begin_at=submission.begin_at,
        depends_on=[
            {"job_id": dependency.job_id, "kind": dependency.kind.value}
            for dependency in submission.depends_on
        ],
        preemptions=0,
        array_id=None if place is None else place.array_id,
        array_index=None if place is None else place.index,
        array_cap=None if submission.array is None else submission.array.cap,
        is_cancel_requested=False,
        attempts=0,
        launch_refusals=0,
        node_failures=0,
        gpu_seconds=0,
    )
