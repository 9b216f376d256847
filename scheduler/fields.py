"""Values of the core made of plain fields: of JSON as the journal holds it, of nodes, of grants. Pure.

What a row says goes through the same functions as what a record says, so that the two cannot differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast
from uuid import UUID

from quota.model import Grant
from scheduler.model import (
    AttemptId,
    GrantView,
    JobId,
    JobState,
    LiveAttempt,
    Node,
    NodeState,
    PendingJob,
    Request,
    Slot,
)

Fields = dict[str, object]
"""JSON values by name, as the journal holds them."""


def integer(value: object) -> int:
    """A JSON integer.

    Raises:
        TypeError: anything else: the row or record was not written by this platform.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"expected an integer, found {value!r}")
    return value


def optional_integer(value: object) -> int | None:
    """A JSON integer or null."""
    return None if value is None else integer(value)


def optional_text(value: object) -> str | None:
    """A JSON text or null."""
    return None if value is None else str(value)


def slots_of(ranks: Sequence[Mapping[str, object]]) -> tuple[Slot, ...]:
    """The slots of an attempt, in rank order."""
    return tuple(Slot(str(rank["node"]), tuple(cast("list[str]", rank["gpu_uuids"]))) for rank in ranks)


def request_of(fields: Mapping[str, object]) -> Request:
    """What a job asks for, from its fields."""
    return Request(
        gpus=integer(fields["gpus"]),
        walltime_s=integer(fields["walltime_s"]),
        flavors=tuple(cast("list[str]", fields["flavors"])),
        nodes=optional_integer(fields["nodes"]),
        memory_bytes_per_rank=optional_integer(fields["memory_bytes_per_rank"]),
    )


def pending_job(job_id: int, fields: Mapping[str, object], *, is_suspended: bool) -> PendingJob:
    """A waiting job as the plan reads it, from its fields."""
    return PendingJob(
        id=JobId(job_id),
        project_id=UUID(str(fields["project_id"])),
        queue=str(fields["queue"]),
        request=request_of(fields),
        priority=integer(fields["priority"]),
        submitted_ms=integer(fields["submitted_ms"]),
        is_held=bool(fields["is_held"]),
        is_suspended=is_suspended,
        back_off_until_ms=optional_integer(fields["back_off_until_ms"]) or 0,
        attempts=integer(fields["attempts"]),
    )


def live_attempt(
    attempt_id: str, job: Mapping[str, object], attempt: Mapping[str, object], ranks: Sequence[Fields]
) -> LiveAttempt:
    """An attempt that holds GPUs as the plan reads it, from its fields, its job's and its ranks."""
    return LiveAttempt(
        id=AttemptId(attempt_id),
        job_id=JobId(integer(attempt["job_id"])),
        project_id=UUID(str(job["project_id"])),
        queue=str(job["queue"]),
        request=request_of(job),
        slots=slots_of(ranks),
        state=JobState(str(attempt["state"])),
        admitted_ms=integer(attempt["admitted_ms"]),
        committed_ms=optional_integer(attempt["committed_ms"]),
        is_stopping=attempt["stop_why"] is not None,
    )


def capacity_of(nodes: tuple[Node, ...]) -> dict[str, int]:
    """GPUs in service per flavor: a node leaves by an operator's act, not by being down for a while."""
    found: dict[str, int] = {}
    for node in nodes:
        if node.state is not NodeState.DRAINED:
            found[node.flavor] = found.get(node.flavor, 0) + len(node.gpu_uuids)
    return found


def grant_view(grant: Grant) -> GrantView:
    """What the plan needs of a grant."""
    return GrantView(
        id=grant.id,
        project_id=grant.project_id,
        flavor=grant.flavor,
        starts_ms=grant.starts_ms,
        ends_ms=grant.ends_ms,
        remaining_s=grant.balance.remaining_s,
        pending_s=grant.balance.pending_s,
    )
