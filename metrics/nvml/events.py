"""Xid errors: counted by a thread that waits for NVML's events, apart from the collection.

A GPU that hangs a collection is the one whose Xid one wants to see, so nothing here waits for a collection
and no collection waits for this. NVML keeps no history: what happened before the watch began is unknown,
and a GPU that cannot be watched says so instead of showing no errors.

Source: NVML API reference, "Event Handling Methods"; NVIDIA, "Xid Errors".
"""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import pynvml

from metrics.nvml.calls import call
from metrics.nvml.values import NvmlError, XidCount, XidHistory

#: Longest wait in one driver call; the watch notices new devices and its own end this often.
WAIT_MS: Final = 500
#: Pause before the watch begins anew after an error, or when a device could not be watched.
RETRY_S: Final = 10.0
#: Different Xids counted for one GPU; NVIDIA's list has fewer. Others are counted together.
MAX_XIDS_PER_GPU: Final = 200

_log = logging.getLogger(__name__)


class XidLog:
    """Counts of Xids by GPU. Safe for several threads.

    Args:
        clock: Unix time, seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: dict[str, dict[int | None, XidCount]] = {}

    def add(self, uuid: str, xid: int) -> None:
        """Count one error now."""
        with self._lock:
            of_gpu = self._counts.setdefault(uuid, {})
            key = xid if xid in of_gpu or len(of_gpu) < MAX_XIDS_PER_GPU else None
            last = of_gpu.get(key)
            of_gpu[key] = XidCount(key, 1 + (last.count if last else 0), self._clock())

    def of(self, uuid: str) -> tuple[XidCount, ...]:
        """What was counted for a GPU, in the order of first appearance."""
        with self._lock:
            return tuple(self._counts.get(uuid, {}).values())


@dataclass(frozen=True, slots=True)
class _Watched:
    """One event set and the GPUs registered with it, by the address that their events carry."""

    event_set: object
    uuids: Mapping[int, str]


class XidWatch:
    """Waits for Xid events in a daemon thread.

    Args:
        devices: The GPUs known now, UUID to handle; asked again and again.
        clock: Unix time, seconds.
    """

    def __init__(
        self, devices: Callable[[], Mapping[str, object]], clock: Callable[[], float] = time.time
    ) -> None:
        self._devices = devices
        self._log = XidLog(clock)
        self._watched: frozenset[str] = frozenset()
        self._stop = threading.Event()
        # A daemon: a driver call that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="xid-watch", daemon=True)
        self._thread.start()

    def histories(self) -> tuple[XidHistory, ...]:
        """What happened to each GPU since the watch began; never waits for the driver."""
        watched = self._watched
        return tuple(XidHistory(uuid, uuid in watched, self._log.of(uuid)) for uuid in self._devices())

    def stop(self, timeout_s: float) -> None:
        """End the watch; gives up after ``timeout_s`` if the driver hangs."""
        self._stop.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._watch(dict(self._devices()))
            except NvmlError as error:
                # One watched GPU that falls off the bus fails the wait for all: begin anew without it.
                _log.warning("waiting for Xid events: %s; begins anew in %g s", error, RETRY_S)
                self._watched = frozenset()
                self._stop.wait(RETRY_S)
            except Exception:
                _log.exception("the Xid watch ends; Xid errors are not counted any more")
                self._watched = frozenset()
                raise

    def _watch(self, devices: Mapping[str, object]) -> None:
        """Watch these devices until others appear or, if one refused, until it is time to ask it again."""
        watched = _register(devices)
        try:
            self._watched = frozenset(watched.uuids.values())
            is_partial = len(self._watched) < len(devices)
            again_at_s = time.monotonic() + RETRY_S
            while not self._stop.is_set() and self._devices().keys() == devices.keys():
                if is_partial and time.monotonic() >= again_at_s:
                    return
                if not self._watched:
                    self._stop.wait(WAIT_MS / 1000)
                else:
                    self._wait(watched)
        finally:
            call("nvmlEventSetFree", lambda: pynvml.nvmlEventSetFree(watched.event_set))

    def _wait(self, watched: _Watched) -> None:
        function = "nvmlEventSetWait_v2"
        try:
            event = call(function, lambda: pynvml.nvmlEventSetWait_v2(watched.event_set, WAIT_MS))
        except NvmlError as error:
            if error.code == pynvml.NVML_ERROR_TIMEOUT:
                return
            raise
        if not event.eventType & pynvml.nvmlEventTypeXidCriticalError:
            return
        xid = int(event.eventData)
        uuid = watched.uuids.get(_address(event.device))
        if uuid is None:
            _log.error("Xid %d of a GPU that is not known; see the driver's log (dmesg)", xid)
            return
        _log.warning("GPU %s: Xid %d", uuid, xid)
        self._log.add(uuid, xid)


def _register(devices: Mapping[str, object]) -> _Watched:
    """An event set with the devices that let themselves be watched."""
    event_set = call("nvmlEventSetCreate", pynvml.nvmlEventSetCreate)
    uuids: dict[int, str] = {}
    kind = pynvml.nvmlEventTypeXidCriticalError
    for uuid, handle in devices.items():
        try:
            pynvml.nvmlDeviceRegisterEvents(handle, kind, event_set)
        except pynvml.NVMLError as error:
            _log.info("GPU %s cannot be watched for Xid errors: NVML code %d", uuid, int(error.value))
        else:
            uuids[_address(handle)] = uuid
    return _Watched(event_set, uuids)


def _address(handle: object) -> int:
    """The handle as a number; NVML gives the same one for the same device."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0  # type: ignore[arg-type]
