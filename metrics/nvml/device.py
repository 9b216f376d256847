"""One pass over one GPU: some dozen NVML calls into one frozen sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Final

import pynvml

from metrics.nvml.calls import Calls, Support, call
from metrics.nvml.fields import Fields, read_fields
from metrics.nvml.gpm import Gpm
from metrics.nvml.mig import is_enabled, read_instances
from metrics.nvml.values import (
    CLOCK_EVENT_REASONS,
    ClockDomain,
    GpuLostError,
    GpuSample,
    NvmlError,
    Sensor,
)

_CLOCK_DOMAINS: Final[Mapping[ClockDomain, int]] = MappingProxyType(
    {
        "graphics": pynvml.NVML_CLOCK_GRAPHICS,
        "sm": pynvml.NVML_CLOCK_SM,
        "memory": pynvml.NVML_CLOCK_MEM,
        "video": pynvml.NVML_CLOCK_VIDEO,
    }
)

_MILLI: Final = 1000
_MEGA: Final = 1_000_000
_PERCENT: Final = 100


@dataclass(slots=True)
class Device:
    """A GPU between passes.

    Attributes:
        uuid: The GPU.
        handle: NVML's handle.
        support: What it was found to lack.
        gpm: Samples of its MIG instances.
        is_mig_enabled: Its mode at the last pass; a change makes ``support`` void.
    """

    uuid: str
    handle: object
    support: Support
    gpm: Gpm
    is_mig_enabled: bool | None = None


def new_device(uuid: str, handle: object, clock: Callable[[], float]) -> Device:
    """A GPU of which nothing is known yet.

    Args:
        uuid: The GPU.
        handle: NVML's handle.
        clock: Monotonic seconds.
    """
    return Device(uuid, handle, Support(clock), Gpm(clock))


def pci_bus_id(calls: Calls) -> str | None:
    """Domain, bus, device and function."""

    def read() -> str:
        bus_id = pynvml.nvmlDeviceGetPciInfo(calls.handle).busId
        return bus_id.decode("ascii") if isinstance(bus_id, bytes) else str(bus_id)

    return calls.first_of(("nvmlDeviceGetPciInfo", read))


def read_device(device: Device) -> GpuSample:
    """Read everything there is.

    Raises:
        GpuLostError: The device is gone.
        NvmlError: The device does not tell who it is.
    """
    calls = Calls(device.handle, device.support)
    _check_alive(device)
    is_mig = is_enabled(calls)
    if is_mig != device.is_mig_enabled:
        device.support.forget()
        device.gpm.forget()
        device.is_mig_enabled = is_mig
    rates = _rates(calls)
    memory = calls.memory()
    fields = read_fields(calls)
    recovery = fields.get(pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION)
    values = GpuSample(
        uuid=device.uuid,
        is_up=True,
        utilisation_ratio=None if rates is None else rates[0] / _PERCENT,
        memory_used_bytes=None if memory is None else memory.used,
        memory_total_bytes=None if memory is None else memory.total,
        memory_bandwidth_utilisation_ratio=None if rates is None else rates[1] / _PERCENT,
        power_w=_from_milli(_power_mw(calls, fields)),
        power_limit_w=_from_milli(calls.int_of("nvmlDeviceGetEnforcedPowerLimit")),
        energy_j=_from_milli(_energy_mj(calls, fields)),
        temperatures_celsius=_temperatures(calls, fields),
        clocks_hz=_clocks(calls),
        clock_event_reasons=_clock_events(calls),
        clock_event_s=fields.clock_event_s(),
        ecc_errors=fields.ecc_errors(),
        remapped_rows=fields.remapped_rows(),
        retired_pages=fields.retired_pages(),
        is_page_retirement_pending=fields.flag(pynvml.NVML_FI_DEV_RETIRED_PENDING),
        pcie=fields.pcie(),
        pcie_errors=fields.pcie_errors(),
        nvlink=fields.nvlink(),
        nvlink_errors=fields.nvlink_errors(),
        recovery_action=None if recovery is None else int(recovery),
        is_mig_enabled=is_mig,
        mig_instances=read_instances(calls, device.gpm) if is_mig else (),
        processes=calls.processes(),
    )
    return replace(values, failures=tuple(calls.failures))


def _check_alive(device: Device) -> None:
    """The handle still means this GPU; else "not supported" everywhere would look like an idle one."""
    function = "nvmlDeviceGetUUID"
    try:
        answer = call(function, lambda: str(pynvml.nvmlDeviceGetUUID(device.handle)))
    except NvmlError as error:
        if error.code == pynvml.NVML_ERROR_INVALID_ARGUMENT:
            raise GpuLostError(function, error.code, "the handle is no longer valid") from error
        raise
    if answer != device.uuid:
        raise GpuLostError(function, pynvml.NVML_ERROR_GPU_NOT_FOUND, f"the handle now means {answer}")


def _rates(calls: Calls) -> tuple[int, int] | None:
    """Percent of the last window in which kernels ran, and in which the memory bus was busy."""

    def read() -> tuple[int, int]:
        rates = pynvml.nvmlDeviceGetUtilizationRates(calls.handle)
        return int(rates.gpu), int(rates.memory)

    return calls.first_of(("nvmlDeviceGetUtilizationRates", read))


def _power_mw(calls: Calls, fields: Fields) -> float | None:
    instant = fields.get(pynvml.NVML_FI_DEV_POWER_INSTANT)
    return calls.int_of("nvmlDeviceGetPowerUsage") if instant is None else instant


def _energy_mj(calls: Calls, fields: Fields) -> float | None:
    total = fields.get(pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION)
    return calls.int_of("nvmlDeviceGetTotalEnergyConsumption") if total is None else total


def _temperatures(calls: Calls, fields: Fields) -> dict[Sensor, float]:
    handle, sensor = calls.handle, pynvml.NVML_TEMPERATURE_GPU
    gpu = calls.first_of(
        ("nvmlDeviceGetTemperatureV", lambda: float(pynvml.nvmlDeviceGetTemperatureV(handle, sensor))),
        ("nvmlDeviceGetTemperature", lambda: float(pynvml.nvmlDeviceGetTemperature(handle, sensor))),
    )
    by_sensor: dict[Sensor, float | None] = {
        "gpu": gpu,
        "memory": fields.get(pynvml.NVML_FI_DEV_MEMORY_TEMP),
    }
    return {name: float(value) for name, value in by_sensor.items() if value is not None}


def _clocks(calls: Calls) -> dict[ClockDomain, int]:
    def read(domain: int) -> int:
        return int(pynvml.nvmlDeviceGetClockInfo(calls.handle, domain)) * _MEGA

    clocks: dict[ClockDomain, int] = {}
    for domain, number in _CLOCK_DOMAINS.items():
        hertz = calls.first_of(("nvmlDeviceGetClockInfo", partial(read, number)), of=domain)
        if hertz is not None:
            clocks[domain] = hertz
    return clocks


def _clock_events(calls: Calls) -> frozenset[str] | None:
    mask = calls.int_of("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
    if mask is None:
        return None
    return frozenset(name for name, bit in CLOCK_EVENT_REASONS.items() if mask & bit)


def _from_milli(value: float | None) -> float | None:
    """Base units from NVML's milliwatts and millijoules."""
    return None if value is None else value / _MILLI
