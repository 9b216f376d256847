"""Kueue's baseline case through the real apply path, with PostgreSQL; nodes are in memory, jobs are simulated.

    python benchmarks/kueue.py --json

5 cohorts of 6 queues, each with 20 GPUs nominal and 100 to borrow: 600 GPUs on 75 simulated nodes. Each queue gets 350
jobs of 1 GPU that run 0.2 s (one every 0.1 s), 100 of 5 GPUs and 0.5 s (every 0.5 s), 50 of 20 GPUs and 1 s (every
1.2 s), priorities 50, 100 and 200: 15,000 jobs, 39,600 GPU-seconds, 66 s at full use.
Source: Kueue, test/performance/scheduler/configs/baseline/generator.yaml; its published mean wall time is 351.1 s.
There a Kubernetes API server takes every write; here none is in the loop, and every job, admission, launch and end is a
transaction in PostgreSQL with fsync and a journal record. Another process submits, as the API is another.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import itertools
import multiprocessing
import random
import time
from multiprocessing.connection import Connection

from stand import Asked, Cpu, Stand, Tenant, about, database, postgres_cpu_s, show, spread, submit_all

from quota import service as quota
from scheduler import observe
from scheduler.cycling import cycle
from scheduler.launch import dispatch_all
from scheduler.warm import Warm
from store import clock
from store.engine import open_engine

COHORTS, QUEUES = 5, 6
CLASSES = {
    "small": (350, 0.1, 0.2, 50, 1),
    "medium": (100, 0.5, 0.5, 100, 5),
    "large": (50, 1.2, 1.0, 200, 20),
}
"""Jobs a queue, seconds between two, run time [s], priority, GPUs; as Kueue's generator has them."""
PUBLISHED_S = 351.1
PUBLISHED_ADMIT_S = {"large": 16.5, "medium": 76.8, "small": 215.5}
NODES, GPUS = 75, 8
WALLTIME_S = 5
"""What a job asks for: the shortest notice and plan that its run time allows."""
MAX_TOGETHER = 100
"""Jobs submitted in one transaction at most: those that came while the last one was written."""
BOUND_S = 66.0
LIMIT_S = 170.0


def arrivals(seed: int, share: float) -> list[tuple[float, str, int]]:
    """When jobs come: seconds, class, number of the queue; queues do not begin at the same instant."""
    chance = random.Random(seed)  # noqa: S311 - a reproducible workload, no secret
    found: list[tuple[float, str, int]] = []
    for queue in range(COHORTS * QUEUES):
        for kind, (count, every_s, *_) in CLASSES.items():
            offset = chance.random() * every_s
            found += [(offset + number * every_s, kind, queue) for number in range(round(count * share))]
    return sorted(found)


def submitter(url: str, tenants: list[Tenant], come: list[tuple[float, str, int]], pipe: Connection) -> None:
    """Another process: it submits each job when it comes and tells its number, class and delay."""
    engine = open_engine(url)
    cpu = Cpu()
    pipe.recv()
    began = time.monotonic()
    place = 0
    while place < len(come):
        wait_s = come[place][0] - (time.monotonic() - began)
        if wait_s > 0:
            time.sleep(wait_s)
        due = list(itertools.takewhile(lambda one: one[0] <= time.monotonic() - began, come[place:]))[
            :MAX_TOGETHER
        ]
        asked = [
            Asked(tenants[queue], CLASSES[kind][4], WALLTIME_S, CLASSES[kind][3]) for _, kind, queue in due
        ]
        for (due_s, kind, _), job in zip(due, submit_all(engine, asked), strict=True):
            pipe.send((job, kind, time.monotonic() - began - due_s))
        place += len(due)
    pipe.send((0, "cpu", cpu.seconds))
    engine.dispose()


class Run:
    """The scheduler's side: cycles, launches, ends."""

    def __init__(self, stand: Stand, pipe: Connection, count: int) -> None:
        self.stand, self.pipe, self.count = stand, pipe, count
        self.warm = Warm()
        self.kinds: dict[int, tuple[str, float]] = {}
        self.unknown: list[tuple[str, float]] = []
        self.ends: list[tuple[float, str, tuple[str, ...]]] = []
        self.after: dict[str, int] = {}
        self.to_admit: dict[str, list[float]] = {kind: [] for kind in CLASSES}
        self.phases: dict[str, list[float]] = {}
        self.per_cycle: list[float] = []
        self.late: list[float] = []
        self.submit_cpu_s = 0.0
        self.ended = 0

    def go(self) -> float:
        """Until every job has ended; seconds it took."""
        cycle(self.stand.leader, "bench", at=clock.now(), warm=self.warm)
        gc.collect()
        gc.freeze()  # as the scheduler's service does after its first reading
        self.pipe.send("go")
        began = time.monotonic()
        while self.ended < self.count and time.monotonic() - began < LIMIT_S:
            self._hear_submissions()
            applied = cycle(self.stand.leader, "bench", at=clock.now(), warm=self.warm, took=self._took)
            if applied.admitted:
                self._launch(applied.admitted)
            self._end_due()
            if not applied.admitted and not self.ends:
                time.sleep(0.002)
        return time.monotonic() - began

    def _took(self, phase: str, seconds: float) -> None:
        self.phases.setdefault(phase, []).append(seconds)

    def _hear_submissions(self) -> None:
        while self.pipe.poll():
            job, kind, late_s = self.pipe.recv()
            if kind == "cpu":
                self.submit_cpu_s = late_s
                continue
            self.kinds[job] = (kind, time.monotonic())
            self.late.append(late_s)

    def _launch(self, admitted: tuple[str, ...]) -> None:
        self.per_cycle.append(len(admitted))
        now = time.monotonic()
        began = time.monotonic()
        dispatch_all(self.stand.leader, admitted, is_fresh=True)
        self._took("launch", time.monotonic() - began)
        self._hear_submissions()
        for attempt_id in admitted:
            kind, submitted = self.kinds[int(attempt_id.partition("-")[0])]
            self.to_admit[kind].append(max(0.0, now - submitted))
            nodes = self.stand.executor.nodes_of(attempt_id)
            heapq.heappush(self.ends, (time.monotonic() + CLASSES[kind][2], attempt_id, nodes))

    def _end_due(self) -> None:
        began = time.monotonic()
        nodes: set[str] = set()
        while self.ends and self.ends[0][0] <= time.monotonic():
            _, attempt_id, on = heapq.heappop(self.ends)
            for node in on:
                self.stand.executor.finish(node, attempt_id)
            nodes.update(on)
            self.ended += 1
        if not nodes:
            return
        events = []
        for node in sorted(nodes):
            page = self.stand.executor.observe(node, self.after.get(node, 0), 0)
            self.after[node] = page.next_after
            events += page.events
        observe.take_events(self.stand.leader, events)
        for node in nodes:
            for status in self.stand.executor.list_attempts(node):
                if not status.is_alive:
                    self.stand.executor.remove(node, status.attempt_id, self.stand.leader.epoch)
        self._took("end", time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--share", type=float, default=1.0, help="share of the jobs, for a try (default all)")
    options = parser.parse_args()
    found = about(options.seed)
    tree: dict[str, object] = {
        f"c{cohort}": {
            "nominal": 120,
            "borrowing_limit": 0,
            "children": {
                f"q{queue}": {"nominal": 20, "borrowing_limit": 100, "max_walltime": "1h"}
                for queue in range(QUEUES)
            },
        }
        for cohort in range(COHORTS)
    }
    come = arrivals(options.seed, options.share)
    mine, its = multiprocessing.Pipe()
    with database() as url:
        stand = Stand(url, tree, NODES, GPUS)
        tenants = [
            stand.tenant(f"t{cohort}-{queue}", f"c{cohort}/q{queue}")
            for cohort in range(COHORTS)
            for queue in range(QUEUES)
        ]
        process = multiprocessing.get_context("spawn").Process(
            target=submitter, args=(url, tenants, come, its), daemon=True
        )
        process.start()
        run = Run(stand, mine, len(come))
        cpu, database_cpu_s = Cpu(), postgres_cpu_s(url)
        try:
            makespan_s = run.go()
        finally:
            process.terminate()
            process.join()
        found["cpu_database_s"] = round(postgres_cpu_s(url) - database_cpu_s, 1)
        found["cpu_scheduler_s"], found["cpu_submitter_s"] = cpu.seconds, run.submit_cpu_s
        verdict = quota.verify(stand.engine)
        stand.close()
    found |= {
        "jobs": len(come),
        "ended": run.ended,
        "makespan_s": round(makespan_s, 1),
        "times_bound": round(makespan_s / (BOUND_S * options.share), 2),
        "times_faster_than_kueue": round(PUBLISHED_S * options.share / makespan_s, 2),
        "submitted_late_s": spread(run.late),
        "to_admit_s": {kind: spread(values) for kind, values in run.to_admit.items()},
        "to_admit_published_mean_s": PUBLISHED_ADMIT_S,
        "admitted_per_cycle": spread(run.per_cycle, 1),
        "phases_s": {phase: round(sum(values), 2) for phase, values in run.phases.items()},
        "cycles": len(run.phases.get("plan", [])),
        "rebuilds": run.warm.rebuilds,
        "ledger_problems": len(verdict.problems),
        "load_after": about(0)["load"],
    }
    show(found, as_json=options.json)


if __name__ == "__main__":
    main()
