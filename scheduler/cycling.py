"""One scheduling cycle of the running platform: read, end what is due and read again, plan, apply."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from quota import service as quota
from quota.model import Policy
from scheduler.apply import Applied, Planned, apply, work_of
from scheduler.known import Known, Told
from scheduler.launch import Leader
from scheduler.model import Snapshot
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
    """What a cycle plans from. `known`: what the snapshot was made of; `differing`: see `Warm.differences`."""

    seen: Snapshot
    policy: Policy
    digest: str
    known: Known
    differing: Sequence[str] = ()


def _read(leader: Leader, at: datetime, warm: Warm, *, is_first: bool) -> _Read:
    """Read the snapshot; a cycle's first reading is the one that is set beside the tables when that is due.

    So the cycle that finds a difference tells it: what a second reading found would be forgotten with the first one.
    """
    with snapshot(leader.engine) as session:
        policy, digest = quota.in_force(session, at)
        differing = warm.differences(session, at, policy) if is_first and warm.is_comparison_due() else ()
        if differing:
            warm.forget("it differs from the tables")
        seen = warm.read(session, at, policy)
        known = warm.known(session, at, policy)
    return _Read(seen, policy, digest, known, differing)


def _read_after_graces(leader: Leader, at: datetime, warm: Warm) -> tuple[_Read, float]:
    """Read, end what got notice and is due, and then read again; with the seconds of the readings alone."""
    began = time.monotonic()
    read = _read(leader, at, warm, is_first=True)
    reading_s = time.monotonic() - began
    due = ended_graces(read.known, at)
    if not due:
        return read, reading_s
    for attempt_id in end_graces(leader, due, at):
        _logger.info("attempt %s: its grace is over; it gives its GPUs back", attempt_id)
    began = time.monotonic()
    again = _read(leader, at, warm, is_first=False)
    return replace(again, differing=read.differing), reading_s + time.monotonic() - began


def _apply(leader: Leader, planned: Planned, warm: Warm, read: _Read) -> Applied:
    """The cycle's transaction; none where it would change nothing, as each costs a flush to disk.

    The fence is of what is written: whoever has lost the lease and has nothing to write learns of it elsewhere.
    """
    at = clock.from_ms(planned.plan.at_ms)
    work = work_of(planned.plan, read.known)
    is_due = is_sample_due(read.known.sampled_ms, planned.policy, at)
    if work.is_nothing and not (read.differing or is_due):
        read.known.round = work.told
        return Applied(next_ms=planned.plan.next_ms)
    with transaction(leader.engine) as session:
        told = journal.noted(session)
        applied = apply(session, leader.held, planned, warm, work)
        if read.differing:
            tell_differences(session, read.differing, at=at, actor=leader.actor)
        if is_due:
            sample_usage(session, planned.policy, at=at, actor=leader.actor)
    read.known.round = work.told
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
        took: told of each phase (read, plan, apply) and its seconds, also of cycles without effect. What ends attempts
            whose notice is over is in none of them.

    Raises:
        NoPolicyError: no policy is in force.
        StaleEpochError: another process is the scheduler; nothing was written.
    """
    warm = Warm() if warm is None else warm
    read, reading_s = _read_after_graces(leader, at, warm)
    began = time.monotonic()
    plan = make_plan(read.seen, read.policy, warm.index)
    planned_at = time.monotonic()
    planned = Planned(
        plan=plan,
        policy=read.policy,
        policy_digest=read.digest,
        release=release,
        load_ms=int(reading_s * MS),
        plan_ms=int((planned_at - began) * MS),
        seen=read.seen,
    )
    applied = _apply(leader, planned, warm, read)
    took("read", reading_s)
    took("plan", planned_at - began)
    took("apply", time.monotonic() - planned_at)
    for rejected in applied.rejected:
        _logger.info("job %d was planned and not admitted: %s", rejected.entry.job_id, rejected.why)
    return applied
