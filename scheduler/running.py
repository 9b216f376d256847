"""What runs and which GPUs are free, kept from one cycle to the next; each cycle works on a copy."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np

from quota.model import Policy
from quota.policy import policy_queue
from quota.tree import pool_of
from scheduler.changed import changes
from scheduler.model import AttemptId, JobState, LiveAttempt, Node, NodeState, Snapshot
from scheduler.place import Counts, FreeView
from scheduler.profile import OVERDUE_MS, Run
from scheduler.shares import Charges, KeptCharge, Placed, charged_with, insert

MS: Final = 1_000
"""Milliseconds of a second."""
LEAST_GRACE_MS: Final = 1_000
"""Milliseconds of the shortest notice: what is given back cannot be had at the same instant."""

EXPIRE_SLACK_S: Final = 60
"""Seconds past its walltime before the scheduler itself stops an attempt.

The node stops it first: 30 s from SIGTERM to SIGKILL, and as much again for the exit to be reported.
"""

MOST_GONE: Final = 4
"""Times as many instants as there are things due that are kept; above it those of what is gone are dropped."""

FEW: Final = 8
"""Runs that are looked for one by one; more at once."""


class Ends:
    """When the runs of one flavor end: a row (end, node, GPUs) for each node of each run, in no order."""

    def __init__(self) -> None:
        self._rows: Counts = np.zeros((0, 3), dtype=np.int64)
        self._owners: Counts = np.zeros(0, dtype=np.int64)
        self._numbers: dict[AttemptId, int] = {}
        self._last = 0

    def change(self, gone: Iterable[AttemptId], came: Sequence[Run]) -> None:
        """Runs that ended and runs that started. O(rows), whatever their number."""
        lost = [self._numbers.pop(run_id) for run_id in gone]
        if lost:
            is_kept = ~np.isin(self._owners, lost) if len(lost) > FEW else self._owners != lost[0]
            for number in lost[1 : FEW if len(lost) <= FEW else 0]:
                is_kept &= self._owners != number
            self._rows, self._owners = self._rows[is_kept], self._owners[is_kept]
        rows, owners = [], []
        for run in came:
            self._last += 1
            self._numbers[run.id] = self._last
            rows += [(run.end_ms, node, gpus) for node, gpus in run.picks]
            owners += [self._last] * len(run.picks)
        if rows:
            self._rows = np.concatenate((self._rows, np.array(rows, dtype=np.int64)))
            self._owners = np.concatenate((self._owners, np.array(owners, dtype=np.int64)))

    def at(self, at_ms: int) -> Counts:
        """The rows; what was to end by now ends soon."""
        return _with_soon(self._rows, at_ms)

    def as_of(self, at_ms: int) -> Callable[[], Counts]:
        """The same to be made later, from the rows as they are now: these are replaced, never changed."""
        return partial(_with_soon, self._rows, at_ms)


def _with_soon(rows: Counts, at_ms: int) -> Counts:
    """Rows as a copy; what was to end by now ends soon."""
    rows = rows.copy()
    late = rows[:, 0] <= at_ms
    rows[late, 0] = at_ms + OVERDUE_MS
    return rows


class Due:
    """What is due by an instant, at the price of what became due or changed since it was last asked."""

    def __init__(self) -> None:
        self._at_ms: Final[dict[AttemptId, int]] = {}
        self._heap: list[tuple[int, AttemptId]] = []
        self._due: Final[set[AttemptId]] = set()
        self._by_ms = 0

    def add(self, name: AttemptId, at_ms: int) -> None:
        """Something new, and when it is due."""
        self._at_ms[name] = at_ms
        if len(self._heap) > MOST_GONE * len(self._at_ms):
            self._begin_anew()
        else:
            heapq.heappush(self._heap, (at_ms, name))

    @property
    def kept(self) -> int:
        """Instants that are kept, of what is gone too."""
        return len(self._heap)

    def remove(self, name: AttemptId) -> None:
        """It is gone, if it was there."""
        self._at_ms.pop(name, None)
        self._due.discard(name)

    def by(self, at_ms: int) -> Collection[AttemptId]:
        """What is due by an instant; an earlier one than before costs a look at all."""
        if at_ms < self._by_ms:
            self._begin_anew()
        self._by_ms = at_ms
        while self._heap and self._heap[0][0] <= at_ms:
            due_ms, name = heapq.heappop(self._heap)
            if self._at_ms.get(name) == due_ms:
                self._due.add(name)
        return self._due

    def _begin_anew(self) -> None:
        self._due.clear()
        self._heap = [(at_ms, name) for name, at_ms in self._at_ms.items()]
        heapq.heapify(self._heap)


NO_ENDS: Final = Ends()
"""The ends of a flavor that nothing ever ran on."""


class Running:
    """Live attempts as runs, and the free GPUs beside them. `follow` takes it to the next snapshot."""

    def __init__(self) -> None:
        self._nodes: tuple[Node, ...] | None = None
        self._policy: Policy | None = None
        self._live: tuple[LiveAttempt, ...] = ()
        self._flavors: Mapping[str, str] = {}
        self._gone: frozenset[str] = frozenset()
        self._free = FreeView(())
        self._forget()

    def _forget(self) -> None:
        self._runs: dict[str, dict[AttemptId, Run]] = {}
        self._queues: dict[str, dict[str, list[Placed]]] = {}
        self._ends: dict[str, Ends] = {}
        self._flavor_of: dict[AttemptId, str] = {}
        self._over: dict[AttemptId, str] = {}
        self._charges: dict[str, Charges] = {}
        self._due = Due()
        self._overdue = Due()

    def follow(self, snapshot: Snapshot, policy: Policy) -> None:
        """Take over what started, ended or changed; other nodes or another policy begin anew."""
        is_same = policy is self._policy or policy == self._policy
        if snapshot.nodes != self._nodes or not is_same:
            self._nodes, self._policy, self._live = snapshot.nodes, policy, ()
            self._flavors = {node.name: node.flavor for node in snapshot.nodes}
            self._gone = frozenset(node.name for node in snapshot.nodes if not node.is_in_service)
            self._free = FreeView(node for node in snapshot.nodes if node.state is NodeState.UP)
            self._forget()
        came, gone = changes(self._live, snapshot.live)
        self._live = snapshot.live
        ended: dict[str, list[AttemptId]] = {}
        own: set[tuple[str, str]] = set()
        for attempt in gone:
            self._free.give_back(attempt.slots)
            ended.setdefault(self._remove(attempt.id, own), []).append(attempt.id)
        started: dict[str, list[Run]] = {}
        for attempt in came:
            self._free.occupy(attempt.slots)
            run = self._run(attempt, policy)
            self._add(run, own)
            expires_ms = _expires_ms(attempt)
            if expires_ms is not None:
                self._overdue.add(attempt.id, expires_ms)
            started.setdefault(run.flavor, []).append(run)
        for flavor in {*ended, *started}:
            self._ends.setdefault(flavor, Ends()).change(ended.get(flavor, ()), started.get(flavor, ()))

    def _add(self, run: Run, own: set[tuple[str, str]]) -> None:
        if self._free.of_flavor(run.flavor).site.is_over(run.cpus_per_gpu, run.memory_bytes_per_gpu):
            self._over[run.id] = run.flavor
        self._flavor_of[run.id] = run.flavor
        self._runs.setdefault(run.flavor, {})[run.id] = run
        self._due.add(run.id, run.end_ms)
        placed, charged = self._placed(run, own)
        is_last = insert(placed, (run.order, run.id, run))
        if is_last and charged is not None:
            _, nominal, found = charged
            found = charged_with(found, run, nominal)
            self.charged(pool_of(run.flavor))[run.queue] = (placed, nominal, found)

    def _remove(self, run_id: AttemptId, own: set[tuple[str, str]]) -> str:
        """A run is gone; its flavor."""
        flavor = self._flavor_of.pop(run_id)
        self._over.pop(run_id, None)
        self._due.remove(run_id)
        self._overdue.remove(run_id)
        run = self._runs[flavor].pop(run_id)
        placed, charged = self._placed(run, own)
        del placed[bisect_left(placed, (run.order, run.id), key=lambda placed: placed[:2])]
        if not placed:
            del self._queues[pool_of(flavor)][run.queue]
            own.discard((pool_of(flavor), run.queue))
        elif charged is not None and not charged[2][1]:
            _, nominal, (entitled, borrowed) = charged
            self.charged(pool_of(flavor))[run.queue] = (placed, nominal, (entitled - run.gpus, borrowed))
        return flavor

    def _placed(self, run: Run, own: set[tuple[str, str]]) -> tuple[list[Placed], KeptCharge | None]:
        """The runs of the run's queue, to be changed, and what is known to be charged for them until then.

        A list that a cycle may have is replaced by a copy, once in each `follow`.
        """
        pool = pool_of(run.flavor)
        queues = self._queues.setdefault(pool, {})
        placed = queues.get(run.queue, [])
        charges = self.charged(pool)
        known = charges.pop(run.queue, None)
        charged = known if known is not None and known[0] is placed else None
        if (pool, run.queue) not in own:
            own.add((pool, run.queue))
            placed = queues[run.queue] = placed.copy()
        return placed, charged

    def outlived(self, at_ms: int) -> frozenset[AttemptId]:
        """Attempts that outlived their walltime and that nobody is stopping."""
        return frozenset(self._overdue.by(at_ms))

    @property
    def tight(self) -> frozenset[str]:
        """Flavors on which something holds more than its nodes' shares of CPUs or memory."""
        return frozenset(self._over.values())

    def free(self) -> FreeView:
        """What is free now: nodes that are UP without the GPUs of live attempts; a copy."""
        return self._free.copy()

    def of_flavor(self, flavor: str, at_ms: int) -> dict[AttemptId, Run]:
        """What holds GPUs of a flavor, a copy; what was to end by now ends soon."""
        known = self._runs.get(flavor, {})
        late = (known[run_id] for run_id in self._due.by(at_ms) if run_id in known)
        return known | {run.id: _soon(run, at_ms) for run in late}

    def by_queue(self, pool: str, at_ms: int) -> dict[str, list[Placed]]:
        """What holds GPUs of a pool by queue, first admitted first; what was to end by now ends soon.

        The lists are not changed by whoever has them; one that is the same object says the same.
        """
        queues = self._queues.get(pool, {}).copy()
        late = (self._runs[self._flavor_of[run_id]][run_id] for run_id in self._due.by(at_ms))
        for queue in {run.queue for run in late if pool_of(run.flavor) == pool}:
            queues[queue] = [
                entry if entry[2].end_ms > at_ms else (*entry[:2], _soon(entry[2], at_ms))
                for entry in queues[queue]
            ]
        return queues

    def charged(self, pool: str) -> Charges:
        """What `Shares` found charged in a pool, kept for the next cycle."""
        return self._charges.setdefault(pool, {})

    def ends(self, flavor: str, at_ms: int) -> Callable[[], Counts]:
        """When what holds GPUs of a flavor now ends: rows of (end, node, GPUs), made when they are asked for."""
        return self._ends.get(flavor, NO_ENDS).as_of(at_ms)

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


def _expires_ms(attempt: LiveAttempt) -> int | None:
    """When the scheduler stops the attempt, should its node not have done it; None while there is nothing to stop."""
    is_ending = attempt.is_stopping or attempt.state is JobState.COMPLETING
    if attempt.committed_ms is None or is_ending:
        return None
    return attempt.committed_ms + (attempt.request.walltime_s + EXPIRE_SLACK_S) * MS


def _soon(run: Run, at_ms: int) -> Run:
    """A run that was to end by now."""
    return replace(run, end_ms=at_ms + OVERDUE_MS)


def _end_ms(attempt: LiveAttempt, *, is_ending: bool) -> int:
    """When the attempt's GPUs are free at the latest; in the past when it is ending."""
    walltime_ms = attempt.request.walltime_s * MS
    end_ms = attempt.admitted_ms if attempt.committed_ms is None else attempt.committed_ms
    end_ms = 0 if is_ending else end_ms + walltime_ms
    return end_ms if attempt.stop_ms is None else min(end_ms, attempt.stop_ms)
