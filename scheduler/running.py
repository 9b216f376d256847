"""What runs and which GPUs are free, kept from one cycle to the next; each cycle works on a copy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from quota.model import Policy
from quota.policy import policy_queue
from scheduler.changed import changes
from scheduler.model import AttemptId, JobState, LiveAttempt, Node, NodeState, Snapshot
from scheduler.place import FreeView
from scheduler.profile import OVERDUE_MS, Run

MS: Final = 1_000
"""Milliseconds of a second."""
LEAST_GRACE_MS: Final = 1_000
"""Milliseconds of the shortest notice: what is given back cannot be had at the same instant."""


class Running:
    """Live attempts as runs, and the free GPUs beside them. `follow` takes it to the next snapshot."""

    def __init__(self) -> None:
        self._nodes: tuple[Node, ...] | None = None
        self._policy: Policy | None = None
        self._live: tuple[LiveAttempt, ...] = ()
        self._flavors: Mapping[str, str] = {}
        self._gone: frozenset[str] = frozenset()
        self._free = FreeView(())
        self._runs: dict[AttemptId, Run] = {}
        self._over: dict[AttemptId, str] = {}

    def follow(self, snapshot: Snapshot, policy: Policy) -> None:
        """Take over what started, ended or changed; other nodes or another policy begin anew."""
        if snapshot.nodes != self._nodes or policy != self._policy:
            self._nodes, self._policy, self._live = snapshot.nodes, policy, ()
            self._flavors = {node.name: node.flavor for node in snapshot.nodes}
            self._gone = frozenset(node.name for node in snapshot.nodes if node.state is NodeState.DRAINED)
            self._free = FreeView(node for node in snapshot.nodes if node.state is NodeState.UP)
            self._runs = {}
            self._over = {}
        came, gone = changes(self._live, snapshot.live)
        for attempt in gone:
            del self._runs[attempt.id]
            self._over.pop(attempt.id, None)
            self._free.give_back(attempt.slots)
        for attempt in came:
            run = self._runs[attempt.id] = self._run(attempt, policy)
            if self._free.of_flavor(run.flavor).site.is_over(run.cpus_per_gpu, run.memory_bytes_per_gpu):
                self._over[run.id] = run.flavor
            self._free.occupy(attempt.slots)
        self._live = snapshot.live

    @property
    def tight(self) -> frozenset[str]:
        """Flavors on which something holds more than its nodes' shares of CPUs or memory."""
        return frozenset(self._over.values())

    def free(self) -> FreeView:
        """What is free now: nodes that are UP without the GPUs of live attempts; a copy."""
        return self._free.copy()

    def runs(self, at_ms: int) -> list[Run]:
        """What holds GPUs; what was to end by now ends soon."""
        return [
            run if run.end_ms > at_ms else replace(run, end_ms=at_ms + OVERDUE_MS)
            for run in self._runs.values()
        ]

    def _run(self, attempt: LiveAttempt, policy: Policy) -> Run:
        """A live attempt as the profile sees it; what it holds on drained nodes is not in the capacity either."""
        flavor = self._flavors.get(attempt.slots[0].node, attempt.request.flavors[0])
        index = self._free.of_flavor(flavor).index
        counted = [slot for slot in attempt.slots if slot.node not in self._gone]
        is_ending = attempt.is_stopping or attempt.state is JobState.COMPLETING
        return Run(
            id=attempt.id,
            job_id=attempt.job_id,
            queue=policy_queue(policy, attempt.queue),
            flavor=flavor,
            gpus=sum(len(slot.gpu_uuids) for slot in counted),
            picks=tuple((index[s.node], len(s.gpu_uuids)) for s in counted if s.node in index),
            order=(attempt.admitted_ms, attempt.admitted_seq),
            end_ms=_end_ms(attempt, is_ending=is_ending),
            priority=attempt.priority,
            grace_ms=max(LEAST_GRACE_MS, attempt.grace_s * MS),
            asked_gpus=attempt.request.gpus,
            saved_ms=max(attempt.checkpoint_ms or 0, attempt.committed_ms or attempt.admitted_ms),
            protected_s=policy.checkpoint_max_protected_s,
            is_reclaimable=not (is_ending or attempt.is_protected or attempt.reclaimed_by is not None),
            cpus_per_gpu=attempt.request.cpus_per_gpu,
            memory_bytes_per_gpu=attempt.request.memory_bytes_per_gpu,
        )


def _end_ms(attempt: LiveAttempt, *, is_ending: bool) -> int:
    """When the attempt's GPUs are free at the latest; in the past when it is ending."""
    walltime_ms = attempt.request.walltime_s * MS
    end_ms = attempt.admitted_ms if attempt.committed_ms is None else attempt.committed_ms
    end_ms = 0 if is_ending else end_ms + walltime_ms
    return end_ms if attempt.stop_ms is None else min(end_ms, attempt.stop_ms)
