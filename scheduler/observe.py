"""Observing attempts (T4): what agents report becomes facts, facts change jobs, and absence is proven.

Events come by long poll; every node's attempts are listed again now and then, so that nothing that was missed
stays missed. All of it may be heard twice.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from scheduler.changes import UnknownJobError, job_of, take, take_all
from scheduler.dispatch.executor import ExecutorError, RefusedError, StaleEpochError
from scheduler.dispatch.wire import (
    AgentCode,
    AttemptEvent,
    AttemptStatus,
    EventKind,
    OutputFile,
    RankExit,
    Signal,
)
from scheduler.facts import AbsenceProven, CheckpointSeen, NodeLost, RankExited, RankStarted
from scheduler.fields import Fields
from scheduler.launch import Leader
from scheduler.lifecycle import KILL_AFTER_S, InvalidTransition
from scheduler.model import AttemptId, JobState, NodeState
from scheduler.snapshot import LIVE
from scheduler.tables import ArtefactRow, AttemptRow, JobRow, NodeRow
from store import clock, journal, lease
from store.engine import snapshot, transaction

KILL_AGAIN_AFTER_S: Final = KILL_AFTER_S + 5
"""Seconds after a stop was decided when ranks that are still alive are killed outright."""

ABSENCE_MARGIN_S: Final = 60
"""Seconds past walltime and kill wait when ranks on a silent node count as absent: their shepherd has ended them.

The shepherd enforces the walltime by itself, and a rank dies with its shepherd; the margin covers clocks.
"""

SHEPHERD_LOST: Final = "SHEPHERD_LOST"
"""Error of a rank whose node has no record of it any more."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Seen:
    """A fact about a rank, with the files it kept."""

    fact: RankStarted | CheckpointSeen | RankExited
    outputs: tuple[OutputFile, ...] = ()


@dataclass(frozen=True, slots=True)
class LiveOnNode:
    """A live attempt as the tables know it, with its ranks on one node that have not ended."""

    attempt_id: AttemptId
    ranks: tuple[int, ...]
    is_dispatched: bool
    stop_ms: int | None


def of_event(event: AttemptEvent) -> Seen:
    """The fact of an event."""
    attempt_id, at_ms = AttemptId(event.attempt_id), clock.to_ms(event.at)
    if event.kind is EventKind.CHECKPOINTED:
        return Seen(CheckpointSeen(attempt_id, event.rank, at_ms))
    if event.exit is None:
        return Seen(RankStarted(attempt_id, event.rank, at_ms))
    return _of_exit(attempt_id, event.rank, event.exit)


def _of_exit(attempt_id: AttemptId, rank: int, ended: RankExit) -> Seen:
    fact = RankExited(
        attempt_id=attempt_id,
        rank=rank,
        at_ms=clock.to_ms(ended.ended_at),
        exit_code=ended.exit_code,
        signal=ended.signal,
        is_timeout=ended.timeout,
        is_oom=ended.oom,
        error=ended.error,
        started_ms=None if ended.started_at is None else clock.to_ms(ended.started_at),
    )
    return Seen(fact, ended.outputs)


def of_status(status: AttemptStatus) -> list[Seen]:
    """The facts of a listed attempt: each rank's start, its last checkpoint, and its end where it ended."""
    attempt_id = AttemptId(status.attempt_id)
    found: list[Seen] = []
    for rank in status.ranks:
        if rank.exit is None and rank.started_at is not None:
            found.append(Seen(RankStarted(attempt_id, rank.rank, clock.to_ms(rank.started_at))))
        if rank.checkpoint_at is not None:
            found.append(Seen(CheckpointSeen(attempt_id, rank.rank, clock.to_ms(rank.checkpoint_at))))
        if rank.exit is not None:
            found.append(_of_exit(attempt_id, rank.rank, rank.exit))
    return found


def take_events(leader: Leader, events: Iterable[AttemptEvent]) -> None:
    """T4 for a page of events in one transaction, each attempt's events in their order.

    Where one of them cannot be, a transaction per attempt.

    Raises:
        StaleEpochError: another process is the scheduler.
    """
    by_attempt: dict[str, list[Seen]] = {}
    for event in events:
        by_attempt.setdefault(event.attempt_id, []).append(of_event(event))
    if not by_attempt:
        return
    try:
        _take_page(leader, by_attempt)
    except (UnknownJobError, InvalidTransition, ValueError):
        for attempt_id, seen in by_attempt.items():
            take_seen(leader, attempt_id, seen)


def take_seen(leader: Leader, attempt_id: str, seen: Sequence[Seen]) -> None:
    """T4: facts about one attempt change its job, its files are recorded, its claim settled, in one transaction.

    What is known already changes nothing. What cannot be is logged with its story and dropped: an agent's word
    must not stop the scheduler.

    Raises:
        StaleEpochError: another process is the scheduler; nothing was written.
    """
    try:
        _take_page(leader, {attempt_id: seen})
    except (UnknownJobError, InvalidTransition, ValueError):
        _logger.exception("attempt %s: its node reports what cannot be; dropped", attempt_id)


def _take_page(leader: Leader, by_attempt: Mapping[str, Sequence[Seen]]) -> None:
    """Take facts about several attempts in one transaction.

    Raises:
        UnknownJobError, InvalidTransition, ValueError: one of them cannot be; nothing was written.
    """
    at = clock.now()
    seen = [(job_of(attempt_id), one) for attempt_id, found in by_attempt.items() for one in found]
    with transaction(leader.engine) as session:
        lease.fence(session, leader.held)
        facts = [(job_id, one.fact) for job_id, one in seen]
        outcomes = take_all(session, facts, at=at, actor=leader.actor)
        for (_, one), outcome in zip(seen, outcomes, strict=True):
            if outcome.ignored is None and one.outputs:
                _keep(session, one, leader.actor)


def _keep(session: Session, seen: Seen, actor: str) -> None:
    """Record kept files: their names in the table, digests and sizes in the journal."""
    fact, at = seen.fact, clock.from_ms(seen.fact.at_ms)
    attempt = session.get_one(AttemptRow, fact.attempt_id)
    job_id = attempt.job_id
    for output in seen.outputs:
        session.add(
            ArtefactRow(
                job_id=job_id,
                attempt_id=fact.attempt_id,
                node=str(attempt.ranks[fact.rank]["node"]),
                rank=fact.rank,
                path=output.path,
                size_bytes=output.size_bytes,
                digest=output.sha256,
                created_at=at,
            )
        )
        data: Fields = {"rank": fact.rank, "digest": output.sha256, "size_bytes": output.size_bytes}
        journal.append(session, "artefact.kept", f"attempt:{fact.attempt_id}", actor=actor, at=at, data=data)


def live_on(session: Session, node: str | None = None) -> list[LiveOnNode]:
    """Live attempts with ranks on a node (None: on any) that have not ended."""
    rows = session.scalars(select(AttemptRow).where(AttemptRow.state.in_(LIVE)).order_by(AttemptRow.id))
    found: list[LiveOnNode] = []
    for row in rows:
        ranks = tuple(
            number
            for number, rank in enumerate(row.ranks)
            if rank["ended_ms"] is None and node in {None, rank["node"]}
        )
        if ranks:
            stop_ms = None if row.stop_at is None else clock.to_ms(row.stop_at)
            found.append(LiveOnNode(AttemptId(row.id), ranks, row.dispatched_at is not None, stop_ms))
    return found


def relist(leader: Leader, node: str, *, is_back: bool = False) -> None:
    """List a node's attempts and set them beside the tables: facts missed, ranks lost, orphans.

    With `is_back` the node was out of sight, so its ranks may not have been told to stop: they are told now. The
    tables are read before the node is asked: an attempt known to be dispatched that the node does not list
    is lost, not late.

    Raises:
        ExecutorError: the node did not answer; StaleEpochError among them.
    """
    with snapshot(leader.engine) as session:
        known = {one.attempt_id: one for one in live_on(session, node)}
    statuses = {AttemptId(status.attempt_id): status for status in leader.executor.list_attempts(node)}
    now_ms = clock.to_ms(clock.now())
    for attempt_id, mine in known.items():
        status = statuses.get(attempt_id)
        if status is not None:
            take_seen(leader, attempt_id, of_status(status))
            if status.is_alive and mine.stop_ms is not None:
                _stop_again(leader, node, attempt_id, waited_ms=now_ms - mine.stop_ms, is_back=is_back)
        elif mine.is_dispatched:
            lost = [Seen(RankExited(attempt_id, rank, now_ms, error=SHEPHERD_LOST)) for rank in mine.ranks]
            take_seen(leader, attempt_id, lost)
    _sweep_orphans(leader, node, {name: s for name, s in statuses.items() if name not in known})


def _stop_again(leader: Leader, node: str, attempt_id: str, *, waited_ms: int, is_back: bool) -> None:
    """Ranks that should have ended: killed when their time is over, told once more when they may not know."""
    if waited_ms > KILL_AGAIN_AFTER_S * 1_000:
        leader.executor.signal(node, attempt_id, Signal.KILL, 0, leader.epoch)
    elif is_back:
        leader.executor.signal(node, attempt_id, Signal.TERM, KILL_AFTER_S, leader.epoch)


def _sweep_orphans(leader: Leader, node: str, strangers: Mapping[AttemptId, AttemptStatus]) -> None:
    """Kill what runs and is not live in our tables; forget what our tables never knew."""
    if not strangers:
        return
    with snapshot(leader.engine) as session:
        rows = session.execute(
            select(AttemptRow.id, AttemptRow.state, AttemptRow.ranks).where(AttemptRow.id.in_(strangers))
        )
        states = {row.id: row.state for row in rows}
    for attempt_id, status in strangers.items():
        if states.get(attempt_id) in LIVE:
            continue
        if status.is_alive:
            _logger.warning("node %s runs %s, which is not live in the tables; killing it", node, attempt_id)
            leader.executor.signal(node, attempt_id, Signal.KILL, 0, leader.epoch)
        elif attempt_id not in states:
            leader.executor.remove(node, attempt_id, leader.epoch)


def undelivered_stops(session: Session) -> list[str]:
    """Attempts that are to be stopped and whose ranks have not all been told."""
    statement = select(AttemptRow.id).where(
        AttemptRow.state.in_(LIVE),
        AttemptRow.stop_why.is_not(None),
        AttemptRow.ended_at.is_(None),
        AttemptRow.stop_sent_at.is_(None),
    )
    return list(session.scalars(statement.order_by(AttemptRow.id)))


def told_stops(session: Session) -> list[str]:
    """Attempts whose ranks were told to stop and whose absence is not proven yet."""
    statement = select(AttemptRow.id).where(
        AttemptRow.state == JobState.COMPLETING.value,
        AttemptRow.stop_why.is_not(None),
        AttemptRow.ended_at.is_(None),
        AttemptRow.stop_sent_at.is_not(None),
    )
    return list(session.scalars(statement.order_by(AttemptRow.id)))


def deliver_stop(leader: Leader, attempt_id: str) -> None:
    """Tell every node of an attempt to stop its ranks, then look whether any is left.

    Nodes that are down are passed over: when they return, `relist` kills what is left there.

    Raises:
        StaleEpochError: another process is the scheduler.
        UnreachableError: a node that counts as up did not answer; it is told again later.
    """
    with snapshot(leader.engine) as session:
        row = session.get(AttemptRow, attempt_id)
        if row is None or row.state not in LIVE or row.stop_why is None:
            return
        nodes = [str(rank["node"]) for rank in row.ranks if rank["ended_ms"] is None]
        up = _up_of(session, nodes)
        # Told again only when the same stop is undelivered still: a launch that was late sets it anew.
        told_for = row.stop_at
    for node in nodes:
        if node not in up:
            continue
        try:
            leader.executor.signal(node, attempt_id, Signal.TERM, KILL_AFTER_S, leader.epoch)
        except RefusedError as error:
            if error.code != AgentCode.NOT_FOUND:
                raise
    with transaction(leader.engine) as session:
        lease.fence(session, leader.held)
        locked = select(JobRow.id).where(JobRow.id == job_of(attempt_id)).with_for_update()
        session.execute(locked)
        row = session.get_one(AttemptRow, attempt_id, populate_existing=True)
        if row.stop_sent_at is None and row.stop_at == told_for:
            row.stop_sent_at = clock.now()
    prove_absence(leader, attempt_id)


def _up_of(session: Session, nodes: Collection[str]) -> frozenset[str]:
    """Which of these nodes are not down."""
    up = select(NodeRow.name).where(NodeRow.name.in_(nodes), NodeRow.state != NodeState.DOWN.value)
    return frozenset(session.scalars(up))


def prove_absence(leader: Leader, attempt_id: str) -> None:
    """Ask the nodes of a stopping attempt whether any of it is left; when none is, that ends it.

    A rank is absent when its node reported its end, or knows nothing of the attempt (a command of this epoch
    was refused there as unknown, and none of an older epoch is accepted after it), or has been silent until past
    the walltime that the rank's own shepherd enforces.

    Raises:
        StaleEpochError: another process is the scheduler.
    """
    with snapshot(leader.engine) as session:
        row = session.get(AttemptRow, attempt_id)
        if row is None or row.state not in LIVE or row.stop_why is None:
            return
        open_nodes = [str(rank["node"]) for rank in row.ranks if rank["ended_ms"] is None]
        up = _up_of(session, open_nodes)
        walltime_s = session.get_one(JobRow, row.job_id).walltime_s
        began = row.committed_at or row.admitted_at
    now_ms = clock.to_ms(clock.now())
    over_ms = clock.to_ms(began) + (walltime_s + KILL_AFTER_S + ABSENCE_MARGIN_S) * 1_000
    for node in open_nodes:
        is_absent = _is_unknown(leader, node, attempt_id) if node in up else now_ms > over_ms
        if not is_absent:
            return
    at = clock.now()
    with transaction(leader.engine) as session:
        lease.fence(session, leader.held)
        fact = AbsenceProven(AttemptId(attempt_id), now_ms)
        take(session, job_of(attempt_id), fact, at=at, actor=leader.actor)


def _is_unknown(leader: Leader, node: str, attempt_id: str) -> bool:
    """Whether the node has no record of the attempt; facts it has are taken on the way."""
    try:
        status = leader.executor.attempt(node, attempt_id)
    except StaleEpochError:
        raise
    except RefusedError as error:
        return error.code == AgentCode.NOT_FOUND
    except ExecutorError:
        return False
    take_seen(leader, attempt_id, of_status(status))
    return not status.is_alive


def lose_nodes(leader: Leader) -> None:
    """Stop every live attempt with a rank on a node that is down; again is fine.

    Raises:
        StaleEpochError: another process is the scheduler.
    """
    with snapshot(leader.engine) as session:
        down = session.execute(
            select(NodeRow.name, NodeRow.last_seen_at).where(NodeRow.state == NodeState.DOWN.value)
        ).all()
        lost = [
            (attempt.attempt_id, NodeLost(node.name, clock.to_ms(node.last_seen_at)))
            for node in down
            for attempt in live_on(session, node.name)
            if attempt.stop_ms is None
        ]
    for attempt_id, fact in lost:
        with transaction(leader.engine) as session:
            lease.fence(session, leader.held)
            take(session, job_of(attempt_id), fact, at=clock.now(), actor=leader.actor)
