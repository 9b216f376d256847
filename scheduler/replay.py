"""Replaying cycles: what a cycle planned from is folded from the journal, and the same plan must come out.

A cycle's record names the database snapshot it was read from; the records visible in it are what it knew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, cast

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from quota import service as quota
from quota.model import Policy
from scheduler.fields import integer
from scheduler.fold import FoldedState, fold
from scheduler.model import JobId
from scheduler.plan import effects_digest, make_plan, plan_digest
from store import journal
from store.engine import snapshot
from store.journal import Record

CYCLE: Final = "cycle.planned"
"""Kind of the record of a cycle with effect."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """A cycle that was replayed. `differences` is empty when the same plan came out."""

    record_id: int
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Visibility:
    """A PostgreSQL snapshot: what transactions it sees.

    Source: PostgreSQL documentation, section 9.27.10, textual form `xmin:xmax:xip_list` of `pg_snapshot`.
    """

    xmin: int
    xmax: int
    running: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Visibility:
        """Read `xmin:xmax:xip,...`.

        Raises:
            ValueError: not that form.
        """
        low, high, running = text.split(":")
        return cls(int(low), int(high), frozenset(int(xid) for xid in running.split(",") if xid))

    def sees(self, record: Record) -> bool:
        """Whether the record's transaction had been committed."""
        xid = int(record.xid)
        return xid < self.xmin or (xid < self.xmax and xid not in self.running)


def replay(engine: Engine, cycle: Record) -> Replayed:
    """Replay one cycle from its record. O(records before it)."""
    with snapshot(engine) as session:
        state = fold(journal.read(session, visible_in=str(cycle.data["version"])))
        return _replayed(session, state, cycle)


def replay_all(engine: Engine) -> list[Replayed]:
    """Replay every cycle of the journal, in one pass over it.

    Snapshots of successive cycles see ever more, and each sees only records before its own: so records are kept
    until the first cycle that sees them. O(records), apart from planning.
    """
    with snapshot(engine) as session:
        return [_replayed(session, state, cycle) for cycle, state in _cycles(session)]


def _cycles(session: Session) -> Iterator[tuple[Record, FoldedState]]:
    """Each cycle with the state it planned from; the state is changed by the next step of the iteration."""
    state = FoldedState()
    unseen: list[Record] = []
    for record in journal.read(session):
        if record.kind == CYCLE:
            sees = Visibility.parse(str(record.data["version"])).sees
            for seen in filter(sees, unseen):
                state.take(seen)
            unseen = [waiting for waiting in unseen if not sees(waiting)]
            yield record, state
        unseen.append(record)


def _replayed(session: Session, state: FoldedState, cycle: Record) -> Replayed:
    policy = _policy(session, cycle)
    if isinstance(policy, str):
        return Replayed(cycle.id, (policy,))
    before = state.snapshot(integer(cycle.data["at_ms"]), str(cycle.data["version"]), policy)
    plan = make_plan(before, policy)
    if "effects_digest" in cycle.data:
        expected = str(cycle.data["effects_digest"])
        waits = [JobId(integer(job_id)) for job_id in cast("list[object]", cycle.data["waits"])]
        found = effects_digest(plan, waits)
    else:  # a record from before reasons were told a part at a time
        expected, found = str(cycle.data["plan_digest"]), plan_digest(plan)
    differing = () if found == expected else (f"its plan was {expected}, the journal gives {found}",)
    return Replayed(cycle.id, differing)


def _policy(session: Session, cycle: Record) -> Policy | str:
    version = str(cycle.data["policy"])
    known = quota.policy_of_version(session, version)
    if known is None:
        return f"policy {version} is not in the database"
    policy, digest = known
    return (
        policy
        if digest == cycle.data["policy_digest"]
        else f"policy {version} was changed after it was enacted"
    )
