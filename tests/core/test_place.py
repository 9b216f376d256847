"""Exact nodes and GPUs: small jobs keep whole nodes whole, large ones take them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.model import NodeState, Slot
from scheduler.place import FreeView, GpusTakenError, Shape

CASES = {
    # free GPUs per node (of 8), gpus, nodes -> choice
    "the fullest node that holds it": ((8, 3, 2), 2, None, (("n2", 2),)),
    "not one that is too full": ((8, 3, 1), 2, None, (("n1", 2),)),
    "ties by name": ((4, 4, 8), 4, None, (("n0", 4),)),
    "a whole node": ((7, 8), 8, None, (("n1", 8),)),
    "the fewest nodes when none holds it alone": ((3, 5, 4), 8, None, (("n1", 5), ("n0", 3))),
    "the remainder on the fullest other node": ((5, 5, 2, 1), 6, None, (("n0", 5), ("n3", 1))),
    "three nodes if it must": ((2, 2, 2), 6, None, (("n0", 2), ("n1", 2), ("n2", 2))),
    "one node or none": ((5, 5), 8, 1, None),
    "one node": ((5, 8), 8, 1, (("n1", 8),)),
    "exactly n nodes, the fullest": ((8, 4, 3, 5), 8, 2, (("n1", 4), ("n3", 4))),
    "exactly n nodes, too few": ((8, 4, 3), 12, 3, None),
    "larger than a node: whole nodes and the remainder": (
        (8, 8, 3, 8),
        18,
        None,
        (("n0", 8), ("n1", 8), ("n2", 2)),
    ),
    "larger than a node: whole nodes only": ((8, 7, 8), 16, None, (("n0", 8), ("n2", 8))),
    "larger than a node: the remainder on a whole node": ((8, 8), 12, None, (("n0", 8), ("n1", 4))),
    "larger than a node: no whole nodes": ((7, 7, 7), 16, None, None),
    "larger than a node: no room for the remainder": ((8, 3, 3), 12, None, None),
    "not enough": ((1, 0), 2, None, None),
    "full nodes are no nodes": ((0, 0, 1), 1, None, (("n2", 1),)),
}


def view_of(build, rooms):
    nodes = build.nodes(*[8] * len(rooms))
    held = {uuid for node, room in zip(nodes, rooms, strict=True) for uuid in node.gpu_uuids[: 8 - room]}
    return FreeView(nodes, held)


@pytest.mark.parametrize(("rooms", "gpus", "nodes", "choice"), CASES.values(), ids=CASES)
def test_placement(build, rooms, gpus, nodes, choice):
    view = view_of(build, rooms)
    assert view.choose(Shape("h200", gpus, nodes)) == choice
    assert view.choose(Shape("h200", gpus, nodes)) == choice  # remembered


def test_nodes_of_several_sizes_largest_first(build):
    view = FreeView(build.nodes(4, 8, 4, 8))
    assert view.choose(Shape("h200", 20, None)) == (("n1", 8), ("n3", 8), ("n0", 4))
    assert view.choose(Shape("h200", 13, None)) == (("n1", 8), ("n0", 4), ("n2", 1))
    assert view.choose(Shape("h200", 24, None)) == (("n1", 8), ("n3", 8), ("n0", 4), ("n2", 4))


def test_the_free_gpus_of_the_lowest_index(build):
    view = FreeView(build.nodes(8), {"n0:0", "n0:2"})
    assert view.slots((("n0", 3),)) == (Slot("n0", ("n0:1", "n0:3", "n0:4")),)


def test_taking_moves_the_view_and_not_its_copy(build):
    view = FreeView(build.nodes(8, 8))
    copy = view.copy()
    view.take((Slot("n0", ("n0:0", "n0:3")),))
    assert (view.free("h200"), copy.free("h200")) == (14, 16)
    assert view.choose(Shape("h200", 6, 1)) == (("n0", 6),)
    assert view.choose(Shape("h200", 16, None)) is None
    assert copy.choose(Shape("h200", 16, None)) is not None
    assert view.copy().slots((("n0", 2),)) == (Slot("n0", ("n0:1", "n0:2")),)
    for slot in (Slot("n0", ("n0:3",)), Slot("n9", ("n9:0",)), Slot("n0", ("n1:0",))):
        with pytest.raises(GpusTakenError) as caught:
            view.take((slot,))
        assert caught.value.slot == slot


def test_flavors_never_mix_and_only_nodes_that_are_up_count(build):
    nodes = (
        build.node("a", 4, "h100"),
        build.node("b"),
        build.node("c", state=NodeState.DOWN),
        build.node("d", state=NodeState.DRAINED),
    )
    view = FreeView.of(nodes, [build.live(1, "b:0 c:1")])
    assert (view.free("h200"), view.free("h100"), view.free("x")) == (7, 4, 0)
    assert view.flavors == ("h100", "h200")
    assert view.choose(Shape("h200", 8, None)) is None
    assert view.choose(Shape("x", 1, None)) is None
    assert FreeView.in_service(nodes).free("h200") == 16
    assert view.flavor_of((Slot("b", ("b:1",)),)) == "h200"
    assert view.flavor_of((Slot("b", ("b:1",)), Slot("a", ("a:0",)))) is None
    assert view.flavor_of((Slot("b", ("b:0",)),)) is None
    assert view.flavor_of((Slot("b", ()),)) is None
    assert view.flavor_of(()) is None


def test_the_most_a_job_could_get(build):
    view = view_of(build, (8, 3, 5, 0))
    assert [view.of_flavor("h200").most((), None, nodes) for nodes in (None, 1, 2, 3, 4)] == [16, 8, 10, 9, 0]
    assert view.biggest("h200") == 8


@given(
    st.lists(st.integers(0, 8), min_size=1, max_size=6), st.integers(1, 40), st.sampled_from([None, 1, 2, 4])
)
def test_a_choice_is_what_was_asked_for_and_is_free(build, rooms, gpus, nodes):
    gpus = gpus if nodes is None else gpus * nodes
    choice = view_of(build, rooms).choose(Shape("h200", gpus, nodes))
    fits_one = any(room >= gpus for room in rooms)
    if nodes is None and gpus <= 8:
        assert (choice is not None) == (sum(rooms) >= gpus)
        assert choice is None or not fits_one or len(choice) == 1
    if nodes is not None:
        assert (choice is not None) == (sum(room >= gpus // nodes for room in rooms) >= nodes)
    if choice is not None:
        names = [name for name, _ in choice]
        assert len(set(names)) == len(names) == (nodes or len(names))
        assert sum(count for _, count in choice) == gpus
        assert all(1 <= count <= rooms[int(name[1:])] for name, count in choice)


def test_a_remainder_that_no_node_holds_is_refused(build):
    held = {f"{node}:{gpu}" for node in ("n1", "n2") for gpu in (0, 1)}
    view = FreeView(build.nodes(2, 8, 8), held)
    assert view.choose(Shape("h200", 9, None)) is None


def test_gpus_on_a_node_that_does_not_count_are_neither_taken_nor_given_back(build):
    """An attempt may hold GPUs of a node that is down, beside some of one that is not."""
    view = FreeView.of(build.nodes(8), ())
    slots = (Slot("n0", ("n0:3", "n0:0")), Slot("gone", ("gone:0",)))
    view.occupy(slots)
    assert view.free("h200") == 6
    assert view.slots((("n0", 2),)) == (Slot("n0", ("n0:1", "n0:2")),)
    view.occupy((Slot("n0", ("n0:3", "n0:1")),))
    assert view.free("h200") == 5
    view.give_back(slots)
    assert view.free("h200") == 7
    assert view.slots((("n0", 7),))[0].gpu_uuids == ("n0:0", *(f"n0:{index}" for index in range(2, 8)))
