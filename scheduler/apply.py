"""Applying a plan (T2): one transaction in which a cycle's admissions happen, or each says why not.

Under the scheduler's lease every admission is checked again with the same `fit.fits` against what runs now, the
grant's balance is locked and claimed, and the unique index on held GPUs stands behind it all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from quota.model import Policy
from scheduler.admitting import (
    GPU_TAKEN,
    GRANT_CHANGED,
    JOB_GONE,
    Admission,
    Rejected,
    Result,
    admit_all,
)
from scheduler.changes import job_of, take
from scheduler.entries import waits_of
from scheduler.facts import ExpireRequested
from scheduler.model import Admit, AttemptId, Expire, JobId, JobState, Plan, Snapshot, Wait
from scheduler.notices import keep_promises
from scheduler.plan import effects_digest
from scheduler.tables import JobRow
from scheduler.warm import Warm
from store import clock, journal, lease
from store.bulk import to_json

__all__ = [
    "GPU_TAKEN",
    "GRANT_CHANGED",
    "JOB_GONE",
    "LEASE",
    "Admit",
    "Applied",
    "Planned",
    "Rejected",
    "apply",
]

LEASE: Final = "scheduler"
"""Name of the lease that its one holder plans, applies and dispatches under."""

MAX_ADMISSIONS: Final = 1_000
"""Admissions of one transaction: it stays under a second; the rest of a plan follows in the next cycle."""

MAX_WAIT_CHANGES: Final = 1_000
"""Changed reasons written in one transaction; the rest follows in the next cycles."""

MAX_REASONS: Final = 10_000
"""Reasons worked out in one cycle: a tenth of a second. All of a longer queue have their turn within a few cycles."""

MAX_REASONS_BESIDE: Final = 1_000
"""Reasons worked out in a cycle that admits: starts come first."""


_SET_REASONS: Final = text("""
UPDATE jobs SET reason = told.code, reason_numbers = told.numbers
FROM unnest(CAST(:job_id AS bigint[]), CAST(:code AS text[]), CAST(:numbers AS jsonb[])) AS told(id, code, numbers)
WHERE jobs.id = told.id
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan with what its cycle's record says beside it.

    Args:
        release: version of the code that planned.
        load_ms: milliseconds it took to read the snapshot.
        plan_ms: milliseconds it took to plan.
        seen: what `make_plan` made it from; None = every admission is checked again.
    """

    plan: Plan
    policy: Policy
    policy_digest: str
    release: str
    load_ms: int = 0
    plan_ms: int = 0
    seen: Snapshot | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What became of a plan.

    Args:
        waits: jobs that wait for another reason than before.
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
    waits: tuple[JobId, ...] = ()
    is_partial: bool = False
    next_ms: int | None = None

    @property
    def waits_changed(self) -> int:
        """Number of jobs that got another reason."""
        return len(self.waits)

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

    def take(self, found: Result) -> None:
        """Note one result."""
        if isinstance(found, Rejected):
            self.rejected.append(found)
        else:
            self.admitted.append(found)


def apply(session: Session, held: lease.Held, planned: Planned, warm: Warm | None = None) -> Applied:
    """Carry out a plan in the caller's transaction.

    Args:
        session: the open unit of work of this cycle.
        held: the scheduler's lease; its epoch goes into every record.
        planned: the plan and the policy it was made under.
        warm: what the plan was made from and what is kept of it; without it the tables are read.

    Returns:
        What was admitted, rejected, expired, and how many jobs got another reason.

    Raises:
        StaleEpochError: another process is the scheduler; nothing was written.
    """
    lease.fence(session, held)
    plan = planned.plan
    at = clock.from_ms(plan.at_ms)
    actor = f"scheduler:{held.epoch}"
    warm = Warm() if warm is None else warm
    tally = _Tally()
    effects = plan.effects
    admits = [entry for entry in effects if isinstance(entry, Admit)]
    _expire(session, (e for e in effects if isinstance(e, Expire)), tally, at=at, actor=actor)
    if admits:
        admission = Admission(warm, planned.policy, held, at, planned.seen)
        for found in admit_all(session, admits[:MAX_ADMISSIONS], admission):
            tally.take(found)
    promised = keep_promises(
        session,
        plan,
        refund_cap_s=planned.policy.checkpoint_refund_cap_s,
        open_to=frozenset(entry.job_id for entry in admits).difference(map(job_of, tally.admitted)),
        actor=actor,
    )
    known = warm.known(session, at, planned.policy)
    asked = known.to_tell(MAX_REASONS_BESIDE if tally.admitted else MAX_REASONS)
    changes = [wait for wait in waits_of(plan, asked) if known.reason(wait.job_id) != wait.reason.value]
    written = _write_waits(session, changes[:MAX_WAIT_CHANGES], at=at, actor=actor)
    applied = Applied(
        admitted=tuple(tally.admitted),
        rejected=tuple(tally.rejected),
        expired=tuple(tally.expired),
        reserved=tuple(promised.reserved),
        preempting=tuple(promised.told),
        spared=tuple(promised.spared),
        waits=tuple(wait.job_id for wait in written),
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
        "effects_digest": effects_digest(plan, applied.waits),
        "effects": len(plan.effects),
        "waits": list(applied.waits),
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


def _write_waits(session: Session, waits: Sequence[Wait], *, at: datetime, actor: str) -> list[Wait]:
    """Write and journal reasons of jobs that wait still; those that were written."""
    if not waits:
        return []
    locked = (
        select(JobRow.id)
        .where(JobRow.id.in_([wait.job_id for wait in waits]), JobRow.state == JobState.PENDING.value)
        .order_by(JobRow.id)
        .with_for_update()
    )
    waiting = set(session.scalars(locked))
    found = [wait for wait in waits if wait.job_id in waiting]
    rows = [
        {"job_id": wait.job_id, "code": wait.reason.value, "numbers": to_json(dict(wait.numbers))}
        for wait in found
    ]
    values = {name: [row[name] for row in rows] for name in ("job_id", "code", "numbers")}
    session.execute(_SET_REASONS, values)
    with journal.together(session):
        for wait in found:
            data = {"numbers": dict(wait.numbers), "job": {"reason": wait.reason.value}}
            journal.append(session, "job.waits", f"job:{wait.job_id}", actor=actor, at=at, data=data)
    return found
