"""Planned starts that stand from before: how a cycle puts them back into its world."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from scheduler.fit import World, not_eligible
from scheduler.model import JobId, PendingJob, Reservation
from scheduler.place import Picks
from scheduler.profile import OVERDUE_MS, Hold
from scheduler.reserve import Search

RESTORE_ROUNDS: Final = 4
"""Times that planned starts are put back in one go: each settles whose room the others have to leave."""


class KeptStarts:
    """Planned starts as the last cycle left them, of jobs that may start.

    Args:
        reservations: the snapshot's.
        jobs: those that wait, by id.
        world: the cycle's.
    """

    def __init__(
        self, reservations: Iterable[Reservation], jobs: Mapping[JobId, PendingJob], world: World
    ) -> None:
        self._jobs: Final = jobs
        self._world: Final = world
        self.by_job: Final = {
            kept.job_id: kept
            for kept in reservations
            if kept.job_id in jobs and not_eligible(jobs[kept.job_id], world) is None
        }

    def in_order(self) -> list[Reservation]:
        """Planned starts that stand from before, in the order of their instants."""
        return sorted(self.by_job.values(), key=lambda kept: (kept.start_ms, kept.job_id))

    def restore_all(self, kept: list[Reservation]) -> None:
        """Put planned starts back as they are given, and those that find no place then once more.

        One may stand on what another takes back, though that one could spare it were it alone. So if some are lost,
        the others are put back around these, and it stays so if none is lost then.
        """
        lost: list[Reservation] = []
        for _ in range(RESTORE_ROUNDS):
            others = [one for one in kept if one not in lost]
            more = self._restore_in_turn(others)
            if not more:
                self.release_all(lost)
                if not self._restore_in_turn(lost):
                    return
                break
            lost += more
            self.release_all(kept)
            for one in lost:
                self._insist(one)
        self.release_all(kept)
        self._restore_in_turn(kept)

    def _restore_in_turn(self, kept: list[Reservation]) -> list[Reservation]:
        """Put planned starts back, twice those that find no place at first; which are lost all the same."""
        for one in (*kept, *kept):
            if one.job_id not in self._world.held:
                self.restore(one)
        return [one for one in kept if one.job_id not in self._world.held]

    def release_all(self, kept: list[Reservation]) -> None:
        """Planned starts that stand no more, for now."""
        for one in kept:
            self._world.release(one.job_id)

    def _insist(self, kept: Reservation) -> None:
        """Put a planned start on its nodes, room or not: others make room for it if they can."""
        picks = self._picks(kept)
        if picks is not None:
            search = Search(self._jobs[kept.job_id], kept.flavor, self._world)
            hold = search.stated(max(kept.start_ms, self._world.at_ms), picks)
            if hold is not None:
                self._world.hold(hold)

    def restore(self, kept: Reservation) -> None:
        """Put a planned start back on its nodes if it can still be."""
        job = self._jobs[kept.job_id]
        picks = self._picks(kept)
        if picks is None:
            return
        search = Search(job, kept.flavor, self._world)
        for start_ms in (max(kept.start_ms, self._world.at_ms), self._world.at_ms + OVERDUE_MS):
            hold = search.at(start_ms, may_reclaim=not kept.is_reclaim, only=picks)
            if hold is not None:
                self._world.hold(replace(hold, is_reclaim=kept.is_reclaim))
                return

    def _picks(self, kept: Reservation) -> Picks | None:
        """The planned nodes by position; None where one is gone."""
        index = self._world.free.of_flavor(kept.flavor).index
        if not all(node in index for node, _ in kept.place):
            return None
        return tuple((index[node], gpus) for node, gpus in kept.place)

    def in_place(self, hold: Hold) -> Hold | None:
        """A planned start on its nodes and at its instant in the world as it is now, with the victims that it takes."""
        return Search(self._jobs[hold.job_id], hold.flavor, self._world).at(hold.start_ms, only=hold.picks)
