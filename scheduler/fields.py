"""Values of the core made of plain fields: of JSON as the journal holds it, of nodes, of grants. Pure.

What a row says goes through the same functions as what a record says, so that the two cannot differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import Final, cast
from uuid import UUID

from quota.fairshare import entry_charge, rate_of
from quota.model import Grant, Policy
from quota.policy import policy_queue
from scheduler.model import (
    FINAL_STATES,
    Array,
    AttemptId,
    GrantView,
    JobId,
    JobState,
    LiveAttempt,
    Node,
    NodeState,
    PendingJob,
    Placement,
    Request,
    Reservation,
    ShareClass,
    Slot,
)
from scheduler.recurring import Every, Repeats, occurrences
from scheduler.windows import Window, WindowKind

Fields = dict[str, object]
"""JSON values by name, as the journal holds them."""

MAX_DISRUPTIONS: Final = 5
"""Times a job is stopped for others; from then on it starts within its queue's guarantee alone, where nobody takes
its GPUs back: work that never ends serves nobody (docs/adr/0005)."""

PROJECTS_REMEMBERED: Final = 16_384
"""Projects whose ids are not read anew for each job: 4 MB, and more than one cluster has."""

JOB_DEFAULTS: Final[Fields] = {
    "is_interactive": False,
    "begin_ms": None,
    "depends_on": [],
    "array_id": None,
    "array_index": None,
    "array_cap": None,
    "reservation": None,
    "told_ms": None,
    "told_start_ms": None,
    "preemptions": 0,
    "node_labels": {},
    "topology_required": None,
    "topology_preferred": None,
    "placement": "pack",
    "cpus_per_gpu": None,
    "memory_bytes_per_gpu": None,
}
"""What a job is in records of before its records said so."""

ATTEMPT_DEFAULTS: Final[Fields] = {
    "admitted_seq": 0,
    "grace_s": 0,
    "reclaimed_by": None,
    "refund_cap_s": 0,
    "refunded_s": 0,
    "notice_ends_ms": None,
}
"""What an attempt is in records of before its records said so."""


class ActKind(StrEnum):
    """What an operator may set above the machine, until it expires."""

    PAUSE = "pause"
    EXPEDITE = "expedite"
    PIN = "pin"


class DependencyKind(StrEnum):
    """How another job has to end. Source: Slurm's sbatch(1), --dependency."""

    AFTER_OK = "afterok"
    AFTER_ANY = "afterany"
    AFTER_NOT_OK = "afternotok"


@dataclass(frozen=True, slots=True)
class Act:
    """An operator's act: on one job, or on a queue and all below it."""

    kind: ActKind
    job_id: int | None
    queue: str | None
    expires_ms: int


@dataclass(frozen=True, slots=True)
class Standing:
    """The acts that stand at an instant, by what they touch."""

    paused: frozenset[int] = frozenset()
    paused_queues: tuple[str, ...] = ()
    expedited: frozenset[int] = frozenset()
    pinned: frozenset[int] = frozenset()

    @classmethod
    def at(cls, acts: Iterable[Act], at_ms: int) -> Standing:
        """What stands at an instant of all that was not taken back."""
        jobs: dict[ActKind, set[int]] = {kind: set() for kind in ActKind}
        queues: set[str] = set()
        for act in acts:
            if act.expires_ms <= at_ms:
                continue
            if act.job_id is not None:
                jobs[act.kind].add(act.job_id)
            elif act.queue is not None:
                queues.add(act.queue)
        return cls(
            paused=frozenset(jobs[ActKind.PAUSE]),
            paused_queues=tuple(sorted(queues)),
            expedited=frozenset(jobs[ActKind.EXPEDITE]),
            pinned=frozenset(jobs[ActKind.PIN]),
        )

    def pauses(self, job_id: int, queue: str) -> bool:
        """Whether a job of this queue is kept from starting."""
        return job_id in self.paused or any(f"{queue}/".startswith(f"{node}/") for node in self.paused_queues)


def integer(value: object) -> int:
    """A JSON integer.

    Raises:
        TypeError: anything else: the row or record was not written by this platform.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"expected an integer, found {value!r}")
    return value


def optional_integer(value: object) -> int | None:
    """A JSON integer or null."""
    return None if value is None else integer(value)


def optional_text(value: object) -> str | None:
    """A JSON text or null."""
    return None if value is None else str(value)


@lru_cache(PROJECTS_REMEMBERED)
def project_of(text: str) -> UUID:
    """A project's id; the same object for the same text, so that like jobs are found alike at a glance."""
    return UUID(text)


def slots_of(ranks: Sequence[Mapping[str, object]]) -> tuple[Slot, ...]:
    """The slots of an attempt, in rank order."""
    return tuple(Slot(str(rank["node"]), tuple(cast("list[str]", rank["gpu_uuids"]))) for rank in ranks)


def checkpoint_of(ranks: Iterable[Mapping[str, object]]) -> int | None:
    """The last checkpoint of an attempt: the oldest among those of the ranks that made any, None = none did.

    Where every rank saves its part, the whole is as old as its oldest part; where one rank saves for all, it alone
    counts. Ranks of records of before they said so have none.
    """
    found = (optional_integer(rank.get("checkpoint_ms")) for rank in ranks)
    return min((at_ms for at_ms in found if at_ms is not None), default=None)


def request_of(fields: Mapping[str, object], *, is_entitled_only: bool = False) -> Request:
    """What a job asks for, from its fields."""
    return Request(
        gpus=integer(fields["gpus"]),
        walltime_s=integer(fields["walltime_s"]),
        flavors=tuple(cast("list[str]", fields["flavors"])),
        nodes=optional_integer(fields["nodes"]),
        memory_bytes_per_rank=optional_integer(fields["memory_bytes_per_rank"]),
        node_labels=tuple(sorted(cast("dict[str, str]", fields["node_labels"]).items())),
        topology_required=optional_text(fields["topology_required"]),
        topology_preferred=optional_text(fields["topology_preferred"]),
        placement=Placement(str(fields["placement"])),
        cpus_per_gpu=optional_integer(fields["cpus_per_gpu"]),
        memory_bytes_per_gpu=optional_integer(fields["memory_bytes_per_gpu"]),
        is_entitled_only=is_entitled_only,
    )


def waits_for(fields: Mapping[str, object], states: Mapping[int, str]) -> JobId | None:
    """The first job that this one depends on and that has not ended as it must; `states` of those jobs."""
    for dependency in cast("list[Fields]", fields["depends_on"]):
        job_id = integer(dependency["job_id"])
        state = JobState(states[job_id])
        is_met = {
            DependencyKind.AFTER_OK: state is JobState.COMPLETED,
            DependencyKind.AFTER_ANY: state in FINAL_STATES,
            DependencyKind.AFTER_NOT_OK: state in FINAL_STATES and state is not JobState.COMPLETED,
        }[DependencyKind(str(dependency["kind"]))]
        if not is_met:
            return JobId(job_id)
    return None


def array_of(fields: Mapping[str, object]) -> Array | None:
    """The array of a job, None for one that stands alone."""
    array_id = optional_integer(fields["array_id"])
    return None if array_id is None else Array(JobId(array_id), integer(fields["array_cap"]))


def reservation_of(job_id: int, fields: Mapping[str, object]) -> Reservation | None:
    """The planned start of a job, None where it has none."""
    found = cast("Fields | None", fields["reservation"])
    if found is None:
        return None
    return Reservation(
        job_id=JobId(job_id),
        start_ms=integer(found["start_ms"]),
        place=tuple((str(node), integer(gpus)) for node, gpus in cast("list[list[object]]", found["place"])),
        flavor=str(found["flavor"]),
        share_class=ShareClass(str(found["share_class"])),
        planned_ms=integer(found["planned_ms"]),
        is_reclaim=bool(found["is_reclaim"]),
        policy_version=str(found.get("policy", "")),
        capacity_gpus=optional_integer(found.get("capacity_gpus")),
    )


def repeats_of(fields: Mapping[str, object]) -> Repeats | None:
    """How a window recurs, from its fields; None for one that does not."""
    found = cast("Fields | None", fields.get("repeats"))
    if found is None:
        return None
    return Repeats(
        Every(str(found["every"])),
        integer(found["interval"]),
        str(found["zone"]),
        integer(found["until_ms"]),
    )


def window_of(window_id: int, fields: Mapping[str, object]) -> Window:
    """A window, from its fields; of one that recurs the first occurrence."""
    return Window(
        id=f"w{window_id}",
        kind=WindowKind(str(fields["kind"])),
        nodes=frozenset(cast("list[str]", fields["nodes"])),
        from_ms=integer(fields["from_ms"]),
        to_ms=integer(fields["to_ms"]),
        projects=frozenset(UUID(project) for project in cast("list[str]", fields["projects"])),
    )


def windows_at(windows: Mapping[int, Fields], at_ms: int) -> tuple[Window, ...]:
    """The windows that have not ended, by id; of those that recur each occurrence (`w3/5`) that is near."""
    found: list[Window] = []
    for window_id, fields in windows.items():
        window, repeats = window_of(window_id, fields), repeats_of(fields)
        if repeats is not None:
            found += [
                replace(window, id=f"{window.id}/{number}", from_ms=from_ms, to_ms=to_ms)
                for number, from_ms, to_ms in occurrences(window.from_ms, window.to_ms, repeats, at_ms)
            ]
        elif window.to_ms > at_ms:
            found.append(window)
    return tuple(sorted(found, key=lambda window: window.id))


def usage_of(
    sampled: Mapping[str, int], admissions: Iterable[tuple[str, str, int]], policy: Policy
) -> dict[str, int]:
    """Decayed use of every queue: the last sample, and the entry charge of what was admitted since.

    Args:
        sampled: GPU-milliseconds by queue as of the last sample.
        admissions: queue, flavor and GPUs of each admission since then, or of some of them together.
        policy: the policy in force.
    """
    found: dict[str, int] = {}
    for queue, used in sampled.items():
        found[policy_queue(policy, queue)] = found.get(policy_queue(policy, queue), 0) + used
    admitted: dict[tuple[str, str], int] = {}
    for queue, flavor, gpus in admissions:
        key = (policy_queue(policy, queue), flavor)
        admitted[key] = admitted.get(key, 0) + gpus
    for (queue, flavor), gpus in admitted.items():  # together: rounding must not depend on who adds up
        charge = entry_charge(gpus, policy.usage_sampling_s, rate_of(policy, flavor))
        found[queue] = found.get(queue, 0) + charge
    return dict(sorted(found.items()))


def pending_job(
    job_id: int,
    fields: Mapping[str, object],
    *,
    is_suspended: bool,
    standing: Standing,
    states: Mapping[int, str],
) -> PendingJob:
    """A waiting job as the plan reads it, from its fields.

    Args:
        job_id: the job.
        fields: of the job.
        is_suspended: whether its project is.
        standing: the operators' acts that stand.
        states: of the jobs that it depends on.
    """
    return PendingJob(
        id=JobId(job_id),
        project_id=project_of(str(fields["project_id"])),
        queue=str(fields["queue"]),
        request=request_of(fields, is_entitled_only=integer(fields["preemptions"]) >= MAX_DISRUPTIONS),
        priority=integer(fields["priority"]),
        submitted_ms=integer(fields["submitted_ms"]),
        is_held=bool(fields["is_held"]),
        is_suspended=is_suspended,
        back_off_until_ms=optional_integer(fields["back_off_until_ms"]) or 0,
        attempts=integer(fields["attempts"]),
        begin_ms=optional_integer(fields["begin_ms"]) or 0,
        waits_for=waits_for(fields, states),
        array=array_of(fields),
        is_paused=standing.pauses(job_id, str(fields["queue"])),
        is_expedited=job_id in standing.expedited,
    )


def live_attempt(
    attempt_id: str,
    job: Mapping[str, object],
    attempt: Mapping[str, object],
    ranks: Sequence[Fields],
    standing: Standing,
    request: Request | None = None,
) -> LiveAttempt:
    """An attempt that holds GPUs as the plan reads it, from its fields, its job's, its ranks and the acts.

    A request that was made of the job's fields before, by `request_of`, spares making it anew.
    """
    job_id = integer(attempt["job_id"])
    reclaimed_by = optional_integer(attempt["reclaimed_by"])
    return LiveAttempt(
        id=AttemptId(attempt_id),
        job_id=JobId(job_id),
        project_id=project_of(str(job["project_id"])),
        queue=str(job["queue"]),
        request=request_of(job) if request is None else request,
        slots=slots_of(ranks),
        state=JobState(str(attempt["state"])),
        admitted_ms=integer(attempt["admitted_ms"]),
        committed_ms=optional_integer(attempt["committed_ms"]),
        is_stopping=attempt["stop_why"] is not None,
        admitted_seq=integer(attempt["admitted_seq"]),
        priority=integer(job["priority"]),
        grace_s=integer(attempt["grace_s"]),
        is_protected=job_id in standing.pinned,
        reclaimed_by=None if reclaimed_by is None else JobId(reclaimed_by),
        stop_ms=optional_integer(attempt["notice_ends_ms"]),
        array_id=None if job["array_id"] is None else JobId(integer(job["array_id"])),
        checkpoint_ms=checkpoint_of(ranks),
    )


def state_of(*, is_down: bool, is_drained: bool) -> NodeState:
    """State of a node: silence shows before an operator's act, which stays on record beside it."""
    if is_down:
        return NodeState.DOWN
    return NodeState.DRAINED if is_drained else NodeState.UP


def capacity_of(nodes: tuple[Node, ...]) -> dict[str, int]:
    """GPUs in service per flavor: a node leaves by an operator's act, not by being down for a while."""
    found: dict[str, int] = {}
    for node in nodes:
        if node.is_in_service:
            found[node.flavor] = found.get(node.flavor, 0) + len(node.gpu_uuids)
    return found


def grant_view(grant: Grant) -> GrantView:
    """What the plan needs of a grant."""
    return GrantView(
        id=grant.id,
        project_id=grant.project_id,
        flavor=grant.flavor,
        starts_ms=grant.starts_ms,
        ends_ms=grant.ends_ms,
        remaining_s=grant.balance.remaining_s,
        pending_s=grant.balance.pending_s,
    )
