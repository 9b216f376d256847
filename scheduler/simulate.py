"""Replaying a trace: a heap of (time, seq), and the very same plan, life cycle and ledger as in production.

Only dispatch and observation are replaced, by the run times of the trace; a plan never sees them. Simulated.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final
from uuid import UUID

from quota import ledger
from quota.fairshare import UsageBook, charged, entry_charge, rate_of
from quota.model import Balance, GrantId, Policy
from quota.policy import policy_queue
from scheduler import lifecycle
from scheduler.facts import (
    AbsenceProven,
    Admitted,
    GraceEnded,
    JobView,
    LaunchCommitted,
    Outcome,
    RankExited,
    Requeue,
    Settle,
)
from scheduler.fields import capacity_of
from scheduler.index import Index
from scheduler.interval import Told
from scheduler.machines import asked_on, uniform
from scheduler.measures import Disruption, Ended
from scheduler.model import (
    Admit,
    AttemptId,
    GrantView,
    JobId,
    JobState,
    LiveAttempt,
    Node,
    PendingJob,
    Plan,
    Preempt,
    Request,
    Reservation,
    Reserve,
    Snapshot,
)
from scheduler.plan import make_plan
from scheduler.traces import TraceJob

MS: Final = 1_000
"""Milliseconds of a second."""
FLAVOR: Final = "gpu"
"""Flavor of every node of a replay on uniform nodes."""
CYCLE_S: Final = 30
"""Simulated seconds between cycles while something changes, where nothing else is asked for."""
GRANT_S: Final = 10**15
"""Device-seconds of the one grant: a trace knows no budgets."""
PROJECT: Final = UUID(int=0)
"""The one project of a replay: a trace knows none."""
FOREVER_MS: Final = 10**15
"""An end of time that no trace reaches, in milliseconds."""


class Event(IntEnum):
    """What happens; at one instant in this order."""

    END = 0
    STOP = 1
    SUBMIT = 2
    CYCLE = 3


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of a replay."""

    ended: tuple[Ended, ...]
    disruption: Disruption
    balance: Balance
    cycles: int
    told: tuple[Told, ...] = ()


class Replayer:
    """One replay with Kezek's own plan.

    Args:
        jobs: of the trace, by submission.
        queues: queue of each job, in the same order; each is a queue of the policy.
        policy: the policy in force all the time.
        nodes: how many uniform ones, on which jobs ask for GPUs alone; or the nodes, all in service, on which they
            ask for all that the trace says.
        gpus_per_node: of each uniform node.
        cycle_s: simulated seconds between cycles while something changes; a running scheduler's is 1.
    """

    def __init__(
        self,
        jobs: Sequence[TraceJob],
        queues: Sequence[str],
        policy: Policy,
        *,
        nodes: int | tuple[Node, ...],
        gpus_per_node: int = 0,
        cycle_s: int = CYCLE_S,
    ) -> None:
        self._jobs: Final = jobs
        self._queues: Final = queues
        self._policy: Final = policy
        self._cycle_ms: Final = cycle_s * MS
        self._graces: Final = {node.path: node.grace_s for node in policy.tree}
        self._grant: Final = GrantId(UUID(int=1))
        opening = ledger.grant(self._grant, GRANT_S)
        self._balance = ledger.apply(Balance(), opening)
        self._is_uniform: Final = isinstance(nodes, int)
        self._nodes: Final = uniform(nodes, gpus_per_node, FLAVOR) if isinstance(nodes, int) else nodes
        self._capacity: Final = capacity_of(self._nodes)
        self._flavors: Final = tuple(sorted(self._capacity))
        self._largest: Final = max((len(node.gpu_uuids) for node in self._nodes), default=0)
        self._flavor_of: Final[Mapping[str, str]] = {node.name: node.flavor for node in self._nodes}
        self._index: Final = Index()
        self._heap: Final[list[tuple[int, int, int, str]]] = []
        self._seq = 0
        self._views: Final[dict[JobId, JobView]] = {}
        self._pending: Final[dict[JobId, PendingJob]] = {}
        self._live: Final[dict[AttemptId, LiveAttempt]] = {}
        self._spans: Final[dict[JobId, list[tuple[float, float]]]] = {}
        self._usage = UsageBook()
        self._sampled_ms = 0
        self._held_ms: Final[dict[str, int]] = {}
        self._reservations: tuple[Reservation, ...] = ()
        self._promised: Final[dict[JobId, tuple[int, int]]] = {}
        self._first_told: Final[dict[JobId, tuple[int, int]]] = {}
        self._told: Final[list[Told]] = []
        self._ended: Final[list[Ended]] = []
        self._next_cycle_ms: int | None = None
        self._preemptions = self._useless = self._lost = self._late_ms = self._cycles = 0

    def run(self, on_progress: Callable[[int], None] = lambda _: None) -> Replay:
        """Replay to the end of the last job. `on_progress` hears how many have ended, once a cycle."""
        for number, job in enumerate(self._jobs):
            self._at(job.submit_s * MS, Event.SUBMIT, str(number))
        while self._heap:
            at_ms = self._heap[0][0]
            for kind, subject in self._due(at_ms):
                self._take(kind, subject, at_ms)
            on_progress(len(self._ended))
        disruption = Disruption(self._preemptions, self._useless, self._lost, self._late_ms // MS)
        return Replay(tuple(self._ended), disruption, self._balance, self._cycles, tuple(self._told))

    def _at(self, at_ms: int, kind: Event, subject: str = "") -> None:
        self._seq += 1
        heapq.heappush(self._heap, (at_ms, kind, self._seq, subject))

    def _due(self, at_ms: int) -> Iterator[tuple[Event, str]]:
        while self._heap and self._heap[0][0] == at_ms:
            _, kind, _, subject = heapq.heappop(self._heap)
            yield Event(kind), subject

    def _take(self, kind: Event, subject: str, at_ms: int) -> None:
        match kind:
            case Event.SUBMIT:
                self._submit(int(subject), at_ms)
            case Event.END if subject in self._live:
                self._end(self._live[AttemptId(subject)], at_ms)
            case Event.STOP if subject in self._live:
                self._stop(self._live[AttemptId(subject)], at_ms)
            case Event.CYCLE if at_ms == self._next_cycle_ms:
                self._cycle(at_ms)
                return
            case _:
                return
        self._wake(-(-at_ms // self._cycle_ms) * self._cycle_ms)

    def _wake(self, at_ms: int) -> None:
        """A cycle at an instant, unless one comes before."""
        if self._next_cycle_ms is None or at_ms < self._next_cycle_ms:
            self._next_cycle_ms = at_ms
            self._at(at_ms, Event.CYCLE)

    def _submit(self, number: int, at_ms: int) -> None:
        job, job_id = self._jobs[number], JobId(number)
        self._views[job_id] = JobView(job_id, JobState.PENDING)
        self._pending[job_id] = PendingJob(
            id=job_id,
            project_id=PROJECT,
            queue=self._queues[number],
            request=self._request(job),
            priority=0,
            submitted_ms=at_ms,
        )

    def _request(self, job: TraceJob) -> Request:
        """All that the trace says; on uniform nodes, GPUs alone: on one node where they fit one."""
        if self._is_uniform or job.asks is None:
            one = 1 if job.gpus <= self._largest else None
            return Request(job.gpus, job.walltime_s, self._flavors, one)
        return asked_on(job.asks, self._flavors)

    def _cycle(self, at_ms: int) -> None:
        self._next_cycle_ms = None
        self._cycles += 1
        self._sample(at_ms)
        if not self._pending and not self._reservations:
            return  # nobody waits: a plan could neither start nor stop anybody
        plan = make_plan(self._snapshot(at_ms), self._policy, self._index)
        self._apply(plan)
        if plan.next_ms is not None:
            self._wake(plan.next_ms)

    def _snapshot(self, at_ms: int) -> Snapshot:
        left_s, pending_s = self._balance.remaining_s, self._balance.pending_s
        grants = tuple(
            GrantView(GrantId(UUID(int=number)), PROJECT, flavor, 0, FOREVER_MS, left_s, pending_s)
            for number, flavor in enumerate(self._flavors, 1)
        )
        return Snapshot(
            at_ms=at_ms,
            version="",
            nodes=self._nodes,
            live=tuple(self._live[name] for name in sorted(self._live)),
            pending=tuple(self._pending[job_id] for job_id in sorted(self._pending)),
            grants=grants,
            capacity=self._capacity,
            usage=self._usage.usage(),
            reservations=self._reservations,
        )

    def _sample(self, at_ms: int) -> None:
        elapsed_s = (at_ms - self._sampled_ms) // MS
        if elapsed_s >= self._policy.usage_sampling_s:
            held = dict(self._held_ms)
            for attempt in self._live.values():
                since_ms = at_ms - max(attempt.admitted_ms, self._sampled_ms)
                held[attempt.queue] = held.get(attempt.queue, 0) + self._used(attempt, since_ms)
            self._usage = self._usage.sample(held, elapsed_s, self._policy.usage_half_life_s)
            self._held_ms.clear()
            self._sampled_ms = at_ms

    def _used(self, attempt: LiveAttempt, held_ms: int) -> int:
        """What an attempt used in so long, in GPU-milliseconds of whole GPUs."""
        rate = rate_of(self._policy, self._flavor_of[attempt.slots[0].node])
        return charged(attempt.request.gpus * held_ms, rate)

    def _apply(self, plan: Plan) -> None:
        reserved: list[Reservation] = []
        started: set[JobId] = set()
        for number, entry in enumerate(plan.effects):
            match entry:
                case Admit():
                    self._start(entry, number, plan.at_ms)
                    started.add(entry.job_id)
                case Reserve():
                    self._first_told.setdefault(entry.job_id, (plan.at_ms, entry.start_ms))
                    reserved.append(
                        Reservation(
                            job_id=entry.job_id,
                            start_ms=entry.start_ms,
                            place=entry.place,
                            flavor=entry.flavor,
                            share_class=entry.share_class,
                            planned_ms=plan.at_ms,
                            is_reclaim=entry.is_reclaim,
                        )
                    )
                case Preempt():
                    self._notice(entry)
                case _:
                    pass
        self._reservations = tuple(reserved)
        self._keep_promises(started, {kept.job_id for kept in reserved if kept.is_reclaim}, plan.at_ms)

    def _keep_promises(self, started: set[JobId], held: set[JobId], at_ms: int) -> None:
        """Count notices whose reclaimer did not start on what they freed, and starts that came late."""
        for job_id, (start_ms, victims) in list(self._promised.items()):
            if job_id in started:
                self._late_ms += max(0, at_ms - start_ms)
            elif job_id not in held:
                self._useless += victims
            else:
                continue
            del self._promised[job_id]

    def _start(self, entry: Admit, number: int, at_ms: int) -> None:
        job = self._pending.pop(entry.job_id)
        told = self._first_told.pop(job.id, None)
        if told is not None:
            self._told.append(Told(*told, at_ms))
        view = self._views[job.id]
        attempt_id = lifecycle.attempt_id(job.id, view.attempts + 1)
        claim = ledger.claim(self._balance, self._grant, attempt_id, entry.claim_s)
        if isinstance(claim, ledger.Refusal):
            raise ledger.LedgerError(f"job {job.id} was planned on a grant that does not cover it: {claim}")
        self._balance = ledger.apply(self._balance, claim)
        nodes = tuple(slot.node for slot in entry.slots)
        view = lifecycle.step(
            view, Admitted(attempt_id, job.request.gpus, job.request.walltime_s, nodes, at_ms)
        ).job
        # That its ranks began is told with their ends, as by an agent whose reports came late.
        self._views[job.id] = lifecycle.step(view, LaunchCommitted(attempt_id, at_ms)).job
        queue = policy_queue(self._policy, job.queue)
        rate = rate_of(self._policy, self._flavor_of[nodes[0]])
        charge = entry_charge(job.request.gpus, self._policy.usage_sampling_s, rate)
        self._usage = self._usage.admitted(queue, charge)
        self._live[attempt_id] = LiveAttempt(
            id=attempt_id,
            job_id=job.id,
            project_id=job.project_id,
            queue=queue,
            request=job.request,
            slots=entry.slots,
            state=JobState.RUNNING,
            admitted_ms=at_ms,
            committed_ms=at_ms,
            admitted_seq=number,
            grace_s=self._graces[queue],
        )
        self._at(at_ms + self._jobs[job.id].duration_s * MS, Event.END, attempt_id)

    def _notice(self, entry: Preempt) -> None:
        attempt = self._live[entry.attempt_id]
        self._live[entry.attempt_id] = replace(attempt, reclaimed_by=entry.for_job, stop_ms=entry.stop_ms)
        self._preemptions += 1
        _, victims = self._promised.get(entry.for_job, (0, 0))
        self._promised[entry.for_job] = (entry.stop_ms, victims + 1)
        self._at(entry.stop_ms, Event.STOP, entry.attempt_id)

    def _end(self, attempt: LiveAttempt, at_ms: int) -> None:
        """The program ended by itself."""
        for rank in range(len(attempt.slots)):
            exited = RankExited(attempt.id, rank, at_ms, exit_code=0, started_ms=attempt.committed_ms)
            outcome = self._step(attempt, exited)
        self._settled(attempt, outcome, at_ms)
        job = self._jobs[attempt.job_id]
        self._ended.append(
            Ended(
                queue=attempt.queue,
                tenant=job.tenant,
                gpus=job.gpus,
                submit_s=job.submit_s,
                end_s=at_ms / MS,
                run_s=job.duration_s,
                spans=tuple(self._spans.pop(attempt.job_id)),
                id=job.id,
            )
        )

    def _stop(self, attempt: LiveAttempt, at_ms: int) -> None:
        """The grace is over: all since the start is lost, as a trace knows no checkpoints."""
        self._step(attempt, GraceEnded(attempt.id, at_ms))
        outcome = self._step(attempt, AbsenceProven(attempt.id, at_ms))
        self._lost += attempt.request.gpus * (at_ms - attempt.admitted_ms) // MS
        self._settled(attempt, outcome, at_ms)

    def _step(self, attempt: LiveAttempt, fact: GraceEnded | AbsenceProven | RankExited) -> Outcome:
        outcome = lifecycle.step(self._views[attempt.job_id], fact)
        self._views[attempt.job_id] = outcome.job
        return outcome

    def _settled(self, attempt: LiveAttempt, outcome: Outcome, at_ms: int) -> None:
        """Carry out what the end of an attempt asks for: books, GPUs, and the next turn of its job."""
        del self._live[attempt.id]
        self._spans.setdefault(attempt.job_id, []).append((attempt.admitted_ms / MS, at_ms / MS))
        since_ms = at_ms - max(attempt.admitted_ms, self._sampled_ms)
        self._held_ms[attempt.queue] = self._held_ms.get(attempt.queue, 0) + self._used(attempt, since_ms)
        claim_s = attempt.request.gpus * attempt.request.walltime_s
        for effect in outcome.effects:
            if isinstance(effect, Settle):
                for entry in ledger.settle(self._grant, attempt.id, claim_s, effect.used_s):
                    self._balance = ledger.apply(self._balance, entry)
            elif isinstance(effect, Requeue):
                job = self._jobs[attempt.job_id]
                self._submit(attempt.job_id, job.submit_s * MS)
                self._views[attempt.job_id] = outcome.job
                self._pending[attempt.job_id] = replace(
                    self._pending[attempt.job_id], attempts=outcome.job.attempts
                )
