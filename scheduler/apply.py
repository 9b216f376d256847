"""Applying a plan (T2): one transaction in which a cycle's admissions happen, or each says why not.

Under the scheduler's lease every admission is checked again with the same `fit.fits` against what runs now, the
grant's balance is locked and claimed, and the unique index on held GPUs stands behind it all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from quota import service as quota
from quota.ledger import Refusal
from quota.model import Policy
from quota.policy import policy_queue
from scheduler import fit, lifecycle
from scheduler.changes import Book, admit, job_of, take
from scheduler.facts import Admitted, ExpireRequested
from scheduler.fields import Standing
from scheduler.model import (
    Admit,
    AttemptId,
    Expire,
    JobId,
    JobState,
    Plan,
    ReasonCode,
    Wait,
)
from scheduler.notices import keep_promises
from scheduler.plan import plan_digest
from scheduler.rows import new_rank
from scheduler.snapshot import load_running, load_standing, pending_jobs
from scheduler.tables import AllocationRow, AttemptRow, JobRow
from store import clock, journal, lease
from tenants.model import ProjectStatus
from tenants.tables import ProjectRow

LEASE: Final = "scheduler"
"""Name of the lease that its one holder plans, applies and dispatches under."""

MAX_ADMISSIONS: Final = 200
"""Admissions of one transaction: it stays under a second; the rest of a plan follows in the next cycle."""

MAX_WAIT_CHANGES: Final = 1_000
"""Changed reasons written in one transaction; the rest follows in the next cycles."""

JOB_GONE: Final = "JOB_GONE"
"""Why an entry is rejected: the job waits no more."""
GPU_TAKEN: Final = "GPU_TAKEN"
"""Why an entry is rejected: the database says that a GPU of it is held."""
GRANT_CHANGED: Final = "GRANT_CHANGED"
"""Why an entry is rejected: another grant would have to pay than the planned one."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """An admission that did not happen, and why: a `ReasonCode`, JOB_GONE, GPU_TAKEN or GRANT_CHANGED."""

    entry: Admit
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan with what its cycle's record says beside it.

    Args:
        release: version of the code that planned.
        load_ms: milliseconds it took to read the snapshot.
        plan_ms: milliseconds it took to plan.
    """

    plan: Plan
    policy: Policy
    policy_digest: str
    release: str
    load_ms: int = 0
    plan_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What became of a plan.

    Args:
        reserved: jobs whose planned start came, changed or went.
        preempting: attempts that were given notice.
        spared: attempts whose notice was taken back.
        is_partial: more was planned than one transaction takes; cycle again at once.
        next_ms: when the next planned start or notice comes; None = none is known.
    """

    admitted: tuple[AttemptId, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    expired: tuple[AttemptId, ...] = ()
    reserved: tuple[JobId, ...] = ()
    preempting: tuple[AttemptId, ...] = ()
    spared: tuple[AttemptId, ...] = ()
    waits_changed: int = 0
    is_partial: bool = False
    next_ms: int | None = None

    @property
    def has_effect(self) -> bool:
        """Whether something was written, and so the cycle's record too."""
        promised = self.reserved or self.preempting or self.spared
        return bool(self.admitted or self.expired or promised or self.waits_changed)


@dataclass(slots=True)
class _Tally:
    admitted: list[AttemptId] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    expired: list[AttemptId] = field(default_factory=list)


def apply(session: Session, held: lease.Held, planned: Planned) -> Applied:
    """Carry out a plan in the caller's transaction.

    Args:
        session: the open unit of work of this cycle.
        held: the scheduler's lease; its epoch goes into every record.
        planned: the plan and the policy it was made under.

    Returns:
        What was admitted, rejected, expired, and how many jobs got another reason.

    Raises:
        StaleEpochError: another process is the scheduler; nothing was written.
    """
    lease.fence(session, held)
    plan = planned.plan
    at = clock.from_ms(plan.at_ms)
    actor = f"scheduler:{held.epoch}"
    tally = _Tally()
    admits = [entry for entry in plan.entries if isinstance(entry, Admit)]
    _expire(session, (e for e in plan.entries if isinstance(e, Expire)), tally, at=at, actor=actor)
    if admits:
        _admit_all(session, admits[:MAX_ADMISSIONS], tally, planned=planned, held=held)
    promised = keep_promises(
        session,
        plan,
        refund_cap_s=planned.policy.checkpoint_refund_cap_s,
        open_to=frozenset(entry.job_id for entry in admits).difference(map(job_of, tally.admitted)),
        actor=actor,
    )
    changes = _changed_waits(session, plan)
    written = _write_waits(session, changes[:MAX_WAIT_CHANGES], at=at, actor=actor)
    applied = Applied(
        admitted=tuple(tally.admitted),
        rejected=tuple(tally.rejected),
        expired=tuple(tally.expired),
        reserved=tuple(promised.reserved),
        preempting=tuple(promised.told),
        spared=tuple(promised.spared),
        waits_changed=written,
        is_partial=len(admits) > MAX_ADMISSIONS or len(changes) > MAX_WAIT_CHANGES,
        next_ms=plan.next_ms,
    )
    if applied.has_effect:
        _record(session, planned, applied, at=at, actor=actor)
    session.flush()
    return applied


def _record(session: Session, planned: Planned, applied: Applied, *, at: datetime, actor: str) -> None:
    plan = planned.plan
    data: dict[str, object] = {
        "at_ms": plan.at_ms,
        "version": plan.version,
        "policy": plan.policy_version,
        "policy_digest": planned.policy_digest,
        "release": planned.release,
        "plan_digest": plan_digest(plan),
        "entries": len(plan.entries),
        "admitted": list(applied.admitted),
        "rejected": [{"job_id": r.entry.job_id, "why": r.why} for r in applied.rejected],
        "preempting": list(applied.preempting),
        "spared": list(applied.spared),
        "load_ms": planned.load_ms,
        "plan_ms": planned.plan_ms,
    }
    journal.append(session, "cycle.planned", f"lease:{LEASE}", actor=actor, at=at, data=data)


def _expire(session: Session, entries: Iterable[Expire], tally: _Tally, *, at: datetime, actor: str) -> None:
    for entry in entries:
        fact = ExpireRequested(entry.attempt_id, clock.to_ms(at))
        outcome = take(session, job_of(entry.attempt_id), fact, at=at, actor=actor)
        if outcome.ignored is None:
            tally.expired.append(entry.attempt_id)


def _admit_all(
    session: Session, entries: Iterable[Admit], tally: _Tally, *, planned: Planned, held: lease.Held
) -> None:
    now = load_running(session, clock.from_ms(planned.plan.at_ms))
    world = fit.World(now, fit.Bounds(now, planned.policy))
    admission = _Admission(planned, world, held, load_standing(session, clock.from_ms(planned.plan.at_ms)))
    for number, entry in enumerate(entries, 1):
        try:
            with session.begin_nested():
                found = _admit(session, entry, number, admission)
        except IntegrityError:
            found = Rejected(entry, GPU_TAKEN)
        if isinstance(found, Rejected):
            tally.rejected.append(found)
        else:
            tally.admitted.append(found)


@dataclass(frozen=True, slots=True)
class _Admission:
    """What the admissions of one cycle share: the plan, what runs beside them, the lease, the acts."""

    planned: Planned
    world: fit.World
    held: lease.Held
    standing: Standing

    @property
    def at(self) -> datetime:
        return clock.from_ms(self.planned.plan.at_ms)

    @property
    def actor(self) -> str:
        return f"scheduler:{self.held.epoch}"


def _admit(session: Session, entry: Admit, number: int, admission: _Admission) -> AttemptId | Rejected:
    """One admission: lock the job, ask `fits` again for exactly these slots, claim, write."""
    at, actor = admission.at, admission.actor
    book = Book.open(session, entry.job_id, at=at, actor=actor)
    row = book.job
    if row.state != JobState.PENDING.value:
        return Rejected(entry, JOB_GONE)
    status = session.scalar(select(ProjectRow.status).where(ProjectRow.id == row.project_id))
    is_suspended = status != ProjectStatus.ACTIVE.value
    (job,) = pending_jobs(session, [(row, is_suspended)], admission.standing)
    found = fit.fits(job, admission.world, slots=entry.slots)
    if isinstance(found, fit.NoFit):
        return Rejected(entry, found.reason)
    if found.grant_id != entry.grant_id:
        return Rejected(entry, GRANT_CHANGED)
    attempt_id = lifecycle.attempt_id(JobId(row.id), row.attempts + 1)
    claimed = quota.claim(session, found.grant_id, attempt_id, found.claim_s, at=at, actor=actor)
    if isinstance(claimed, Refusal):
        return Rejected(entry, ReasonCode.BUDGET_EXHAUSTED)
    _write_attempt(book, entry, attempt_id, admission, number)
    admission.world.start(job, found)
    return attempt_id


def _write_attempt(
    book: Book, entry: Admit, attempt_id: AttemptId, admission: _Admission, number: int
) -> None:
    row = book.job
    bounds = admission.world.bounds
    queue = bounds.queues.get(policy_queue(bounds.policy, row.queue))
    attempt = AttemptRow(
        id=attempt_id,
        job_id=row.id,
        state=JobState.ADMITTED.value,
        share_class=entry.share_class.value,
        epoch=admission.held.epoch,
        grant_id=entry.grant_id,
        claim_s=entry.claim_s,
        ranks=[new_rank(slot) for slot in entry.slots],
        admitted_at=book.at,
        admitted_seq=number,
        grace_s=0 if queue is None else queue.grace_s,
        refund_cap_s=0,
        refunded_s=0,
    )
    fact = Admitted(
        attempt_id=attempt_id,
        gpus=row.gpus,
        walltime_s=row.walltime_s,
        nodes=tuple(slot.node for slot in entry.slots),
        at_ms=clock.to_ms(book.at),
    )
    admit(book, attempt, fact)
    book.session.add_all(
        AllocationRow(attempt_id=attempt_id, gpu_uuid=uuid, node=slot.node, rank=rank, allocated_at=book.at)
        for rank, slot in enumerate(entry.slots)
        for uuid in slot.gpu_uuids
    )
    book.session.flush()


def _changed_waits(session: Session, plan: Plan) -> list[Wait]:
    """Waits whose reason is another than the job has now."""
    waits = [entry for entry in plan.entries if isinstance(entry, Wait)]
    if not waits:
        return []
    rows = session.execute(select(JobRow.id, JobRow.reason).where(JobRow.state == JobState.PENDING.value))
    known = {row.id: row.reason for row in rows}
    return [wait for wait in waits if wait.job_id in known and known[wait.job_id] != wait.reason.value]


def _write_waits(session: Session, waits: Iterable[Wait], *, at: datetime, actor: str) -> int:
    by_job = {wait.job_id: wait for wait in waits}
    if not by_job:
        return 0
    rows = session.scalars(
        select(JobRow)
        .where(JobRow.id.in_(by_job), JobRow.state == JobState.PENDING.value)
        .order_by(JobRow.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).all()
    for row in rows:
        wait = by_job[JobId(row.id)]
        book = Book.of(session, row, None, at=at, actor=actor)
        row.reason, row.reason_numbers = wait.reason.value, dict(wait.numbers)
        book.tell("job.waits", {"numbers": dict(wait.numbers)})
    return len(rows)
