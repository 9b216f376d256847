"""The journal folded: jobs, attempts, nodes, grants and balances from its records alone (invariant 7). Pure.

`scheduler.compare` sets the fold beside the tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, cast

from quota.fold import Books
from quota.model import Policy
from scheduler.fields import (
    ATTEMPT_DEFAULTS,
    JOB_DEFAULTS,
    Act,
    ActKind,
    Fields,
    Standing,
    capacity_of,
    grant_view,
    integer,
    live_attempt,
    optional_integer,
    optional_text,
    pending_job,
    reservation_of,
    state_of,
    usage_of,
    windows_at,
)
from scheduler.model import LIVE_STATES, JobState, Node, NodeState, Snapshot


class JournalRecord(Protocol):
    """What the fold reads of a record of the journal."""

    @property
    def kind(self) -> str:
        """One of the journal's kinds."""
        ...

    @property
    def subject(self) -> str:
        """What it is about, as "job:17"."""
        ...

    @property
    def data(self) -> Mapping[str, object]:
        """JSON values."""
        ...


@dataclass(slots=True)
class FoldedState:
    """What the records taken so far say. `attempts` hold their ranks under "ranks"."""

    jobs: dict[int, Fields] = field(default_factory=dict)
    attempts: dict[str, Fields] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    suspended: dict[str, bool] = field(default_factory=dict)
    acts: dict[int, Act] = field(default_factory=dict)
    windows: dict[int, Fields] = field(default_factory=dict)
    usage: dict[str, int] = field(default_factory=dict)
    sampled_ms: int = 0
    books: Books = field(default_factory=Books)

    def take(self, record: JournalRecord) -> None:
        """Take one record; each subject's records come in the order of their ids."""
        room, _, _ = record.kind.partition(".")
        subject = record.subject.partition(":")[2]
        if room in {"job", "attempt"}:
            self._take_job(int(subject), record.data)
        elif room == "node":
            self._take_node(subject, record.kind, record.data)
        elif room == "project":
            self.suspended[subject] = record.kind == "project.suspended"
        elif room == "act":
            self._take_act(int(subject), record.kind, record.data)
        elif room == "window":
            self._take_window(int(subject), record.kind, record.data)
        elif record.kind == "usage.sampled":
            self.usage = {queue: integer(used) for queue, used in _mapping(record.data["usage"]).items()}
            self.sampled_ms = integer(record.data["sampled_ms"])
        else:
            self.books.take(record.kind, record.subject, record.data)

    def _take_job(self, job_id: int, data: Mapping[str, object]) -> None:
        self.jobs.setdefault(job_id, dict(JOB_DEFAULTS)).update(_mapping(data.get("job")))
        if "attempt_id" not in data:
            return
        attempt = self.attempts.setdefault(str(data["attempt_id"]), {"ranks": []} | ATTEMPT_DEFAULTS)
        attempt.update(_mapping(data.get("attempt")))
        ranks = cast("list[Fields]", attempt["ranks"])
        for number, rank in sorted(_mapping(data.get("ranks")).items(), key=lambda item: int(item[0])):
            ranks[int(number) : int(number) + 1] = [_mapping(rank)]

    def _take_act(self, act_id: int, kind: str, data: Mapping[str, object]) -> None:
        if kind == "act.ended":
            self.acts.pop(act_id)
        else:
            self.acts[act_id] = Act(
                ActKind(str(data["kind"])),
                optional_integer(data["job_id"]),
                optional_text(data["queue"]),
                integer(data["expires_ms"]),
            )

    def _take_window(self, window_id: int, kind: str, data: Mapping[str, object]) -> None:
        if kind == "window.removed":
            self.windows.pop(window_id)
        else:
            self.windows[window_id] = {name: value for name, value in data.items() if name != "reason_digest"}

    def _take_node(self, name: str, kind: str, data: Mapping[str, object]) -> None:
        match kind:
            case "node.registered":
                self.nodes[name] = Node(
                    name=name,
                    flavor=str(data["flavor"]),
                    gpu_uuids=tuple(cast("list[str]", data["gpu_uuids"])),
                    state=NodeState(str(data["state"])),
                    is_simulated=bool(data["is_simulated"]),
                    labels=tuple(sorted(cast("dict[str, str]", data["labels"]).items())),
                    cpus=optional_integer(data.get("cpus")),
                    memory_bytes=optional_integer(data.get("memory_bytes")),
                    is_drained=bool(data.get("is_drained", data["state"] == NodeState.DRAINED)),
                )
            case "node.up" | "node.down":
                self._set_node(name, is_down=kind == "node.down", is_drained=self.nodes[name].is_drained)
            case "node.drained" | "node.resumed":
                is_down = self.nodes[name].state is NodeState.DOWN
                self._set_node(name, is_down=is_down, is_drained=kind == "node.drained")
            case _:
                pass

    def _set_node(self, name: str, *, is_down: bool, is_drained: bool) -> None:
        state = state_of(is_down=is_down, is_drained=is_drained)
        self.nodes[name] = replace(self.nodes[name], state=state, is_drained=is_drained)

    def live(self) -> dict[str, Fields]:
        """Attempts that hold GPUs, by name."""
        return {
            name: attempt
            for name, attempt in sorted(self.attempts.items())
            if JobState(str(attempt["state"])) in LIVE_STATES
        }

    def held_gpus(self) -> dict[str, str]:
        """Attempt that holds each GPU."""
        return {
            uuid: name
            for name, attempt in self.live().items()
            for rank in cast("list[Fields]", attempt["ranks"])
            for uuid in cast("list[str]", rank["gpu_uuids"])
        }

    def snapshot(self, at_ms: int, version: str, policy: Policy) -> Snapshot:
        """The snapshot that a cycle would have read under the policy: equal to `scheduler.snapshot.load`."""
        standing = Standing.at(self.acts.values(), at_ms)
        states = {job_id: str(job["state"]) for job_id, job in self.jobs.items()}
        waiting = [job_id for job_id in sorted(self.jobs) if states[job_id] == JobState.PENDING.value]
        nodes = tuple(self.nodes[name] for name in sorted(self.nodes))
        grants = sorted(self.books.grants.values(), key=lambda grant: grant.id)
        return Snapshot(
            at_ms=at_ms,
            version=version,
            nodes=nodes,
            live=tuple(
                live_attempt(
                    name,
                    self.jobs[integer(attempt["job_id"])],
                    attempt,
                    cast("list[Fields]", attempt["ranks"]),
                    standing,
                )
                for name, attempt in self.live().items()
            ),
            pending=tuple(
                pending_job(
                    job_id,
                    self.jobs[job_id],
                    is_suspended=self.suspended.get(str(self.jobs[job_id]["project_id"]), False),
                    standing=standing,
                    states=states,
                )
                for job_id in waiting
            ),
            grants=tuple(map(grant_view, grants)),
            capacity=capacity_of(nodes),
            usage=usage_of(self.usage, self._admissions(), policy),
            reservations=tuple(
                kept for job_id in waiting if (kept := reservation_of(job_id, self.jobs[job_id])) is not None
            ),
            windows=windows_at(self.windows, at_ms),
        )

    def _admissions(self) -> list[tuple[str, str, int]]:
        """Queue, flavor and GPUs of what was admitted since the last sample of use."""
        since = [made for made in self.attempts.values() if integer(made["admitted_ms"]) >= self.sampled_ms]
        return [
            (str(job["queue"]), self.books.flavor(str(attempt["grant_id"])), integer(job["gpus"]))
            for attempt in since
            for job in (self.jobs[integer(attempt["job_id"])],)
        ]


def _mapping(value: object) -> Fields:
    return cast("Fields", value) if isinstance(value, dict) else {}


def fold(records: Iterable[JournalRecord]) -> FoldedState:
    """Fold records in the order of their ids. O(records)."""
    state = FoldedState()
    for record in records:
        state.take(record)
    return state
