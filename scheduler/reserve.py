"""The earliest start of a job that cannot start now, and who has to give way for it.

A start at which the job is entitled counts on what other queues have borrowed then, if their grace ends by it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Final, cast

import numpy as np

from quota.policy import policy_queue
from scheduler.fit import shape_of
from scheduler.model import JobId, PendingJob, ShareClass
from scheduler.place import Counts, Picks, pick
from scheduler.profile import Hold, Profile, Run
from scheduler.reclaim import by_loss, fewest_victims
from scheduler.running import MS
from scheduler.shares import Ask
from scheduler.world import World

MAX_INSTANTS: Final = 1_000
"""Instants at which one job's start is tried; a job that fits none of so many waits without a planned start."""


class Search:
    """One job's search for a start, on the nodes of one flavor, in the world as it is now.

    Args:
        job: a job that cannot start now.
        flavor: one of its flavors.
        world: with every planned start that it must respect, and not its own.
    """

    def __init__(self, job: PendingJob, flavor: str, world: World) -> None:
        self.job: Final = job
        self.world: Final = world
        self.profile: Final[Profile] = world.profiles[flavor]
        self.shares: Final = world.shares_of(flavor)
        self.queue: Final = policy_queue(world.bounds.policy, job.queue)
        self.shape: Final = shape_of(job.request, flavor)
        self.length_ms: Final = job.request.walltime_s * MS

    def earliest(self, *, until_ms: int | None = None, may_reclaim: bool = True) -> Hold | None:
        """The earliest start, at `until_ms` at the latest; None when there is none among MAX_INSTANTS.

        O((log instants + instants tried) x (nodes + runs)).
        """
        instants = self._instants()
        if until_ms is not None:
            instants = [at_ms for at_ms in instants if at_ms <= until_ms]
        first = bisect_left(instants, 1, key=lambda at_ms: int(self._may_have_room(at_ms)))
        for at_ms in instants[first : first + MAX_INSTANTS]:
            found = self.at(at_ms, may_reclaim=may_reclaim)
            if found is not None:
                return found
        return None

    def _instants(self) -> list[int]:
        """Instants at which a start may become possible, ascending, now or the job's begin first."""
        now_ms = max(self.world.at_ms, self.job.begin_ms)
        found = {now_ms, *(at_ms for at_ms in self.profile.instants() if at_ms > now_ms)}
        if self.shares.tree.is_limited or len(self.world.profiles) > 1:
            others = [hold.end_ms for hold in self.shares.holds.values()] + self.shares.ends()
            found.update(at_ms for at_ms in others if at_ms > now_ms)
        for run in self._candidates:
            if self.world.at_ms + run.grace_ms > now_ms:
                found.add(self.world.at_ms + run.grace_ms)
        return sorted(found)

    @cached_property
    def _candidates(self) -> list[Run]:
        """What other queues have borrowed now and may be taken back, on these nodes."""
        known = self.profile.runs
        runs = [known[run] for run in sorted(self.shares.borrowed_of_others(self.queue)) if run in known]
        return [run for run in runs if run.is_reclaimable]

    @cached_property
    def _is_plain(self) -> bool:
        """Whether the job can neither be entitled, and take back, nor run past anything planned."""
        return self.shape.gpus > self.shares.tree.nominal.get(self.queue, 0) and not any(
            hold.queue != self.queue and hold.share_class is ShareClass.ENTITLED
            for hold in self.shares.holds.values()
        )

    def _is_fresh(self, run: Run) -> bool:
        """Whether it starts this very instant: nobody gets notice before he has begun."""
        return run.order[0] == self.world.at_ms

    def _may_have_room(self, at_ms: int) -> bool:
        """Whether there is room at an instant if every borrower gives way; once true, true for ever."""
        room = self.profile.base(at_ms)
        if self._candidates:
            ends, nodes, gpus = self._candidates_by_node
            is_left = ends > at_ms
            back = np.bincount(nodes[is_left], weights=gpus[is_left], minlength=len(room))
            room = room + back.astype(np.int64)
        return self._pick(room) is not None

    @cached_property
    def _candidates_by_node(self) -> tuple[Counts, Counts, Counts]:
        """Ends, nodes and GPUs of the candidates, one item for each node of each."""
        table = [(run.end_ms, node, gpus) for run in self._candidates for node, gpus in run.picks]
        ends, nodes, gpus = np.array(table, dtype=np.int64).reshape(-1, 3).T
        return ends, nodes, gpus

    def _pick(self, room: Counts) -> Picks | None:
        return pick(room, self.profile.rooms.sizes, self.shape.gpus, self.shape.nodes)

    def at(self, at_ms: int, *, may_reclaim: bool = True, only: Picks | None = None) -> Hold | None:
        """The start at one instant, with as few victims as can be, or None; `only` asks for these nodes."""
        if self._is_plain and self._pick(self.profile.slack(at_ms)) is None:
            return None
        ask = self._ask(at_ms)
        if self.shares.demoted(ask.queue, ask.gpus, ask.start_ms, ask.end_ms) is not None:
            return None
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
        if max((run.grace_ms for run in due), default=0) >= at_ms - self.world.at_ms:
            due = [run for run in due if not self._is_fresh(run)]
        victims = fewest_victims(
            by_loss(due, self.world.at_ms),
            lambda chosen: self._place(ask, chosen, only) is not None,
            self.world.at_ms,
        )
        if victims is None:
            return None
        return self._hold(ask, cast("Picks", self._place(ask, victims, only)), victims)

    def reclaim(self) -> Hold | None:
        """The start that taking back buys a job that is entitled now, or one that comes no later by itself.

        Victims are chosen by what they lose, whatever their grace; the longest grace among them is the start. A
        start that comes by itself is owed too: were it not planned, who borrows could take its room piece by piece.
        """
        now_ms = self.world.at_ms
        candidates = by_loss((run for run in self._candidates if not self._is_fresh(run)), now_ms)
        victims = fewest_victims(candidates, lambda chosen: self._bought(chosen) is not None, now_ms)
        found = None if victims is None else self._bought(victims)
        if found is None or not found.victims:
            return None
        sooner = self.earliest(until_ms=found.start_ms, may_reclaim=False)
        return found if sooner is None else sooner

    def _bought(self, victims: Sequence[Run]) -> Hold | None:
        """The start that these victims buy, at the longest grace among them."""
        grace_ms = max((run.grace_ms for run in victims), default=0)
        ask = self._ask(max(self.world.at_ms + grace_ms, self.job.begin_ms))
        demoted = self.shares.demoted(ask.queue, ask.gpus, ask.start_ms, ask.end_ms)
        picks = self._place(ask, victims) if ask.is_entitled and demoted is None else None
        return None if picks is None else self._hold(ask, picks, victims)

    def _ask(self, at_ms: int) -> Ask:
        """A start at an instant as the quota tree sees it."""
        gpus, end_ms = self.shape.gpus, at_ms + self.length_ms
        is_entitled = self.shares.class_at(self.queue, gpus, at_ms) is ShareClass.ENTITLED
        past: frozenset[JobId] = frozenset()
        if not is_entitled:
            grace_ms = self.world.bounds.grace_ms(self.queue)
            past = self.shares.runs_past(self.queue, gpus, grace_ms, at_ms, end_ms)
        return Ask(self.queue, gpus, at_ms, end_ms, is_entitled, past)

    def _place(self, ask: Ask, victims: Sequence[Run], only: Picks | None = None) -> Picks | None:
        """Nodes for a start if these runs are gone by it; None where limits, windows or room refuse."""
        freed = [run for run in victims if run.end_ms > ask.start_ms]
        if not freed and not ask.past and self._pick(self.profile.slack(ask.start_ms)) is None:
            return None  # the span is the least of its instants
        if self.shares.tree.is_limited:
            gone = frozenset(run.id for run in freed)
            if self.shares.refusal(replace(ask, without=gone)) is not None:
                return None
        room = self.profile.throughout(ask.start_ms, ask.end_ms, past=ask.past, freed=freed)
        room = self.profile.open(room, ask.start_ms, ask.end_ms, self.job.project_id)
        if only is not None:
            return only if all(room[node] >= gpus for node, gpus in only) else None
        return self._pick(room)

    def without(self, hold: Hold, victims: Sequence[Run]) -> Hold | None:
        """The same planned start with these victims alone, if that is enough."""
        ask = self._ask(hold.start_ms)
        picks = self._place(ask, victims) if ask.is_entitled else None
        return None if picks is None else replace(self._hold(ask, picks, victims), is_reclaim=True)

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
        )


def earliest(job: PendingJob, world: World, *, until_ms: int | None = None) -> Hold | None:
    """The earliest start over the job's flavors; of equal ones that of the flavor it prefers."""
    searches = [Search(job, flavor, world) for flavor in job.request.flavors if flavor in world.profiles]
    found = [hold for search in searches if (hold := search.earliest(until_ms=until_ms)) is not None]
    return min(found, key=lambda hold: hold.start_ms, default=None)


def reclaim(job: PendingJob, world: World) -> Hold | None:
    """The start that is owed in place of borrowers, see `Search.reclaim`, on the first flavor where there is one."""
    for flavor in job.request.flavors:
        if flavor in world.profiles:
            search = Search(job, flavor, world)
            if search.shares.class_now(search.queue, search.shape.gpus) is ShareClass.ENTITLED:
                found = search.reclaim()
                if found is not None:
                    return found
    return None
