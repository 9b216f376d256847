"""Labels, levels, spread, CPUs and memory on the real path: submit, row, snapshot, plan, apply, launch, fold, replay."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import pytest

from quota import service as quota
from quota.model import Ground, GroundKind
from quota.policy import parse_policy
from scheduler import jobs, nodes
from scheduler.agent.inventory import GpuInventory
from scheduler.model import JobState, Placement, ReasonCode, Request
from store import clock, journal
from store.engine import snapshot, transaction

RACK, BLOCK = "kezek.kz/rack", "kezek.kz/block"
GIB = 2**30
FLAVOR = "h200"
MIG = "a100-mig-1g.10gb"
POLICY = {
    "policy": {
        "version": "test-2",
        "effective_from": "2026-01-02",
        "grounds": [{"kind": "order", "body": "authorised body", "number": "2", "date": "2025-12-26"}],
        "topology": [BLOCK, RACK],
        "tree": {
            "science": {"nominal": "100%", "slices": {MIG: {"nominal": "50%", "borrowing_limit": 0}}},
            "business": {"nominal": 0},
        },
        "routes": [{"queue": "science"}],
    }
}
PLACES = {"n0": ("b0", "r0"), "n1": ("b0", "r1"), "n2": ("b1", "r2"), "n3": ("b1", "r2")}


@pytest.fixture
def racks(database, make_world):
    """Four nodes of 4 GPUs, 32 CPUs and 64 GiB each, in three racks and two blocks."""
    world = make_world(database.engine, node_names=tuple(PLACES), gpus=4)
    with transaction(world.engine) as session:
        quota.enact(session, POLICY, at=clock.now(), actor="system")
    for name, (block, rack) in PLACES.items():
        describe(world, name, labels={BLOCK: block, RACK: rack}, cpus=32, memory_bytes=64 * GIB)
    yield world
    world.pool.shutdown()


def describe(world, name, **stated):
    probe = replace(world.executor.probe(name), **stated)
    with transaction(world.engine) as session:
        return nodes.register(session, probe, f"http://{name}", at=clock.now(), actor="scheduler:1")


def submit(world, gpus, **asks):
    return world.submit(request=Request(gpus, 600, (FLAVOR,), asks.pop("nodes", None), **asks))


def nodes_of(world, job_id):
    return [slot.node for slot in world.view(job_id).slots]


def test_jobs_run_where_they_asked_and_the_journal_tells_it(racks):
    labelled = submit(racks, 2, node_labels=((RACK, "r1"),))
    gang = submit(racks, 6, nodes=2, topology_required=RACK)
    spread = submit(racks, 1, placement=Placement.SPREAD)
    racks.turn()
    assert nodes_of(racks, labelled) == ["n1"]
    assert nodes_of(racks, gang) == ["n2", "n3"]
    assert nodes_of(racks, spread) == ["n0"]
    shown = racks.view(gang).request
    assert (shown.topology_required, shown.node_labels) == (RACK, ())
    with snapshot(racks.engine) as session:
        [record] = [r for r in journal.of_subject(session, f"job:{labelled}") if r.kind == "job.submitted"]
    assert record.data["job"]["node_labels"] == {RACK: "r1"}
    assert record.data["job"]["placement"] == "pack"
    racks.check()


def test_a_waiting_job_is_told_which_level_refuses(racks):
    first = submit(racks, 2, node_labels=((RACK, "r2"),))
    racks.turn()
    waits = submit(racks, 8, topology_required=RACK)
    racks.turn()
    assert racks.state(first) is JobState.RUNNING
    view = racks.view(waits)
    assert view.reason == ReasonCode.FRAGMENTED_BY_ENTITLED
    assert {"lacks": "topology", "level": RACK, "largest": 6}.items() <= dict(view.reason_numbers).items()
    racks.finish(first)
    racks.hear()
    racks.turn()
    assert nodes_of(racks, waits) == ["n2", "n3"]
    racks.check()


@pytest.mark.parametrize(
    ("gpus", "asks", "numbers"),
    [
        (1, {"node_labels": ((RACK, "r9"),)}, {"limit": "labels", "labels": f"{RACK}=r9"}),
        (8, {"topology_required": "no"}, {"limit": "topology", "level": "no", "levels": f"{BLOCK},{RACK}"}),
        (1, {"cpus_per_gpu": 33}, {"limit": "cpus", "max_cpus_per_gpu": 32}),
        (1, {"memory_bytes_per_gpu": 65 * GIB}, {"limit": "memory", "max_memory_bytes_per_gpu": 64 * GIB}),
    ],
)
def test_what_no_node_has_is_refused_at_submit(racks, gpus, asks, numbers):
    with pytest.raises(jobs.JobRefusedError) as refused:
        submit(racks, gpus, **asks)
    assert refused.value.code == "NEVER_FITS"
    assert numbers.items() <= refused.value.numbers.items()


@pytest.mark.parametrize(
    ("asks", "field"),
    [
        ({"cpus_per_gpu": 0}, "cpus_per_gpu"),
        ({"cpus_per_gpu": jobs.MAX_CPUS_PER_GPU + 1}, "cpus_per_gpu"),
        ({"memory_bytes_per_gpu": 0}, "memory_bytes_per_gpu"),
        ({"memory_bytes_per_gpu": jobs.MAX_MEMORY_BYTES + 1}, "memory_bytes_per_gpu"),
        (
            {"node_labels": tuple((f"k{n}", "v") for n in range(jobs.MAX_NODE_LABELS + 1))},
            "node_labels",
        ),
    ],
)
def test_what_is_asked_of_nodes_has_its_limits(racks, asks, field):
    with pytest.raises(jobs.JobRefusedError) as refused:
        submit(racks, 1, **asks)
    assert (refused.value.code, refused.value.numbers["field"]) == ("BAD_JOB", field)


def test_cpus_are_set_aside_and_memory_is_the_rank_s_limit(racks):
    asked = {}
    script = racks.executor._script  # the fake's own, to see what it was asked to run
    racks.executor._script = lambda lease: asked.setdefault(lease.job_id, lease) and script(lease)
    greedy = submit(racks, 2, node_labels=((RACK, "r0"),), cpus_per_gpu=14, memory_bytes_per_gpu=8 * GIB)
    low = submit(racks, 1, memory_bytes_per_gpu=8 * GIB, memory_bytes_per_rank=GIB)
    plain = submit(racks, 2, node_labels=((RACK, "r0"),))
    racks.turn()
    assert nodes_of(racks, greedy) == ["n0"]
    assert asked[greedy].memory_bytes_per_rank == 16 * GIB
    assert asked[low].memory_bytes_per_rank == GIB
    assert (asked[greedy].cpus_per_rank, asked[low].cpus_per_rank) == (28, None)
    racks.turn()
    view = racks.view(plain)
    assert (view.state, view.reason) == (JobState.PENDING, ReasonCode.FRAGMENTED)
    assert {"lacks": "cpus", "cpus_per_gpu": 8, "free_cpus": 4, "free": 2}.items() <= dict(
        view.reason_numbers
    ).items()
    racks.finish(greedy)
    racks.hear()
    racks.turn()
    assert nodes_of(racks, plain) == ["n0"]
    racks.check()


def test_a_node_whose_cpus_changed_is_told_in_the_journal(racks):
    assert not describe(racks, "n0", labels={BLOCK: "b0", RACK: "r0"}, cpus=32, memory_bytes=64 * GIB)
    assert describe(racks, "n0", labels={BLOCK: "b0", RACK: "r0"}, cpus=16, memory_bytes=64 * GIB)
    racks.check()


def test_jobs_of_older_records_fold_as_plain_ones(racks):
    """Records written before jobs could ask for nodes lack those fields."""
    from scheduler.fields import JOB_DEFAULTS, request_of

    job = submit(racks, 2)
    with snapshot(racks.engine) as session:
        [record] = [r for r in journal.of_subject(session, f"job:{job}") if r.kind == "job.submitted"]
    added = {
        "node_labels", "topology_required", "topology_preferred", "placement", "cpus_per_gpu", "memory_bytes_per_gpu"
    }  # fmt: skip
    old = {name: value for name, value in record.data["job"].items() if name not in added}
    assert request_of(JOB_DEFAULTS | old) == request_of(record.data["job"]) == Request(2, 600, (FLAVOR,))


def test_slices_have_a_quota_of_their_own_beside_whole_gpus(racks):
    """n3 is cut into four slices; half of them are the queue's, and its whole GPUs are those of the other nodes."""
    describe(racks, "n3", gpus=GpuInventory.simulate("n3", 4, MIG).gpus)
    ground = Ground(GroundKind.ORDER, "authorised body", "8", date(2026, 1, 5))
    at = clock.now()
    with transaction(racks.engine) as session:
        asked = quota.Award(
            project_id=racks.project.id,
            flavor=MIG,
            granted_s=1_000_000,
            starts_at=at - timedelta(days=1),
            ends_at=at + timedelta(days=30),
            grounds=(ground,),
        )
        quota.award(session, asked, at=at, actor="system")
    sliced = [racks.submit(request=Request(1, 600, (MIG,))) for _ in range(3)]
    whole = submit(racks, 12)
    racks.turn()
    assert [racks.state(job).value for job in sliced] == ["RUNNING", "RUNNING", "PENDING"]
    view = racks.view(sliced[2])
    assert (view.reason, dict(view.reason_numbers)["nominal"]) == (ReasonCode.QUEUE_LIMIT, 2)
    assert nodes_of(racks, whole) == ["n0", "n1", "n2"]
    with snapshot(racks.engine) as session:
        use = {found.path: found for found in jobs.queue_use(session, quota.policy_in_force(session, at), at)}
    assert (use["science"].nominal, use["science"].used_gpus, use["science"].running) == (12, 12, 3)
    [own], [others], [all_of_them] = (use[path].slices for path in ("science", "business", ""))
    assert (own.flavor, own.nominal, own.used, own.borrowed) == (MIG, 2, 2, 0)
    assert (others.nominal, others.used, others.borrowed) == (0, 0, 0)
    assert (all_of_them.nominal, all_of_them.used, all_of_them.borrowed) == (4, 2, 0)
    lends = {"science": {"nominal": "100%", "slices": {MIG: {"nominal": "25%"}}}, "business": {"nominal": 0}}
    other = parse_policy({"policy": {**POLICY["policy"], "version": "test-3", "tree": lends}})
    with snapshot(racks.engine) as session:
        lent = {found.path: found for found in jobs.queue_use(session, other, at)}
    assert [(use.nominal, use.used, use.borrowed) for use in lent["science"].slices] == [(1, 2, 1)]
    assert [(use.nominal, use.used, use.borrowed) for use in lent[""].slices] == [(4, 2, 1)]
    racks.check()
