"""Whose reasons for waiting have their turn to be worked out and told: first ones at once, all of them in rounds. Pure.

A round goes through the waiting jobs by their ids. Time opens it to more and more of them, so that an idle scheduler
that cycles often works few out again; it stands behind the last one that was told, however many were worked out.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from scheduler.model import JobId, PendingJob

TOLD_AT_ONCE: Final = 100
"""Waiting jobs whose reasons are all worked out in each cycle: a millisecond."""

TELL_AGAIN_MS: Final = 1_000
"""Least time in which reasons of a longer queue are worked out again [ms]: the longest pause of an idle scheduler.

It takes longer where more jobs wait than `to_tell` may work out in a second.
"""

NOBODY: Final = JobId(0)
"""Stands before every job."""


@dataclass(frozen=True, slots=True)
class Round:
    """How far the telling has come.

    Args:
        told_up_to: waiting jobs up to this one had their turn.
        open_up_to: those up to this one may have it.
        opened_ms: the plan's instant at which it was opened to more of them.
    """

    told_up_to: JobId = NOBODY
    open_up_to: JobId = NOBODY
    opened_ms: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """Jobs whose reasons have their turn.

    Args:
        first: those that have none, by the time since which they have none.
        again: the round's, by id; some of the first may be among them.
        after: the round when all of them are told.
    """

    first: tuple[JobId, ...]
    again: tuple[JobId, ...]
    after: Round

    @property
    def job_ids(self) -> frozenset[JobId]:
        """All of them."""
        return frozenset((*self.first, *self.again))

    def cut(self, changed: Collection[JobId], most: int) -> tuple[frozenset[JobId], Round]:
        """Those of the changed reasons that one transaction writes, and the round when it has.

        Args:
            changed: jobs of these that wait for another reason than the one told last.
            most: reasons that are written at most; first ones go before.
        """
        if len(changed) <= most:
            return frozenset(changed), self.after
        in_turn = dict.fromkeys(job_id for job_id in (*self.first, *self.again) if job_id in changed)
        written = frozenset(islice(in_turn, most))
        left = next((job_id for job_id in self.again if job_id in changed and job_id not in written), None)
        return written, self.after if left is None else replace(self.after, told_up_to=JobId(left - 1))


def to_tell(
    pending: Sequence[PendingJob], untold: Iterable[JobId], begun: Round, *, most: int, at_ms: int
) -> Asked:
    """Whose turn it is: jobs without a reason first, then all, round and round.

    What a cut left over is asked for again at once: time opened the round to it before. O(what is asked for).

    Args:
        pending: waiting jobs by id.
        untold: those of them that have no reason.
        begun: how far the telling has come.
        most: jobs at most at a time; so many more does the round open to in TELL_AGAIN_MS.
        at_ms: the plan's instant.
    """
    if len(pending) <= min(most, TOLD_AT_ONCE):
        return Asked((), tuple(job.id for job in pending), begun)
    first = tuple(islice(untold, most))
    begin, opened = _place(pending, begun.told_up_to), _place(pending, begun.open_up_to)
    if begin == len(pending):  # round to the first again
        begin = opened = 0
    elapsed_ms = at_ms - begun.opened_ms
    if not 0 <= elapsed_ms < TELL_AGAIN_MS:  # the clock was put back, or long ago
        elapsed_ms = TELL_AGAIN_MS
    more = min(most, len(pending)) * elapsed_ms // TELL_AGAIN_MS
    opened = min(len(pending), max(begin, opened) + more)
    end = min(opened, begin + most - len(first))
    after = Round(_id_before(pending, end), _id_before(pending, opened), at_ms if more else begun.opened_ms)
    return Asked(first, tuple(job.id for job in pending[begin:end]), after)


def _place(pending: Sequence[PendingJob], job_id: JobId) -> int:
    """Number of the waiting jobs up to this one."""
    return bisect_right(pending, job_id, key=lambda job: job.id)


def _id_before(pending: Sequence[PendingJob], place: int) -> JobId:
    """The last job before a place."""
    return pending[place - 1].id if place else NOBODY
