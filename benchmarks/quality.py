"""Replay a public trace with every scheduler and print what each is worth. Simulated.

    python benchmarks/quality.py --trace hpc2n.csv --nodes 30 --json

Where traces come from: `kezek-server simulate --help`. All schedulers see the same requested walltimes: those of
the trace (drawn by `--seed` where it names none), these times a factor (`--estimates trace-x2`, `trace-x10`), or the
run times times a factor (`x1`, `x2`, `x10`). All place jobs alike, as `scheduler.place` does. `--remainder-apart`
(not for kezek) begins the remainder of a gang larger than a node on an entirely free node, as the independent replay
does whose figures stand in docs/performance.md. `starts` says how often a start came within the interval told.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scheduler.baselines import Baseline
from scheduler.interval import Told, coverage
from scheduler.measures import Disruption, Ended, measure, percentile
from scheduler.simulate import CYCLE_S, Replayer
from scheduler.simulate_cli import SCHEDULERS, equal_shares, queue_name, replay_baseline
from scheduler.traces import READERS, TraceJob

ESTIMATES = {"trace": (True, 1), "trace-x2": (True, 2), "trace-x10": (True, 10)} | {
    f"x{factor}": (False, factor) for factor in (1, 2, 10)
}
SIZES = ((1, 1), (2, 7), (8, 8), (9, 63), (64, 10**6))


def prepared(jobs: list[TraceJob], args: argparse.Namespace) -> list[TraceJob]:
    """The jobs with the estimates that were asked for."""
    is_trace, factor = ESTIMATES[args.estimates]
    jobs = [
        replace(job, walltime_s=max(1, (job.walltime_s if is_trace else job.duration_s) * factor))
        for job in jobs
    ]
    jobs = [replace(job, submit_s=job.submit_s - args.skip_s) for job in jobs if job.submit_s >= args.skip_s]
    return jobs[: args.limit]


def by_size(ended: Iterable[Ended]) -> dict[str, dict[str, float]]:
    """Mean and p99 wait of jobs by their GPUs."""
    found: dict[str, dict[str, float]] = {}
    jobs = list(ended)
    for low, high in SIZES:
        waits = sorted(
            job.end_s - job.submit_s - sum(end - start for start, end in job.spans)
            for job in jobs
            if low <= job.gpus <= high
        )
        if waits:
            mean_s = round(sum(waits) / len(waits))
            found[f"{low}+"] = {
                "jobs": len(waits),
                "mean": mean_s,
                "p99": round(percentile(waits, 0.99)),
            }
    return found


def held(told: Iterable[Told]) -> dict[str, object]:
    """How often a job began within the interval that it was first told, and which part of the time it took."""
    all_told = [entry for entry in told if entry.start_ms > entry.at_ms]
    within, asked = coverage(all_told)
    ratios = sorted((e.began_ms - e.at_ms) / (e.start_ms - e.at_ms) for e in all_told)
    return {
        "told": asked,
        "covered": round(within / asked, 3) if asked else None,
        "shares": {str(ratio): round(percentile(ratios, ratio), 4) for ratio in (0.1, 0.5, 0.9)},
    }


def run(name: str, jobs: list[TraceJob], args: argparse.Namespace) -> dict[str, object]:
    """One scheduler's figures."""
    queues = [queue_name(job.tenant) for job in jobs]
    capacity = args.nodes * args.gpus_per_node
    begun, cpu = time.perf_counter(), time.process_time()
    starts: dict[str, object] = {}
    if name == "kezek":
        policy = equal_shares(None, jobs)
        replayer = Replayer(
            jobs,
            queues,
            replace(
                policy,
                start_reservations=args.reservations or policy.start_reservations,
                borrowed_reservations=args.borrowed_reservations or policy.borrowed_reservations,
            ),
            nodes=args.nodes,
            gpus_per_node=args.gpus_per_node,
            cycle_s=args.cycle_s,
        )
        replay = replayer.run()
        ended, disruption = list(replay.ended), replay.disruption
        starts = held(replay.told)
    else:
        baseline = Baseline(name, args.nodes, args.gpus_per_node, is_remainder_apart=args.remainder_apart)
        ended = replay_baseline(jobs, queues, baseline)
        disruption = Disruption()
    taken_s, cpu_s = time.perf_counter() - begun, time.process_time() - cpu
    figures = measure(ended, capacity, disruption)
    figures["jct_mean_s"] = round(sum(job.end_s - job.submit_s for job in ended) / len(ended))
    queue_p99 = {queue: found["wait_s"]["p99"] for queue, found in figures.pop("by_queue").items()}
    return figures | {
        "wait_p99_by_queue_s": queue_p99,
        "wait_by_size_s": by_size(ended),
        "starts": starts,
        "jobs_per_s": round(len(jobs) / taken_s),
        "jobs_per_cpu_s": round(len(jobs) / cpu_s),
        "load": [round(load, 1) for load in os.getloadavg()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", type=Path, required=True)
    parser.add_argument("--format", choices=sorted(READERS), default="csv")
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--gpus-per-node", type=int, default=8)
    parser.add_argument("--estimates", choices=tuple(ESTIMATES), default="trace")
    parser.add_argument("--seed", type=int, default=0, help="of the walltimes that the trace does not name")
    parser.add_argument("--cycle-s", type=int, default=CYCLE_S, help="between cycles of kezek")
    parser.add_argument(
        "--reservations", type=int, help="planned starts that kezek holds; the policy's default"
    )
    parser.add_argument("--borrowed-reservations", type=int, help="of these for jobs that are not entitled")
    parser.add_argument("--skip-s", type=int, default=0, help="leave out jobs submitted before")
    parser.add_argument("--remainder-apart", action="store_true")
    parser.add_argument("--limit", type=int, help="only the first jobs of the trace")
    parser.add_argument("--scheduler", choices=SCHEDULERS, action="append")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    names = args.scheduler or SCHEDULERS
    if args.remainder_apart and "kezek" in names:
        parser.error("--remainder-apart is for the baselines; name them by --scheduler")
    with args.trace.open(encoding="utf-8") as lines:
        jobs = prepared(READERS[args.format](lines, args.seed), args)
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    found: dict[str, object] = {
        "trace": args.trace.name,
        "jobs": len(jobs),
        "capacity_gpus": args.nodes * args.gpus_per_node,
        "estimates": args.estimates,
        "cycle_s": args.cycle_s,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "seed": args.seed,
        "commit": commit,
        "simulated": True,
    }
    for name in names:
        found[name] = run(name, jobs, args)
        if not args.json:
            print(name, json.dumps(found[name]))
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
