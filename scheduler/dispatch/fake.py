"""An executor in memory with scripted behaviour, held to the same contract as the real one.

Serves simulations and tests. It can lie as a network and an agent may: repeat, delay and reorder
events, lose answers, refuse.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from scheduler.dispatch.executor import BundleMissingError, RefusedError, StaleEpochError, UnreachableError
from scheduler.dispatch.limits import MAX_EVENTS_PER_PAGE
from scheduler.dispatch.wire import (
    AgentCode,
    AttemptEvent,
    AttemptStatus,
    EventKind,
    EventPage,
    GpuSlot,
    LaunchReceipt,
    Lease,
    LogPage,
    NodeProbe,
    Prepared,
    PrepareRequest,
    RankExit,
    RankStatus,
    Signal,
)

FIRST_PORT = 20_000
EPOCH_START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What becomes of a rank.

    Attributes:
        runs: whether it goes on until it is signalled, instead of ending at once.
        exit_code: its exit code when it ends by itself.
        log: what it wrote.
        outputs: files it left, by path.
    """

    runs: bool = False
    exit_code: int = 0
    log: bytes = b""
    outputs: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lies:
    """How the fake misbehaves; nothing by default.

    Attributes:
        repeats: each page of events is told again from its beginning on the next call.
        reverses: events of a page come in reverse order.
        withholds: number of `observe` calls that answer nothing before events are told.
        loses_answers: the next so many launches are carried out, but their answer is lost.
        refuses: code with which every launch is refused, None to accept.
    """

    repeats: bool = False
    reverses: bool = False
    withholds: int = 0
    loses_answers: int = 0
    refuses: AgentCode | None = None


@dataclass(slots=True)
class _Run:
    lease: Lease
    committed_at: datetime
    script: Script
    exits: dict[int, RankExit] = field(default_factory=dict)
    checkpoints: dict[int, datetime] = field(default_factory=dict)


@dataclass(slots=True)
class _Node:
    gpus: tuple[GpuSlot, ...]
    highest_epoch: int = 0
    is_draining: bool = False
    bundles: set[str] = field(default_factory=set)
    prepared: dict[str, tuple[tuple[str, ...], int]] = field(default_factory=dict)
    runs: dict[str, _Run] = field(default_factory=dict)
    events: list[AttemptEvent] = field(default_factory=list)
    last_seq: int = 0


class FakeExecutor:
    """`Executor` without nodes: `script` decides what each lease does, `at` gives the time."""

    def __init__(
        self,
        nodes: Mapping[str, tuple[GpuSlot, ...]],
        script: Callable[[Lease], Script] = lambda _: Script(),
        lies: Lies | None = None,
        at: Callable[[], datetime] | None = None,
    ) -> None:
        """Make the nodes; without `at`, each question for the time is a millisecond later."""
        self._nodes = {name: _Node(gpus) for name, gpus in sorted(nodes.items())}
        self._script = script
        self._lies = lies or Lies()
        self._at = at
        self._ticks = 0
        self._lock = threading.RLock()

    def nodes(self) -> tuple[str, ...]:
        """See `Executor.nodes`."""
        return tuple(self._nodes)

    def probe(self, node: str) -> NodeProbe:
        """See `Executor.probe`."""
        n = self._node(node)
        return NodeProbe(
            node=node,
            boot_id=f"fake-{node}",
            agent_version="1",
            gpus=n.gpus,
            simulated=True,
            cpus=1,
            memory_bytes=1,
            highest_epoch=n.highest_epoch,
            draining=n.is_draining,
            attempts=tuple(sorted(n.runs)),
            latest_seq=n.last_seq,
        )

    def put_bundle(self, node: str, sha256: str, data: bytes, epoch: int) -> None:  # noqa: ARG002 - contents are not run
        """See `Executor.put_bundle`."""
        self._follow(node, epoch).bundles.add(sha256)

    def prepare(self, node: str, request: PrepareRequest, epoch: int) -> Prepared:
        """See `Executor.prepare`."""
        with self._lock:
            n = self._follow(node, epoch)
            self._check_room(node, request.attempt_id, request.gpu_uuids)
            _, port = n.prepared.get(request.attempt_id, ((), FIRST_PORT + len(n.prepared)))
            n.prepared[request.attempt_id] = (request.gpu_uuids, port)
            return Prepared(
                attempt_id=request.attempt_id,
                has_bundle=request.bundle is None or request.bundle in n.bundles,
                master_addr="127.0.0.1" if request.wants_endpoint else None,
                master_port=port if request.wants_endpoint else None,
            )

    def launch(self, node: str, lease: Lease) -> LaunchReceipt:
        """See `Executor.launch`."""
        with self._lock:
            n = self._follow(node, lease.epoch)
            run = n.runs.get(lease.attempt_id)
            if run is None:
                if self._lies.refuses is not None:
                    raise RefusedError(node, self._lies.refuses, "refused by the script")
                self._check_room(node, lease.attempt_id, _gpus(lease))
                if lease.bundle is not None and lease.bundle not in n.bundles:
                    raise BundleMissingError(node, f"bundle {lease.bundle} is not on this node")
                n.prepared.pop(lease.attempt_id, None)
                run = _Run(lease, self._now(), self._script(lease))
                n.runs[lease.attempt_id] = run
                self._begin(n, run)
            elif replace(run.lease, epoch=lease.epoch) != lease:
                raise RefusedError(node, AgentCode.LEASE_MISMATCH, "another lease has this attempt's name")
            if self._lies.loses_answers > 0:
                self._lies = replace(self._lies, loses_answers=self._lies.loses_answers - 1)
                raise UnreachableError(node, "the answer was lost by the script")
            return LaunchReceipt(
                attempt_id=lease.attempt_id,
                ranks=tuple(sorted(r.rank for r in lease.ranks)),
                committed_at=run.committed_at,
            )

    def signal(self, node: str, attempt_id: str, signal: Signal, kill_after_s: int, epoch: int) -> None:  # noqa: ARG002 - a fake rank ends at once
        """See `Executor.signal`."""
        with self._lock:
            n = self._follow(node, epoch)
            if signal is not Signal.CHECKPOINT and n.prepared.pop(attempt_id, None) is not None:
                return
            run = self._run(node, attempt_id)
            if signal is not Signal.CHECKPOINT:
                number = 15 if signal is Signal.TERM else 9
                for rank in run.lease.ranks:
                    self._end(n, run, rank.rank, None, number)

    def observe(self, node: str, after: int, wait_s: float) -> EventPage:  # noqa: ARG002 - nothing happens later
        """See `Executor.observe`; never waits, since nothing happens by itself."""
        with self._lock:
            n = self._node(node)
            if self._lies.withholds > 0:
                self._lies = replace(self._lies, withholds=self._lies.withholds - 1)
                return EventPage(f"fake-{node}", after, ())
            first = 0 if self._lies.repeats else after
            found = [e for e in n.events if e.seq > first][:MAX_EVENTS_PER_PAGE]
            last = max((e.seq for e in found), default=after)
            if self._lies.reverses:
                found.reverse()
            return EventPage(f"fake-{node}", max(last, after), tuple(found))

    def list_attempts(self, node: str) -> tuple[AttemptStatus, ...]:
        """See `Executor.list_attempts`."""
        with self._lock:
            return tuple(_status(run) for _, run in sorted(self._node(node).runs.items()))

    def attempt(self, node: str, attempt_id: str) -> AttemptStatus:
        """See `Executor.attempt`."""
        with self._lock:
            return _status(self._run(node, attempt_id))

    def logs(self, node: str, attempt_id: str, rank: int, offset: int, limit: int) -> LogPage:
        """See `Executor.logs`."""
        with self._lock:
            run = self._run(node, attempt_id)
            if rank not in {r.rank for r in run.lease.ranks}:
                raise RefusedError(node, AgentCode.NOT_FOUND, f"no rank {rank} here")
            data = run.script.log[offset : offset + limit]
            end = offset + len(data)
            return LogPage(data, end, rank in run.exits and end >= len(run.script.log))

    def output(self, node: str, attempt_id: str, rank: int, path: str) -> Iterator[bytes]:
        """See `Executor.output`."""
        run = self._run(node, attempt_id)
        if rank not in run.exits or path not in run.script.outputs:
            raise RefusedError(node, AgentCode.NOT_FOUND, f"no output {path!r}")
        yield run.script.outputs[path]

    def remove(self, node: str, attempt_id: str, epoch: int) -> None:
        """See `Executor.remove`."""
        with self._lock:
            n = self._follow(node, epoch)
            run = n.runs.get(attempt_id)
            if run is None:
                n.prepared.pop(attempt_id, None)
                return
            if _status(run).is_alive:
                raise RefusedError(node, AgentCode.ATTEMPT_ALIVE, f"attempt {attempt_id} has living ranks")
            del n.runs[attempt_id]
            n.events = [e for e in n.events if e.attempt_id != attempt_id]

    def drain(self, node: str, *, is_draining: bool, epoch: int) -> None:
        """See `Executor.drain`."""
        self._follow(node, epoch).is_draining = is_draining

    def nodes_of(self, attempt_id: str) -> tuple[str, ...]:
        """Nodes that have the attempt, by name."""
        with self._lock:
            return tuple(name for name, n in self._nodes.items() if attempt_id in n.runs)

    def finish(self, node: str, attempt_id: str, exit_code: int = 0) -> None:
        """Let the ranks of an attempt that still run end by themselves."""
        with self._lock:
            run = self._run(node, attempt_id)
            for rank in run.lease.ranks:
                self._end(self._node(node), run, rank.rank, exit_code, None)

    def checkpoint(self, node: str, attempt_id: str, rank: int, at: datetime) -> None:
        """Let a rank save its work, as its agent sees it at an instant."""
        with self._lock:
            run = self._run(node, attempt_id)
            run.checkpoints[rank] = at
            self._append(self._node(node), run, rank, EventKind.CHECKPOINTED, at)

    def _now(self) -> datetime:
        if self._at is not None:
            return self._at()
        self._ticks += 1
        return EPOCH_START + timedelta(milliseconds=self._ticks)

    def _node(self, node: str) -> _Node:
        found = self._nodes.get(node)
        if found is None:
            raise RefusedError(node, AgentCode.NOT_FOUND, "this executor knows no such node")
        return found

    def _run(self, node: str, attempt_id: str) -> _Run:
        found = self._node(node).runs.get(attempt_id)
        if found is None:
            raise RefusedError(node, AgentCode.NOT_FOUND, f"no attempt {attempt_id}")
        return found

    def _follow(self, node: str, epoch: int) -> _Node:
        with self._lock:
            n = self._node(node)
            if epoch < n.highest_epoch:
                raise StaleEpochError(node, f"epoch {epoch} is over", n.highest_epoch)
            n.highest_epoch = epoch
            return n

    def _check_room(self, node: str, attempt_id: str, gpu_uuids: tuple[str, ...]) -> None:
        n = self._node(node)
        if n.is_draining:
            raise RefusedError(node, AgentCode.DRAINING, "the node is draining")
        unknown = sorted(set(gpu_uuids) - {g.uuid for g in n.gpus})
        if unknown:
            raise RefusedError(node, AgentCode.GPU_UNKNOWN, f"GPU {unknown[0]} is not of this node")
        held = {u: name for name, (gpus, _) in n.prepared.items() for u in gpus}
        held |= {u: name for name, run in n.runs.items() if _is_alive(run) for u in _gpus(run.lease)}
        busy = [u for u in gpu_uuids if held.get(u, attempt_id) != attempt_id]
        if busy:
            raise RefusedError(node, AgentCode.GPU_BUSY, f"GPU {busy[0]} is held by {held[busy[0]]}")

    def _begin(self, n: _Node, run: _Run) -> None:
        for rank in run.lease.ranks:
            self._tell(n, run, rank.rank, None)
            if not run.script.runs:
                self._end(n, run, rank.rank, run.script.exit_code, None)

    def _end(self, n: _Node, run: _Run, rank: int, exit_code: int | None, signal: int | None) -> None:
        if rank in run.exits:
            return
        end = RankExit(
            exit_code=exit_code,
            signal=signal,
            timeout=False,
            oom=False,
            started_at=run.committed_at,
            ended_at=self._now(),
            max_rss_bytes=0,
        )
        run.exits[rank] = end
        self._tell(n, run, rank, end)

    def _tell(self, n: _Node, run: _Run, rank: int, end: RankExit | None) -> None:
        if end is None:
            self._append(n, run, rank, EventKind.STARTED, run.committed_at)
        else:
            self._append(n, run, rank, EventKind.EXITED, end.ended_at)

    @staticmethod
    def _append(n: _Node, run: _Run, rank: int, kind: EventKind, at: datetime) -> None:
        n.last_seq += 1
        end = run.exits[rank] if kind is EventKind.EXITED else None
        name = run.lease.attempt_id
        event = AttemptEvent(seq=n.last_seq, attempt_id=name, rank=rank, kind=kind, at=at, exit=end)
        n.events.append(event)


def _gpus(lease: Lease) -> tuple[str, ...]:
    return tuple(uuid for rank in lease.ranks for uuid in rank.gpu_uuids)


def _is_alive(run: _Run) -> bool:
    return len(run.exits) < len(run.lease.ranks)


def _status(run: _Run) -> AttemptStatus:
    return AttemptStatus(
        attempt_id=run.lease.attempt_id,
        job_id=run.lease.job_id,
        epoch=run.lease.epoch,
        committed_at=run.committed_at,
        gpu_uuids=_gpus(run.lease),
        ranks=tuple(
            RankStatus(r.rank, run.committed_at, run.exits.get(r.rank), run.checkpoints.get(r.rank))
            for r in run.lease.ranks
        ),
    )
