"""What the simulator prints for three made-up traces, byte by byte, whatever process and hash seed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.simulate_cli import SCHEDULERS, simulate_main

GOLDENS = Path(__file__).parent / "goldens"
UPDATE = "KEZEK_UPDATE_GOLDENS"
POLICY = """policy:
  version: "1"
  effective_from: 2026-01-01
  grounds: [{kind: order, body: b, number: "1", date: 2026-01-01}]
  start_reservations: 4
  tree:
    science:
      nominal: "50%"
      children:
        physics: {nominal: "50%", preemption: {grace: 2m}}
        biology: {borrowing_limit: 12, preemption: {grace: 2m}}
    business: {nominal: "50%", preemption: {grace: 1m}}
  routes: [{queue: business}]
"""
MAP = "tenants: {t0: science/physics, t1: science/biology}\ndefault: business\n"


def jobs(count):
    """Submission, run time, GPUs, tenant and walltime (0: none is named), the same each time."""
    chance = random.Random(1)  # noqa: S311 - made-up jobs, no secret
    at_s = 0
    for number in range(count):
        at_s += chance.choice([0, 5, 40, 300])
        run_s = chance.choice([30, 200, 900, 7_000])
        walltime_s = chance.choice([0, run_s + 60, 3 * run_s])
        yield number, at_s, run_s, chance.choice([1, 1, 2, 4, 8, 16]), f"t{number % 7 % 3}", walltime_s


def trace(kind):
    if kind == "swf":
        return "".join(
            f"{number} {at_s} -1 {run_s} {gpus} -1 -1 {gpus} {walltime_s or -1} -1 1 {tenant[1:]} 1 -1 1 -1 -1 -1\n"
            for number, at_s, run_s, gpus, tenant, walltime_s in jobs(120)
        )
    if kind == "openb":
        head = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time\n"
        return head + "".join(
            f"p{number},{gpus * 4000},{gpus * 1024},{gpus},1000,,{tenant},Running,{at_s},{at_s + run_s},{at_s}\n"
            for number, at_s, run_s, gpus, tenant, _ in jobs(120)
        )
    return "job_id,submit_s,duration_s,gpus,tenant,sector,est_s\n" + "".join(
        f"j{number},{at_s},{run_s},{gpus},{tenant},s,{walltime_s or ''}\n"
        for number, at_s, run_s, gpus, tenant, walltime_s in jobs(120)
    )


def arguments(kind, folder):
    for name, text in (("trace", trace(kind)), ("policy.yaml", POLICY), ("map.yaml", MAP)):
        (folder / name).write_text(text, encoding="utf-8")
    argv = ["--trace", str(folder / "trace"), "--format", kind, "--nodes", "3", "--seed", "5", "--json"]
    if kind == "csv":  # the others have a queue per user
        argv += ["--policy", str(folder / "policy.yaml"), "--map", str(folder / "map.yaml")]
    return argv


def golden(name, found):
    path = GOLDENS / f"simulate-{name}.json"
    if os.environ.get(UPDATE):
        path.parent.mkdir(exist_ok=True)
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8"), (
        f"if that is meant: {UPDATE}=1 make test ARGS=tests/core/test_goldens.py"
    )


@pytest.mark.parametrize("kind", ["csv", "swf", "openb"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_trace_gives_its_golden(kind, scheduler, tmp_path, capsys):
    assert simulate_main([*arguments(kind, tmp_path), "--scheduler", scheduler]) == 0
    golden(f"{kind}-{scheduler}", capsys.readouterr().out)


def test_goldens_hold_reclaims():
    """What makes a plan more than an order of starts is in them."""
    text = (GOLDENS / "simulate-csv-kezek.json").read_text(encoding="utf-8")
    assert '"preemptions": 0' not in text


@pytest.mark.parametrize("hash_seed", ["0", "1", "4242"])
def test_another_process_and_hash_seed_give_the_same_bytes(hash_seed, tmp_path):
    command = (
        "import sys; from scheduler.simulate_cli import simulate_main; sys.exit(simulate_main(sys.argv[1:]))"
    )
    argv = [sys.executable, "-c", command, *arguments("csv", tmp_path)]
    environ = os.environ | {"PYTHONHASHSEED": hash_seed}
    found = subprocess.run(argv, env=environ, capture_output=True, check=True, text=True).stdout
    golden("csv-kezek", found)
