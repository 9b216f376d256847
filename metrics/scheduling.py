"""What one process measures of itself: phases of the scheduler's cycles, and calls to the nodes' agents.

These count from the start of the process, as Prometheus expects of counters; what must outlive a process is read from
the tables (`metrics.controlplane`). Label values are fixed sets, so a process has some hundred series whatever it does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

from scheduler.dispatch.executor import (
    BundleMissingError,
    Executor,
    RefusedError,
    StaleEpochError,
    UnreachableError,
)
from scheduler.dispatch.wire import (
    AttemptStatus,
    EventPage,
    LaunchReceipt,
    Lease,
    LogPage,
    NodeProbe,
    Prepared,
    PrepareRequest,
    Signal,
)

PHASES: Final = ("read", "plan", "apply")
"""Phases of a cycle: the database's snapshot, the pure plan, the transaction that carries it out."""

PHASE_BUCKETS_S: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
"""Upper bounds of a phase [s]: from an idle cycle to five times the pause between two cycles."""

CALL_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Upper bounds of a call to an agent [s]: from a look-up on the same machine to the call's own time-out."""

CALLS: Final = (
    *("probe", "put_bundle", "prepare", "launch", "signal", "observe", "list_attempts", "attempt"),
    *("logs", "output", "remove", "drain"),
)
"""Kinds of calls: the executor's methods."""

UNTIMED: Final = frozenset({"observe", "output"})
"""Kinds whose duration says nothing: a long poll, and a file that is read as fast as its reader goes."""

OUTCOMES: Final = ("ok", "bundle_missing", "refused", "stale_epoch", "unreachable", "failed")
"""What became of a call. The second is a step of bringing a bundle; `failed` is a fault of ours."""


class CyclePhases:
    """Durations of the phases of cycles. Shared by threads.

    Args:
        registry: where the histogram is registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._phases = Histogram(
            "kezek_cycle_phase_seconds",
            "Duration of the phases of scheduling cycles.",
            ["phase"],
            buckets=PHASE_BUCKETS_S,
            registry=registry,
        )
        for phase in PHASES:
            self._phases.labels(phase)

    def __call__(self, phase: str, seconds: float) -> None:
        """Count a phase that ended."""
        self._phases.labels(phase).observe(seconds)


class CallFigures:
    """Calls to agents by kind and outcome. Shared by threads and by every executor of the process.

    Args:
        registry: where counter and histogram are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = Counter(
            "kezek_executor_calls",
            "Calls to node agents, by kind and outcome.",
            ["kind", "outcome"],
            registry=registry,
        )
        self._seconds = Histogram(
            "kezek_executor_call_seconds",
            "Duration of answered calls to node agents, by kind.",
            ["kind"],
            buckets=CALL_BUCKETS_S,
            registry=registry,
        )
        for kind in CALLS:
            for outcome in OUTCOMES:  # from 0 on: the first error of a kind must be seen to grow
                self._calls.labels(kind, outcome)
            if kind not in UNTIMED:
                self._seconds.labels(kind)

    def wrap(self, executor: Executor) -> Executor:
        """An executor that does what the given one does and counts its calls."""
        return _CountedExecutor(executor, self)

    @contextmanager
    def counted(self, kind: str) -> Iterator[None]:
        """Count the call that is made within."""
        began = time.monotonic()
        outcome = "failed"
        try:
            yield
            outcome = "ok"
        except GeneratorExit:
            outcome = "ok"  # the reader of an output had enough
            raise
        except BundleMissingError:
            outcome = "bundle_missing"
            raise
        except RefusedError:
            outcome = "refused"
            raise
        except StaleEpochError:
            outcome = "stale_epoch"
            raise
        except UnreachableError:
            outcome = "unreachable"
            raise
        finally:
            self._calls.labels(kind, outcome).inc()
            if outcome != "unreachable" and kind not in UNTIMED:
                self._seconds.labels(kind).observe(time.monotonic() - began)


class _CountedExecutor:
    """`Executor` around another one."""

    def __init__(self, inner: Executor, figures: CallFigures) -> None:
        self._inner = inner
        self._counted = figures.counted

    def nodes(self) -> tuple[str, ...]:
        return self._inner.nodes()

    def probe(self, node: str) -> NodeProbe:
        with self._counted("probe"):
            return self._inner.probe(node)

    def put_bundle(self, node: str, sha256: str, data: bytes, epoch: int) -> None:
        with self._counted("put_bundle"):
            self._inner.put_bundle(node, sha256, data, epoch)

    def prepare(self, node: str, request: PrepareRequest, epoch: int) -> Prepared:
        with self._counted("prepare"):
            return self._inner.prepare(node, request, epoch)

    def launch(self, node: str, lease: Lease) -> LaunchReceipt:
        with self._counted("launch"):
            return self._inner.launch(node, lease)

    def signal(self, node: str, attempt_id: str, signal: Signal, kill_after_s: int, epoch: int) -> None:
        with self._counted("signal"):
            self._inner.signal(node, attempt_id, signal, kill_after_s, epoch)

    def observe(self, node: str, after: int, wait_s: float) -> EventPage:
        with self._counted("observe"):
            return self._inner.observe(node, after, wait_s)

    def list_attempts(self, node: str) -> tuple[AttemptStatus, ...]:
        with self._counted("list_attempts"):
            return self._inner.list_attempts(node)

    def attempt(self, node: str, attempt_id: str) -> AttemptStatus:
        with self._counted("attempt"):
            return self._inner.attempt(node, attempt_id)

    def logs(self, node: str, attempt_id: str, rank: int, offset: int, limit: int) -> LogPage:
        with self._counted("logs"):
            return self._inner.logs(node, attempt_id, rank, offset, limit)

    def output(self, node: str, attempt_id: str, rank: int, path: str) -> Iterator[bytes]:
        with self._counted("output"):
            yield from self._inner.output(node, attempt_id, rank, path)

    def remove(self, node: str, attempt_id: str, epoch: int) -> None:
        with self._counted("remove"):
            self._inner.remove(node, attempt_id, epoch)

    def drain(self, node: str, *, is_draining: bool, epoch: int) -> None:
        with self._counted("drain"):
            self._inner.drain(node, is_draining=is_draining, epoch=epoch)
