"""The node exporter's metric families, made afresh from one reading.

Base units and ratios 0..1; identity stands on ``kezek_gpu_info`` alone and every other family has the UUID
to join by. No label is called job, instance, pod, namespace or service: Prometheus' targets own these. What
was not read is not exposed: neither 0 nor NaN. ``docs/telemetry.md`` describes each family; a test compares.

Source: Prometheus, "Writing exporters" and "Metric and label naming".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from metrics.attribution import GpuUse, Known
from metrics.families_gpu import MIG_FAMILIES, SAMPLE_FAMILIES
from metrics.nvml import GpuIdentity, GpuSample, MigInstance, XidHistory
from metrics.podresources import PodDevices

#: Attempts shown for one GPU: a whole GPU is one attempt's, a split one has 7 slices. Ids come from
#: environments that a tenant may have written, so their number must have a limit.
MAX_ATTEMPTS_PER_GPU: Final = 16


@dataclass(frozen=True, slots=True)
class GpuReading:
    """What a collection got from one GPU.

    Attributes:
        identity: None if the GPU could not be identified since the exporter started.
        sample: None if the GPU did not answer in time or answered with an error.
        is_complete: Nothing failed; a GPU that says it is lost is complete.
        use: Who uses it; None where its processes cannot be read or are not real.
    """

    identity: GpuIdentity | None
    sample: GpuSample | None
    is_complete: bool
    use: GpuUse | None = None

    @property
    def is_up(self) -> bool:
        """The GPU answered and is not lost."""
        return self.sample is not None and self.sample.is_up


@dataclass(frozen=True, slots=True)
class NodeReading:
    """What a collection got from one node.

    Attributes:
        node: Name of the node.
        is_simulated: The node's GPUs do not exist.
        expected_gpus: GPUs the node must have, or None if neither said nor ever counted.
        gpus: By index.
        is_success: GPUs were found and nothing failed.
        duration_s: How long the collection took.
        last_success_at_s: Unix time of the last success, or None if there was none.
        xids: What happened to each GPU known so far; does not depend on the collection's success.
        has_kubelet: The kubelet was to be asked which pod holds which GPU.
        pods: Its answer, None if there was none.
        has_agent: The agent's files were to be read.
        known: What they say, None if they could not be read.
    """

    node: str
    is_simulated: bool
    expected_gpus: int | None
    gpus: tuple[GpuReading, ...]
    is_success: bool
    duration_s: float
    last_success_at_s: float | None
    xids: tuple[XidHistory, ...] = ()
    has_kubelet: bool = False
    pods: PodDevices | None = None
    has_agent: bool = False
    known: Known | None = None


def families(readings: Sequence[NodeReading]) -> Iterator[Metric]:
    """Metric families of one collection; a family without a value is left out.

    Args:
        readings: One per node that the exporter speaks for.
    """
    candidates = [
        _simulated(readings),
        *_collection(readings),
        _info(readings),
        _up(readings),
        *_use(readings),
        *_agent(readings),
        *_xids(readings),
        _mig_info(readings),
        *_pods(readings),
    ]
    samples = [gpu.sample for reading in readings for gpu in reading.gpus if gpu.sample and gpu.sample.is_up]
    candidates.extend(family.metric(samples) for family in SAMPLE_FAMILIES)
    instances = [instance for sample in samples for instance in sample.mig_instances]
    candidates.extend(family.metric(instances) for family in MIG_FAMILIES)
    return (family for family in candidates if family.samples)


def _simulated(readings: Sequence[NodeReading]) -> Metric:
    value = float(any(reading.is_simulated for reading in readings))
    return GaugeMetricFamily(
        "kezek_exporter_simulated",
        "1 if this exporter's GPUs are simulated, 0 if it reads NVML.",
        value=value,
    )


def _collection(readings: Sequence[NodeReading]) -> Iterator[Metric]:
    by_node: tuple[tuple[str, str, Callable[[NodeReading], float | None]], ...] = (
        (
            "kezek_gpu_collect_success",
            "1 if the node's GPUs were found and everything asked of them was answered.",
            lambda reading: float(reading.is_success),
        ),
        (
            "kezek_gpu_collect_duration_seconds",
            "How long this collection took.",
            lambda reading: reading.duration_s,
        ),
        (
            "kezek_gpu_collect_last_success_timestamp_seconds",
            "Unix time of the last collection that succeeded.",
            lambda reading: reading.last_success_at_s,
        ),
        (
            "kezek_gpus_expected",
            "GPUs the node must have; as many as were ever counted if nobody said.",
            lambda reading: reading.expected_gpus,
        ),
        (
            "kezek_gpus_live",
            "GPUs of the node that answer.",
            lambda reading: sum(gpu.is_up for gpu in reading.gpus),
        ),
    )
    for name, text, value_of in by_node:
        family = GaugeMetricFamily(name, text, labels=("node",))
        for reading in readings:
            value = value_of(reading)
            if value is not None:
                family.add_metric((reading.node,), value)
        yield family


def _info(readings: Sequence[NodeReading]) -> Metric:
    family = Metric("kezek_gpu_info", "What the GPU is; always 1.", "gauge")
    for reading in readings:
        for gpu in reading.gpus:
            if gpu.identity is not None:
                family.add_sample("kezek_gpu_info", _info_labels(reading, gpu.identity, gpu.sample), 1.0)
    return family


def _info_labels(reading: NodeReading, identity: GpuIdentity, sample: GpuSample | None) -> dict[str, str]:
    labels = {
        "uuid": identity.uuid,
        "node": reading.node,
        "index": str(identity.index),
        "model": identity.model,
        "driver_version": identity.driver_version,
        "simulated": "true" if reading.is_simulated else "false",
    }
    # A label without a value is left out rather than set to "".
    if identity.pci_bus_id:
        labels["pci_bus_id"] = identity.pci_bus_id
    if sample is not None and sample.is_mig_enabled is not None:
        labels["mig_mode"] = "enabled" if sample.is_mig_enabled else "disabled"
    return labels


def _up(readings: Sequence[NodeReading]) -> Metric:
    family = GaugeMetricFamily(
        "kezek_gpu_up", "1 if the GPU answers, 0 if it is lost or hangs.", labels=("uuid",)
    )
    for reading in readings:
        for gpu in reading.gpus:
            if gpu.identity is not None:
                family.add_metric((gpu.identity.uuid,), float(gpu.is_up))
    return family


def _use(readings: Sequence[NodeReading]) -> Iterator[Metric]:
    by_attempt = GaugeMetricFamily(
        "kezek_gpu_attempt_processes",
        "Processes with a compute context, by the attempt they belong to and the evidence for it.",
        labels=("uuid", "attempt", "evidence"),
    )
    unattributed = GaugeMetricFamily(
        "kezek_gpu_unattributed_processes",
        "Processes with a compute context that belong to no attempt.",
        labels=("uuid",),
    )
    unexamined = GaugeMetricFamily(
        "kezek_gpu_unexamined_processes",
        "Processes with a compute context of which nothing could be learnt.",
        labels=("uuid",),
    )
    for gpu in (gpu for reading in readings for gpu in reading.gpus):
        if gpu.use is not None and gpu.sample is not None:
            uuid = gpu.sample.uuid
            for (attempt, evidence), processes in sorted(gpu.use.processes.items())[:MAX_ATTEMPTS_PER_GPU]:
                by_attempt.add_metric((uuid, attempt, evidence), processes)
            unattributed.add_metric((uuid,), gpu.use.unattributed)
            unexamined.add_metric((uuid,), gpu.use.unexamined)
    yield from (by_attempt, unattributed, unexamined)


def _agent(readings: Sequence[NodeReading]) -> Iterator[Metric]:
    success = GaugeMetricFamily(
        "kezek_agent_state_success",
        "1 if the agent's files could be read; if 0, environments alone tell whose a process is.",
        labels=("node",),
    )
    skipped = GaugeMetricFamily(
        "kezek_agent_state_skipped",
        "Files of the agent that were skipped as unreadable or too many: their ranks' processes count as nobody's.",
        labels=("node",),
    )
    for reading in readings:
        if reading.has_agent:
            success.add_metric((reading.node,), float(reading.known is not None))
            if reading.known is not None:
                skipped.add_metric((reading.node,), reading.known.skipped)
    yield from (success, skipped)


def _pods(readings: Sequence[NodeReading]) -> Iterator[Metric]:
    held = GaugeMetricFamily(
        "kezek_gpu_pod_info",
        "The container that the kubelet gave the GPU or the MIG instance to; always 1.",
        labels=("uuid", "node", "kube_namespace", "kube_pod", "kube_container"),
    )
    success = GaugeMetricFamily(
        "kezek_kubelet_query_success",
        "1 if the kubelet said which pod holds which GPU; if 0, that none is shown means nothing.",
        labels=("node",),
    )
    unresolved = GaugeMetricFamily(
        "kezek_kubelet_unresolved_devices",
        "GPU devices of pods whose id is no UUID; nothing is guessed of them.",
        labels=("node",),
    )
    for reading in readings:
        if reading.has_kubelet:
            success.add_metric((reading.node,), float(reading.pods is not None))
        if reading.pods is not None:
            unresolved.add_metric((reading.node,), reading.pods.unresolved)
            for device in reading.pods.devices:
                labels = (device.uuid, reading.node, device.namespace, device.pod, device.container)
                held.add_metric(labels, 1.0)
    yield from (held, success, unresolved)


def _xids(readings: Sequence[NodeReading]) -> Iterator[Metric]:
    watched = GaugeMetricFamily(
        "kezek_gpu_xid_watched",
        "1 if Xid errors of the GPU are noticed; if 0, that none is shown means nothing.",
        labels=("uuid",),
    )
    total = CounterMetricFamily(
        "kezek_gpu_xid_errors",
        "Xid errors since the exporter started; a code appears with its first error.",
        labels=("uuid", "xid"),
    )
    last = GaugeMetricFamily(
        "kezek_gpu_xid_last_timestamp_seconds",
        "Unix time of the last error with this Xid.",
        labels=("uuid", "xid"),
    )
    for history in (history for reading in readings for history in reading.xids):
        watched.add_metric((history.uuid,), float(history.is_watched))
        for count in history.counts:
            labels = (history.uuid, "other" if count.xid is None else str(count.xid))
            total.add_metric(labels, float(count.count))
            last.add_metric(labels, count.last_at_s)
    yield from (watched, total, last)


def _mig_info(readings: Sequence[NodeReading]) -> Metric:
    family = Metric("kezek_mig_info", "What the MIG instance is; always 1.", "gauge")
    for reading in readings:
        for gpu in reading.gpus:
            if gpu.sample is not None:
                for instance in gpu.sample.mig_instances:
                    labels = _mig_labels(reading.node, gpu.sample.uuid, instance)
                    family.add_sample("kezek_mig_info", labels, 1.0)
    return family


def _mig_labels(node: str, gpu_uuid: str, instance: MigInstance) -> dict[str, str]:
    labels = {
        "uuid": instance.uuid,
        "gpu_uuid": gpu_uuid,
        "node": node,
        "gpu_instance": str(instance.gpu_instance),
        "compute_instance": str(instance.compute_instance),
    }
    if instance.profile is not None:
        labels["profile"] = instance.profile
    return labels
