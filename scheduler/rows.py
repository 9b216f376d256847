"""Rows of jobs and attempts to values and back; rows never leave the shell.

`job_fields` and `attempt_fields` are what the journal says of a row, as JSON values: instants are milliseconds
since the epoch (`*_ms`). The fold of the journal must give exactly these.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from scheduler.facts import AttemptView, JobView, RankView, StopWhy, Verdict
from scheduler.fields import Fields, optional_integer, optional_text
from scheduler.model import AttemptId, JobId, JobState, Slot
from scheduler.tables import AttemptRow, JobRow
from store import clock

_JOB_PLAIN: Final = (
    "queue",
    "state",
    "priority",
    "gpus",
    "nodes",
    "walltime_s",
    "memory_bytes_per_rank",
    "node_labels",
    "topology_required",
    "topology_preferred",
    "placement",
    "cpus_per_gpu",
    "memory_bytes_per_gpu",
    "bundle_digest",
    "is_held",
    "is_interactive",
    "depends_on",
    "array_id",
    "array_index",
    "array_cap",
    "reservation",
    "preemptions",
    "is_cancel_requested",
    "attempts",
    "launch_refusals",
    "node_failures",
    "reason",
    "exit_code",
    "exit_signal",
    "exit_error",
    "gpu_seconds",
)
_ATTEMPT_PLAIN: Final = (
    "job_id",
    "state",
    "share_class",
    "epoch",
    "claim_s",
    "admitted_seq",
    "grace_s",
    "reclaimed_by",
    "refund_cap_s",
    "refunded_s",
    "stop_why",
    "verdict",
    "used_s",
)


def ms_or_none(at: datetime | None) -> int | None:
    """Milliseconds of an instant that may be absent."""
    return None if at is None else clock.to_ms(at)


def at_or_none(at_ms: int | None) -> datetime | None:
    """Instant of milliseconds that may be absent."""
    return None if at_ms is None else clock.from_ms(at_ms)


def job_fields(row: JobRow) -> Fields:
    """Everything of a job that the journal carries: no text a person wrote, no numbers of its reason."""
    return {name: getattr(row, name) for name in _JOB_PLAIN} | {
        "project_id": str(row.project_id),
        "user_id": str(row.user_id),
        "flavors": list(row.flavors),
        "submitted_ms": clock.to_ms(row.submitted_at),
        "begin_ms": ms_or_none(row.begin_at),
        "back_off_until_ms": ms_or_none(row.back_off_until),
        "told_ms": ms_or_none(row.told_at),
        "told_start_ms": ms_or_none(row.told_start_at),
        "first_started_ms": ms_or_none(row.first_started_at),
        "finished_ms": ms_or_none(row.finished_at),
    }


def attempt_fields(row: AttemptRow) -> Fields:
    """Everything of an attempt that the journal carries, its ranks apart; not whether a stop was delivered."""
    return {name: getattr(row, name) for name in _ATTEMPT_PLAIN} | {
        "grant_id": str(row.grant_id),
        "admitted_ms": clock.to_ms(row.admitted_at),
        "dispatched_ms": ms_or_none(row.dispatched_at),
        "committed_ms": ms_or_none(row.committed_at),
        "started_ms": ms_or_none(row.started_at),
        "ended_ms": ms_or_none(row.ended_at),
        "stop_ms": ms_or_none(row.stop_at),
        "notice_ends_ms": ms_or_none(row.notice_ends_at),
    }


def new_rank(slot: Slot) -> Fields:
    """A rank that was admitted to its slot and has not started."""
    return {
        "node": slot.node,
        "gpu_uuids": list(slot.gpu_uuids),
        "started_ms": None,
        "ended_ms": None,
        "exit_code": None,
        "signal": None,
        "error": None,
        "checkpoint_ms": None,
    }


def verdict_of(value: Mapping[str, object] | None) -> Verdict | None:
    """A verdict as it is stored, or None."""
    if value is None:
        return None
    return Verdict(
        JobState(str(value["state"])),
        optional_integer(value["exit_code"]),
        optional_integer(value["signal"]),
        optional_text(value["error"]),
    )


def verdict_to_json(verdict: Verdict | None) -> Fields | None:
    """The stored form of a verdict."""
    if verdict is None:
        return None
    return {
        "state": verdict.state.value,
        "exit_code": verdict.exit_code,
        "signal": verdict.signal,
        "error": verdict.error,
    }


def rank_view(rank: Mapping[str, object]) -> RankView:
    """A rank as the lifecycle sees it."""
    return RankView(
        node=str(rank["node"]),
        is_started=rank["started_ms"] is not None,
        ended_ms=optional_integer(rank["ended_ms"]),
        exit_code=optional_integer(rank["exit_code"]),
        error=optional_text(rank["error"]),
        checkpoint_ms=optional_integer(rank.get("checkpoint_ms")),
    )


def job_view(row: JobRow, attempt: AttemptRow | None) -> JobView:
    """A job and its current or last attempt as the lifecycle sees them."""
    return JobView(
        id=JobId(row.id),
        state=JobState(row.state),
        attempts=row.attempts,
        launch_refusals=row.launch_refusals,
        node_failures=row.node_failures,
        is_cancel_requested=row.is_cancel_requested,
        attempt=None if attempt is None else _attempt_view(row, attempt),
    )


def _attempt_view(row: JobRow, attempt: AttemptRow) -> AttemptView:
    return AttemptView(
        id=AttemptId(attempt.id),
        state=JobState(attempt.state),
        gpus=row.gpus,
        walltime_s=row.walltime_s,
        ranks=tuple(map(rank_view, attempt.ranks)),
        committed_ms=ms_or_none(attempt.committed_at),
        stop_why=None if attempt.stop_why is None else StopWhy(attempt.stop_why),
        stop_ms=ms_or_none(attempt.stop_at),
        verdict=verdict_of(attempt.verdict),
    )
