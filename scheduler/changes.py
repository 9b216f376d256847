"""Storing what a fact did to a job: rows, allocations, ledger and journal, in the caller's transaction.

`take_all` is the one way in which a job's state changes: lock, ask the lifecycle, store, journal. Every record carries
the fields that changed (`job`, `attempt`, `ranks`), so that the fold of the journal is the tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from sqlalchemy import update
from sqlalchemy.orm import Session

from quota import service as quota
from quota.ledger import used_device_seconds
from quota.model import EntryKind, GrantId
from scheduler import lifecycle
from scheduler.facts import (
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
from scheduler.open_jobs import OpenJob, OpenJobs, UnknownJobError, job_of
from scheduler.rows import at_or_none, verdict_to_json
from scheduler.tables import AllocationRow, AttemptRow
from store import clock, journal
from store.engine import wake

__all__ = ["FINISH_KINDS", "UnknownJobError", "Work", "job_of", "take", "take_all"]

FINISH_KINDS: Final[Mapping[JobState, str]] = {
    JobState.COMPLETED: "job.completed",
    JobState.FAILED: "job.failed",
    JobState.CANCELLED: "job.cancelled",
    JobState.TIMEOUT: "job.timed_out",
    JobState.OUT_OF_MEMORY: "job.out_of_memory",
    JobState.NODE_FAIL: "job.lost_nodes",
}
"""The record of each way in which a job ends."""


def take_all(
    session: Session, facts: Sequence[tuple[JobId, Fact]], *, at: datetime, actor: str
) -> list[Outcome]:
    """Let facts change their jobs, in their order, in the caller's transaction: rows are locked and written together.

    Args:
        session: the open unit of work; the caller has fenced it where it acts as the scheduler.
        facts: jobs, and what was observed or asked for of each.
        at: instant of the changes by the platform's clock.
        actor: as the journal names actors.

    Returns:
        The lifecycle's outcome for each; where it says `ignored`, nothing was written.

    Raises:
        UnknownJobError: there is no such job; then, and below, the transaction has to end without a commit.
        InvalidTransition: a fact cannot happen to its job as it stands.
    """
    work = Work(OpenJobs(session, {job_id for job_id, _ in facts}, at=at, actor=actor))
    with journal.together(session):
        outcomes = [_take(work, work.jobs[job_id], fact) for job_id, fact in facts]
        work.close()
    return outcomes


def take(session: Session, job_id: JobId, fact: Fact, *, at: datetime, actor: str) -> Outcome:
    """`take_all` for one fact."""
    return take_all(session, [(job_id, fact)], at=at, actor=actor)[0]


@dataclass(slots=True)
class Work:
    """What the facts of one transaction change, and what is left to be written together at its end."""

    jobs: OpenJobs
    released: list[str] = field(default_factory=list)
    has_effects: bool = False
    _till: quota.Till | None = None

    @property
    def till(self) -> quota.Till:
        """The till over every grant of these jobs; opened, and its balances locked, when something is settled."""
        if self._till is None:
            jobs = self.jobs
            grants = {GrantId(one.attempt.grant_id) for one in jobs.values() if one.attempt is not None}
            self._till = quota.Till(jobs.session, grants, at=jobs.at, actor=jobs.actor)
        return self._till

    def close(self) -> None:
        """Write all of it, and wake the scheduler where it has something to do."""
        jobs = self.jobs
        jobs.write()
        if self._till is not None:
            self._till.close()
        if self.released:
            held = AllocationRow.attempt_id.in_(self.released), AllocationRow.released_at.is_(None)
            jobs.session.execute(
                update(AllocationRow).where(*held).values(released_at=jobs.at),
                execution_options={"synchronize_session": False},
            )
        if self.has_effects:
            wake(jobs.session)


def _take(work: Work, one: OpenJob, fact: Fact) -> Outcome:
    """Let a fact change a locked job."""
    outcome = lifecycle.step(one.view, fact)
    is_first = isinstance(fact, LaunchCommitted) and _mark_dispatched(one, fact, work.jobs.at)
    if outcome.ignored is None:
        _store(work, one, fact, outcome)
    elif is_first:
        # Its ranks were heard of before the launch's own answer: the charge has begun, the rest is news.
        work.jobs.tell(one, "attempt.dispatched")
    return outcome


def _mark_dispatched(one: OpenJob, fact: LaunchCommitted, at: datetime) -> bool:
    """Note that every agent has its lease, once, while the attempt lives."""
    attempt = one.attempt
    is_first = (
        attempt is not None
        and attempt.id == fact.attempt_id
        and attempt.dispatched_at is None
        and JobState(attempt.state) in LIVE_STATES
    )
    if attempt is not None and is_first:
        attempt.dispatched_at = at
    return is_first


def _store(work: Work, one: OpenJob, fact: Fact, outcome: Outcome) -> None:
    """Store an outcome that changed something: views, effects, records."""
    _store_views(one, outcome.job)
    if isinstance(fact, RankStarted | RankExited):
        _store_rank(one, fact)
    if isinstance(fact, CheckpointSeen):
        _put_rank(one, fact.rank, {"checkpoint_ms": fact.at_ms})
    _tell_fact(work, one, fact, outcome)
    for effect in outcome.effects:
        _carry_out(work, one, fact, effect)
    work.has_effects |= bool(outcome.effects)


def _store_views(one: OpenJob, view: JobView) -> None:
    before, one.view = one.view, view
    job = one.job
    job.state = view.state.value
    job.attempts = view.attempts
    job.launch_refusals = view.launch_refusals
    job.node_failures = view.node_failures
    job.is_cancel_requested = view.is_cancel_requested
    if one.attempt is not None and view.attempt is not None and before.attempt is not None:
        _store_attempt(one.attempt, before.attempt, view.attempt)


def _store_attempt(row: AttemptRow, before: AttemptView, view: AttemptView) -> None:
    """What the lifecycle changed; instants and verdicts that it left alone stay the very values that were read."""
    row.state = view.state.value
    if view.committed_ms != before.committed_ms:
        row.committed_at = at_or_none(view.committed_ms)
    if view.stop_ms != before.stop_ms:
        row.stop_at = at_or_none(view.stop_ms)
    if view.verdict != before.verdict:
        row.verdict = verdict_to_json(view.verdict)
    row.stop_why = None if view.stop_why is None else view.stop_why.value


def _store_rank(one: OpenJob, fact: RankStarted | RankExited) -> None:
    attempt = _attempt(one)
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
    _put_rank(one, fact.rank, changed)
    if started_ms is not None and attempt.started_at is None:
        attempt.started_at = clock.from_ms(started_ms)
    if started_ms is not None and one.job.first_started_at is None:
        one.job.first_started_at = clock.from_ms(started_ms)


def _put_rank(one: OpenJob, number: int, changed: Fields) -> None:
    attempt = _attempt(one)
    rank = attempt.ranks[number] | changed
    attempt.ranks = [*attempt.ranks[:number], rank, *attempt.ranks[number + 1 :]]
    one.ranks[str(number)] = rank


def _attempt(one: OpenJob) -> AttemptRow:
    if one.attempt is None:
        raise LookupError(
            f"job {one.job.id} has no attempt {one.job.attempts}; its rows were changed by hand"
        )
    return one.attempt


def _tell_fact(work: Work, one: OpenJob, fact: Fact, outcome: Outcome) -> None:
    """The record of the fact itself; a fact without one is told by its first effect."""
    match fact:
        case LaunchCommitted():
            work.jobs.tell(one, "attempt.dispatched")
        case RankStarted():
            work.jobs.tell(one, "attempt.started", {"rank": fact.rank})
        case CheckpointSeen():
            work.jobs.tell(one, "attempt.checkpointed", {"rank": fact.rank})
        case RankExited():
            details = {"rank": fact.rank, "is_timeout": fact.is_timeout, "is_oom": fact.is_oom}
            work.jobs.tell(one, "attempt.exited", details)
        case CancelRequested() if not outcome.effects:
            work.jobs.tell(one, "job.cancel_requested")
        case _:
            pass


def _carry_out(work: Work, one: OpenJob, fact: Fact, effect: Effect) -> None:
    match effect:
        case StopAttempt():
            # Delivered after the commit by the scheduler, which looks for stops that were not sent.
            _attempt(one).stop_sent_at = None
            work.jobs.tell(one, "attempt.stopping", {"why": effect.why.value})
        case Settle():
            _settle(work, one, effect)
        case ReleaseSlots():
            _release(work, one, fact)
        case Requeue():
            one.job.back_off_until = at_or_none(effect.back_off_until_ms or None)
            one.job.reason, one.job.reason_numbers = None, None
            one.job.preemptions += effect.why is StopWhy.PREEMPTED
            work.jobs.tell(one, "job.requeued", {"why": effect.why.value})
        case Finish():
            _finish(work, one, effect)


def _settle(work: Work, one: OpenJob, effect: Settle) -> None:
    attempt = _attempt(one)
    settlement = quota.Settlement(
        grant_id=GrantId(attempt.grant_id),
        attempt_id=attempt.id,
        claim_s=attempt.claim_s,
        used_s=effect.used_s,
    )
    entries = work.till.settle(settlement)
    attempt.used_s = sum(entry.amount_s for entry in entries if entry.kind is EntryKind.POSTED)
    one.job.gpu_seconds += attempt.used_s
    if attempt.stop_why == StopWhy.PREEMPTED.value:
        _refund(work, one, effect.until_ms)


def _refund(work: Work, one: OpenJob, until_ms: int) -> None:
    """Give back the work that a reclaim cost, up to the policy's cap at the notice.

    Lost is what was charged since the last checkpoint that its agents saw, or since its start.
    """
    attempt, job = _attempt(one), one.job
    charged_s = attempt.used_s or 0
    saved_ms = checkpoint_of(attempt.ranks)
    if saved_ms is not None:
        charged_s = min(charged_s, used_device_seconds(job.gpus, saved_ms, until_ms, job.walltime_s))
    lost_s = min(charged_s, job.gpus * attempt.refund_cap_s)
    if lost_s:
        work.till.refund(GrantId(attempt.grant_id), attempt.id, lost_s)
        attempt.refunded_s = lost_s
        job.gpu_seconds -= lost_s


def _release(work: Work, one: OpenJob, fact: Fact) -> None:
    attempt = _attempt(one)
    ended_ms = [end for rank in attempt.ranks if isinstance(end := rank["ended_ms"], int)]
    at_ms = fact.committed_ms if isinstance(fact, LaunchCommitted) else fact.at_ms
    attempt.ended_at = clock.from_ms(max(ended_ms, default=at_ms))
    work.released.append(attempt.id)
    work.jobs.tell(one, "attempt.ended")


def _finish(work: Work, one: OpenJob, effect: Finish) -> None:
    job, verdict = one.job, effect.verdict
    job.exit_code, job.exit_signal, job.exit_error = verdict.exit_code, verdict.signal, verdict.error
    job.finished_at = clock.from_ms(clock.to_ms(work.jobs.at))
    job.reason, job.reason_numbers, job.back_off_until, job.reservation = None, None, None, None
    work.jobs.tell(one, FINISH_KINDS[verdict.state])
