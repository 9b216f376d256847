"""Flavors of slices (MIG) with nominals and limits of their own, through the plan."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import pytest

from quota.model import Share, SliceQuota
from quota.policy import PolicyCode, PolicyError
from quota.tree import WHOLE, in_pool, tree_of
from scheduler.model import Admit, ReasonCode, ShareClass, Wait

sys.path.insert(0, str(Path(__file__).parent))
from cluster import Cluster

MIG = "a100-mig-1g.10gb"
TREE = {
    "a": {"nominal": "75%", "slices": {MIG: {"nominal": "25%", "borrowing_limit": 2}}},
    "b": {"nominal": "25%", "slices": {MIG: {"nominal": "75%", "lending_limit": 50_000}}},
}


def cluster_of(build, tree=TREE):
    """Eight whole GPUs, and eight slices on a node of their own."""
    return Cluster(build.policy(tree), [8, 8], ["h200", MIG])


def test_a_node_states_slices_beside_whole_gpus(build):
    a, b = build.policy(TREE).tree
    assert a.slices == ((MIG, SliceQuota(nominal=Share(Fraction(1, 4)), borrowing_limit=2)),)
    assert b.slices[0][1].lending_limit == 50_000


def test_each_flavor_of_slices_has_a_tree_of_its_own(build):
    policy = build.policy(TREE)
    whole, slices = tree_of(policy, 8), tree_of(policy, 8, MIG)
    assert (whole.nominal["a"], whole.nominal["b"], whole.ceiling) == (6, 2, {})
    assert (slices.nominal["a"], slices.nominal["b"], slices.ceiling) == (2, 6, {"a": 4})
    assert in_pool(policy, WHOLE) is policy
    assert in_pool(policy, "other-mig-1g") is policy
    assert tree_of(policy, 8, "other-mig-1g") == whole


def test_what_is_not_stated_for_slices_is_as_for_whole_gpus(build):
    tree = {
        "a": {"nominal": "50%", "lending_limit": 1, "weight": 3, "slices": {MIG: {"borrowing_limit": 1}}},
        "b": {"nominal": "50%", "slices": {MIG: {"weight": 5}}},
    }
    slices = tree_of(build.policy(tree), 8, MIG)
    assert (slices.nominal["a"], slices.ceiling, slices.kept) == (4, {"a": 5}, {"a": 3})
    assert (slices.weight["a"], slices.weight["b"]) == (3, 5)


def test_the_plan_gives_slices_by_their_own_nominals_and_limits(build):
    cluster = cluster_of(build)
    jobs = [cluster.submit(1, "a", flavors=(MIG,)) for _ in range(5)]
    whole = [cluster.submit(1, "a") for _ in range(6)]
    entries = cluster.cycle().entries
    classes = {entry.job_id: entry.share_class for entry in entries if isinstance(entry, Admit)}
    entitled, borrowed = ShareClass.ENTITLED, ShareClass.BORROWED
    assert [classes.get(job) for job in jobs] == [entitled, entitled, borrowed, borrowed, None]
    assert [classes[job] for job in whole] == [entitled] * 6
    [wait] = [entry for entry in entries if isinstance(entry, Wait)]
    assert (wait.job_id, wait.reason) == (jobs[4], ReasonCode.QUEUE_LIMIT)
    assert (wait.numbers["nominal"], wait.numbers["used"]) == (2, 4)


def test_slices_are_taken_back_from_borrowers_of_slices(build):
    cluster = cluster_of(build, {name: node | {"preemption": {"grace": "1m"}} for name, node in TREE.items()})
    for _ in range(4):
        cluster.submit(1, "a", flavors=(MIG,))
    cluster.cycle()
    cluster.advance(1)
    owner = cluster.submit(6, "b", flavors=(MIG,))
    cluster.cycle()
    assert [entry for entry in cluster.log if entry[0] == "notice"] == [
        ("notice", victim, owner) for victim in (3, 4)
    ]


@pytest.mark.parametrize(
    ("slices", "code", "words"),
    [
        ({"h200": {"nominal": 1}}, PolicyCode.BAD_POLICY, "no flavor of slices"),
        ({MIG: {}}, PolicyCode.BAD_POLICY, "states nothing"),
        ({MIG: {"nominall": 1}}, PolicyCode.BAD_POLICY, "nominal"),
        (
            {MIG: {"nominal": "60%"}},
            PolicyCode.SHARES_EXCEED,
            "come to 110% of a100-mig-1g.10gb, it has 100%",
        ),
    ],
)
def test_slices_that_cannot_be_are_refused(build, slices, code, words):
    tree = {"a": {"nominal": "50%", "slices": slices}, "b": {"nominal": "50%"}}
    with pytest.raises(PolicyError, match=words) as refused:
        build.policy(tree)
    assert refused.value.code is code


def test_slices_within_a_parent_of_stated_slices_are_checked_too(build):
    child = {"x": {"nominal": 1, "slices": {MIG: {"nominal": 5}}}}
    tree = {"a": {"nominal": 4, "children": child, "slices": {MIG: {"nominal": 4}}}}
    with pytest.raises(PolicyError, match=r"5 GPUs of a100-mig-1g\.10gb, it has 4 GPUs"):
        build.policy(tree)
