"""CPUs and memory beside the GPUs of one flavor: what is left of them over time.

While every job keeps within its nodes' shares (a node's CPUs and memory ÷ its GPUs), free GPUs have theirs, and
nobody asks here. Once one asks for more, a node has room for as many GPUs as it has CPUs and memory for.
Source: Slurm's DefCpuPerGPU and DefMemPerGPU (slurm.conf) for the share of a job that names none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, Protocol

import numpy as np

from scheduler.model import AttemptId, JobId
from scheduler.profile import Hold, Run
from scheduler.topology import Counts, Site, Terms

Amounts = tuple[Counts, Counts]
"""CPUs and bytes of memory of each node."""


class Asks(Protocol):
    """Whoever asks for CPUs and memory: a job's terms, a run or a planned start; None = the node's share."""

    @property
    def cpus_per_gpu(self) -> int | None:
        """CPUs for each GPU."""
        ...

    @property
    def memory_bytes_per_gpu(self) -> int | None:
        """Memory for each GPU."""
        ...


class Beside:
    """What is left of CPUs and memory beside some runs and planned starts; working state of one cycle.

    Args:
        site: the nodes.
        runs: what holds GPUs; of one that ends at another time make another of these.
        holds: planned starts as they stand, now and later.
    """

    def __init__(self, site: Site, runs: Iterable[Run], holds: Mapping[JobId, Hold]) -> None:
        self._site: Final = site
        self._holds: Final = holds
        self._ids: Final[list[AttemptId]] = []
        self._rows: Final[list[tuple[int, int, int, int]]] = []
        self._table: Counts | None = None
        for run in runs:
            self.start(run)

    def start(self, run: Run) -> None:
        """It holds its CPUs and memory from now on."""
        self._table = None
        for node, gpus in run.picks:
            self._ids.append(run.id)
            self._rows.append((run.end_ms, node, *_taken(self._site, run, node, gpus)))

    def _left(self, begin_ms: int, past: Collection[JobId], gone: Collection[AttemptId]) -> Amounts:
        """What is left at an instant beside what runs then, but `gone`, and planned starts, but `past`."""
        if self._table is None:
            self._table = np.array(self._rows, dtype=np.int64).reshape(-1, 4)
        runs = self._table[:, 0] > begin_ms
        if gone:
            runs &= np.array([run_id not in gone for run_id in self._ids], dtype=bool)
        nodes, count = self._table[runs, 1], len(self._site.names)
        cpus, memory = (
            amount - np.bincount(nodes, weights=self._table[runs, kind], minlength=count).astype(np.int64)
            for kind, amount in enumerate(self._site.amounts, 2)
        )
        for hold in self._holds.values():
            if hold.start_ms <= begin_ms < hold.end_ms and hold.job_id not in past:
                for node, gpus in hold.picks:
                    of_cpus, of_memory = _taken(self._site, hold, node, gpus)
                    cpus[node] -= of_cpus
                    memory[node] -= of_memory
        return cpus, memory

    def left_now(self, at_ms: int, gone: Collection[AttemptId] = ()) -> Amounts:
        """What is left now beside the runs alone, if some of them were gone."""
        return self._left(at_ms, self._holds, gone)

    def throughout(
        self, start_ms: int, end_ms: int, past: Collection[JobId], gone: Collection[AttemptId]
    ) -> Amounts:
        """The least that is left from start to end, as `Profile.throughout` of GPUs. O((holds + 1) x runs)."""
        begins = {hold.start_ms for hold in self._holds.values() if start_ms < hold.start_ms < end_ms}
        cpus, memory = self._left(start_ms, past, gone)
        for at_ms in begins:
            more = self._left(at_ms, past, gone)
            cpus, memory = np.minimum(cpus, more[0]), np.minimum(memory, more[1])
        return cpus, memory

    def is_sound(self) -> bool:
        """Whether every planned start has its CPUs and memory beside what runs and the others."""
        return all(self.stands(hold) for hold in self._holds.values())

    def stands(self, hold: Hold) -> bool:
        """Whether a planned start has its CPUs and memory beside what runs and the others."""
        return all(left[node] >= 0 for left in self._left(hold.start_ms, (), ()) for node, _ in hold.picks)


def _taken(site: Site, asks: Asks, node: int, gpus: int) -> tuple[int, int]:
    """CPUs and bytes of memory that so many GPUs of a node take along."""
    cpus, memory = asks.cpus_per_gpu, asks.memory_bytes_per_gpu
    cpus = int(site.shares[0][node]) if cpus is None else cpus
    memory = int(site.shares[1][node]) if memory is None else memory
    return gpus * cpus, gpus * memory


def folded(room: Counts, left: Sequence[Counts], site: Site, terms: Terms | None) -> Counts:
    """GPUs that a job may take of each node: as many as there are, and as have their CPUs and memory."""
    asked = (None, None) if terms is None else (terms.cpus_per_gpu, terms.memory_bytes_per_gpu)
    for amount, share, own in zip(left, site.shares, asked, strict=True):
        need = share if own is None else np.full_like(share, own)
        enough = np.floor_divide(amount, np.maximum(need, 1))
        room = np.where(need > 0, np.minimum(room, enough), room)
    return room
