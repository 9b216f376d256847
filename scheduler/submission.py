"""What is asked before a job is accepted: limits, queue, whether it can ever fit, budget; and its row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from quota import ledger
from quota import service as quota
from quota.model import Grant, Policy, QuotaNode
from quota.policy import policy_queue
from scheduler import fit
from scheduler.changes import Book
from scheduler.dispatch.limits import ENV_NAME
from scheduler.fields import DependencyKind
from scheduler.inventory import bounds_of
from scheduler.model import JobState, ReasonCode, Request
from scheduler.tables import BundleRow, JobRow, JobTextRow
from store import bulk, clock, journal
from tenants.model import Project, ProjectStatus
from tenants.tables import ProjectRow

MAX_NAME_CHARS: Final = 100
"""Characters of a job's name: it stands in one line of a list."""


MAX_COMMAND_ARGS: Final = 256
"""Arguments of a command: a launcher's; longer lists belong in a file of the bundle."""


MAX_COMMAND_BYTES: Final = 32_768
"""Bytes of a command's arguments together: a quarter of what Linux gives one argument."""


MAX_ENV_ENTRIES: Final = 64
"""Environment variables of a job: settings, not data."""


MAX_ENV_BYTES: Final = 32_768
"""Bytes of names and values of the environment together."""


MAX_OUTPUTS: Final = 32
"""Patterns of files to keep: each is a walk over the scratch folder."""


MAX_OUTPUT_CHARS: Final = 256
"""Characters of one pattern of files to keep."""


MAX_PENDING_PER_PROJECT: Final = 5_000
"""Jobs of a project that may wait at once: an array of hyper-parameters fits, a runaway loop does not."""


MAX_PRIORITY: Final = 1_000
"""Priority of a job lies between -MAX_PRIORITY and MAX_PRIORITY; it orders jobs of one queue only."""


MAX_GPUS: Final = 1_000_000
"""GPUs of one request: beyond any machine, and gpus x walltime stays far below 2**63."""


MAX_WALLTIME_S: Final = 366 * 86_400
"""Longest walltime of any queue [s]: a year, the agents' own limit."""


MAX_DEPENDENCIES: Final = 32
"""Jobs that one job may wait for: the branches of a workflow that meet in it."""


MAX_ARRAY: Final = 1_000
"""Jobs of one array: they are entered in one transaction."""


MAX_MEMORY_BYTES: Final = 2**50
"""Memory of a rank [bytes]: a pebibyte, beyond any node."""


MAX_NODE_LABELS: Final = 16
"""Labels that one job may ask of its nodes: topology and hardware, with room."""


MAX_CPUS_PER_GPU: Final = 4_096
"""CPUs for each GPU: beyond any node."""


_MOST: Final = {
    "memory_bytes_per_rank": MAX_MEMORY_BYTES,
    "cpus_per_gpu": MAX_CPUS_PER_GPU,
    "memory_bytes_per_gpu": MAX_MEMORY_BYTES,
}
"""Amounts that a request may leave out, and the most of each."""


class JobRefusedError(ValueError):
    """A job that is not accepted.

    Args:
        code: a `ReasonCode`, or QUEUE_UNKNOWN, QUEUE_FULL, BUNDLE_UNKNOWN, WALLTIME_MISSING, BAD_JOB.
        numbers: the figures of the refusal and what would be accepted.
        message: what happened and what to do, in English, for a log.
    """

    def __init__(self, code: str, numbers: Mapping[str, int | str], message: str) -> None:
        super().__init__(message)
        self.code = str(code)
        self.numbers = dict(numbers)


@dataclass(frozen=True, slots=True)
class Dependency:
    """Another job, and how it has to end before this one may start."""

    job_id: int
    kind: DependencyKind


@dataclass(frozen=True, slots=True)
class ArrayAsked:
    """So many jobs alike, each with its number in KEZEK_ARRAY_INDEX; at most `cap` of them run at a time."""

    count: int
    cap: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A job to be submitted. `request.walltime_s` 0 takes the queue's default walltime.

    `is_interactive` says that the job waits for a person by nature: the idle policy leaves it alone.
    Empty `request.flavors` take every flavor the project has a grant of, in the order in which the grants end.
    """

    project: Project
    user_id: UUID
    name: str
    command: tuple[str, ...]
    request: Request
    env: Mapping[str, str] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    bundle_digest: str | None = None
    priority: int = 0
    is_held: bool = False
    is_interactive: bool = False
    begin_at: datetime | None = None
    depends_on: tuple[Dependency, ...] = ()
    array: ArrayAsked | None = None


def accept(session: Session, submission: Submission, *, policy: Policy, at: datetime) -> JobRow:
    """Write an acceptable job's rows and record, of an array those of all its jobs; `at` has whole milliseconds.

    Returns:
        The job's row; of an array that of its first job, whose number is the array's.

    Raises:
        JobRefusedError: with a code and figures; nothing was written.
    """
    check_texts(submission)
    _check_project(session, submission.project, 1 if submission.array is None else submission.array.count)
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
    for project_id in sorted(by_project):  # locked in one order, so that none waits for another in a ring
        _check_project(session, by_project[project_id][0].project, len(by_project[project_id]))
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
    submission = _with_defaults(submission, _queue(submission, offer.policy), offer.grants)
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


def _refuse_text(what: str, limit: int, found: int) -> JobRefusedError:
    numbers: dict[str, int | str] = {"field": what, "limit": limit, "found": found}
    return JobRefusedError("BAD_JOB", numbers, f"{what} is {found}, the limit is {limit}; shorten it")


def check_texts(submission: Submission) -> None:
    """Names, command, environment and outputs within their limits, and figures that are no slip."""
    command, env, request = submission.command, submission.env, submission.request
    array = submission.array or ArrayAsked(1, 1)
    amounts = {name: getattr(request, name) for name in _MOST}
    sizes = (
        ("name", MAX_NAME_CHARS, len(submission.name)),
        ("command", MAX_COMMAND_ARGS, len(command)),
        ("command_bytes", MAX_COMMAND_BYTES, sum(len(part.encode()) + 1 for part in command)),
        ("env", MAX_ENV_ENTRIES, len(env)),
        ("env_bytes", MAX_ENV_BYTES, sum(len(k.encode()) + len(v.encode()) + 2 for k, v in env.items())),
        ("outputs", MAX_OUTPUTS, len(submission.outputs)),
        ("output_chars", MAX_OUTPUT_CHARS, max(map(len, submission.outputs), default=0)),
        ("priority", MAX_PRIORITY, abs(submission.priority)),
        ("gpus", MAX_GPUS, request.gpus),
        ("nodes", MAX_GPUS, request.nodes or 1),
        ("walltime_s", MAX_WALLTIME_S, request.walltime_s),
        *((name, _MOST[name], 1 if amount is None else amount) for name, amount in amounts.items()),
        ("node_labels", MAX_NODE_LABELS, len(request.node_labels)),
        ("depends_on", MAX_DEPENDENCIES, len(submission.depends_on)),
        ("array.count", MAX_ARRAY, array.count),
    )
    for what, limit, found in sizes:
        if found > limit:
            raise _refuse_text(what, limit, found)
    least = (
        ("name", len(submission.name.strip())),
        ("command", len(command[0]) if command else 0),
        ("gpus", request.gpus),
        ("nodes", 1 if request.nodes is None else request.nodes),
        *((name, 1 if amount is None else amount) for name, amount in amounts.items()),
        ("walltime_s", request.walltime_s + 1),
        ("array.count", array.count),
        ("array.cap", array.cap),
    )
    for what, found in least:
        if found < 1:
            numbers: dict[str, int | str] = {"field": what, "least": 1}
            raise JobRefusedError("BAD_JOB", numbers, f"{what} is missing or below 1; give it")
    texts = (submission.name, *command, *env.values(), *submission.outputs)
    bad_names = [name for name in env if not ENV_NAME.fullmatch(name)]
    if bad_names or any("\0" in part for part in texts):
        message = "an environment name or a text holds a character that no program can be given; remove it"
        raise JobRefusedError("BAD_JOB", {"field": "env" if bad_names else "text"}, message)


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


def _check_project(session: Session, project: Project, count: int) -> None:
    """Lock the project, so that its limits hold for submissions side by side."""
    locked = select(ProjectRow.status).where(ProjectRow.id == project.id).with_for_update(key_share=True)
    if session.scalar(locked) != ProjectStatus.ACTIVE.value:
        message = f"project {project.slug} is suspended; an operator can resume it"
        raise JobRefusedError(ReasonCode.PROJECT_SUSPENDED, {"project": project.slug}, message)
    waiting = (
        select(JobRow.id)
        .where(JobRow.project_id == project.id, JobRow.state == JobState.PENDING.value)
        .limit(MAX_PENDING_PER_PROJECT)
        .subquery()
    )
    found = session.scalar(select(func.count()).select_from(waiting)) or 0
    if found + count > MAX_PENDING_PER_PROJECT:
        message = f"{found} jobs of project {project.slug} wait already; wait for some, or cancel them"
        raise JobRefusedError("QUEUE_FULL", {"limit": MAX_PENDING_PER_PROJECT, "pending": found}, message)


def _queue(submission: Submission, policy: Policy) -> QuotaNode:
    path = policy_queue(policy, submission.project.queue)
    parents = {node.parent for node in policy.tree}
    for node in policy.tree:
        if node.path == path and path not in parents:
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
            book = Book.of(session, row, None, at=at, actor=f"user:{asked.user_id}")
            book.told_job = {}
            book.tell("job.submitted")
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
