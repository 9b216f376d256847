"""The folded journal set beside the tables: none of the differences may ever be (invariant 7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from quota import service as quota
from quota.model import Grant, GrantId
from scheduler.fold import FoldedState
from scheduler.rows import attempt_fields, job_fields
from scheduler.snapshot import load_acts, load_nodes, load_windows
from scheduler.tables import AllocationRow, AttemptRow, JobRow, UsageRow
from tenants.model import ProjectStatus
from tenants.tables import ProjectRow

K = TypeVar("K")

MAX_DIFFERENCES: Final = 100
"""Differences told at once: the first ones say where to look."""


def compare(session: Session, folded: FoldedState) -> list[str]:
    """Differences between the tables and the folded journal, at most MAX_DIFFERENCES; none when all is well.

    Args:
        session: a snapshot; the records were read in the same one.
        folded: the fold of all its records.
    """
    found = [
        *_differing("job", {row.id: job_fields(row) for row in session.scalars(select(JobRow))}, folded.jobs),
        *_differing(
            "attempt",
            {
                row.id: attempt_fields(row) | {"ranks": row.ranks}
                for row in session.scalars(select(AttemptRow))
            },
            folded.attempts,
        ),
        *_differing("node", {node.name: node for node in load_nodes(session)}, folded.nodes),
        *_differing("grant", _grants(session), folded.books.grants),
        *_differing("act", load_acts(session), folded.acts),
        *_differing("window", load_windows(session), folded.windows),
        *_differing("use of queue", _usage(session), folded.usage),
        *_differing("held GPU", _held(session), folded.held_gpus()),
        *_differing("suspended project", _suspended(session), _only_true(folded.suspended)),
        *_unsettled(session, folded),
    ]
    return found[:MAX_DIFFERENCES]


def _differing(what: str, tables: Mapping[K, object], journal: Mapping[K, object]) -> list[str]:
    return [
        f"{what} {key}: the tables say {tables.get(key)}, the journal {journal.get(key)}"
        for key in sorted({*tables, *journal}, key=str)
        if tables.get(key) != journal.get(key)
    ]


def _grants(session: Session) -> dict[GrantId, Grant]:
    return {grant.id: grant for grant in quota.grants(session)}


def _held(session: Session) -> dict[str, object]:
    rows = session.execute(
        select(AllocationRow.gpu_uuid, AllocationRow.attempt_id).where(AllocationRow.released_at.is_(None))
    )
    return {row.gpu_uuid: row.attempt_id for row in rows}


def _usage(session: Session) -> dict[str, object]:
    return {row.queue: row.used_gpu_ms for row in session.scalars(select(UsageRow))}


def _suspended(session: Session) -> dict[str, object]:
    statement = select(ProjectRow.id).where(ProjectRow.status == ProjectStatus.SUSPENDED.value)
    return {str(project_id): True for project_id in session.scalars(statement)}


def _only_true(flags: Mapping[str, bool]) -> dict[str, object]:
    return {name: True for name, flag in flags.items() if flag}


def _unsettled(session: Session, folded: FoldedState) -> list[str]:
    """Open claims of the ledger are exactly those of live attempts."""
    live = {name: attempt["claim_s"] for name, attempt in folded.live().items()}
    return _differing("open claim of attempt", quota.open_claims(session), live)
