"""Metric families of one GPU and of its MIG instances: name, help, labels and where the value stands.

The table is read top-down by ``metrics.families``; ``docs/telemetry.md`` describes each row, a test compares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from metrics.nvml import CLOCK_EVENT_REASONS, GpuSample, MigInstance

_Name = TypeVar("_Name", bound=str)
_Labelled = Iterator[tuple[tuple[str, ...], float]]


class _Keyed(Protocol):
    """A sample, or an instance: what a UUID names."""

    @property
    def uuid(self) -> str: ...


_Sample = TypeVar("_Sample", bound=_Keyed)


@dataclass(frozen=True, slots=True)
class SampleFamily(Generic[_Sample]):
    """A family with the UUID as first label, its others, and how its values are got from a sample."""

    name: str
    help: str
    labels: tuple[str, ...]
    values: Callable[[_Sample], _Labelled]
    is_counter: bool = False

    def metric(self, samples: Sequence[_Sample]) -> Metric:
        """The family with the values of these samples."""
        kind = CounterMetricFamily if self.is_counter else GaugeMetricFamily
        family = kind(self.name, self.help, labels=("uuid", *self.labels))
        for sample in samples:
            for own, value in self.values(sample):
                family.add_metric((sample.uuid, *own), value)
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


#: What is read of each GPU.
SAMPLE_FAMILIES: Final[tuple[SampleFamily[GpuSample], ...]] = (
    SampleFamily(
        "kezek_gpu_utilization_ratio",
        "Share of the driver's last window in which a kernel ran, 0 to 1; absent on a GPU in MIG mode.",
        (),
        lambda sample: _one(sample.utilisation_ratio),
    ),
    SampleFamily(
        "kezek_gpu_memory_used_bytes",
        "Device memory in use, without the driver's own reserve where the driver tells it apart.",
        (),
        lambda sample: _one(sample.memory_used_bytes),
    ),
    SampleFamily(
        "kezek_gpu_memory_total_bytes",
        "Device memory.",
        (),
        lambda sample: _one(sample.memory_total_bytes),
    ),
    SampleFamily(
        "kezek_gpu_memory_bandwidth_utilization_ratio",
        "Share of the driver's last window in which the memory bus was busy, 0 to 1. Not memory in use.",
        (),
        lambda sample: _one(sample.memory_bandwidth_utilisation_ratio),
    ),
    SampleFamily(
        "kezek_gpu_power_watts", "Power drawn by the board.", (), lambda sample: _one(sample.power_w)
    ),
    SampleFamily(
        "kezek_gpu_power_limit_watts",
        "Power limit in force.",
        (),
        lambda sample: _one(sample.power_limit_w),
    ),
    SampleFamily(
        "kezek_gpu_energy_joules",
        "Energy drawn since the driver was loaded.",
        (),
        lambda sample: _one(sample.energy_j),
        is_counter=True,
    ),
    SampleFamily(
        "kezek_gpu_temperature_celsius",
        "Temperature by sensor.",
        ("sensor",),
        lambda sample: _by_key(sample.temperatures_celsius),
    ),
    SampleFamily(
        "kezek_gpu_clock_hertz",
        "Clock now, by domain.",
        ("domain",),
        lambda sample: _by_key(sample.clocks_hz),
    ),
    SampleFamily(
        "kezek_gpu_clock_event_active",
        "1 if the reason holds the clocks down now.",
        ("reason",),
        _clock_events,
    ),
    SampleFamily(
        "kezek_gpu_clock_event_seconds",
        "Time in which the reason held the clocks down.",
        ("reason",),
        lambda sample: _by_key(sample.clock_event_s),
        is_counter=True,
    ),
    SampleFamily(
        "kezek_gpu_ecc_errors",
        "Memory errors; scope volatile counts from the last driver load, aggregate over the board's life.",
        ("severity", "scope"),
        _ecc,
        is_counter=True,
    ),
    SampleFamily(
        "kezek_gpu_remapped_rows",
        "Rows of device memory replaced by spare ones, by cause.",
        ("cause",),
        _remapped,
    ),
    SampleFamily(
        "kezek_gpu_remapped_rows_pending",
        "1 if a row remap waits for a reset of the GPU.",
        (),
        lambda sample: _one(None if sample.remapped_rows is None else sample.remapped_rows.is_pending),
    ),
    SampleFamily(
        "kezek_gpu_remapped_rows_failure",
        "1 if a row remap failed: the board is to be replaced.",
        (),
        lambda sample: _one(None if sample.remapped_rows is None else sample.remapped_rows.has_failed),
    ),
    SampleFamily(
        "kezek_gpu_retired_pages",
        "Pages of device memory taken out of use, by cause; on boards that do not remap rows.",
        ("cause",),
        lambda sample: _by_key(sample.retired_pages),
    ),
    SampleFamily(
        "kezek_gpu_retired_pages_pending",
        "1 if pages wait for a reset of the GPU to be taken out of use.",
        (),
        lambda sample: _one(sample.is_page_retirement_pending),
    ),
    SampleFamily(
        "kezek_gpu_pcie_transmit_bytes",
        "Bytes sent over PCIe.",
        (),
        lambda sample: _one(sample.pcie.transmit_bytes if sample.pcie else None),
        is_counter=True,
    ),
    SampleFamily(
        "kezek_gpu_pcie_receive_bytes",
        "Bytes received over PCIe.",
        (),
        lambda sample: _one(sample.pcie.receive_bytes if sample.pcie else None),
        is_counter=True,
    ),
    SampleFamily(
        "kezek_gpu_pcie_errors",
        "PCIe errors by kind.",
        ("kind",),
        lambda sample: _by_key(sample.pcie_errors),
        is_counter=True,
    ),
    SampleFamily(
        "kezek_gpu_nvlink_transmit_bytes",
        "Bytes sent over all NVLinks, without protocol.",
        (),
        lambda sample: _one(sample.nvlink.transmit_bytes if sample.nvlink else None),
        is_counter=True,
    ),
    SampleFamily(
        "kezek_gpu_nvlink_receive_bytes",
        "Bytes received over all NVLinks, without protocol.",
        (),
        lambda sample: _one(sample.nvlink.receive_bytes if sample.nvlink else None),
        is_counter=True,
    ),
    SampleFamily(
        "kezek_gpu_nvlink_errors",
        "NVLink errors by kind, over all links.",
        ("kind",),
        lambda sample: _by_key(sample.nvlink_errors),
        is_counter=True,
    ),
    SampleFamily(
        "kezek_gpu_recovery_action",
        "What the driver asks for: 0 nothing, 1 GPU reset, 2 node reboot, 3 drain peers, 4 drain and reset.",
        (),
        lambda sample: _one(sample.recovery_action),
    ),
    SampleFamily(
        "kezek_gpu_compute_processes",
        "Processes with a compute context on the GPU; absent where they cannot be read.",
        (),
        lambda sample: _one(None if sample.processes is None else len(sample.processes)),
    ),
    SampleFamily(
        "kezek_gpu_process_query_success",
        "1 if the compute processes could be read; if 0, no processes does not mean idle.",
        (),
        lambda sample: _one(sample.processes is not None),
    ),
)

#: What is read of each MIG instance; values of the whole board are not copied here.
MIG_FAMILIES: Final[tuple[SampleFamily[MigInstance], ...]] = (
    SampleFamily(
        "kezek_mig_memory_used_bytes",
        "Memory of the instance in use.",
        (),
        lambda instance: _one(instance.memory_used_bytes),
    ),
    SampleFamily(
        "kezek_mig_memory_total_bytes",
        "Memory of the instance.",
        (),
        lambda instance: _one(instance.memory_total_bytes),
    ),
    SampleFamily(
        "kezek_mig_utilization_ratio",
        "Share of the time since the last scrape in which a kernel ran on the GPU instance, 0 to 1.",
        (),
        lambda instance: _one(instance.utilisation_ratios.get("graphics")),
    ),
    SampleFamily(
        "kezek_mig_sm_utilization_ratio",
        "Share of the GPU instance's multiprocessors that were busy since the last scrape, 0 to 1.",
        (),
        lambda instance: _one(instance.utilisation_ratios.get("sm")),
    ),
    SampleFamily(
        "kezek_mig_tensor_utilization_ratio",
        "Share of the time in which the GPU instance's tensor units worked, 0 to 1.",
        (),
        lambda instance: _one(instance.utilisation_ratios.get("tensor")),
    ),
    SampleFamily(
        "kezek_mig_memory_bandwidth_utilization_ratio",
        "Share of the GPU instance's memory bandwidth that was used since the last scrape, 0 to 1.",
        (),
        lambda instance: _one(instance.utilisation_ratios.get("memory_bandwidth")),
    ),
    SampleFamily(
        "kezek_mig_multiprocessors",
        "Streaming multiprocessors of the instance.",
        (),
        lambda instance: _one(instance.multiprocessors),
    ),
    SampleFamily(
        "kezek_mig_compute_processes",
        "Processes with a compute context on the instance; absent where they cannot be read.",
        (),
        lambda instance: _one(None if instance.processes is None else len(instance.processes)),
    ),
)
