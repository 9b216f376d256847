"""What a source of GPU telemetry answers: frozen values in base units, and its errors.

Bytes, watts, joules, degrees Celsius, hertz, ratios 0..1. What a device does not support is ``None`` or a
missing key, never zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, Protocol, get_args

Sensor = Literal["gpu", "memory"]
ClockDomain = Literal["graphics", "sm", "memory", "video"]
EccSeverity = Literal["corrected", "uncorrected"]
EccScope = Literal["volatile", "aggregate"]
#: Reasons whose seconds the driver counts; named like those of ``CLOCK_EVENT_REASONS``.
ClockEvent = Literal[
    "sw_power_cap", "sync_boost", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown"
]
CLOCK_EVENTS: Final[tuple[ClockEvent, ...]] = get_args(ClockEvent)
NvlinkError = Literal["crc_flit", "crc_data", "replay", "recovery"]
PcieError = Literal["correctable", "non_fatal", "fatal", "replay"]
PageCause = Literal["single_bit", "double_bit"]
#: What is known of the use of a MIG instance: any kernel, its multiprocessors, their tensor units, its memory bus.
MigFigure = Literal["graphics", "sm", "tensor", "memory_bandwidth"]
MIG_FIGURES: Final[tuple[MigFigure, ...]] = get_args(MigFigure)

#: Devices on one node: above every board NVML drives in one system; bounds loops over a broken count.
MAX_GPUS_PER_NODE: Final = 64
#: Compute processes reported for one GPU; more are cut, so that a fork bomb cannot bloat a sample.
MAX_PROCESSES_PER_GPU: Final = 1024

#: Names of the clock event bits, the only values of the label ``reason``.
CLOCK_EVENT_REASONS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "gpu_idle": 0x001,
        "applications_clocks_setting": 0x002,
        "sw_power_cap": 0x004,
        "hw_slowdown": 0x008,
        "sync_boost": 0x010,
        "sw_thermal_slowdown": 0x020,
        "hw_thermal_slowdown": 0x040,
        "hw_power_brake_slowdown": 0x080,
        "display_clock_setting": 0x100,
    }
)


class NvmlError(Exception):
    """NVML answered with an error that is neither "not supported" nor "GPU lost".

    Attributes:
        function: The NVML function that was called.
        code: The ``nvmlReturn_t`` it gave.
    """

    def __init__(self, function: str, code: int, text: str) -> None:
        super().__init__(f"{function} failed with NVML code {code} ({text}); see the driver's log (dmesg)")
        self.function = function
        self.code = code


class GpuLostError(NvmlError):
    """The device fell off the bus, needs a reset, or is gone from the enumeration."""


class UnknownGpuError(LookupError):
    """No device of this source has that UUID, or none was identified under it yet."""


@dataclass(frozen=True, slots=True)
class GpuIdentity:
    """What a GPU is; changes only when hardware or driver do.

    Attributes:
        uuid: NVML's ``GPU-…`` UUID, the key of every metric and of every allocation.
        index: NVML's enumeration index on this node, from 0; not stable across reboots.
        model: Product name.
        memory_total_bytes: Size of the device memory, or None where it cannot be read.
        pci_bus_id: Domain, bus, device, function; empty where it cannot be read.
        driver_version: Version of the kernel driver, or of the simulation.
    """

    uuid: str
    index: int
    model: str
    memory_total_bytes: int | None
    pci_bus_id: str
    driver_version: str


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that holds a compute context on a GPU (pid of the host's pid namespace)."""

    pid: int
    used_memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class RemappedRows:
    """Rows of device memory replaced by spare ones.

    Attributes:
        correctable: Rows remapped after correctable errors.
        uncorrectable: Rows remapped after uncorrectable errors.
        is_pending: A remap waits for a reset of the GPU.
        has_failed: A remap failed; the board is to be replaced.
    """

    correctable: int
    uncorrectable: int
    is_pending: bool
    has_failed: bool


@dataclass(frozen=True, slots=True)
class LinkTraffic:
    """Bytes sent and received since the driver was loaded (counters; they may wrap)."""

    transmit_bytes: int
    receive_bytes: int


@dataclass(frozen=True, slots=True)
class MigInstance:
    """A slice of a GPU in MIG mode. It has no power, temperature or clocks of its own.

    Attributes:
        uuid: NVML's ``MIG-…`` UUID.
        gpu_instance: Id of the GPU instance on its GPU.
        compute_instance: Id of the compute instance within it.
        profile: ``1g.10gb``, say; None where the product name has none.
        memory_used_bytes: Memory of the GPU instance in use.
        memory_total_bytes: Memory of the GPU instance.
        multiprocessors: Streaming multiprocessors that are its own.
        processes: Compute processes; None where they cannot be read.
        utilisation_ratios: Shares 0..1 of the time since the pass before, of the whole GPU instance.
    """

    uuid: str
    gpu_instance: int
    compute_instance: int
    profile: str | None
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    multiprocessors: int | None
    processes: tuple[GpuProcess, ...] | None
    utilisation_ratios: Mapping[MigFigure, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class XidCount:
    """How often an Xid came.

    Attributes:
        xid: The code, or None for the codes beyond the limit, taken together.
        count: Times since the watch began.
        last_at_s: Unix time of the last one.
    """

    xid: int | None
    count: int
    last_at_s: float


@dataclass(frozen=True, slots=True)
class XidHistory:
    """The Xids of one GPU since the watch began; without a watch, no errors means nothing."""

    uuid: str
    is_watched: bool
    counts: tuple[XidCount, ...]


@dataclass(frozen=True, slots=True)
class CallFailure:
    """One value that could not be read although the device is there: function and NVML code."""

    function: str
    code: int


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One reading of one GPU. ``None`` or a missing key: the device has no such value.

    Attributes:
        uuid: The GPU.
        is_up: It answers. When False every other value is absent.
        utilisation_ratio: Share of the driver's last window in which a kernel ran, 0..1.
        memory_used_bytes: Device memory in use, without the driver's reserve where the driver tells.
        memory_total_bytes: Device memory.
        memory_bandwidth_utilisation_ratio: Share of the window in which the memory bus was busy, 0..1.
        power_w: Power drawn now.
        power_limit_w: Enforced power limit.
        energy_j: Energy since the driver was loaded (a counter).
        temperatures_celsius: By sensor.
        clocks_hz: Current clocks, by domain.
        clock_event_reasons: Names of ``CLOCK_EVENT_REASONS`` that hold clocks down now.
        clock_event_s: Seconds in which a reason held clocks down (counters).
        ecc_errors: Counters by (severity, scope).
        remapped_rows: Row remapping.
        retired_pages: Pages retired by boards before row remapping.
        is_page_retirement_pending: Pages wait for a reset to be retired.
        pcie: Traffic over PCIe.
        pcie_errors: Counters by kind.
        nvlink: Traffic over all NVLinks, without protocol.
        nvlink_errors: Counters by kind, over all links.
        recovery_action: What the driver asks for: 0 none, 1 GPU reset, 2 node reboot, 3 drain peers,
            4 drain and reset; newer drivers know more.
        is_mig_enabled: The GPU is split in instances.
        mig_instances: The instances; empty outside MIG mode.
        processes: Compute processes; None where they cannot be read, which does not mean idle.
        failures: Values that failed for another reason than lack of support.
    """

    uuid: str
    is_up: bool
    utilisation_ratio: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    memory_bandwidth_utilisation_ratio: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    energy_j: float | None = None
    temperatures_celsius: Mapping[Sensor, float] = field(default_factory=dict)
    clocks_hz: Mapping[ClockDomain, int] = field(default_factory=dict)
    clock_event_reasons: frozenset[str] | None = None
    clock_event_s: Mapping[ClockEvent, float] = field(default_factory=dict)
    ecc_errors: Mapping[tuple[EccSeverity, EccScope], int] = field(default_factory=dict)
    remapped_rows: RemappedRows | None = None
    retired_pages: Mapping[PageCause, int] = field(default_factory=dict)
    is_page_retirement_pending: bool | None = None
    pcie: LinkTraffic | None = None
    pcie_errors: Mapping[PcieError, int] = field(default_factory=dict)
    nvlink: LinkTraffic | None = None
    nvlink_errors: Mapping[NvlinkError, int] = field(default_factory=dict)
    recovery_action: int | None = None
    is_mig_enabled: bool | None = None
    mig_instances: tuple[MigInstance, ...] = ()
    processes: tuple[GpuProcess, ...] | None = None
    failures: tuple[CallFailure, ...] = ()


class GpuSource(Protocol):
    """What the exporter reads: NVML, or the simulation."""

    @property
    def is_simulated(self) -> bool:
        """Whether the values are made up."""

    def count(self) -> int:
        """Devices the node shows now."""

    def identity(self, index: int) -> GpuIdentity:
        """Identity of the device at ``index``.

        Raises:
            NvmlError: The device or the driver does not answer properly.
        """

    def sample(self, uuid: str) -> GpuSample:
        """One reading of the device.

        Raises:
            UnknownGpuError: The UUID was not given out by ``identity``.
        """

    def xids(self) -> tuple[XidHistory, ...]:
        """Xid errors of the GPUs known so far, without waiting for the driver."""
