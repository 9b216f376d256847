"""The NVML calls on one device, and the translation of their errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Final, TypeVar

import pynvml

from metrics.nvml.values import (
    CLOCK_EVENT_REASONS,
    MAX_PROCESSES_PER_GPU,
    CallFailure,
    ClockDomain,
    EccScope,
    EccSeverity,
    GpuLostError,
    GpuProcess,
    GpuSample,
    NvmlError,
    RemappedRows,
    Sensor,
)

# The device cannot answer any more: off the bus, waiting for a reset, gone from the enumeration.
_LOST_CODES: Final = frozenset(
    (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED, pynvml.NVML_ERROR_GPU_NOT_FOUND)
)
# This device, driver or caller has no such value. INVALID_ARGUMENT is what older drivers answer to a field
# id they do not know; ARGUMENT_VERSION_MISMATCH, to a newer structure.
_ABSENT_CODES: Final = frozenset(
    (
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_NOT_FOUND,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_INVALID_ARGUMENT,
        pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
    )
)
# No NVIDIA driver on this machine: an ordinary state of a machine without GPUs.
_NO_DRIVER_CODES: Final = frozenset(
    (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
)

_CLOCK_DOMAINS: Final[Mapping[ClockDomain, int]] = MappingProxyType(
    {
        "graphics": pynvml.NVML_CLOCK_GRAPHICS,
        "sm": pynvml.NVML_CLOCK_SM,
        "memory": pynvml.NVML_CLOCK_MEM,
        "video": pynvml.NVML_CLOCK_VIDEO,
    }
)

_ECC_FIELDS: Final[Mapping[tuple[EccSeverity, EccScope], int]] = MappingProxyType(
    {
        ("corrected", "volatile"): pynvml.NVML_FI_DEV_ECC_SBE_VOL_TOTAL,
        ("uncorrected", "volatile"): pynvml.NVML_FI_DEV_ECC_DBE_VOL_TOTAL,
        ("corrected", "aggregate"): pynvml.NVML_FI_DEV_ECC_SBE_AGG_TOTAL,
        ("uncorrected", "aggregate"): pynvml.NVML_FI_DEV_ECC_DBE_AGG_TOTAL,
    }
)

# One driver call reads them all; the driver groups fields that share a register read.
_FIELDS: Final = (
    *_ECC_FIELDS.values(),
    pynvml.NVML_FI_DEV_MEMORY_TEMP,
    pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION,
    pynvml.NVML_FI_DEV_REMAPPED_COR,
    pynvml.NVML_FI_DEV_REMAPPED_UNC,
    pynvml.NVML_FI_DEV_REMAPPED_PENDING,
    pynvml.NVML_FI_DEV_REMAPPED_FAILURE,
    pynvml.NVML_FI_DEV_POWER_INSTANT,
    pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION,
)

# Which member of the value union is set, by valueType.
_UNION_MEMBERS: Final[Mapping[int, str]] = MappingProxyType(
    {
        pynvml.NVML_VALUE_TYPE_DOUBLE: "dVal",
        pynvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal",
        pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG: "ulVal",
        pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "ullVal",
        pynvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG: "sllVal",
        pynvml.NVML_VALUE_TYPE_SIGNED_INT: "siVal",
        pynvml.NVML_VALUE_TYPE_UNSIGNED_SHORT: "usVal",
    }
)

_MILLI: Final = 1000
_MEGA: Final = 1_000_000
_PERCENT: Final = 100

_T = TypeVar("_T")


def call(function: str, body: Callable[[], _T]) -> _T:
    """Make one NVML call and translate its error.

    ``pynvml.NVMLError`` is unhashable and fails when compared with ``==``: only its number leaves here.

    Args:
        function: The NVML function, for the message.
        body: The call and the conversion of its answer.

    Raises:
        GpuLostError: The device is gone.
        NvmlError: Any other NVML error.
    """
    try:
        return body()
    except pynvml.NVMLError as error:
        code = int(error.value)
        kind = GpuLostError if code in _LOST_CODES else NvmlError
        raise kind(function, code, str(error)) from error


def is_without_driver(error: NvmlError) -> bool:
    """Whether the machine simply has no NVIDIA library or driver."""
    return error.code in _NO_DRIVER_CODES


@dataclass(frozen=True, slots=True)
class Memory:
    """Device memory, bytes."""

    used: int
    total: int


class Reading:
    """One pass over one device: absent values become None, a lost device raises, the rest is noted.

    Args:
        handle: NVML's device handle.

    Attributes:
        failures: Values that failed for another reason than lack of support, so far.
    """

    def __init__(self, handle: object) -> None:
        self._handle = handle
        self.failures: list[CallFailure] = []

    def sample(self, uuid: str) -> GpuSample:
        """Read everything there is.

        Raises:
            GpuLostError: The device is gone.
            NvmlError: The device does not tell who it is.
        """
        self._check_alive(uuid)
        rates = self._rates()
        memory = self.memory()
        fields = self._fields()
        recovery = fields.get(pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION)
        values = GpuSample(
            uuid=uuid,
            is_up=True,
            utilisation_ratio=None if rates is None else rates[0] / _PERCENT,
            memory_used_bytes=None if memory is None else memory.used,
            memory_total_bytes=None if memory is None else memory.total,
            memory_bandwidth_utilisation_ratio=None if rates is None else rates[1] / _PERCENT,
            power_w=_from_milli(self._power_mw(fields)),
            power_limit_w=_from_milli(self._int_of("nvmlDeviceGetEnforcedPowerLimit")),
            energy_j=_from_milli(self._energy_mj(fields)),
            temperatures_celsius=self._temperatures(fields),
            clocks_hz=self._clocks(),
            clock_event_reasons=self._clock_events(),
            ecc_errors={key: int(fields[number]) for key, number in _ECC_FIELDS.items() if number in fields},
            remapped_rows=_remapped_rows(fields),
            recovery_action=None if recovery is None else int(recovery),
            is_mig_enabled=self._is_mig_enabled(),
            processes=self._processes(),
        )
        return replace(values, failures=tuple(self.failures))

    def memory(self) -> Memory | None:
        """Used and total bytes; version 2 of the call leaves the driver's reserve out of "used"."""
        return self._first_of(
            ("nvmlDeviceGetMemoryInfo", partial(self._memory_of, pynvml.nvmlMemory_v2)),
            ("nvmlDeviceGetMemoryInfo", partial(self._memory_of, None)),
        )

    def pci_bus_id(self) -> str | None:
        """Domain, bus, device and function."""

        def read() -> str:
            bus_id = pynvml.nvmlDeviceGetPciInfo(self._handle).busId
            return bus_id.decode("ascii") if isinstance(bus_id, bytes) else str(bus_id)

        return self._first_of(("nvmlDeviceGetPciInfo", read))

    def _check_alive(self, uuid: str) -> None:
        """The handle still means this GPU; else "not supported" everywhere would look like an idle one."""
        function = "nvmlDeviceGetUUID"
        try:
            answer = call(function, lambda: str(pynvml.nvmlDeviceGetUUID(self._handle)))
        except NvmlError as error:
            if error.code == pynvml.NVML_ERROR_INVALID_ARGUMENT:
                raise GpuLostError(function, error.code, "the handle is no longer valid") from error
            raise
        if answer != uuid:
            raise GpuLostError(function, pynvml.NVML_ERROR_GPU_NOT_FOUND, f"the handle now means {answer}")

    def _first_of(self, *alternatives: tuple[str, Callable[[], _T]]) -> _T | None:
        """Answer of the first alternative that this driver and device have, else None.

        Newer calls stand first, those that CUDA 14 removes after them, so that old and new drivers are
        read alike; ``pynvml`` may drop a name as the driver may drop its symbol.
        """
        for function, body in alternatives:
            if not hasattr(pynvml, function):
                continue
            try:
                return call(function, body)
            except GpuLostError:
                raise
            except NvmlError as error:
                if error.code not in _ABSENT_CODES:
                    self.failures.append(CallFailure(function, error.code))
                    return None
        return None

    def _int_of(self, *functions: str) -> int | None:
        """Answer of the first of these functions, which take the device alone, that there is."""

        def read(function: str) -> int:
            return int(getattr(pynvml, function)(self._handle))

        return self._first_of(*((function, partial(read, function)) for function in functions))

    def _memory_of(self, version: int | None) -> Memory:
        answer = pynvml.nvmlDeviceGetMemoryInfo(self._handle, version)
        return Memory(int(answer.used), int(answer.total))

    def _rates(self) -> tuple[int, int] | None:
        """Percent of the last window in which kernels ran, and in which the memory bus was busy."""

        def read() -> tuple[int, int]:
            rates = pynvml.nvmlDeviceGetUtilizationRates(self._handle)
            return int(rates.gpu), int(rates.memory)

        return self._first_of(("nvmlDeviceGetUtilizationRates", read))

    def _fields(self) -> dict[int, float]:
        """Field values by id in one driver call; fields without a value are left out."""

        def read() -> dict[int, float]:
            values: dict[int, float] = {}
            for item in pynvml.nvmlDeviceGetFieldValues(self._handle, list(_FIELDS)):
                # The call succeeds if any field does: each value has its own return code and type.
                number, code, kind = int(item.fieldId), int(item.nvmlReturn), int(item.valueType)
                if code == pynvml.NVML_SUCCESS and kind in _UNION_MEMBERS:
                    values[number] = getattr(item.value, _UNION_MEMBERS[kind])
                elif code in _LOST_CODES:
                    raise GpuLostError("nvmlDeviceGetFieldValues", code, f"field {number}")
                elif code != pynvml.NVML_SUCCESS and code not in _ABSENT_CODES:
                    self.failures.append(CallFailure(f"nvmlDeviceGetFieldValues[{number}]", code))
            return values

        return self._first_of(("nvmlDeviceGetFieldValues", read)) or {}

    def _power_mw(self, fields: Mapping[int, float]) -> float | None:
        instant = fields.get(pynvml.NVML_FI_DEV_POWER_INSTANT)
        return self._int_of("nvmlDeviceGetPowerUsage") if instant is None else instant

    def _energy_mj(self, fields: Mapping[int, float]) -> float | None:
        total = fields.get(pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION)
        return self._int_of("nvmlDeviceGetTotalEnergyConsumption") if total is None else total

    def _temperatures(self, fields: Mapping[int, float]) -> dict[Sensor, float]:
        handle, sensor = self._handle, pynvml.NVML_TEMPERATURE_GPU
        gpu = self._first_of(
            ("nvmlDeviceGetTemperatureV", lambda: float(pynvml.nvmlDeviceGetTemperatureV(handle, sensor))),
            ("nvmlDeviceGetTemperature", lambda: float(pynvml.nvmlDeviceGetTemperature(handle, sensor))),
        )
        by_sensor: dict[Sensor, float | None] = {
            "gpu": gpu,
            "memory": fields.get(pynvml.NVML_FI_DEV_MEMORY_TEMP),
        }
        return {name: float(value) for name, value in by_sensor.items() if value is not None}

    def _clocks(self) -> dict[ClockDomain, int]:
        def read(domain: int) -> int:
            return int(pynvml.nvmlDeviceGetClockInfo(self._handle, domain)) * _MEGA

        clocks: dict[ClockDomain, int] = {}
        for domain, number in _CLOCK_DOMAINS.items():
            hertz = self._first_of(("nvmlDeviceGetClockInfo", partial(read, number)))
            if hertz is not None:
                clocks[domain] = hertz
        return clocks

    def _clock_events(self) -> frozenset[str] | None:
        mask = self._int_of(
            "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"
        )
        if mask is None:
            return None
        return frozenset(name for name, bit in CLOCK_EVENT_REASONS.items() if mask & bit)

    def _is_mig_enabled(self) -> bool | None:
        def read() -> bool:
            return bool(pynvml.nvmlDeviceGetMigMode(self._handle)[0] == pynvml.NVML_DEVICE_MIG_ENABLE)

        return self._first_of(("nvmlDeviceGetMigMode", read))

    def _processes(self) -> tuple[GpuProcess, ...] | None:
        # The unversioned name raises an error of pynvml's own, not an NVMLError, on drivers without _v3.
        functions = ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2")

        def read(function: str) -> tuple[GpuProcess, ...]:
            return tuple(
                GpuProcess(int(item.pid), None if item.usedGpuMemory is None else int(item.usedGpuMemory))
                for item in getattr(pynvml, function)(self._handle)[:MAX_PROCESSES_PER_GPU]
            )

        return self._first_of(*((function, partial(read, function)) for function in functions))


def _from_milli(value: float | None) -> float | None:
    """Base units from NVML's milliwatts and millijoules."""
    return None if value is None else value / _MILLI


def _remapped_rows(fields: Mapping[int, float]) -> RemappedRows | None:
    try:
        return RemappedRows(
            correctable=int(fields[pynvml.NVML_FI_DEV_REMAPPED_COR]),
            uncorrectable=int(fields[pynvml.NVML_FI_DEV_REMAPPED_UNC]),
            is_pending=fields[pynvml.NVML_FI_DEV_REMAPPED_PENDING] != 0,
            has_failed=fields[pynvml.NVML_FI_DEV_REMAPPED_FAILURE] != 0,
        )
    except KeyError:
        return None  # the four come together, or the board does not remap rows
