"""Labels of nodes, levels of the topology, spread or pack: through the plan, the re-check and the reasons."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quota.policy import PolicyError
from scheduler.fit import Fit, Limit, NoFit, can_ever_fit, fits
from scheduler.model import Admit, NodeState, Placement, ReasonCode, Request, Reserve, Slot, Wait
from scheduler.place import FreeView, Shape
from scheduler.plan import make_plan
from scheduler.topology import Terms, levels_of, terms_of

sys.path.insert(0, str(Path(__file__).parent))
from cluster import Cluster

RACK, BLOCK = "kezek.kz/rack", "kezek.kz/block"
LEVELS = [BLOCK, RACK]


def racks(build, *domains, gpus=8):
    """Nodes n0, n1, …, each in a "block/rack"; "" = a node without labels."""
    found = []
    for number, domain in enumerate(domains):
        block, _, rack = domain.partition("/")
        labels = ((BLOCK, block), (RACK, rack)) if domain else ()
        found.append(replace(build.node(f"n{number}", gpus), labels=labels))
    return tuple(found)


def asking(build, gpus, number=1, queue="q", nodes=None, **asks):
    job = build.job(number, gpus, queue, nodes=nodes)
    return replace(job, request=replace(job.request, **asks))


def planned(build, snapshot, **settings):
    plan = make_plan(snapshot, build.policy(topology=LEVELS, **settings))
    return {entry.job_id: entry for entry in plan.entries if isinstance(entry, Admit | Wait)}


def nodes_of(entry):
    return [slot.node for slot in entry.slots]


@pytest.mark.parametrize(
    ("required", "preferred", "levels"),
    [
        (None, None, (None,)),
        (RACK, None, (RACK,)),
        (BLOCK, None, (BLOCK,)),
        (None, RACK, (RACK, BLOCK, None)),
        (None, BLOCK, (BLOCK, None)),
        (BLOCK, RACK, (RACK, BLOCK)),
        (RACK, RACK, (RACK,)),
        (RACK, BLOCK, ()),  # what is preferred is wider than what is required
        ("other", None, ()),
        (RACK, "other", ()),
    ],
)
def test_levels_are_tried_from_the_preferred_one_upwards(required, preferred, levels):
    assert levels_of(LEVELS, required, preferred) == levels


def test_a_plain_request_has_no_terms():
    assert terms_of(Request(8, 60, ("h200",)), LEVELS) is None
    terms = terms_of(Request(8, 60, ("h200",), node_labels=(("a", "b"),), cpus_per_gpu=2), LEVELS)
    assert terms == Terms((("a", "b"),), cpus_per_gpu=2)
    assert terms_of(Request(1, 60, ("h200",), placement=Placement.SPREAD), ()) == Terms(is_spread=True)


def test_a_job_with_labels_starts_only_on_nodes_that_have_all_of_them(build):
    nodes = racks(build, "a/r1", "a/r2", "b/r1", "")
    wants = asking(build, 8, node_labels=((BLOCK, "b"), (RACK, "r1")))
    assert nodes_of(planned(build, build.snapshot(nodes, [wants]))[1]) == ["n2"]


def test_labels_that_no_node_has_never_fit(build):
    nodes = racks(build, "a/r1", "")
    policy = build.policy(topology=LEVELS)
    bounds = build.bounds(build.snapshot(nodes), policy)
    for labels in (((RACK, "r9"),), ((BLOCK, "b"), (RACK, "r1")), (("other", "r1"),)):
        never = can_ever_fit(asking(build, 1, node_labels=labels).request, "q", bounds)
        assert never.limit is Limit.LABELS
        assert never.numbers["labels"] == ",".join(f"{key}={value}" for key, value in labels)
        assert never.numbers["max_gpus"] == 0
    never = can_ever_fit(asking(build, 9, node_labels=((RACK, "r1"),)).request, "q", bounds)
    assert (never.limit, never.numbers["max_gpus"]) == (Limit.SHAPE, 8)


def test_figures_count_only_nodes_with_the_labels(build):
    nodes = racks(build, "a/r1", "a/r1", "b/r2", "b/r2")
    live = [build.live(7, "n0:0 n0:1 n0:2 n0:3 n0:4"), build.live(8, "n1:0 n1:1 n1:2 n1:3")]
    found = planned(
        build,
        build.snapshot(
            nodes,
            [
                asking(build, 6, 1, node_labels=((RACK, "r1"),), nodes=1),
                asking(build, 8, 2, node_labels=((RACK, "r1"),)),
            ],
            live,
        ),
        tree={"q": {"nominal": 0}},
    )
    assert (found[1].reason, found[1].numbers["free"]) == (ReasonCode.FRAGMENTED, 7)
    assert (found[2].reason, found[2].numbers["free"]) == (ReasonCode.NO_CAPACITY, 7)


def test_a_required_level_takes_one_domain_the_fullest_that_holds_the_job(build):
    nodes = racks(build, "a/r1", "a/r1", "a/r2", "a/r2", "a/r2", "b/r3", "b/r3")
    live = [build.live(9, "n4:0")]
    wants = [asking(build, 16, number, topology_required=RACK) for number in (1, 2, 3)]
    found = planned(build, build.snapshot(nodes, wants, live))
    assert [nodes_of(found[number]) for number in (1, 2, 3)] == [["n0", "n1"], ["n5", "n6"], ["n2", "n3"]]


def test_a_node_without_the_label_is_in_no_domain(build):
    nodes = racks(build, "a/r1", "", "")
    entry = planned(build, build.snapshot(nodes, [asking(build, 4, topology_required=RACK)]))[1]
    assert nodes_of(entry) == ["n0"]
    snapshot = build.snapshot(nodes, [asking(build, 16, topology_required=RACK)])
    entry = planned(build, snapshot)[1]
    assert entry.reason is ReasonCode.NEVER_FITS
    assert {"limit": "topology", "level": RACK, "levels": f"{BLOCK},{RACK}", "max_gpus": 8}.items() <= dict(
        entry.numbers
    ).items()


@pytest.mark.parametrize(
    "asks", [{"topology_required": "other"}, {"topology_required": RACK, "topology_preferred": BLOCK}]
)
def test_levels_that_the_policy_does_not_have_in_this_order_never_fit(build, asks):
    bounds = build.bounds(build.snapshot(racks(build, "a/r1")), build.policy(topology=LEVELS))
    never = can_ever_fit(asking(build, 1, **asks).request, "q", bounds)
    assert never.limit is Limit.TOPOLOGY
    assert never.numbers["level"] == asks["topology_required"]


def test_the_reason_names_the_level_that_refuses_and_the_largest_room_in_one_domain(build):
    nodes = racks(build, "a/r1", "a/r1", "b/r2", "b/r2")
    wants = asking(build, 14, nodes=2, topology_required=RACK)
    live = [build.live(7, "n0:0"), build.live(8, "n2:0 n2:1 n2:2")]
    assert nodes_of(planned(build, build.snapshot(nodes, [wants], live))[1]) == ["n0", "n1"]
    live = [build.live(7, "n0:0 n0:1 n0:2"), build.live(8, "n2:0")]
    assert nodes_of(planned(build, build.snapshot(nodes, [wants], live))[1]) == ["n2", "n3"]
    live = [build.live(7, "n0:0 n0:1 n0:2"), build.live(8, "n2:0 n2:1 n2:2 n2:3")]
    for tree, reason in (({"q": {"nominal": 0}}, "FRAGMENTED"), (None, "FRAGMENTED_BY_ENTITLED")):
        found = planned(build, build.snapshot(nodes, [wants], live), tree=tree)[1]
        assert found.reason == reason
        assert dict(found.numbers) == {
            "free": 25, "gpus": 14, "flavor": "h200", "lacks": "topology", "level": RACK, "largest": 10
        }  # fmt: skip
    live.append(build.live(9, "n1:0 n3:0"))
    live.append(build.live(10, "n1:1 n3:1"))
    found = planned(build, build.snapshot(nodes, [wants], live), tree={"q": {"nominal": 0}})[1]
    assert (found.reason, "lacks" in found.numbers) == (
        ReasonCode.FRAGMENTED,
        False,
    )  # nowhere such two nodes


def test_the_largest_room_for_a_gang_is_of_whole_nodes(build):
    """A rack with two whole nodes would do; the most is one whole node and seven GPUs of another."""
    nodes = racks(build, "a/r1", "a/r1", "a/r1", "b/r2", "b/r2")
    live = [
        build.live(7, "n0:0 n0:1 n0:2 n0:3 n0:4 n0:5 n1:0 n1:1 n1:2 n1:3 n1:4 n1:5"),
        build.live(8, "n4:0"),
    ]
    wants = asking(build, 16, topology_required=RACK)
    found = planned(build, build.snapshot(nodes, [wants], live), tree={"q": {"nominal": 0}})[1]
    assert (found.reason, found.numbers.get("lacks")) == (ReasonCode.FRAGMENTED, "topology")
    assert found.numbers["largest"] == 15


def test_a_preferred_level_gives_way_upwards_and_then_to_any_nodes(build):
    nodes = racks(build, "a/r1", "a/r2", "b/r3", "b/r4", "b/r4")
    wants = [asking(build, gpus, topology_preferred=RACK) for gpus in (16, 24, 32)]
    places = [nodes_of(planned(build, build.snapshot(nodes, [want]))[1]) for want in wants]
    assert places == [["n3", "n4"], ["n2", "n3", "n4"], ["n0", "n1", "n2", "n3"]]
    both = asking(build, 24, topology_preferred=RACK, topology_required=BLOCK)
    assert nodes_of(planned(build, build.snapshot(nodes, [both]))[1]) == ["n2", "n3", "n4"]
    too_large = asking(build, 32, topology_preferred=RACK, topology_required=BLOCK)
    assert planned(build, build.snapshot(nodes, [too_large]))[1].reason is ReasonCode.NEVER_FITS


def test_a_domain_with_the_gpus_but_no_shape_is_passed_over(build):
    nodes = racks(build, "a/r1", "a/r1", "a/r2", "a/r2")
    live = [build.live(7, "n0:0 n0:1 n0:2 n0:3"), build.live(8, "n1:0 n1:1 n1:2 n1:3")]
    wants = asking(build, 8, nodes=1, topology_required=RACK)
    assert nodes_of(planned(build, build.snapshot(nodes, [wants], live))[1]) == ["n2"]


def test_spread_takes_the_emptiest_node_and_pack_the_fullest(build):
    nodes = build.nodes(8, 8, 8)
    live = [build.live(7, "n0:0 n0:1"), build.live(8, "n1:0")]
    spread = {"placement": Placement.SPREAD}
    cases = [
        (2, None, {}, ["n0"]),
        (2, None, spread, ["n2"]),
        (4, 2, {}, ["n0", "n1"]),
        (4, 2, spread, ["n2", "n1"]),
    ]
    for gpus, count, asks, names in cases:
        wants = asking(build, gpus, nodes=count, **asks)
        assert nodes_of(planned(build, build.snapshot(nodes, [wants], live))[1]) == names


def test_spread_jobs_go_to_node_after_node(build):
    wants = [asking(build, 1, number, placement=Placement.SPREAD) for number in (1, 2, 3)]
    found = planned(build, build.snapshot(build.nodes(4, 4, 4), wants))
    assert [nodes_of(found[number]) for number in (1, 2, 3)] == [["n0"], ["n1"], ["n2"]]


@pytest.mark.parametrize(
    ("names", "asks", "is_right"),
    [
        (("n0", "n1"), {"topology_required": RACK}, True),
        (("n1", "n2"), {"topology_required": RACK}, False),
        (("n1", "n2"), {"topology_required": BLOCK}, True),
        (("n1", "n2"), {"topology_preferred": RACK}, True),
        (("n0", "n1"), {"node_labels": ((RACK, "r1"),)}, True),
        (("n1", "n2"), {"node_labels": ((RACK, "r1"),)}, False),
        (("n1", "n3"), {"topology_required": BLOCK}, False),
    ],
)
def test_the_applier_checks_labels_and_levels_again(build, names, asks, is_right):
    world = build.world(build.policy(topology=LEVELS), nodes=racks(build, "a/r1", "a/r1", "a/r2", ""))
    slots = tuple(Slot(name, tuple(f"{name}:{gpu}" for gpu in range(8))) for name in names)
    found = fits(asking(build, 16, **asks), world, slots=slots)
    assert isinstance(found, Fit if is_right else NoFit)


def test_a_planned_start_keeps_to_its_domain_and_moves_when_a_label_changes(build):
    """A rack's job waits for its rack; the node is moved to another rack, and the plan with it."""
    policy = build.policy({"q": {"nominal": "100%"}}, topology=LEVELS)
    cluster = Cluster(policy, [8, 8, 8, 8])
    for name, rack in zip(cluster.nodes, ("r1", "r1", "r2", "r2"), strict=True):
        cluster.nodes[name] = replace(cluster.nodes[name], labels=((RACK, rack),))
    for minutes in (10, 20, 30, 40):
        cluster.submit(8, "q", minutes)
    cluster.cycle()
    gang = cluster.submit(16, "q", asks={"topology_required": RACK})
    [reserve] = [entry for entry in cluster.cycle().entries if isinstance(entry, Reserve)]
    racks_of = {name: dict(node.labels)[RACK] for name, node in cluster.nodes.items()}
    assert {racks_of[name] for name, _ in reserve.place} == {"r1"}
    assert reserve.start_ms == cluster.at_ms + 20 * 60_000
    cluster.nodes["n1"] = replace(cluster.nodes["n1"], labels=((RACK, "r2"),))
    cluster.nodes["n3"] = replace(cluster.nodes["n3"], labels=((RACK, "r1"),))
    cluster.advance(1)
    [reserve] = [entry for entry in cluster.cycle().entries if isinstance(entry, Reserve)]
    assert [name for name, _ in reserve.place] == ["n1", "n2"]
    assert reserve.start_ms == cluster.at_ms + 29 * 60_000
    cluster.advance(29)
    assert [entry.job_id for entry in cluster.cycle().entries if isinstance(entry, Admit)] == [gang]


def test_a_job_with_labels_that_found_no_room_shuts_out_no_plain_one(build):
    policy = build.policy({"a": {"nominal": 0}, "b": {"nominal": 0}}, topology=LEVELS, start_reservations=0)
    nodes = racks(build, "a/r1", "b/r2")
    live = [build.live(9, " ".join(f"n0:{gpu}" for gpu in range(8)), "a")]
    jobs = [asking(build, 8, 1, "a", node_labels=((RACK, "r1"),)), asking(build, 8, 2, "b")]
    plan = make_plan(build.snapshot(nodes, jobs, live), policy)
    assert [entry.job_id for entry in plan.entries if isinstance(entry, Admit)] == [2]


def test_a_drained_rack_is_no_room(build):
    nodes = [replace(node, state=NodeState.DRAINED) for node in racks(build, "a/r1", "a/r1")]
    nodes += [replace(node, name=f"m{node.name}") for node in racks(build, "b/r2", "")]
    never = planned(build, build.snapshot(nodes, [asking(build, 16, topology_required=RACK)]))[1]
    assert (never.reason, never.numbers["limit"]) == (ReasonCode.NEVER_FITS, "topology")


@given(
    st.lists(st.tuples(st.integers(0, 8), st.sampled_from(["", "x", "y", "z"])), min_size=1, max_size=8),
    st.integers(1, 40),
    st.sampled_from([None, 1, 2]),
    st.sampled_from([(RACK,), (RACK, None)]),
)
def test_a_level_is_kept_exactly_when_one_domain_holds_the_job(build, rooms, gpus, nodes, levels):
    gpus = gpus if nodes is None else gpus * nodes
    held, found = set(), []
    for number, (free, rack) in enumerate(rooms):
        node = replace(build.node(f"n{number}"), labels=((RACK, rack),) if rack else ())
        held |= set(node.gpu_uuids[free:])
        found.append(node)
    view = FreeView(found, held)
    choice = view.choose(Shape("h200", gpus, nodes, Terms(levels=levels)))
    alone = {
        rack: FreeView([node for node in found if node.labels == ((RACK, rack),)], held) for rack in "xyz"
    }
    holding = [rack for rack in "xyz" if alone[rack].choose(Shape("h200", gpus, nodes)) is not None]
    if holding:
        used = {rooms[int(name[1:])][1] for name, _ in choice}
        assert used == {min(holding, key=lambda rack: (alone[rack].free("h200"), rack))}
    elif None in levels:
        assert choice == view.choose(Shape("h200", gpus, nodes))
    else:
        assert choice is None
    assert view.of_flavor("h200").most((), RACK, None) == max(alone[rack].free("h200") for rack in "xyz")
    assert np.array_equal(view.copy().of_flavor("h200").free, view.of_flavor("h200").free)


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ([RACK, RACK], "named twice"),
        (["a b"], "no key of a label"),
        ([f"k{number}" for number in range(17)], "at most 16"),
        ([], "empty list"),
    ],
)
def test_a_policy_names_each_level_once(build, levels, words):
    with pytest.raises(PolicyError, match=words) as refused:
        build.policy(topology=levels)
    assert refused.value.path.startswith("policy.topology")


def test_a_policy_names_its_levels_widest_first(build):
    assert build.policy(topology=LEVELS).topology == (BLOCK, RACK)
    assert build.policy(topology=RACK).topology == (RACK,)
    assert len(build.policy(topology=[f"k{number}" for number in range(16)]).topology) == 16
