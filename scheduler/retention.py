"""Retention: what ended long ago leaves its nodes, so that no disk fills up; rows, digests and journal stay."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Final

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from scheduler.changes import job_of
from scheduler.dispatch.executor import ExecutorError, StaleEpochError
from scheduler.launch import Leader
from scheduler.model import FINAL_STATES
from scheduler.snapshot import LIVE
from scheduler.tables import AttemptRow, JobRow
from store import clock, journal, lease
from store.engine import snapshot, transaction

MAX_REMOVED: Final = 100
"""Attempts removed in one round: with a round a minute 144,000 a day, and a round ends within seconds."""

_logger = logging.getLogger(__name__)


def due(session: Session, before: datetime, limit: int = MAX_REMOVED) -> dict[str, tuple[str, ...]]:
    """Attempts that ended before an instant and are on their nodes still, with those nodes; the oldest first.

    One with a rank on a node that is down waits for it, so that it stands in nobody's way; one of a job that is to
    run again stays, since what it saved goes with it.
    """
    reachable = text(
        "NOT EXISTS (SELECT 1 FROM jsonb_array_elements(attempts.ranks) AS held "
        "JOIN nodes ON nodes.name = held ->> 'node' WHERE nodes.state = 'DOWN')"
    )
    rows = session.execute(
        select(AttemptRow.id, AttemptRow.ranks)
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .where(
            AttemptRow.removed_at.is_(None),
            AttemptRow.ended_at < before,
            AttemptRow.state.not_in(LIVE),
            JobRow.state.in_(sorted(FINAL_STATES)),
            reachable,
        )
        .order_by(AttemptRow.ended_at, AttemptRow.id)
        .limit(limit)
    )
    return {row.id: tuple(sorted({str(rank["node"]) for rank in row.ranks})) for row in rows}


def remove_old(leader: Leader, before: datetime, limit: int = MAX_REMOVED) -> None:
    """Remove from their nodes at most `limit` attempts that ended before an instant.

    A node that does not answer or refuses is asked again in the next round. Again is fine: a node that knows
    nothing of an attempt says so too.

    Raises:
        StaleEpochError: another process is the scheduler (`store.lease` or the executor says so).
    """
    with snapshot(leader.engine) as session:
        found = due(session, before, limit)
    removed = 0
    for attempt_id, nodes in found.items():
        if leader.stopping.is_set():
            break
        try:
            for node in nodes:
                leader.executor.remove(node, attempt_id, leader.epoch)
        except StaleEpochError:
            raise
        except ExecutorError as error:
            _logger.warning("attempt %s is not removed yet: %s", attempt_id, error)
            continue
        removed += _note(leader, attempt_id)
    if removed:
        _logger.info("%d attempts that ended before %s left their nodes", removed, before.isoformat())


def _note(leader: Leader, attempt_id: str) -> bool:
    """Write that an attempt is gone; False when it was written before."""
    at = clock.now()
    with transaction(leader.engine) as session:
        lease.fence(session, leader.held)
        row = session.get_one(AttemptRow, attempt_id, with_for_update=True)
        if row.removed_at is not None:
            return False
        row.removed_at = at
        data: dict[str, object] = {"attempt_id": attempt_id}
        subject = f"job:{job_of(attempt_id)}"
        journal.append(session, "attempt.removed", subject, actor=leader.actor, at=at, data=data)
    return True
