"""The same jobs through Kezek's control plane and, where one runs on this machine, through a real Slurm.

    python benchmarks/slurm.py --json                                     # Kezek alone
    SLURM_CONF=/path/slurm.conf python benchmarks/slurm.py --slurm --json # both, one after the other

1,000 jobs of one GPU that end at once, on 128 nodes of 8 GPUs: from the first submission until the last has ended.
Kezek: submission, admission, launch, start, end and settlement are PostgreSQL transactions with fsync and journal
records; nodes are in memory, so no process is started. Slurm: sbatch, slurmctld without accounting, and 128 slurmd on
this machine, each of which forks a step's daemon and the job itself: that is most of its time, so beside the rates
stands the CPU time of the control planes alone (Kezek's scheduler, submitter and database; slurmctld).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stand import Asked, Cpu, Stand, about, database, postgres_cpu_s, show, submit_all

from quota import service as quota
from scheduler import observe
from scheduler.cycling import cycle
from scheduler.launch import dispatch_all
from scheduler.warm import Warm
from store import clock

NODES, GPUS = 128, 8
JOBS = 1_000
TOGETHER = 250
"""Jobs that share a submitting transaction."""
WALLTIME_S = 300
PARALLEL = 4
"""sbatch calls side by side."""
LIMIT_S = 120.0
AIM_TIMES = 10


def kezek(jobs: int) -> dict[str, object]:
    """Submit and run all jobs; seconds, jobs a second and CPU."""
    with database() as url:
        stand = Stand(url, {"all": {"max_walltime": "1d"}}, NODES, GPUS)
        tenant = stand.tenant("tenant", "all")
        warm = Warm()
        after: dict[str, int] = {}
        cycle(stand.leader, "bench", at=clock.now(), warm=warm)
        cpu, database_cpu_s = Cpu(), postgres_cpu_s(url)
        began = time.monotonic()
        submitted = ended = 0
        while ended < jobs and time.monotonic() - began < LIMIT_S:
            if submitted < jobs:
                count = min(TOGETHER, jobs - submitted)
                submit_all(stand.engine, [Asked(tenant, 1, WALLTIME_S)] * count)
                submitted += count
            applied = cycle(stand.leader, "bench", at=clock.now(), warm=warm)
            dispatch_all(stand.leader, applied.admitted, is_fresh=True)
            ended += _end(stand, applied.admitted, after)
        took_s = time.monotonic() - began
        found = _figures(jobs, took_s, cpu.seconds + postgres_cpu_s(url) - database_cpu_s)
        found["ledger_problems"] = len(quota.verify(stand.engine).problems)
        stand.close()
    return found


def _end(stand: Stand, admitted: tuple[str, ...], after: dict[str, int]) -> int:
    """Jobs of 0 seconds: each ends as soon as it was launched; how many did."""
    nodes: set[str] = set()
    for attempt_id in admitted:
        on = stand.executor.nodes_of(attempt_id)
        nodes.update(on)
        for node in on:
            stand.executor.finish(node, attempt_id)
    events = []
    for node in sorted(nodes):
        page = stand.executor.observe(node, after.get(node, 0), 0)
        after[node] = page.next_after
        events += page.events
    observe.take_events(stand.leader, events)
    return len(admitted)


def _figures(jobs: int, took_s: float, cpu_s: float) -> dict[str, object]:
    return {
        "seconds": round(took_s, 2),
        "jobs_per_s": round(jobs / took_s, 1),
        "control_plane_cpu_ms_per_job": round(cpu_s * 1_000 / jobs, 2),
    }


def slurm(jobs: int) -> dict[str, object]:
    """The same through a Slurm that runs on this machine; each job by its own sbatch, and all as one array."""
    found: dict[str, object] = {"version": _run("sinfo", "--version").strip()}
    for how in ("loop", "array"):
        cpu_s, began = _controller_cpu_s(), time.monotonic()
        if how == "array":
            _sbatch(f"--array=1-{jobs}")
        else:
            with ThreadPoolExecutor(PARALLEL) as pool:
                list(pool.map(lambda _: _sbatch(), range(jobs)))
        while time.monotonic() - began < LIMIT_S and _run("squeue", "-h", "-r").strip():
            time.sleep(0.2)
        found[how] = _figures(jobs, time.monotonic() - began, _controller_cpu_s() - cpu_s)
    return found


def _sbatch(*more: str) -> None:
    _run("sbatch", "-Q", "-o", "/dev/null", "-n1", "-c1", "--gres=gpu:1", "-t", "5", *more, "--wrap", "true")


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _controller_cpu_s() -> float:
    """CPU seconds of slurmctld so far, from its pid file."""
    lines = _run("scontrol", "show", "config").splitlines()
    path = next(line.partition("=")[2].strip() for line in lines if line.startswith("SlurmctldPidFile"))
    fields = Path(f"/proc/{int(Path(path).read_text())}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--slurm", action="store_true", help="run the jobs through the Slurm of SLURM_CONF too"
    )
    parser.add_argument("--jobs", type=int, default=JOBS)
    options = parser.parse_args()
    found = about(0) | {"jobs": options.jobs, "aim_times_slurm": AIM_TIMES, "kezek": kezek(options.jobs)}
    if options.slurm:
        found["slurm"] = slurm(options.jobs)
    found["load_after"] = about(0)["load"]
    show(found, as_json=options.json)


if __name__ == "__main__":
    main()
