"""One scheduling cycle of the running platform: read, end what is due and read again, plan, apply."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from quota import service as quota
from quota.model import Policy
from scheduler.apply import Applied, Planned, apply, work_of
from scheduler.known import Told
from scheduler.launch import Leader
from scheduler.model import AttemptId, Snapshot
from scheduler.notices import end_graces, ended_graces
from scheduler.plan import make_plan
from scheduler.sampling import is_sample_due, sample_usage
from scheduler.warm import Warm, tell_differences
from store import clock, journal
from store.engine import snapshot, transaction

MS: Final = 1_000
"""Milliseconds of a second."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Read:
    """What a cycle plans from. `due`: attempts whose notice is over; `differing`: see `Warm.differences`."""

    seen: Snapshot
    policy: Policy
    digest: str
    due: Sequence[AttemptId]
    differing: Sequence[str]


def _read(leader: Leader, at: datetime, warm: Warm) -> _Read:
    with snapshot(leader.engine) as session:
        policy, digest = quota.in_force(session, at)
        differing = warm.differences(session, at, policy) if warm.is_comparison_due() else ()
        if differing:
            warm.forget("it differs from the tables")
        seen = warm.read(session, at, policy)
        known = warm.known(session, at, policy)
    return _Read(seen, policy, digest, ended_graces(known, at), differing)


def _apply(leader: Leader, planned: Planned, warm: Warm, differing: Sequence[str]) -> Applied:
    """The cycle's transaction; none where it would change nothing, as each costs a flush to disk.

    The fence is of what is written: whoever has lost the lease and has nothing to write learns of it elsewhere.
    """
    at = clock.from_ms(planned.plan.at_ms)
    known = warm.kept
    work = None if known is None else work_of(planned.plan, known)
    is_due = known is None or is_sample_due(known.sampled_ms, planned.policy, at)
    if work is not None and work.is_nothing and not (differing or is_due):
        return Applied(next_ms=planned.plan.next_ms)
    with transaction(leader.engine) as session:
        told = journal.noted(session)
        applied = apply(session, leader.held, planned, warm, work)
        if differing:
            tell_differences(session, differing, at=at, actor=leader.actor)
        if is_due:
            sample_usage(session, planned.policy, at=at, actor=leader.actor)
    warm.take_own([Told(*record) for record in told])
    return applied


def cycle(
    leader: Leader,
    release: str,
    *,
    at: datetime,
    warm: Warm | None = None,
    took: Callable[[str, float], None] = lambda _phase, _seconds: None,
) -> Applied:
    """One cycle: read, end what got notice and is due, plan, apply, sample use when it is time.

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
    began = time.monotonic()
    warm = Warm() if warm is None else warm
    read = _read(leader, at, warm)
    differing = read.differing
    if read.due:
        for attempt_id in end_graces(leader, read.due, at):
            _logger.info("attempt %s: its grace is over; it gives its GPUs back", attempt_id)
        read = _read(leader, at, warm)
    loaded = time.monotonic()
    plan = make_plan(read.seen, read.policy, warm.index)
    planned_at = time.monotonic()
    planned = Planned(
        plan=plan,
        policy=read.policy,
        policy_digest=read.digest,
        release=release,
        load_ms=int((loaded - began) * MS),
        plan_ms=int((planned_at - loaded) * MS),
        seen=read.seen,
    )
    applied = _apply(leader, planned, warm, differing)
    took("read", loaded - began)
    took("plan", planned_at - loaded)
    took("apply", time.monotonic() - planned_at)
    for rejected in applied.rejected:
        _logger.info("job %d was planned and not admitted: %s", rejected.entry.job_id, rejected.why)
    return applied
