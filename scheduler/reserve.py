"""The earliest start of a job that cannot start now, and who has to give way for it.

A start at which the job is entitled counts on what other queues have borrowed then, if their grace ends by it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from heapq import merge
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from quota.policy import policy_queue
from scheduler.fit import is_payable, must_be_entitled
from scheduler.model import PendingJob, ShareClass
from scheduler.place import Counts, Picks
from scheduler.profile import Hold, Profile, Run, with_back
from scheduler.reclaim import Candidates, fewest_victims
from scheduler.running import MS
from scheduler.shares import Ask
from scheduler.timeline import Table, may_hold
from scheduler.world import World

MAX_INSTANTS: Final = 1_000
"""Instants at which one job's start is tried; a job that fits none of so many waits without a planned start."""
CHUNK: Final = 128
"""Instants that are looked at together: most searches end among the first."""


class Search:
    """One job's search for a start, on the nodes of one flavor, in the world as it is now.

    Args:
        job: a job that cannot start now.
        flavor: one of its flavors.
        world: with every planned start that it must respect, and not its own.
        as_entitled: only starts at which the job is entitled.
    """

    def __init__(self, job: PendingJob, flavor: str, world: World, *, as_entitled: bool = False) -> None:
        self.job: Final = job
        self.world: Final = world
        self.profile: Final[Profile] = world.profiles[flavor]
        self.shares: Final = world.shares_of(flavor)
        self.queue: Final = policy_queue(world.bounds.policy, job.queue)
        self.shape: Final = world.bounds.shape(job.request, flavor)
        self.length_ms: Final = job.request.walltime_s * MS
        self._must_be_entitled: Final = as_entitled or must_be_entitled(job.request, self.queue, world.bounds)

    def earliest(self, *, until_ms: int | None = None, may_reclaim: bool = True) -> Hold | None:
        """The earliest start, at `until_ms` at the latest; None when there is none among MAX_INSTANTS.

        O(instants x nodes) for what is ruled out, (1 + planned starts) x nodes for each instant that is tried.
        """
        if until_ms is not None and not self._may_start_by(until_ms, may_reclaim=may_reclaim):
            return None
        instants = self._instants(until_ms)
        if len(instants) > MAX_INSTANTS:
            first = bisect_left(instants, 1, key=lambda at_ms: int(self._may_have_room(at_ms)))
            instants = instants[first : first + MAX_INSTANTS]
        for at_ms in self._likely(instants, may_reclaim=may_reclaim):
            found = self.at(at_ms, may_reclaim=may_reclaim)
            if found is not None:
                return found
        return None

    def _may_start_by(self, until_ms: int, *, may_reclaim: bool) -> bool:
        """Whether GPUs would do at an instant, planned starts left out: before it there are no more of them."""
        room = self.profile.base(until_ms)
        if may_reclaim and self._is_within_nominal and self._candidates:
            room = room + self._candidates.back(until_ms)
        return bool(self._may_hold(room[np.newaxis])[0])

    def _instants(self, until_ms: int | None) -> list[int]:
        """Instants at which a start may become possible, ascending, now or the job's begin first."""
        now_ms = max(self.world.at_ms, self.job.begin_ms)
        more = {now_ms, *(self.world.at_ms + grace_ms for grace_ms in self._candidates.graces_ms)}
        if self.shares.tree.is_limited or len(self.world.profiles) > 1:
            more.update(hold.end_ms for hold in self.shares.holds.values())
            more.update(self.shares.ends())
        found = self.profile.instants(until_ms)
        found = found[bisect_left(found, now_ms) :]
        more.difference_update(found)
        later = sorted(at_ms for at_ms in more if now_ms <= at_ms and (until_ms is None or at_ms <= until_ms))
        return list(merge(later, found)) if found and later and later[-1] > found[0] else later + found

    def _likely(self, instants: list[int], *, may_reclaim: bool) -> Iterator[int]:
        """Instants at which there may be room; what the others lack, no class of the job would give it."""
        known = bisect_left(instants, self.profile.timeline.until_ms)
        is_taking = may_reclaim and self._is_within_nominal and bool(self._candidates)
        for begin in range(0, known, CHUNK):
            chunk = instants[begin : min(begin + CHUNK, known)]
            may = self._may_start(chunk)
            taking = self._may_start(chunk, self._candidates) if is_taking else may
            for place in (may | taking).nonzero()[0].tolist():
                if may[place] or self._class_at(chunk[place]) is ShareClass.ENTITLED:
                    yield chunk[place]
        for at_ms in instants[known:]:
            if self._is_within_nominal or self._pick(self.profile.slack(at_ms)) is not None:
                yield at_ms

    def _may_start(self, instants: list[int], giving_way: Sequence[Run] = ()) -> NDArray[np.bool_]:
        """For each instant whether GPUs would do, if these runs were out of the way."""
        timeline = self.profile.timeline
        rooms = timeline.of(instants)
        for run in giving_way:
            last = bisect_left(instants, run.end_ms)
            for node, gpus in run.picks:
                rooms[:last, node] += gpus
        may = self._may_hold(rooms)
        places = may.nonzero()[0]
        if not len(places):
            return may  # most searches end here: there is no room even without a look at later planned starts
        rooms, instants = rooms[places], [instants[place] for place in places.tolist()]
        for at_ms in self.profile.begins:
            first = bisect_right(instants, at_ms - self.length_ms)
            last = bisect_left(instants, at_ms)
            if first < last and at_ms < timeline.until_ms:
                back = [run.picks for run in giving_way if run.end_ms > at_ms]
                here = with_back(timeline.at(at_ms), back)
                np.minimum(rooms[first:last], here, out=rooms[first:last])
        may[places] = self._may_hold(rooms)
        return may

    def _may_hold(self, rooms: Table) -> NDArray[np.bool_]:
        return may_hold(rooms, self.profile.rooms.sizes, self.shape.gpus, self.shape.nodes)

    @property
    def _is_within_nominal(self) -> bool:
        """Whether the job may be entitled."""
        return self.shape.gpus <= self.shares.tree.nominal.get(self.queue, 0)

    @cached_property
    def _candidates(self) -> Candidates:
        """What other queues have borrowed now and may be taken back, on these nodes; the first to give way first."""
        return self.world.takeable(self.profile.flavor, self.queue)

    def _is_fresh(self, run: Run) -> bool:
        """Whether it starts this very instant: nobody gets notice before he has begun, nor another in his place."""
        return run.order[0] == self.world.at_ms

    def _may_have_room(self, at_ms: int) -> bool:
        """Whether there is room at an instant if every borrower gives way; once true, true for ever."""
        room = self.profile.base(at_ms)
        if self._candidates:
            room = room + self._candidates.back(at_ms)
        return self._pick(room) is not None

    def _pick(self, room: Counts) -> Picks | None:
        return self.profile.rooms.pick(room, self.shape)

    def at(self, at_ms: int, *, may_reclaim: bool = True, only: Picks | None = None) -> Hold | None:
        """The start at one instant, with as few victims as can be, or None; `only` asks for these nodes."""
        if self.shares.demoted(self.queue, self.shape.gpus, at_ms, at_ms + self.length_ms) is not None:
            return None
        ask = self._ask(at_ms)
        picks = self._place(ask, (), only)
        if picks is not None:
            return self._hold(ask, picks, ())
        if not (may_reclaim and ask.is_entitled):
            return None
        borrowed = self.shares.borrowed_of_others(self.queue, at_ms)
        due = [
            run
            for run in self._candidates
            if run.id in borrowed and run.end_ms > at_ms and self.world.at_ms + run.grace_ms <= at_ms
        ]
        victims = None
        if any(self.world.at_ms + run.grace_ms >= at_ms for run in due):  # someone's notice would go out now
            if any(self._is_fresh(run) for run in due):
                later = [run for run in due if self.world.at_ms + run.grace_ms < at_ms]
                victims = self._fewest(later, ask, only)
            due = [run for run in due if not self._is_fresh(run)]
        if victims is None:
            victims = self._fewest(due, ask, only)
        if victims is None:
            return None
        return self._hold(ask, cast("Picks", self._place(ask, victims, only)), victims)

    def _fewest(self, due: Sequence[Run], ask: Ask, only: Picks | None) -> tuple[Run, ...] | None:
        """Who has to give way for the start, of these; None where all of them are not enough."""

        def is_enough(chosen: Sequence[Run]) -> bool:
            return self._place(ask, chosen, only) is not None

        return fewest_victims(due, is_enough, self.world.at_ms)

    def reclaim(self) -> Hold | None:
        """The start that taking back buys a job that is entitled now, or one that comes no later by itself.

        Victims are chosen by what they lose, whatever their grace; the longest grace among them is the start. A
        start that comes by itself is owed too: were it not planned, who borrows could take its room piece by piece.
        """
        candidates = self._candidates.settled
        victims = fewest_victims(
            candidates, lambda chosen: self._bought(chosen) is not None, self.world.at_ms
        )
        bought = self._bought(victims) if victims else None
        if not victims or bought is None:
            return None
        found = self._hold(*bought, victims)
        sooner = self.earliest(until_ms=found.start_ms, may_reclaim=False)
        return found if sooner is None else sooner

    def _bought(self, victims: Sequence[Run]) -> tuple[Ask, Picks] | None:
        """The start that these victims buy, at the longest grace among them, and its nodes."""
        graces_ms = (
            victims.graces_ms if isinstance(victims, Candidates) else {run.grace_ms for run in victims}
        )
        grace_ms = max(graces_ms, default=0)
        ask = self._ask(max(self.world.at_ms + grace_ms, self.job.begin_ms))
        demoted = self.shares.demoted(ask.queue, ask.gpus, ask.start_ms, ask.end_ms)
        picks = self._place(ask, victims) if ask.is_entitled and demoted is None else None
        return None if picks is None else (ask, picks)

    def _class_at(self, at_ms: int) -> ShareClass:
        return self.shares.class_at(self.queue, self.shape.gpus, at_ms)

    def _ask(self, at_ms: int) -> Ask:
        """A start at an instant as the quota tree sees it; it respects every planned start.

        Only what starts now may run past one, as it can be stopped for it: what waits has nothing to give back.
        """
        gpus, end_ms = self.shape.gpus, at_ms + self.length_ms
        return Ask(self.queue, gpus, at_ms, end_ms, self._class_at(at_ms) is ShareClass.ENTITLED)

    def _place(self, ask: Ask, victims: Sequence[Run], only: Picks | None = None) -> Picks | None:
        """Nodes for a start if these runs are gone by it; None where limits, windows or room refuse."""
        if self._must_be_entitled and not ask.is_entitled:
            return None
        if self.shares.tree.is_limited:
            gone = frozenset(run.id for run in _ending_after(victims, ask.start_ms))
            if self.shares.refusal(ask._replace(without=gone)) is not None:
                return None
        back = victims.back if isinstance(victims, Candidates) else _ending_after(victims, ask.start_ms)
        room = self.profile.throughout(ask.start_ms, ask.end_ms, freed=back)
        room = self.profile.open(room, ask.start_ms, ask.end_ms, self.job.project_id)
        freed = (run.id for run in victims if run.end_ms > ask.start_ms)
        room = self.world.with_beside(room, self.shape, ask, freed)
        if only is not None:
            is_allowed = self.profile.rooms.allows([node for node, _ in only], self.shape)
            return only if is_allowed and all(room[node] >= gpus for node, gpus in only) else None
        return self._pick(room)

    def without(self, hold: Hold, victims: Sequence[Run]) -> Hold | None:
        """The same planned start with these victims alone, if that is enough."""
        ask = self._ask(hold.start_ms)
        picks = self._place(ask, victims) if ask.is_entitled else None
        return None if picks is None else replace(self._hold(ask, picks, victims), is_reclaim=True)

    def stated(self, at_ms: int, picks: Picks) -> Hold | None:
        """A start at an instant on these nodes, whether there is room or not; None where a window shuts one."""
        if self.profile.shut(picks, at_ms, at_ms + self.length_ms, self.job.project_id) is not None:
            return None
        return self._hold(self._ask(at_ms), picks, ())

    def _hold(self, ask: Ask, picks: Picks, victims: Sequence[Run]) -> Hold:
        share_class = ShareClass.ENTITLED if ask.is_entitled else ShareClass.BORROWED
        return Hold(
            job_id=self.job.id,
            queue=ask.queue,
            flavor=self.profile.flavor,
            gpus=ask.gpus,
            start_ms=ask.start_ms,
            end_ms=ask.end_ms,
            picks=picks,
            share_class=share_class,
            victims=tuple(run.id for run in victims),
            cpus_per_gpu=self.job.request.cpus_per_gpu,
            memory_bytes_per_gpu=self.job.request.memory_bytes_per_gpu,
            project_id=self.job.project_id,
            array_id=None if self.job.array is None else self.job.array.id,
        )


def _ending_after(runs: Sequence[Run], at_ms: int) -> list[Run]:
    return [run for run in runs if run.end_ms > at_ms]


def earliest(
    job: PendingJob, world: World, *, until_ms: int | None = None, as_entitled: bool = False
) -> Hold | None:
    """The earliest start over the flavors that the job can pay for; of equal ones that of the flavor it prefers."""
    searches = [Search(job, flavor, world, as_entitled=as_entitled) for flavor in _payable(job, world)]
    found = [hold for search in searches if (hold := search.earliest(until_ms=until_ms)) is not None]
    return min(found, key=lambda hold: hold.start_ms, default=None)


def reclaim(job: PendingJob, world: World) -> Hold | None:
    """The start that is owed in place of borrowers, see `Search.reclaim`, on the first flavor where there is one."""
    for flavor in _payable(job, world):
        search = Search(job, flavor, world)
        if search.shares.class_now(search.queue, search.shape.gpus) is ShareClass.ENTITLED:
            found = search.reclaim()
            if found is not None:
                return found
    return None


def _payable(job: PendingJob, world: World) -> list[str]:
    """Flavors that have nodes and that a grant of the job's project pays for; of one alone that is asked before."""
    flavors = [flavor for flavor in job.request.flavors if flavor in world.profiles]
    if len(job.request.flavors) == 1:
        return flavors
    return [flavor for flavor in flavors if is_payable(job, flavor, world)]
