"""Observing attempts (T4): what agents report becomes facts, and facts change jobs.

Events come by long poll; every node's attempts are listed again now and then, so that nothing that was missed
stays missed. All of it may be heard twice.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from scheduler.changes import job_of
from scheduler.dispatch.wire import AttemptEvent, AttemptStatus, EventKind, RankExit, Signal
from scheduler.facts import CheckpointSeen, NodeLost, RankExited, RankStarted
from scheduler.heard import Heard, take_heard
from scheduler.launch import Leader
from scheduler.lifecycle import KILL_AFTER_S
from scheduler.model import AttemptId, NodeState
from scheduler.snapshot import LIVE
from scheduler.tables import AttemptRow, NodeRow
from store import clock
from store.engine import snapshot

KILL_AGAIN_AFTER_S: Final = KILL_AFTER_S + 5
"""Seconds after a stop was decided when ranks that are still alive are killed outright."""

SHEPHERD_LOST: Final = "SHEPHERD_LOST"
"""Error of a rank whose node has no record of it any more."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LiveOnNode:
    """A live attempt as the tables know it, with its ranks on one node that have not ended."""

    attempt_id: AttemptId
    ranks: tuple[int, ...]
    is_dispatched: bool
    stop_ms: int | None


def of_event(event: AttemptEvent) -> Heard:
    """The fact of an event."""
    attempt_id, at_ms = AttemptId(event.attempt_id), clock.to_ms(event.at)
    if event.kind is EventKind.CHECKPOINTED:
        return Heard(job_of(attempt_id), CheckpointSeen(attempt_id, event.rank, at_ms))
    if event.exit is None:
        return Heard(job_of(attempt_id), RankStarted(attempt_id, event.rank, at_ms))
    return _of_exit(attempt_id, event.rank, event.exit)


def _of_exit(attempt_id: AttemptId, rank: int, ended: RankExit) -> Heard:
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
    return Heard(job_of(attempt_id), fact, ended.outputs)


def of_status(status: AttemptStatus) -> list[Heard]:
    """The facts of a listed attempt: each rank's start, its last checkpoint, and its end where it ended."""
    attempt_id = AttemptId(status.attempt_id)
    job_id = job_of(attempt_id)
    found: list[Heard] = []
    for rank in status.ranks:
        if rank.exit is None and rank.started_at is not None:
            at_ms = clock.to_ms(rank.started_at)
            found.append(Heard(job_id, RankStarted(attempt_id, rank.rank, at_ms)))
        if rank.checkpoint_at is not None:
            at_ms = clock.to_ms(rank.checkpoint_at)
            found.append(Heard(job_id, CheckpointSeen(attempt_id, rank.rank, at_ms)))
        if rank.exit is not None:
            found.append(_of_exit(attempt_id, rank.rank, rank.exit))
    return found


def take_events(leader: Leader, events: Iterable[AttemptEvent]) -> None:
    """T4 for events, each attempt's in their order, in one transaction; one that cannot be drops only itself.

    Raises:
        StaleEpochError: another process is the scheduler.
    """
    heard: list[Heard] = []
    for event in events:
        try:
            heard.append(of_event(event))
        except ValueError:
            _logger.exception("%s is no attempt's name; the event is dropped", event.attempt_id)
    if heard:
        take_heard(leader, heard, at=clock.now())


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
    at = clock.now()
    now_ms = clock.to_ms(at)
    heard: list[Heard] = []
    for attempt_id, mine in known.items():
        status = statuses.get(attempt_id)
        if status is not None:
            heard += of_status(status)
        elif mine.is_dispatched:
            lost = (RankExited(attempt_id, rank, now_ms, error=SHEPHERD_LOST) for rank in mine.ranks)
            heard += [Heard(job_of(attempt_id), fact) for fact in lost]
    take_heard(leader, heard, at=at)
    for attempt_id, mine in known.items():
        status = statuses.get(attempt_id)
        if status is not None and status.is_alive and mine.stop_ms is not None:
            _stop_again(leader, node, attempt_id, waited_ms=now_ms - mine.stop_ms, is_back=is_back)
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
            Heard(job_of(attempt.attempt_id), NodeLost(node.name, clock.to_ms(node.last_seen_at)))
            for node in down
            for attempt in live_on(session, node.name)
            if attempt.stop_ms is None
        ]
    take_heard(leader, lost, at=clock.now())
