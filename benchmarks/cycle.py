"""Time of one scheduling cycle on a full cluster with a long queue. Simulated nodes; nothing is dispatched.

    python benchmarks/cycle.py --nodes 64 --pending 5000 --json

cold: the first plan of a process-fresh snapshot. settle: the one behind it, which takes over all that the cold plan
started, and so changes much more than 1 %. warm: plans after 1 % of the running jobs ended and as many were submitted,
each applied, with the index carried from cycle to cycle; `_cpu` is the processor time of the same cycles, which other
work on the machine moves less than the clock's. reasons: working out why each job waits, which a plan does when it is
first asked; it is not part of the others.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import random
import resource
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from uuid import UUID

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from quota.model import GrantId, Policy, QuotaNode
from scheduler.index import Index
from scheduler.measures import percentile
from scheduler.model import (
    Admit,
    GrantView,
    JobId,
    JobState,
    LiveAttempt,
    Node,
    NodeState,
    PendingJob,
    Request,
    Reservation,
    Reserve,
    Snapshot,
)
from scheduler.plan import make_plan

AT_MS = 10**12
QUEUES = 30
WALLTIMES_S = (3_600, 4 * 3_600, 86_400)
SIZES = (1, 1, 1, 2, 4, 8, 8, 16, 32)


class Bench:
    """A simulated cluster with a long queue; carries its plans out at once."""

    def __init__(self, nodes: int, pending: int, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - a reproducible workload, no secret
        self.at_ms = AT_MS
        tree = tuple(QuotaNode(f"q{number:02}", grace_s=120) for number in range(QUEUES))
        self.policy = Policy("bench", date(2026, 1, 1), (), tree, ())
        self.nodes = tuple(
            Node(
                f"n{node:05}",
                "h200",
                tuple(f"n{node:05}:{gpu}" for gpu in range(8)),
                NodeState.UP,
                is_simulated=True,
            )
            for node in range(nodes)
        )
        self.number = 0
        self.index = Index()
        self.live: dict[str, LiveAttempt] = {}
        self.pending: dict[int, PendingJob] = {}
        self.reservations: tuple[Reservation, ...] = ()
        for _ in range(pending):
            self.submit()

    def submit(self) -> None:
        """One more job waits."""
        self.number += 1
        request = Request(self.random.choice(SIZES), self.random.choice(WALLTIMES_S), ("h200",))
        self.pending[self.number] = PendingJob(
            JobId(self.number),
            UUID(int=1),
            f"q{self.random.randrange(QUEUES):02}",
            request,
            0,
            self.at_ms - self.random.randrange(3_600_000),
        )

    def snapshot(self) -> Snapshot:
        """What a cycle plans from."""
        grant = GrantView(GrantId(UUID(int=2)), UUID(int=1), "h200", 0, 10**15, 10**15, 0)
        return Snapshot(
            at_ms=self.at_ms,
            version="bench",
            nodes=self.nodes,
            live=tuple(self.live[name] for name in sorted(self.live)),
            pending=tuple(self.pending.values()),
            grants=(grant,),
            capacity={"h200": 8 * len(self.nodes)},
            reservations=self.reservations,
        )

    def cycle(self) -> tuple[float, float]:
        """Plan, carry the plan out; seconds and processor seconds that planning took. `self.plan` is the plan."""
        snapshot = self.snapshot()
        begun, begun_cpu = time.perf_counter(), time.process_time()
        plan = self.plan = make_plan(snapshot, self.policy, self.index)
        taken_s = (time.perf_counter() - begun, time.process_time() - begun_cpu)
        for number, entry in enumerate(plan.effects):
            if isinstance(entry, Admit):
                job = self.pending.pop(entry.job_id)
                self.live[f"{job.id}-1"] = LiveAttempt(
                    f"{job.id}-1",
                    job.id,
                    job.project_id,
                    job.queue,
                    job.request,
                    entry.slots,
                    JobState.RUNNING,
                    self.at_ms,
                    self.at_ms,
                    admitted_seq=number,
                    grace_s=120,
                    is_protected=True,
                )
        self.reservations = tuple(
            Reservation(e.job_id, e.start_ms, e.place, e.flavor, e.share_class, plan.at_ms, e.is_reclaim)
            for e in plan.effects
            if isinstance(e, Reserve)
        )
        return taken_s

    def change(self) -> None:
        """One in a hundred running jobs ends, and as many are submitted."""
        self.at_ms += 1_000
        count = max(1, len(self.live) // 100)
        for name in self.random.sample(sorted(self.live), count):
            del self.live[name]
        for _ in range(count):
            self.submit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--pending", type=int, default=5_000)
    parser.add_argument("--cycles", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    bench = Bench(args.nodes, args.pending, args.seed)
    cold_s, cold_cpu_s = bench.cycle()
    bench.change()
    settle_s, _ = bench.cycle()
    gc.collect()
    gc.freeze()  # as a long-lived service does: full collections would look at the whole queue again and again
    warm: list[float] = []
    cpu: list[float] = []
    for _ in range(args.cycles):
        bench.change()
        taken_s, taken_cpu_s = bench.cycle()
        warm.append(taken_s * 1_000)
        cpu.append(taken_cpu_s * 1_000)
    begun = time.perf_counter()
    waiting = len(bench.plan.entries)
    reasons_s = time.perf_counter() - begun
    warm.sort()
    cpu.sort()
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    found = {
        "cold_s": round(cold_s, 3),
        "cold_cpu_s": round(cold_cpu_s, 3),
        "settle_s": round(settle_s, 3),
        "warm_p50_ms": round(percentile(warm, 0.5), 1),
        "warm_p99_ms": round(percentile(warm, 0.99), 1),
        "warm_p50_cpu_ms": round(percentile(cpu, 0.5), 1),
        "warm_p99_cpu_ms": round(percentile(cpu, 0.99), 1),
        "reasons_s": round(reasons_s, 3),
        "entries": waiting,
        "nodes": args.nodes,
        "pending": args.pending,
        "cycles": args.cycles,
        "running": len(bench.live),
        "seed": args.seed,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "load": round(os.getloadavg()[0], 1),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "commit": commit,
    }
    print(json.dumps(found) if args.json else "\n".join(f"{key} {value}" for key, value in found.items()))


if __name__ == "__main__":
    main()
