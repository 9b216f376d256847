"""The entries of a plan. Effects are worked out at once, the reasons of those who wait when they are first read."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from typing import Final, overload

from scheduler.model import JobId, Plan, PlanEntry, Wait

Waits = Callable[[Container[JobId] | None], Sequence[Wait]]
"""Works out the reasons of these jobs, of all that wait for None; by job."""


class Entries(Sequence[PlanEntry]):
    """A sequence as a tuple would be; `effects` are those that are no `Wait`.

    Args:
        before: effects that stand before the reasons.
        waits: works the reasons out; asked once for all, and before that for some.
        after: effects that stand behind them.
    """

    __slots__ = ("_after", "_all", "_before", "_waits")

    def __init__(
        self,
        before: Sequence[PlanEntry],
        waits: Waits,
        after: Sequence[PlanEntry],
    ) -> None:
        self._before: Final = tuple(before)
        self._after: Final = tuple(after)
        self._waits: Waits | None = waits
        self._all: tuple[PlanEntry, ...] = ()

    @property
    def effects(self) -> tuple[PlanEntry, ...]:
        """All but the reasons, in order."""
        return (*self._before, *self._after)

    def waits_of(self, jobs: Container[JobId]) -> tuple[Wait, ...]:
        """Reasons of these jobs alone, by job; only they are worked out."""
        if self._waits is not None:
            return tuple(self._waits(jobs))
        return _of_jobs(self._all, jobs)

    def _read(self) -> tuple[PlanEntry, ...]:
        if self._waits is not None:
            self._all = (*self._before, *self._waits(None), *self._after)
            self._waits = None  # what they were worked out from is needed no more
        return self._all

    def __iter__(self) -> Iterator[PlanEntry]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    @overload
    def __getitem__(self, index: int) -> PlanEntry: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[PlanEntry]: ...
    def __getitem__(self, index: int | slice) -> PlanEntry | Sequence[PlanEntry]:
        return self._read()[index]

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, Sequence) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.effects)  # reasons hold mappings, which have no hash

    def __repr__(self) -> str:
        return repr(self._read())


def waits_of(plan: Plan, jobs: Container[JobId]) -> tuple[Wait, ...]:
    """Why these jobs wait, by job: the plan's own reasons, those of no other job worked out for it."""
    entries = plan.entries
    return entries.waits_of(jobs) if isinstance(entries, Entries) else _of_jobs(entries, jobs)


def _of_jobs(entries: Sequence[PlanEntry], jobs: Container[JobId]) -> tuple[Wait, ...]:
    return tuple(entry for entry in entries if isinstance(entry, Wait) and entry.job_id in jobs)
