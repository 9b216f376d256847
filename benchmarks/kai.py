"""KAI's scale cases through the real apply path, with PostgreSQL; nodes are in memory, jobs are simulated.

    python benchmarks/kai.py --json

500 simulated nodes of 8 GPUs. fill: 4,000 jobs of one GPU, from the first submission to the last launch. topology:
one job of 512 GPUs inside one row of racks on an empty machine. reclaim: the machine is full of borrowers; the owner's
job of one GPU, and then 3,999 more of them, from submission to launch. why: a job of 80 GPUs on 10 nodes that can have
none, from submission to the reason in the journal.
Source of the cases and of the figures beside: KAI Scheduler, docs/scale-tests/example-results.json and
docs/developer/scale-tests.md. There 500 KWOK nodes stand behind a Kubernetes API server, and pods are created, bound
and evicted through it; here no API server is in the loop. KAI evicts at once, Kezek gives at least a second of notice:
that second is part of the figure, and taken out in the one beside.
"""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from sqlalchemy import func, select
from stand import Asked, Cpu, Stand, Tenant, about, database, show, submit_all

from quota import service as quota
from scheduler import notices, observe, stops
from scheduler.cycling import cycle
from scheduler.launch import dispatch_all
from scheduler.model import JobState, Request
from scheduler.tables import JobRow
from scheduler.warm import Warm
from store import clock
from store.engine import snapshot

NODES, GPUS = 500, 8
RACK = 64
"""Nodes of a rack-row: 512 GPUs."""
WALLTIME_S = 80_000
TOGETHER = 250
NOTICE_S = 1.0
LIMIT_S = 40.0
"""Longest time for one case; then it has no figure, and those behind it find another machine than they say."""
PUBLISHED_S = {"fill": 398.0, "topology": 48.7, "reclaim_1": 13.9, "reclaim_all": 694.0, "why": 249.5}
LEVEL = "rack"


class CaseOverError(Exception):
    """A case took longer than it may; a single plan can."""


class Loop:
    """The scheduler's loop, driven by hand: cycle, launch, stop, hear."""

    def __init__(self, stand: Stand, limit_s: float) -> None:
        self.stand = stand
        self.warm = Warm()
        self.after: dict[str, int] = {}
        self.busy: dict[str, float] = {}
        self.cpu: dict[str, float] = {}
        self.limit_s = limit_s

    def turn(self) -> None:
        """One turn of it."""
        leader = self.stand.leader
        cpu = Cpu()
        applied = cycle(leader, "bench", at=clock.now(), warm=self.warm, took=self._took)
        self._used("cycle", cpu)
        with self._timed("launch"):
            if applied.admitted:
                dispatch_all(leader, applied.admitted, is_fresh=True)
        with self._timed("stop"):
            with snapshot(self.stand.engine) as session:
                told = notices.undelivered_notices(session)
                undelivered = stops.undelivered_stops(session)
            notices.send_notices(leader, told)
            stops.deliver_stops(leader, undelivered)
        with self._timed("hear"):
            names = self.stand.executor.nodes()
            for begin in range(0, len(names), RACK):
                self._hear(names[begin : begin + RACK])

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        began, cpu = time.monotonic(), Cpu()
        yield
        self._took(phase, time.monotonic() - began)
        self._used(phase, cpu)

    def _used(self, phase: str, cpu: Cpu) -> None:
        self.cpu[phase] = round(self.cpu.get(phase, 0.0) + cpu.seconds, 3)

    def _took(self, phase: str, seconds: float) -> None:
        self.busy[phase] = round(self.busy.get(phase, 0.0) + seconds, 3)

    def _hear(self, nodes: Sequence[str]) -> None:
        events = []
        for node in nodes:
            page = self.stand.executor.observe(node, self.after.get(node, 0), 0)
            self.after[node] = page.next_after
            events += page.events
        observe.take_events(self.stand.leader, events)

    def until(self, is_done: Callable[[], bool]) -> float | None:
        """Turn until it is done; seconds it took, None when it did not end."""

        def over(_number: int, _frame: FrameType | None) -> None:
            raise CaseOverError

        began = time.monotonic()
        signal.signal(signal.SIGALRM, over)
        signal.setitimer(signal.ITIMER_REAL, self.limit_s)
        try:
            while True:
                self.turn()
                if is_done():
                    return round(time.monotonic() - began, 3)
        except CaseOverError:
            self.warm = Warm()  # whatever it was in the middle of is begun anew
            return None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def running(self, tenant: Tenant) -> int:
        """Jobs of a project that were launched."""
        with snapshot(self.stand.engine) as session:
            statement = select(func.count()).where(
                JobRow.project_id == tenant.project.id, JobRow.state == JobState.RUNNING.value
            )
            return session.scalar(statement) or 0

    def reason(self, job_id: int) -> str | None:
        """Why a job waits, as told."""
        with snapshot(self.stand.engine) as session:
            return session.scalar(select(JobRow.reason).where(JobRow.id == job_id))

    def cancel_all(self) -> None:
        """Empty the machine."""
        with snapshot(self.stand.engine) as session:
            live = session.execute(
                select(JobRow.id, JobRow.attempts).where(JobRow.state != JobState.PENDING.value)
            )
            names = [f"{row.id}-{row.attempts}" for row in live]
        for name in names:
            for node in self.stand.executor.nodes_of(name):
                self.stand.executor.finish(node, name)
        self.turn()


def cases(stand: Stand, borrower: Tenant, owner: Tenant, loop: Loop) -> dict[str, object]:
    """Every case on one machine, one after the other."""
    loop.turn()
    jobs = len(stand.executor.nodes()) * GPUS
    found: dict[str, object] = {}
    if "topology_required" in Request.__dataclass_fields__:
        began = time.monotonic()
        more = {"topology_required": LEVEL}
        submit_all(stand.engine, [Asked(owner, RACK * GPUS, WALLTIME_S, more=more)])
        submitted_s = time.monotonic() - began
        found["topology"] = _add(submitted_s, loop.until(lambda: loop.running(owner) == 1))
        loop.cancel_all()
    began = time.monotonic()
    _submit(stand, borrower, jobs)
    submitted_s = time.monotonic() - began
    found["fill"] = _add(submitted_s, loop.until(lambda: loop.running(borrower) == jobs))
    began = time.monotonic()
    job = submit_all(stand.engine, [Asked(borrower, 80, WALLTIME_S, nodes=10)])[0]
    submitted_s = time.monotonic() - began
    found["why"] = _add(submitted_s, loop.until(lambda: loop.reason(job) is not None))
    found["why_reason"] = loop.reason(job)
    began = time.monotonic()
    _submit(stand, owner, 1)
    submitted_s = time.monotonic() - began
    found["reclaim_1"] = _add(submitted_s, loop.until(lambda: loop.running(owner) == 1))
    began = time.monotonic()
    _submit(stand, owner, jobs - 1)
    submitted_s = time.monotonic() - began
    found["reclaim_all"] = _add(submitted_s, loop.until(lambda: loop.running(owner) == jobs))
    found["owner_running"] = loop.running(owner)
    found["rebuilds"] = loop.warm.rebuilds
    found["busy_s"] = loop.busy
    found["busy_cpu_s"] = loop.cpu
    return found


def _submit(stand: Stand, tenant: Tenant, count: int) -> None:
    for begin in range(0, count, TOGETHER):
        submit_all(stand.engine, [Asked(tenant, 1, WALLTIME_S)] * min(TOGETHER, count - begin))


def _add(submitted_s: float, rest_s: float | None) -> float | None:
    return None if rest_s is None else round(submitted_s + rest_s, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="of one case (default %(default)s)")
    parser.add_argument("--nodes", type=int, default=NODES, help="fewer for a try (default %(default)s)")
    options = parser.parse_args()
    found = about(0)
    tree: dict[str, object] = {
        "owner": {"nominal": options.nodes * GPUS, "max_walltime": "1d"},
        "borrower": {"nominal": 0, "max_walltime": "1d", "preemption": {"grace": "1s"}},
    }
    with database() as url:
        labels = {f"n{number:05}": {LEVEL: f"r{number // RACK}"} for number in range(options.nodes)}
        stand = Stand(url, tree, options.nodes, GPUS, labels=labels)
        borrower, owner = stand.tenant("borrower", "borrower"), stand.tenant("owner", "owner")
        cpu = Cpu()
        found |= cases(stand, borrower, owner, Loop(stand, options.limit_s))
        found["cpu_s"] = cpu.seconds
        found["ledger_problems"] = len(quota.verify(stand.engine).problems)
        stand.close()
    for case, published_s in PUBLISHED_S.items():
        mine_s = found.get(case)
        if not isinstance(mine_s, float):
            continue
        found[f"{case}_times_faster"] = round(published_s / mine_s, 1)
        if case.startswith("reclaim"):
            found[f"{case}_times_faster_less_notice"] = round(published_s / max(0.001, mine_s - NOTICE_S), 1)
    found["load_after"] = about(0)["load"]
    show(found, as_json=options.json)


if __name__ == "__main__":
    main()
