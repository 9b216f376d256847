"""What a job meets at its turn: free GPUs over time, the quota tree over time, grants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from quota.model import GrantId
from quota.policy import policy_queue
from quota.tree import pool_of
from scheduler.beside import Amounts, Beside, folded
from scheduler.bounds import Bounds
from scheduler.model import (
    AttemptId,
    GrantView,
    JobId,
    PendingJob,
    Request,
    ShareClass,
    Slot,
    Snapshot,
)
from scheduler.place import Choice, Counts, Shape
from scheduler.profile import Hold, Profile, Run
from scheduler.reclaim import Candidates, by_loss
from scheduler.running import MS, Running
from scheduler.shares import Ask, Shares


@dataclass(frozen=True, slots=True)
class Fit:
    """The job can start: on these slots of one flavor, claiming `claim_s` device-seconds of the grant."""

    slots: tuple[Slot, ...]
    flavor: str
    grant_id: GrantId
    claim_s: int
    share_class: ShareClass = ShareClass.ENTITLED


class World:
    """Working state of one cycle; the snapshot it was made of stays as it was. `start` moves it on.

    Args:
        snapshot: what the cycle plans from.
        bounds: what could ever fit.
        running: what ran at the last cycle; the world is the same without.
    """

    def __init__(self, snapshot: Snapshot, bounds: Bounds, running: Running | None = None) -> None:
        running = Running() if running is None else running
        running.follow(snapshot, bounds.policy)
        self.at_ms: Final = snapshot.at_ms
        self.bounds: Final = bounds
        self.free: Final = running.free()
        self.version = 0
        self._stamps = 0
        self.releases = 0
        """How many planned starts were released so far."""
        self.spots: Final[dict[object, object]] = {}
        """Answers of `fit` while the version is the same."""
        at_ms = snapshot.at_ms
        self.shares: Final = {
            pool: Shares(tree, at_ms, running.by_queue(pool, at_ms), running.charged(pool))
            for pool, tree in bounds.trees.items()
        }
        self.profiles: Final = {
            flavor: Profile(
                flavor, rooms, at_ms, runs=running.of_flavor(flavor, at_ms), windows=snapshot.windows
            )
            for flavor, rooms in self.free.rooms.items()
        }
        for flavor, profile in self.profiles.items():
            profile.know_ends(running.ends(flavor, at_ms))
        self._tight: Final = set(running.tight)
        self._beside: Final[dict[str, Beside]] = {}
        self.held: Final[dict[JobId, Hold]] = {}
        self._takeable: Final[dict[tuple[str, str], Candidates]] = {}
        self._starts = 0
        self._grants: Final[dict[tuple[UUID, str], list[GrantView]]] = {}
        self._claimed_s: Final[dict[GrantId, int]] = {}
        self._claims: Final[Counter[UUID | None]] = Counter()
        self._aside: Final[dict[JobId, tuple[GrantId, int]]] = {}
        self._live: Final = snapshot.live
        self._of_array: Counter[JobId] | None = None
        # First to end is first to be used, so that as little as possible expires.
        for grant in sorted(snapshot.grants, key=lambda grant: (grant.ends_ms, grant.id)):
            self._grants.setdefault((grant.project_id, grant.flavor), []).append(grant)

    def shares_of(self, flavor: str) -> Shares:
        """The quota over time of the flavor's pool."""
        return self.shares[pool_of(flavor)]

    def grants(self, project_id: UUID, flavor: str) -> list[GrantView]:
        """The project's grants of a flavor, first to end first, as the snapshot has them."""
        return self._grants.get((project_id, flavor), [])

    def active_grants(self, project_id: UUID, flavor: str, start_ms: int, end_ms: int) -> list[GrantView]:
        """The project's grants of a flavor that last from a start to its end, first to end first."""
        known = self.grants(project_id, flavor)
        return [grant for grant in known if grant.starts_ms <= start_ms and end_ms <= grant.ends_ms]

    def claimed_s(self, grant_id: GrantId, job_id: JobId | None = None) -> int:
        """Device-seconds of the grant that starts of this cycle, and those that wait for GPUs taken back, claim.

        Args:
            grant_id: the grant.
            job_id: whose own claim does not count.
        """
        aside_of, aside_s = self._aside.get(job_id, (None, 0)) if job_id is not None else (None, 0)
        return self._claimed_s.get(grant_id, 0) - (aside_s if aside_of == grant_id else 0)

    def claims(self, project_id: UUID) -> int:
        """Times that what is claimed of the project's grants has changed in this cycle."""
        return self._claims[project_id]

    def of_array(self, array_id: JobId, job_id: JobId | None = None) -> int:
        """Jobs of the array that hold GPUs, or that GPUs are being taken back for.

        Args:
            array_id: the array.
            job_id: whose own place does not count.
        """
        own = None if job_id is None else self.held.get(job_id)
        is_own = own is not None and own.is_reclaim and own.array_id == array_id
        return self._arrays()[array_id] - is_own

    def _arrays(self) -> Counter[JobId]:
        """Places taken in each array; counted when first asked about, as most cycles have none."""
        if self._of_array is None:
            self._of_array = Counter(live.array_id for live in self._live if live.array_id is not None)
            reclaims = (hold.array_id for hold in self.held.values() if hold.is_reclaim)
            self._of_array.update(array_id for array_id in reclaims if array_id is not None)
        return self._of_array

    def _count_array(self, array_id: JobId | None, change: int = 1) -> None:
        if array_id is not None and self._of_array is not None:
            self._of_array[array_id] += change

    def start(self, job: PendingJob, fit: Fit) -> Run:
        """The job starts: its GPUs, quota and claim are gone for those behind it.

        Raises:
            GpusTakenError: the slots are not free; ask `fits` first.
        """
        index = self.free.of_flavor(fit.flavor).index
        self.free.take(fit.slots)
        self._starts += 1
        self._stamp()
        queue = policy_queue(self.bounds.policy, job.queue)
        run = Run(
            id=AttemptId(f"{job.id}-{job.attempts + 1}"),
            job_id=job.id,
            queue=queue,
            flavor=fit.flavor,
            gpus=job.request.gpus,
            picks=tuple((index[slot.node], len(slot.gpu_uuids)) for slot in fit.slots),
            order=(self.at_ms, self._starts),
            end_ms=self.at_ms + job.request.walltime_s * MS,
            priority=job.priority,
            grace_ms=self.bounds.grace_ms(queue),
            cpus_per_gpu=job.request.cpus_per_gpu,
            memory_bytes_per_gpu=job.request.memory_bytes_per_gpu,
        )
        self._tighten(run)
        if fit.flavor in self._beside:
            self._beside[fit.flavor].start(run)
        self._takeable.clear()
        self.profiles[fit.flavor].start(run)
        self.shares_of(fit.flavor).start(run)
        self._claimed_s[fit.grant_id] = self.claimed_s(fit.grant_id) + fit.claim_s
        self._claims[job.project_id] += 1
        if job.array is not None:
            self._arrays()[job.array.id] += 1
        return run

    def _stamp(self) -> None:
        """The world is another one from now on. A version never comes back for another world."""
        self._stamps += 1
        self.version = self._stamps

    def hold(self, hold: Hold) -> None:
        """A planned start stands from now on, and its victims end when it begins."""
        self._tighten(hold)
        self._forget_beside(hold)
        profile = self.profiles[hold.flavor]
        shares = self.shares_of(hold.flavor)
        profile.hold(hold)
        shares.hold(hold)
        self.held[hold.job_id] = hold
        if hold.is_reclaim and hold.project_id is not None:
            self._set_aside(hold, hold.project_id)
        if hold.is_reclaim:
            self._count_array(hold.array_id)
        for victim in hold.victims:
            shares.ends_anew(profile.runs[victim], hold.start_ms)
        if hold.victims:
            victims = [profile.runs[victim] for victim in hold.victims]
            for key, runs in self._takeable.items():
                self._takeable[key] = runs.less(victims)
        self._stamp()

    def release(self, job_id: JobId) -> Hold | None:
        """A planned start stands no more, and its victims run on; None when there was none."""
        hold = self.held.pop(job_id, None)
        if hold is not None:
            self.releases += 1
            grant_id, aside_s = self._aside.pop(job_id, (None, 0))
            if grant_id is not None:
                self._claimed_s[grant_id] -= aside_s
                self._claims[hold.project_id] += 1
            if hold.is_reclaim:
                self._count_array(hold.array_id, -1)
            self._forget_beside(hold)
            profile, shares = self.profiles[hold.flavor], self.shares_of(hold.flavor)
            profile.release(job_id)
            shares.release(hold)
            for victim in hold.victims:
                shares.ends_anew(profile.runs[victim], hold.start_ms)
            if hold.victims:
                self._takeable.clear()
            self._stamp()
        return hold

    def _set_aside(self, hold: Hold, project_id: UUID) -> None:
        """What the start will claim is out of others' reach: else attempts got notice for nothing."""
        needed_s = hold.gpus * ((hold.end_ms - hold.start_ms) // MS)
        for grant in self.active_grants(project_id, hold.flavor, hold.start_ms, hold.end_ms):
            if grant.remaining_s - self.claimed_s(grant.id) >= needed_s:
                self._aside[hold.job_id] = (grant.id, needed_s)
                self._claimed_s[grant.id] = self.claimed_s(grant.id) + needed_s
                self._claims[project_id] += 1
                return

    def takeable(self, flavor: str, queue: str) -> Candidates:
        """What other queues have borrowed now and may be taken back for a queue, the first to give way first."""
        key = (flavor, queue)
        if key not in self._takeable:
            known = self.profiles[flavor].runs
            runs = [known[run] for run in self.shares_of(flavor).borrowed_of_others(queue) if run in known]
            ordered = by_loss((run for run in runs if run.is_reclaimable), self.at_ms)
            self._takeable[key] = Candidates(ordered, self.at_ms, len(self.profiles[flavor].rooms.free))
        return self._takeable[key]

    # CPUs and memory, once something asks for more than its share of a node.

    def _tighten(self, held: Run | Hold) -> None:
        """From now on CPUs and memory of the flavor are looked at, if this takes more than its share."""
        site = self.profiles[held.flavor].rooms.site
        if site.is_over(held.cpus_per_gpu, held.memory_bytes_per_gpu):
            self._tight.add(held.flavor)

    def _forget_beside(self, hold: Hold) -> None:
        """Its victims end at another time from now on."""
        if hold.victims:
            self._beside.pop(hold.flavor, None)

    def _beside_of(self, shape: Shape) -> Beside | None:
        """CPUs and memory beside the GPUs that the shape asks for; None where free GPUs have theirs."""
        flavor, terms = shape.flavor, shape.terms
        if flavor not in self.profiles or (terms is None and flavor not in self._tight):
            return None
        site = self.profiles[flavor].rooms.site
        is_over = terms is not None and site.is_over(terms.cpus_per_gpu, terms.memory_bytes_per_gpu)
        if not is_over and flavor not in self._tight:
            return None
        if flavor not in self._beside:
            profile = self.profiles[flavor]
            self._beside[flavor] = Beside(site, profile.runs.values(), profile.holds)
        return self._beside[flavor]

    def with_beside(self, room: Counts, shape: Shape, ask: Ask, freed: Iterable[AttemptId]) -> Counts:
        """Of GPUs that are free throughout a start, those that have their CPUs and memory then."""
        beside = self._beside_of(shape)
        if beside is None:
            return room
        left = beside.throughout(ask.start_ms, ask.end_ms, ask.past, set(freed))
        return folded(room, left, self.profiles[shape.flavor].rooms.site, shape.terms)

    def with_beside_now(self, room: Counts, shape: Shape, gone: Collection[AttemptId] = ()) -> Counts:
        """Of GPUs that are free now if these runs were gone, those that have their CPUs and memory."""
        left = self.left_now(shape, gone)
        return (
            room if left is None else folded(room, left, self.profiles[shape.flavor].rooms.site, shape.terms)
        )

    def left_now(self, shape: Shape, gone: Collection[AttemptId] = ()) -> Amounts | None:
        """CPUs and memory that are left now on each node; None where free GPUs have theirs."""
        beside = self._beside_of(shape)
        return None if beside is None else beside.left_now(self.at_ms, gone)

    def choose(self, shape: Shape) -> Choice | None:
        """Nodes for a job of this shape beside what runs and has started, or None; see `FreeView.choose`."""
        if self._beside_of(shape) is None:
            return self.free.choose(shape)
        rooms = self.free.of_flavor(shape.flavor)
        picks = rooms.pick(self.with_beside_now(rooms.free, shape), shape)
        return None if picks is None else rooms.named(picks)

    def is_sound(self, flavor: str) -> bool:
        """Whether every planned start has what it needs beside what runs and the others."""
        beside = self._beside_of(Shape(flavor, 0, None))
        return self.profiles[flavor].is_sound() and (beside is None or beside.is_sound())

    def stands(self, hold: Hold) -> bool:
        """Whether a planned start has what it needs on its nodes beside what runs and the others."""
        slack = self.profiles[hold.flavor].slack(hold.start_ms)
        beside = self._beside_of(Shape(hold.flavor, 0, None))
        has_gpus = all(slack[node] >= 0 for node, _ in hold.picks)
        return has_gpus and (beside is None or beside.stands(hold))

    def holds(self) -> list[Hold]:
        """All planned starts that stand, by job."""
        return [self.held[job_id] for job_id in sorted(self.held)]


def is_same_world(one: Snapshot, other: Snapshot) -> bool:
    """Whether a world made of one is a world made of the other, under one policy.

    Who waits, what was planned for them and how much queues used so far is no part of it.
    """
    return (
        one.at_ms == other.at_ms
        and one.live == other.live
        and one.nodes == other.nodes
        and one.capacity == other.capacity
        and one.grants == other.grants
        and one.windows == other.windows
    )


def claim_s(request: Request) -> int:
    """What a start claims of the grant, in device-seconds: GPUs x walltime."""
    return request.gpus * request.walltime_s
