"""The journal: what happened, written in the transaction that made it happen.

Kinds are a closed list (`KINDS`); each is described in docs/journal.md. Records hold ids, digests and figures
only. The order that is sealed is given later, beside the transactions (`store.seal`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from store.bulk import copy_all, to_json
from store.tables import JournalRow

SYSTEM = "system"
"""Actor of what the platform does by itself."""

KINDS: dict[str, str] = {
    "organisation.created": "an organisation was entered",
    "project.created": "a project was made and routed to its queue",
    "project.suspended": "a project may not start jobs any more",
    "project.resumed": "a suspended project may start jobs again",
    "user.created": "a user was entered",
    "role.granted": "a user got a role",
    "token.issued": "a bearer token was made",
    "token.revoked": "a bearer token stopped working",
    "policy.enacted": "a policy version was entered on its grounds",
    "grant.awarded": "device-seconds were awarded to a project by a decision",
    "ledger.pending": "an attempt claimed device-seconds of a grant",
    "ledger.posted": "used device-seconds were charged",
    "ledger.voided": "the unused part of a claim went back to the grant",
    "ledger.reversed": "device-seconds of work that a reclaim cost were given back",
    "usage.sampled": "the decayed use of every queue was sampled",
    "act.set": "an operator paused, expedited or pinned a job, or paused a queue",
    "act.ended": "an operator took an act back before it expired",
    "window.added": "an operator set nodes apart for a time",
    "window.removed": "an operator took a window back",
    "node.registered": "a node's agent reported its GPUs for the first time, or others than before",
    "node.up": "a node is heard of again",
    "node.down": "a node has not been heard of for too long",
    "node.drained": "an operator took a node out of service",
    "node.resumed": "an operator put a node back into service",
    "job.submitted": "a job was accepted",
    "job.held": "a job's user or an operator keeps it from starting",
    "job.released": "a held job may start again",
    "job.cancel_requested": "a job that is being stopped already is not to be tried again",
    "job.waits": "the decisive reason why a job waits changed",
    "job.reserved": "a waiting job got a planned start, or another one",
    "job.unreserved": "a waiting job lost its planned start",
    "job.admitted": "a job got its GPUs; an attempt was made",
    "job.requeued": "a job went back to waiting, its place kept",
    "job.cancelled": "a job was cancelled before it ran, or after its ranks were stopped",
    "job.completed": "every rank of a job ended well",
    "job.failed": "a rank of a job failed, or the job could not be started",
    "job.timed_out": "a job reached its walltime",
    "job.out_of_memory": "a rank of a job used more memory than asked for",
    "job.lost_nodes": "a job lost nodes more often than it may be tried again",
    "attempt.dispatched": "every agent of an attempt has its lease",
    "attempt.started": "a rank of an attempt runs",
    "attempt.checkpointed": "a rank of an attempt saved its work",
    "attempt.preempting": "an attempt got notice: its GPUs are taken back for another job",
    "attempt.spared": "an attempt's notice was taken back: nobody waits for its GPUs any more",
    "attempt.stopping": "an attempt is being stopped, and why",
    "attempt.exited": "a rank of an attempt ended",
    "attempt.ended": "absence of every rank is proven; the GPUs are free",
    "attempt.removed": "the nodes of an attempt that ended long ago dropped its logs and outputs",
    "artefact.kept": "a file a job kept, with the digest its agent computed",
    "cycle.planned": "a scheduling cycle with effect: snapshot, policy, release and plan digest",
    "idle.policy_set": "an operator set the policy for idle jobs",
    "idle.notice": "a job was told that its GPUs stand idle",
    "idle.second_notice": "a job was told for the second time",
    "idle.cancelled": "a job that stayed idle after both notices is being stopped",
    "idle.would_cancel": "a dry run came to the point at which it would have stopped a job",
    "idle.cleared": "a job uses its GPUs again; its notices are void",
    "snapshot.differed": "what the scheduler kept from cycle to cycle was not what the tables say; it was read anew",
    "lease.taken": "a process took a lease, with its epoch: that of the scheduler, or of the watch over idle jobs",
    "stale.dropped": "a result came too late and was dropped",
    "product.registered": "a product was entered in the register",
    "product.submitted": "a product was submitted for review",
    "product.jobs_linked": "further jobs were named as a product's evidence",
    "product.job_unlinked": "a job was taken back as a product's evidence",
    "product.model_version": "a file a job kept was named as a version of a product's model",
    "product.verified": "a reviewer verified a product, or renewed a verification",
    "product.returned": "a reviewer returned a product with a reason",
    "product.described": "a product's stage, use of AI and acceleration programme were stated",
    "product.withdrawn": "a product was withdrawn from the register",
    "product.imported": "a product from before the platform was imported with its decision",
    "initiative.registered": "an icebreaker initiative was registered with its KPI and deadline",
    "initiative.measured": "a value of an initiative's KPI was entered",
    "report.issued": "a report was issued, by the SHA-256 of its data",
    "dossier.opened": "a project opened a dossier of a product for the state's registers",
    "dossier.documented": "a document was entered in a dossier",
    "dossier.document_withdrawn": "a document of a dossier was taken out of account",
    "localisation.entered": "parties, contracts, payments or rates were entered in a dossier",
    "localisation.removed": "a payment that was entered by mistake was removed from a dossier",
    "localisation.calculated": "a localisation share was calculated and kept",
    "register.entered": "a product's entry in a register of the state was recorded",
    "register.left": "a product's leaving of a register of the state was recorded",
    "register.checked": "an entry of the register of Kazakhstani producers was looked at",
}
"""Every kind of record and what it says."""

_TOGETHER: Final = "journal.together"
"""Where a session keeps the records that it writes together."""

_NOTED: Final = "journal.noted"
"""Where a session keeps what it was told to note of its records."""

PAGE = 2000
"""Records read at once when the journal is folded or verified."""


class UnknownKindError(ValueError):
    """A record's kind is not in `KINDS`."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record as read back. `at` is the instant of the change; `xid` the transaction that wrote it."""

    id: int
    xid: str
    at: datetime
    kind: str
    subject: str
    actor: str
    data: Mapping[str, object]

    def canonical(self) -> bytes:
        """Return the bytes that are sealed: canonical JSON of every field, keys sorted, no spaces."""
        return json.dumps(
            [self.id, self.xid, self.at.isoformat(), self.kind, self.subject, self.actor, self.data],
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
        ).encode()

    def digest(self) -> bytes:
        """Return the SHA-256 of the canonical bytes."""
        return hashlib.sha256(self.canonical()).digest()


def append(
    session: Session, kind: str, subject: str, *, actor: str, at: datetime, data: Mapping[str, object]
) -> None:
    """Add a record to the caller's transaction.

    Args:
        session: the open unit of work that makes the change.
        kind: one of `KINDS`.
        subject: what it is about, as "job:17", "grant:<uuid>", "node:n0".
        actor: "user:<uuid>", "scheduler:<epoch>" or `SYSTEM`.
        at: instant of the change, aware UTC.
        data: JSON values only: ids, digests, figures. No names, no text a person wrote.

    Raises:
        UnknownKindError: when the kind is not listed.
    """
    if kind not in KINDS:
        raise UnknownKindError(
            f"journal kind {kind!r} is not listed; add it to store.journal.KINDS and its docs"
        )
    noted = session.info.get(_NOTED)
    if noted is not None:
        noted.append((kind, subject, data))
    rows = session.info.get(_TOGETHER)
    if rows is None:
        session.add(JournalRow(at=at, kind=kind, subject=subject, actor=actor, data=dict(data)))
    else:
        rows.append((at, kind, subject, actor, to_json(data)))


def noted(session: Session) -> list[tuple[str, str, Mapping[str, object]]]:
    """Kind, subject and data of every record that the session appends from now on; also of those it takes back."""
    found: list[tuple[str, str, Mapping[str, object]]] = []
    session.info[_NOTED] = found
    return found


@contextmanager
def together(session: Session) -> Iterator[None]:
    """Write the records that are added inside at its end, in their order, in one statement.

    For work on many subjects at once. Inside, they cannot be read; an exception leaves them unwritten, as it must
    end the transaction or its savepoint. Inside another they are left to that one.
    """
    outer = session.info.get(_TOGETHER)
    if outer is not None:
        before = len(outer)
        try:
            yield
        except BaseException:
            del outer[before:]
            raise
        return
    rows: list[tuple[object, ...]] = []
    session.info[_TOGETHER] = rows
    try:
        yield
    finally:
        del session.info[_TOGETHER]
    if rows:
        copy_all(session, JournalRow.__tablename__, ("at", "kind", "subject", "actor", "data"), rows)


def _record(row: JournalRow) -> Record:
    return Record(row.id, str(row.xid), row.at, row.kind, row.subject, row.actor, row.data)


def read(session: Session, *, after_id: int = 0, visible_in: str | None = None) -> Iterator[Record]:
    """Yield records by id, a page at a time.

    Args:
        session: an open session.
        after_id: only records with a larger id.
        visible_in: text of a `pg_snapshot`; only what that snapshot saw. It rebuilds exactly the journal that a
            scheduling cycle was planned from, however transactions were interleaved.
    """
    position = after_id
    while True:
        statement = select(JournalRow).where(JournalRow.id > position).order_by(JournalRow.id).limit(PAGE)
        if visible_in is not None:
            seen = text("pg_visible_in_snapshot(journal.xid, cast(:snapshot as pg_snapshot))")
            statement = statement.where(seen.bindparams(snapshot=visible_in))
        rows = session.scalars(statement).all()
        yield from map(_record, rows)
        if len(rows) < PAGE:
            return
        position = rows[-1].id


def of_subject(session: Session, subject: str, *, after_id: int = 0, limit: int = 200) -> list[Record]:
    """Return up to `limit` records about one subject, by id."""
    statement = (
        select(JournalRow)
        .where(JournalRow.subject == subject, JournalRow.id > after_id)
        .order_by(JournalRow.id)
        .limit(limit)
    )
    return [_record(row) for row in session.scalars(statement)]


def of_kind(session: Session, kind: str, *, limit: int = 200) -> list[Record]:
    """Return the latest `limit` records of one kind, the newest first; served by the index on (kind, id)."""
    statement = select(JournalRow).where(JournalRow.kind == kind).order_by(JournalRow.id.desc()).limit(limit)
    return [_record(row) for row in session.scalars(statement)]


def latest(session: Session, subject: str, kinds: Sequence[str], *, limit: int) -> list[Record]:
    """Return the latest `limit` records of these kinds about one subject, the newest first.

    Served by the index on (subject, id): it costs as much as there are records about the subject.
    """
    statement = (
        select(JournalRow)
        .where(JournalRow.subject == subject, JournalRow.kind.in_(kinds))
        .order_by(JournalRow.id.desc())
        .limit(limit)
    )
    return [_record(row) for row in session.scalars(statement)]
