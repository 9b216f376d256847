"""The platform's own load as a trace: jobs that ran and ended, from the journal alone."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from sqlalchemy import Engine

from quota import service as quota
from quota.model import Policy
from scheduler.fields import Fields, integer, optional_integer, request_of
from scheduler.fold import FoldedState, fold
from scheduler.machines import as_up
from scheduler.model import FINAL_STATES, JobState, Node
from scheduler.traces import TraceJob
from store import clock, journal
from store.engine import snapshot

MS = 1_000
"""Milliseconds of a second."""


def read_journal(
    engine: Engine, *, days: int, at: datetime
) -> tuple[list[TraceJob], list[str], Policy, tuple[Node, ...]]:
    """Read the jobs submitted in the last days that ran and ended, their queues, and the policy in force.

    Args:
        engine: the database.
        days: how far back, 1 or more.
        at: now.

    Returns:
        Jobs by submission, the queue of each, the policy, the nodes in service. A job's run is that of its last
        attempt, from its commit to its end; it asks for all that it asked for, but priority, dependencies and arrays.

    Raises:
        NoPolicyError: no policy is in force.
    """
    with snapshot(engine) as session:
        policy = quota.policy_in_force(session, at)
        state = fold(journal.read(session))
    found = list(_runs(state, clock.to_ms(at - timedelta(days=days))))
    found.sort(key=lambda run: (integer(run[1]["submitted_ms"]), run[0]))
    first_ms = min((integer(job["submitted_ms"]) for _, job, _ in found), default=0)
    jobs = [
        TraceJob(
            id=str(job_id),
            submit_s=(integer(job["submitted_ms"]) - first_ms) // MS,
            duration_s=max(1, ran_ms // MS),
            gpus=integer(job["gpus"]),
            tenant=str(job["project_id"]),
            sector="",
            walltime_s=integer(job["walltime_s"]),
            asks=request_of(job),
        )
        for job_id, job, ran_ms in found
    ]
    nodes = as_up(state.nodes[name] for name in sorted(state.nodes))
    return jobs, [str(job["queue"]) for _, job, _ in found], policy, nodes


def _runs(state: FoldedState, since_ms: int) -> Iterable[tuple[int, Fields, int]]:
    """Jobs that ended after a run, with its milliseconds."""
    for job_id, job in state.jobs.items():
        attempt = state.attempts.get(f"{job_id}-{job['attempts']}")
        is_over = JobState(str(job["state"])) in FINAL_STATES and integer(job["submitted_ms"]) >= since_ms
        if attempt is None or not is_over:
            continue
        begun_ms = optional_integer(attempt["committed_ms"])
        ended_ms = optional_integer(attempt["ended_ms"])
        if begun_ms is not None and ended_ms is not None:
            yield job_id, job, ended_ms - begun_ms
