"""The capacity divided over the tree: worked cases, then what holds for any tree."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quota.cohort import QuotaUse, Shrunk, ancestors, divide, nominals
from quota.model import ROOT, Policy, QuotaNode, Share
from quota.tree import Use, tree_of

CASES = {
    "equal weights, ties by name": (7, {"p": {"nominal": 7, "children": {"c": {}, "a": {}, "b": {}}}}, {"p/a": 3, "p/b": 2, "p/c": 2}),
    "weights": (32, {"s": {"nominal": "18.75%", "children": {"u": {"weight": 2}, "r": {"weight": 1}}}}, {"s": 6, "s/u": 4, "s/r": 2}),
    "shares of siblings are rounded together": (7, {"a": {"nominal": "50%"}, "b": {"nominal": "50%"}}, {"a": 4, "b": 3}),
    "a whole share is kept whole": (8, {"a": {"nominal": "50%"}, "b": {"nominal": "11.25%"}}, {"a": 4, "b": 0}),
    "the largest remainder, not the largest share": (10, {"a": {"nominal": "61%"}, "b": {"nominal": "39%"}}, {"a": 6, "b": 4}),
    "what no child gets stays the parent's": (10, {"p": {"nominal": 10, "children": {"a": {"nominal": "25%"}, "b": {"nominal": 3}}}}, {"p": 10, "p/a": 2, "p/b": 3}),
    "children without nominal divide what their siblings leave": (10, {"a": {"nominal": 3}, "b": {"nominal": "15%"}, "c": {}, "d": {"weight": 2}}, {"a": 3, "b": 1, "c": 2, "d": 4}),
    "nominal 0 is surplus only": (8, {"a": {"nominal": 0}, "b": {}}, {"a": 0, "b": 8}),
    "the second tie of weights": (8, {"x": {}, "y": {}, "z": {}}, {"x": 3, "y": 3, "z": 2}),
    "no capacity": (0, {"a": {"nominal": "50%"}, "b": {}}, {"a": 0, "b": 0}),
}  # fmt: skip


@pytest.mark.parametrize(("capacity", "tree", "expected"), CASES.values(), ids=CASES)
def test_worked_cases(build, capacity, tree, expected):
    found = divide(build.policy(tree), capacity)
    assert {path: found.nominals[path] for path in expected} == expected
    assert found.nominals[ROOT] == capacity
    assert found.alerts == ()


NATIONAL = {
    "programme": {"nominal": "37.5%"},
    "sectors": {
        "nominal": "25%",
        "children": {name: {} for name in ("energy", "logistics", "mining", "transport")},
    },
    "science": {"nominal": "18.75%", "children": {"universities": {"weight": 2}, "institutes": {}}},
    "startups": {"nominal": "9.375%"},
    "business": {"nominal": "9.375%"},
    "export": {"nominal": 0, "borrowing_limit": "25%"},
}


@pytest.mark.parametrize(
    ("capacity", "expected"),
    [
        (32, {"programme": 12, "sectors": 8, "sectors/energy": 2, "science": 6, "science/universities": 4, "science/institutes": 2, "startups": 3, "business": 3, "export": 0}),
        (512, {"programme": 192, "sectors": 128, "sectors/energy": 32, "science": 96, "startups": 48, "business": 48}),
        (24, {"programme": 9, "sectors": 6, "sectors/energy": 2, "sectors/logistics": 2, "sectors/mining": 1, "science": 5, "business": 2, "startups": 2}),
    ],
)  # fmt: skip
def test_a_national_policy_works_on_any_capacity(build, capacity, expected):
    found = nominals(build.policy(NATIONAL), capacity)
    assert {path: found[path] for path in expected} == expected


def test_too_little_capacity_shrinks_in_proportion_level_by_level_with_an_alert(build):
    policy = build.policy({"a": {"nominal": 16}, "b": {"nominal": 16}})
    found = divide(policy, 24)
    assert found.nominals == {ROOT: 24, "a": 12, "b": 12}
    assert found.alerts == (Shrunk(ROOT, 32, 24),)
    assert found.alerts[0].code == "nominal_exceeds_capacity"
    assert divide(policy, 32).alerts == ()

    deep = build.policy(
        {
            "p": {"nominal": 16, "children": {"a": {"nominal": 8}, "b": {"nominal": 6}, "c": {}}},
            "z": {"nominal": 4},
        }
    )
    found = divide(deep, 10)
    assert found.nominals == {ROOT: 10, "p": 8, "z": 2, "p/a": 5, "p/b": 3, "p/c": 0}
    assert found.alerts == (Shrunk(ROOT, 20, 10), Shrunk("p", 14, 8))


def test_shares_shrink_beside_stated_gpus(build):
    found = divide(build.policy({"a": {"nominal": 16}, "b": {"nominal": "50%"}}), 21)
    assert found.nominals == {ROOT: 21, "a": 13, "b": 8}  # 16 : 10.5 of 21
    assert found.alerts == (Shrunk(ROOT, 27, 21),)


NAMES = st.sampled_from(["a", "b", "c", "d", "e"])
AMOUNTS = st.none() | st.integers(0, 40) | st.fractions(0, 1, max_denominator=40).map(Share)


@st.composite
def trees(draw):
    """Any tree of up to two levels; sums may exceed."""
    found = []
    for name in sorted(draw(st.sets(NAMES, min_size=1))):
        found.append(QuotaNode(name, draw(AMOUNTS), weight=draw(st.none() | st.integers(1, 9))))
        below = sorted(draw(st.sets(NAMES, max_size=4)))
        found.extend(
            QuotaNode(f"{name}/{child}", draw(AMOUNTS), weight=draw(st.none() | st.integers(1, 9)))
            for child in below
        )
    return tuple(found)


def policy_of(tree):
    return Policy("1", date(2026, 1, 1), (), tuple(tree), ())


@given(trees(), st.integers(0, 600), st.randoms(use_true_random=False))
def test_no_level_gives_more_than_it_has_and_listing_order_never_matters(tree, capacity, random):
    found = divide(policy_of(tree), capacity)
    for parent in {node.parent for node in tree}:
        siblings = [node for node in tree if node.parent == parent]
        given_gpus = sum(found.nominals[node.path] for node in siblings)
        assert given_gpus <= found.nominals[parent]
        if any(node.nominal is None for node in siblings) and all(
            alert.parent != parent for alert in found.alerts
        ):
            assert given_gpus == found.nominals[parent]
    assert all(gpus >= 0 for gpus in found.nominals.values())
    shuffled = list(tree)
    random.shuffle(shuffled)
    assert divide(policy_of(shuffled), capacity) == found


@given(trees(), st.integers(0, 600))
def test_every_share_is_within_one_gpu_of_exact(tree, capacity):
    found = divide(policy_of(tree), capacity)
    shrunk = {alert.parent for alert in found.alerts}
    for node in tree:
        if node.parent not in shrunk and node.nominal is not None:
            exact = (
                node.nominal
                if isinstance(node.nominal, int)
                else node.nominal.ratio * found.nominals[node.parent]
            )
            assert abs(found.nominals[node.path] - exact) < 1


def test_ancestors_go_from_the_node_to_the_root():
    assert ancestors("a/b/c") == ("a/b/c", "a/b", "a", ROOT)
    assert ancestors(ROOT) == (ROOT,)


def test_what_a_queue_holds_that_the_tree_has_no_more_counts_at_the_root_alone(build):
    policy = build.policy({"p": {"nominal": 4, "children": {"a": {"nominal": 4}}}})
    use = Use(tree_of(policy, 8), {"p/a": 1, "gone": 2})
    assert [use.at(node) for node in ("p/a", "p", ROOT)] == [1, 1, 3]


def test_use_counts_at_every_node_of_the_path():
    use = QuotaUse.of([("p/a", 1), ("p/b", 3), ("p/a", 1)])
    assert dict(use.used) == {ROOT: 5, "p": 5, "p/a": 2, "p/b": 3}
    assert use.at("gone") == 0
