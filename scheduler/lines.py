"""Walking the jobs of a queue in their order without touching each: what refuses one of a kind refuses the next."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from scheduler.fit import NoFit
from scheduler.index import PLAIN, Alike, Asked
from scheduler.model import JobId, PendingJob, ReasonCode
from scheduler.order import Key
from scheduler.profile import Hold


class Stood:
    """Planned starts in the order in which they came, as long as none was released.

    What stood at a turn is the first so many of them: one list for all the turns, as thousands may plan a start, each
    beside those before.
    """

    def __init__(self, releases: int) -> None:
        self.releases: Final = releases
        """How many were released before."""
        self._holds: Final[list[Hold]] = []
        self._moved = (-1, 0)

    def follow(self, held: dict[JobId, Hold]) -> int:
        """Take over what has come; how many there are now. O(what came)."""
        came = len(held) - len(self._holds)
        self._holds.extend(reversed(list(islice(reversed(held.values()), came))))
        return len(self._holds)

    def is_moved(self, count: int, held: Mapping[JobId, Hold], version: int) -> bool:
        """Whether one of the first so many stands no more, or not as it was.

        Args:
            count: how many.
            held: what stands now.
            version: of the world that it stands in.
        """
        if self._moved[0] != version:
            moved = (place for place, hold in enumerate(self._holds) if held.get(hold.job_id) != hold)
            self._moved = (version, next(moved, len(self._holds)))
        return self._moved[1] < count


@dataclass(slots=True)
class Waits:
    """What kept a job from starting at its turn, and those of its kind that were passed over with it."""

    job: PendingJob
    refusal: NoFit
    is_entitled: bool = False
    shield: PendingJob | None = None
    is_free: bool = False
    is_shut_out: bool = False
    """There is no room and there will be none in this cycle: the reason in full is worked out when it is read."""
    beside: tuple[Stood, int] | None = None
    """The planned starts that stood at its turn, where they, or limits that they count against, keep it waiting: the
    first so many of these."""


@dataclass(slots=True)
class Told:
    """The jobs from `begin` to before `end` of a walk wait for the same reason."""

    begin: int
    end: int
    waits: Waits


@dataclass(slots=True)
class Walk:
    """Jobs of one kind in one cycle.

    Args:
        group: number of their queue, request and project.
        shape: what they ask of the nodes.
        next: the job whose turn comes.
        passed: from here on they are not entitled; their turn comes after all entitled work.
    """

    group: int
    shape: Asked
    keys: list[Key]
    jobs: list[PendingJob]
    next: int = 0
    passed: int = -1
    told: list[Told] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.passed = len(self.jobs)

    @property
    def job(self) -> PendingJob:
        """The job whose turn it is."""
        return self.jobs[self.next]

    @property
    def is_plain(self) -> bool:
        """Whether all from the next on are neither expedited nor aged."""
        return self.keys[self.next][:2] == PLAIN

    @property
    def following(self) -> PendingJob | None:
        """The one behind it."""
        return self.jobs[self.next + 1] if self.next + 1 < len(self.jobs) else None

    def span(self, begin: int, end: int) -> Iterator[tuple[Key, PendingJob]]:
        """Jobs with their places in the order, from `begin` to before `end`."""
        for place in range(begin, end):
            yield self.keys[place], self.jobs[place]

    def tell(self, end: int, waits: Waits) -> None:
        """All from the next to before `end` wait for the same reason; the walk goes on behind them."""
        if self.next < end:
            self.told.append(Told(self.next, end, waits))
            self.next = end


class Line:
    """The walks of one queue, merged by the order of the queue.

    Args:
        queue: its path.
        walks: of kinds that are walked from the first.
        others: other kinds by what they ask for; those get a walk that may have a turn in this cycle.
    """

    def __init__(self, queue: str, walks: list[Walk], others: dict[Asked, list[Alike]]) -> None:
        self.queue: Final = queue
        self.walks: Final = walks
        self._rest = others
        self._shut: list[Alike] = []
        self.shut_out: Final[list[Alike]] = []
        """Kinds for which there was no room and that could not plan a start: they wait as a whole."""
        self.ahead: Final[dict[JobId, Hold]] = {}
        """Planned starts of passed jobs; they bind the queue itself until their turn comes."""
        self.last_ahead: Key = ()
        self.seen: Key = ()
        """Passed jobs before it were asked whether they may plan a start."""
        self.shield: PendingJob | None = None
        """An aged job that could not start: no later one of the queue starts before it."""
        self._at: Key = ()
        self._version = -1
        self._heap: list[tuple[Key, int]] = []
        self._asleep: list[tuple[int, Waits]] = []
        self._sound_asleep: list[tuple[int, Waits]] = []

    def pass_at_once(self, is_passed: Callable[[Asked], bool]) -> None:
        """Pass whole kinds: those that are not entitled and have no job that could shield the queue.

        Args:
            is_passed: whether jobs that ask for this are not entitled.
        """
        for walk in self.walks:
            if walk.is_plain and is_passed(walk.shape):
                walk.passed = 0
        for shape, kinds in self._rest.items():
            is_turn = not is_passed(shape)
            if is_turn or not all(kind.is_plain for kind in kinds):
                passed = [] if is_turn else [kind for kind in kinds if kind.is_plain]
                for kind in kinds if is_turn else [kind for kind in kinds if not kind.is_plain]:
                    self.walks.append(Walk(kind.group, kind.shape, kind.keys, kind.jobs))
                self._rest[shape] = passed

    def walk_all(self) -> None:
        """Every kind gets its walk; those that were passed at once stay so."""
        for kinds in self._rest.values():
            for kind in kinds:
                self._walk_passed(kind)
        self._rest = {}

    def _walk_passed(self, kind: Alike) -> int:
        """A walk for a kind that was passed at once; its number."""
        self.walks.append(Walk(kind.group, kind.shape, kind.keys, kind.jobs))
        self.walks[-1].passed = 0
        return len(self.walks) - 1

    def begin(self) -> None:
        """Begin with the first job of every walk that was not passed at once."""
        self._begin(number for number, walk in enumerate(self.walks) if walk.passed > 0)

    def begin_passed(self, is_shut_out: Callable[[Asked], bool], is_bound: Callable[[Walk], bool]) -> bool:
        """Begin again with the jobs that were passed; whether there are any.

        Args:
            is_shut_out: whether jobs that ask for this can only wait, if they have no planned start.
            is_bound: of a walk at its next job: whether it has one.
        """
        found: list[int] = []
        for number, walk in enumerate(self.walks):
            walk.next = walk.passed
            if walk.next < len(walk.jobs):
                if walk.is_plain and not is_bound(walk) and is_shut_out(walk.shape):
                    self._sound_asleep.append((number, shut_out(walk.job)))
                else:
                    found.append(number)
        for shape, kinds in self._rest.items():
            if is_shut_out(shape):
                self._shut += kinds
            else:
                found += [self._walk_passed(kind) for kind in kinds]
        self._rest = {}
        self._begin(found)
        return bool(self._heap or self._sound_asleep or self._shut)

    def _begin(self, numbers: Iterable[int]) -> None:
        self._at = ()
        self._heap = [(self.walks[number].keys[self.walks[number].next], number) for number in numbers]
        heapq.heapify(self._heap)

    def head(self, version: int, *, is_full: bool) -> Walk | None:
        """The walk whose next job's turn it is; None behind the last job.

        Args:
            version: of the world; another one wakes who sleeps.
            is_full: whether no more starts may be planned; else those who sleep soundly wake too.
        """
        if self._asleep and version != self._version:
            self._wake(self._asleep)
        if self._shut and not is_full:
            self._sound_asleep += [(self._walk_passed(kind), shut_out(kind.jobs[0])) for kind in self._shut]
            self._shut = []
        if self._sound_asleep and not is_full:
            self._wake(self._sound_asleep)
        self._version = version
        if self._heap:
            return self.walks[self._heap[0][1]]
        for asleep in (self._asleep, self._sound_asleep):
            for number, waits in asleep:
                self.walks[number].tell(len(self.walks[number].jobs), waits)
            asleep.clear()
        self.shut_out.extend(self._shut)
        self._shut = []
        return None

    def _wake(self, asleep: list[tuple[int, Waits]]) -> None:
        """Who stands before the place that the walk has reached was passed over; the rest takes part again."""
        for number, waits in asleep:
            walk = self.walks[number]
            walk.tell(bisect_left(walk.keys, self._at, walk.next), waits)
            if walk.next < len(walk.jobs):
                heapq.heappush(self._heap, (walk.keys[walk.next], number))
        asleep.clear()

    def advance(self) -> None:
        """The head's turn is over."""
        walk, number = self._step()
        if walk.next < len(walk.jobs):
            heapq.heappush(self._heap, (walk.keys[walk.next], number))

    def leave(self) -> None:
        """The head's kind takes no further part; its next job stays the next."""
        self._at, _ = heapq.heappop(self._heap)

    def finish(self, waits: Waits) -> None:
        """The head's turn is over, and all behind it of its kind wait for the same reason."""
        walk, _ = self._step()
        walk.tell(len(walk.jobs), waits)

    def sleep(self, waits: Waits, *, is_sound: bool) -> None:
        """The head's turn is over, and those of its kind wait with it until something changes.

        Args:
            waits: what they are told if the walk goes past them.
            is_sound: whether nothing but a place among the planned starts helps them.
        """
        walk, number = self._step()
        if walk.next < len(walk.jobs):
            (self._sound_asleep if is_sound else self._asleep).append((number, waits))

    def _step(self) -> tuple[Walk, int]:
        self._at, number = heapq.heappop(self._heap)
        self.walks[number].next += 1
        return self.walks[number], number

    def passed_before(self, key: Key, *, is_full: bool) -> Iterator[tuple[Key, PendingJob]]:
        """Jobs passed since `seen` that stand before a place, in order; when full only who stands alone."""
        if not is_full:
            self.walk_all()
        spans = []
        for walk in self.walks:
            if is_full and len(walk.jobs) > 1:
                continue
            begin = max(walk.passed, bisect_left(walk.keys, self.seen))
            end = bisect_left(walk.keys, key)
            if begin < end:
                spans.append(walk.span(begin, end))
        return heapq.merge(*spans, key=lambda pair: pair[0])


def shut_out(job: PendingJob) -> Waits:
    """What keeps a job whose kind has no room in this cycle."""
    return Waits(job, NoFit(ReasonCode.NO_CAPACITY), is_shut_out=True)


def line_of(queue: str, alike: Mapping[Asked, list[Alike]], alone: Mapping[int, list[int]]) -> Line:
    """The line of a queue.

    Args:
        queue: its path.
        alike: its waiting jobs by what they ask for.
        alone: by identity of `Alike`, places of its jobs that are not like the others in this cycle, ascending.
    """
    others = dict(alike)
    walks: list[Walk] = []
    if alone:
        for shape, kinds in alike.items():
            apart = [kind for kind in kinds if id(kind) in alone]
            if apart:
                others[shape] = [kind for kind in kinds if id(kind) not in alone]
            for kind in apart:
                walks += _apart(kind, alone[id(kind)])
    return Line(queue, walks, others)


def _apart(kind: Alike, places: list[int]) -> Iterator[Walk]:
    """A walk for each of some jobs, and one for the others."""
    keys, jobs = kind.keys.copy(), kind.jobs.copy()
    for place in reversed(places):
        yield Walk(kind.group, kind.shape, [keys.pop(place)], [jobs.pop(place)])
    if jobs:
        yield Walk(kind.group, kind.shape, keys, jobs)
