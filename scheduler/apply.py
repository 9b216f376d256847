"""Applying a plan (T2): one transaction in which a cycle's admissions happen, or each says why not.

Under the scheduler's lease every admission is checked again with the same `fit.fits` against what runs now, the
grant's balance is locked and claimed, and the unique index on held GPUs stands behind it all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from sqlalchemy import text
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
    lock_waiting,
)
from scheduler.changes import job_of, take
from scheduler.entries import waits_of
from scheduler.facts import ExpireRequested
from scheduler.known import Known
from scheduler.model import Admit, AttemptId, Expire, JobId, Plan, Preempt, Reserve, Snapshot, Wait
from scheduler.notices import Promised, are_kept, keep_promises
from scheduler.plan import effects_digest_with
from scheduler.telling import Round
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
"""Reasons worked out in one cycle, and of those told before in a second: a tenth of it. See `scheduler.telling`."""

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
        load_ms: milliseconds it took to read the snapshot, both times where attempts were ended between.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a plan leaves to be written, as of what was known when it was made; the rest is for the next cycles.

    Args:
        waits: reasons that differ from those told last.
        told: how far the telling of reasons has come with these.
        are_promises_kept: planned starts and notices stand as planned.
        is_partial: there is more than one transaction may write.
    """

    expires: Sequence[Expire]
    admits: Sequence[Admit]
    waits: Sequence[Wait]
    told: Round
    are_promises_kept: bool
    is_partial: bool

    @property
    def is_nothing(self) -> bool:
        """Whether the transaction would change nothing."""
        return self.are_promises_kept and not (self.expires or self.admits or self.waits)


def work_of(plan: Plan, known: Known) -> Work:
    """What is to be written of a plan; reasons are worked out of those jobs that have their turn.

    It changes nothing: whoever has carried it out sets `known.round`.
    """
    effects = plan.effects
    admits = [entry for entry in effects if isinstance(entry, Admit)]
    asked = known.to_tell(MAX_REASONS_BESIDE if admits else MAX_REASONS, plan.at_ms)
    changed = {
        wait.job_id: wait
        for wait in waits_of(plan, asked.job_ids)
        if known.reason(wait.job_id) != wait.reason.value
    }
    written, told = asked.cut(changed.keys(), MAX_WAIT_CHANGES)
    return Work(
        expires=[entry for entry in effects if isinstance(entry, Expire)],
        admits=admits[:MAX_ADMISSIONS],
        waits=[wait for job_id, wait in changed.items() if job_id in written],
        told=told,
        are_promises_kept=are_kept(plan, known, ()),
        is_partial=len(admits) > MAX_ADMISSIONS or len(changed) > len(written),
    )


def apply(
    session: Session, held: lease.Held, planned: Planned, warm: Warm | None = None, work: Work | None = None
) -> Applied:
    """Carry out a plan in the caller's transaction.

    Args:
        session: the open unit of work of this cycle.
        held: the scheduler's lease; its epoch goes into every record.
        planned: the plan and the policy it was made under.
        warm: what the plan was made from and what is kept of it; without it the tables are read.
        work: `work_of` the plan; None = it is found here.

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
    known = warm.known(session, at, planned.policy)
    work = work_of(plan, known) if work is None else work
    tally = _Tally()
    # All jobs at once: before balances, as whoever settles an attempt does, and before what others wrote is read, so
    # that what this transaction says of them follows on it.
    waiting = lock_waiting(session, _touched(plan, work, known))
    with journal.together(session):
        _expire(session, work.expires, tally, at=at, actor=actor)
        if work.admits:
            admission = Admission(warm, planned.policy, held, at, waiting, planned.seen)
            for found in admit_all(session, work.admits, admission):
                tally.take(found)
        started = frozenset(map(job_of, tally.admitted))
        promised = Promised()
        if not (work.are_promises_kept or are_kept(plan, known, started)):
            promised = keep_promises(
                session,
                plan,
                refund_cap_s=planned.policy.checkpoint_refund_cap_s,
                open_to=frozenset(entry.job_id for entry in plan.effects if isinstance(entry, Admit))
                - started,
                actor=actor,
            )
        written = [wait for wait in work.waits if wait.job_id in waiting]
        _write_waits(session, written, at=at, actor=actor)
        applied = Applied(
            admitted=tuple(tally.admitted),
            rejected=tuple(tally.rejected),
            expired=tuple(tally.expired),
            reserved=tuple(promised.reserved),
            preempting=tuple(promised.told),
            spared=tuple(promised.spared),
            waits=tuple(wait.job_id for wait in written),
            is_partial=work.is_partial,
            next_ms=plan.next_ms,
        )
        if applied.has_effect:
            _record(session, planned, applied, written, at=at, actor=actor)
    session.flush()
    return applied


def _touched(plan: Plan, work: Work, known: Known) -> list[JobId]:
    """Jobs that the plan's transaction may write."""
    found = {entry.job_id for entry in work.admits}
    found.update(wait.job_id for wait in work.waits)
    found.update(job_of(entry.attempt_id) for entry in work.expires)
    if not work.are_promises_kept:
        found.update(known.reserved, map(job_of, known.noticed))
        found.update(entry.job_id for entry in plan.effects if isinstance(entry, Reserve))
        found.update(job_of(entry.attempt_id) for entry in plan.effects if isinstance(entry, Preempt))
    return sorted(found)


def _record(
    session: Session, planned: Planned, applied: Applied, waits: Sequence[Wait], *, at: datetime, actor: str
) -> None:
    plan = planned.plan
    data: dict[str, object] = {
        "at_ms": plan.at_ms,
        "version": plan.version,
        "policy": plan.policy_version,
        "policy_digest": planned.policy_digest,
        "release": planned.release,
        "effects_digest": effects_digest_with(plan, waits),
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


def _write_waits(session: Session, waits: Sequence[Wait], *, at: datetime, actor: str) -> None:
    """Write and journal reasons of jobs that are locked and wait still."""
    if not waits:
        return
    values = {
        "job_id": [wait.job_id for wait in waits],
        "code": [wait.reason.value for wait in waits],
        "numbers": [to_json(dict(wait.numbers)) for wait in waits],
    }
    session.execute(_SET_REASONS, values)
    with journal.together(session):
        for wait in waits:
            data = {"numbers": dict(wait.numbers), "job": {"reason": wait.reason.value}}
            journal.append(session, "job.waits", f"job:{wait.job_id}", actor=actor, at=at, data=data)
