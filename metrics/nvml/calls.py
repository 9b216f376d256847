"""Calls on one device handle: translation of errors, alternatives by driver version, memory of what is absent."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import pynvml

from metrics.nvml.values import (
    MAX_PROCESSES_PER_GPU,
    CallFailure,
    GpuLostError,
    GpuProcess,
    NvmlError,
)

#: Seconds after which a value that a device lacked is asked for again: a driver's answer may change with a
#: mode of the device, but asking at every scrape costs a call for nothing.
RETRY_UNSUPPORTED_S: Final = 3600.0

# The device cannot answer any more: off the bus, waiting for a reset, gone from the enumeration.
LOST_CODES: Final = frozenset(
    (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED, pynvml.NVML_ERROR_GPU_NOT_FOUND)
)
# This device, driver or caller has no such value. INVALID_ARGUMENT is what older drivers answer to a field
# id they do not know; ARGUMENT_VERSION_MISMATCH, to a newer structure.
ABSENT_CODES: Final = frozenset(
    (
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_NOT_FOUND,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_INVALID_ARGUMENT,
        pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
    )
)
# Of these, the ones that will not change from one scrape to the next.
LASTING_CODES: Final = ABSENT_CODES - {pynvml.NVML_ERROR_NO_PERMISSION, pynvml.NVML_ERROR_NOT_FOUND}
# No NVIDIA driver on this machine: an ordinary state of a machine without GPUs.
_NO_DRIVER_CODES: Final = frozenset(
    (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
)

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
        kind = GpuLostError if code in LOST_CODES else NvmlError
        raise kind(function, code, str(error)) from error


def is_without_driver(error: NvmlError) -> bool:
    """Whether the machine simply has no NVIDIA library or driver."""
    return error.code in _NO_DRIVER_CODES


class Support:
    """What one device was found to lack, and when to ask again.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._retry_at_s: dict[Hashable, float] = {}

    def may_have(self, key: Hashable) -> bool:
        """Whether to ask for the value: never refused, or refused long enough ago."""
        retry_at_s = self._retry_at_s.get(key)
        return retry_at_s is None or self._clock() >= retry_at_s

    def lacks(self, key: Hashable) -> None:
        """Note that the device has no such value."""
        self._retry_at_s[key] = self._clock() + RETRY_UNSUPPORTED_S

    def forget(self) -> None:
        """Ask for everything again: the device changed its mode."""
        self._retry_at_s.clear()


@dataclass(frozen=True, slots=True)
class Memory:
    """Device memory, bytes."""

    used: int
    total: int


class Calls:
    """Calls on one handle: absent values become None, a lost device raises, the rest is noted.

    Args:
        handle: NVML's handle of a GPU or of a MIG device.
        support: What the device lacks, remembered from pass to pass; None remembers nothing.

    Attributes:
        failures: Values that failed for another reason than lack of support, so far.
    """

    def __init__(self, handle: object, support: Support | None = None) -> None:
        self.handle = handle
        self.support = support
        self.failures: list[CallFailure] = []

    def first_of(self, *alternatives: tuple[str, Callable[[], _T]], of: str = "") -> _T | None:
        """Answer of the first alternative that this driver and device have, else None.

        Newer calls stand first, those that CUDA 14 removes after them, so that old and new drivers are
        read alike; ``pynvml`` may drop a name as the driver may drop its symbol.

        Args:
            alternatives: NVML function and the call.
            of: Tells apart values that the same function gives.

        Raises:
            GpuLostError: The device is gone.
        """
        for position, (function, body) in enumerate(alternatives):
            key = (function, of, position)
            if not hasattr(pynvml, function) or (self.support and not self.support.may_have(key)):
                continue
            try:
                return call(function, body)
            except GpuLostError:
                raise
            except NvmlError as error:
                if error.code not in ABSENT_CODES:
                    self.failures.append(CallFailure(function, error.code))
                    return None
                if self.support and error.code in LASTING_CODES:
                    self.support.lacks(key)
        return None

    def int_of(self, *functions: str) -> int | None:
        """Answer of the first of these functions, which take the device alone, that there is."""

        def read(function: str) -> int:
            return int(getattr(pynvml, function)(self.handle))

        return self.first_of(*((function, partial(read, function)) for function in functions))

    def text_of(self, function: str) -> str | None:
        """Answer of a function that takes the device alone and gives text."""
        return self.first_of((function, lambda: str(getattr(pynvml, function)(self.handle))))

    def memory(self) -> Memory | None:
        """Used and total bytes; version 2 of the call leaves the driver's reserve out of "used"."""
        return self.first_of(
            ("nvmlDeviceGetMemoryInfo", partial(self._memory_of, pynvml.nvmlMemory_v2)),
            ("nvmlDeviceGetMemoryInfo", partial(self._memory_of, None)),
        )

    def processes(self) -> tuple[GpuProcess, ...] | None:
        """Compute processes, None where they cannot be read."""
        # The unversioned name raises an error of pynvml's own, not an NVMLError, on drivers without _v3.
        functions = ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2")

        def read(function: str) -> tuple[GpuProcess, ...]:
            return tuple(
                GpuProcess(int(item.pid), None if item.usedGpuMemory is None else int(item.usedGpuMemory))
                for item in getattr(pynvml, function)(self.handle)[:MAX_PROCESSES_PER_GPU]
            )

        return self.first_of(*((function, partial(read, function)) for function in functions))

    def _memory_of(self, version: int | None) -> Memory:
        answer = pynvml.nvmlDeviceGetMemoryInfo(self.handle, version)
        return Memory(int(answer.used), int(answer.total))
