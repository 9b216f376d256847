"""Schedulers to compare with, on the same placement and the same profile over time.

fifo: the head of the queue blocks. easy: the blocked head holds a planned start, others fill in around it.
conservative: every blocked job holds one. multifactor: easy, ordered by age, fair share and size.
Source: Feitelson and Weil, "Utilization and predictability in scheduling the IBM SP2 with backfilling", 1998;
Slurm's multifactor priority plugin for the last.
"""

from __future__ import annotations

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


class Baseline:
    """One baseline over a run of a trace.

    Args:
        kind: `fifo`, `easy`, `conservative` or `multifactor`.
        nodes: how many.
        gpus_per_node: of each.
    """

    def __init__(self, kind: str, nodes: int, gpus_per_node: int) -> None:
        self._depth: Final = {"fifo": 0, "easy": 1, "conservative": MAX_HOLDS, "multifactor": 1}[kind]
        self._is_strict: Final = kind == "fifo"
        self._is_multifactor: Final = kind == "multifactor"
        self._size: Final = gpus_per_node
        self._rooms: Final = Rooms([(f"n{node:05}", gpus_per_node, gpus_per_node) for node in range(nodes)])
        self._runs: Final[dict[int, tuple[Asked, Picks, int]]] = {}
        self._used: Final[dict[str, float]] = {}
        self.waiting: list[Asked] = []

    def submit(self, job: Asked) -> None:
        """A job waits from now on."""
        self.waiting.append(job)

    def end(self, number: int) -> None:
        """A job ended."""
        job, picks, _ = self._runs.pop(number)
        for node, gpus in picks:
            self._rooms.free[node] += gpus
        self._rooms.total += job.gpus

    def plan(self, at_ms: int) -> list[Begun]:
        """What starts now."""
        begun: list[Begun] = []
        if self._is_multifactor:
            self.waiting.sort(key=self._priority(at_ms))
        left = self._heads(at_ms, begun)
        if left and not self._is_strict:
            left = self._around(left, at_ms, begun)
        self.waiting = left
        return begun

    def _heads(self, at_ms: int, begun: list[Begun]) -> list[Asked]:
        """Start from the head on until one does not fit; what is left."""
        for number, job in enumerate(self.waiting):
            picks = self._pick(job)
            if picks is None:
                return self.waiting[number:]
            self._begin(job, picks, at_ms, begun)
        return []

    def _pick(self, job: Asked) -> Picks | None:
        if job.gpus > self._rooms.total:
            return None
        return pick(self._rooms.free, self._rooms.sizes, job.gpus, self._nodes(job))

    def _nodes(self, job: Asked) -> int | None:
        return 1 if job.gpus <= self._size else None

    def _begin(self, job: Asked, picks: Picks, at_ms: int, begun: list[Begun]) -> None:
        for node, gpus in picks:
            self._rooms.free[node] -= gpus
        self._rooms.total -= job.gpus
        self._runs[job.number] = (job, picks, at_ms)
        self._used[job.tenant] = self._used.get(job.tenant, 0.0) + job.gpus * job.walltime_ms
        begun.append(Begun(job, picks))

    def _around(self, left: list[Asked], at_ms: int, begun: list[Begun]) -> list[Asked]:
        """Plan the first starts, and start behind them what moves none of them."""
        if self._rooms.total == 0:
            return left
        profile = Profile("gpu", self._rooms, at_ms, runs=self._as_runs(at_ms), windows=())
        waits: list[Asked] = []
        refused: dict[tuple[int, int | None], int] = {}
        for job in left:
            key = (job.gpus, self._nodes(job))
            is_planned = len(profile.holds) < self._depth
            is_hopeless = (
                job.gpus > self._rooms.total or refused.get(key, job.walltime_ms + 1) <= job.walltime_ms
            )
            picks = None
            if not is_hopeless:  # the head has its hold before anyone is tried: it is what did not fit
                room = profile.throughout(at_ms, at_ms + job.walltime_ms)
                picks = pick(room, self._rooms.sizes, *key)
            if picks is not None:
                self._begin(job, picks, at_ms, begun)
                profile.start(_run(job, picks, at_ms))
                continue
            waits.append(job)
            if is_planned:
                profile.hold(self._hold(job, profile))
            else:
                refused[key] = min(job.walltime_ms, refused.get(key, job.walltime_ms))
        return waits

    def _hold(self, job: Asked, profile: Profile) -> Hold:
        """The earliest start; on an empty cluster every job of a trace fits."""
        for at_ms in profile.instants():
            room = profile.throughout(at_ms, at_ms + job.walltime_ms)
            picks = pick(room, self._rooms.sizes, job.gpus, self._nodes(job))
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
        largest = max(1, len(self._rooms.names) * self._size)

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
