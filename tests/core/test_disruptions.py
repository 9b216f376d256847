"""A job is stopped for others only so often; no borrower becomes one that cannot be taken back for that."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.explain import explain
from scheduler.fields import (
    ATTEMPT_DEFAULTS,
    JOB_DEFAULTS,
    MAX_DISRUPTIONS,
    Standing,
    live_attempt,
    pending_job,
)
from scheduler.model import Admit, JobId, Preempt, ReasonCode, Reserve, ShareClass, Wait
from scheduler.plan import make_plan

sys.path.insert(0, str(Path(__file__).parent))
from cluster import Cluster
from test_plan_properties import QUEUES, policy_of

TREE = {"a": {"nominal": 8}, "b": {"nominal": 8}, "x": {"nominal": 0}}
HOUR_MS = 3_600_000


def worn(build, number, gpus, queue, **rest):
    job = build.job(number, gpus, queue, **rest)
    return replace(job, request=replace(job.request, is_entitled_only=True))


def of(plan, kind):
    return [entry for entry in plan.entries if isinstance(entry, kind)]


def test_it_waits_for_room_of_its_own_and_its_start_is_planned_there(build):
    live = [build.live(9, "n0:0 n0:1 n0:2 n0:3", "a", wall_s=3_660)]
    jobs = [worn(build, 1, 6, "a"), build.job(2, 6, "a")]
    plan = make_plan(build.snapshot(build.nodes(8, 8), jobs, live), build.policy(TREE))
    assert [(one.job_id, one.share_class) for one in of(plan, Admit)] == [(2, ShareClass.BORROWED)]
    (planned,) = [one for one in of(plan, Reserve) if one.job_id == 1]
    assert (planned.start_ms, planned.share_class) == (build.now_ms + HOUR_MS, ShareClass.ENTITLED)
    (wait,) = of(plan, Wait)
    assert wait.reason is ReasonCode.BORROWING_LIMIT
    assert wait.numbers == {"queue": "a", "node": "a", "lendable_gpus": 0, "gpus": 6, "cause": "disruptions"}


def test_within_its_guarantee_it_starts_at_once(build):
    plan = make_plan(build.snapshot(pending=[worn(build, 1, 4, "a")]), build.policy(TREE))
    assert [one.share_class for one in of(plan, Admit)] == [ShareClass.ENTITLED]


@pytest.mark.parametrize(("gpus", "queue"), [(4, "x"), (12, "a")])
def test_where_no_guarantee_is_large_enough_it_goes_on_borrowing(build, gpus, queue):
    snapshot = build.snapshot(build.nodes(8, 8), [worn(build, 1, gpus, queue)])
    plan = make_plan(snapshot, build.policy(TREE))
    assert [one.share_class for one in of(plan, Admit)] == [ShareClass.BORROWED]


def test_jobs_like_it_that_were_not_stopped_so_often_are_told_their_own_reason(build):
    live = [build.live(9, "n0:0 n0:1 n0:2 n0:3 n0:4 n0:5 n0:6 n0:7", "a", wall_s=3_660)]
    jobs = [worn(build, 1, 8, "a"), build.job(2, 8, "a"), build.job(3, 8, "a")]
    plan = make_plan(build.snapshot(build.nodes(8, 8), jobs, live), build.policy(TREE))
    assert [one.job_id for one in of(plan, Admit)] == [2]
    assert {one.job_id: one.reason for one in of(plan, Wait)}[3] is not ReasonCode.BORROWING_LIMIT


def test_fewer_gpus_start_it_as_far_as_its_guarantee_reaches(build):
    live = [build.live(9, "n0:0 n0:1 n0:2 n0:3", "a", wall_s=3_660)]
    snapshot = build.snapshot(build.nodes(8, 8), [worn(build, 1, 6, "a")], live)
    changes = {one.what: one.new for one in explain(JobId(1), snapshot, build.policy(TREE)).changes}
    assert changes == {"gpus": 4}


@pytest.mark.parametrize("preemptions", [MAX_DISRUPTIONS - 1, MAX_DISRUPTIONS])
def test_rows_say_when_it_is_so_and_protect_nobody(build, preemptions):
    fields = JOB_DEFAULTS | {
        "project_id": str(build.project), "queue": "a", "gpus": 1, "nodes": None, "flavors": ["h200"],
        "walltime_s": 60, "memory_bytes_per_rank": None, "priority": 0, "submitted_ms": 0, "is_held": False,
        "back_off_until_ms": None, "attempts": 1, "preemptions": preemptions,
    }  # fmt: skip
    job = pending_job(7, fields, is_suspended=False, standing=Standing(), states={})
    assert job.request.is_entitled_only is (preemptions == MAX_DISRUPTIONS)
    attempt = ATTEMPT_DEFAULTS | {
        "job_id": 7, "state": "RUNNING", "admitted_ms": 0, "committed_ms": 0, "stop_why": None,
    }  # fmt: skip
    rank = {"node": "n0", "gpu_uuids": ["n0:0"]}
    assert not live_attempt("7-1", fields, attempt, [rank], Standing()).is_protected
    assert live_attempt("7-1", fields, attempt, [rank], Standing(pinned=frozenset({7}))).is_protected


MOST = 2
"""Disruptions after which the clusters below let a job start within its guarantee alone."""


class Counting(Cluster):
    """A cluster that counts how often each job was stopped for others."""

    def __init__(self, *args):
        super().__init__(*args)
        self.stopped = {}

    def requeue(self, attempt):
        super().requeue(attempt)
        job_id = attempt.job_id
        self.stopped[job_id] = self.stopped.get(job_id, 0) + 1
        request = replace(self.pending[job_id].request, is_entitled_only=self.stopped[job_id] >= MOST)
        self.pending[job_id] = self.known[job_id] = replace(self.pending[job_id], request=request)


@given(seed=st.integers(0, 10**9))
def test_a_job_with_a_guarantee_is_stopped_no_more_often_than_said(seed):
    """And every entitled job that takes back finds its borrowers: none has become one that cannot be stopped."""
    chance = random.Random(seed)  # noqa: S311 - a reproducible cluster, no secret
    sizes = [chance.choice([2, 4, 8]) for _ in range(chance.randint(1, 3))]
    total = sum(sizes)
    nominal = (chance.randint(1, total // 2), chance.randint(0, total // 4), chance.randint(0, total // 4))
    cluster = Counting(policy_of(*nominal, {}, chance.choice([1, 3])), sizes)
    for _ in range(25):
        if chance.random() < 0.7:
            cluster.submit(chance.randint(1, total), chance.choice(QUEUES), chance.choice([3, 10, 300]))
        plan = cluster.cycle()
        victims = {entry.attempt_id for entry in plan.effects if isinstance(entry, Preempt)}
        assert not any(cluster.live[name].is_protected for name in victims)
        cluster.advance(chance.choice([1, 2, 6]))
    guarantee = dict(zip(["a", "p/b", "p/c"], nominal, strict=True))
    for job_id, stopped in cluster.stopped.items():
        job = cluster.known[job_id]
        assert stopped <= MOST or job.request.gpus > guarantee.get(job.queue, 0)
