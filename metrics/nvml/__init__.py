"""Typed reader of NVIDIA's management library (NVML): the GPUs of this node.

A leaf: it imports ``pynvml`` (distribution ``nvidia-ml-py``) and the standard library, nothing of the
platform but its own parts, so that any room may use it. Everything leaves it in base units and as frozen
values. A call may block for ever when a device hangs in the driver: a caller that must not hang makes it in
a thread of its own.

Source: NVML API reference (docs.nvidia.com/deploy/nvml-api) and ``pynvml.py`` of nvidia-ml-py 13.615.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

import pynvml

from metrics.nvml.calls import Calls, call, is_without_driver
from metrics.nvml.device import Device, new_device, pci_bus_id, read_device
from metrics.nvml.events import XidWatch
from metrics.nvml.values import (
    CLOCK_EVENT_REASONS,
    CLOCK_EVENTS,
    MAX_GPUS_PER_NODE,
    MAX_PROCESSES_PER_GPU,
    CallFailure,
    GpuIdentity,
    GpuLostError,
    GpuProcess,
    GpuSample,
    GpuSource,
    LinkTraffic,
    MigInstance,
    NvmlError,
    RemappedRows,
    UnknownGpuError,
    XidCount,
    XidHistory,
)

__all__ = [
    "CLOCK_EVENTS",
    "CLOCK_EVENT_REASONS",
    "MAX_GPUS_PER_NODE",
    "MAX_PROCESSES_PER_GPU",
    "CallFailure",
    "GpuIdentity",
    "GpuLostError",
    "GpuProcess",
    "GpuSample",
    "GpuSource",
    "LinkTraffic",
    "MigInstance",
    "NvmlError",
    "NvmlSource",
    "RemappedRows",
    "UnknownGpuError",
    "XidCount",
    "XidHistory",
    "open_source",
]

# Two waits of the Xid watch; a driver that does not return from one is left behind.
_STOP_S: Final = 1.0


class NvmlSource:
    """The GPUs of this node, read through NVML. Made by ``open_source``.

    Safe for use from several threads; one GPU's hanging call holds no lock of this class.
    """

    is_simulated: Final = False

    def __init__(self, driver_version: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._driver_version = driver_version
        self._clock = clock
        self._identities: dict[int, GpuIdentity] = {}
        self._devices: dict[str, Device] = {}
        self._watch: XidWatch | None = None
        self._watch_lock = threading.Lock()

    def count(self) -> int:
        """Devices the driver enumerates now, at most ``MAX_GPUS_PER_NODE``.

        Raises:
            NvmlError: The driver does not answer properly.
        """
        return call("nvmlDeviceGetCount", _device_count)

    def identity(self, index: int) -> GpuIdentity:
        """Identity of the device at ``index``; remembered, so a GPU lost later keeps its name.

        Raises:
            GpuLostError: The device was lost before it was first identified.
            NvmlError: The driver does not answer properly.
        """
        known = self._identities.get(index)
        if known is not None:
            return known
        handle = call("nvmlDeviceGetHandleByIndex", lambda: pynvml.nvmlDeviceGetHandleByIndex(index))
        calls = Calls(handle)
        memory = calls.memory()
        identity = GpuIdentity(
            uuid=call("nvmlDeviceGetUUID", lambda: str(pynvml.nvmlDeviceGetUUID(handle))),
            index=index,
            model=call("nvmlDeviceGetName", lambda: str(pynvml.nvmlDeviceGetName(handle))),
            memory_total_bytes=None if memory is None else memory.total,
            pci_bus_id=pci_bus_id(calls) or "",
            driver_version=self._driver_version,
        )
        self._devices[identity.uuid] = new_device(identity.uuid, handle, self._clock)
        self._identities[index] = identity
        return identity

    def inventory(self) -> tuple[GpuIdentity, ...]:
        """All devices identified now or before, by index; those lost before that are left out.

        Raises:
            NvmlError: The driver does not answer properly.
        """
        return tuple(self._identified())

    def sample(self, uuid: str) -> GpuSample:
        """Read one GPU in some dozen driver calls; not from two threads at once for the same GPU.

        Raises:
            UnknownGpuError: The UUID was not given out by ``identity`` or ``inventory``.
            NvmlError: The device does not even tell who it is.
        """
        device = self._devices.get(uuid)
        if device is None:
            raise UnknownGpuError(f"no GPU {uuid} on this node; ask inventory() for those there are")
        try:
            return read_device(device)
        except GpuLostError:
            return GpuSample(uuid=uuid, is_up=False)

    def xids(self) -> tuple[XidHistory, ...]:
        """Xid errors of the GPUs identified so far; the first call begins to watch for them.

        Never waits for the driver.
        """
        with self._watch_lock:
            if self._watch is None:
                self._watch = XidWatch(self._handles)
            return self._watch.histories()

    def close(self) -> None:
        """Release the library; the source must not be used after.

        Raises:
            NvmlError: It was released before.
        """
        with self._watch_lock:
            if self._watch is not None:
                self._watch.stop(_STOP_S)
        call("nvmlShutdown", pynvml.nvmlShutdown)

    def _handles(self) -> dict[str, object]:
        # A copy is made in one step: lanes may add devices meanwhile.
        return {uuid: device.handle for uuid, device in self._devices.copy().items()}

    def _identified(self) -> Iterator[GpuIdentity]:
        for index in range(self.count()):
            try:
                yield self.identity(index)
            except GpuLostError:
                continue


def open_source(clock: Callable[[], float] = time.monotonic) -> NvmlSource | None:
    """Open NVML.

    Args:
        clock: Monotonic seconds; what a device lacks is asked for again by it.

    Returns:
        The source, or None on a machine without the library, the driver or a GPU.

    Raises:
        NvmlError: There is a driver, and it does not answer properly (library and kernel module of
            different versions after an upgrade, say).
    """
    try:
        call("nvmlInit", pynvml.nvmlInit)
    except NvmlError as error:
        if is_without_driver(error):
            return None
        raise
    try:
        has_gpus = call("nvmlDeviceGetCount", _device_count) > 0
        version = call("nvmlSystemGetDriverVersion", lambda: str(pynvml.nvmlSystemGetDriverVersion()))
    except NvmlError:
        call("nvmlShutdown", pynvml.nvmlShutdown)
        raise
    if not has_gpus:
        call("nvmlShutdown", pynvml.nvmlShutdown)
        return None
    return NvmlSource(version, clock)


def _device_count() -> int:
    return min(int(pynvml.nvmlDeviceGetCount()), MAX_GPUS_PER_NODE)
