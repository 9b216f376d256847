"""One scheduling cycle of the running platform: what is due is ended, then read, plan, apply."""

from __future__ import annotations

import logging
import time
from datetime import datetime
from typing import Final

from quota import service as quota
from scheduler.apply import Applied, Planned, apply
from scheduler.launch import Leader
from scheduler.notices import end_graces
from scheduler.plan import make_plan
from scheduler.sampling import sample_usage
from scheduler.snapshot import load
from store.engine import snapshot, transaction

MS: Final = 1_000
"""Milliseconds of a second."""

_logger = logging.getLogger(__name__)


def cycle(leader: Leader, release: str, *, at: datetime) -> Applied:
    """One cycle: end what got notice and is due, read, plan, apply, sample use when it is time.

    Args:
        leader: the leading scheduler.
        release: version of the code, for the cycle's record.
        at: the instant it plans for, aware UTC.

    Raises:
        NoPolicyError: no policy is in force.
        StaleEpochError: another process is the scheduler; nothing was written.
    """
    for attempt_id in end_graces(leader, at):
        _logger.info("attempt %s: its grace is over; it gives its GPUs back", attempt_id)
    began = time.monotonic()
    with snapshot(leader.engine) as session:
        policy, digest = quota.in_force(session, at)
        seen = load(session, at, policy)
    loaded = time.monotonic()
    plan = make_plan(seen, policy)
    planned = Planned(
        plan=plan,
        policy=policy,
        policy_digest=digest,
        release=release,
        load_ms=int((loaded - began) * MS),
        plan_ms=int((time.monotonic() - loaded) * MS),
    )
    with transaction(leader.engine) as session:
        applied = apply(session, leader.held, planned)
        sample_usage(session, policy, at=at, actor=leader.actor)
    for rejected in applied.rejected:
        _logger.info("job %d was planned and not admitted: %s", rejected.entry.job_id, rejected.why)
    return applied
