"""Schedulers to compare with, on the same rules of placement.

fifo: the head of the queue blocks. easy: the blocked head holds a planned start, others fill in around it.
conservative: every blocked job holds one, on nodes. multifactor: easy, ordered by age, fair share and size.
Source: Feitelson and Weil, "Utilization and predictability in scheduling the IBM SP2 with backfilling", 1998;
Slurm's multifactor priority plugin for the last.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from scheduler.model import AttemptId, JobId, ShareClass
from scheduler.place import Picks, Rooms, pick
from scheduler.profile import Hold, Profile, Run

MS: Final = 1_000
"""Milliseconds of a second."""
MAX_HOLDS: Final = 100
"""Planned starts that the conservative scheduler holds at a time: beyond it, jobs only wait."""
AGE_FULL_S: Final = 7 * 86_400
"""Seconds of waiting that count as much as the whole of a fair share (PriorityMaxAge of Slurm)."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A waiting job as a baseline sees it."""

    number: int
    gpus: int
    walltime_ms: int
    submit_ms: int
    tenant: str


@dataclass(frozen=True, slots=True)
class Begun:
    """A job that starts on these nodes."""

    job: Asked
    picks: Picks


class Stock:
    """Nodes of one size by what is free of each, so that the fullest that holds a job is found at once.

    The rules are those of `scheduler.place.pick`.
    """

    def __init__(self, nodes: int, size: int) -> None:
        self.size: Final = size
        self.free: Final = [size] * nodes
        self.total = nodes * size
        self._levels: Final[list[list[int]]] = [[] for _ in range(size)] + [list(range(nodes))]

    def pick(self, gpus: int) -> Picks | None:
        """The fullest node that holds the job; more than a node takes entirely free ones and a remainder."""
        if gpus > self.total:
            return None
        whole, rest = (0, gpus) if gpus <= self.size else divmod(gpus, self.size)
        empty = self._levels[self.size]
        if len(empty) < whole:
            return None
        found = [(node, self.size) for node in empty[:whole]]
        if rest:
            level = next((level for level in self._levels[rest : self.size] if level), empty[whole:])
            if not level:
                return None
            found.append((level[0], rest))
        return tuple(found)

    def move(self, picks: Picks, sign: int) -> None:
        """Give GPUs back (1) or take them (-1)."""
        for node, gpus in picks:
            level = self._levels[self.free[node]]
            del level[bisect_left(level, node)]
            self.free[node] += sign * gpus
            insort(self._levels[self.free[node]], node)
            self.total += sign * gpus


class Baseline:
    """One baseline over a run of a trace.

    Args:
        kind: `fifo`, `easy`, `conservative` or `multifactor`.
        nodes: how many.
        gpus_per_node: of each.
    """

    def __init__(self, kind: str, nodes: int, gpus_per_node: int) -> None:
        self._is_strict: Final = kind == "fifo"
        self._is_conservative: Final = kind == "conservative"
        self._is_multifactor: Final = kind == "multifactor"
        self._stock: Final = Stock(nodes, gpus_per_node)
        self._runs: Final[dict[int, tuple[Asked, Picks, int]]] = {}
        self._ends: Final[list[tuple[int, int, int]]] = []
        self._used: Final[dict[str, float]] = {}
        self.waiting: deque[Asked] = deque()

    def submit(self, job: Asked) -> None:
        """A job waits from now on."""
        self.waiting.append(job)

    def end(self, number: int) -> None:
        """A job ended."""
        job, picks, start_ms = self._runs.pop(number)
        self._stock.move(picks, 1)
        del self._ends[bisect_left(self._ends, (start_ms + job.walltime_ms, number))]

    def plan(self, at_ms: int) -> list[Begun]:
        """What starts now."""
        begun: list[Begun] = []
        if self._is_multifactor:
            self.waiting = deque(sorted(self.waiting, key=self._priority(at_ms)))
        self._heads(at_ms, begun)
        if self.waiting and self._stock.total and not self._is_strict:
            fill = self._conservatively if self._is_conservative else self._easily
            self.waiting = deque(fill(at_ms, begun))
        return begun

    def _heads(self, at_ms: int, begun: list[Begun]) -> None:
        """Start from the head on until one does not fit."""
        while self.waiting and (picks := self._stock.pick(self.waiting[0].gpus)) is not None:
            self._begin(self.waiting.popleft(), picks, at_ms, begun)

    def _begin(self, job: Asked, picks: Picks, at_ms: int, begun: list[Begun]) -> None:
        self._stock.move(picks, -1)
        self._runs[job.number] = (job, picks, at_ms)
        insort(self._ends, (at_ms + job.walltime_ms, job.number, job.gpus))
        self._used[job.tenant] = self._used.get(job.tenant, 0.0) + job.gpus * job.walltime_ms
        begun.append(Begun(job, picks))

    def _easily(self, at_ms: int, begun: list[Begun]) -> list[Asked]:
        """Start behind the head what ends before its planned start, or needs no more than is to spare then.

        The planned start is when enough GPUs are free, counted over all nodes as in the original.
        """
        head, *others = self.waiting
        planned_ms, free = at_ms, self._stock.total
        for end_ms, _, gpus in self._ends:
            planned_ms, free = max(end_ms, at_ms), free + gpus
            if free >= head.gpus:
                break
        spare = free - head.gpus
        waits = [head]
        for job in others:
            is_short = at_ms + job.walltime_ms <= planned_ms
            picks = self._stock.pick(job.gpus) if is_short or job.gpus <= spare else None
            if picks is None:
                waits.append(job)
                continue
            if not is_short:
                spare -= job.gpus
            self._begin(job, picks, at_ms, begun)
        return waits

    def _conservatively(self, at_ms: int, begun: list[Begun]) -> list[Asked]:
        """Plan the first starts on nodes, and start behind them what moves none of them."""
        size = self._stock.size
        rooms = Rooms([(f"n{node:05}", size, free) for node, free in enumerate(self._stock.free)])
        profile = Profile("gpu", rooms, at_ms, runs={run.id: run for run in self._as_runs(at_ms)}, windows=())
        waits: list[Asked] = []
        refused: dict[int, int] = {}
        for job in self.waiting:
            one = 1 if job.gpus <= size else None
            is_planned = len(profile.holds) < MAX_HOLDS
            is_hopeless = (
                job.gpus > self._stock.total or refused.get(job.gpus, job.walltime_ms + 1) <= job.walltime_ms
            )
            picks = None
            if not is_hopeless:
                room = profile.throughout(at_ms, at_ms + job.walltime_ms)
                picks = pick(room, rooms.sizes, job.gpus, one)
            if picks is not None:
                self._begin(job, picks, at_ms, begun)
                for node, gpus in picks:
                    rooms.take(rooms.names[node], gpus)
                profile.start(_run(job, picks, at_ms))
                continue
            waits.append(job)
            if is_planned:
                profile.hold(self._hold(job, profile))
            else:
                refused[job.gpus] = min(job.walltime_ms, refused.get(job.gpus, job.walltime_ms))
        return waits

    def _hold(self, job: Asked, profile: Profile) -> Hold:
        """The earliest start; on an empty cluster every job of a trace fits."""
        for at_ms in profile.instants():
            room = profile.throughout(at_ms, at_ms + job.walltime_ms)
            one = 1 if job.gpus <= self._stock.size else None
            picks = pick(room, profile.rooms.sizes, job.gpus, one)
            if picks is not None:
                break
        return Hold(
            job_id=JobId(job.number),
            queue="",
            flavor="gpu",
            gpus=job.gpus,
            start_ms=at_ms,
            end_ms=at_ms + job.walltime_ms,
            picks=picks or (),
            share_class=ShareClass.ENTITLED,
        )

    def _as_runs(self, at_ms: int) -> Iterable[Run]:
        # A job past its walltime may end at any moment; a millisecond is the soonest that is not now.
        return [
            _run(job, picks, max(start_ms, at_ms + 1 - job.walltime_ms))
            for job, picks, start_ms in self._runs.values()
        ]

    def _priority(self, at_ms: int) -> Callable[[Asked], tuple[float, int]]:
        """Age up to AGE_FULL_S, 2^(-use / mean use) and the size, weighted alike; ties by submission."""
        total = sum(self._used.values()) or 1.0
        share = 1.0 / max(1, len(self._used))
        largest = max(1, len(self._stock.free) * self._stock.size)

        def key(job: Asked) -> tuple[float, int]:
            age = min(1.0, (at_ms - job.submit_ms) / MS / AGE_FULL_S)
            fair = 2.0 ** -(self._used.get(job.tenant, 0.0) / total / share)
            return (-(age + fair + job.gpus / largest), job.number)

        return key


def _run(job: Asked, picks: Picks, start_ms: int) -> Run:
    return Run(
        id=AttemptId(str(job.number)),
        job_id=JobId(job.number),
        queue="",
        flavor="gpu",
        gpus=job.gpus,
        picks=picks,
        order=(start_ms, 0),
        end_ms=start_ms + job.walltime_ms,
    )
