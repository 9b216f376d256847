"""Dispatching an attempt (T3): the executor is called with no database session open, then one transaction.

Everything is idempotent by attempt id: a scheduler that died between two steps is followed by one that takes
them again. A gang is launched whole or undone.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor as Pool
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

from sqlalchemy import Engine, Text, any_, literal, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from scheduler.changes import job_of, take_all
from scheduler.dispatch.executor import (
    BundleMissingError,
    Executor,
    ExecutorError,
    RefusedError,
    StaleEpochError,
    UnreachableError,
)
from scheduler.dispatch.wire import (
    AgentCode,
    LaunchReceipt,
    Lease,
    Prepared,
    PrepareRequest,
    RankLease,
    Signal,
)
from scheduler.facts import LaunchCommitted, LaunchRefused
from scheduler.fields import slots_of
from scheduler.lifecycle import KILL_AFTER_S, InvalidTransition
from scheduler.model import AttemptId, Slot
from scheduler.snapshot import LIVE
from scheduler.tables import AttemptRow, BundleRow, JobRow, JobTextRow, NodeRow
from store import clock, journal, lease
from store.engine import snapshot, transaction

CALL_TRIES: Final = 3
"""Times one idempotent call to an agent is made before its node counts as unreachable for this launch."""

CALL_PAUSE_S: Final = 0.2
"""Pause before the second try [s], doubled for the next, with up to as much again at random."""

UNREACHABLE: Final = "UNREACHABLE"
"""Code of a launch that failed because an agent did not answer."""

BUNDLE_LOST: Final = "BUNDLE_LOST"
"""Code of a launch whose bundle is not in the database any more."""

_logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """An attempt to be launched, as read from the tables."""

    attempt_id: AttemptId
    slots: tuple[Slot, ...]
    command: tuple[str, ...]
    env: dict[str, str]
    outputs: tuple[str, ...]
    bundle: str | None
    walltime_s: int
    memory_bytes_per_rank: int | None
    flavor: str
    is_simulated: bool
    memory_bytes_per_gpu: int | None = None
    cpus_per_gpu: int | None = None

    def memory_bytes(self, slot: Slot) -> int | None:
        """Memory at which a rank is stopped: what was asked for it, and no more than is set aside for its GPUs."""
        aside = self.memory_bytes_per_gpu
        limits = [self.memory_bytes_per_rank, None if aside is None else aside * len(slot.gpu_uuids)]
        return min((limit for limit in limits if limit is not None), default=None)


@dataclass(frozen=True, slots=True)
class Leader:
    """What every act of the leading scheduler needs: the database, the nodes, its lease.

    `pool` runs calls to several nodes side by side; `stopping` is set when this process must act no more.
    """

    engine: Engine
    executor: Executor
    held: lease.Held
    pool: Pool
    stopping: threading.Event

    @property
    def actor(self) -> str:
        """As the journal names this scheduler."""
        return f"scheduler:{self.held.epoch}"

    @property
    def epoch(self) -> int:
        """Fencing epoch of every command."""
        return self.held.epoch


def load_work(session: Session, attempt_id: str) -> Work | None:
    """Read what is to be launched; None when the attempt ended, is being stopped, or was dispatched."""
    return next(iter(load_works(session, [attempt_id])), None)


def load_works(session: Session, attempt_ids: Sequence[str]) -> list[Work]:
    """`load_work` for several, in the order given, without those that are not to be launched any more."""
    rows = session.execute(
        select(
            AttemptRow.id,
            AttemptRow.ranks,
            JobRow.array_id,
            JobRow.array_index,
            JobRow.bundle_digest,
            JobRow.walltime_s,
            JobRow.memory_bytes_per_rank,
            JobRow.memory_bytes_per_gpu,
            JobRow.cpus_per_gpu,
            JobTextRow.command,
            JobTextRow.env,
            JobTextRow.outputs,
        )
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .join(JobTextRow, JobTextRow.job_id == JobRow.id)
        .where(
            AttemptRow.id == any_(literal([*attempt_ids], ARRAY(Text))),
            AttemptRow.state.in_(LIVE),
            AttemptRow.stop_why.is_(None),
            AttemptRow.dispatched_at.is_(None),
        )
    ).all()
    slots = {row.id: slots_of(row.ranks) for row in rows}
    first = {found[0].node for found in slots.values()}
    nodes = {
        node.name: node
        for node in session.execute(
            select(NodeRow.name, NodeRow.flavor, NodeRow.is_simulated).where(NodeRow.name.in_(first))
        )
    }
    found = {
        row.id: Work(
            attempt_id=AttemptId(row.id),
            slots=slots[row.id],
            command=tuple(row.command),
            env=row.env | _array_env(row.array_id, row.array_index),
            outputs=tuple(row.outputs),
            bundle=row.bundle_digest,
            walltime_s=row.walltime_s,
            memory_bytes_per_rank=row.memory_bytes_per_rank,
            memory_bytes_per_gpu=row.memory_bytes_per_gpu,
            cpus_per_gpu=row.cpus_per_gpu,
            flavor=nodes[slots[row.id][0].node].flavor,
            is_simulated=nodes[slots[row.id][0].node].is_simulated,
        )
        for row in rows
    }
    return [found[attempt_id] for attempt_id in attempt_ids if attempt_id in found]


def _array_env(array_id: int | None, array_index: int | None) -> dict[str, str]:
    """What a job of an array is told of its place."""
    if array_index is None:
        return {}
    return {"KEZEK_ARRAY_ID": str(array_id), "KEZEK_ARRAY_INDEX": str(array_index)}


def dispatch(leader: Leader, attempt_id: str, *, is_fresh: bool) -> None:
    """Launch an admitted attempt on all its nodes and record it (T3), or undo it and record why.

    Args:
        leader: the leading scheduler.
        attempt_id: the attempt.
        is_fresh: nobody can have tried before: this very process admitted it just now. Else an unanswered or
            refused call leaves open whether ranks run, and only a node's own word proves that none does.

    Raises:
        StaleEpochError: of the executor or the lease: another process is the scheduler.
    """
    dispatch_all(leader, [attempt_id], is_fresh=is_fresh)


def dispatch_all(leader: Leader, attempt_ids: Sequence[str], *, is_fresh: bool) -> None:
    """`dispatch` for several attempts, one after the other: read together, launched, and recorded together.

    For attempts of one node, or of nodes that answer at once: the record waits for the last answer.

    Raises:
        StaleEpochError: of the executor or the lease: another process is the scheduler.
    """
    with snapshot(leader.engine) as session:
        works = load_works(session, attempt_ids)
    facts = [_carry_out(leader, work, is_fresh=is_fresh) for work in works]
    if facts:
        record_all(leader, facts)


def _carry_out(leader: Leader, work: Work, *, is_fresh: bool) -> LaunchCommitted | LaunchRefused:
    """Launch on all nodes, or undo it; what came of it."""
    try:
        endpoint = _call(leader, lambda: _prepare(leader, work))
    except StaleEpochError:
        raise
    except ExecutorError as error:
        is_absent = _undo(leader, work, launched=() if is_fresh else [slot.node for slot in work.slots])
        return _refusal(work, error, is_absent=is_absent)
    results = _launch_all(leader, work, endpoint)
    errors = [result for result in results if isinstance(result, ExecutorError)]
    stale = next((error for error in errors if isinstance(error, StaleEpochError)), None)
    if stale is not None:
        raise stale
    receipts = [result for result in results if isinstance(result, LaunchReceipt)]
    if errors:
        launched = tuple(
            slot.node for slot, result in zip(work.slots, results, strict=True) if not _never_began(result)
        )
        return _refusal(work, errors[0], is_absent=_undo(leader, work, launched=launched))
    committed_ms = max(clock.to_ms(receipt.committed_at) for receipt in receipts)
    return LaunchCommitted(work.attempt_id, committed_ms)


def record(leader: Leader, fact: LaunchCommitted | LaunchRefused) -> None:
    """T3: let the launch's outcome change the job, guarded by the epoch and the attempt's state.

    Raises:
        StaleEpochError: another process is the scheduler; nothing was written.
    """
    record_all(leader, [fact])


def record_all(leader: Leader, facts: Sequence[LaunchCommitted | LaunchRefused]) -> None:
    """T3 for several launches, in one transaction; each alone where one of them cannot be.

    Raises:
        StaleEpochError: another process is the scheduler; nothing was written.
        InvalidTransition: a launch's outcome cannot happen to its job as it stands; the others are recorded.
    """
    at = clock.now()
    try:
        with transaction(leader.engine) as session:
            lease.fence(session, leader.held)
            asked = [(job_of(fact.attempt_id), fact) for fact in facts]
            outcomes = take_all(session, asked, at=at, actor=leader.actor)
            for fact, outcome in zip(facts, outcomes, strict=True):
                if outcome.ignored not in {None, "duplicate"}:
                    _drop(session, fact, outcome.ignored or "", at=at, actor=leader.actor)
    except InvalidTransition:
        if len(facts) == 1:
            raise
        middle = len(facts) // 2
        try:
            record_all(leader, facts[:middle])
        finally:
            record_all(leader, facts[middle:])


def _drop(
    session: Session, fact: LaunchCommitted | LaunchRefused, why: str, *, at: datetime, actor: str
) -> None:
    """A result that came too late changes nothing, and the journal says so."""
    data: dict[str, object] = {"attempt_id": fact.attempt_id, "fact": type(fact).__name__, "why": why}
    journal.append(session, "stale.dropped", f"attempt:{fact.attempt_id}", actor=actor, at=at, data=data)


def _prepare(leader: Leader, work: Work) -> Prepared:
    """Hold rank 0's GPUs and a port on its node."""
    first = work.slots[0]
    request = PrepareRequest(
        attempt_id=work.attempt_id, gpu_uuids=first.gpu_uuids, wants_endpoint=True, bundle=work.bundle
    )
    prepared = leader.executor.prepare(first.node, request, leader.epoch)
    if work.bundle is not None and not prepared.has_bundle:
        _bring_bundle(leader, work, first.node)
    return prepared


def _bring_bundle(leader: Leader, work: Work, node: str) -> None:
    with snapshot(leader.engine) as session:
        data = session.scalar(select(BundleRow.data).where(BundleRow.digest == work.bundle))
    if data is None or work.bundle is None:
        raise RefusedError(node, BUNDLE_LOST, f"bundle {work.bundle} is not in the database; submit it again")
    leader.executor.put_bundle(node, work.bundle, data, leader.epoch)


def _launch_all(leader: Leader, work: Work, endpoint: Prepared) -> list[LaunchReceipt | ExecutorError]:
    """Launch on every node, side by side; one result per slot."""
    if len(work.slots) == 1:
        return [_launch(leader, work, 0, endpoint)]
    futures = [leader.pool.submit(_launch, leader, work, rank, endpoint) for rank in range(len(work.slots))]
    return [future.result() for future in futures]


def _launch(leader: Leader, work: Work, rank: int, endpoint: Prepared) -> LaunchReceipt | ExecutorError:
    slot = work.slots[rank]
    asked = Lease(
        attempt_id=work.attempt_id,
        job_id=job_of(work.attempt_id),
        epoch=leader.epoch,
        command=work.command,
        ranks=(RankLease(rank, slot.gpu_uuids),),
        world_size=len(work.slots),
        master_addr=endpoint.master_addr or "",
        master_port=endpoint.master_port or 0,
        walltime_s=work.walltime_s,
        kill_wait_s=KILL_AFTER_S,
        flavor=work.flavor,
        simulated=work.is_simulated,
        bundle=work.bundle,
        env=work.env,
        outputs=work.outputs,
        memory_bytes_per_rank=work.memory_bytes(slot),
        cpus_per_rank=None if work.cpus_per_gpu is None else work.cpus_per_gpu * len(slot.gpu_uuids),
    )

    def once() -> LaunchReceipt:
        try:
            return leader.executor.launch(slot.node, asked)
        except BundleMissingError:
            _bring_bundle(leader, work, slot.node)
            return leader.executor.launch(slot.node, asked)

    try:
        return _call(leader, once)
    except ExecutorError as error:
        return error


def _call(leader: Leader, once: Callable[[], T]) -> T:
    """Make an idempotent call, again when no answer came, at most CALL_TRIES times."""
    for attempt in range(CALL_TRIES - 1):
        try:
            return once()
        except UnreachableError:
            pause_s = CALL_PAUSE_S * 2**attempt
            if leader.stopping.wait(pause_s * (1 + random.random())):  # noqa: S311 - jitter, no secret
                raise
    return once()


def _never_began(result: LaunchReceipt | ExecutorError) -> bool:
    """Whether the node certainly runs nothing: it refused. One that did not answer may run it."""
    return isinstance(result, RefusedError) and result.code != AgentCode.LEASE_MISMATCH


def _undo(leader: Leader, work: Work, launched: Sequence[str]) -> bool:
    """Take back what may run or is reserved; True when certainly nothing of it runs anywhere."""
    for node in dict.fromkeys((work.slots[0].node, *launched)):
        try:
            leader.executor.signal(node, work.attempt_id, Signal.KILL, 0, leader.epoch)
        except StaleEpochError:
            raise
        except ExecutorError as error:
            _logger.info("undoing %s: %s", work.attempt_id, error)
    return not launched


def _refusal(work: Work, error: ExecutorError, *, is_absent: bool) -> LaunchRefused:
    code = error.code if isinstance(error, RefusedError) else UNREACHABLE
    return LaunchRefused(work.attempt_id, code, is_absent, clock.to_ms(clock.now()))
