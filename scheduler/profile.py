"""Free GPUs of one flavor over time: what runs until when, planned starts, windows.

Between two planned starts GPUs only become free. So what is free throughout a span is the least of what is
free at its begin and at every planned start within it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

import numpy as np

from scheduler.model import AttemptId, JobId, ShareClass
from scheduler.place import Counts, Picks, Rooms
from scheduler.timeline import Timeline, distinct
from scheduler.windows import Window

FEW_INSTANTS: Final = 8
"""Instants that are looked at one by one before the table of all of them is made."""
OVERDUE_MS: Final = 60_000
"""Milliseconds that something still running past its end is expected to take: a kill and its report."""


@dataclass(frozen=True, slots=True)
class Run:
    """What holds GPUs: a live attempt or a start of this cycle.

    Args:
        queue: where it counts under the policy in force.
        picks: GPUs by position of the node; nodes out of service are not among them.
        order: (instant, place in its cycle) of its admission.
        end_ms: when its GPUs are free at the latest, as far as is known.
        asked_gpus: what its work is counted by.
        saved_ms: instant since which its work is on no checkpoint.
        protected_s: the most seconds of work that count as lost.
        is_reclaimable: nobody forbade it and it is not under notice.
        cpus_per_gpu: CPUs that each of its GPUs takes along; None = the node's share.
        memory_bytes_per_gpu: memory that each takes along; None = the node's share.
    """

    id: AttemptId
    job_id: JobId
    queue: str
    flavor: str
    gpus: int
    picks: Picks
    order: tuple[int, int]
    end_ms: int
    priority: int = 0
    grace_ms: int = 0
    asked_gpus: int = 0
    saved_ms: int = 0
    protected_s: int = 0
    is_reclaimable: bool = True
    cpus_per_gpu: int | None = None
    memory_bytes_per_gpu: int | None = None

    def lost(self, at_ms: int) -> int:
        """GPU-seconds that stopping it at an instant would lose."""
        return self.asked_gpus * min(max(0, at_ms - self.saved_ms) // 1_000, self.protected_s)


@dataclass(frozen=True, slots=True)
class Hold:
    """A planned start that stands in the way of others. `victims` are stopped for it by `start_ms`.

    Args:
        is_reclaim: they got notice, so that its budget and its place in its array are set aside too.
        project_id: whose budget that is.
        array_id: the array that its job belongs to.
    """

    job_id: JobId
    queue: str
    flavor: str
    gpus: int
    start_ms: int
    end_ms: int
    picks: Picks
    share_class: ShareClass
    victims: tuple[AttemptId, ...] = ()
    is_reclaim: bool = False
    cpus_per_gpu: int | None = None
    memory_bytes_per_gpu: int | None = None
    project_id: UUID | None = None
    array_id: JobId | None = None


Back = Callable[[int], Counts]
"""GPUs of each node that some runs give back at an instant."""


class Profile:
    """The nodes of one flavor over time; working state of one cycle.

    Args:
        flavor: of all its nodes.
        rooms: sizes and what is free now; whoever takes from it says so with `start`.
        at_ms: now.
        runs: what holds GPUs now; from here on the profile's own.
        windows: spans in which nodes are set apart.
    """

    def __init__(
        self,
        flavor: str,
        rooms: Rooms,
        at_ms: int,
        *,
        runs: dict[AttemptId, Run],
        windows: Sequence[Window],
    ) -> None:
        self.flavor: Final = flavor
        self.rooms: Final = rooms
        self.at_ms: Final = at_ms
        self.runs: Final = runs
        self.holds: Final[dict[JobId, Hold]] = {}
        self.windows: Final = tuple(windows)
        self.begins: Final[Counter[int]] = Counter()
        """How many planned starts come at an instant: many that are made room for at once begin together."""
        self._finishes: Final[Counter[int]] = Counter()
        self._spared: Final[dict[JobId, list[Run]]] = {}
        self._masks: Final = [np.array([name in window.nodes for name in rooms.names]) for window in windows]
        self._slack: Final[dict[int, Counts]] = {}
        self._bases: Final[dict[int, Counts]] = {}
        self._without: tuple[Collection[AttemptId], Counts] | None = None
        self._timeline: Timeline | None = None
        self._ends: tuple[Counts, Counts, Counts] | None = None
        self._rows: Counts | None = None
        self._known_rows: Callable[[], Counts] | None = None
        self._more_rows: Final[list[tuple[int, int, int]]] = []
        self._instants: list[int] | None = None

    def know_ends(self, rows: Callable[[], Counts]) -> None:
        """When the runs end, as rows of (end, node, GPUs): whoever kept them spares adding them up anew."""
        self._known_rows = rows

    def start(self, run: Run) -> None:
        """A job starts now; its GPUs were taken from the rooms already."""
        self.runs[run.id] = run
        self._ends = self._without = None
        self._more_rows.extend((run.end_ms, node, gpus) for node, gpus in run.picks)
        if self._instants is not None:
            _insert(self._instants, run.end_ms)
        if self._timeline is not None:
            self._timeline.add(run.picks, self.at_ms, run.end_ms, -1)
        for known in (self._slack, self._bases):
            for at_ms, free in known.items():
                if at_ms < run.end_ms:
                    _add(free, run.picks, -1)

    def hold(self, hold: Hold) -> None:
        """A planned start stands from now on; its victims end when it begins."""
        self.holds[hold.job_id] = hold
        if hold.victims:
            self._spared[hold.job_id] = [self.runs[victim] for victim in hold.victims]
            for run in self._spared[hold.job_id]:
                end_ms = min(run.end_ms, hold.start_ms)
                self.runs[run.id] = replace(run, end_ms=end_ms, is_reclaimable=False)
        self._change(hold, -1)

    def release(self, job_id: JobId) -> None:
        """A planned start stands no more, and its victims run on."""
        hold = self.holds.pop(job_id)
        self._change(hold, 1)
        self.runs.update({run.id: run for run in self._spared.pop(job_id, ())})

    def _spared_for(self, hold: Hold) -> list[Run]:
        """The victims that would run longer, as they would without the planned start."""
        return [run for run in self._spared[hold.job_id] if run.end_ms > hold.start_ms]

    def _change(self, hold: Hold, sign: int) -> None:
        """What is remembered follows a planned start that came (sign -1) or went, and the ends of its victims."""
        for counts, at_ms in ((self.begins, hold.start_ms), (self._finishes, hold.end_ms)):
            counts[at_ms] -= sign
            if not counts[at_ms]:
                del counts[at_ms]
        spans = [(hold.picks, hold.start_ms, hold.end_ms, sign)]
        if hold.victims:
            self._rows = self._known_rows = self._ends = None
            freed = [(run.picks, hold.start_ms, run.end_ms, -sign) for run in self._spared_for(hold)]
            _add_spans(self._bases, freed)
            spans += freed
            if self._instants is not None:
                _insert(self._instants, hold.start_ms)  # one that is no end any more frees nothing
        _add_spans(self._slack, spans)
        if self._timeline is not None:
            for picks, begin_ms, end_ms, change in spans:
                self._timeline.add(picks, begin_ms, end_ms, change)

    def is_sound(self) -> bool:
        """Whether every planned start has its GPUs beside what runs and the others."""
        return all(
            self.slack(hold.start_ms)[node] >= 0 for hold in self.holds.values() for node, _ in hold.picks
        )

    def instants(self, until_ms: int | None = None) -> list[int]:
        """Instants after now at which something becomes free, ascending, up to `until_ms` where that is given."""
        if self._instants is None:
            ends = distinct(self._sorted_ends()[0])
            self._instants = ends[np.searchsorted(ends, self.at_ms, side="right") :].tolist()
        last = len(self._instants) if until_ms is None else bisect_right(self._instants, until_ms)
        found = self._instants[:last]
        planned = [*self._finishes, *(window.to_ms for window in self.windows)]
        for end_ms in planned:
            if self.at_ms < end_ms and (until_ms is None or end_ms <= until_ms):
                _insert(found, end_ms)
        return found

    def base(self, at_ms: int) -> Counts:
        """What is free at an instant beside what runs, planned starts left out; must not be written to.

        O(nodes + runs); nothing where it was among the last FEW_INSTANTS asked for: thousands that are made room for
        at once ask for one instant, and each victim would have every run added up anew.
        """
        if at_ms <= self.at_ms:
            return self.rooms.free
        if at_ms not in self._bases:
            rows = self._all_rows()
            rows = rows[rows[:, 0] <= at_ms]
            gained = np.bincount(rows[:, 1], weights=rows[:, 2], minlength=len(self.rooms.free))
            if len(self._bases) >= FEW_INSTANTS:
                self._bases.clear()
            self._bases[at_ms] = self.rooms.free + gained.astype(np.int64)
        return self._bases[at_ms]

    def _all_rows(self) -> Counts:
        """When runs end, with the node and the GPUs of each, in no order."""
        if self._rows is None and self._known_rows is not None:
            self._rows = self._known_rows()
        if self._rows is None:
            flat = [(run.end_ms, node, gpus) for run in self.runs.values() for node, gpus in run.picks]
            self._rows = np.array(flat, dtype=np.int64).reshape(-1, 3)
        elif self._more_rows:
            self._rows = np.concatenate((self._rows, np.array(self._more_rows, dtype=np.int64)))
        self._more_rows.clear()
        return self._rows

    def _sorted_ends(self) -> tuple[Counts, Counts, Counts]:
        """When runs end, ascending, with the node and the GPUs of each."""
        if self._ends is None:
            table = self._all_rows()
            table = table[np.argsort(table[:, 0], kind="stable")]
            self._ends = (table[:, 0], table[:, 1], table[:, 2])
        return self._ends

    @property
    def timeline(self) -> Timeline:
        """What is free beside what runs and every planned start, for many instants at once."""
        if self._timeline is None:
            self._timeline = Timeline(self.at_ms, self.rooms.free, *self._sorted_ends())
            for hold in self.holds.values():
                self._timeline.add(hold.picks, hold.start_ms, hold.end_ms, -1)
        return self._timeline

    def slack(self, at_ms: int) -> Counts:
        """What is free at an instant beside what runs and every planned start; must not be written to."""
        found = self._slack.get(at_ms)
        is_many = self._timeline is not None or len(self._slack) >= FEW_INSTANTS
        if found is None and is_many and at_ms < self.timeline.until_ms:
            return self.timeline.at(at_ms)
        if found is None:
            found = self.base(at_ms).copy()
            for hold in self.holds.values():
                if hold.start_ms <= at_ms < hold.end_ms:
                    _add(found, hold.picks, -1)
            self._slack[at_ms] = found
        return found

    def throughout(
        self, start_ms: int, end_ms: int, *, past: Collection[JobId] = (), freed: Sequence[Run] | Back = ()
    ) -> Counts:
        """What is free of each node from start to end, windows left out. O((holds + 1) x nodes).

        Args:
            start_ms: begin of the span.
            end_ms: its end, not included.
            past: planned starts that need not be respected.
            freed: what runs and is stopped by the begin of the span, or what that gives back at an instant.
        """
        spare = [self.holds[job_id] for job_id in past if job_id in self.holds]
        begins = [at_ms for at_ms in self.begins if start_ms < at_ms < end_ms]
        instants = [start_ms, *begins]
        if not spare and not freed and self._timeline is not None and max(instants) < self._timeline.until_ms:
            return self._timeline.least(instants)
        found = self._with_back(start_ms, spare, freed)
        for at_ms in begins:
            found = np.minimum(found, self._with_back(at_ms, spare, freed))
        return found

    def _with_back(self, at_ms: int, spare: Sequence[Hold], freed: Sequence[Run] | Back) -> Counts:
        """What is free at an instant if these planned starts and runs give way."""
        back = [hold.picks for hold in spare if hold.start_ms <= at_ms < hold.end_ms]
        if callable(freed):
            return with_back(self.slack(at_ms) + freed(at_ms), back)
        back += [run.picks for run in freed if run.end_ms > at_ms]
        return with_back(self.slack(at_ms), back)

    def without(self, borrowed: Collection[AttemptId]) -> Counts:
        """What would be free now if these runs were gone; must not be written to."""
        if self._without is None or self._without[0] is not borrowed:
            runs = [self.runs[run_id] for run_id in borrowed if run_id in self.runs]
            self._without = (borrowed, self.with_freed(self.rooms.free, runs))
        return self._without[1]

    def with_freed(self, room: Counts, freed: Iterable[Run]) -> Counts:
        """The room and what these runs hold; a new array."""
        picks = [pick for run in freed for pick in run.picks]
        if not picks:
            return room.copy()
        nodes, gpus = np.array(picks, dtype=np.int64).T
        return room + np.bincount(nodes, weights=gpus, minlength=len(room)).astype(np.int64)

    def closed(self, start_ms: int, end_ms: int, project: UUID) -> list[tuple[Window, Counts]]:
        """Windows that a job of the project would run into, each with which nodes (a boolean mask)."""
        return [
            (window, mask)
            for window, mask in zip(self.windows, self._masks, strict=True)
            if window.from_ms < end_ms and start_ms < window.to_ms and project not in window.projects
        ]

    def shut(self, picks: Picks, start_ms: int, end_ms: int, project: UUID) -> Window | None:
        """The first window that shuts one of these nodes to a job of the project in a span."""
        closed = self.closed(start_ms, end_ms, project)
        shut = [window for window, mask in closed if any(mask[node] for node, _ in picks)]
        return min(shut, key=lambda window: (window.from_ms, window.id), default=None)

    def open(self, room: Counts, start_ms: int, end_ms: int, project: UUID) -> Counts:
        """The room without the nodes of windows that a job of the project would run into."""
        for _, mask in self.closed(start_ms, end_ms, project):
            room = np.where(mask, 0, room)
        return room


def with_back(free: Counts, back: Sequence[Picks]) -> Counts:
    """What is free if these GPUs were given back; a new array if there are any."""
    if back:
        free = free.copy()
        for picks in back:
            _add(free, picks, 1)
    return free


def _insert(ascending: list[int], value: int) -> None:
    """Put a number into its place unless it is there."""
    place = bisect_right(ascending, value)
    if place == 0 or ascending[place - 1] != value:
        ascending.insert(place, value)


def _add_spans(known: dict[int, Counts], spans: Sequence[tuple[Picks, int, int, int]]) -> None:
    """Add GPUs, each with the sign of its span, to what is known of instants from its begin to before its end."""
    for at_ms, free in known.items():
        for picks, begin_ms, end_ms, sign in spans:
            if begin_ms <= at_ms < end_ms:
                _add(free, picks, sign)


def _add(counts: Counts, picks: Picks, sign: int) -> None:
    """Add (or take away) the picks' GPUs in place."""
    for node, gpus in picks:
        counts[node] += sign * gpus
