"""How an attempt ends: its verdict, what it is charged until, and whether its job waits again or is finished."""

from __future__ import annotations

from typing import Final, cast

from quota.frozen import replace
from quota.ledger import used_device_seconds
from scheduler.facts import (
    AttemptView,
    Effect,
    Finish,
    JobView,
    Outcome,
    ReleaseSlots,
    Requeue,
    Settle,
    StopWhy,
    Verdict,
)
from scheduler.model import JobState

NODE_FAIL_RETRY_LIMIT: Final = 3
"""Times a job goes back to waiting after it lost a node; a job that kills its nodes must end."""
LAUNCH_RETRY_LIMIT: Final = 5
"""Times in a row a refused launch is tried again; what refuses longer needs a person."""
BACK_OFF_BASE_S: Final = 5
"""Seconds of the first back-off after a refused launch; it doubles with each."""
BACK_OFF_MAX_S: Final = 300
"""Longest back-off in seconds: a mended cluster is used again within five minutes."""
FINAL_CODES: Final = frozenset(
    {
        "EXEC_NOT_FOUND",
        "EXEC_NOT_EXECUTABLE",
        "EXEC_FAILED",
        "BUNDLE_INVALID",
        "DIGEST_MISMATCH",
        "BAD_REQUEST",
    }
)
"""Launch refusals that the next try would meet again: the job fails at once."""


def back_off_s(refusals: int) -> int:
    """Seconds to wait after that many refused launches in a row, 1 or more: doubling, bounded."""
    return int(min(BACK_OFF_MAX_S, BACK_OFF_BASE_S * 2 ** (min(refusals, LAUNCH_RETRY_LIMIT * 2) - 1)))


def attempt_of(job: JobView) -> AttemptView:
    """The current attempt of a job that the table says has one."""
    return cast("AttemptView", job.attempt)


def end_attempt(job: JobView, at_ms: int) -> Outcome:
    """Absence is proven: settle, release, and finish the job or let it wait again."""
    attempt = attempt_of(job)
    verdict = _verdict(attempt)
    until_ms = _charged_until_ms(attempt, verdict, at_ms)
    used_s = (
        0
        if attempt.committed_ms is None
        else used_device_seconds(attempt.gpus, attempt.committed_ms, until_ms, attempt.walltime_s)
    )
    effects: tuple[Effect, ...] = (Settle(attempt.id, used_s, until_ms), ReleaseSlots(attempt.id))
    job = replace(job, attempt=replace(attempt, state=verdict.state, verdict=verdict))
    if verdict.state is JobState.NODE_FAIL:
        is_failure = attempt.stop_why is not StopWhy.PLATFORM_STOPPED
        job = replace(job, node_failures=job.node_failures + is_failure)
        is_tried_again = job.node_failures <= NODE_FAIL_RETRY_LIMIT
        back_off_until_ms = 0
    elif verdict.state is JobState.PREEMPTED:
        is_tried_again, back_off_until_ms = True, 0
    else:
        is_refused = attempt.stop_why is StopWhy.LAUNCH_REFUSED
        job = replace(job, launch_refusals=job.launch_refusals + is_refused)
        is_tried_again = (
            is_refused and verdict.error not in FINAL_CODES and job.launch_refusals <= LAUNCH_RETRY_LIMIT
        )
        back_off_until_ms = at_ms + back_off_s(job.launch_refusals) * 1_000 if is_refused else 0
    if is_tried_again and not job.is_cancel_requested:
        why = attempt.stop_why or StopWhy.NODE_LOST
        return Outcome(replace(job, state=JobState.PENDING), (*effects, Requeue(back_off_until_ms, why)))
    if is_tried_again:
        verdict = Verdict(JobState.CANCELLED)
    return Outcome(replace(job, state=verdict.state), (*effects, Finish(verdict)))


def _verdict(attempt: AttemptView) -> Verdict:
    """How the attempt ended: as its first cause says; well, when every rank did."""
    is_well = all(rank.ended_ms is not None and rank.exit_code == 0 for rank in attempt.ranks)
    is_node_only = attempt.verdict == Verdict(JobState.NODE_FAIL)
    if attempt.verdict is not None and not (is_well and is_node_only):
        return attempt.verdict
    # A node that was only out of sight let its ranks finish: their work counts.
    faults = [rank.error for rank in attempt.ranks if rank.error is not None]
    return Verdict(JobState.COMPLETED, exit_code=0, error=faults[0] if faults else None)


def _charged_until_ms(attempt: AttemptView, verdict: Verdict, at_ms: int) -> int:
    """End of the charge: the last exit, or the decision to stop; clean-up is the platform's own cost."""
    if attempt.stop_ms is not None and verdict.state is not JobState.COMPLETED:
        return attempt.stop_ms
    return max((rank.ended_ms for rank in attempt.ranks if rank.ended_ms is not None), default=at_ms)
