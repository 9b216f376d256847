"""The nodes of one flavor as they stand in the machine: labels, sizes, domains of the topology.

A level of the topology is a label's key, such as a rack's; its domains are the values that nodes have. The policy
names the levels, the widest first. A node without the label lies in no domain of the level.
Source: Kueue's Topology (levels by node labels; required and preferred); the least full domain goes last, as in
KAI's topology plugin, so that wide domains stay whole for large jobs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from scheduler.model import Placement, Request

Counts = NDArray[np.int64]
"""GPUs per node of one flavor, nodes by name."""

Labels = tuple[tuple[str, str], ...]
"""Labels by key."""


class Sizes:
    """GPUs of each node, free or not; never changes.

    Args:
        counts: by position of the node.
    """

    __slots__ = ("biggest", "counts", "is_uniform")

    def __init__(self, counts: Sequence[int] | Counts) -> None:
        self.counts: Final[Counts] = np.array(counts, dtype=np.int64)
        self.biggest: Final = int(self.counts.max(initial=0))
        self.is_uniform: Final = self.biggest > 0 and bool((self.counts == self.biggest).all())


@dataclass(frozen=True, slots=True)
class Terms:
    """What a job asks of its nodes beyond so many GPUs.

    Args:
        labels: that every node has.
        levels: tried in this order, one domain of each; None = any nodes. At least one.
        is_spread: the emptiest nodes instead of the fullest.
        cpus_per_gpu: None = the node's share.
        memory_bytes_per_gpu: None = the node's share.
    """

    labels: Labels = ()
    levels: tuple[str | None, ...] = (None,)
    is_spread: bool = False
    cpus_per_gpu: int | None = None
    memory_bytes_per_gpu: int | None = None


def levels_of(known: Sequence[str], required: str | None, preferred: str | None) -> tuple[str | None, ...]:
    """In which order the levels are tried; empty where the levels asked for cannot be.

    From the preferred level upwards to the required one, or to any nodes where none is required.

    Args:
        known: levels of the policy, the widest first.
        required: level of which one domain must hold the job; None = no such demand.
        preferred: level of which one domain should hold it, not wider than the required one; None = no wish.
    """
    if not all(level is None or level in known for level in (required, preferred)):
        return ()
    first = required if preferred is None else preferred
    if first is None:
        return (None,)
    widest = 0 if required is None else known.index(required)
    found: tuple[str | None, ...] = tuple(reversed(known[widest : known.index(first) + 1]))
    return (*found, None) if required is None else found


@dataclass(frozen=True, slots=True)
class Part:
    """Some nodes of a flavor, by their positions, ascending."""

    name: str
    positions: NDArray[np.intp]
    sizes: Sizes


@dataclass(frozen=True, slots=True)
class Parts:
    """The nodes that have some labels, by the domains of a level.

    Args:
        all: by name of the domain.
        positions: of every node in one of them, ascending.
        numbers: number of the domain of each of these.
    """

    all: tuple[Part, ...]
    positions: NDArray[np.intp]
    numbers: NDArray[np.intp]

    def totals(self, free: Counts) -> Counts:
        """What is free in each domain; below 0 on a node counts as 0."""
        here = np.maximum(free[self.positions], 0)
        return np.bincount(self.numbers, weights=here, minlength=len(self.all)).astype(np.int64)

    def holding(self, free: Counts, gpus: int) -> Iterator[Part]:
        """Domains with so many GPUs free, the fullest first, ties by name."""
        totals = self.totals(free)
        enough = (totals >= gpus).nonzero()[0]
        for number in enough[np.argsort(totals[enough], kind="stable")].tolist():
            yield self.all[number]


class Site:
    """The nodes of one flavor, by name; never changes.

    Args:
        names: sorted.
        sizes: GPUs of each.
        labels: of each; none at all where nobody asks for any.
        amounts: CPUs and bytes of memory of each, 0 = not stated; none at all where nobody asks for any.
    """

    def __init__(
        self,
        names: Sequence[str],
        sizes: Sequence[int],
        labels: Sequence[Labels] = (),
        amounts: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.names: Final = tuple(names)
        self.index: Final = {name: position for position, name in enumerate(self.names)}
        self.sizes: Final = Sizes(sizes)
        self._labels: Final = tuple(labels)
        self._amounts: Final = tuple(amounts)
        self._parts: Final[dict[tuple[Labels, str | None], Parts]] = {}

    @cached_property
    def _by_name(self) -> list[dict[str, str]]:
        return [dict(labels) for labels in self._labels] or [{} for _ in self.names]

    @cached_property
    def amounts(self) -> tuple[Counts, Counts]:
        """CPUs, and bytes of memory, of each node."""
        table = np.array(self._amounts or [(0, 0) for _ in self.names], dtype=np.int64).reshape(-1, 2)
        return table[:, 0], table[:, 1]

    @cached_property
    def shares(self) -> tuple[Counts, Counts]:
        """The same for one GPU of each node, rounded down."""
        cpus, memory = self.amounts
        gpus = np.maximum(self.sizes.counts, 1)
        return cpus // gpus, memory // gpus

    def is_over(self, cpus_per_gpu: int | None, memory_bytes_per_gpu: int | None) -> bool:
        """Whether so much for each GPU is more than the share of some node."""
        if cpus_per_gpu is None and memory_bytes_per_gpu is None:
            return False
        asked = (cpus_per_gpu, memory_bytes_per_gpu)
        return any(
            own is not None and bool((share < own).any())
            for share, own in zip(self.shares, asked, strict=True)
        )

    def parts(self, labels: Labels, level: str | None) -> Parts:
        """The nodes that have the labels, by domain of the level (None = all of them are one)."""
        key = (labels, level)
        if key not in self._parts:
            self._parts[key] = self._divide(labels, level)
        return self._parts[key]

    def _divide(self, labels: Labels, level: str | None) -> Parts:
        domains: dict[str, list[int]] = {}
        for position, here in enumerate(self._by_name):
            domain = "" if level is None else here.get(level)
            if domain is not None and all(here.get(key) == value for key, value in labels):
                domains.setdefault(domain, []).append(position)
        parts = [
            Part(name, np.array(found, dtype=np.intp), Sizes(self.sizes.counts[found]))
            for name, found in sorted(domains.items())
        ]
        numbers = {position: number for number, part in enumerate(parts) for position in part.positions}
        positions = sorted(numbers)
        return Parts(
            tuple(parts),
            np.array(positions, dtype=np.intp),
            np.array([numbers[position] for position in positions], dtype=np.intp),
        )

    def is_one_domain(self, positions: Sequence[int], labels: Labels, level: str | None) -> bool:
        """Whether these nodes have the labels and lie in one domain of the level."""
        return any(
            all(position in part.positions for position in positions)
            for part in self.parts(labels, level).all
        )


def terms_of(request: Request, known: Sequence[str]) -> Terms | None:
    """What a request asks of its nodes beyond so many GPUs, None for nothing; `known` levels as in `levels_of`."""
    required, preferred = request.topology_required, request.topology_preferred
    cpus, memory = request.cpus_per_gpu, request.memory_bytes_per_gpu
    if (
        required is preferred is None
        and cpus is memory is None
        and request.placement is Placement.PACK
        and not request.node_labels
    ):
        return None
    is_spread = request.placement is Placement.SPREAD
    return Terms(
        request.node_labels,
        levels_of(known, required, preferred),
        is_spread,
        cpus,
        memory,
    )
