"""What a waiting user is told, and that the named change is true."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.explain import MAX_AHEAD, MAX_FLAVORS, UNMENDED, Change, Explainer, explain
from scheduler.fit import Bounds, can_ever_fit
from scheduler.model import Admit, JobId, NodeState, ReasonCode, Wait
from scheduler.plan import make_plan

sys.path.insert(0, str(Path(__file__).parent))
from cluster import Cluster
from test_plan_properties import QUEUES, policy_of


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


def test_one_plan_of_a_snapshot_explains_all_its_jobs(build, monkeypatch):
    snapshot, policy, made = gap(build), build.policy(), []
    alone = [explain(job.id, snapshot, policy) for job in snapshot.pending]

    def counted(snapshot, policy, index):
        made.append(snapshot)
        return make_plan(snapshot, policy, index)

    monkeypatch.setattr("scheduler.explain.make_plan", counted)
    explainer = Explainer()
    assert [explainer.explain(job.id, snapshot, policy) for job in snapshot.pending] == alone
    assert sum(planned is snapshot for planned in made) == 1
    explainer.explain(JobId(1), snapshot, replace(policy, version="2"))
    assert sum(planned is snapshot for planned in made) == 2


def test_a_gang_loses_whole_steps_of_its_nodes(build):
    live = [build.live(9, "n0:0 n1:0", wall_s=9_000)]
    snapshot = build.snapshot(build.nodes(8, 8), [build.job(1, 16, nodes=2)], live)
    assert explain(JobId(1), snapshot, build.policy()).changes[0] == Change("gpus", 16, 14)


@pytest.mark.parametrize(
    "kept_back",
    [
        {"is_suspended": True},
        {"is_held": True},
        {"is_paused": True},
        {"waits_for": JobId(9)},
        {"begin_ms": 10**15},
        {"back_off_until_ms": 10**15},
    ],
)
def test_what_keeps_a_job_back_is_mended_by_no_other_request(build, kept_back):
    snapshot = build.snapshot(pending=[build.job(1, 2, **kept_back)])
    found = explain(JobId(1), snapshot, build.policy())
    assert found.wait.reason in UNMENDED
    assert (found.place, found.changes) == (1, ())


def test_a_job_that_starts_or_does_not_wait_is_not_explained(build):
    snapshot = build.snapshot(pending=[build.job(3)])
    assert explain(JobId(3), snapshot, build.policy()) is None
    assert explain(JobId(4), snapshot, build.policy()) is None


def test_a_job_that_can_never_start_is_told_what_could_without_a_plan(build, monkeypatch):
    monkeypatch.setattr("scheduler.explain.make_plan", None)
    tree = {"q": {"nominal": "100%", "max_walltime": "2h"}}
    nodes = (*build.nodes(8), build.node("n9", 8, "a100"))
    snapshot = build.snapshot(
        nodes,
        [
            build.job(1, 99),
            build.job(2, wall_s=9_000),
            build.job(3, flavors=("b200",)),
            build.job(4, 12, wall_s=9_000, nodes=2),
            build.job(5, queue="gone"),
        ],
    )
    changes = {number: explain(JobId(number), snapshot, build.policy(tree)).changes for number in range(1, 6)}
    assert changes == {
        1: (Change("gpus", 99, 8, is_now=False),),
        2: (Change("walltime_s", 9_000, 7_200, is_now=False),),
        3: (Change("flavor", "b200", "a100", is_now=False),),
        4: (),
        5: (),
    }
    found = explain(JobId(1), snapshot, build.policy(tree))
    assert (found.wait.reason, found.place, found.ahead) == (ReasonCode.NEVER_FITS, None, ())


def test_another_flavor_and_any_number_of_nodes_are_named(build):
    nodes = (*build.nodes(8, 8), *(build.node(f"x{number}", 8, f"f{number}") for number in range(9)))
    live = [build.live(9, "n0:0 n0:1 n0:2 n0:3 n0:4 n1:0 n1:1 n1:2 n1:3 n1:4", wall_s=9_000)]
    grants = [build.grant(), *(build.grant(number + 2, flavor=f"f{number}") for number in range(1, 9))]
    snapshot = build.snapshot(nodes, [build.job(1, 4, nodes=1)], live, grants)
    changes = {change.what: change for change in explain(JobId(1), snapshot, build.policy()).changes}
    assert changes["nodes"] == Change("nodes", 1, None)
    assert changes["flavor"] == Change("flavor", "h200", "f1")  # f0 has no grant that pays
    assert changes["gpus"] == Change("gpus", 4, 3)
    far = build.snapshot(nodes, [build.job(1, 4, nodes=1)], live, [grants[0], grants[-1]])
    assert "flavor" not in {change.what for change in explain(JobId(1), far, build.policy()).changes}
    assert MAX_FLAVORS == 8  # f8 is the ninth


def random_snapshot(seed):
    """A small cluster after some cycles of random work, with jobs that wait, and its policy."""
    chance = random.Random(seed)  # noqa: S311 - a reproducible cluster, no secret
    sizes = [chance.choice([2, 4, 8]) for _ in range(chance.randint(1, 4))]
    total = sum(sizes)
    nominal = [chance.randint(0, total // 2), chance.randint(0, total // 4), chance.randint(0, total // 4)]
    limits = chance.choice([{}, {"a": {"borrowing_limit": 2}}, {"p": {"lending_limit": 1}}])
    policy = policy_of(*nominal, limits, chance.choice([0, 1, 3]))
    flavors = ["h200"] * (len(sizes) - 1) + [chance.choice(["h200", "a100"])]
    cluster = Cluster(policy, sizes, flavors)
    for _ in range(chance.randint(2, 6)):
        for _ in range(chance.randint(1, 4)):
            nodes = chance.choice([None, None, 1, 2])
            gpus = chance.randint(1, total) * (nodes or 1)
            wall = chance.choice([3, 10, 45, 300])
            cluster.submit(gpus, chance.choice(QUEUES), wall, nodes=nodes, priority=chance.choice([0, 0, 1]))
        cluster.cycle()
        cluster.advance(chance.choice([1, 7, 60]))
        if chance.random() < 0.2:
            cluster.set_node("n0", NodeState.DOWN)
    return cluster.snapshot(), policy


@given(seed=st.integers(0, 10**9))
def test_every_named_change_starts_the_job_and_one_unit_less_does_not(seed):
    """Over random clusters, with cold plans: what was found with plans that follow one index is true."""
    snapshot, policy = random_snapshot(seed)
    bounds = Bounds(snapshot, policy)
    plan, explainer = make_plan(snapshot, policy), Explainer()
    for wait in [entry for entry in plan.entries if isinstance(entry, Wait)]:
        job = next(job for job in snapshot.pending if job.id == wait.job_id)
        found = explain(job.id, snapshot, policy)
        assert explainer.explain(job.id, snapshot, policy) == found
        assert found.wait == wait or wait.reason is ReasonCode.NEVER_FITS
        for change in found.changes:
            assert_true(change, job, (snapshot, policy), bounds)
        if wait.reason not in UNMENDED | {ReasonCode.NEVER_FITS}:
            named = {change.what for change in found.changes}
            step = job.request.nodes or 1
            if job.request.gpus > step and starts(snapshot, policy, job.id, gpus=step):
                assert "gpus" in named


def assert_true(change, job, world, bounds):
    def helps(**asked):
        if change.is_now:
            return starts(*world, job.id, **asked)
        return can_ever_fit(replace(job.request, **asked), job.queue, bounds) is None

    if change.what == "flavor":
        assert helps(flavors=(change.new,))
    elif change.what == "nodes":
        assert helps(nodes=None)
    else:
        step = job.request.nodes or 1 if change.what == "gpus" else 1
        assert 0 < change.new < change.old
        assert helps(**{change.what: change.new})
        assert not helps(**{change.what: change.new + step})
