"""The node exporter's collection: one consistent reading of every GPU per scrape.

Reading a scrape top-down: ``Exporter.scrape`` lets one collection serve all scrapes that arrive while it
runs; ``NodeReader.read`` finds the source, counts the devices, reads each in a lane of its own and gives up
at the deadline; ``metrics.families`` makes fresh metric families of what came back.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from metrics.attribution import Known
from metrics.families import GpuReading, NodeReading, families
from metrics.nvml import GpuIdentity, GpuLostError, GpuSource
from metrics.podresources import PodDevices
from metrics.procfs import use_of
from metrics.watchdog import Lane

#: Longest collection when the scraper does not say how long it waits: Prometheus' default time-out.
DEFAULT_SCRAPE_TIMEOUT_S: Final = 10.0
#: A scraper that claims to wait longer is not believed: a hung GPU would hold its connection.
MAX_SCRAPE_TIMEOUT_S: Final = 30.0
#: Kept back from the scraper's time-out for rendering and the network.
TIMEOUT_MARGIN_S: Final = 0.5
# Opening the library and counting devices may take this share of the collection's time, so that after a
# count that hangs the devices already known are still read.
_CONTROL_SHARE: Final = 0.5

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class CollectionBusyError(Exception):
    """A collection that this scrape was to share did not end in time; the next scrape may succeed."""


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """A node that the exporter speaks for.

    Attributes:
        node: Name of the node, as the platform knows it.
        open_source: Opens its source, None where there is none yet; tried again at each collection.
        expected_gpus: GPUs the node must have, or None: as many as were ever counted.
        list_pods: Asks the kubelet which pod holds which GPU; None outside Kubernetes.
        list_ranks: Reads which ranks the node's agent says live; None: only environments tell whose a process is.
    """

    node: str
    open_source: Callable[[], GpuSource | None]
    expected_gpus: int | None = None
    list_pods: Callable[[], PodDevices] | None = None
    list_ranks: Callable[[], Known] | None = None


def collection_limit_s(scrape_timeout: str | None) -> float:
    """How long a collection may take.

    Args:
        scrape_timeout: The scraper's ``X-Prometheus-Scrape-Timeout-Seconds`` header. What is not a
            positive number counts as absent.

    Returns:
        Seconds, positive: the time-out less the margin, at least half of it.
    """
    try:
        timeout_s = float(scrape_timeout) if scrape_timeout is not None else DEFAULT_SCRAPE_TIMEOUT_S
    except ValueError:
        timeout_s = DEFAULT_SCRAPE_TIMEOUT_S
    if not math.isfinite(timeout_s) or timeout_s <= 0:
        timeout_s = DEFAULT_SCRAPE_TIMEOUT_S
    timeout_s = min(timeout_s, MAX_SCRAPE_TIMEOUT_S)
    return max(timeout_s - TIMEOUT_MARGIN_S, timeout_s / 2)


class NodeReader:
    """Reads one node, collection after collection. Not reentrant: ``Exporter`` makes one call at a time.

    Args:
        spec: The node.
    """

    def __init__(self, spec: NodeSpec) -> None:
        self._spec = spec
        self._source: GpuSource | None = None
        self._count = 0
        self._most = 0
        self._control = Lane(f"{spec.node}-control")
        self._kubelet = Lane(f"{spec.node}-kubelet")
        self._agent = Lane(f"{spec.node}-agent")
        self._lanes: dict[int, Lane] = {}
        # Written by the lanes: a GPU that hangs after it was identified keeps its name.
        self._identities: dict[int, GpuIdentity] = {}
        self._last_success_at_s: float | None = None
        self._problems: frozenset[str] = frozenset()

    def read(self, limit_s: float) -> NodeReading:
        """One reading of all GPUs.

        Args:
            limit_s: Seconds after which what has not answered is given up.
        """
        started_s = time.monotonic()
        problems: set[str] = set()
        asked = None if self._spec.list_pods is None else self._kubelet.start(self._spec.list_pods)
        said = None if self._spec.list_ranks is None else self._agent.start(self._spec.list_ranks)
        control_deadline_s = started_s + limit_s * _CONTROL_SHARE
        is_counted = self._count_devices(control_deadline_s, problems)
        known = (
            None
            if self._spec.list_ranks is None
            else _wait(said, control_deadline_s, "agent's files", problems)
        )
        gpus = self._read_gpus(started_s + limit_s, known, problems)
        # What the agent and the kubelet say is beside the GPUs': without it their collection is complete all the same.
        pods = None if asked is None else _wait(asked, started_s + limit_s, "kubelet", problems)
        is_success = is_counted and self._count > 0 and all(gpu.is_complete for gpu in gpus)
        if is_success:
            self._last_success_at_s = time.time()
        self._log_changes(frozenset(problems))
        expected = self._spec.expected_gpus
        return NodeReading(
            node=self._spec.node,
            is_simulated=self._source is not None and self._source.is_simulated,
            expected_gpus=(self._most or None) if expected is None else expected,
            gpus=gpus,
            is_success=is_success,
            duration_s=time.monotonic() - started_s,
            last_success_at_s=self._last_success_at_s,
            xids=() if self._source is None else self._source.xids(),
            has_kubelet=self._spec.list_pods is not None,
            pods=pods,
            has_agent=self._spec.list_ranks is not None,
            known=known,
        )

    def _count_devices(self, deadline_s: float, problems: set[str]) -> bool:
        """Open the source if need be and count its devices; on failure the last count stands."""
        answer = _wait(self._control.start(self._open_and_count), deadline_s, "counting GPUs", problems)
        if answer is None:
            return False
        self._source, self._count = answer
        self._most = max(self._most, self._count)
        if self._count == 0:
            problems.add("no NVML library, no driver or no GPU")
        return True

    def _open_and_count(self) -> tuple[GpuSource | None, int]:
        source = self._source or self._spec.open_source()
        return (None, 0) if source is None else (source, source.count())

    def _read_gpus(
        self, deadline_s: float, known: Known | None, problems: set[str]
    ) -> tuple[GpuReading, ...]:
        source = self._source
        if source is None:
            return ()
        # Devices seen before are asked for even when the driver now counts fewer: they are the lost ones.
        indexes = range(self._most)
        if source.is_simulated:
            # Nothing in it can hang, and a lane each would be a thread per GPU of a simulated machine.
            body = partial(self._read_all, source, indexes)
            answers = _wait(self._lane(0).start(body), deadline_s, "simulation", problems)
            return tuple(map(self._silent, indexes)) if answers is None else answers
        futures = [
            self._lane(index).start(partial(self._read_gpu, source, index, known)) for index in indexes
        ]
        waited = [_wait(future, deadline_s, f"GPU {index}", problems) for index, future in enumerate(futures)]
        for reading in waited:
            problems.update(_failures(reading))
        return tuple(reading or self._silent(index) for index, reading in enumerate(waited))

    def _lane(self, index: int) -> Lane:
        return self._lanes.setdefault(index, Lane(f"{self._spec.node}-gpu{index}"))

    def _read_gpu(self, source: GpuSource, index: int, known: Known | None) -> GpuReading:
        """Identity and sample of one device. That it is lost is an answer; that a call failed is not."""
        try:
            identity = source.identity(index)
        except GpuLostError:
            return GpuReading(None, sample=None, is_complete=True)
        self._identities[index] = identity
        sample = source.sample(identity.uuid)
        # Who is behind a pid is read at once, before it can be another process's.
        is_real = sample.processes is not None and not source.is_simulated
        use = use_of(sample.processes or (), known) if is_real else None
        return GpuReading(identity, sample, is_complete=not sample.failures, use=use)

    def _read_all(self, source: GpuSource, indexes: Sequence[int]) -> tuple[GpuReading, ...]:
        return tuple(self._read_gpu(source, index, None) for index in indexes)

    def _silent(self, index: int) -> GpuReading:
        return GpuReading(self._identities.get(index), sample=None, is_complete=False)

    def _log_changes(self, problems: frozenset[str]) -> None:
        """One line when a problem appears and one when it goes, not one per scrape."""
        for problem in sorted(problems - self._problems):
            _log.warning("node %s: %s", self._spec.node, problem)
        for problem in sorted(self._problems - problems):
            _log.warning("node %s: no longer: %s", self._spec.node, problem)
        self._problems = problems


class Exporter:
    """Collects on demand; scrapes that arrive during a collection share it. Safe for several threads.

    Args:
        nodes: The nodes to speak for: one on real hardware, all of them in a simulation.
    """

    def __init__(self, nodes: Sequence[NodeSpec]) -> None:
        self._readers = tuple(NodeReader(spec) for spec in nodes)
        self._lock = threading.Lock()
        self._running: Future[tuple[NodeReading, ...]] | None = None

    def collect(self, limit_s: float) -> tuple[NodeReading, ...]:
        """Readings of all nodes, fresh or of the collection that runs right now.

        Args:
            limit_s: Seconds to wait at most.

        Raises:
            CollectionBusyError: The running collection did not end in time.
        """
        with self._lock:
            shared = self._running
            if shared is None:
                mine: Future[tuple[NodeReading, ...]] = Future()
                self._running = mine
        if shared is not None:
            try:
                return shared.result(limit_s)
            except TimeoutError as error:
                raise CollectionBusyError(f"the running collection did not end in {limit_s:g} s") from error
        try:
            readings = self._read_all(limit_s)
        except BaseException as error:
            mine.set_exception(error)
            raise
        else:
            mine.set_result(readings)
            return readings
        finally:
            with self._lock:
                self._running = None

    def _read_all(self, limit_s: float) -> tuple[NodeReading, ...]:
        deadline_s = time.monotonic() + limit_s
        return tuple(reader.read(max(0.0, deadline_s - time.monotonic())) for reader in self._readers)


class GpuCollector(Collector):
    """Prometheus collector over an exporter; makes new metric families at each ``collect``.

    Args:
        exporter: What collects.
        limit_s: Longest collection.

    Attributes:
        last: The readings behind the last ``collect``.
    """

    def __init__(self, exporter: Exporter, limit_s: float) -> None:
        self._exporter = exporter
        self._limit_s = limit_s
        self.last: tuple[NodeReading, ...] = ()

    def collect(self) -> Iterator[Metric]:
        """Collect once.

        Raises:
            CollectionBusyError: As ``Exporter.collect``.
        """
        self.last = self._exporter.collect(self._limit_s)
        return families(self.last)


def _wait(future: Future[_T] | None, deadline_s: float, what: str, problems: set[str]) -> _T | None:
    """The future's result; None, with a problem noted, when there is none in time."""
    if future is None:
        problems.add(f"{what}: an earlier call still hangs in the driver")
        return None
    try:
        return future.result(max(0.0, deadline_s - time.monotonic()))
    except TimeoutError:
        problems.add(f"{what}: an earlier call still hangs in the driver")
    except Exception as error:  # noqa: BLE001 (edge of a lane: one device's fault must not stop the others)
        problems.add(f"{what}: {error}")
    return None


def _failures(reading: GpuReading | None) -> Iterator[str]:
    if reading is not None and reading.identity is not None and reading.sample is not None:
        for failure in reading.sample.failures:
            yield f"GPU {reading.identity.index}: {failure.function} failed with NVML code {failure.code}"
