"""What a plan promises and takes back, stored: planned starts, notices to borrowers, notices withdrawn.

Notices go out with the checkpoint signal (`send_notices`); at their end attempts are stopped
(`end_graces`) and their jobs wait again with their place kept.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, cast

from sqlalchemy import select, tuple_, update
from sqlalchemy.orm import Session

from scheduler.dispatch.executor import ExecutorError
from scheduler.dispatch.wire import Signal
from scheduler.facts import GraceEnded
from scheduler.fields import Fields, integer
from scheduler.heard import Heard, take_heard
from scheduler.known import Known
from scheduler.launch import Leader
from scheduler.model import AttemptId, JobId, JobState, Plan, Preempt, Reserve
from scheduler.open_jobs import OpenJob, OpenJobs, job_of
from scheduler.side_by_side import call_nodes, log_failures
from scheduler.snapshot import LIVE
from scheduler.stops import down_nodes, lock_jobs, send_signal
from scheduler.tables import AttemptRow, JobRow
from store import clock, journal, lease
from store.engine import snapshot, transaction

NOTICES_TOGETHER: Final = 500
"""Attempts that one call gives notice, and one transaction records: it stays under a second."""


@dataclass(slots=True)
class Promised:
    """What became of a plan's promises: jobs whose planned start changed, attempts told or spared."""

    reserved: list[JobId] = field(default_factory=list)
    told: list[AttemptId] = field(default_factory=list)
    spared: list[AttemptId] = field(default_factory=list)


def keep_promises(
    session: Session, plan: Plan, *, refund_cap_s: int, open_to: frozenset[JobId], actor: str
) -> Promised:
    """Store a plan's starts to come and its notices, in the caller's transaction.

    Args:
        session: the open unit of work, fenced.
        plan: the plan that is being applied; what it admits is admitted already.
        refund_cap_s: seconds of lost work that a victim is given back at most.
        open_to: jobs whose planned start was to begin now and did not: their victims are not spared.
        actor: as the journal names actors.
    """
    at = clock.from_ms(plan.at_ms)
    found = Promised()
    planned = {entry.job_id: entry for entry in plan.effects if isinstance(entry, Reserve)}
    kept = _write_reservations(session, plan, planned, found, actor=actor)
    due = [entry for entry in plan.effects if isinstance(entry, Preempt) and entry.for_job in kept]
    _tell_all(session, due, found, refund_cap_s=refund_cap_s, at=at, actor=actor)
    needed = {job_id for job_id in kept if planned[job_id].is_reclaim} | open_to
    _spare(session, needed, found, at=at, actor=actor)
    return found


def are_kept(plan: Plan, known: Known, started: Collection[JobId]) -> bool:
    """Whether `keep_promises` has nothing to write: planned starts and notices are what the plan says.

    What others change meanwhile is for the next cycle, which reads it. O(planned starts + notices).

    Args:
        plan: the plan that is being applied.
        known: what is known as of the plan's snapshot or later.
        started: jobs that this plan has started.
    """
    planned = {entry.job_id: entry for entry in plan.effects if isinstance(entry, Reserve)}
    if planned.keys() != known.reserved - set(started):
        return False
    if any(isinstance(entry, Preempt) and entry.attempt_id not in known.noticed for entry in plan.effects):
        return False
    for job_id, entry in planned.items():
        before = (known.fields(job_id) or {}).get("reservation")
        if not _same(cast("Fields | None", before), reservation_to_json(entry, plan)):
            return False
    needed = {job_id for job_id, entry in planned.items() if entry.is_reclaim}
    return all(attempt.reclaimed_by in needed for attempt in known.noticed.values())


def reservation_to_json(entry: Reserve, plan: Plan) -> Fields:
    """The stored form of a planned start: the plan's instant is when it came to be as it is."""
    return {
        "start_ms": entry.start_ms,
        "place": [[node, gpus] for node, gpus in entry.place],
        "flavor": entry.flavor,
        "share_class": entry.share_class.value,
        "planned_ms": plan.at_ms,
        "is_reclaim": entry.is_reclaim,
        "policy": plan.policy_version,
        "capacity_gpus": plan.capacity_gpus,
    }


def _write_reservations(
    session: Session, plan: Plan, planned: Mapping[JobId, Reserve], found: Promised, *, actor: str
) -> set[JobId]:
    """Store the starts that changed, each that comes later with its cause; the planned jobs that still wait.

    Rows are locked in the order of their ids, as everywhere.
    """
    at = clock.from_ms(plan.at_ms)
    causes = {moved.job_id: moved.cause.value for moved in plan.moved}
    standing = select(JobRow.id).where(
        JobRow.state == JobState.PENDING.value, JobRow.reservation.is_not(None)
    )
    touched = {*planned, *map(JobId, session.scalars(standing))}
    if not touched:
        return set()
    jobs = OpenJobs(session, touched, at=at, actor=actor, with_attempts=False)
    kept: set[JobId] = set()
    with journal.together(session):
        for job_id, one in jobs.items():
            if one.job.state != JobState.PENDING.value:
                continue
            entry = planned.get(job_id)
            if entry is not None:
                kept.add(job_id)
            now = None if entry is None else reservation_to_json(entry, plan)
            before = one.job.reservation
            if _same(before, now):
                continue
            one.job.reservation = now
            if entry is not None and one.job.told_at is None:
                one.job.told_at, one.job.told_start_at = at, clock.from_ms(entry.start_ms)
            later_ms = (
                0 if before is None or now is None else integer(now["start_ms"]) - integer(before["start_ms"])
            )
            details: Fields = {"later_ms": later_ms}
            if before is not None and (now is None or later_ms > 0):
                details["cause"] = causes.get(job_id)
            jobs.tell(one, "job.unreserved" if now is None else "job.reserved", details)
            found.reserved.append(job_id)
        jobs.write()
    return kept


def _same(before: Mapping[str, object] | None, now: Mapping[str, object] | None) -> bool:
    """Whether two planned starts differ in nothing but the plan that confirmed them."""
    if before is None or now is None:
        return before is now
    return {**before, "planned_ms": 0} == {**now, "planned_ms": 0}


def _tell_all(
    session: Session,
    due: Sequence[Preempt],
    found: Promised,
    *,
    refund_cap_s: int,
    at: datetime,
    actor: str,
) -> None:
    """Give attempts notice, but those that end already or have it; together, as a large gang has many victims."""
    if not due:
        return
    jobs = OpenJobs(session, {job_of(entry.attempt_id) for entry in due}, at=at, actor=actor)
    with journal.together(session):
        for entry in due:
            if _tell(jobs, jobs[job_of(entry.attempt_id)], entry, refund_cap_s):
                found.told.append(entry.attempt_id)
        jobs.write()


def _tell(jobs: OpenJobs, one: OpenJob, entry: Preempt, refund_cap_s: int) -> bool:
    """Give an attempt notice, unless it ends already or has it; whether it was given."""
    attempt = one.attempt
    if attempt is None or attempt.id != entry.attempt_id or attempt.state not in LIVE:
        return False
    if attempt.stop_why is not None or attempt.reclaimed_by is not None:
        return False
    attempt.reclaimed_by = entry.for_job
    attempt.notice_ends_at = clock.from_ms(entry.stop_ms)
    attempt.notice_sent_at = None
    attempt.refund_cap_s = refund_cap_s
    jobs.tell(one, "attempt.preempting", {"for_job": entry.for_job, "stop_ms": entry.stop_ms})
    return True


def _spare(session: Session, needed: set[JobId], found: Promised, *, at: datetime, actor: str) -> None:
    """Take back the notices of attempts whose GPUs nobody waits for any more: no stop may be useless."""
    noticed = session.execute(
        select(AttemptRow.id, AttemptRow.reclaimed_by)
        .where(
            AttemptRow.state.in_(LIVE),
            AttemptRow.reclaimed_by.is_not(None),
            AttemptRow.ended_at.is_(None),
            AttemptRow.stop_why.is_(None),
        )
        .order_by(AttemptRow.job_id)
    ).all()
    spared = [row.id for row in noticed if row.reclaimed_by not in needed]
    if not spared:
        return
    jobs = OpenJobs(session, set(map(job_of, spared)), at=at, actor=actor)
    with journal.together(session):
        for name in spared:
            one = jobs[job_of(name)]
            attempt = one.attempt
            if attempt is None or attempt.id != name or attempt.stop_why is not None:
                continue
            details: Fields = {"for_job": attempt.reclaimed_by}
            attempt.reclaimed_by, attempt.notice_ends_at, attempt.refund_cap_s = None, None, 0
            jobs.tell(one, "attempt.spared", details)
            found.spared.append(AttemptId(name))
        jobs.write()


def ended_graces(known: Known, at: datetime) -> list[AttemptId]:
    """Attempts whose notice is over and that were not told to stop, by job; as of what is known."""
    at_ms = clock.to_ms(at)
    due = [attempt for attempt in known.noticed.values() if integer(attempt.stop_ms) <= at_ms]
    return [attempt.id for attempt in sorted(due, key=lambda attempt: attempt.job_id)]


def end_graces(leader: Leader, due: Sequence[AttemptId], at: datetime) -> list[AttemptId]:
    """Stop these attempts, whose grace is over; those that were stopped. Again is fine.

    Raises:
        StaleEpochError: another process is the scheduler.
    """
    at_ms = clock.to_ms(at)
    heard = [Heard(job_of(attempt_id), GraceEnded(attempt_id, at_ms)) for attempt_id in due]
    outcomes = take_heard(leader, heard, at=at)
    return [
        attempt_id
        for attempt_id, outcome in zip(due, outcomes, strict=True)
        if outcome is not None and outcome.ignored is None
    ]


def undelivered_notices(session: Session) -> list[AttemptId]:
    """Attempts under notice whose ranks were not told to save their work."""
    statement = select(AttemptRow.id).where(
        AttemptRow.state == JobState.RUNNING.value,
        AttemptRow.reclaimed_by.is_not(None),
        AttemptRow.ended_at.is_(None),
        AttemptRow.notice_sent_at.is_(None),
        AttemptRow.stop_why.is_(None),
    )
    return [AttemptId(name) for name in session.scalars(statement.order_by(AttemptRow.id))]


def send_notices(leader: Leader, attempt_ids: Sequence[AttemptId]) -> frozenset[AttemptId]:
    """Ask the ranks of attempts under notice to save their work (SIGUSR1), once; nodes side by side.

    Returns:
        Attempts of which a node that counts as up did not answer; they are to be told again later.

    Raises:
        StaleEpochError: of the executor or the lease: another process is the scheduler.
    """

    def tell(node: str, attempt_id: AttemptId) -> None:
        send_signal(leader.executor, node, attempt_id, Signal.CHECKPOINT, 0, leader.epoch)

    failed: set[AttemptId] = set()
    for begin in range(0, len(attempt_ids), NOTICES_TOGETHER):
        with snapshot(leader.engine) as session:
            noticed = _noticed_on(session, attempt_ids[begin : begin + NOTICES_TOGETHER])
        unheard = {attempt_id: nodes for attempt_id, (_, nodes) in noticed.items()}
        told = {attempt_id: ends_at for attempt_id, (ends_at, _) in noticed.items()}
        _note_sent(leader, {name: told[name] for name, nodes in unheard.items() if not nodes})
        asked: dict[str, list[AttemptId]] = {}
        for attempt_id, nodes in unheard.items():
            for node in sorted(nodes):
                asked.setdefault(node, []).append(attempt_id)
        for answers in call_nodes(leader, asked, tell):
            log_failures(answers)
            for answer in answers:
                if isinstance(answer.result, ExecutorError):
                    failed.add(answer.attempt_id)
                unheard[answer.attempt_id].discard(answer.node)
            heard = dict.fromkeys(answer.attempt_id for answer in answers)
            done = [name for name in heard if not unheard[name] and name not in failed]
            _note_sent(leader, {name: told[name] for name in done})
    return frozenset(failed)


def _noticed_on(
    session: Session, attempt_ids: Sequence[AttemptId]
) -> dict[AttemptId, tuple[datetime | None, set[str]]]:
    """When the notice of these attempts ends, where one stands, and the nodes that are up and have ranks of it."""
    rows = session.execute(
        select(AttemptRow.id, AttemptRow.ranks, AttemptRow.notice_ends_at)
        .where(
            AttemptRow.id.in_(attempt_ids),
            AttemptRow.reclaimed_by.is_not(None),
            AttemptRow.stop_why.is_(None),
        )
        .order_by(AttemptRow.id)
    ).all()
    down = down_nodes(session)
    return {
        AttemptId(row.id): (
            row.notice_ends_at,
            {str(rank["node"]) for rank in row.ranks if rank["ended_ms"] is None} - down,
        )
        for row in rows
    }


def _note_sent(leader: Leader, told: Mapping[AttemptId, datetime | None]) -> None:
    """Record that notices reached all their nodes; one taken back and given anew meanwhile is another, and unsent."""
    if not told:
        return
    with transaction(leader.engine) as session:
        lease.fence(session, leader.held)
        lock_jobs(session, [*told])
        session.execute(
            update(AttemptRow)
            .where(
                tuple_(AttemptRow.id, AttemptRow.notice_ends_at).in_(list(told.items())),
                AttemptRow.reclaimed_by.is_not(None),
                AttemptRow.notice_sent_at.is_(None),
            )
            .values(notice_sent_at=clock.now()),
            execution_options={"synchronize_session": False},
        )
