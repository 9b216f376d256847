"""Five quota experiments on a trace with sectors: what guarantees are worth, and what they cost. Simulated.

    python benchmarks/experiments.py --trace philly.csv --nodes 80 --json

equal: each of the trace's sectors is guaranteed an equal share. capped: the same, and the sector of `--flood` may
hold no more than its guarantee. skewed: 50, 25, 15 and 10 %, sectors by name. flood: one tenant (`--flood`) submits
every job three times. burst: the first sector is silent for seven days, then all its jobs of the eighth day come at
once.

Each sector is one queue; tenants share it by age. Under Kezek what is idle is lent and taken back after a notice of
120 s, without checkpoints. fifo, easy and multifactor share the cluster and know no guarantees; partitions gives each
sector nodes of its own, with easy on them. Figures: `scheduler.measures` and `scheduler.guarantees`; finish-time
fairness compares with partitions. All see the trace's walltimes; nothing is drawn at random.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from quota.model import Policy, QuotaNode
from scheduler.baselines import Baseline
from scheduler.guarantees import Promise, judge
from scheduler.measures import Disruption, Ended, measure
from scheduler.simulate import Replayer
from scheduler.simulate_cli import replay_baseline
from scheduler.traces import READERS, TraceJob

DAY_S = 86_400
SILENT_DAYS = 7
GRACE_S = 120
SKEWED = (50, 25, 15, 10)
"""Percent of the nodes by sector."""
EXPERIMENTS = ("equal", "capped", "skewed", "flood", "burst")
SCHEDULERS = ("kezek", "partitions", "easy", "fifo", "multifactor")


@dataclass(frozen=True)
class Case:
    """A trace, the nodes that each sector is guaranteed, and the sectors that may hold no more."""

    jobs: list[TraceJob]
    nodes: dict[str, int]
    capped: frozenset[str] = frozenset()


def case_of(name: str, jobs: list[TraceJob], nodes: int, flood: str) -> Case:
    """The experiment's jobs and guarantees."""
    sectors = sorted({job.sector for job in jobs})
    first = sectors[0]
    percents = SKEWED if name == "skewed" else (100 / len(sectors),) * len(sectors)
    shares = {sector: int(nodes * percent / 100) for sector, percent in zip(sectors, percents, strict=True)}
    if name == "flood":
        copies = [
            replace(job, id=f"{job.id}-{copy}") for job in jobs if job.tenant == flood for copy in (2, 3)
        ]
        jobs = sorted([*jobs, *copies], key=lambda job: (job.submit_s, job.id))
    if name == "burst":
        begin_s, end_s = SILENT_DAYS * DAY_S, (SILENT_DAYS + 1) * DAY_S
        kept = [job for job in jobs if job.sector != first or job.submit_s >= begin_s]
        moved = [
            replace(job, submit_s=begin_s) if job.sector == first and job.submit_s < end_s else job
            for job in kept
        ]
        jobs = sorted(moved, key=lambda job: (job.submit_s, job.id))
    capped = {job.sector for job in jobs if job.tenant == flood} if name == "capped" else ()
    return Case(jobs, shares, frozenset(capped))


def partitioned(case: Case, size: int) -> list[Ended]:
    """Each sector alone on the nodes that it is guaranteed; jobs larger than these are left out."""
    ended: list[Ended] = []
    for sector, nodes in case.nodes.items():
        own = [job for job in case.jobs if job.sector == sector and job.gpus <= nodes * size]
        ended += replay_baseline(own, [sector] * len(own), Baseline("easy", nodes, size))
    return ended


def policy_of(case: Case, size: int, reservations: int | None) -> Policy:
    """One queue per sector."""
    tree = tuple(
        QuotaNode(
            sector,
            nominal=nodes * size,
            borrowing_limit=0 if sector in case.capped else None,
            grace_s=GRACE_S,
        )
        for sector, nodes in case.nodes.items()
    )
    policy = Policy("experiment", date(2026, 1, 1), (), tree, ())
    return replace(policy, start_reservations=reservations or policy.start_reservations)


def replayed(name: str, case: Case, args: argparse.Namespace) -> tuple[Sequence[Ended], Disruption]:
    """One scheduler's replay of the case."""
    queues, nodes, size = [job.sector for job in case.jobs], args.nodes, args.gpus_per_node
    if name == "kezek":
        policy = policy_of(case, size, args.reservations)
        replay = Replayer(case.jobs, queues, policy, nodes=nodes, gpus_per_node=size).run()
        return replay.ended, replay.disruption
    if name == "partitions":
        return partitioned(case, size), Disruption()
    return replay_baseline(case.jobs, queues, Baseline(name, nodes, size)), Disruption()


def figures(
    ended: Sequence[Ended],
    disruption: Disruption,
    capacity: int,
    promises: Mapping[str, Promise],
    alone: Sequence[Ended],
) -> dict[str, object]:
    """All figures of a replay."""
    found = measure(ended, capacity, disruption)
    found.pop("makespan_s")
    alone_s = {job.id: job.end_s - job.submit_s for job in alone}
    return found | judge(ended, capacity, promises, disruption, alone_s)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trace", type=Path, required=True)
    parser.add_argument("--format", choices=sorted(READERS), default="csv")
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--gpus-per-node", type=int, default=8)
    parser.add_argument("--limit", type=int, help="only the first jobs of the trace")
    parser.add_argument("--seed", type=int, default=0, help="of the walltimes that the trace does not name")
    parser.add_argument("--flood", default="vc_6214e9", help="tenant that floods")
    parser.add_argument(
        "--reservations", type=int, help="planned starts that kezek holds; the policy's default"
    )
    parser.add_argument("--experiment", choices=EXPERIMENTS, action="append")
    parser.add_argument("--scheduler", choices=SCHEDULERS, action="append")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with args.trace.open(encoding="utf-8") as lines:
        jobs = READERS[args.format](lines, args.seed)[: args.limit]
    if len({job.sector for job in jobs}) != len(SKEWED):
        parser.error(f"the experiments are for traces of {len(SKEWED)} sectors")
    git = ["git", "rev-parse", "--short", "HEAD"]
    size, capacity = args.gpus_per_node, args.nodes * args.gpus_per_node
    found: dict[str, object] = {
        "trace": args.trace.name,
        "capacity_gpus": capacity,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "seed": args.seed,
        "commit": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip(),
        "simulated": True,
    }
    for experiment in args.experiment or EXPERIMENTS:
        case = case_of(experiment, jobs, args.nodes, args.flood)
        alone = partitioned(case, size)
        for name in args.scheduler or SCHEDULERS:
            cpu = time.process_time()
            ended, disruption = replayed(name, case, args)
            cpu_s = time.process_time() - cpu
            knows = name in {"kezek", "partitions"}
            promises = {
                sector: Promise(
                    nodes * size,
                    nodes * size if name == "partitions" or (knows and sector in case.capped) else None,
                )
                for sector, nodes in case.nodes.items()
            }
            one = figures(ended, disruption, capacity, promises, alone) | {"cpu_s": round(cpu_s, 1)}
            found[f"{experiment}/{name}"] = one
            if not args.json:
                print(experiment, name, json.dumps(one), flush=True)
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
