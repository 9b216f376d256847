"""The sealer: orders committed journal records and chains them in segments, beside the transactions.

A record is sealed once no transaction that might still commit before it is running: its `xid` lies below
`pg_snapshot_xmin(pg_current_snapshot())`. Within that horizon the order is the record id. Each segment's digest
is SHA-256(previous digest || digest of each record in order). The head is also appended to a file outside the
database, so that a rewritten database does not agree with it.

Source: the visibility horizon is PostgreSQL's (documentation, section 9.27.10 "Transaction ID and Snapshot
Information Functions"); the chain is that of a hash-linked log, as in RFC 9162.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import cast

from sqlalchemy import ColumnElement, Engine, func, select, text
from sqlalchemy.orm import Session

from store.engine import snapshot, transaction
from store.journal import Record
from store.tables import JournalRow, JournalSealRow, JournalSegmentRow

GENESIS = bytes(32)
"""Digest before the first segment."""

SEGMENT_MAX = 5000
"""Records in one segment at most, so that verifying holds no more in memory."""

_SEALER_LOCK = 0x6B657A656B
"""Advisory lock of the single sealer ("kezek" in ASCII)."""


@dataclass(frozen=True, slots=True)
class Head:
    """Last sealed segment: its number, last sequence number and chain digest (hex)."""

    segment: int
    last_seq: int
    digest: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Result of verifying the journal. `problem` is None when every check held."""

    records_sealed: int
    records_unsealed: int
    segments: int
    head: str
    problem: str | None


def _chain(previous: bytes, digests: list[bytes]) -> bytes:
    whole = hashlib.sha256(previous)
    for digest in digests:
        whole.update(digest)
    return whole.digest()


def _last_segment(session: Session) -> JournalSegmentRow | None:
    return session.scalar(select(JournalSegmentRow).order_by(JournalSegmentRow.number.desc()).limit(1))


def _records(session: Session, first_seq: int, last_seq: int) -> list[Record]:
    rows = session.execute(
        select(JournalSealRow.seq, JournalRow)
        .join(JournalRow, JournalRow.id == JournalSealRow.journal_id)
        .where(JournalSealRow.seq.between(first_seq, last_seq))
        .order_by(JournalSealRow.seq)
    )
    return [
        Record(row.id, str(row.xid), row.at, row.kind, row.subject, row.actor, row.data) for _, row in rows
    ]


def seal_once(engine: Engine, head_file: Path, *, at: datetime) -> Head | None:
    """Seal what lies past the horizon; None when there is nothing, or while another sealer works.

    What is sealed is exactly what transactions before the last segment's horizon wrote, so no scan is needed.
    Cost: O(records sealed).
    """
    with transaction(engine) as session:
        if not session.scalar(select(func.pg_try_advisory_xact_lock(_SEALER_LOCK))):
            return None
        horizon = str(session.scalar(text("SELECT pg_snapshot_xmin(pg_current_snapshot())")))
        last = _last_segment(session)
        rows = session.scalars(
            select(JournalRow).where(_between(last.horizon if last else "0", horizon)).order_by(JournalRow.id)
        ).all()
        heads: list[Head] = []
        for start in range(0, len(rows), SEGMENT_MAX):
            last = _add_segment(session, last, rows[start : start + SEGMENT_MAX], horizon=horizon, at=at)
            heads.append(Head(last.number, last.last_seq, last.digest.hex()))
    for head in heads:
        _publish(head_file, head, at)
    return heads[-1] if heads else None


def _between(low: str, high: str) -> ColumnElement[bool]:
    clause = text("journal.xid >= cast(:low as xid8) AND journal.xid < cast(:high as xid8)")
    return cast("ColumnElement[bool]", clause.bindparams(low=low, high=high))


def _add_segment(
    session: Session,
    last: JournalSegmentRow | None,
    rows: Sequence[JournalRow],
    *,
    horizon: str,
    at: datetime,
) -> JournalSegmentRow:
    previous = last.digest if last else GENESIS
    first_seq = last.last_seq + 1 if last else 1
    digests = [Record(r.id, str(r.xid), r.at, r.kind, r.subject, r.actor, r.data).digest() for r in rows]
    segment = JournalSegmentRow(
        number=last.number + 1 if last else 1,
        first_seq=first_seq,
        last_seq=first_seq + len(rows) - 1,
        previous_digest=previous,
        digest=_chain(previous, digests),
        horizon=horizon,
        sealed_at=at,
    )
    session.add(segment)
    session.add_all(
        JournalSealRow(seq=first_seq + place, journal_id=row.id) for place, row in enumerate(rows)
    )
    session.flush()
    return segment


def _publish(head_file: Path, head: Head, at: datetime) -> None:
    line = json.dumps(
        {"at": at.isoformat(), "digest": head.digest, "last_seq": head.last_seq, "segment": head.segment},
        sort_keys=True,
    )
    with head_file.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def _published(head_file: Path) -> dict[int, str]:
    """Return the published digest of each segment; a torn last line (crash while writing) is passed over."""
    if not head_file.exists():
        return {}
    heads: dict[int, str] = {}
    for line in head_file.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        heads[int(entry["segment"])] = str(entry["digest"])
    return heads


def _segment_problem(
    session: Session, segment: JournalSegmentRow, expected: tuple[int, int, bytes], published: dict[int, str]
) -> str | None:
    number, first_seq, previous = expected
    if segment.number != number or segment.first_seq != first_seq:
        return f"segment {number} is missing or its range was changed"
    if segment.previous_digest != previous:
        return f"segment {number} does not follow its predecessor"
    records = _records(session, segment.first_seq, segment.last_seq)
    size = segment.last_seq - segment.first_seq + 1
    if len(records) != size:
        return f"segment {number} holds {len(records)} of {size} records: some were deleted"
    if _chain(previous, [record.digest() for record in records]) != segment.digest:
        return f"segment {number} (records {segment.first_seq}..{segment.last_seq}) was changed after it was sealed"
    if published.get(number, segment.digest.hex()) != segment.digest.hex():
        return f"segment {number} differs from its published head"
    return None


def verify(engine: Engine, head_file: Path) -> Verdict:
    """Recompute the chain from the first record on and compare it with the segments and the published heads.

    Cost: O(records), one segment in memory at a time.
    """
    with snapshot(engine) as session:
        published = _published(head_file)
        previous, first_seq, number, sealed = GENESIS, 1, 1, 0
        problem: str | None = None
        for segment in session.scalars(select(JournalSegmentRow).order_by(JournalSegmentRow.number)):
            problem = _segment_problem(session, segment, (number, first_seq, previous), published)
            if problem:
                break
            sealed += segment.last_seq - segment.first_seq + 1
            previous, first_seq, number = segment.digest, segment.last_seq + 1, number + 1
        if problem is None and published and max(published) >= number:
            problem = f"segment {max(published)} was published but is not in the database"
        total = session.scalar(select(func.count()).select_from(JournalRow)) or 0
        last = _last_segment(session)
        beyond = text("journal.xid >= cast(:low as xid8)").bindparams(low=last.horizon if last else "0")
        unsealed = session.scalar(select(func.count()).select_from(JournalRow).where(beyond)) or 0
        if problem is None and sealed + unsealed != total:
            problem = f"{sealed} records are sealed and {unsealed} not, but the journal holds {total}"
        return Verdict(sealed, unsealed, number - 1, previous.hex(), problem)
