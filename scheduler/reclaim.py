"""Who gives way: as little lost work as can be, and never more than needed."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, overload

import numpy as np

from scheduler.place import Counts
from scheduler.profile import FEW_INSTANTS, Run


def by_loss(runs: Iterable[Run], at_ms: int) -> list[Run]:
    """Candidates, the first to give way first; lost work counts up to `at_ms`.

    Lower priority, then least lost work (GPU-seconds since the last checkpoint), then youngest, then id.
    Source: Kueue's candidate order (lowest priority, newest admission), with lost work between the two.
    """
    return sorted(runs, key=lambda run: _loss(run, at_ms))


def _loss(run: Run, at_ms: int) -> tuple[int, int, int, int, str]:
    """Place among the candidates; its end is no part of it."""
    return (run.priority, run.lost(at_ms), -run.order[0], -run.order[1], run.id)


@dataclass(frozen=True, slots=True)
class Known:
    """Sums over candidates that follow each that is taken out.

    Args:
        graces_ms: how many get so much notice.
        fresh: how many start this very instant.
        back: GPUs of each node that all give back at an instant.
    """

    graces_ms: Counter[int]
    fresh: Counter[bool]
    back: dict[int, Counts]

    def copy(self) -> Known:
        """The same, to be changed."""
        back = {at_ms: counts.copy() for at_ms, counts in self.back.items()}
        return Known(self.graces_ms.copy(), self.fresh.copy(), back)

    def take(self, run: Run, at_ms: int) -> None:
        """One of them is taken out."""
        self.graces_ms[run.grace_ms] -= 1
        if not self.graces_ms[run.grace_ms]:
            del self.graces_ms[run.grace_ms]
        self.fresh[run.order[0] == at_ms] -= 1
        for until_ms, counts in self.back.items():
            if run.end_ms > until_ms:
                for node, gpus in run.picks:
                    counts[node] -= gpus


def _known(runs: Sequence[Run], at_ms: int) -> Known:
    """What is known of candidates before anything is asked."""
    fresh = Counter(run.order[0] == at_ms for run in runs)
    return Known(Counter(run.grace_ms for run in runs), fresh, {})


class Candidates(Sequence[Run]):
    """Runs that may give way, the first to give way first, and what all of them would give back.

    Whether all together are enough is asked for every job that takes back: it costs a look at the nodes, not at each
    run. Never changed; `less` makes others.

    Args:
        runs: by loss, as `by_loss` has them.
        at_ms: now.
        nodes: how many nodes there are.
        known: what is known of them already.
    """

    def __init__(self, runs: list[Run], at_ms: int, nodes: int, known: Known | None = None) -> None:
        self._runs: Final = runs
        self._at_ms: Final = at_ms
        self._nodes: Final = nodes
        self._known: Final = _known(runs, at_ms) if known is None else known

    def __len__(self) -> int:
        return len(self._runs)

    @overload
    def __getitem__(self, place: int) -> Run: ...
    @overload
    def __getitem__(self, place: slice) -> list[Run]: ...
    def __getitem__(self, place: int | slice) -> Run | list[Run]:
        return self._runs[place]

    def less(self, gone: Iterable[Run]) -> Candidates:
        """Those that are left without these, which need not be among them. O(their number) in memory alone."""
        runs = self._runs.copy()
        known = self._known.copy()
        for run in gone:
            place = bisect_left(runs, _loss(run, self._at_ms), key=lambda other: _loss(other, self._at_ms))
            if place == len(runs) or runs[place].id != run.id:
                continue
            known.take(runs.pop(place), self._at_ms)
        return Candidates(runs, self._at_ms, self._nodes, known)

    @cached_property
    def settled(self) -> Candidates:
        """Those that do not start this very instant: nobody gets notice before he has begun."""
        if not self._known.fresh[True]:
            return self
        return self.less([run for run in self._runs if run.order[0] == self._at_ms])

    @property
    def graces_ms(self) -> Iterable[int]:
        """The notices that they get, each once."""
        return self._known.graces_ms.keys()

    def back(self, at_ms: int) -> Counts:
        """GPUs of each node that would be free at an instant if all gave way; must not be written to."""
        found = self._known.back.get(at_ms)
        if found is None:
            ends, places, gpus = self._by_node
            is_left = ends > at_ms
            counted = np.bincount(places[is_left], weights=gpus[is_left], minlength=self._nodes)
            found = counted.astype(np.int64)
            if len(self._known.back) < FEW_INSTANTS:
                self._known.back[at_ms] = found
        return found

    @cached_property
    def _by_node(self) -> tuple[Counts, Counts, Counts]:
        """Ends, nodes and GPUs, one item for each node of each."""
        table = [(run.end_ms, node, gpus) for run in self._runs for node, gpus in run.picks]
        ends, nodes, gpus = np.array(table, dtype=np.int64).reshape(-1, 3).T
        return ends, nodes, gpus


def fewest_victims(
    candidates: Sequence[Run], is_enough: Callable[[Sequence[Run]], bool], at_ms: int
) -> tuple[Run, ...] | None:
    """Victims of whom none can be spared, or None when all the candidates together are not enough.

    The shortest run of candidates from the first on that is enough, by doubling and halving; then fill-back: from
    the most lost work to the least, each that can be spared is, until no single one can be.
    Source: Kueue's classical preemption (greedy, then fill back in reverse). O(log victims) calls of `is_enough`,
    none of them twice, and one for each victim per round.

    Args:
        candidates: first to give way first.
        is_enough: whether the job fits if these are gone.
        at_ms: the instant up to which lost work counts.
    """
    if not is_enough(candidates):
        return None
    if is_enough(()):
        return ()
    answers = {0: False, len(candidates): True}

    def are_enough(count: int) -> bool:
        if count not in answers:
            answers[count] = is_enough(candidates[:count])
        return answers[count]

    low, high = 0, 1
    while high < len(candidates) and not are_enough(high):
        low, high = high + 1, min(2 * high, len(candidates))
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if are_enough(middle) else (middle + 1, high)
    # More victims may mean a longer grace and a later start, so that "enough" may stop holding on the way.
    victims = list(candidates[:low] if are_enough(low) else candidates)
    is_spared = True
    while is_spared:
        is_spared = False
        for run in sorted(victims, key=lambda run: (-run.lost(at_ms), run.id)):
            others = [other for other in victims if other is not run]
            if others and is_enough(others):
                victims, is_spared = others, True
    return tuple(victims)
