"""CPUs and memory beside GPUs: shares of nodes, more than the share, over time; never more than a node has."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.fit import Bounds, Fit, Limit, NoFit, World, can_ever_fit, fits
from scheduler.index import Index
from scheduler.model import Admit, JobId, NodeState, Placement, ReasonCode, Reserve, ShareClass, Slot, Wait
from scheduler.place import FreeView
from scheduler.plan import make_plan, plan_digest
from scheduler.profile import Hold

sys.path.insert(0, str(Path(__file__).parent))
from cluster import MINUTE_MS, Cluster

GIB = 2**30


def sized(node, cpus=64, memory=512 * GIB, labels=()):
    return replace(node, cpus=cpus, memory_bytes=memory, labels=labels)


def cluster_of(build, *sizes, tree=None, **amounts):
    """Nodes of 8 CPUs and 64 GiB for each GPU, if they have 8."""
    cluster = Cluster(build.policy(tree), sizes)
    cluster.nodes = {name: sized(node, **amounts) for name, node in cluster.nodes.items()}
    return cluster


def asking(build, gpus, number=1, nodes=None, **asks):
    job = build.job(number, gpus, nodes=nodes)
    return replace(job, request=replace(job.request, **asks))


def entries(plan, kind):
    return [entry for entry in plan.entries if isinstance(entry, kind)]


def test_a_job_that_asks_for_more_than_its_share_leaves_gpus_without_cpus(build):
    cluster = cluster_of(build, 8)
    greedy = cluster.submit(1, "q", asks={"cpus_per_gpu": 40})
    plain = [cluster.submit(1, "q") for _ in range(4)]
    plan = cluster.cycle()
    assert [entry.job_id for entry in entries(plan, Admit)] == [greedy, *plain[:3]]  # 40 + 3 x 8 = 64
    [wait] = entries(plan, Wait)
    assert wait.reason is ReasonCode.WAITING_TURN
    cluster.advance(1)
    [wait] = entries(cluster.cycle(), Wait)
    assert wait.reason is ReasonCode.FRAGMENTED
    assert dict(wait.numbers) == {
        "free": 4, "gpus": 1, "flavor": "h200", "lacks": "cpus", "cpus_per_gpu": 8, "free_cpus": 0
    }  # fmt: skip


def test_a_job_that_asks_for_less_leaves_more_to_others(build):
    cluster = cluster_of(build, 8)
    cluster.submit(4, "q", asks={"cpus_per_gpu": 1})
    greedy = cluster.submit(3, "q", asks={"cpus_per_gpu": 20})
    plan = cluster.cycle()
    assert greedy in [entry.job_id for entry in entries(plan, Admit)]  # 4 + 60 = 64


def test_memory_counts_as_cpus_do(build):
    cluster = cluster_of(build, 8, 8)
    first = cluster.submit(2, "q", asks={"memory_bytes_per_gpu": 200 * GIB})
    second = cluster.submit(2, "q", asks={"memory_bytes_per_gpu": 200 * GIB})
    third = cluster.submit(2, "q", asks={"memory_bytes_per_gpu": 200 * GIB})
    plan = cluster.cycle()
    places = {entry.job_id: [slot.node for slot in entry.slots] for entry in entries(plan, Admit)}
    assert places == {first: ["n0"], second: ["n1"]}
    cluster.advance(1)
    [wait] = entries(cluster.cycle(), Wait)
    assert (wait.job_id, wait.reason) == (third, ReasonCode.FRAGMENTED)
    assert {
        "lacks": "memory", "memory_bytes_per_gpu": 200 * GIB, "free_memory_bytes": 224 * GIB
    }.items() <= dict(wait.numbers).items()  # fmt: skip


def test_a_plain_job_is_told_of_the_memory_that_others_took(build):
    cluster = cluster_of(build, 8)
    cluster.submit(1, "q", asks={"memory_bytes_per_gpu": 500 * GIB})
    cluster.cycle()
    cluster.submit(1, "q")
    [wait] = entries(cluster.cycle(), Wait)
    assert (wait.numbers["lacks"], wait.numbers["memory_bytes_per_gpu"]) == ("memory", 64 * GIB)


def test_both_missing_is_told_as_cpus_and_a_shape_as_a_shape(build):
    cluster = cluster_of(build, 8, 8)
    cluster.submit(2, "q", nodes=2, asks={"cpus_per_gpu": 60, "memory_bytes_per_gpu": 500 * GIB})
    cluster.cycle()
    both = cluster.submit(1, "q", asks={"cpus_per_gpu": 32, "memory_bytes_per_gpu": 256 * GIB})
    shape = cluster.submit(8, "q", nodes=1)
    waits = {entry.job_id: entry for entry in entries(cluster.cycle(), Wait)}
    assert waits[both].numbers["lacks"] == "cpus"
    assert (waits[shape].reason, "lacks" in waits[shape].numbers) == (ReasonCode.FRAGMENTED, False)


def test_a_start_is_planned_for_when_cpus_are_free(build):
    """GPUs are free all along; the CPUs come back with the end of the greedy job."""
    cluster = cluster_of(build, 8, tree={"q": {"nominal": "100%"}})
    cluster.submit(1, "q", 30, asks={"cpus_per_gpu": 60})
    cluster.cycle()
    large = cluster.submit(4, "q", 10, asks={"cpus_per_gpu": 16})
    plan = cluster.cycle()
    [reserve] = entries(plan, Reserve)
    assert (reserve.job_id, reserve.start_ms) == (large, cluster.at_ms + 30 * MINUTE_MS)
    # What would still hold CPUs then must not start; what ends before may, and one within the rest.
    long = cluster.submit(1, "q", 60, asks={"cpus_per_gpu": 4})
    short = cluster.submit(1, "q", 20, asks={"cpus_per_gpu": 4})
    plan = cluster.cycle()
    assert [entry.job_id for entry in entries(plan, Admit)] == [short]
    waits = {entry.job_id: entry for entry in entries(plan, Wait)}
    assert (waits[long].reason, waits[long].numbers["job"]) == (ReasonCode.RESERVED_FOR, large)
    cluster.advance(30)
    assert large in [entry.job_id for entry in entries(cluster.cycle(), Admit)]


TREE = {
    "a": {"nominal": "50%", "preemption": {"grace": "1m"}},
    "b": {"nominal": "50%", "preemption": {"grace": "1m"}},
}


def test_cpus_are_taken_back_from_borrowers(build):
    cluster = cluster_of(build, 8, tree=TREE)
    greedy = cluster.submit(5, "a", asks={"cpus_per_gpu": 12})
    cluster.cycle()
    cluster.advance(1)
    owner = cluster.submit(3, "b")
    cluster.cycle()
    assert ("notice", greedy, owner) in cluster.log
    cluster.advance(2)
    assert owner in [entry.job_id for entry in entries(cluster.cycle(), Admit)]


def test_entitled_jobs_without_cpus_are_no_shape(build):
    cluster = cluster_of(build, 8, tree=TREE)
    cluster.submit(4, "a", asks={"cpus_per_gpu": 15})
    cluster.cycle()
    cluster.submit(4, "b", nodes=1)
    [wait] = entries(cluster.cycle(), Wait)
    assert (wait.reason, wait.numbers["lacks"]) == (ReasonCode.FRAGMENTED, "cpus")


@pytest.mark.parametrize(
    ("asks", "gpus", "nodes", "limit", "most"),
    [
        ({"cpus_per_gpu": 65}, 1, None, Limit.CPUS, {"max_cpus_per_gpu": 64}),
        ({"cpus_per_gpu": 64}, 1, None, None, {}),
        ({"cpus_per_gpu": 16}, 8, 1, Limit.CPUS, {"max_cpus_per_gpu": 8}),
        ({"cpus_per_gpu": 16}, 8, 2, None, {}),
        ({"cpus_per_gpu": 16}, 8, None, None, {}),
        ({"cpus_per_gpu": 9}, 16, None, Limit.CPUS, {"max_cpus_per_gpu": 8}),
        ({"memory_bytes_per_gpu": 512 * GIB}, 1, None, None, {}),
        (
            {"memory_bytes_per_gpu": 512 * GIB + 1},
            1,
            None,
            Limit.MEMORY,
            {"max_memory_bytes_per_gpu": 512 * GIB},
        ),
        ({"cpus_per_gpu": 8, "memory_bytes_per_gpu": 64 * GIB}, 16, None, None, {}),
        ({"cpus_per_gpu": 8, "node_labels": (("small", "no"),)}, 16, None, Limit.SHAPE, {}),
    ],
)
def test_what_no_node_has_for_a_gpu_never_fits(build, asks, gpus, nodes, limit, most):
    labels = [(("small", "no"),), ()]
    inventory = [sized(node, labels=own) for node, own in zip(build.nodes(8, 8), labels, strict=True)]
    never = can_ever_fit(
        asking(build, gpus, nodes=nodes, **asks).request, "q", build.bounds(build.snapshot(inventory))
    )
    assert (None if never is None else never.limit) == limit
    assert most.items() <= dict({} if never is None else never.numbers).items()


def test_a_node_that_states_nothing_takes_no_job_that_asks(build):
    world = build.world(nodes=(*build.nodes(8), sized(build.node("n1"))))
    for asks in ({"cpus_per_gpu": 1}, {"memory_bytes_per_gpu": 1}):
        found = fits(asking(build, 8, **asks), world)
        assert isinstance(found, Fit)
        assert [slot.node for slot in found.slots] == ["n1"]
    bounds = build.bounds(build.snapshot(build.nodes(8)))
    assert can_ever_fit(asking(build, 1, cpus_per_gpu=1).request, "q", bounds).limit is Limit.CPUS
    assert can_ever_fit(asking(build, 1, memory_bytes_per_gpu=1).request, "q", bounds).limit is Limit.MEMORY


@pytest.mark.parametrize(("held", "is_right"), [(20, True), (21, False)])
def test_the_applier_checks_cpus_again(build, held, is_right):
    live = build.live(9, "n0:0 n0:1")
    live = replace(live, request=replace(live.request, cpus_per_gpu=held))
    world = build.world(nodes=[sized(build.node("n0"))], live=[live])
    slots = (Slot("n0", ("n0:2", "n0:3", "n0:4")),)
    found = fits(asking(build, 3), world, slots=slots)
    assert isinstance(found, Fit if is_right else NoFit)


def test_within_the_shares_nothing_is_looked_at(build):
    nodes = [sized(build.node("n0"))]
    snapshot = build.snapshot(nodes, [asking(build, 2, cpus_per_gpu=8), asking(build, 2, 2)])
    policy = build.policy()
    world = World(snapshot, Bounds(snapshot, policy))
    for job in snapshot.pending:
        world.start(job, fits(job, world))
    shape = world.bounds.shape(snapshot.pending[0].request, "h200")
    assert world.left_now(shape) is None
    assert len(entries(make_plan(snapshot, policy), Admit)) == 2


AMOUNTS = st.sampled_from([None, None, 1, 4, 8, 9, 16, 30])


@st.composite
def job_of(draw):
    gpus = draw(st.sampled_from([1, 1, 2, 4, 8]))
    nodes = draw(st.sampled_from([None, None, 1, 2])) if gpus % 2 == 0 else None
    memory = draw(AMOUNTS)
    asks = {
        "cpus_per_gpu": draw(AMOUNTS),
        "memory_bytes_per_gpu": None if memory is None else memory * GIB,
        "topology_required": draw(st.sampled_from([None, None, "rack"])),
        "topology_preferred": draw(st.sampled_from([None, None, "rack"])),
        "placement": draw(st.sampled_from(Placement)),
        "node_labels": draw(st.sampled_from([(), (), (("rack", "r0"),)])),
    }
    return gpus, draw(st.sampled_from("ab")), draw(st.sampled_from([5, 20, 60])), nodes, asks


EVENTS = st.lists(
    st.one_of(
        job_of(),
        st.integers(1, 30),
        st.tuples(st.sampled_from(["n0", "n1", "n2"]), st.sampled_from([NodeState.UP, NodeState.DOWN])),
    ),
    min_size=3,
    max_size=14,
)


def taken(cluster, kind, name):
    """What live attempts hold of a node: as they ask, else its share."""
    node = cluster.nodes[name]
    whole = node.cpus if kind == "cpus" else node.memory_bytes
    asked = "cpus_per_gpu" if kind == "cpus" else "memory_bytes_per_gpu"
    held = 0
    for attempt in cluster.live.values():
        own = getattr(attempt.request, asked)
        each = whole // len(node.gpu_uuids) if own is None else own
        held += sum(each * len(slot.gpu_uuids) for slot in attempt.slots if slot.node == name)
    return held


@given(EVENTS)
@settings(deadline=None)
def test_no_node_ever_gives_more_than_it_has(build, events):
    policy = build.policy(TREE, topology=["rack"], start_reservations=3)
    cluster = Cluster(policy, [8, 8, 6])
    for number, (cpus, memory, rack) in enumerate([(64, 64, "r0"), (64, 100, "r0"), (50, 60, "r1")]):
        name = f"n{number}"
        cluster.nodes[name] = sized(cluster.nodes[name], cpus, memory * GIB, (("rack", rack),))
    index = Index()
    for event in events:
        if isinstance(event, int):
            cluster.advance(event)
        elif isinstance(event[0], str):
            cluster.set_node(*event)
        else:
            gpus, queue, minutes, nodes, asks = event
            cluster.submit(gpus, queue, minutes, nodes=nodes, asks=asks)
        warm = make_plan(cluster.snapshot(), policy, index)
        plan = cluster.cycle()
        assert plan_digest(warm) == plan_digest(plan), "the plan is the same with what the last cycle knew"
        for name, node in cluster.nodes.items():
            assert taken(cluster, "cpus", name) <= node.cpus
            assert taken(cluster, "memory", name) <= node.memory_bytes
        for attempt in cluster.live.values():
            racks = {dict(cluster.nodes[slot.node].labels)["rack"] for slot in attempt.slots}
            assert attempt.request.topology_required is None or len(racks) == 1
        assert not entries(cluster.cycle(), Admit), "a plan again at the same instant starts nothing more"
        for wait in entries(plan, Wait):
            if wait.reason is ReasonCode.FRAGMENTED and wait.numbers.get("lacks") == "cpus":
                assert wait.numbers["free"] >= wait.numbers["gpus"]


@given(EVENTS)
@settings(deadline=None)
def test_planned_starts_have_their_cpus_when_they_come(build, events):
    """Without new work, lost nodes and the like every planned start comes when it was planned, or before.

    All may plan one, entitled or not: else a job that could not is entitled later, and goes before those behind it.
    """
    all_plan = {"start_reservations": 100, "borrowed_reservations": 100}
    cluster = Cluster(build.policy({"q": {"nominal": "100%"}}, topology=["rack"], **all_plan), [8, 8])
    for number, name in enumerate(cluster.nodes):
        cluster.nodes[name] = sized(cluster.nodes[name], 64, 64 * GIB, (("rack", f"r{number}"),))
    for event in events:
        if isinstance(event, tuple) and not isinstance(event[0], str):
            gpus, _, minutes, nodes, asks = event
            cluster.submit(gpus, "q", minutes, nodes=nodes, asks=asks)
    planned = {entry.job_id: entry.start_ms for entry in entries(cluster.cycle(), Reserve)}
    for _ in range(400):
        if not planned:
            break
        cluster.advance(5)
        plan = cluster.cycle()
        for job_id in [entry.job_id for entry in entries(plan, Admit)]:
            assert planned.pop(job_id, cluster.at_ms) >= cluster.at_ms
        assert all(start_ms > cluster.at_ms for start_ms in planned.values())
    assert not planned


def test_a_view_knows_cpus_and_memory(build):
    view = FreeView.of([sized(build.node("n0")), build.node("n1")], [])
    site = view.of_flavor("h200").site
    assert [amount.tolist() for amount in site.amounts] == [[64, 0], [512 * GIB, 0]]
    assert [share.tolist() for share in site.shares] == [[8, 0], [64 * GIB, 0]]
    assert np.array_equal(view.copy().of_flavor("h200").site.sizes.counts, [8, 8])
    assert (site.is_over(None, None), site.is_over(1, None), site.is_over(None, 1)) == (False, True, True)


def test_a_planned_start_alone_makes_others_heed_its_cpus(build):
    """Nothing that runs is over its share; the job that waits will be."""
    cluster = cluster_of(build, 8, tree={"q": {"nominal": "100%"}})
    cluster.submit(2, "q", 30)
    cluster.cycle()
    greedy = cluster.submit(1, "q", 60, asks={"cpus_per_gpu": 60})
    long, short = cluster.submit(1, "q", 60), cluster.submit(1, "q", 20)
    plan = cluster.cycle()
    assert [entry.job_id for entry in entries(plan, Reserve)] == [greedy, long]
    assert [entry.job_id for entry in entries(plan, Admit)] == [short]
    waits = {entry.job_id: entry for entry in entries(plan, Wait)}
    assert (waits[long].reason, waits[long].numbers["job"]) == (ReasonCode.RESERVED_FOR, greedy)


def test_planned_starts_are_sound_with_their_cpus(build):
    """GPUs are there either way; the CPUs only if the victim goes."""
    run = build.live(9, "n0:0")
    run = replace(run, request=replace(run.request, cpus_per_gpu=32))
    snapshot = build.snapshot([sized(build.node("n0"))], live=[run])
    hold = Hold(
        JobId(1), "q", "h200", 2, build.now_ms + 60_000, build.now_ms + 120_000, ((0, 2),), ShareClass.ENTITLED,
        victims=(run.id,), cpus_per_gpu=30,
    )  # fmt: skip
    for victims, is_sound in (((run.id,), True), ((), False)):
        world = World(snapshot, Bounds(snapshot, build.policy()))
        world.hold(replace(hold, victims=victims))
        assert world.is_sound("h200") is is_sound
        assert world.profiles["h200"].is_sound()
