"""Which rank has which CPUs of the node: those that were asked for are its own, all others share what is left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from scheduler.agent.attempts import Attempt, RankState
from scheduler.agent.cpus import Cpus, choose, spell
from scheduler.dispatch.wire import Lease


@dataclass(frozen=True, slots=True)
class CpuShares:
    """The node's CPUs. Called with the agent's lock held.

    Attributes:
        cpus: those that the agent may use itself, which it states for its node.
        gpus: GPUs of the node.
        attempts: the agent's own, living mapping.
    """

    cpus: Cpus
    gpus: int
    attempts: Mapping[str, Attempt]

    def take(self, lease: Lease) -> dict[int, Cpus]:
        """CPUs of their own for the ranks of a lease that asks for them: of no other living rank, lowest first.

        A rank for which too few are left is not named: it shares, as one that asked for none.
        """
        if lease.cpus_per_rank is None:
            return {}
        free = self.cpus.difference(*self._own())
        found: dict[int, Cpus] = {}
        for rank in lease.ranks:
            chosen = choose(free, lease.cpus_per_rank)
            if chosen is not None:
                found[rank.rank] = chosen
                free -= chosen
        return found

    def left(self, taken: Mapping[int, Cpus] | None = None) -> Cpus:
        """What ranks without CPUs of their own share; all CPUs of the node where none is left.

        Args:
            taken: what a lease that is not on record yet takes.
        """
        return self.cpus.difference(*self._own(), *(taken or {}).values()) or self.cpus

    def aside(self, lease: Lease, gpus: int) -> int:
        """CPUs set aside for a rank with so many GPUs: asked for, or its share of the node; at least 1."""
        share = len(self.cpus) // max(1, self.gpus) * gpus
        return max(1, share if lease.cpus_per_rank is None else lease.cpus_per_rank)

    def tell(self, alive: Iterable[tuple[Attempt, int, RankState]]) -> None:
        """Tell ranks without CPUs of their own what is left for them, where that changed.

        Args:
            alive: ranks that lived a moment ago, with their attempts and numbers.
        """
        left = self.left()
        for attempt, number, rank in alive:
            is_to_know = rank.exit is None and number not in attempt.cpus and rank.told_cpus != left
            if is_to_know and rank.send(f"cpus {spell(left)}"):
                rank.told_cpus = left

    def _own(self) -> Iterator[Cpus]:
        for attempt in self.attempts.values():
            for number, own in attempt.cpus.items():
                if attempt.ranks[number].exit is None:
                    yield own
