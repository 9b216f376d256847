"""The journal folded: jobs, attempts, nodes, grants and balances from its records alone (invariant 7).

Pure but for `compare`, which sets the fold beside the tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar, cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from quota import service as quota
from quota.fold import Books
from quota.model import Grant, GrantId
from scheduler.model import LIVE_STATES, JobState, Node, NodeState, Snapshot
from scheduler.rows import Fields, attempt_fields, integer, job_fields, live_attempt, pending_job
from scheduler.snapshot import capacity_of, grant_view, load_nodes
from scheduler.tables import AllocationRow, AttemptRow, JobRow
from store.journal import Record
from tenants.model import ProjectStatus
from tenants.tables import ProjectRow

K = TypeVar("K")

MAX_DIFFERENCES = 100
"""Differences told at once: the first ones say where to look."""


@dataclass(slots=True)
class FoldedState:
    """What the records taken so far say. `attempts` hold their ranks under "ranks"."""

    jobs: dict[int, Fields] = field(default_factory=dict)
    attempts: dict[str, Fields] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    suspended: dict[str, bool] = field(default_factory=dict)
    books: Books = field(default_factory=Books)

    def take(self, record: Record) -> None:
        """Take one record; each subject's records come in the order of their ids."""
        room, _, _ = record.kind.partition(".")
        subject = record.subject.partition(":")[2]
        if room in {"job", "attempt"}:
            self._take_job(int(subject), record.data)
        elif room == "node":
            self._take_node(subject, record.kind, record.data)
        elif room == "project":
            self.suspended[subject] = record.kind == "project.suspended"
        else:
            self.books.take(record.kind, record.subject, record.data)

    def _take_job(self, job_id: int, data: Mapping[str, object]) -> None:
        self.jobs.setdefault(job_id, {}).update(_mapping(data.get("job")))
        if "attempt_id" not in data:
            return
        attempt = self.attempts.setdefault(str(data["attempt_id"]), {"ranks": []})
        attempt.update(_mapping(data.get("attempt")))
        ranks = cast("list[Fields]", attempt["ranks"])
        for number, rank in sorted(_mapping(data.get("ranks")).items(), key=lambda item: int(item[0])):
            ranks[int(number) : int(number) + 1] = [_mapping(rank)]

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
                )
            case "node.up" | "node.resumed":
                self._set_node(name, NodeState.UP)
            case "node.down":
                self._set_node(name, NodeState.DOWN)
            case "node.drained":
                self._set_node(name, NodeState.DRAINED)
            case _:
                pass

    def _set_node(self, name: str, state: NodeState) -> None:
        node = self.nodes[name]
        self.nodes[name] = Node(node.name, node.flavor, node.gpu_uuids, state, node.is_simulated, node.labels)

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

    def snapshot(self, at_ms: int, version: str) -> Snapshot:
        """The snapshot that a cycle would have read: equal to `scheduler.snapshot.load`."""
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
                )
                for name, attempt in self.live().items()
            ),
            pending=tuple(
                pending_job(job_id, job, is_suspended=self.suspended.get(str(job["project_id"]), False))
                for job_id, job in sorted(self.jobs.items())
                if job["state"] == JobState.PENDING.value
            ),
            grants=tuple(map(grant_view, grants)),
            capacity=capacity_of(nodes),
        )


def _mapping(value: object) -> Fields:
    return cast("Fields", value) if isinstance(value, dict) else {}


def fold(records: Iterable[Record]) -> FoldedState:
    """Fold records in the order of their ids. O(records)."""
    state = FoldedState()
    for record in records:
        state.take(record)
    return state


def compare(session: Session, folded: FoldedState) -> list[str]:
    """Differences between the tables and the folded journal, at most MAX_DIFFERENCES; none when all is well.

    Args:
        session: a snapshot; the records were read in the same one.
        folded: the fold of all its records.
    """
    found = [
        *_differing("job", {row.id: job_fields(row) for row in session.scalars(select(JobRow))}, folded.jobs),
        *_differing(
            "attempt",
            {
                row.id: attempt_fields(row) | {"ranks": row.ranks}
                for row in session.scalars(select(AttemptRow))
            },
            folded.attempts,
        ),
        *_differing("node", {node.name: node for node in load_nodes(session)}, folded.nodes),
        *_differing("grant", _grants(session), folded.books.grants),
        *_differing("held GPU", _held(session), folded.held_gpus()),
        *_differing("suspended project", _suspended(session), _only_true(folded.suspended)),
        *_unsettled(session, folded),
    ]
    return found[:MAX_DIFFERENCES]


def _differing(what: str, tables: Mapping[K, object], journal: Mapping[K, object]) -> list[str]:
    return [
        f"{what} {key}: the tables say {tables.get(key)}, the journal {journal.get(key)}"
        for key in sorted({*tables, *journal}, key=str)
        if tables.get(key) != journal.get(key)
    ]


def _grants(session: Session) -> dict[GrantId, Grant]:
    return {grant.id: grant for grant in quota.grants(session)}


def _held(session: Session) -> dict[str, object]:
    rows = session.execute(
        select(AllocationRow.gpu_uuid, AllocationRow.attempt_id).where(AllocationRow.released_at.is_(None))
    )
    return {row.gpu_uuid: row.attempt_id for row in rows}


def _suspended(session: Session) -> dict[str, object]:
    statement = select(ProjectRow.id).where(ProjectRow.status == ProjectStatus.SUSPENDED.value)
    return {str(project_id): True for project_id in session.scalars(statement)}


def _only_true(flags: Mapping[str, bool]) -> dict[str, object]:
    return {name: True for name, flag in flags.items() if flag}


def _unsettled(session: Session, folded: FoldedState) -> list[str]:
    """Open claims of the ledger are exactly those of live attempts."""
    live = {name: attempt["claim_s"] for name, attempt in folded.live().items()}
    return _differing("open claim of attempt", quota.open_claims(session), live)
