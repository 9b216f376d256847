"""One scheduling cycle of the running platform: what is due is ended, then read, plan, apply."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime
from typing import Final

from quota import service as quota
from scheduler.apply import Applied, Planned, apply
from scheduler.known import Told
from scheduler.launch import Leader
from scheduler.notices import end_graces
from scheduler.plan import make_plan
from scheduler.sampling import sample_usage
from scheduler.warm import Warm, tell_differences
from store import journal
from store.engine import snapshot, transaction

MS: Final = 1_000
"""Milliseconds of a second."""

_logger = logging.getLogger(__name__)


def cycle(
    leader: Leader,
    release: str,
    *,
    at: datetime,
    warm: Warm | None = None,
    took: Callable[[str, float], None] = lambda _phase, _seconds: None,
) -> Applied:
    """One cycle: end what got notice and is due, read, plan, apply, sample use when it is time.

    Args:
        leader: the leading scheduler.
        release: version of the code, for the cycle's record.
        at: the instant it plans for, aware UTC.
        warm: what the leader keeps from cycle to cycle; without it everything is read from the tables.
        took: told of each phase (read, plan, apply) and its seconds, also of cycles without effect.

    Raises:
        NoPolicyError: no policy is in force.
        StaleEpochError: another process is the scheduler; nothing was written.
    """
    for attempt_id in end_graces(leader, at):
        _logger.info("attempt %s: its grace is over; it gives its GPUs back", attempt_id)
    began = time.monotonic()
    with snapshot(leader.engine) as session:
        policy, digest = quota.in_force(session, at)
        warm = Warm() if warm is None else warm
        differing = warm.differences(session, at, policy) if warm.is_comparison_due() else ()
        if differing:
            warm.forget("it differs from the tables")
        seen = warm.read(session, at, policy)
    loaded = time.monotonic()
    plan = make_plan(seen, policy, warm.index)
    planned_at = time.monotonic()
    planned = Planned(
        plan=plan,
        policy=policy,
        policy_digest=digest,
        release=release,
        load_ms=int((loaded - began) * MS),
        plan_ms=int((planned_at - loaded) * MS),
        seen=seen,
    )
    with transaction(leader.engine) as session:
        told = journal.noted(session)
        applied = apply(session, leader.held, planned, warm)
        if differing:
            tell_differences(session, differing, at=at, actor=leader.actor)
        sample_usage(session, policy, at=at, actor=leader.actor)
    warm.take_own([Told(*record) for record in told])
    took("read", loaded - began)
    took("plan", planned_at - loaded)
    took("apply", time.monotonic() - planned_at)
    for rejected in applied.rejected:
        _logger.info("job %d was planned and not admitted: %s", rejected.entry.job_id, rejected.why)
    return applied
