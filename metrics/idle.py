"""What to do about a job whose GPUs stand idle: a first notice, a second one, then its end. Pure.

The policy is data. A step is due when the job has been idle long enough *and* the step before was taken long
enough ago: nobody is cancelled without both notices and the time between them. Use ends an idle stretch and with
it the notices. What is not known is not idle: time without telemetry neither adds to a stretch nor ends it, and a
stretch that was not observed well enough has no consequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from metrics.efficiency import IDLE_BELOW_RATIO

ZERO = timedelta(0)


class Step(StrEnum):
    """What is done, in this order."""

    NOTICE = "notice"
    SECOND_NOTICE = "second_notice"
    CANCEL = "cancel"


class Exemption(StrEnum):
    """Why an idle job is left alone."""

    DISABLED = "disabled"
    INTERACTIVE = "interactive"
    ENOUGH_BUSY = "enough_busy"
    UNKNOWN = "unknown"


class IdlePolicyError(ValueError):
    """The policy contradicts itself.

    Attributes:
        setting: The setting to change.
    """

    def __init__(self, setting: str, what: str) -> None:
        super().__init__(f"idle policy: {setting} {what}")
        self.setting = setting


@dataclass(frozen=True, slots=True, kw_only=True)
class IdlePolicy:
    """When a job is idle, and what follows.

    Attributes:
        is_enabled: Whether anything is done.
        is_dry_run: Steps are journaled but neither told nor carried out.
        notice_after: Idle time before the first notice.
        second_notice_after: Idle time before the second.
        cancel_after: Idle time before the end.
        min_busy_share: A job with at least this share of its GPUs busy is not idle; 0 < share <= 1. With 1 one
            idle GPU makes the job idle.
        min_coverage: Share of a GPU's idle stretch that must be observed; below it nothing is done.

    Raises:
        IdlePolicyError: The times are not positive and growing, or a share is out of range.
    """

    is_enabled: bool = True
    is_dry_run: bool = True
    notice_after: timedelta = timedelta(minutes=30)
    second_notice_after: timedelta = timedelta(minutes=60)
    cancel_after: timedelta = timedelta(minutes=120)
    min_busy_share: float = 0.5
    min_coverage: float = 0.9

    def __post_init__(self) -> None:
        if self.notice_after <= ZERO:
            raise IdlePolicyError("notice_after", "must be longer than nothing")
        if self.second_notice_after <= self.notice_after:
            raise IdlePolicyError("second_notice_after", "must be longer than notice_after")
        if self.cancel_after <= self.second_notice_after:
            raise IdlePolicyError("cancel_after", "must be longer than second_notice_after")
        for setting, share in (("min_busy_share", self.min_busy_share), ("min_coverage", self.min_coverage)):
            if not 0 < share <= 1:
                raise IdlePolicyError(setting, f"must be above 0 and at most 1, not {share}")

    def after(self, step: Step) -> timedelta:
        """Idle time before a step."""
        match step:
            case Step.NOTICE:
                return self.notice_after
            case Step.SECOND_NOTICE:
                return self.second_notice_after
            case Step.CANCEL:
                return self.cancel_after


@dataclass(frozen=True, slots=True)
class GpuIdle:
    """How long a GPU of the job has stood idle.

    Attributes:
        idle_since: Start of its present idle stretch; None if it was busy when last seen, or never seen.
        observed: How much of the stretch was observed.
    """

    idle_since: datetime | None
    observed: timedelta = ZERO


BUSY = GpuIdle(None)


def track(last: GpuIdle, utilisation_ratio: float | None, at: datetime, since_last: timedelta) -> GpuIdle:
    """A GPU's idle stretch after one more reading.

    Args:
        last: The stretch so far; ``BUSY`` at the start of a job.
        utilisation_ratio: What was read; None changes nothing.
        at: When it was read.
        since_last: Time that the reading stands for.
    """
    if utilisation_ratio is None:
        return last
    if utilisation_ratio >= IDLE_BELOW_RATIO:
        return BUSY
    return GpuIdle(last.idle_since or at - since_last, last.observed + since_last)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobUse:
    """A running job.

    Attributes:
        started_at: Start of its attempt.
        is_interactive: It waits for a person by nature.
        gpus: Each GPU that it holds.
        taken: Steps already taken in the present idle stretch, and when.
    """

    started_at: datetime
    is_interactive: bool
    gpus: Sequence[GpuIdle]
    taken: Mapping[Step, datetime] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Take:
    """A step is due now. `idle_gpus` GPUs stood idle for at least `idle_for`."""

    step: Step
    idle_for: timedelta
    idle_gpus: int
    is_dry_run: bool


@dataclass(frozen=True, slots=True)
class Watch:
    """The job is idle; the next step is due at this moment if it stays so; None if every step was taken."""

    next_step: Step | None
    due_at: datetime | None


@dataclass(frozen=True, slots=True)
class Leave:
    """The job is not idle, or is exempt. `resets` says that steps taken are void: the stretch has ended."""

    exemption: Exemption | None
    resets: bool


Decision = Take | Watch | Leave


def decide(job: JobUse, policy: IdlePolicy, at: datetime) -> Decision:
    """What is due for a job now.

    Args:
        job: The job and its GPUs.
        policy: The policy in force.
        at: Now, aware UTC.
    """
    if not policy.is_enabled:
        return Leave(Exemption.DISABLED, resets=False)
    if job.is_interactive:
        return Leave(Exemption.INTERACTIVE, resets=False)
    idle = [gpu.idle_since for gpu in job.gpus if gpu.idle_since is not None]
    if not idle or not _is_idle(len(idle), len(job.gpus), policy):
        return Leave(Exemption.ENOUGH_BUSY if idle else None, resets=bool(job.taken))
    since = max(job.started_at, _needed(sorted(idle), len(job.gpus), policy))
    if not _is_observed(job.gpus, since, policy, at):
        return Leave(Exemption.UNKNOWN, resets=False)
    return _due(job.taken, policy, since, len(idle), at)


def _is_idle(idle: int, gpus: int, policy: IdlePolicy) -> bool:
    return (gpus - idle) / gpus < policy.min_busy_share


def _needed(idle_since: Sequence[datetime], gpus: int, policy: IdlePolicy) -> datetime:
    """Since when so many GPUs have been idle together that the job counts as idle."""
    return next(since for number, since in enumerate(idle_since, start=1) if _is_idle(number, gpus, policy))


def _is_observed(gpus: Sequence[GpuIdle], since: datetime, policy: IdlePolicy, at: datetime) -> bool:
    stretch = at - since
    return stretch > ZERO and all(
        gpu.observed >= policy.min_coverage * (at - gpu.idle_since)
        for gpu in gpus
        if gpu.idle_since is not None and gpu.idle_since <= since
    )


def _due(
    taken: Mapping[Step, datetime], policy: IdlePolicy, since: datetime, idle_gpus: int, at: datetime
) -> Take | Watch:
    """The first step not yet taken.

    It waits for the idle time, and after the step before for as long as the policy puts between the two: a late
    notice delays what follows.
    """
    before: Step | None = None
    for step in Step:
        if step not in taken:
            due_at = since + policy.after(step)
            if before is not None:
                due_at = max(due_at, taken[before] + policy.after(step) - policy.after(before))
            if at >= due_at:
                return Take(step, at - since, idle_gpus, policy.is_dry_run)
            return Watch(step, due_at)
        before = step
    return Watch(None, None)
