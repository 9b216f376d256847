"""What the lifecycle of a job reads and says: views of job, attempt and rank; facts in; effects out.

Facts are what was observed or asked for, each with its instant (`at_ms`, milliseconds since the epoch, UTC);
effects are what the shell has to do in the transaction that stores the new views.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from scheduler.model import AttemptId, JobId, JobState


class StopWhy(StrEnum):
    """Why an attempt is being stopped; the first cause stands, whatever follows from it."""

    CANCELLED = "cancelled"
    WALLTIME = "walltime"
    RANK_FAILED = "rank_failed"
    NODE_LOST = "node_lost"
    LAUNCH_REFUSED = "launch_refused"
    PLATFORM_STOPPED = "platform_stopped"
    IDLE = "idle"
    PREEMPTED = "preempted"


class StopSignal(StrEnum):
    """What the ranks of an attempt are told."""

    TERM = "term"
    KILL = "kill"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How an attempt ends, and what is told of it.

    Args:
        state: a final state; NODE_FAIL and a refused launch may still send the job back to waiting.
        exit_code: of the rank that decided, where it exited.
        signal: that ended the rank that decided, where one did.
        error: stable code where a rank or its launch failed otherwise, such as EXEC_NOT_FOUND.
    """

    state: JobState
    exit_code: int | None = None
    signal: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class RankView:
    """One rank of an attempt: where it is and whether it ended. `exit_code` may be None after a signal.

    `checkpoint_ms` is the last checkpoint that its agent saw.
    """

    node: str
    is_started: bool = False
    ended_ms: int | None = None
    exit_code: int | None = None
    error: str | None = None
    checkpoint_ms: int | None = None


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One execution of a job. `ranks` in rank order, one per slot.

    Args:
        stop_why: set once the attempt is being stopped; then `stop_ms` ends the charge.
        verdict: set with `stop_why`, by whatever came first.
    """

    id: AttemptId
    state: JobState
    gpus: int
    walltime_s: int
    ranks: tuple[RankView, ...]
    committed_ms: int | None = None
    stop_why: StopWhy | None = None
    stop_ms: int | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as its lifecycle sees it.

    Args:
        attempts: attempts admitted so far, the current one included.
        launch_refusals: attempts since the last that was launched whose launch was refused.
        node_failures: attempts that ended in NODE_FAIL.
        is_cancel_requested: someone cancelled it; it is not tried again.
        attempt: the current or last attempt, None before the first.
    """

    id: JobId
    state: JobState
    attempts: int = 0
    launch_refusals: int = 0
    node_failures: int = 0
    is_cancel_requested: bool = False
    attempt: AttemptView | None = None


@dataclass(frozen=True, slots=True)
class Admitted:
    """The plan gave the job its GPUs; `nodes` in rank order."""

    attempt_id: AttemptId
    gpus: int
    walltime_s: int
    nodes: tuple[str, ...]
    at_ms: int


@dataclass(frozen=True, slots=True)
class LaunchCommitted:
    """Every agent of the attempt has its lease. The charge starts at `committed_ms`, the last agent's."""

    attempt_id: AttemptId
    committed_ms: int


@dataclass(frozen=True, slots=True)
class LaunchRefused:
    """An agent refused the lease. `is_absent`: nothing of the attempt runs anywhere, on no other node either."""

    attempt_id: AttemptId
    code: str
    is_absent: bool
    at_ms: int


@dataclass(frozen=True, slots=True)
class RankStarted:
    """The rank's program runs."""

    attempt_id: AttemptId
    rank: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class CheckpointSeen:
    """The rank saved its work: its agent saw a new checkpoint at `at_ms`."""

    attempt_id: AttemptId
    rank: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class RankExited:
    """Every process of the rank is gone, and how its program ended.

    Args:
        is_timeout: its node stopped it at its walltime.
        is_oom: its node stopped it for its memory.
        error: stable code of what else went wrong on its node, None for nothing.
        started_ms: when its program started, where it did.
    """

    attempt_id: AttemptId
    rank: int
    at_ms: int
    exit_code: int | None = None
    signal: int | None = None
    is_timeout: bool = False
    is_oom: bool = False
    error: str | None = None
    started_ms: int | None = None


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """Its user or an operator wants the job to end. `by` is the id of who asked."""

    by: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class ExpireRequested:
    """The plan found the attempt past its walltime."""

    attempt_id: AttemptId
    at_ms: int


@dataclass(frozen=True, slots=True)
class NodeLost:
    """A node is heard of no more; `at_ms` is when it was heard of last."""

    node: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class AbsenceProven:
    """No process of the attempt is left on any node, whatever exits were reported."""

    attempt_id: AttemptId
    at_ms: int


@dataclass(frozen=True, slots=True)
class PlatformStopping:
    """The whole platform stops and takes its nodes along: nobody's failure, the job waits for the next start."""

    attempt_id: AttemptId
    at_ms: int


@dataclass(frozen=True, slots=True)
class IdleFound:
    """The attempt's GPUs stood idle for as long as the idle policy allows, and its user was told twice."""

    attempt_id: AttemptId
    at_ms: int


@dataclass(frozen=True, slots=True)
class GraceEnded:
    """The attempt was given notice for another job, and its grace is over: it gives its GPUs back."""

    attempt_id: AttemptId
    at_ms: int


AttemptFact = (
    Admitted
    | LaunchCommitted
    | LaunchRefused
    | RankStarted
    | CheckpointSeen
    | RankExited
    | ExpireRequested
    | AbsenceProven
    | PlatformStopping
    | IdleFound
    | GraceEnded
)
Fact = AttemptFact | CancelRequested | NodeLost


@dataclass(frozen=True, slots=True)
class StopAttempt:
    """Signal every rank that has not exited; SIGKILL `kill_after_s` seconds later."""

    attempt_id: AttemptId
    signal: StopSignal
    kill_after_s: int
    why: StopWhy


@dataclass(frozen=True, slots=True)
class Settle:
    """Post `used_s` device-seconds of the attempt's claim, void the rest; `until_ms` ended the charge."""

    attempt_id: AttemptId
    used_s: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class ReleaseSlots:
    """The attempt's GPUs are free: absence is proven."""

    attempt_id: AttemptId


@dataclass(frozen=True, slots=True)
class Requeue:
    """The job waits again with its place kept, not before `back_off_until_ms` (0 = at once)."""

    back_off_until_ms: int
    why: StopWhy


@dataclass(frozen=True, slots=True)
class Finish:
    """The job ended for good."""

    verdict: Verdict


Effect = StopAttempt | Settle | ReleaseSlots | Requeue | Finish


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a fact did to a job.

    Args:
        job: the new view; the old one when the fact was ignored.
        effects: to be carried out in order, in the transaction that stores the view.
        ignored: why the fact changed nothing (a stable word), None when it did.
    """

    job: JobView
    effects: tuple[Effect, ...] = ()
    ignored: str | None = None
