"""The life of a job as a table: (state, fact) -> new state and effects.

Facts may come late, twice and out of order: those are ignored and say why. A fact that cannot be raises
`InvalidTransition` with the whole story. GPUs are free only when absence is proven: every rank's exit has
arrived, or `AbsenceProven` has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeVar, cast

from quota.frozen import replace
from scheduler.ending import attempt_of, end_attempt
from scheduler.facts import (
    AbsenceProven,
    Admitted,
    AttemptView,
    CancelRequested,
    CheckpointSeen,
    ExpireRequested,
    Fact,
    Finish,
    GraceEnded,
    IdleFound,
    JobView,
    LaunchCommitted,
    LaunchRefused,
    NodeLost,
    Outcome,
    PlatformStopping,
    RankExited,
    RankStarted,
    RankView,
    StopAttempt,
    StopSignal,
    StopWhy,
    Verdict,
)
from scheduler.model import FINAL_STATES, AttemptId, JobId, JobState

KILL_AFTER_S: Final = 30
"""Seconds from SIGTERM to SIGKILL. Source: Slurm's default KillWait (slurm.conf(5))."""

IDLE_ERROR: Final = "IDLE"
"""Code of a job that the idle policy ended: its end is a cancellation, this says whose and why."""
NODE_FAULTS: Final = frozenset({"SHEPHERD_LOST", "SHEPHERD_FAILED"})
"""Errors of a rank that are its node's, not its program's: the job is tried elsewhere."""
OUTPUT_FAULTS: Final = frozenset({"OUTPUTS_TRUNCATED", "OUTPUTS_FAILED"})
"""Errors in keeping a rank's outputs: told with the result, but the program's own exit decides."""


class InvalidTransition(RuntimeError):  # noqa: N818 - the name the design gives it
    """A fact that cannot happen to the job as it stands: a broken rule of the platform, not of a user.

    Args:
        job: the job before the fact.
        fact: the fact.
        why: what makes it impossible.
    """

    def __init__(self, job: JobView, fact: Fact, why: str) -> None:
        super().__init__(f"job {job.id} in {job.state} cannot take {fact}: {why}; its story: {job}")
        self.job = job
        self.fact = fact
        self.why = why


def attempt_id(job_id: JobId, number: int) -> AttemptId:
    """Name of a job's attempt, numbered from 1."""
    return AttemptId(f"{job_id}-{number}")


def step(job: JobView, fact: Fact) -> Outcome:
    """What the fact does to the job.

    Raises:
        InvalidTransition: the fact cannot happen in this state, or speaks of an attempt or a rank that the
            job never had.
    """
    stale = _stale(job, fact)
    if stale is not None:
        return Outcome(job, ignored=stale)
    row = _FINAL if job.state in FINAL_STATES else _TABLE.get(job.state, {})
    entry = row.get(type(fact))
    if entry is None:
        raise InvalidTransition(job, fact, "the table has no such transition")
    return Outcome(job, ignored=entry) if isinstance(entry, str) else entry(job, fact)


def _stale(job: JobView, fact: Fact) -> str | None:
    """Why a fact of another attempt than the current one changes nothing; None when it is of this one."""
    if isinstance(fact, CancelRequested | NodeLost):
        return None
    owner, _, number = fact.attempt_id.rpartition("-")
    if owner != str(job.id) or not number.isdecimal():
        raise InvalidTransition(job, fact, "the attempt is another job's")
    if isinstance(fact, Admitted):
        return "duplicate" if int(number) <= job.attempts else None
    if int(number) > job.attempts:
        raise InvalidTransition(job, fact, "the attempt was never admitted")
    is_current = int(number) == job.attempts and job.attempt is not None
    if (
        isinstance(fact, RankStarted | CheckpointSeen | RankExited)
        and is_current
        and fact.rank >= len(attempt_of(job).ranks)
    ):
        raise InvalidTransition(job, fact, "the attempt has no such rank")
    return None if is_current and job.state is not JobState.PENDING else "stale_attempt"


def _admitted(job: JobView, fact: Admitted) -> Outcome:
    if fact.attempt_id != attempt_id(job.id, job.attempts + 1):
        raise InvalidTransition(job, fact, f"the next attempt is {attempt_id(job.id, job.attempts + 1)}")
    attempt = AttemptView(
        id=fact.attempt_id,
        state=JobState.ADMITTED,
        gpus=fact.gpus,
        walltime_s=fact.walltime_s,
        ranks=tuple(RankView(node) for node in fact.nodes),
    )
    return Outcome(replace(job, state=JobState.ADMITTED, attempts=job.attempts + 1, attempt=attempt))


def _cancelled_waiting(job: JobView, _fact: CancelRequested) -> Outcome:
    verdict = Verdict(JobState.CANCELLED)
    return Outcome(replace(job, state=verdict.state, is_cancel_requested=True), (Finish(verdict),))


def _committed(job: JobView, fact: LaunchCommitted) -> Outcome:
    attempt = attempt_of(job)
    if attempt.committed_ms is not None and attempt.committed_ms <= fact.committed_ms:
        return Outcome(job, ignored="duplicate")
    attempt = replace(attempt, committed_ms=fact.committed_ms)
    # A stop that was sent before the lease arrived met no rank: it has to be sent again.
    effects = () if attempt.stop_why is None else (_stop_effect(attempt.id, attempt.stop_why),)
    return Outcome(replace(job, launch_refusals=0, attempt=attempt), effects)


def _refused(job: JobView, fact: LaunchRefused) -> Outcome:
    verdict = Verdict(JobState.FAILED, error=fact.code)
    if not fact.is_absent:
        return _stopping(job, StopWhy.LAUNCH_REFUSED, verdict, fact.at_ms)
    attempt = replace(attempt_of(job), stop_why=StopWhy.LAUNCH_REFUSED, stop_ms=fact.at_ms, verdict=verdict)
    return end_attempt(replace(job, attempt=attempt), fact.at_ms)


def _refused_stopping(job: JobView, fact: LaunchRefused) -> Outcome:
    # What stops the attempt came first; the refusal only tells whether anything is left to wait for.
    return end_attempt(job, fact.at_ms) if fact.is_absent else Outcome(job, ignored="already_stopping")


def _started(job: JobView, fact: RankStarted) -> Outcome:
    attempt = attempt_of(job)
    rank = attempt.ranks[fact.rank]
    if rank.ended_ms is not None:
        return Outcome(job, ignored="out_of_order")
    if rank.is_started:
        return Outcome(job, ignored="duplicate")
    attempt = _with_rank(attempt, fact.rank, replace(rank, is_started=True), fact.at_ms)
    if attempt.stop_why is not None:
        return Outcome(replace(job, attempt=attempt), (_stop_effect(attempt.id, attempt.stop_why),))
    attempt = replace(attempt, state=JobState.RUNNING)
    return Outcome(replace(job, state=JobState.RUNNING, launch_refusals=0, attempt=attempt))


def _checkpointed(job: JobView, fact: CheckpointSeen) -> Outcome:
    attempt = attempt_of(job)
    rank = attempt.ranks[fact.rank]
    if rank.ended_ms is not None:
        return Outcome(job, ignored="out_of_order")
    if rank.checkpoint_ms is not None and rank.checkpoint_ms >= fact.at_ms:
        return Outcome(job, ignored="duplicate")
    ranks = (
        *attempt.ranks[: fact.rank],
        replace(rank, checkpoint_ms=fact.at_ms),
        *attempt.ranks[fact.rank + 1 :],
    )
    return Outcome(replace(job, attempt=replace(attempt, ranks=ranks)))


def _exited(job: JobView, fact: RankExited) -> Outcome:
    attempt = attempt_of(job)
    rank = attempt.ranks[fact.rank]
    if rank.ended_ms is not None:
        return Outcome(job, ignored="duplicate")
    ended = replace(
        rank,
        is_started=rank.is_started or fact.started_ms is not None,
        ended_ms=fact.at_ms,
        exit_code=fact.exit_code,
        error=fact.error,
    )
    committed_ms = fact.at_ms if fact.started_ms is None else fact.started_ms
    attempt = _with_rank(attempt, fact.rank, ended, committed_ms)
    state = job.state
    if state is JobState.ADMITTED:  # its start was not reported, or will be later
        state = JobState.RUNNING
        attempt = replace(attempt, state=state)
    job = replace(job, state=state, launch_refusals=0, attempt=attempt)
    failure = _failure(fact)
    is_last = all(rank.ended_ms is not None for rank in attempt.ranks)
    if failure is None or attempt.stop_why is not None:
        return end_attempt(job, fact.at_ms) if is_last else Outcome(job)
    why, verdict = failure
    stopping = _stopping(job, why, verdict, fact.at_ms)
    return end_attempt(stopping.job, fact.at_ms) if is_last else stopping


def _failure(fact: RankExited) -> tuple[StopWhy, Verdict] | None:
    """Why the other ranks must stop and how the attempt then ends; None for a rank that ended well."""
    error = None if fact.error in OUTPUT_FAULTS else fact.error
    if error in NODE_FAULTS:
        return StopWhy.NODE_LOST, Verdict(JobState.NODE_FAIL, error=error)
    if fact.is_timeout:
        return StopWhy.WALLTIME, Verdict(JobState.TIMEOUT, fact.exit_code, fact.signal)
    if fact.is_oom:
        return StopWhy.RANK_FAILED, Verdict(JobState.OUT_OF_MEMORY, fact.exit_code, fact.signal)
    if error is not None or fact.signal is not None or fact.exit_code != 0:
        return StopWhy.RANK_FAILED, Verdict(JobState.FAILED, fact.exit_code, fact.signal, fact.error)
    return None


def _cancelled(job: JobView, fact: CancelRequested) -> Outcome:
    return _stopping(
        replace(job, is_cancel_requested=True), StopWhy.CANCELLED, Verdict(JobState.CANCELLED), fact.at_ms
    )


def _cancelled_stopping(job: JobView, _fact: CancelRequested) -> Outcome:
    if job.is_cancel_requested:
        return Outcome(job, ignored="already_stopping")
    # How the attempt ends is settled by what came first; but the job is not tried again.
    return Outcome(replace(job, is_cancel_requested=True))


def _expired(job: JobView, fact: ExpireRequested) -> Outcome:
    if attempt_of(job).committed_ms is None:
        raise InvalidTransition(job, fact, "its launch is not committed, so no walltime runs")
    return _stopping(job, StopWhy.WALLTIME, Verdict(JobState.TIMEOUT), fact.at_ms)


def _node_lost(job: JobView, fact: NodeLost) -> Outcome:
    on_node = [rank for rank in attempt_of(job).ranks if rank.node == fact.node]
    if not on_node:
        return Outcome(job, ignored="not_on_node")
    if all(rank.ended_ms is not None for rank in on_node):
        return Outcome(job, ignored="already_ended")
    return _stopping(job, StopWhy.NODE_LOST, Verdict(JobState.NODE_FAIL), fact.at_ms)


def _platform_stopping(job: JobView, fact: PlatformStopping) -> Outcome:
    return _stopping(job, StopWhy.PLATFORM_STOPPED, Verdict(JobState.NODE_FAIL), fact.at_ms)


def _idle(job: JobView, fact: IdleFound) -> Outcome:
    verdict = Verdict(JobState.CANCELLED, error=IDLE_ERROR)
    return _stopping(replace(job, is_cancel_requested=True), StopWhy.IDLE, verdict, fact.at_ms)


def _grace_ended(job: JobView, fact: GraceEnded) -> Outcome:
    return _stopping(job, StopWhy.PREEMPTED, Verdict(JobState.PREEMPTED), fact.at_ms)


def _absent(job: JobView, fact: AbsenceProven) -> Outcome:
    if attempt_of(job).stop_why is None:
        # Ranks vanished without a word: that is their nodes' doing.
        attempt = replace(
            attempt_of(job),
            stop_why=StopWhy.NODE_LOST,
            stop_ms=fact.at_ms,
            verdict=Verdict(JobState.NODE_FAIL),
        )
        job = replace(job, attempt=attempt)
    return end_attempt(job, fact.at_ms)


def _stop_effect(attempt: AttemptId, why: StopWhy) -> StopAttempt:
    return StopAttempt(attempt, StopSignal.TERM, KILL_AFTER_S, why)


def _stopping(job: JobView, why: StopWhy, verdict: Verdict, at_ms: int) -> Outcome:
    """Stop every rank that is left; the cause and its verdict stand from now on."""
    attempt = replace(
        attempt_of(job), state=JobState.COMPLETING, stop_why=why, stop_ms=at_ms, verdict=verdict
    )
    return Outcome(replace(job, state=JobState.COMPLETING, attempt=attempt), (_stop_effect(attempt.id, why),))


def _with_rank(attempt: AttemptView, number: int, rank: RankView, started_ms: int) -> AttemptView:
    """The attempt with one rank changed; a rank that runs proves a commit, should that not be known yet."""
    ranks = (*attempt.ranks[:number], rank, *attempt.ranks[number + 1 :])
    committed_ms = started_ms if attempt.committed_ms is None else attempt.committed_ms
    return replace(attempt, ranks=ranks, committed_ms=committed_ms)


Handler = Callable[[JobView, Fact], Outcome]
F = TypeVar("F", bound=Fact)


def _on(handler: Callable[[JobView, F], Outcome]) -> Handler:
    """A handler as the table holds it: `step` looks it up by the type of the fact it is given."""
    return cast("Handler", handler)


_TABLE: Final[Mapping[JobState, Mapping[type, Handler | str]]] = {
    JobState.PENDING: {
        Admitted: _on(_admitted),
        CancelRequested: _on(_cancelled_waiting),
        NodeLost: "not_running",
    },
    JobState.ADMITTED: {
        LaunchCommitted: _on(_committed),
        LaunchRefused: _on(_refused),
        RankStarted: _on(_started),
        CheckpointSeen: _on(_checkpointed),
        RankExited: _on(_exited),
        CancelRequested: _on(_cancelled),
        ExpireRequested: _on(_expired),
        NodeLost: _on(_node_lost),
        AbsenceProven: _on(_absent),
        PlatformStopping: _on(_platform_stopping),
        IdleFound: _on(_idle),
        GraceEnded: _on(_grace_ended),
    },
    JobState.RUNNING: {
        LaunchCommitted: _on(_committed),
        LaunchRefused: _on(_refused),
        RankStarted: _on(_started),
        CheckpointSeen: _on(_checkpointed),
        RankExited: _on(_exited),
        CancelRequested: _on(_cancelled),
        ExpireRequested: _on(_expired),
        NodeLost: _on(_node_lost),
        AbsenceProven: _on(_absent),
        PlatformStopping: _on(_platform_stopping),
        IdleFound: _on(_idle),
        GraceEnded: _on(_grace_ended),
    },
    JobState.COMPLETING: {
        LaunchCommitted: _on(_committed),
        LaunchRefused: _on(_refused_stopping),
        RankStarted: _on(_started),
        CheckpointSeen: _on(_checkpointed),
        RankExited: _on(_exited),
        CancelRequested: _on(_cancelled_stopping),
        ExpireRequested: "already_stopping",
        NodeLost: "already_stopping",
        AbsenceProven: _on(_absent),
        PlatformStopping: "already_stopping",
        IdleFound: "already_stopping",
        GraceEnded: "already_stopping",
    },
}
"""What each fact does in each state; a word says why it changes nothing; what is missing cannot happen."""

_FINAL: Final[Mapping[type, str]] = {
    LaunchCommitted: "already_ended",
    LaunchRefused: "already_ended",
    RankStarted: "already_ended",
    RankExited: "already_ended",
    CancelRequested: "already_ended",
    ExpireRequested: "already_ended",
    NodeLost: "already_ended",
    CheckpointSeen: "already_ended",
    AbsenceProven: "already_ended",
    PlatformStopping: "already_ended",
    IdleFound: "already_ended",
    GraceEnded: "already_ended",
}
"""A job that ended takes no fact any more; only another admission would be a broken rule."""
