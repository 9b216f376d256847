"""The waiting jobs in their order, kept from one cycle to the next: what did not change costs next to nothing.

Jobs that a cycle cannot tell apart but by their place in the queue are of one *kind*: what refuses one refuses
those behind it. A plan made with an index that has seen other snapshots is the plan made without.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from quota.model import Policy
from quota.policy import policy_queue
from scheduler.bounds import Bounds
from scheduler.changed import changes
from scheduler.model import JobId, Node, PendingJob, Request, Snapshot
from scheduler.order import Aging, Key, key_of
from scheduler.running import Running

Group = tuple[str, Request, UUID]
"""Queue, request and project: all that grants, quota and room look at."""
FEW: Final = 8
"""Jobs that are put into their places, or taken out, one by one; more are sorted in, or out."""
PLAIN: Final = (0, 0)
"""Begin of the place of a job that is neither expedited nor aged."""


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What requests ask of the nodes: what refuses room to one refuses it to all alike.

    An index has one object for each, so that they are told apart by identity.

    Args:
        request: one of them.
    """

    request: Request


@dataclass(frozen=True, slots=True)
class Alike:
    """The jobs of a kind in the order of the queue, as they are now.

    Args:
        group: number of their queue, request and project.
        shape: what they ask for, as far as room goes.
        is_plain: whether none of them is expedited or aged.
    """

    group: int
    shape: Asked
    keys: list[Key]
    jobs: list[PendingJob]
    is_plain: bool = True


class Kind:
    """Waiting jobs of one queue that are alike. `now` is replaced, never changed, as a plan may still read it.

    Args:
        group: number of their queue, request and project.
        shape: what they ask for, as far as room goes.
        can_age: whether its jobs become aged one day.
    """

    __slots__ = ("can_age", "now")

    def __init__(self, group: int, shape: Asked, *, can_age: bool) -> None:
        self.can_age: Final = can_age
        self.now = Alike(group, shape, [], [])

    def add(self, found: list[tuple[Key, PendingJob]]) -> None:
        """Put jobs into their places."""
        if len(found) > FEW:
            both = sorted([*zip(self.now.keys, self.now.jobs, strict=True), *found], key=lambda pair: pair[0])
            self._set([key for key, _ in both], [job for _, job in both])
            return
        keys, jobs = self.now.keys.copy(), self.now.jobs.copy()
        for key, job in found:
            place = bisect_left(keys, key)
            keys.insert(place, key)
            jobs.insert(place, job)
        self._set(keys, jobs)

    def remove(self, gone: list[Key]) -> None:
        """Take the jobs with these keys out."""
        if len(gone) > FEW:
            lost = set(gone)
            kept = [pair for pair in zip(self.now.keys, self.now.jobs, strict=True) if pair[0] not in lost]
            self._set([key for key, _ in kept], [job for _, job in kept])
            return
        keys, jobs = self.now.keys.copy(), self.now.jobs.copy()
        for key in gone:
            place = bisect_left(keys, key)
            del keys[place], jobs[place]
        self._set(keys, jobs)

    def _set(self, keys: list[Key], jobs: list[PendingJob]) -> None:
        is_plain = not keys or keys[0][:2] == PLAIN  # the others stand first
        self.now = Alike(self.now.group, self.now.shape, keys, jobs, is_plain)


class Index:
    """Waiting jobs by queue and kind. `follow` takes it to the next snapshot; nothing else changes it."""

    def __init__(self) -> None:
        self._policy: Policy | None = None
        self._nominals: Mapping[str, Mapping[str, int]] = {}
        self._at_ms = 0
        self.running: Final = Running()
        self._asked: Final[dict[Request, Asked]] = {}
        self._bounds: tuple[tuple[Node, ...], Mapping[str, int], Bounds] | None = None
        self._forget()

    def bounds(self, snapshot: Snapshot, policy: Policy) -> Bounds:
        """What could ever fit, made anew when nodes, capacity or policy changed."""
        known = self._bounds
        if (
            known is None
            or known[0] != snapshot.nodes
            or known[1] != snapshot.capacity
            or not (known[2].policy is policy or known[2].policy == policy)
        ):
            known = self._bounds = (
                snapshot.nodes,
                dict(snapshot.capacity),
                Bounds(snapshot, policy),
            )
        return known[2]

    def _forget(self) -> None:
        """Begin anew."""
        self.jobs: dict[JobId, PendingJob] = {}
        self.queues: dict[str, dict[object, Kind]] = {}
        self._shapes: dict[str, dict[Asked, dict[object, Kind]]] = {}
        self.alike: dict[str, dict[Asked, list[Alike]]] = {}
        """The same kinds by queue and by what they ask for; its lists are replaced, never changed."""
        self._changed: set[tuple[str, Asked]] = set()
        self._pending: tuple[PendingJob, ...] = ()
        self._places: dict[JobId, tuple[str, object, Key]] = {}
        self._groups: dict[Group, int] = {}
        self._young: list[tuple[int, JobId]] = []

    def follow(self, snapshot: Snapshot, policy: Policy, aging: Aging) -> None:
        """Take over what came, went, changed or aged; a look at every job's identity, work for what changed.

        Args:
            snapshot: the next one. An earlier instant, another policy or other nominals begin anew.
            policy: the policy in force.
            aging: which jobs are aged at the snapshot's instant.
        """
        is_same = policy is self._policy or policy == self._policy
        is_same = is_same and (aging.nominals is self._nominals or aging.nominals == self._nominals)
        if not is_same or snapshot.at_ms < self._at_ms:
            self._forget()
        self._policy, self._nominals, self._at_ms = policy, aging.nominals, snapshot.at_ms
        came, gone = changes(self._pending, snapshot.pending)
        self._pending = snapshot.pending
        self._remove(gone)
        self._add(came, aging)
        aged = self._aged(aging)
        self._remove(aged)
        self._add(aged, aging)
        for queue, shape in self._changed:
            kinds = self._shapes[queue][shape].values()
            alike = self.alike.setdefault(queue, {})
            alike[shape] = [kind.now for kind in kinds]
            if not kinds:
                del alike[shape], self._shapes[queue][shape]
            if not alike:
                del self.alike[queue]
        self._changed.clear()

    def place(self, job_id: JobId) -> tuple[Kind, int]:
        """The job's kind, and where in it the job stands."""
        queue, name, key = self._places[job_id]
        kind = self.queues[queue][name]
        return kind, bisect_left(kind.now.keys, key)

    def group(self, job_id: JobId) -> int:
        """Number of the job's queue, request and project."""
        queue, name, _ = self._places[job_id]
        return self.queues[queue][name].now.group

    def _add(self, jobs: Iterable[PendingJob], aging: Aging) -> None:
        found: dict[int, tuple[Kind, list[tuple[Key, PendingJob]]]] = {}
        policy = self._policy
        for job in jobs:
            queue = job.queue if policy is None else policy_queue(policy, job.queue)
            group: Group = (job.queue, job.request, job.project_id)
            name: object = group if _is_plain(job) else (group, job.id)
            kinds = self.queues.setdefault(queue, {})
            kind = kinds.get(name)
            if kind is None:
                number = self._groups.setdefault(group, len(self._groups))
                shape = self._shape(job.request)
                kind = kinds[name] = Kind(number, shape, can_age=aging.can_age(job, queue))
                self._shapes.setdefault(queue, {}).setdefault(shape, {})[name] = kind
            self._changed.add((queue, kind.now.shape))
            is_aged = kind.can_age and aging.is_aged(job, queue)
            key = key_of(job, is_aged=is_aged)
            self.jobs[job.id] = job
            self._places[job.id] = (queue, name, key)
            found.setdefault(id(kind), (kind, []))[1].append((key, job))
            if kind.can_age and not is_aged:
                heapq.heappush(self._young, (job.submitted_ms, job.id))
        for kind, new in found.values():
            kind.add(new)

    def _shape(self, request: Request) -> Asked:
        """What a request asks of the nodes: all but for how long."""
        return self._asked.setdefault(replace(request, walltime_s=1), Asked(request))

    def _remove(self, jobs: Iterable[PendingJob]) -> None:
        found: dict[tuple[str, object], list[Key]] = {}
        for job in jobs:
            queue, name, key = self._places.pop(job.id)
            del self.jobs[job.id]
            found.setdefault((queue, name), []).append(key)
        for (queue, name), keys in found.items():
            kind = self.queues[queue][name]
            kind.remove(keys)
            self._changed.add((queue, kind.now.shape))
            if not kind.now.jobs:
                del self.queues[queue][name]
                del self._shapes[queue][kind.now.shape][name]

    def _aged(self, aging: Aging) -> list[PendingJob]:
        """Jobs that have become aged since the last snapshot."""
        found: dict[JobId, PendingJob] = {}
        while self._young and self._young[0][0] <= aging.by_ms:
            _, job_id = heapq.heappop(self._young)
            job = self.jobs.get(job_id)  # else it is gone, and so is its older self where it changed
            if job is not None and aging.is_aged(job, self._places[job_id][0]):
                found[job_id] = job
        return list(found.values())


def _is_plain(job: PendingJob) -> bool:
    """Whether the job has no state of its own that could keep it back while others like it start."""
    return (
        job.array is None
        and job.waits_for is None
        and not (job.is_suspended or job.is_held or job.is_paused)
        and job.begin_ms == 0
        and job.back_off_until_ms == 0
    )
