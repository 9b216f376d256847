"""Sampling decayed use: every interval of the policy the past fades and real use takes the entry charges' place."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from quota.fairshare import MS, UsageBook, charged, rate_of
from quota.model import Policy
from quota.policy import policy_queue
from quota.tables import GrantRow
from scheduler.tables import AttemptRow, JobRow, UsageRow
from store import clock, journal


def is_sample_due(sampled_ms: int, policy: Policy, at: datetime) -> bool:
    """Whether it is time to sample use.

    Args:
        sampled_ms: when it was sampled last, 0 = never.
        policy: the policy in force.
        at: now.
    """
    return not sampled_ms or clock.to_ms(at) - sampled_ms >= policy.usage_sampling_s * MS


def sample_usage(session: Session, policy: Policy, *, at: datetime, actor: str) -> bool:
    """Sample the use of every queue when it is time; whether it was. O(attempts since the last sample).

    Args:
        session: the open unit of work, fenced.
        policy: the policy in force: interval, half-life, queues.
        at: now.
        actor: as the journal names actors.
    """
    at = clock.from_ms(clock.to_ms(at))
    last = session.scalar(select(func.max(UsageRow.sampled_at)))
    if not is_sample_due(0 if last is None else clock.to_ms(last), policy, at):
        return False
    elapsed_s = policy.usage_sampling_s if last is None else int((at - last).total_seconds())
    rows = {row.queue: row for row in session.scalars(select(UsageRow))}
    since = at - timedelta(seconds=policy.usage_sampling_s) if last is None else last
    book = UsageBook({row.queue: row.used_gpu_ms for row in rows.values()})
    held = _held_ms(session, policy, since, at)
    parents = {node.parent for node in policy.tree}
    idle = {node.path: 0 for node in policy.tree if node.path not in parents}
    usage = book.sample(idle | held, elapsed_s, policy.usage_half_life_s).usage()
    for queue, used in usage.items():
        if queue in rows:
            rows[queue].used_gpu_ms, rows[queue].sampled_at = used, at
        else:
            session.add(UsageRow(queue=queue, used_gpu_ms=used, sampled_at=at))
    data: dict[str, object] = {"sampled_ms": clock.to_ms(at), "elapsed_s": elapsed_s, "usage": usage}
    journal.append(session, "usage.sampled", "lease:scheduler", actor=actor, at=at, data=data)
    session.flush()
    return True


def _held_ms(session: Session, policy: Policy, since: datetime, at: datetime) -> dict[str, int]:
    """GPU-milliseconds that each queue held in [since, at), every flavor at its rate."""
    found = session.execute(
        select(JobRow.queue, JobRow.gpus, GrantRow.flavor, AttemptRow.admitted_at, AttemptRow.ended_at)
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .join(GrantRow, GrantRow.id == AttemptRow.grant_id)
        .where((AttemptRow.ended_at.is_(None)) | (AttemptRow.ended_at > since))
    )
    held: dict[str, int] = {}
    for row in found:
        elapsed = min(row.ended_at or at, at) - max(row.admitted_at, since)
        queue = policy_queue(policy, row.queue)
        held_ms = row.gpus * max(0, int(elapsed.total_seconds() * MS))
        held[queue] = held.get(queue, 0) + charged(held_ms, rate_of(policy, row.flavor))
    return held
