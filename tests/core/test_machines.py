"""Traces that say what jobs asked for beyond GPUs, and machines described node by node."""

from __future__ import annotations

import json

import pytest

from quota.fairshare import entry_charge, rate_of
from scheduler import machines
from scheduler.model import Node, NodeState, Placement, Request
from scheduler.simulate import Replayer
from scheduler.simulate_cli import simulate_main
from scheduler.traces import TraceError, TraceJob, read_csv, read_openb

MIG = "a100-mig-1g.10gb"
HEAD = (
    "job_id,submit_s,duration_s,gpus,tenant,sector,est_s,"
    "nodes,flavors,cpus_per_gpu,memory_bytes_per_gpu,node_labels,topology_required,topology_preferred,placement"
)
MACHINE = """node,flavor,gpus,cpus,memory_bytes,labels
n2,h100,4,32,1000,rack=r2
n1,h200,4,32,1000,rack=r1|disk=nvme
n0,h200,4,32,1000,rack=r1
n3,a100-mig-1g.10gb,7,,,
"""
OPENB_PODS = """name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time
p0,7001,3,2,1000,V100M16|T4,LS,Running,0,60,0
p1,1000,1,1,1000,,BE,Running,0,60,0
"""
OPENB_NODES = """sn,cpu_milli,memory_mib,gpu,model
node-1,8000,16,2,T4
node-0,4000,8,1,P100
cpu-0,4000,8,0,
"""


def machine():
    return machines.read_csv(MACHINE.splitlines())


def replay(policy, *rows):
    """Seconds at which each job of the trace began on the machine, by its id; and its nodes are not told."""
    jobs = read_csv([HEAD, *rows])
    replayer = Replayer(jobs, [job.tenant for job in jobs], policy, nodes=machine())
    return {ended.id: ended.spans[0][0] for ended in replayer.run().ended}


def test_a_machine_is_its_nodes_by_name():
    nodes = machine()
    assert [node.name for node in nodes] == ["n0", "n1", "n2", "n3"]
    assert nodes[1] == Node(
        "n1",
        "h200",
        ("n1:0", "n1:1", "n1:2", "n1:3"),
        NodeState.UP,
        is_simulated=True,
        labels=(("disk", "nvme"), ("rack", "r1")),
        cpus=32,
        memory_bytes=1_000,
    )
    assert (nodes[3].cpus, nodes[3].memory_bytes, nodes[3].labels) == (None, None, ())


def test_openb_nodes_are_those_with_gpus():
    one, two = machines.READERS["openb"](OPENB_NODES.splitlines())
    assert (one.name, one.flavor, len(one.gpu_uuids), one.cpus, one.memory_bytes) == (
        "node-0",
        "P100",
        1,
        4,
        2**23,
    )
    assert (two.name, two.flavor, len(two.gpu_uuids), two.cpus) == ("node-1", "T4", 2, 8)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (["n0,h200,0,,,"], "line 2: a node needs"),
        (["n0,,1,,,"], "line 2: a node needs"),
        ([",h200,1,,,"], "line 2: a node needs"),
        (["n0,h200,x,,,"], 'line 2: "gpus" is'),
        (["n0,h200,1,x,,"], 'line 2: "cpus" is'),
        (["n0,h200,1,,,rack"], "line 2: labels are"),
        (["n0,h200,1,,,", "n0,h200,1,,,"], "line 3: node n0 is there twice"),
    ],
)
def test_nodes_that_cannot_be_are_told_with_their_line(rows, why):
    with pytest.raises(TraceError, match=why):
        machines.read_csv(["node,flavor,gpus,cpus,memory_bytes,labels", *rows])


def test_a_machine_has_a_limit(monkeypatch):
    monkeypatch.setattr(machines, "MAX_NODES", 3)
    with pytest.raises(TraceError, match="more than 3 nodes"):
        machine()


def test_a_row_says_what_the_job_asked_for():
    [job] = read_csv([HEAD, "a,0,60,4,t,,90,2,h200|h100,8,250,rack=r1|disk=nvme,block,rack,spread"])
    assert job.asks == Request(
        4,
        90,
        ("h200", "h100"),
        2,
        node_labels=(("disk", "nvme"), ("rack", "r1")),
        topology_required="block",
        topology_preferred="rack",
        placement=Placement.SPREAD,
        cpus_per_gpu=8,
        memory_bytes_per_gpu=250,
    )
    [plain] = read_csv([HEAD, "a,0,60,4,t,,90,,,,,,,,"])
    assert plain == TraceJob("a", 0, 60, 4, "t", "", 90)
    [some] = read_csv([HEAD, "a,0,60,4,t,,90,2,,,,,,,"])
    assert some.asks == Request(4, 90, (), 2)


@pytest.mark.parametrize(
    ("asks", "why"),
    [
        ("x,,,,,,,", '"nodes" is'),
        (",,x,,,,,", '"cpus_per_gpu" is'),
        (",,,,rack,,,", "labels are 'rack'"),
        (",,,,=r1,,,", "labels are '=r1'"),
        (",,,,,,,nowhere", "\"placement\" is 'nowhere', must be one of pack, spread"),
    ],
)
def test_what_cannot_be_asked_is_told_with_its_line(asks, why):
    with pytest.raises(TraceError, match=why):
        read_csv([HEAD, f"a,0,60,4,t,,90,{asks}"])


def test_openb_pods_ask_for_models_cpus_and_memory():
    two, one = read_openb(OPENB_PODS.splitlines())
    assert two.asks == Request(2, 300, ("V100M16", "T4"), 1, cpus_per_gpu=4, memory_bytes_per_gpu=3 * 2**19)
    assert one.asks == Request(1, 600, (), 1, cpus_per_gpu=1, memory_bytes_per_gpu=2**20)


def test_labels_flavors_and_cpus_decide_where_a_replayed_job_runs(build):
    policy = build.policy({"t": {}}, topology=["rack"])
    began = replay(
        policy,
        "nvme,0,60,4,t,,60,1,h200,,,disk=nvme,,,",
        "nvme-too,1,60,1,t,,60,1,h200,,,disk=nvme,,,",
        "other-flavor,1,60,4,t,,60,1,h100,,,,,,",
        "one-rack,2,60,4,t,,60,,h200,,,,rack,,",
        "all-cpus,70,60,1,t,,60,1,h100,32,,,,,",
        "no-cpus-left,71,60,1,t,,60,1,h100,1,,,,,",
        "any,71,60,1,t,,60,1,,,,,,,",
    )
    # Cycles come every 30 s: what waits for what ends at 60 s begins then, and at 150 s for what ends at 150 s.
    assert began == {
        "nvme": 0.0,
        "nvme-too": 60.0,
        "other-flavor": 30.0,
        "one-rack": 30.0,
        "all-cpus": 90.0,
        "no-cpus-left": 150.0,
        "any": 90.0,
    }


def test_slices_of_a_replay_have_their_own_quota_and_rate(build):
    tree = {
        "a": {"nominal": 8, "slices": {MIG: {"nominal": 1, "borrowing_limit": 0}}},
        "b": {"nominal": 4, "slices": {MIG: {"nominal": 6}}},
    }
    policy = build.policy(tree)
    began = replay(
        policy,
        *(f"a{number},0,60,1,a,,60,1,{MIG},,,,,," for number in range(2)),
        *(f"b{number},0,60,1,b,,60,1,{MIG},,,,,," for number in range(6)),
    )
    assert {name for name, at_s in began.items() if at_s == 0} == {
        "a0",
        *(f"b{number}" for number in range(6)),
    }
    assert began["a1"] == 60.0


def test_use_of_a_replay_is_charged_at_the_flavors_rate(build):
    policy = build.policy({"t": {}}, usage_sampling="1m")
    jobs = read_csv([HEAD, f"a,0,90,7,t,,90,1,{MIG},,,,,,", "b,95,200,1,t,,200,1,h200,,,,,,"])
    replayer = Replayer(jobs, ["t", "t"], policy, nodes=machine())
    replayer.run()
    assert entry_charge(7, 60, rate_of(policy, MIG)) == 60_000
    # Seven slices held a GPU for 90 s; the whole GPU since 120 s is in the samples up to 320 s.
    used_ms = sum(replayer._usage.usage().values())
    assert 200_000 < used_ms <= 290_000


def write(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_trace_is_replayed_on_a_machine_from_a_file(tmp_path, capsys):
    trace = write(tmp_path, "trace.csv", f"{HEAD}\na,0,60,4,t,,60,1,h200,,,disk=nvme,,,\n")
    nodes = write(tmp_path, "machine.csv", MACHINE)
    argv = ["--trace", trace, "--machine", nodes, "--json"]
    assert simulate_main(argv) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["jobs"], found["makespan_s"]) == (1, 60)
    pods, openb = write(tmp_path, "pods.csv", OPENB_PODS), write(tmp_path, "nodes.csv", OPENB_NODES)
    assert simulate_main(["--trace", pods, "--format", "openb", "--machine", openb, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["jobs"] == 2
    assert simulate_main(["--trace", pods, "--format", "openb", "--nodes", "1", "--json"]) == 0


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--scheduler", "easy"], "easy knows uniform nodes only"),
        (["--format", "swf"], "--machine is read as csv or openb"),
    ],
)
def test_a_machine_is_refused_where_it_says_nothing(tmp_path, capsys, more, why):
    trace = write(tmp_path, "trace.csv", "")
    nodes = write(tmp_path, "machine.csv", MACHINE)
    assert simulate_main(["--trace", trace, "--machine", nodes, *more]) == 2
    assert why in capsys.readouterr().err


def test_a_machine_is_not_given_for_the_journal_nor_left_out_for_a_trace(tmp_path, capsys):
    nodes = write(tmp_path, "machine.csv", MACHINE)
    assert simulate_main(["--from-journal", "--machine", nodes], lambda _: ([], [], None, ())) == 2
    assert "--machine is for a trace" in capsys.readouterr().err
    assert simulate_main(["--trace", write(tmp_path, "trace.csv", "")]) == 2
    assert "--nodes (or --machine) is needed" in capsys.readouterr().err


def test_the_platforms_nodes_in_service_are_the_machine():
    up, down, drained, bare = (
        Node(name, "h200", gpus, state, is_simulated=False, is_drained=is_drained)
        for name, gpus, state, is_drained in (
            ("up", ("g0",), NodeState.UP, False),
            ("down", ("g1",), NodeState.DOWN, False),
            ("drained", ("g2",), NodeState.UP, True),
            ("bare", (), NodeState.UP, False),
        )
    )
    found = machines.as_up([up, down, drained, bare])
    assert [(node.name, node.state, node.is_simulated) for node in found] == [
        ("up", NodeState.UP, True),
        ("down", NodeState.UP, True),
    ]
