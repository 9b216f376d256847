"""Stopping attempts: their nodes are told side by side, and absence is proven, recorded in groups.

A stop is decided in the tables (`stop_why`); here it reaches the ranks. All of it may be done again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from scheduler.changes import job_of
from scheduler.dispatch.executor import Executor, ExecutorError, RefusedError, StaleEpochError
from scheduler.dispatch.wire import AgentCode, AttemptStatus, Signal
from scheduler.facts import AbsenceProven
from scheduler.heard import Heard, take_heard
from scheduler.launch import Leader
from scheduler.lifecycle import KILL_AFTER_S
from scheduler.model import AttemptId, JobState, NodeState
from scheduler.observe import of_status
from scheduler.side_by_side import call_nodes, log_failures
from scheduler.snapshot import LIVE
from scheduler.tables import AttemptRow, JobRow, NodeRow
from store import clock, lease
from store.engine import snapshot, transaction

STOPS_TOGETHER: Final = 500
"""Attempts that one call stops, and one transaction records: it stays under a second."""

ABSENCE_MARGIN_S: Final = 60
"""Seconds past walltime and kill wait when ranks on a silent node count as absent: their shepherd has ended them.

The shepherd enforces the walltime by itself, and a rank dies with its shepherd; the margin covers clocks.
"""


@dataclass(slots=True)
class _Stopping:
    """An attempt that is to be stopped, and what its nodes said of it so far.

    Attributes:
        told_for: the stop that is delivered; a launch that was late sets it anew.
        up: nodes with ranks that have not ended, and that count as up.
        down: those that are silent.
        over_ms: instant behind which ranks on a silent node count as absent.
        unheard: nodes of `up` that have not answered yet.
        is_failed: one of them did not answer, or refused.
        is_absent: every node that answered has nothing of it that lives.
    """

    attempt_id: AttemptId
    told_for: datetime | None
    up: frozenset[str]
    down: frozenset[str]
    over_ms: int
    unheard: set[str] = field(default_factory=set)
    is_failed: bool = False
    is_absent: bool = True

    @property
    def is_complete(self) -> bool:
        """Whether every node has answered well."""
        return not self.unheard and not self.is_failed

    def is_gone(self, now_ms: int) -> bool:
        """Whether absence is proven: by the word of every node, or by the walltime of those that are silent."""
        return self.is_complete and self.is_absent and (not self.down or now_ms > self.over_ms)


@dataclass(frozen=True, slots=True)
class _Look:
    """What a node has of an attempt: its record, None for one unknown; `is_said` false where it did not say."""

    status: AttemptStatus | None
    is_said: bool = True

    @property
    def is_absent(self) -> bool:
        """Whether certainly nothing of it lives there."""
        return self.is_said and (self.status is None or not self.status.is_alive)


def undelivered_stops(session: Session) -> list[AttemptId]:
    """Attempts that are to be stopped and whose ranks have not all been told."""
    statement = select(AttemptRow.id).where(
        AttemptRow.state.in_(LIVE),
        AttemptRow.stop_why.is_not(None),
        AttemptRow.ended_at.is_(None),
        AttemptRow.stop_sent_at.is_(None),
    )
    return [AttemptId(name) for name in session.scalars(statement.order_by(AttemptRow.id))]


def told_stops(session: Session) -> list[AttemptId]:
    """Attempts whose ranks were told to stop and whose absence is not proven yet."""
    statement = select(AttemptRow.id).where(
        AttemptRow.state == JobState.COMPLETING.value,
        AttemptRow.stop_why.is_not(None),
        AttemptRow.ended_at.is_(None),
        AttemptRow.stop_sent_at.is_not(None),
    )
    return [AttemptId(name) for name in session.scalars(statement.order_by(AttemptRow.id))]


def deliver_stops(leader: Leader, attempt_ids: Sequence[AttemptId]) -> frozenset[AttemptId]:
    """Tell every node of these attempts to stop their ranks, then look whether any is left.

    Nodes that are down are passed over: when they return, `relist` kills what is left there.

    Returns:
        Attempts of which a node that counts as up did not answer; they are to be told again later.

    Raises:
        StaleEpochError: of the executor or the lease: another process is the scheduler.
    """

    def tell(node: str, attempt_id: AttemptId) -> _Look:
        send_signal(leader.executor, node, attempt_id, Signal.TERM, KILL_AFTER_S, leader.epoch)
        try:
            return _look(leader, node, attempt_id)
        except StaleEpochError:
            raise
        except ExecutorError:
            return _Look(None, is_said=False)  # it was told; what became of that is asked later

    return _work(leader, attempt_ids, tell, is_told=True)


def prove_absences(leader: Leader, attempt_ids: Sequence[AttemptId]) -> frozenset[AttemptId]:
    """Ask the nodes of stopping attempts whether any of them is left; when none is, that ends it.

    A rank is absent when its node reported its end, or knows nothing of the attempt (a command of this epoch
    was refused there as unknown, and none of an older epoch is accepted after it), or has been silent until past
    the walltime that the rank's own shepherd enforces.

    Returns:
        Attempts of which a node that counts as up did not answer.

    Raises:
        StaleEpochError: of the executor or the lease: another process is the scheduler.
    """
    return _work(leader, attempt_ids, lambda node, name: _look(leader, node, name), is_told=False)


def send_signal(
    executor: Executor, node: str, attempt_id: str, signal: Signal, kill_after_s: int, epoch: int
) -> None:
    """Signal an attempt's ranks on a node; one that it does not know hears nothing, which is as well.

    Raises:
        ExecutorError: the node did not answer, or refused for another reason.
    """
    try:
        executor.signal(node, attempt_id, signal, kill_after_s, epoch)
    except RefusedError as error:
        if error.code != AgentCode.NOT_FOUND:
            raise


def _look(leader: Leader, node: str, attempt_id: AttemptId) -> _Look:
    """What the node has of the attempt.

    Raises:
        ExecutorError: it did not say.
    """
    try:
        return _Look(leader.executor.attempt(node, attempt_id))
    except RefusedError as error:
        if error.code != AgentCode.NOT_FOUND:
            raise
        return _Look(None)


def _work(
    leader: Leader,
    attempt_ids: Sequence[AttemptId],
    call: Callable[[str, AttemptId], _Look],
    *,
    is_told: bool,
) -> frozenset[AttemptId]:
    """Call the nodes of attempts that are to be stopped and record what they say; those that a node left open."""
    failed: set[AttemptId] = set()
    for begin in range(0, len(attempt_ids), STOPS_TOGETHER):
        with snapshot(leader.engine) as session:
            stopping = _read(session, attempt_ids[begin : begin + STOPS_TOGETHER])
        _record(leader, [one for one in stopping.values() if not one.up], (), is_told=is_told)
        asked: dict[str, list[AttemptId]] = {}
        for one in stopping.values():
            for node in sorted(one.up):
                asked.setdefault(node, []).append(one.attempt_id)
        for answers in call_nodes(leader, asked, call):
            touched: dict[AttemptId, _Stopping] = {}
            heard: list[Heard] = []
            log_failures(answers)
            for answer in answers:
                one = touched[answer.attempt_id] = stopping[answer.attempt_id]
                one.unheard.discard(answer.node)
                if isinstance(answer.result, ExecutorError):
                    one.is_failed = True
                    continue
                one.is_absent &= answer.result.is_absent
                if answer.result.status is not None:
                    heard += of_status(answer.result.status)
            _record(leader, [one for one in touched.values() if one.is_complete], heard, is_told=is_told)
        failed |= {one.attempt_id for one in stopping.values() if one.is_failed}
    return frozenset(failed)


def _read(session: Session, attempt_ids: Collection[AttemptId]) -> dict[AttemptId, _Stopping]:
    """What is to be stopped of these, by name, as the tables have it."""
    rows = session.execute(
        select(
            AttemptRow.id,
            AttemptRow.ranks,
            AttemptRow.stop_at,
            AttemptRow.committed_at,
            AttemptRow.admitted_at,
            JobRow.walltime_s,
        )
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .where(AttemptRow.id.in_(attempt_ids), AttemptRow.state.in_(LIVE), AttemptRow.stop_why.is_not(None))
        .order_by(AttemptRow.id)
    ).all()
    down = down_nodes(session)
    found: dict[AttemptId, _Stopping] = {}
    for row in rows:
        nodes = {str(rank["node"]) for rank in row.ranks if rank["ended_ms"] is None}
        began_ms = clock.to_ms(row.committed_at or row.admitted_at)
        found[AttemptId(row.id)] = _Stopping(
            attempt_id=AttemptId(row.id),
            told_for=row.stop_at,
            up=frozenset(nodes - down),
            down=frozenset(nodes & down),
            over_ms=began_ms + (row.walltime_s + KILL_AFTER_S + ABSENCE_MARGIN_S) * 1_000,
            unheard=nodes - down,
        )
    return found


def down_nodes(session: Session) -> frozenset[str]:
    """Nodes that are down."""
    return frozenset(session.scalars(select(NodeRow.name).where(NodeRow.state == NodeState.DOWN.value)))


def _record(leader: Leader, complete: Sequence[_Stopping], heard: Sequence[Heard], *, is_told: bool) -> None:
    """Note what was told, then take what was heard: exits, and absence where it is proven."""
    at = clock.now()
    now_ms = clock.to_ms(at)
    if is_told and complete:
        _note_told(leader, complete, at)
    gone = [
        Heard(job_of(one.attempt_id), AbsenceProven(one.attempt_id, now_ms))
        for one in complete
        if one.is_gone(now_ms)
    ]
    if heard or gone:
        take_heard(leader, [*heard, *gone], at=at)


_TOLD: Final = text("""
UPDATE attempts SET stop_sent_at = :at
FROM unnest(CAST(:names AS text[]), CAST(:told_for AS timestamptz[])) AS told(name, stop_at)
WHERE attempts.id = told.name AND attempts.stop_at = told.stop_at AND attempts.stop_sent_at IS NULL
""")
"""Told is only the stop that was undelivered when it was read: a launch that was late sets it anew."""


def _note_told(leader: Leader, told: Sequence[_Stopping], at: datetime) -> None:
    with transaction(leader.engine) as session:
        lease.fence(session, leader.held)
        lock_jobs(session, [one.attempt_id for one in told])
        values = {"names": [one.attempt_id for one in told], "told_for": [one.told_for for one in told]}
        session.execute(_TOLD, {"at": at, **values})


def lock_jobs(session: Session, attempt_ids: Iterable[str]) -> None:
    """Lock the jobs of attempts in the order of their ids, as everywhere."""
    job_ids = sorted({job_of(attempt_id) for attempt_id in attempt_ids})
    session.execute(select(JobRow.id).where(JobRow.id.in_(job_ids)).order_by(JobRow.id).with_for_update())
