"""A cycle's admissions written together.

The caller has locked the jobs; each admission is checked again with the same `fit`, budgets are claimed per grant, and
everything is inserted in bulk; where the database refuses, by halves.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Final

import psycopg
from sqlalchemy import ARRAY, BigInteger, ColumnElement, any_, literal, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from quota import service as quota
from quota.ledger import Refusal
from quota.model import Policy
from quota.policy import policy_queue
from scheduler import fit, lifecycle
from scheduler.facts import Admitted, JobView
from scheduler.fields import Fields
from scheduler.known import Known
from scheduler.model import Admit, AttemptId, JobId, JobState, PendingJob, ReasonCode, Snapshot
from scheduler.rows import attempt_fields, new_rank
from scheduler.tables import AllocationRow, AttemptRow, JobRow
from scheduler.warm import Warm
from scheduler.world import is_same_world
from store import clock, journal, lease
from store.bulk import insert_all, plain

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


@dataclass(frozen=True)
class Admission:
    """What the admissions of one cycle share.

    Args:
        warm: what is kept from cycle to cycle; it is brought up to date under the locks.
        at: the plan's instant.
        waiting: jobs that wait and are locked.
        seen: what the plan was made from under this policy; None = every entry is checked again.
    """

    warm: Warm
    policy: Policy
    held: lease.Held
    at: datetime
    waiting: frozenset[JobId]
    seen: Snapshot | None = None

    @property
    def actor(self) -> str:
        """As the journal names this scheduler."""
        return f"scheduler:{self.held.epoch}"

    @cached_property
    def graces_s(self) -> Mapping[str, int]:
        """Seconds of notice that each queue's jobs get; none for a queue that the policy has no more."""
        return {node.path: node.grace_s for node in self.policy.tree}


Result = AttemptId | Rejected


def admit_all(session: Session, entries: Sequence[Admit], admission: Admission) -> list[Result]:
    """Admit what still fits, in the plan's order; a result per entry.

    The database has the last word: where it refuses them together, each half is tried behind a savepoint of its own,
    so that one wrong row costs one admission.
    """
    try:
        # Within `together`, which so takes back what was appended also where the savepoint fails at its end.
        with journal.together(session), session.begin_nested():
            return _admit(session, entries, admission)
    except (IntegrityError, psycopg.errors.IntegrityError):
        admission.warm.forget("the database refused an admission that what is kept allowed")
    if len(entries) == 1:
        return [Rejected(entries[0], GPU_TAKEN)]
    middle = len(entries) // 2
    return [
        *admit_all(session, entries[:middle], admission),
        *admit_all(session, entries[middle:], admission),
    ]


def _admit(session: Session, entries: Sequence[Admit], admission: Admission) -> list[Result]:
    """Check, claim, write."""
    known, now = admission.warm.catch_up(session, admission.at, admission.policy)
    world = None
    if not _is_as_planned(entries, admission.seen, now, known):
        index = admission.warm.index
        world = fit.World(now, index.bounds(now, admission.policy), index.running)
    till = quota.Till(session, {entry.grant_id for entry in entries}, at=admission.at, actor=admission.actor)
    results: list[Result] = []
    made: list[tuple[Fields, AttemptRow]] = []
    for entry in entries:
        job = known.pending(entry.job_id) if entry.job_id in admission.waiting else None
        found = _check(entry, job, world)
        if job is None or isinstance(found, Rejected):
            results.append(found if isinstance(found, Rejected) else Rejected(entry, JOB_GONE))
            continue
        attempt_id = lifecycle.attempt_id(job.id, job.attempts + 1)
        if isinstance(till.claim(entry.grant_id, attempt_id, entry.claim_s), Refusal):
            results.append(Rejected(entry, ReasonCode.BUDGET_EXHAUSTED))
            continue
        if world is not None and found is not None:
            world.start(job, found)
        made.append(_made(entry, job, len(made) + 1, admission, known))
        results.append(attempt_id)
    _write(session, made, admission.at)
    till.close()
    for changed, attempt in made:
        _tell(session, changed, attempt, admission)
    return results


def _is_as_planned(entries: Sequence[Admit], seen: Snapshot | None, now: Snapshot, known: Known) -> bool:
    """Whether `fit` would be asked about nothing new: all it read when it decided on these entries is as it was.

    Then what it said holds. An entry that is left out all the same (its job is gone, its budget too) only leaves
    room to those behind it. O(entries x log waiting).
    """
    if seen is None or not is_same_world(seen, now):
        return False
    for entry in entries:
        place = bisect_left(seen.pending, entry.job_id, key=lambda job: job.id)
        job = known.pending(entry.job_id)
        if job is not None and (place == len(seen.pending) or seen.pending[place] != job):
            return False
    return True


def lock_waiting(session: Session, job_ids: Sequence[JobId]) -> frozenset[JobId]:
    """Lock jobs in the order of their ids, as everywhere; those that wait."""
    if not job_ids:
        return frozenset()
    statement = select(JobRow.id, JobRow.state).where(_is_one_of(job_ids)).order_by(JobRow.id)
    rows = session.execute(statement.with_for_update())
    return frozenset(JobId(row.id) for row in rows if row.state == JobState.PENDING.value)


def _is_one_of(job_ids: Sequence[int]) -> ColumnElement[bool]:
    """One array instead of a parameter each: to write and parse those took longer than to run the statement."""
    return JobRow.id == any_(literal(list(job_ids), ARRAY(BigInteger)))


def _check(entry: Admit, job: PendingJob | None, world: fit.World | None) -> fit.Fit | Rejected | None:
    """Ask `fits` again for exactly these slots; None where what it said before holds."""
    if job is None:
        return Rejected(entry, JOB_GONE)
    if world is None:
        return None
    found = fit.fits(job, world, slots=entry.slots)
    if isinstance(found, fit.NoFit):
        return Rejected(entry, found.reason)
    return found if found.grant_id == entry.grant_id else Rejected(entry, GRANT_CHANGED)


def _made(
    entry: Admit, job: PendingJob, number: int, admission: Admission, known: Known
) -> tuple[Fields, AttemptRow]:
    """The new attempt, and the fields of its job that change."""
    attempt_id = lifecycle.attempt_id(job.id, job.attempts + 1)
    fact = Admitted(
        attempt_id=attempt_id,
        gpus=job.request.gpus,
        walltime_s=job.request.walltime_s,
        nodes=tuple(slot.node for slot in entry.slots),
        at_ms=clock.to_ms(admission.at),
    )
    view = lifecycle.step(JobView(job.id, JobState.PENDING, job.attempts), fact).job
    before = known.fields(job.id) or {}
    now = {
        "state": view.state.value,
        "attempts": view.attempts,
        "reason": None,
        "back_off_until_ms": None,
        "reservation": None,
    }
    attempt = plain(
        AttemptRow,
        id=attempt_id,
        job_id=job.id,
        state=view.state.value,
        share_class=entry.share_class.value,
        epoch=admission.held.epoch,
        grant_id=entry.grant_id,
        claim_s=entry.claim_s,
        ranks=[new_rank(slot) for slot in entry.slots],
        admitted_at=admission.at,
        admitted_seq=number,
        grace_s=admission.graces_s.get(policy_queue(admission.policy, job.queue), 0),
        refund_cap_s=0,
        refunded_s=0,
    )
    return {name: value for name, value in now.items() if before.get(name) != value}, attempt


def _write(session: Session, made: Sequence[tuple[Fields, AttemptRow]], at: datetime) -> None:
    """Jobs, attempts and allocations."""
    if not made:
        return
    attempts = [attempt for _, attempt in made]
    by_count: dict[int, list[int]] = {}
    for changed, attempt in made:
        count = changed["attempts"]
        by_count.setdefault(count if isinstance(count, int) else 0, []).append(attempt.job_id)
    for count, job_ids in by_count.items():
        session.execute(
            update(JobRow)
            .where(_is_one_of(job_ids))
            .values(
                state=JobState.ADMITTED.value,
                attempts=count,
                reason=None,
                reason_numbers=None,
                back_off_until=None,
                reservation=None,
            )
            .execution_options(synchronize_session=False)
        )
    insert_all(session, attempts)
    insert_all(
        session,
        [
            plain(
                AllocationRow,
                attempt_id=attempt.id,
                gpu_uuid=uuid,
                node=rank["node"],
                rank=number,
                allocated_at=at,
            )
            for attempt in attempts
            for number, rank in enumerate(attempt.ranks)
            for uuid in _uuids(rank)
        ],
    )


def _uuids(rank: Mapping[str, object]) -> list[str]:
    found = rank["gpu_uuids"]
    return found if isinstance(found, list) else []


def _tell(session: Session, changed: Fields, attempt: AttemptRow, admission: Admission) -> None:
    """The record of an admission: all that it changed."""
    data: dict[str, object] = {
        "job": changed,
        "attempt_id": attempt.id,
        "attempt": attempt_fields(attempt),
        "ranks": {str(number): rank for number, rank in enumerate(attempt.ranks)},
    }
    subject = f"job:{attempt.job_id}"
    journal.append(session, "job.admitted", subject, actor=admission.actor, at=admission.at, data=data)
