"""Free GPUs of every node at the instants of the near future, as a table: one row from each change to the next.

A planned start or an end of a run is added to a block of rows at once, and one comparison tells at which of many
instants there may be room: what was one look at a time for every planned start of every cycle.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Final

import numpy as np
from numpy.typing import NDArray

from scheduler.place import Counts, Picks, Sizes

MAX_CELLS: Final = 262_144
"""Nodes x rows of a table: 2 MiB; beyond its last row each instant is looked at by itself."""
SPARE_ROWS: Final = 32
"""Rows for instants that come in later: a begin and an end of each of 16 planned starts."""
FOREVER_MS: Final = 2**62
"""The end of a table whose last row lasts."""

Table = NDArray[np.int64]
"""A row of free GPUs by node for each of some instants."""


class Timeline:
    """The table; working state of one cycle.

    Args:
        at_ms: now, the instant of the first row.
        free: what is free now.
        ends: when runs end, ascending; after now.
        nodes: position of the node of each end.
        gpus: GPUs that each end gives back.
    """

    def __init__(self, at_ms: int, free: Counts, ends: Counts, nodes: Counts, gpus: Counts) -> None:
        instants = distinct(ends)
        rows = max(1, MAX_CELLS // max(1, len(free)))
        self.until_ms: Final = int(instants[rows - 1]) if len(instants) >= rows else FOREVER_MS
        """Instants from here on have no row."""
        instants = instants[: rows - 1]
        self._times: Final[list[int]] = [at_ms, *instants.tolist()]
        self._as_array: Counts | None = None
        count = int(np.searchsorted(ends, self.until_ms, side="left"))
        cells = (np.searchsorted(instants, ends[:count]) + 1) * len(free) + nodes[:count]
        gained = np.bincount(cells, weights=gpus[:count], minlength=len(self._times) * len(free))
        table = gained.reshape(len(self._times), len(free))
        table[0] = free
        self._table: Table = np.zeros((len(self._times) + SPARE_ROWS, len(free)), dtype=np.int64)
        np.cumsum(table, axis=0, out=table)
        self._table[: len(table)] = table

    def row(self, at_ms: int) -> int:
        """Number of the row that holds at an instant, which is neither past nor beyond the table."""
        return bisect_right(self._times, at_ms) - 1

    def at(self, at_ms: int) -> Counts:
        """What is free at an instant; a view that must not be written to."""
        free: Counts = self._table[self.row(at_ms)]
        return free

    def of(self, instants: list[int]) -> Table:
        """What is free at each of some instants, as a copy."""
        if self._as_array is None:
            self._as_array = np.array(self._times)
        rows = self._as_array.searchsorted(instants, side="right") - 1
        found: Table = self._table[rows]
        return found

    def least(self, instants: list[int]) -> Counts:
        """The least of what is free of each node at some instants, at least one."""
        if len(instants) == 1:
            return self.at(instants[0])
        least: Counts = self._table[[self.row(at_ms) for at_ms in instants]].min(axis=0)
        return least

    def add(self, picks: Picks, begin_ms: int, end_ms: int, sign: int) -> None:
        """So many GPUs more (or, with sign -1, fewer) are free from begin to end."""
        first, last = self._split(begin_ms), self._split(end_ms)
        for node, gpus in picks:
            self._table[first:last, node] += sign * gpus

    def _split(self, at_ms: int) -> int:
        """The row that begins at an instant, made where there is none; one behind the last beyond the table."""
        if at_ms >= self.until_ms:
            return len(self._times)
        row = bisect_left(self._times, at_ms)
        if row == len(self._times) or self._times[row] != at_ms:
            if row == 0:
                return 0
            if len(self._times) == len(self._table):
                self._table = np.concatenate((self._table, np.zeros_like(self._table[:SPARE_ROWS])))
            self._times.insert(row, at_ms)
            self._as_array = None
            self._table[row + 1 : len(self._times)] = self._table[row : len(self._times) - 1]
            self._table[row] = self._table[row - 1]
        return row


def distinct(ascending: Counts) -> Counts:
    """Each number once: `numpy.unique` for what is sorted already."""
    is_first = np.ones(len(ascending), dtype=np.bool_)
    np.not_equal(ascending[1:], ascending[:-1], out=is_first[1:])
    found: Counts = ascending[is_first]
    return found


def may_hold(rooms: Table, sizes: Sizes, gpus: int, nodes: int | None) -> NDArray[np.bool_]:
    """For each row whether `pick` may find a place in it; where this says no, it finds none.

    Args:
        rooms: what may be taken of each node, a row for each question.
        sizes: GPUs of each node, free or not.
        gpus: how many, 1 or more.
        nodes: None = may span the fewest.
    """
    if nodes is not None:
        enough: NDArray[np.bool_] = (rooms >= gpus // nodes).sum(axis=1) >= nodes
    elif gpus > sizes.biggest and sizes.is_uniform:
        enough = (rooms >= sizes.biggest).sum(axis=1) >= gpus // sizes.biggest
    else:
        enough = np.maximum(rooms, 0).sum(axis=1) >= gpus
    return enough
