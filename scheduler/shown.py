"""What is shown of a job: plain frozen values, made by `scheduler.views`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from scheduler.model import Array, JobState, Numbers, Request, Reservation, Slot


@dataclass(frozen=True, slots=True)
class JobText:
    """What a person wrote of a job."""

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RankRecord:
    """One rank of an attempt: its place, and how it ended once it did."""

    rank: int
    node: str
    gpu_uuids: tuple[str, ...]
    started_at: datetime | None
    ended_at: datetime | None
    exit_code: int | None
    signal: int | None
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One execution of a job. `claim_s` and `used_s` are device-seconds; `used_s` is None until settled.

    `reclaimed_by` is the job that took its GPUs back, `notice_ends_at` when its notice of `grace_s` ends,
    `refunded_s` the device-seconds given back for the work that this lost. From `removed_at` on its nodes keep
    nothing of it: no log, no output.
    """

    id: str
    number: int
    state: JobState
    share_class: str
    grant_id: UUID
    claim_s: int
    used_s: int | None
    ranks: tuple[RankRecord, ...]
    admitted_at: datetime
    dispatched_at: datetime | None
    committed_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    stop_why: str | None
    grace_s: int
    reclaimed_by: int | None
    notice_ends_at: datetime | None
    refunded_s: int
    removed_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """Everything that is shown of a job.

    Attributes:
        place: jobs ahead in its queue's order, 0 = the next; None when it does not wait.
        reason: why it waits (a `ReasonCode`), None before its first cycle and once it does not wait.
        reason_numbers: the figures of that reason, as of when it became the reason.
        depends_on: jobs that have to end before it, each with how.
        planned_start: where and when it is to start, counted with full walltimes of all that run; None = not planned.
        preemptions: how often it was stopped for another job.
        slots: nodes and GPUs of the current or last attempt, in rank order.
        is_simulated: whether the GPUs of that attempt are simulated; None before the first attempt.
        gpu_seconds: device-seconds charged so far.
        text: what a person wrote; None for a caller who sees figures only.
    """

    id: int
    project_id: UUID
    project: str
    organisation: str
    user_id: UUID
    user: str
    queue: str
    state: JobState
    reason: str | None
    reason_numbers: Numbers
    place: int | None
    priority: int
    request: Request
    bundle_digest: str | None
    is_held: bool
    begin_at: datetime | None
    depends_on: tuple[tuple[int, str], ...]
    array: Array | None
    array_index: int | None
    planned_start: Reservation | None
    preemptions: int
    is_cancel_requested: bool
    attempts: int
    attempt: AttemptRecord | None
    slots: tuple[Slot, ...]
    is_simulated: bool | None
    exit_code: int | None
    exit_signal: int | None
    exit_error: str | None
    gpu_seconds: int
    submitted_at: datetime
    back_off_until: datetime | None
    first_started_at: datetime | None
    finished_at: datetime | None
    text: JobText | None


@dataclass(frozen=True, slots=True)
class ArtefactView:
    """A file a job kept. `digest` is the SHA-256 (hex) that the node's agent computed."""

    id: int
    job_id: int
    attempt_id: str
    node: str
    rank: int
    path: str
    size_bytes: int
    digest: str
    created_at: datetime
