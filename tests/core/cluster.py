"""A small cluster in memory: carries plans out at once, lets time pass, loses and regains nodes."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from quota.fairshare import entry_charge, rate_of
from quota.model import GrantId
from quota.policy import policy_queue
from scheduler.model import (
    Admit,
    GrantView,
    JobId,
    JobState,
    LiveAttempt,
    Node,
    NodeState,
    PendingJob,
    Preempt,
    Request,
    Reservation,
    Reserve,
    Snapshot,
)
from scheduler.plan import make_plan

PROJECT = UUID(int=1)
MINUTE_MS = 60_000


class Cluster:
    """Jobs and nodes as the tables would hold them; `cycle` plans and applies."""

    def __init__(self, policy, sizes, flavors=None):
        self.at_ms = 10**12
        self.policy = policy
        self.nodes = {
            f"n{number}": Node(
                f"n{number}",
                (flavors or ["h200"] * len(sizes))[number],
                tuple(f"n{number}:{gpu}" for gpu in range(size)),
                NodeState.UP,
                is_simulated=True,
            )
            for number, size in enumerate(sizes)
        }
        self.live = {}
        self.pending = {}
        self.known = {}
        self.usage = {}
        self.reservations = ()
        self.windows = ()
        self.log = []
        self.submitted = 0

    def submit(self, gpus, queue, wall_minutes=60, **rest):
        self.submitted += 1
        nodes = rest.pop("nodes", None)
        flavors = rest.pop("flavors", ("h200",))
        request = Request(gpus, wall_minutes * 60, flavors, nodes, **rest.pop("asks", {}))
        job = PendingJob(
            id=JobId(self.submitted),
            project_id=PROJECT,
            queue=queue,
            request=request,
            submitted_ms=self.at_ms,
            **{"priority": 0} | rest,
        )
        self.pending[job.id] = job
        self.known[job.id] = job
        return job.id

    def snapshot(self):
        capacity = {}
        for node in self.nodes.values():
            if node.state is not NodeState.DRAINED:
                capacity[node.flavor] = capacity.get(node.flavor, 0) + len(node.gpu_uuids)
        return Snapshot(
            at_ms=self.at_ms,
            version="v",
            nodes=tuple(self.nodes[name] for name in sorted(self.nodes)),
            live=tuple(self.live[name] for name in sorted(self.live)),
            pending=tuple(self.pending[job_id] for job_id in sorted(self.pending)),
            grants=tuple(
                GrantView(GrantId(UUID(int=9 + number)), PROJECT, flavor, 0, 10**15, 10**15, 0)
                for number, flavor in enumerate(sorted({node.flavor for node in self.nodes.values()}))
            ),
            capacity=capacity,
            usage=dict(self.usage),
            reservations=self.reservations,
            windows=self.windows,
        )

    def plan(self):
        return make_plan(self.snapshot(), self.policy)

    def cycle(self):
        """Plan and carry the plan out at the same instant."""
        plan = self.plan()
        self.apply(plan)
        return plan

    def apply(self, plan):
        graces = {node.path: node.grace_s for node in self.policy.tree}
        starts = [entry for entry in plan.entries if isinstance(entry, Admit)]
        since = [found.admitted_seq for found in self.live.values() if found.admitted_ms == self.at_ms]
        for number, entry in enumerate(starts, start=max(since, default=0)):
            job = self.pending.pop(entry.job_id)
            queue = policy_queue(self.policy, job.queue)
            attempt_id = f"{job.id}-{job.attempts + 1}"
            self.live[attempt_id] = LiveAttempt(
                id=attempt_id,
                job_id=job.id,
                project_id=PROJECT,
                queue=job.queue,
                request=job.request,
                slots=entry.slots,
                state=JobState.RUNNING,
                admitted_ms=self.at_ms,
                committed_ms=self.at_ms,
                admitted_seq=number + 1,
                priority=job.priority,
                grace_s=graces[queue],
                array_id=None if job.array is None else job.array.id,
            )
            self.known[job.id] = job
            rate = rate_of(self.policy, self.nodes[entry.slots[0].node].flavor)
            charge = entry_charge(job.request.gpus, self.policy.usage_sampling_s, rate)
            self.usage[queue] = self.usage.get(queue, 0) + charge
            self.log.append(("start", job.id))
        self.reservations = tuple(
            Reservation(
                e.job_id,
                e.start_ms,
                e.place,
                e.flavor,
                e.share_class,
                plan.at_ms,
                is_reclaim=e.is_reclaim,
                policy_version=plan.policy_version,
                capacity_gpus=plan.capacity_gpus,
            )
            for e in plan.entries
            if isinstance(e, Reserve)
        )
        for entry in plan.entries:
            if isinstance(entry, Preempt):
                victim = self.live[entry.attempt_id]
                self.live[entry.attempt_id] = replace(
                    victim, reclaimed_by=entry.for_job, stop_ms=entry.stop_ms
                )
                self.log.append(("notice", victim.job_id, entry.for_job))

    def advance(self, minutes):
        """Let time pass: what is over ends, what was given notice goes back to waiting."""
        self.advance_ms(minutes * MINUTE_MS)

    def advance_ms(self, ms):
        """The same to the millisecond."""
        self.at_ms += ms
        self.windows = tuple(window for window in self.windows if window.to_ms > self.at_ms)
        for attempt in list(self.live.values()):
            if attempt.stop_ms is not None and attempt.stop_ms <= self.at_ms:
                self.requeue(attempt)
            elif attempt.admitted_ms + attempt.request.walltime_s * 1_000 <= self.at_ms:
                self.finish(attempt.id)

    def finish(self, attempt_id):
        del self.live[attempt_id]

    def requeue(self, attempt, **rest):
        del self.live[attempt.id]
        job = self.known[attempt.job_id]
        self.pending[job.id] = replace(job, attempts=job.attempts + 1, **rest)

    def set_node(self, name, state):
        self.nodes[name] = replace(self.nodes[name], state=state)
        if state is NodeState.DOWN:
            for attempt in list(self.live.values()):
                if any(slot.node == name for slot in attempt.slots):
                    self.requeue(attempt)
