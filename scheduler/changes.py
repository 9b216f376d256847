"""Storing what a fact did to a job: rows, allocations, ledger and journal, in the caller's transaction.

`take` is the one way in which a job's state changes: lock, ask the lifecycle, store, journal. Every record carries
the fields that changed (`job`, `attempt`, `ranks`), so that the fold of the journal is the tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from quota import service as quota
from quota.ledger import used_device_seconds
from quota.model import EntryKind, GrantId
from scheduler import lifecycle
from scheduler.facts import (
    Admitted,
    AttemptView,
    CancelRequested,
    CheckpointSeen,
    Effect,
    Fact,
    Finish,
    JobView,
    LaunchCommitted,
    Outcome,
    RankExited,
    RankStarted,
    ReleaseSlots,
    Requeue,
    Settle,
    StopAttempt,
    StopWhy,
)
from scheduler.fields import Fields, checkpoint_of
from scheduler.model import LIVE_STATES, JobId, JobState
from scheduler.rows import at_or_none, attempt_fields, job_fields, job_view, verdict_to_json
from scheduler.tables import AllocationRow, AttemptRow, JobRow
from store import clock, journal
from store.engine import wake

FINISH_KINDS: Final[Mapping[JobState, str]] = {
    JobState.COMPLETED: "job.completed",
    JobState.FAILED: "job.failed",
    JobState.CANCELLED: "job.cancelled",
    JobState.TIMEOUT: "job.timed_out",
    JobState.OUT_OF_MEMORY: "job.out_of_memory",
    JobState.NODE_FAIL: "job.lost_nodes",
}
"""The record of each way in which a job ends."""


def job_of(attempt_id: str) -> JobId:
    """The job of an attempt, by its name."""
    return JobId(int(attempt_id.rpartition("-")[0]))


class UnknownJobError(LookupError):
    """A fact speaks of a job that was never submitted."""

    def __init__(self, job_id: int) -> None:
        super().__init__(f"there is no job {job_id}")
        self.job_id = job_id


@dataclass(slots=True)
class Book:
    """A locked job with its attempt, and what of them the journal has been told so far."""

    session: Session
    job: JobRow
    attempt: AttemptRow | None
    at: datetime
    actor: str
    told_job: Fields
    told_attempt: Fields
    ranks: dict[str, object]
    batch: Batch | None = None

    @classmethod
    def open(cls, session: Session, job_id: JobId, *, at: datetime, actor: str) -> Book:
        """Lock the job's row and read its current attempt.

        Raises:
            UnknownJobError: there is no such job.
        """
        fresh = {"populate_existing": True}
        locked = select(JobRow).where(JobRow.id == job_id).with_for_update().execution_options(**fresh)
        job = session.scalars(locked).one_or_none()
        if job is None:
            raise UnknownJobError(job_id)
        current = lifecycle.attempt_id(job_id, job.attempts)
        attempt = session.scalars(
            select(AttemptRow).where(AttemptRow.id == current).execution_options(**fresh)
        ).one_or_none()
        return cls.of(session, job, attempt, at=at, actor=actor)

    @classmethod
    def of(
        cls, session: Session, job: JobRow, attempt: AttemptRow | None, *, at: datetime, actor: str
    ) -> Book:
        """Take rows that are locked already."""
        told_attempt = {} if attempt is None else attempt_fields(attempt)
        return cls(session, job, attempt, at, actor, job_fields(job), told_attempt, {})

    @property
    def view(self) -> JobView:
        """What the lifecycle sees."""
        return job_view(self.job, self.attempt)

    def enter(self, attempt: AttemptRow) -> None:
        """A new attempt of the job, none of which the journal knows."""
        self.attempt, self.told_attempt = attempt, {}
        self.ranks = {str(number): dict(rank) for number, rank in enumerate(attempt.ranks)}

    def tell(self, kind: str, details: Mapping[str, object] | None = None) -> None:
        """Journal a record about the job with all that changed since the last."""
        data: Fields = dict(details or {})
        job_now = job_fields(self.job)
        data["job"] = {k: v for k, v in job_now.items() if k not in self.told_job or self.told_job[k] != v}
        self.told_job = job_now
        if self.attempt is not None:
            now = attempt_fields(self.attempt)
            told = self.told_attempt
            data["attempt_id"] = self.attempt.id
            data["attempt"] = {k: v for k, v in now.items() if k not in told or told[k] != v}
            data["ranks"] = self.ranks
            self.told_attempt, self.ranks = now, {}
        journal.append(
            self.session, kind, f"job:{self.job.id}", actor=self.actor, at=self.at, data=_without_empty(data)
        )


def _without_empty(data: Fields) -> Fields:
    return {name: value for name, value in data.items() if value != {}}


@dataclass(slots=True)
class Batch:
    """What the facts of one transaction leave to be written together at its end."""

    till: quota.Till
    released: list[str] = field(default_factory=list)
    has_effects: bool = False


def take_all(
    session: Session, facts: Sequence[tuple[JobId, Fact]], *, at: datetime, actor: str
) -> list[Outcome]:
    """`take` for many facts, in their order: rows are locked together, and all is written together.

    Returns:
        An outcome per fact.

    Raises:
        UnknownJobError: there is no such job; then, and below, the transaction has to end without a commit.
        InvalidTransition: a fact cannot happen to its job as it stands.
    """
    books = open_all(session, sorted({job_id for job_id, _ in facts}), at=at, actor=actor)
    grants = {GrantId(book.attempt.grant_id) for book in books.values() if book.attempt is not None}
    batch = Batch(quota.Till(session, grants, at=at, actor=actor))
    with session.no_autoflush, journal.together(session):
        outcomes: list[Outcome] = []
        for job_id, fact in facts:
            books[job_id].batch = batch
            outcomes.append(_take(books[job_id], fact))
        batch.till.close()
        if batch.released:
            _release_all(session, batch.released, at)
    if batch.has_effects:
        wake(session)
    return outcomes


def open_all(session: Session, job_ids: Sequence[JobId], *, at: datetime, actor: str) -> dict[JobId, Book]:
    """Lock jobs in the order of their ids, as everywhere, and read their current attempts."""
    fresh = {"populate_existing": True}
    rows = session.scalars(
        select(JobRow)
        .where(JobRow.id.in_(job_ids))
        .order_by(JobRow.id)
        .with_for_update()
        .execution_options(**fresh)
    ).all()
    unknown = set(job_ids).difference(JobId(row.id) for row in rows)
    if unknown:
        raise UnknownJobError(min(unknown))
    current = [lifecycle.attempt_id(JobId(row.id), row.attempts) for row in rows]
    found = session.scalars(select(AttemptRow).where(AttemptRow.id.in_(current)).execution_options(**fresh))
    attempts = {attempt.job_id: attempt for attempt in found}
    return {JobId(row.id): Book.of(session, row, attempts.get(row.id), at=at, actor=actor) for row in rows}


def _release_all(session: Session, attempts: Sequence[str], at: datetime) -> None:
    """The GPUs of these attempts are free."""
    held = AllocationRow.attempt_id.in_(attempts), AllocationRow.released_at.is_(None)
    session.execute(
        update(AllocationRow).where(*held).values(released_at=at),
        execution_options={"synchronize_session": False},
    )


def take(session: Session, job_id: JobId, fact: Fact, *, at: datetime, actor: str) -> Outcome:
    """Let a fact change a job, in the caller's transaction.

    Args:
        session: the open unit of work; the caller has fenced it where it acts as the scheduler.
        job_id: the job.
        fact: what was observed or asked for.
        at: instant of the change by the platform's clock.
        actor: as the journal names actors.

    Returns:
        The lifecycle's outcome; when it says `ignored`, nothing was written.

    Raises:
        UnknownJobError: there is no such job.
        InvalidTransition: the fact cannot happen to the job as it stands.
    """
    return _take(Book.open(session, job_id, at=at, actor=actor), fact)


def _take(book: Book, fact: Fact) -> Outcome:
    """Let a fact change a locked job."""
    outcome = lifecycle.step(book.view, fact)
    is_first = isinstance(fact, LaunchCommitted) and _mark_dispatched(book, fact)
    if outcome.ignored is None:
        store(book, fact, outcome)
    elif is_first:
        # Its ranks were heard of before the launch's own answer: the charge has begun, the rest is news.
        book.tell("attempt.dispatched")
    return outcome


def _mark_dispatched(book: Book, fact: LaunchCommitted) -> bool:
    """Note that every agent has its lease, once, while the attempt lives."""
    attempt = book.attempt
    is_first = (
        attempt is not None
        and attempt.id == fact.attempt_id
        and attempt.dispatched_at is None
        and JobState(attempt.state) in LIVE_STATES
    )
    if attempt is not None and is_first:
        attempt.dispatched_at = book.at
    return is_first


def store(book: Book, fact: Fact, outcome: Outcome) -> None:
    """Write an outcome that changed something: views, effects, records; and wake the scheduler."""
    _store_views(book, outcome.job)
    if isinstance(fact, RankStarted | RankExited):
        _store_rank(book, fact)
    if isinstance(fact, CheckpointSeen):
        _put_rank(book, fact.rank, {"checkpoint_ms": fact.at_ms})
    _tell_fact(book, fact, outcome)
    for effect in outcome.effects:
        _carry_out(book, fact, effect)
    if book.batch is not None:
        book.batch.has_effects |= bool(outcome.effects)
        return
    book.session.flush()
    if outcome.effects:
        wake(book.session)


def _store_views(book: Book, view: JobView) -> None:
    job = book.job
    job.state = view.state.value
    job.attempts = view.attempts
    job.launch_refusals = view.launch_refusals
    job.node_failures = view.node_failures
    job.is_cancel_requested = view.is_cancel_requested
    if book.attempt is not None and view.attempt is not None:
        _store_attempt(book.attempt, view.attempt)


def _store_attempt(row: AttemptRow, view: AttemptView) -> None:
    row.state = view.state.value
    row.committed_at = at_or_none(view.committed_ms)
    row.stop_why = None if view.stop_why is None else view.stop_why.value
    row.stop_at = at_or_none(view.stop_ms)
    row.verdict = verdict_to_json(view.verdict)


def _store_rank(book: Book, fact: RankStarted | RankExited) -> None:
    attempt = _attempt(book)
    changed: Fields = {}
    started_ms = fact.at_ms if isinstance(fact, RankStarted) else fact.started_ms
    if attempt.ranks[fact.rank]["started_ms"] is None:
        changed["started_ms"] = started_ms
    if isinstance(fact, RankExited):
        changed |= {
            "ended_ms": fact.at_ms,
            "exit_code": fact.exit_code,
            "signal": fact.signal,
            "error": fact.error,
        }
    _put_rank(book, fact.rank, changed)
    if started_ms is not None and attempt.started_at is None:
        attempt.started_at = clock.from_ms(started_ms)
    if started_ms is not None and book.job.first_started_at is None:
        book.job.first_started_at = clock.from_ms(started_ms)


def _put_rank(book: Book, number: int, changed: Fields) -> None:
    attempt = _attempt(book)
    rank = attempt.ranks[number] | changed
    attempt.ranks = [*attempt.ranks[:number], rank, *attempt.ranks[number + 1 :]]
    book.ranks[str(number)] = rank


def _attempt(book: Book) -> AttemptRow:
    if book.attempt is None:
        raise LookupError(
            f"job {book.job.id} has no attempt {book.job.attempts}; its rows were changed by hand"
        )
    return book.attempt


def _tell_fact(book: Book, fact: Fact, outcome: Outcome) -> None:
    """The record of the fact itself; a fact without one is told by its first effect."""
    match fact:
        case LaunchCommitted():
            book.tell("attempt.dispatched")
        case RankStarted():
            book.tell("attempt.started", {"rank": fact.rank})
        case CheckpointSeen():
            book.tell("attempt.checkpointed", {"rank": fact.rank})
        case RankExited():
            details = {"rank": fact.rank, "is_timeout": fact.is_timeout, "is_oom": fact.is_oom}
            book.tell("attempt.exited", details)
        case CancelRequested() if not outcome.effects:
            book.tell("job.cancel_requested")
        case _:
            pass


def _carry_out(book: Book, fact: Fact, effect: Effect) -> None:
    match effect:
        case StopAttempt():
            # Delivered after the commit by the scheduler, which looks for stops that were not sent.
            _attempt(book).stop_sent_at = None
            book.tell("attempt.stopping", {"why": effect.why.value})
        case Settle():
            _settle(book, effect)
        case ReleaseSlots():
            _release(book, fact)
        case Requeue():
            book.job.back_off_until = at_or_none(effect.back_off_until_ms or None)
            book.job.reason, book.job.reason_numbers = None, None
            book.job.preemptions += effect.why is StopWhy.PREEMPTED
            book.tell("job.requeued", {"why": effect.why.value})
        case Finish():
            _finish(book, effect)


def _settle(book: Book, effect: Settle) -> None:
    attempt = _attempt(book)
    settlement = quota.Settlement(
        grant_id=GrantId(attempt.grant_id),
        attempt_id=attempt.id,
        claim_s=attempt.claim_s,
        used_s=effect.used_s,
    )
    entries = (
        quota.settle(book.session, settlement, at=book.at, actor=book.actor)
        if book.batch is None
        else book.batch.till.settle(settlement)
    )
    attempt.used_s = sum(entry.amount_s for entry in entries if entry.kind is EntryKind.POSTED)
    book.job.gpu_seconds += attempt.used_s
    if attempt.stop_why == StopWhy.PREEMPTED.value:
        _refund(book, attempt, effect.until_ms)


def _refund(book: Book, attempt: AttemptRow, until_ms: int) -> None:
    """Give back the work that a reclaim cost, up to the policy's cap at the notice.

    Lost is what was charged since the last checkpoint that its agents saw, or since its start.
    """
    charged_s = attempt.used_s or 0
    saved_ms = checkpoint_of(attempt.ranks)
    if saved_ms is not None:
        since_s = used_device_seconds(book.job.gpus, saved_ms, until_ms, book.job.walltime_s)
        charged_s = min(charged_s, since_s)
    lost_s = min(charged_s, book.job.gpus * attempt.refund_cap_s)
    if lost_s:
        grant_id = GrantId(attempt.grant_id)
        if book.batch is None:
            quota.refund(book.session, grant_id, attempt.id, lost_s, at=book.at, actor=book.actor)
        else:
            book.batch.till.refund(grant_id, attempt.id, lost_s)
        attempt.refunded_s = lost_s
        book.job.gpu_seconds -= lost_s


def _release(book: Book, fact: Fact) -> None:
    attempt = _attempt(book)
    ended_ms = [end for rank in attempt.ranks if isinstance(end := rank["ended_ms"], int)]
    at_ms = fact.committed_ms if isinstance(fact, LaunchCommitted) else fact.at_ms
    attempt.ended_at = clock.from_ms(max(ended_ms, default=at_ms))
    if book.batch is None:
        _release_all(book.session, [attempt.id], book.at)
    else:
        book.batch.released.append(attempt.id)
    book.tell("attempt.ended")


def _finish(book: Book, effect: Finish) -> None:
    job, verdict = book.job, effect.verdict
    job.exit_code, job.exit_signal, job.exit_error = verdict.exit_code, verdict.signal, verdict.error
    job.finished_at = clock.from_ms(clock.to_ms(book.at))
    job.reason, job.reason_numbers, job.back_off_until, job.reservation = None, None, None, None
    book.tell(FINISH_KINDS[verdict.state])


def admit(book: Book, attempt: AttemptRow, fact: Admitted) -> None:
    """Store an admission: the new attempt, the job's state, one record.

    Raises:
        InvalidTransition: the job does not wait.
    """
    outcome = lifecycle.step(book.view, fact)
    if outcome.ignored is not None:
        raise lifecycle.InvalidTransition(book.view, fact, outcome.ignored)
    book.session.add(attempt)
    book.enter(attempt)
    _store_views(book, outcome.job)
    book.job.reason, book.job.reason_numbers, book.job.back_off_until = None, None, None
    book.job.reservation = None
    book.session.flush()
    book.tell("job.admitted")
