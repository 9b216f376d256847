"""Facts taken together (T4): as many as came in one transaction, and one that cannot be drops only itself."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from scheduler.changes import UnknownJobError, take_all
from scheduler.dispatch.wire import OutputFile
from scheduler.facts import Fact, Outcome, RankExited
from scheduler.fields import Fields
from scheduler.launch import Leader
from scheduler.lifecycle import InvalidTransition
from scheduler.model import JobId
from scheduler.tables import ArtefactRow, AttemptRow
from store import clock, journal, lease
from store.bulk import insert_all, plain
from store.engine import transaction

FACTS_TOGETHER: Final = 1_000
"""Facts that one transaction takes at most: it stays under a second, and holds its locks no longer."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Heard:
    """A fact about a job, with the files that the rank it speaks of kept."""

    job_id: JobId
    fact: Fact
    outputs: tuple[OutputFile, ...] = ()


def take_heard(leader: Leader, heard: Sequence[Heard], *, at: datetime) -> list[Outcome | None]:
    """Let facts change their jobs, in their order, FACTS_TOGETHER in a transaction.

    What is known already changes nothing. What cannot be is logged with its story and dropped, and all others are
    taken: an agent's word must not stop the scheduler.

    Args:
        leader: the leading scheduler.
        heard: the facts; those of one job in the order in which they came to pass.
        at: instant of the change by the platform's clock.

    Returns:
        An outcome per fact, None for one that cannot be.

    Raises:
        StaleEpochError: another process is the scheduler; what was not committed before is not written.
    """
    outcomes: list[Outcome | None] = []
    for begin in range(0, len(heard), FACTS_TOGETHER):
        outcomes += _take(leader, heard[begin : begin + FACTS_TOGETHER], at)
    return outcomes


def _take(leader: Leader, heard: Sequence[Heard], at: datetime) -> list[Outcome | None]:
    """Take facts in one transaction; where one of them cannot be, each half by itself."""
    try:
        with transaction(leader.engine) as session:
            lease.fence(session, leader.held)
            facts = [(one.job_id, one.fact) for one in heard]
            outcomes = take_all(session, facts, at=at, actor=leader.actor)
            kept = [
                one
                for one, outcome in zip(heard, outcomes, strict=True)
                if outcome.ignored is None and one.outputs
            ]
            _keep(session, kept, leader.actor)
    except (UnknownJobError, InvalidTransition, ValueError):
        if len(heard) == 1:
            _logger.exception("job %d: it is told what cannot be; dropped", heard[0].job_id)
            return [None]
        middle = len(heard) // 2
        return [*_take(leader, heard[:middle], at), *_take(leader, heard[middle:], at)]
    return [*outcomes]


def _keep(session: Session, kept: Sequence[Heard], actor: str) -> None:
    """Record kept files: their names in the table, digests and sizes in the journal."""
    ends = [(one.fact, one) for one in kept if isinstance(one.fact, RankExited)]
    if not ends:
        return
    names = {fact.attempt_id for fact, _ in ends}
    found = session.execute(select(AttemptRow.id, AttemptRow.ranks).where(AttemptRow.id.in_(names)))
    ranks = {row.id: row.ranks for row in found}
    rows: list[ArtefactRow] = []
    with journal.together(session):
        for fact, one in ends:
            at = clock.from_ms(fact.at_ms)
            for output in one.outputs:
                rows.append(
                    plain(
                        ArtefactRow,
                        job_id=one.job_id,
                        attempt_id=fact.attempt_id,
                        node=str(ranks[fact.attempt_id][fact.rank]["node"]),
                        rank=fact.rank,
                        path=output.path,
                        size_bytes=output.size_bytes,
                        digest=output.sha256,
                        created_at=at,
                    )
                )
                data: Fields = {"rank": fact.rank, "digest": output.sha256, "size_bytes": output.size_bytes}
                subject = f"attempt:{fact.attempt_id}"
                journal.append(session, "artefact.kept", subject, actor=actor, at=at, data=data)
        insert_all(session, rows)
