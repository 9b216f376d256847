"""Typed reader of NVIDIA's management library (NVML): the GPUs of this node.

A leaf: it imports ``pynvml`` (distribution ``nvidia-ml-py``) and the standard library, nothing of the
platform but its own parts, so that any room may use it. Everything leaves it in base units and as frozen
values. A call may block for ever when a device hangs in the driver: a caller that must not hang makes it in
a thread of its own.

Source: NVML API reference (docs.nvidia.com/deploy/nvml-api) and ``pynvml.py`` of nvidia-ml-py 13.615.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pynvml

from metrics.nvml.device import Reading, call, is_without_driver
from metrics.nvml.values import (
    CLOCK_EVENT_REASONS,
    MAX_GPUS_PER_NODE,
    MAX_PROCESSES_PER_GPU,
    CallFailure,
    GpuIdentity,
    GpuLostError,
    GpuProcess,
    GpuSample,
    GpuSource,
    NvmlError,
    RemappedRows,
    UnknownGpuError,
)

__all__ = [
    "CLOCK_EVENT_REASONS",
    "MAX_GPUS_PER_NODE",
    "MAX_PROCESSES_PER_GPU",
    "CallFailure",
    "GpuIdentity",
    "GpuLostError",
    "GpuProcess",
    "GpuSample",
    "GpuSource",
    "NvmlError",
    "NvmlSource",
    "RemappedRows",
    "UnknownGpuError",
    "open_source",
]


class NvmlSource:
    """The GPUs of this node, read through NVML. Made by ``open_source``.

    Safe for use from several threads; one GPU's hanging call holds no lock of this class.
    """

    is_simulated: Final = False

    def __init__(self, driver_version: str) -> None:
        self._driver_version = driver_version
        self._identities: dict[int, GpuIdentity] = {}
        self._handles: dict[str, object] = {}

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
        reading = Reading(handle)
        memory = reading.memory()
        identity = GpuIdentity(
            uuid=call("nvmlDeviceGetUUID", lambda: str(pynvml.nvmlDeviceGetUUID(handle))),
            index=index,
            model=call("nvmlDeviceGetName", lambda: str(pynvml.nvmlDeviceGetName(handle))),
            memory_total_bytes=None if memory is None else memory.total,
            pci_bus_id=reading.pci_bus_id() or "",
            driver_version=self._driver_version,
        )
        self._handles[identity.uuid] = handle
        self._identities[index] = identity
        return identity

    def inventory(self) -> tuple[GpuIdentity, ...]:
        """All devices identified now or before, by index; those lost before that are left out.

        Raises:
            NvmlError: The driver does not answer properly.
        """
        return tuple(self._identified())

    def sample(self, uuid: str) -> GpuSample:
        """Read one GPU in some dozen driver calls.

        Raises:
            UnknownGpuError: The UUID was not given out by ``identity`` or ``inventory``.
            NvmlError: The device does not even tell who it is.
        """
        handle = self._handles.get(uuid)
        if handle is None:
            raise UnknownGpuError(f"no GPU {uuid} on this node; ask inventory() for those there are")
        try:
            return Reading(handle).sample(uuid)
        except GpuLostError:
            return GpuSample(uuid=uuid, is_up=False)

    def close(self) -> None:
        """Release the library; the source must not be used after.

        Raises:
            NvmlError: It was released before.
        """
        call("nvmlShutdown", pynvml.nvmlShutdown)

    def _identified(self) -> Iterator[GpuIdentity]:
        for index in range(self.count()):
            try:
                yield self.identity(index)
            except GpuLostError:
                continue


def open_source() -> NvmlSource | None:
    """Open NVML.

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
    return NvmlSource(version)


def _device_count() -> int:
    return min(int(pynvml.nvmlDeviceGetCount()), MAX_GPUS_PER_NODE)
