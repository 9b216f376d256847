"""What a waiting user is told, and that the named change is true."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.explain import MAX_AHEAD, Change, explain
from scheduler.model import Admit, JobId, ReasonCode
from scheduler.plan import make_plan


def starts(snapshot, policy, job_id, **change):
    pending = tuple(
        replace(job, request=replace(job.request, **change)) if job.id == job_id else job
        for job in snapshot.pending
    )
    plan = make_plan(replace(snapshot, pending=pending), policy)
    return any(isinstance(entry, Admit) and entry.job_id == job_id for entry in plan.entries)


def gap(build):
    """4 GPUs busy for an hour, the gang behind them planned for its end, 4 GPUs free until then."""
    live = [build.live(9, "n0:0 n0:1 n0:2 n0:3", wall_s=3_600 + 60)]
    return build.snapshot(
        pending=[build.job(1, 8), build.job(2, 4, wall_s=9_000), build.job(3, 6, wall_s=60)], live=live
    )


@pytest.mark.parametrize(
    ("job_id", "what", "new"), [(2, "walltime_s", 3_600), (3, "gpus", 4), (1, "gpus", 4)]
)
def test_the_named_change_starts_the_job_and_one_unit_less_does_not(build, job_id, what, new):
    snapshot, policy = gap(build), build.policy()
    found = explain(JobId(job_id), snapshot, policy)
    changes = {change.what: change for change in found.changes}
    assert changes[what].new == new
    assert starts(snapshot, policy, job_id, **{what: new})
    assert not starts(snapshot, policy, job_id, **{what: new + 1})


def test_among_too_many_jobs_no_change_is_looked_for(build, monkeypatch):
    monkeypatch.setattr("scheduler.explain.MAX_TRIED", 2)
    assert explain(JobId(3), gap(build), build.policy()).changes == ()


def test_place_who_is_ahead_and_the_planned_start(build):
    snapshot, policy = gap(build), build.policy()
    found = explain(JobId(3), snapshot, policy)
    assert (found.place, found.ahead) == (3, ((2, "id"), (1, "id")))
    assert found.wait.reason is ReasonCode.NO_CAPACITY
    head = explain(JobId(1), snapshot, policy)
    assert (head.place, head.ahead, head.start_ms) == (1, (), build.now_ms + 3_600_000)
    many = build.snapshot(pending=[build.job(number, 8) for number in range(1, 30)])
    assert len(explain(JobId(29), many, policy).ahead) == MAX_AHEAD


def test_a_gang_loses_whole_steps_of_its_nodes(build):
    live = [build.live(9, "n0:0 n1:0", wall_s=9_000)]
    snapshot = build.snapshot(build.nodes(8, 8), [build.job(1, 16, nodes=2)], live)
    assert explain(JobId(1), snapshot, build.policy()).changes[0] == Change("gpus", 16, 14)


def test_what_no_smaller_request_mends_is_answered_by_one_plan(build):
    snapshot = build.snapshot(pending=[build.job(1, 99), build.job(2, is_held=True), build.job(3)])
    assert explain(JobId(1), snapshot, build.policy()).changes == ()
    assert explain(JobId(2), snapshot, build.policy()).wait.reason is ReasonCode.HELD
    assert explain(JobId(3), snapshot, build.policy()) is None
    assert explain(JobId(4), snapshot, build.policy()) is None
