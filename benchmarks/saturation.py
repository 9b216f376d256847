"""Admissions a second when capacity never binds, through the real apply path with PostgreSQL and fsync on.

    python benchmarks/saturation.py --json

Another process submits jobs of one GPU as fast as they are admitted, with at most OUTSTANDING waiting; jobs that came
side by side share a transaction. The scheduler cycles: each admission has its check, its attempt, its allocation, its
pending ledger entry and its journal records. Nothing is launched and nothing ends: nodes are in memory, jobs simulated.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from multiprocessing.connection import Connection

from sqlalchemy import text
from stand import Asked, Cpu, Stand, Tenant, about, database, postgres_cpu_s, show, spread, submit_all

from quota import service as quota
from scheduler.collecting import Collecting
from scheduler.cycling import cycle
from scheduler.warm import Warm
from store import clock
from store.engine import open_engine, snapshot

QUEUES = 30
TOGETHER = 250
"""Jobs of one submitting transaction at most."""
OUTSTANDING = 1_000
"""Jobs that wait to be admitted at most: then the submitter waits."""
WALLTIME_S = 3_600
WAKE_S = 0.02
"""Longest pause of a scheduler that had nothing to admit; the service is woken by the database."""
AIM_PER_S = 2_000


def submitter(url: str, tenants: list[Tenant], pipe: Connection) -> None:
    """Another process: it submits while few are outstanding and tells numbers and instants."""
    engine = open_engine(url)
    pipe.recv()
    cpu = Cpu()
    outstanding = number = 0
    while True:
        while outstanding + TOGETHER > OUTSTANDING or pipe.poll():
            admitted = pipe.recv()
            if admitted is None:
                pipe.send((cpu.seconds, []))
                engine.dispose()
                return
            outstanding -= admitted
        asked = [Asked(tenants[(number + n) % len(tenants)], 1, WALLTIME_S) for n in range(TOGETHER)]
        began = time.monotonic()
        ids = submit_all(engine, asked)
        number += TOGETHER
        outstanding += TOGETHER
        pipe.send((began, ids))


class Run:
    """The scheduler's side: it cycles and tells the submitter how many were admitted."""

    def __init__(self, stand: Stand, pipe: Connection) -> None:
        self.stand, self.pipe = stand, pipe
        self.warm = Warm()
        self.collecting = Collecting()
        self.phases: dict[str, list[float]] = {}
        self.submitted: dict[int, float] = {}
        self.waits: list[float] = []
        self.per_cycle: list[float] = []
        self.intervals: list[float] = []

    def go(self, seconds: float, capacity: int) -> float:
        """Admit for so long, or until the machine is full; seconds it took."""
        with self.collecting.settled():
            return self._go(seconds, capacity)

    def _go(self, seconds: float, capacity: int) -> float:
        self._cycle()
        self.phases.clear()
        self.pipe.send("go")
        began = last = time.monotonic()
        while time.monotonic() - began < seconds and len(self.waits) < capacity:
            admitted = self._cycle()
            now = time.monotonic()
            self.intervals.append(now - last)
            last = now
            if admitted:
                self._note(admitted, now)
            else:
                self.pipe.poll(WAKE_S)
        return time.monotonic() - began

    def _cycle(self) -> list[int]:
        def took(phase: str, seconds: float) -> None:
            self.phases.setdefault(phase, []).append(seconds)

        applied = cycle(self.stand.leader, "bench", at=clock.now(), warm=self.warm, took=took)
        self.collecting.after_cycle()  # as the scheduler's service does
        return [int(attempt_id.partition("-")[0]) for attempt_id in applied.admitted]

    def _note(self, ids: list[int], now: float) -> None:
        while self.pipe.poll() or not all(job in self.submitted for job in ids):
            at, more = self.pipe.recv()
            self.submitted.update(dict.fromkeys(more, at))
        self.waits += [now - self.submitted.pop(job) for job in ids]
        self.per_cycle.append(len(ids))
        self.pipe.send(len(ids))

    def stop(self) -> float:
        """End the submitter; its CPU seconds."""
        self.pipe.send(None)
        while True:
            found, ids = self.pipe.recv()
            if not ids:
                return float(found)


def written(stand: Stand) -> list[int]:
    """Records of admissions, pending entries and held GPUs in the database."""
    with snapshot(stand.engine) as session:
        row = session.execute(
            text(
                "SELECT (SELECT count(*) FROM journal WHERE kind = 'job.admitted'),"
                " (SELECT count(*) FROM ledger_entries WHERE kind = 'pending'),"
                " (SELECT count(*) FROM allocations WHERE released_at IS NULL)"
            )
        ).one()
    return list(row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--nodes", type=int, default=1_000)
    parser.add_argument(
        "--gpus", type=int, default=128, help="GPUs of a node; so many that capacity never binds"
    )
    options = parser.parse_args()
    found = about(0)
    tree: dict[str, object] = {f"q{queue:02}": {"max_walltime": "1d"} for queue in range(QUEUES)}
    mine, its = multiprocessing.Pipe()
    with database() as url:
        stand = Stand(url, tree, options.nodes, options.gpus)
        tenants = [stand.tenant(f"t{queue:02}", f"q{queue:02}") for queue in range(QUEUES)]
        process = multiprocessing.get_context("spawn").Process(
            target=submitter, args=(url, tenants, its), daemon=True
        )
        process.start()
        cpu, database_cpu_s = Cpu(), postgres_cpu_s(url)
        run = Run(stand, mine)
        took_s = run.go(options.seconds, options.nodes * options.gpus - OUTSTANDING)
        cpu_s = {"scheduler": cpu.seconds, "submitter": run.stop()}
        cpu_s["database"] = round(postgres_cpu_s(url) - database_cpu_s, 2)
        process.join(20)
        found["records_claims_allocations"] = written(stand)
        found["ledger_problems"] = len(quota.verify(stand.engine).problems)
        stand.close()
    found |= {
        "admitted": len(run.waits),
        "seconds": round(took_s, 1),
        "admitted_per_s": round(len(run.waits) / took_s),
        "aim_per_s": AIM_PER_S,
        "cpu_ms_per_admission": {
            part: round(1_000 * seconds / max(1, len(run.waits)), 3) for part, seconds in cpu_s.items()
        },
        "submit_to_admitted_s": spread(run.waits),
        "cycle_interval_s": spread(run.intervals),
        "jobs_per_transaction": spread(run.per_cycle, 1),
        "phases_s": {phase: round(sum(values), 2) for phase, values in run.phases.items()},
        "rebuilds": run.warm.rebuilds,
        "load_after": about(0)["load"],
    }
    show(found, as_json=options.json)


if __name__ == "__main__":
    main()
