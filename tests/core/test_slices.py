"""Flavors of slices (MIG) with nominals and limits of their own, through the plan."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import pytest

from quota.fairshare import charged, entry_charge, fair_tree, rate_of
from quota.model import Share, SliceQuota
from quota.policy import PolicyCode, PolicyError
from quota.tree import WHOLE, in_pool, tree_of
from scheduler.fields import usage_of
from scheduler.model import Admit, ReasonCode, ShareClass, Wait
from scheduler.order import Aging
from scheduler.preview import Change, preview

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


@pytest.mark.parametrize(
    ("flavor", "rate"),
    [
        ("h200", Fraction(1)),
        (MIG, Fraction(1, 7)),
        ("a100-mig-3g.20gb", Fraction(3, 7)),
        ("h100-mig-1c.3g.40gb", Fraction(1, 7)),
        ("h100-mig-1g.10gb.me", Fraction(1, 7)),
        ("a100-mig-7g.80gb", Fraction(1)),
        ("a100-mig-2g", Fraction(2, 7)),
        ("a100-mig-9g.80gb", Fraction(1)),
        ("a100-mig-1gb", Fraction(1)),
    ],
)
def test_a_flavor_counts_by_the_compute_slices_of_its_name(build, flavor, rate):
    assert rate_of(build.policy(), flavor) == rate
    assert rate_of(build.policy(fair_share_weights={flavor: "0.25"}), flavor) == Fraction(1, 4)


def test_use_is_charged_at_the_rate_and_rounded_down_once_for_all_admissions(build):
    assert entry_charge(2, 3_600, Fraction(1, 7)) == 2 * 3_600_000 // 7 == charged(7_200_000, Fraction(1, 7))
    policy = build.policy({"a": {}, "b": {}}, moves={"gone": "a"}, fair_share_weights={"h100": 0.5})
    admissions = [("a", MIG, 1), ("gone", MIG, 1), ("a", "h100", 3), ("b", "h200", 1)]
    charge_ms = 2 * 3_600_000 // 7 + 3 * 1_800_000
    assert usage_of({"gone": 5}, admissions, policy) == {"a": charge_ms + 5, "b": 3_600_000}
    apart = [("a", MIG, 1)] * 7
    assert usage_of({}, apart, policy) == usage_of({}, [("a", MIG, 7)], policy) == {"a": 3_600_000}


def test_fair_share_weighs_what_is_guaranteed_in_all_pools_at_their_rates(build):
    tree = {
        "a": {"nominal": 4, "slices": {MIG: {"nominal": 0}}},
        "b": {"nominal": 0, "slices": {MIG: {"nominal": 14}}},
        "c": {"nominal": 1, "weight": 6, "slices": {MIG: {"nominal": 1, "weight": 9}}},
        "d": {"nominal": 2, "slices": {MIG: {"nominal": 3}}},
        "e": {"nominal": 0, "slices": {MIG: {"nominal": 0}}},
    }
    policy = build.policy(tree)
    trees = {WHOLE: tree_of(policy, 8), MIG: tree_of(policy, 28, MIG)}
    weight = fair_tree(policy, trees).weight
    assert {path: Fraction(weight[path], weight["e"]) for path in "abcde"} == {
        "a": 4,
        "b": 2,
        "c": 6,
        "d": 2 + Fraction(3, 7),
        "e": 1,
    }
    alone = fair_tree(policy, {WHOLE: trees[WHOLE]})
    assert alone == trees[WHOLE]
    assert fair_tree(policy, {}) is None


def test_slices_cost_their_queue_less_of_its_turn_than_whole_gpus(build):
    """Of two queues with equal weights, who took four slices goes before who took one GPU."""
    tree = {name: {"nominal": 4, "weight": 1} for name in ("a", "b")}
    cluster = cluster_of(build, tree)
    for _ in range(4):
        cluster.submit(1, "b", flavors=(MIG,))
    cluster.submit(1, "a")
    cluster.cycle()
    jobs = [cluster.submit(1, queue) for queue in ("a", "b")]
    admits = [entry for entry in cluster.cycle().entries if isinstance(entry, Admit)]
    assert [entry.job_id for entry in admits] == [jobs[1], jobs[0]]
    assert cluster.usage == {"a": 7_200_000, "b": 4 * (3_600_000 // 7) + 3_600_000}


def test_fair_share_orders_queues_where_all_gpus_are_slices(build):
    tree = {"a": {"nominal": 4, "weight": 1}, "b": {"nominal": 4, "weight": 4}}
    cluster = Cluster(build.policy(tree), [8], [MIG])
    jobs = [cluster.submit(1, queue, flavors=(MIG,)) for queue in "aabb"]
    admits = [entry.job_id for entry in cluster.cycle().entries if isinstance(entry, Admit)]
    assert admits == [jobs[0], jobs[2], jobs[3], jobs[1]]


def test_a_job_ages_by_the_nominal_of_the_flavors_it_takes(build):
    tree = {
        "a": {"nominal": 8, "slices": {MIG: {"nominal": 1}}},
        "b": {"nominal": 0, "slices": {MIG: {"nominal": 7}}},
    }
    policy = build.policy(tree)
    nominals = {WHOLE: tree_of(policy, 8).nominal, MIG: tree_of(policy, 8, MIG).nominal}
    aging = Aging(10**12, 60, nominals)
    cluster = cluster_of(build, tree)

    def can_age(gpus, queue, *flavors):
        return aging.can_age(cluster.known[cluster.submit(gpus, queue, flavors=flavors)], queue)

    assert [can_age(8, "a", "h200"), can_age(9, "a", "h200")] == [True, False]
    assert [can_age(1, "a", MIG), can_age(2, "a", MIG)] == [True, False]
    assert [can_age(7, "b", MIG), can_age(1, "b", "h200")] == [True, False]
    assert [can_age(2, "a", MIG, "h200"), can_age(2, "b", "h200", MIG)] == [True, True]
    assert [can_age(1, "a", "other-mig-1g.5gb"), can_age(1, "none", MIG)] == [False, False]


def test_an_aged_job_of_slices_is_overtaken_no_more(build):
    """A gang of the queue's whole nominal of slices lands under a flood of single slices of its own queue."""
    tree = {
        "a": {"nominal": 0, "weight": 1, "slices": {MIG: {"nominal": 8}}},
        "b": {"nominal": 8, "weight": 1, "slices": {MIG: {"nominal": 0}}},
    }
    policy = build.policy(tree, aging={"full_after": "2h"}, start_reservations=0)
    cluster = Cluster(policy, [8, 8], ["h200", MIG])
    cluster.submit(1, "a", flavors=(MIG,))
    cluster.cycle()
    gang = cluster.submit(8, "a", flavors=(MIG,))
    started = False
    for _ in range(20):
        cluster.submit(1, "a", flavors=(MIG,), priority=5)
        cluster.cycle()
        started = started or ("start", gang) in cluster.log
        cluster.advance(15)
    assert started


def test_a_preview_tells_who_gains_and_loses_slices_and_who_would_be_reclaimed(build):
    cluster = cluster_of(build)
    for _ in range(4):
        cluster.submit(1, "a", flavors=(MIG,))
    whole = cluster.submit(4, "a")
    cluster.cycle()
    cluster.advance(1)
    owner = cluster.submit(8, "b", flavors=(MIG,))
    other = {
        "a": {"nominal": "75%", "preemption": {"grace": "1m"}, "slices": {MIG: {"nominal": 0}}},
        "b": {"nominal": "25%", "slices": {MIG: {"nominal": "100%"}}},
    }
    found = preview(cluster.snapshot(), cluster.policy, build.policy(other, version="2"))
    a, b = found.queues
    assert (a.path, a.nominal_before, a.nominal_after, a.held) == ("a", 6, 6, 4)
    assert (a.borrowed_before, a.borrowed_after) == (0, 0)
    assert a.slices == ((MIG, Change(2, 0, 4, 2, 4)),)
    assert (b.path, b.nominal_before, b.nominal_after, b.held) == ("b", 2, 2, 0)
    assert b.slices == ((MIG, Change(6, 8, 0, 0, 0)),)
    assert found.preempting == tuple(f"{job}-1" for job in (1, 2, 3, 4))
    assert f"{whole}-1" not in found.preempting
    assert owner not in found.admitted


def test_a_preview_of_a_machine_of_slices_alone_counts_no_whole_gpus(build):
    cluster = Cluster(build.policy({"a": {}}), [8], [MIG])
    [queue] = preview(cluster.snapshot(), cluster.policy, cluster.policy).queues
    assert (queue.nominal_after, queue.slices) == (0, ((MIG, Change(8, 8, 0, 0, 0)),))
