"""The simulated source: plausible, repeatable, labelled."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.nvml import MAX_GPUS_PER_NODE, UnknownGpuError
from metrics.simulated import (
    IDLE_POWER_W,
    POWER_LIMIT_W,
    Holder,
    SimulatedGpu,
    SimulatedSource,
    load_at,
    simulated_uuid,
)
from metrics.simulated_file import MAX_FILE_BYTES, HoldersFile, SimulationFileError, read_simulation
from scheduler.agent.inventory import simulated_uuid as agent_uuid

START = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)
HOLDER = Holder("17", START)


def test_idle_gpu_is_near_zero() -> None:
    load = load_at("GPU-a", START, None)
    assert load.utilisation_ratio == 0
    assert load.memory_ratio == 0
    assert IDLE_POWER_W <= load.power_w < IDLE_POWER_W + 10


def test_held_gpu_ramps_up_and_works() -> None:
    ages = [load_at("GPU-a", START + timedelta(seconds=age), HOLDER) for age in range(0, 600, 5)]
    assert ages[0].utilisation_ratio < 0.1
    steady = sorted(load.utilisation_ratio for load in ages[20:])
    assert steady[len(steady) // 2] > 0.7, "median of a training job"
    assert steady[0] < 0.5, "it waits for data now and then"
    assert ages[60].heat_ratio > ages[1].heat_ratio
    assert ages[60].memory_ratio > 0.3


def test_job_that_starts_later_does_not_load_yet() -> None:
    assert load_at("GPU-a", START - timedelta(seconds=1), HOLDER).utilisation_ratio == 0


@given(st.text(min_size=1, max_size=20), st.integers(0, 10**6), st.text(min_size=1, max_size=20))
def test_values_are_in_range_and_repeatable(uuid: str, age_s: int, job_id: str) -> None:
    at, holder = START + timedelta(seconds=age_s), Holder(job_id, START)
    load = load_at(uuid, at, holder)
    assert load == load_at(uuid, at, holder)
    assert 0 <= load.utilisation_ratio <= 1
    assert 0 <= load.memory_ratio <= 1
    assert 0 <= load.heat_ratio <= 1
    assert IDLE_POWER_W <= load.power_w <= POWER_LIMIT_W


def test_energy_is_the_integral_of_power_and_never_falls() -> None:
    now, held = [START], {"GPU-a": HOLDER}
    source = SimulatedSource([SimulatedGpu("GPU-a")], lambda: held, lambda: now[0])
    energy_j, last_w, expected_j = 0.0, source.sample("GPU-a").power_w, 0.0
    for step in range(1, 200):
        now[0] = START + timedelta(seconds=15 * step)
        if step == 100:
            held.clear()
        sample = source.sample("GPU-a")
        assert sample.energy_j is not None
        assert sample.power_w is not None
        assert last_w is not None
        expected_j += 15 * (last_w + sample.power_w) / 2
        assert sample.energy_j > energy_j
        energy_j, last_w = sample.energy_j, sample.power_w
    assert energy_j == pytest.approx(expected_j, rel=1e-4)
    now[0] = START
    assert source.sample("GPU-a").energy_j == energy_j, "a clock set back does not turn the counter back"


def test_uuids_are_those_of_the_node_agent() -> None:
    assert [simulated_uuid("n3", index) for index in range(8)] == [
        agent_uuid("n3", index) for index in range(8)
    ]


def test_gpu_of_another_node_is_unknown() -> None:
    source = SimulatedSource([SimulatedGpu("GPU-a")], dict, lambda: START)
    with pytest.raises(UnknownGpuError, match="GPU-b"):
        source.sample("GPU-b")
    with pytest.raises(UnknownGpuError, match="index 1"):
        source.identity(1)


def written(path: Path, document: object) -> Path:
    beside = path.with_suffix(".new")
    beside.write_text(document if isinstance(document, str) else json.dumps(document))
    beside.rename(path)
    return path


def machine(*nodes: str, gpus: int = 2) -> dict[str, Any]:
    return {
        "nodes": [
            {"node": node, "gpus": [{"uuid": simulated_uuid(node, index)} for index in range(gpus)]}
            for node in nodes
        ]
    }


def test_everything_says_simulated(tmp_path: Path, no_driver: Any, serve: Any) -> None:
    document = machine("n1", "n2", gpus=8)
    uuid = simulated_uuid("n2", 3)
    document["holders"] = {uuid: {"job_id": "17", "started_at": "2026-03-01T09:00:00+00:00"}}
    path = written(tmp_path / "nodes.json", document)
    served = serve("--simulated", "--nodes-file", str(path), driver=no_driver)
    assert "(simulated)" in served.first_line
    assert "simulated" in served.get("/")
    scrape = served.scrape()
    assert scrape.value("kezek_exporter_simulated") == 1
    assert [labels["simulated"] for labels, _ in scrape.samples["kezek_gpu_info"]] == ["true"] * 16
    assert all("simulated" in labels["model"] for labels, _ in scrape.samples["kezek_gpu_info"])
    assert scrape.value("kezek_gpus_live", node="n2") == 8
    busy = {labels["uuid"] for labels, ratio in scrape.samples["kezek_gpu_utilization_ratio"] if ratio > 0}
    assert busy == {uuid}

    written(path, machine("n1", "n2", gpus=8))
    scrape = served.scrape()
    assert scrape.value("kezek_gpu_utilization_ratio", uuid=uuid) == 0, "the file is read again"

    path.unlink()
    scrape = served.scrape()
    assert scrape.value("kezek_gpu_collect_success", node="n1") == 0, "no file, no figures"
    assert "kezek_gpu_power_watts" not in scrape.text


def test_node_without_a_file_idles(no_driver: Any, once: Any, parse: Any) -> None:
    run = once("--simulated", "--node", "n1", "--gpus", "3", driver=no_driver)
    assert run.returncode == 0
    scrape = parse(run.stdout)
    assert scrape.value("kezek_gpus_live", node="n1") == 3
    assert scrape.value("kezek_gpu_utilization_ratio", uuid=simulated_uuid("n1", 2)) == 0


def test_holders_are_read_only_when_the_file_changes(tmp_path: Path) -> None:
    path = written(tmp_path / "nodes.json", machine("n1"))
    holders = HoldersFile(path)
    first = holders()
    assert first == {}
    assert holders() is first
    document = machine("n1") | {
        "holders": {"GPU-a": {"job_id": "5", "started_at": "2026-03-01T14:00:00+05:00"}}
    }
    written(path, document)
    assert holders() == {"GPU-a": Holder("5", START)}


GPU = {"uuid": "GPU-a"}


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ("", "Expecting value"),
        ("[" * 100_000, "recursion"),
        ([], "list indices"),
        ({}, "lacks the key 'nodes'"),
        ({"nodes": []}, "nodes must be a list of 1 to"),
        ({"nodes": [5]}, "a node must be an object"),
        ({"nodes": [{"gpus": [GPU]}]}, "lacks the key 'node'"),
        ({"nodes": [{"node": "", "gpus": [GPU]}]}, "node must be a text"),
        ({"nodes": [{"node": "n", "gpus": []}]}, "gpus of node n must be a list"),
        ({"nodes": [{"node": "n", "gpus": [GPU, GPU]}]}, "GPU 'GPU-a' stands 2 times"),
        (machine("n", "n", gpus=1), "node 'n' stands 2 times"),
        ({"nodes": [{"node": "n", "gpus": [GPU | {"memory_bytes": 0}]}]}, "positive whole number"),
        ({"nodes": [{"node": "n", "gpus": [GPU | {"memory_bytes": True}]}]}, "positive whole number"),
        (machine("n", gpus=MAX_GPUS_PER_NODE + 1), "1 to 64 entries"),
        (machine("n") | {"holders": []}, "holders must be an object"),
        (machine("n") | {"holders": {"GPU-a": {"job_id": "1"}}}, "lacks the key 'started_at'"),
        (
            machine("n") | {"holders": {"GPU-a": {"job_id": "1", "started_at": "2026-03-01T09:00:00"}}},
            "no time zone",
        ),
        (
            machine("n") | {"holders": {"GPU-a": {"job_id": 1, "started_at": "2026-03-01T09:00:00Z"}}},
            "job_id must be a text",
        ),
    ],
)
def test_bad_file_is_refused_with_its_fault(tmp_path: Path, document: object, complaint: str) -> None:
    path = written(tmp_path / "nodes.json", document)
    with pytest.raises(SimulationFileError, match=complaint) as refused:
        read_simulation(path)
    assert refused.value.path == path
    assert str(path) in str(refused.value)


def test_most_gpus_of_a_node_are_accepted(tmp_path: Path) -> None:
    path = written(tmp_path / "nodes.json", machine("n", gpus=MAX_GPUS_PER_NODE))
    assert len(read_simulation(path).nodes[0].gpus) == MAX_GPUS_PER_NODE


def test_size_of_the_file_is_limited(tmp_path: Path) -> None:
    text = json.dumps(machine("n"))
    path = written(tmp_path / "nodes.json", text + " " * (MAX_FILE_BYTES - len(text)))
    assert len(read_simulation(path).nodes) == 1
    os.truncate(path, MAX_FILE_BYTES + 1)
    with pytest.raises(SimulationFileError, match="is larger than"):
        read_simulation(path)


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("--simulated", "--nodes-file", "/nowhere/nodes.json"), "cannot be read"),
        (("--nodes-file", "nodes.json"), "give it with --simulated"),
        (("--simulated", "--nodes-file", "nodes.json", "--gpus", "3"), "without --gpus"),
        (("--simulated", "--gpus", "0"), "not a number of GPUs"),
        (("--simulated", "--gpus", "65"), "not a number of GPUs"),
        (("--simulated", "--gpus", "-1"), "not a number of GPUs"),
        (("--simulated", "--nodes-file", "f", "--node", "n1"), "not allowed with"),
    ],
)
def test_wrong_command_lines(no_driver: Any, once: Any, args: tuple[str, ...], complaint: str) -> None:
    run = once(*args, driver=no_driver)
    assert run.returncode == 2
    assert complaint in run.stderr
    assert "Traceback" not in run.stderr
