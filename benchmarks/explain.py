"""Time of one explanation on a full cluster with a long queue, the database left out. Simulated nodes.

    python benchmarks/explain.py --nodes 64 --pending 5000 --json

never: a job that can never start as asked. blocked: jobs spread over the queues, each with its place, its planned
start and the smallest changes that would start it now, one second after the other; first: before anything is known
of the waiting jobs; same_moment: others, as of the last one's instant, so that its plan serves them too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from cycle import Bench

from scheduler import explain as explaining
from scheduler.measures import percentile
from scheduler.model import JobId, Snapshot
from scheduler.windows import Window, WindowKind


def timed(work: Callable[[], object]) -> tuple[float, float, object]:
    """Milliseconds of wall clock and of CPU, and what came of it."""
    begun, cpu = time.perf_counter(), time.process_time()
    found = work()
    return (time.perf_counter() - begun) * 1_000, (time.process_time() - cpu) * 1_000, found


def with_gap(snapshot: Snapshot) -> Snapshot:
    """The last four nodes are empty, and maintenance of them begins sooner than any job could end."""
    nodes = frozenset(node.name for node in snapshot.nodes[-4:])
    begins_ms = snapshot.at_ms + 1_800_000
    window = Window("w1", WindowKind.MAINTENANCE, nodes, begins_ms, begins_ms + 3_600_000)
    live = tuple(one for one in snapshot.live if not any(slot.node in nodes for slot in one.slots))
    return replace(snapshot, live=live, windows=(window,))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--pending", type=int, default=5_000)
    parser.add_argument("--jobs", type=int, default=10, help="blocked jobs that are explained")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    bench = Bench(args.nodes, args.pending, args.seed)
    bench.cycle()
    bench.at_ms += 60_000
    snapshot = with_gap(bench.snapshot())
    tried = explaining.MAX_TRIED
    impossible = replace(snapshot.pending[0], request=replace(snapshot.pending[0].request, gpus=10**6))
    with_never = replace(snapshot, pending=(impossible, *snapshot.pending[1:]))
    never = [
        timed(lambda: explaining.explain(JobId(impossible.id), with_never, bench.policy)) for _ in range(10)
    ]
    step = max(1, len(snapshot.pending) // args.jobs)
    blocked: list[tuple[float, float]] = []
    explainer = explaining.Explainer()
    cold_ms, cold_cpu_ms, _ = timed(
        partial(explainer.explain, snapshot.pending[0].id, snapshot, bench.policy)
    )
    changes = 0
    for job in snapshot.pending[::step][: args.jobs]:
        # Another instant each time, as when each is asked for by itself: its plan is made anew.
        snapshot = replace(snapshot, at_ms=snapshot.at_ms + 1_000)
        wall_ms, cpu_ms, found = timed(partial(explainer.explain, job.id, snapshot, bench.policy))
        blocked.append((wall_ms, cpu_ms))
        changes += len(found.changes) if isinstance(found, explaining.Explanation) else 0
    again = [
        timed(partial(explainer.explain, job.id, snapshot, bench.policy))[1]
        for job in snapshot.pending[step // 2 :: step][: args.jobs]
    ]
    git = ["git", "rev-parse", "--short", "HEAD"]
    found_all = {
        "never_p50_ms": round(percentile(sorted(wall for wall, _, _ in never), 0.5), 2),
        "first_ms": round(cold_ms, 1),
        "first_cpu_ms": round(cold_cpu_ms, 1),
        "blocked_p50_ms": round(percentile(sorted(wall for wall, _ in blocked), 0.5), 1),
        "blocked_max_ms": round(max(wall for wall, _ in blocked), 1),
        "blocked_p50_cpu_ms": round(percentile(sorted(cpu for _, cpu in blocked), 0.5), 1),
        "same_moment_cpu_ms": round(percentile(sorted(again), 0.5), 1),
        "changes_named": changes,
        "changes_looked_for": len(snapshot.pending) <= tried,
        "nodes": args.nodes,
        "pending": args.pending,
        "seed": args.seed,
        "load": round(os.getloadavg()[0], 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "commit": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip(),
        "simulated": True,
    }
    print(
        json.dumps(found_all)
        if args.json
        else "\n".join(f"{name} {value}" for name, value in found_all.items())
    )


if __name__ == "__main__":
    main()
