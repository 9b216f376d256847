"""Schedulers to compare with, on the same rules of placement.

fifo: the head of the queue blocks. easy: the blocked head holds a planned start, others fill in around it.
conservative: every blocked job holds one. multifactor: easy, ordered by age, fair share and size.
Source: Feitelson and Weil, "Utilization and predictability in scheduling the IBM SP2 with backfilling", 1998;
Slurm's multifactor priority plugin for the last.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace
from typing import Final

import numpy as np

from scheduler.place import Picks

MS: Final = 1_000
"""Milliseconds of a second."""
MAX_HOLDS: Final = 100
"""Planned starts that the conservative scheduler holds at a time: beyond it, jobs only wait."""
NEVER_MS: Final = 2**62
"""An instant that no trace reaches, in milliseconds."""
AGE_FULL_S: Final = 7 * 86_400
"""Seconds of waiting that count as much as the whole of a fair share (PriorityMaxAge of Slurm)."""

Kind = tuple[int, int, str]
"""GPUs and walltime in milliseconds, and the tenant where it matters: jobs that differ by their turn only."""
Turn = tuple[tuple[float, int], Kind]
"""The place of a kind's first job in the order, the smaller first, and the kind."""


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

    Args:
        nodes: how many.
        size: GPUs of each.
        is_remainder_apart: a gang larger than a node begins its remainder on an entirely free node too, and
            leaves the rest of it to others; False = on the fullest node that holds it.
    """

    def __init__(self, nodes: int, size: int, *, is_remainder_apart: bool = False) -> None:
        self.size: Final = size
        self._is_remainder_apart: Final = is_remainder_apart
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
            fuller = () if whole and self._is_remainder_apart else self._levels[rest : self.size]
            level = next((level for level in fuller if level), empty[whole:])
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


class Course:
    """How many GPUs are free from now on, counted over all nodes.

    Args:
        at_ms: now.
        free: GPUs that are free now.
        ends: (instant, job, GPUs) of what runs, by instant; what was to end by now ends in a millisecond.
    """

    def __init__(self, at_ms: int, free: int, ends: Sequence[tuple[int, int, int]]) -> None:
        table = np.array([(at_ms, free), *((max(end_ms, at_ms + 1), gpus) for end_ms, _, gpus in ends)])
        self._times = table[:, 0]
        self._free = table[:, 1].cumsum()

    @property
    def free_now(self) -> int:
        """GPUs that are free now, and not planned for."""
        return int(self._free[0])

    def earliest(self, gpus: int, length_ms: int, *, after: int = 0) -> int:
        """The first instant from which so many are free for so long; when all has ended there is one.

        `after` leaves out so many instants: 1 = not now, but when something ends or begins.
        """
        short = np.flatnonzero(self._free < gpus)
        until = np.append(self._times[short], NEVER_MS)[np.searchsorted(short, np.arange(len(self._times)))]
        return int(self._times[after + np.argmax((until >= self._times + length_ms)[after:])])

    def take(self, gpus: int, start_ms: int, end_ms: int) -> None:
        """So many are planned for from one instant to another."""
        for at_ms in (start_ms, end_ms):
            place = int(np.searchsorted(self._times, at_ms, side="right"))
            if self._times[place - 1] != at_ms:
                self._times = np.insert(self._times, place, at_ms)
                self._free = np.insert(self._free, place, self._free[place - 1])
        first, last = np.searchsorted(self._times, (start_ms, end_ms))
        self._free[first:last] -= gpus


class Baseline:
    """One baseline over a run of a trace.

    Args:
        kind: `fifo`, `easy`, `conservative` or `multifactor`.
        nodes: how many.
        gpus_per_node: of each.
        is_remainder_apart: as in `Stock`.
    """

    def __init__(
        self, kind: str, nodes: int, gpus_per_node: int, *, is_remainder_apart: bool = False
    ) -> None:
        self._is_strict: Final = kind == "fifo"
        self._is_conservative: Final = kind == "conservative"
        self._is_multifactor: Final = kind == "multifactor"
        self._stock: Final = Stock(nodes, gpus_per_node, is_remainder_apart=is_remainder_apart)
        self._runs: Final[dict[int, tuple[Asked, Picks, int]]] = {}
        self._ends: Final[list[tuple[int, int, int]]] = []
        self._used: Final[dict[str, float]] = {}
        self._fair: dict[str, float] = {}
        self._waiting: Final[dict[Kind, deque[Asked]]] = {}

    def submit(self, job: Asked) -> None:
        """A job waits from now on."""
        kind = (job.gpus, job.walltime_ms, job.tenant if self._is_multifactor else "")
        self._waiting.setdefault(kind, deque()).append(job)

    def end(self, number: int) -> None:
        """A job ended."""
        job, picks, start_ms = self._runs.pop(number)
        self._stock.move(picks, 1)
        del self._ends[bisect_left(self._ends, (start_ms + job.walltime_ms, number))]

    def plan(self, at_ms: int) -> list[Begun]:
        """What starts now."""
        begun: list[Begun] = []
        mean = sum(self._used.values()) / max(1, len(self._used)) or 1.0
        self._fair = {tenant: 2.0 ** -(used / mean) for tenant, used in self._used.items()}
        turns = [(self._key(jobs[0], at_ms), kind) for kind, jobs in self._waiting.items()]
        heapify(turns)
        while turns and (picks := self._stock.pick(turns[0][1][0])) is not None:
            kind = turns[0][1]
            self._begin(self._waiting[kind].popleft(), picks, at_ms, begun)
            self._next(turns, kind, at_ms)
        if turns and self._stock.total and not self._is_strict:
            fill = self._conservatively if self._is_conservative else self._easily
            fill(at_ms, begun, turns)
        return begun

    def _next(self, turns: list[Turn], kind: Kind, at_ms: int) -> None:
        """The job of the first turn has begun: the next of its kind has its turn in its stead."""
        if self._waiting[kind]:
            heapreplace(turns, (self._key(self._waiting[kind][0], at_ms), kind))
        else:
            heappop(turns)
            del self._waiting[kind]

    def _begin(self, job: Asked, picks: Picks, at_ms: int, begun: list[Begun]) -> None:
        self._stock.move(picks, -1)
        self._runs[job.number] = (job, picks, at_ms)
        insort(self._ends, (at_ms + job.walltime_ms, job.number, job.gpus))
        self._used[job.tenant] = self._used.get(job.tenant, 0.0) + job.gpus * job.walltime_ms
        begun.append(Begun(job, picks))

    def _easily(self, at_ms: int, begun: list[Begun], turns: list[Turn]) -> None:
        """Start behind the head what ends before its planned start, or needs no more than is to spare then.

        The planned start is when enough GPUs are free, counted over all nodes as in the original. A kind that is
        refused once is refused to its last job: what is free and to spare only shrinks.
        """
        head = self._waiting[turns[0][1]].popleft()
        head_kind = turns[0][1]
        planned_ms, free = at_ms, self._stock.total
        for end_ms, _, gpus in self._ends:
            planned_ms, free = max(end_ms, at_ms), free + gpus
            if free >= head.gpus:
                break
        spare = free - head.gpus
        self._next(turns, head_kind, at_ms)
        while turns:
            kind = turns[0][1]
            gpus, walltime_ms, _ = kind
            is_short = at_ms + walltime_ms <= planned_ms
            picks = self._stock.pick(gpus) if is_short or gpus <= spare else None
            if picks is None:
                heappop(turns)
                continue
            if not is_short:
                spare -= gpus
            self._begin(self._waiting[kind].popleft(), picks, at_ms, begun)
            self._next(turns, kind, at_ms)
        self._waiting.setdefault(head_kind, deque()).appendleft(head)

    def _conservatively(self, at_ms: int, begun: list[Begun], turns: list[Turn]) -> None:
        """Plan the first starts in their order, and start what moves none of them.

        As the plan is made anew each time, it ends where what is left free now is less than any job asks for.
        """
        jobs = sorted((job for _, kind in turns for job in self._waiting[kind]), key=lambda job: job.number)
        least = min(job.gpus for job in jobs)
        course = Course(at_ms, self._stock.total, self._ends)
        refused: dict[int, int] = {}
        held = 0
        for job in jobs:
            if course.free_now < least:
                break
            is_planned = held < MAX_HOLDS
            if not is_planned and refused.get(job.gpus, job.walltime_ms + 1) <= job.walltime_ms:
                continue
            start_ms = course.earliest(job.gpus, job.walltime_ms)
            picks = self._stock.pick(job.gpus) if start_ms == at_ms else None
            if picks is not None:
                self._begin(job, picks, at_ms, begun)
                self._leave(job)
            elif is_planned:
                held += 1
                if start_ms == at_ms:  # enough GPUs, and no nodes for them
                    start_ms = course.earliest(job.gpus, job.walltime_ms, after=1)
            else:
                refused[job.gpus] = min(job.walltime_ms, refused.get(job.gpus, job.walltime_ms))
                continue
            course.take(job.gpus, start_ms, start_ms + job.walltime_ms)

    def _leave(self, job: Asked) -> None:
        """A job from amid its kind waits no more."""
        kind = (job.gpus, job.walltime_ms, "")
        self._waiting[kind].remove(job)
        if not self._waiting[kind]:
            del self._waiting[kind]

    def _key(self, job: Asked, at_ms: int) -> tuple[float, int]:
        """Order of turns: by submission; multifactor: age up to AGE_FULL_S, 2^(-use / mean use), size, alike."""
        if not self._is_multifactor:
            return (0.0, job.number)
        age = min(1.0, (at_ms - job.submit_ms) / MS / AGE_FULL_S)
        largest = len(self._stock.free) * self._stock.size
        return (-(age + self._fair.get(job.tenant, 1.0) + job.gpus / largest), job.number)
