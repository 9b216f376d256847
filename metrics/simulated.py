"""The *simulated* source: plausible telemetry for GPUs that do not exist.

It serves machines without NVIDIA hardware. A GPU that holds a job shows load, one that does not idles. The
values follow from the GPU's UUID, its job and the time alone: no chance, so a test or a replay sees the
same curve. Only the energy counter has a memory, being the integral of the power shown.

Nothing here is a measurement; every consumer labels it *simulated*.
"""

from __future__ import annotations

import hashlib
import math
import threading
import uuid as uuidlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from metrics.nvml import (
    CLOCK_EVENTS,
    GpuIdentity,
    GpuSample,
    LinkTraffic,
    RemappedRows,
    UnknownGpuError,
    XidHistory,
)

#: Shown where a real source shows the version of its driver.
DRIVER_VERSION: Final = "simulated"
#: Model of a simulated GPU that names none; memory and power are those of an H200 SXM board.
DEFAULT_MODEL: Final = "NVIDIA H200 (simulated)"
DEFAULT_MEMORY_BYTES: Final = 141 * 10**9
POWER_LIMIT_W: Final = 700.0
IDLE_POWER_W: Final = 75.0

# Load climbs and memory fills over the first minute: imports, data loading, warm-up.
_RAMP_S: Final = 15.0
# Silicon follows power with a lag.
_THERMAL_S: Final = 60.0
# Noise is drawn anew every so many seconds and joined linearly, so that neighbouring scrapes agree.
_NOISE_STEP_S: Final = 10.0
# A training step now and then waits for data or writes a checkpoint.
_DIP_PERIOD_S: Final = 120.0
_DIP_LENGTH_S: Final = 6.0
_IDLE_MEMORY_BYTES: Final = 600 * 10**6
_NAMESPACE: Final = uuidlib.uuid5(uuidlib.NAMESPACE_DNS, "simulated.kezek.io")
# Traffic of a GPU at full use: what a data loader and a gradient exchange move, well below the links' limits.
_PCIE_BYTES_PER_BUSY_S: Final = 2 * 10**9
_NVLINK_BYTES_PER_BUSY_S: Final = 60 * 10**9
_MEGAHERTZ: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Holder:
    """The job that holds a GPU.

    Attributes:
        job_id: The job; jobs differ in their load.
        started_at: Aware UTC; load ramps up from here.
    """

    job_id: str
    started_at: datetime


@dataclass(frozen=True, slots=True)
class SimulatedGpu:
    """A GPU that is to be simulated.

    Attributes:
        uuid: Its UUID, the one that the platform allocates.
        model: Product name shown; should say that it is simulated.
        memory_bytes: Device memory.
    """

    uuid: str
    model: str = DEFAULT_MODEL
    memory_bytes: int = DEFAULT_MEMORY_BYTES


#: Who holds which GPU now, by UUID; a GPU that is missing idles.
Holders = Callable[[], Mapping[str, Holder]]


class SimulatedSource:
    """The GPUs of one simulated node.

    Args:
        gpus: The node's GPUs in the order of their index.
        holders: Asked at each sample.
        clock: Now, aware UTC.
    """

    is_simulated: Final = True

    def __init__(self, gpus: Sequence[SimulatedGpu], holders: Holders, clock: Callable[[], datetime]) -> None:
        self._gpus = tuple(gpus)
        self._by_uuid = {gpu.uuid: gpu for gpu in gpus}
        self._holders = holders
        self._clock = clock
        self._meters: dict[str, _Meter] = {}
        self._lock = threading.Lock()

    def count(self) -> int:
        """Simulated devices of this node."""
        return len(self._gpus)

    def identity(self, index: int) -> GpuIdentity:
        """Identity of the device at ``index``.

        Raises:
            UnknownGpuError: There is no device at that index.
        """
        if not 0 <= index < len(self._gpus):
            raise UnknownGpuError(f"no simulated GPU at index {index}; the node has {len(self._gpus)}")
        gpu = self._gpus[index]
        return GpuIdentity(
            uuid=gpu.uuid,
            index=index,
            model=gpu.model,
            memory_total_bytes=gpu.memory_bytes,
            pci_bus_id=f"simulated:{index:02x}",
            driver_version=DRIVER_VERSION,
        )

    def inventory(self) -> tuple[GpuIdentity, ...]:
        """All devices of the node, by index."""
        return tuple(self.identity(index) for index in range(len(self._gpus)))

    def sample(self, uuid: str) -> GpuSample:
        """The GPU's values now; energy counts from the first sample.

        Raises:
            UnknownGpuError: The node has no such GPU.
        """
        gpu = self._by_uuid.get(uuid)
        if gpu is None:
            raise UnknownGpuError(
                f"no simulated GPU {uuid} on this node; ask inventory() for those there are"
            )
        at = self._clock()
        load = load_at(uuid, at, self._holders().get(uuid))
        with self._lock:
            meter = _metered(self._meters.get(uuid), load, at)
            self._meters[uuid] = meter
        return _sample(gpu, load, meter)

    def xids(self) -> tuple[XidHistory, ...]:
        """No simulated GPU ever fails, so none has an Xid."""
        return tuple(XidHistory(gpu.uuid, is_watched=True, counts=()) for gpu in self._gpus)


@dataclass(frozen=True, slots=True)
class Load:
    """How busy a simulated GPU is.

    Attributes:
        utilisation_ratio: 0..1.
        memory_ratio: Share of the device memory that the job holds, 0..1.
        power_w: Power drawn.
        heat_ratio: How far the silicon has followed its power, 0..1.
    """

    utilisation_ratio: float
    memory_ratio: float
    power_w: float
    heat_ratio: float


def load_at(uuid: str, at: datetime, holder: Holder | None) -> Load:
    """Load of a GPU at a moment, from nothing but its arguments.

    Args:
        uuid: The GPU.
        at: The moment, aware UTC.
        holder: The job that holds it, or None: then the GPU idles.
    """
    moment_s = at.timestamp()
    noise = _noise(uuid, moment_s)
    age_s = -1.0 if holder is None else (at - holder.started_at).total_seconds()
    if holder is None or age_s < 0:
        return Load(0.0, 0.0, IDLE_POWER_W + 4.0 * noise, 0.0)
    plateau = 0.78 + 0.20 * _unit(f"utilisation/{holder.job_id}")
    footprint = 0.35 + 0.55 * _unit(f"memory/{holder.job_id}")
    ramp = 1.0 - math.exp(-age_s / _RAMP_S)
    phase_s = (age_s + _DIP_PERIOD_S * _unit(f"phase/{holder.job_id}")) % _DIP_PERIOD_S
    dip = 0.35 if phase_s < _DIP_LENGTH_S else 1.0
    utilisation = min(1.0, max(0.0, plateau * ramp * dip + 0.04 * (noise - 0.5)))
    power_w = IDLE_POWER_W + (POWER_LIMIT_W - IDLE_POWER_W) * 0.95 * utilisation
    heat = utilisation * (1.0 - math.exp(-age_s / _THERMAL_S))
    return Load(utilisation, footprint * ramp, power_w, heat)


def simulated_uuid(node: str, index: int) -> str:
    """UUID of a simulated GPU that nobody named: the same for the same node and index.

    The node agent makes the same ones; the exporter cannot import it, so a test compares.

    Args:
        node: Name of the node.
        index: From 0.
    """
    return f"GPU-{uuidlib.uuid5(_NAMESPACE, f'kezek-simulated/{node}/{index}')}"


def utc_now() -> datetime:
    """The clock of a running exporter."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class _Meter:
    """State of one GPU's counters."""

    at: datetime
    load: Load
    energy_j: float
    busy_s: float


def _metered(last: _Meter | None, load: Load, at: datetime) -> _Meter:
    """Advance the counters by the trapezoid between two samples; a clock set back adds nothing."""
    if last is None:
        return _Meter(at, load, 0.0, 0.0)
    half_s = max(0.0, (at - last.at).total_seconds()) / 2
    return _Meter(
        max(at, last.at),
        load,
        last.energy_j + half_s * (last.load.power_w + load.power_w),
        last.busy_s + half_s * (last.load.utilisation_ratio + load.utilisation_ratio),
    )


def _sample(gpu: SimulatedGpu, load: Load, meter: _Meter) -> GpuSample:
    is_busy = load.utilisation_ratio > 0
    held_bytes = int(gpu.memory_bytes * load.memory_ratio)
    return GpuSample(
        uuid=gpu.uuid,
        is_up=True,
        utilisation_ratio=round(load.utilisation_ratio, 2),  # NVML's resolution: whole percents
        memory_used_bytes=min(gpu.memory_bytes, _IDLE_MEMORY_BYTES + held_bytes),
        memory_total_bytes=gpu.memory_bytes,
        memory_bandwidth_utilisation_ratio=round(0.6 * load.utilisation_ratio, 2),
        power_w=round(load.power_w, 3),
        power_limit_w=POWER_LIMIT_W,
        energy_j=meter.energy_j,
        temperatures_celsius={
            "gpu": float(round(31 + 36 * load.heat_ratio)),
            "memory": float(round(36 + 45 * load.heat_ratio)),
        },
        clocks_hz={
            "graphics": (1980 if is_busy else 345) * _MEGAHERTZ,
            "sm": (1980 if is_busy else 345) * _MEGAHERTZ,
            "memory": 3201 * _MEGAHERTZ,
        },
        clock_event_reasons=frozenset() if is_busy else frozenset({"gpu_idle"}),
        clock_event_s=dict.fromkeys(CLOCK_EVENTS, 0.0),
        pcie=_traffic(meter, _PCIE_BYTES_PER_BUSY_S),
        pcie_errors={"correctable": 0, "non_fatal": 0, "fatal": 0, "replay": 0},
        nvlink=_traffic(meter, _NVLINK_BYTES_PER_BUSY_S),
        nvlink_errors={"crc_flit": 0, "crc_data": 0, "replay": 0, "recovery": 0},
        ecc_errors={
            ("corrected", "volatile"): 0,
            ("uncorrected", "volatile"): 0,
            ("corrected", "aggregate"): 0,
            ("uncorrected", "aggregate"): 0,
        },
        remapped_rows=RemappedRows(correctable=0, uncorrectable=0, is_pending=False, has_failed=False),
        recovery_action=0,
        is_mig_enabled=False,
    )


def _traffic(meter: _Meter, bytes_per_busy_s: int) -> LinkTraffic:
    """As much received as sent, in step with the work done."""
    moved = int(meter.busy_s * bytes_per_busy_s)
    return LinkTraffic(moved, moved)


def _unit(key: str) -> float:
    """A number in [0, 1) that is the same for the same key on every machine."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _noise(uuid: str, moment_s: float) -> float:
    """Smooth noise in [0, 1): hashed points every ``_NOISE_STEP_S``, joined linearly."""
    step, offset_s = divmod(moment_s, _NOISE_STEP_S)
    weight = offset_s / _NOISE_STEP_S
    first, second = (_unit(f"noise/{uuid}/{int(step) + ahead}") for ahead in (0, 1))
    return first * (1.0 - weight) + second * weight
