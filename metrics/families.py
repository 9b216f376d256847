"""The node exporter's metric families, made afresh from one reading.

Base units and ratios 0..1; identity stands on ``kezek_gpu_info`` alone and every other family has the UUID
to join by. No label is called job, instance, pod, namespace or service: Prometheus' targets own these. What
was not read is not exposed: neither 0 nor NaN. ``docs/telemetry.md`` describes each family; a test compares.

Source: Prometheus, "Writing exporters" and "Metric and label naming".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from metrics.nvml import CLOCK_EVENT_REASONS, GpuIdentity, GpuSample


@dataclass(frozen=True, slots=True)
class GpuReading:
    """What a collection got from one GPU.

    Attributes:
        identity: None if the GPU could not be identified since the exporter started.
        sample: None if the GPU did not answer in time or answered with an error.
        is_complete: Nothing failed; a GPU that says it is lost is complete.
    """

    identity: GpuIdentity | None
    sample: GpuSample | None
    is_complete: bool

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
    """

    node: str
    is_simulated: bool
    expected_gpus: int | None
    gpus: tuple[GpuReading, ...]
    is_success: bool
    duration_s: float
    last_success_at_s: float | None


_Name = TypeVar("_Name", bound=str)
_Labelled = Iterator[tuple[tuple[str, ...], float]]


@dataclass(frozen=True, slots=True)
class _SampleFamily:
    """A family with the UUID as first label, its others, and how its values are got from a sample."""

    name: str
    help: str
    labels: tuple[str, ...]
    values: Callable[[GpuSample], _Labelled]
    is_counter: bool = False

    def metric(self, samples: Sequence[GpuSample]) -> Metric:
        kind = CounterMetricFamily if self.is_counter else GaugeMetricFamily
        family = kind(self.name, self.help, labels=("uuid", *self.labels))
        for sample in samples:
            for labels, value in self.values(sample):
                family.add_metric((sample.uuid, *labels), value)
        return family


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
    ]
    samples = [gpu.sample for reading in readings for gpu in reading.gpus if gpu.sample and gpu.sample.is_up]
    candidates.extend(family.metric(samples) for family in _SAMPLE_FAMILIES)
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


def _one(value: float | None) -> _Labelled:
    if value is not None:
        yield (), float(value)


def _by_key(values: Mapping[_Name, float]) -> _Labelled:
    for key, value in values.items():
        yield (key,), float(value)


def _clock_events(sample: GpuSample) -> _Labelled:
    if sample.clock_event_reasons is not None:
        for reason in CLOCK_EVENT_REASONS:
            yield (reason,), float(reason in sample.clock_event_reasons)


def _remapped(sample: GpuSample) -> _Labelled:
    if sample.remapped_rows is not None:
        yield ("correctable",), float(sample.remapped_rows.correctable)
        yield ("uncorrectable",), float(sample.remapped_rows.uncorrectable)


def _ecc(sample: GpuSample) -> _Labelled:
    for key, value in sample.ecc_errors.items():
        yield key, float(value)


_SAMPLE_FAMILIES: Final = (
    _SampleFamily(
        "kezek_gpu_utilization_ratio",
        "Share of the driver's last window in which a kernel ran, 0 to 1; absent on a GPU in MIG mode.",
        (),
        lambda sample: _one(sample.utilisation_ratio),
    ),
    _SampleFamily(
        "kezek_gpu_memory_used_bytes",
        "Device memory in use, without the driver's own reserve where the driver tells it apart.",
        (),
        lambda sample: _one(sample.memory_used_bytes),
    ),
    _SampleFamily(
        "kezek_gpu_memory_total_bytes",
        "Device memory.",
        (),
        lambda sample: _one(sample.memory_total_bytes),
    ),
    _SampleFamily(
        "kezek_gpu_memory_bandwidth_utilization_ratio",
        "Share of the driver's last window in which the memory bus was busy, 0 to 1. Not memory in use.",
        (),
        lambda sample: _one(sample.memory_bandwidth_utilisation_ratio),
    ),
    _SampleFamily(
        "kezek_gpu_power_watts", "Power drawn by the board.", (), lambda sample: _one(sample.power_w)
    ),
    _SampleFamily(
        "kezek_gpu_power_limit_watts",
        "Power limit in force.",
        (),
        lambda sample: _one(sample.power_limit_w),
    ),
    _SampleFamily(
        "kezek_gpu_energy_joules",
        "Energy drawn since the driver was loaded.",
        (),
        lambda sample: _one(sample.energy_j),
        is_counter=True,
    ),
    _SampleFamily(
        "kezek_gpu_temperature_celsius",
        "Temperature by sensor.",
        ("sensor",),
        lambda sample: _by_key(sample.temperatures_celsius),
    ),
    _SampleFamily(
        "kezek_gpu_clock_hertz",
        "Clock now, by domain.",
        ("domain",),
        lambda sample: _by_key(sample.clocks_hz),
    ),
    _SampleFamily(
        "kezek_gpu_clock_event_active",
        "1 if the reason holds the clocks down now.",
        ("reason",),
        _clock_events,
    ),
    _SampleFamily(
        "kezek_gpu_ecc_errors",
        "Memory errors; scope volatile counts from the last driver load, aggregate over the board's life.",
        ("severity", "scope"),
        _ecc,
        is_counter=True,
    ),
    _SampleFamily(
        "kezek_gpu_remapped_rows",
        "Rows of device memory replaced by spare ones, by cause.",
        ("cause",),
        _remapped,
    ),
    _SampleFamily(
        "kezek_gpu_remapped_rows_pending",
        "1 if a row remap waits for a reset of the GPU.",
        (),
        lambda sample: _one(None if sample.remapped_rows is None else sample.remapped_rows.is_pending),
    ),
    _SampleFamily(
        "kezek_gpu_remapped_rows_failure",
        "1 if a row remap failed: the board is to be replaced.",
        (),
        lambda sample: _one(None if sample.remapped_rows is None else sample.remapped_rows.has_failed),
    ),
    _SampleFamily(
        "kezek_gpu_recovery_action",
        "What the driver asks for: 0 nothing, 1 GPU reset, 2 node reboot, 3 drain peers, 4 drain and reset.",
        (),
        lambda sample: _one(sample.recovery_action),
    ),
    _SampleFamily(
        "kezek_gpu_compute_processes",
        "Processes with a compute context on the GPU; absent where they cannot be read.",
        (),
        lambda sample: _one(None if sample.processes is None else len(sample.processes)),
    ),
)
