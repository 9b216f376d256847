"""Field values: many counters of one device in one driver call, each with a return code and type of its own.

Source: ``nvml.h``, the ``NVML_FI_*`` constants and their comments (scope, unit).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final, TypeVar

import pynvml

from metrics.nvml.calls import ABSENT_CODES, LASTING_CODES, LOST_CODES, Calls
from metrics.nvml.values import (
    CallFailure,
    ClockEvent,
    EccScope,
    EccSeverity,
    GpuLostError,
    LinkTraffic,
    NvlinkError,
    PageCause,
    PcieError,
    RemappedRows,
)

#: Field id and scope (a link, or ``_ALL_LINKS``), as asked for and as answered.
FieldKey = tuple[int, int]

# nvml.h: "A scopeId of UINT_MAX returns aggregate value summed up across all links".
_ALL_LINKS: Final = 0xFFFF_FFFF
#: NVLinks of one GPU asked for one by one; the boards of today have 18 at most.
MAX_NVLINKS: Final = 36
_KIBI: Final = 1024
_NANO: Final = 1_000_000_000

_ECC: Final[Mapping[tuple[EccSeverity, EccScope], int]] = MappingProxyType(
    {
        ("corrected", "volatile"): pynvml.NVML_FI_DEV_ECC_SBE_VOL_TOTAL,
        ("uncorrected", "volatile"): pynvml.NVML_FI_DEV_ECC_DBE_VOL_TOTAL,
        ("corrected", "aggregate"): pynvml.NVML_FI_DEV_ECC_SBE_AGG_TOTAL,
        ("uncorrected", "aggregate"): pynvml.NVML_FI_DEV_ECC_DBE_AGG_TOTAL,
    }
)
# Nanoseconds in which the clocks were held down; they replace nvmlDeviceGetViolationStatus, which CUDA 14
# removes. pynvml gives the fields by number: the names came with later versions of it.
_CLOCK_EVENT_NS: Final[Mapping[ClockEvent, int]] = MappingProxyType(
    {
        "sw_power_cap": pynvml.NVML_FI_DEV_PERF_POLICY_POWER,
        "sync_boost": pynvml.NVML_FI_DEV_PERF_POLICY_SYNC_BOOST,
        "sw_thermal_slowdown": 269,
        "hw_thermal_slowdown": 270,
        "hw_power_brake_slowdown": 271,
    }
)
_NVLINK_ERRORS: Final[Mapping[NvlinkError, int]] = MappingProxyType(
    {
        "crc_flit": pynvml.NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL,
        "crc_data": pynvml.NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL,
        "replay": pynvml.NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL,
        "recovery": pynvml.NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL,
    }
)
_PCIE_ERRORS: Final[Mapping[PcieError, int]] = MappingProxyType(
    {
        "correctable": pynvml.NVML_FI_DEV_PCIE_COUNT_CORRECTABLE_ERRORS,
        "non_fatal": pynvml.NVML_FI_DEV_PCIE_COUNT_NON_FATAL_ERROR,
        "fatal": pynvml.NVML_FI_DEV_PCIE_COUNT_FATAL_ERROR,
        "replay": pynvml.NVML_FI_DEV_PCIE_REPLAY_COUNTER,
    }
)
_RETIRED: Final[Mapping[PageCause, int]] = MappingProxyType(
    {
        "single_bit": pynvml.NVML_FI_DEV_RETIRED_SBE,
        "double_bit": pynvml.NVML_FI_DEV_RETIRED_DBE,
    }
)

_WHOLE: Final = (
    *_ECC.values(),
    *_CLOCK_EVENT_NS.values(),
    *_NVLINK_ERRORS.values(),
    *_PCIE_ERRORS.values(),
    *_RETIRED.values(),
    pynvml.NVML_FI_DEV_RETIRED_PENDING,
    pynvml.NVML_FI_DEV_MEMORY_TEMP,
    pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION,
    pynvml.NVML_FI_DEV_REMAPPED_COR,
    pynvml.NVML_FI_DEV_REMAPPED_UNC,
    pynvml.NVML_FI_DEV_REMAPPED_PENDING,
    pynvml.NVML_FI_DEV_REMAPPED_FAILURE,
    pynvml.NVML_FI_DEV_POWER_INSTANT,
    pynvml.NVML_FI_DEV_PCIE_COUNT_TX_BYTES,
    pynvml.NVML_FI_DEV_PCIE_COUNT_RX_BYTES,
    pynvml.NVML_FI_DEV_NVLINK_LINK_COUNT,
    pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION,
)
_NVLINK_KIB: Final = (
    (pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, _ALL_LINKS),
    (pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX, _ALL_LINKS),
)
# From NVLink 5 on the counters are in bytes and by link only.
_NVLINK5_BYTES: Final = (
    pynvml.NVML_FI_DEV_NVLINK_COUNT_XMIT_BYTES,
    pynvml.NVML_FI_DEV_NVLINK_COUNT_RCV_BYTES,
)
#: Every field asked for in the one call. What a device lacks is soon left out (``Support``).
REQUESTED: Final[tuple[FieldKey, ...]] = (
    *((number, 0) for number in _WHOLE),
    *_NVLINK_KIB,
    *((number, link) for number in _NVLINK5_BYTES for link in range(MAX_NVLINKS)),
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
_Name = TypeVar("_Name", bound=object)


class Fields:
    """The field values of one pass over one device.

    Args:
        values: By field and scope; what has no value is left out.
    """

    def __init__(self, values: Mapping[FieldKey, float]) -> None:
        self._values = values

    def get(self, number: int) -> float | None:
        """Value of a field of the whole device."""
        return self._values.get((number, 0))

    def flag(self, number: int) -> bool | None:
        """A field that is 0 or not."""
        value = self.get(number)
        return None if value is None else value != 0

    def ecc_errors(self) -> dict[tuple[EccSeverity, EccScope], int]:
        """Memory errors by severity and scope."""
        return dict(self._whole(_ECC))

    def nvlink_errors(self) -> dict[NvlinkError, int]:
        """NVLink errors over all links."""
        return dict(self._whole(_NVLINK_ERRORS))

    def pcie_errors(self) -> dict[PcieError, int]:
        """PCIe errors."""
        return dict(self._whole(_PCIE_ERRORS))

    def retired_pages(self) -> dict[PageCause, int]:
        """Retired pages of boards that do not remap rows."""
        return dict(self._whole(_RETIRED))

    def clock_event_s(self) -> dict[ClockEvent, float]:
        """Seconds in which the clocks were held down, by reason."""
        return {
            reason: value / _NANO
            for reason, number in _CLOCK_EVENT_NS.items()
            if (value := self.get(number)) is not None
        }

    def remapped_rows(self) -> RemappedRows | None:
        """The four come together, or the board does not remap rows."""
        correctable = self.get(pynvml.NVML_FI_DEV_REMAPPED_COR)
        uncorrectable = self.get(pynvml.NVML_FI_DEV_REMAPPED_UNC)
        is_pending = self.flag(pynvml.NVML_FI_DEV_REMAPPED_PENDING)
        has_failed = self.flag(pynvml.NVML_FI_DEV_REMAPPED_FAILURE)
        if correctable is None or uncorrectable is None or is_pending is None or has_failed is None:
            return None
        return RemappedRows(int(correctable), int(uncorrectable), is_pending, has_failed)

    def pcie(self) -> LinkTraffic | None:
        """Bytes over PCIe."""
        sent = self.get(pynvml.NVML_FI_DEV_PCIE_COUNT_TX_BYTES)
        received = self.get(pynvml.NVML_FI_DEV_PCIE_COUNT_RX_BYTES)
        return None if sent is None or received is None else LinkTraffic(int(sent), int(received))

    def nvlink(self) -> LinkTraffic | None:
        """Bytes over all NVLinks, without protocol; None if one of them does not tell."""
        whole = [self._values[key] for key in _NVLINK_KIB if key in self._values]
        if len(whole) == len(_NVLINK_KIB):
            return LinkTraffic(int(whole[0]) * _KIBI, int(whole[1]) * _KIBI)
        links = int(self.get(pynvml.NVML_FI_DEV_NVLINK_LINK_COUNT) or 0)
        sums = [self._sum_of_links(number, links) for number in _NVLINK5_BYTES]
        return None if sums[0] is None or sums[1] is None else LinkTraffic(sums[0], sums[1])

    def _sum_of_links(self, number: int, links: int) -> int | None:
        """A part of the links would make a counter that falls when a link drops out."""
        known = [self._values[number, link] for link in range(links) if (number, link) in self._values]
        return sum(map(int, known)) if links and len(known) == links else None

    def _whole(self, numbers: Mapping[_Name, int]) -> Iterator[tuple[_Name, int]]:
        for name, number in numbers.items():
            value = self.get(number)
            if value is not None:
                yield name, int(value)


def read_fields(calls: Calls) -> Fields:
    """Ask for all fields that the device may have, in one driver call.

    Args:
        calls: The device; failures of single fields are noted there.

    Raises:
        GpuLostError: The device is gone, or a field says so.
    """
    support = calls.support
    wanted = [key for key in REQUESTED if support is None or support.may_have(key)]

    def read() -> Fields:
        values: dict[FieldKey, float] = {}
        answers = pynvml.nvmlDeviceGetFieldValues(calls.handle, wanted)
        for key, item in zip(wanted, answers, strict=True):
            # The call succeeds if any field does: each value has its own return code and type.
            code, kind = int(item.nvmlReturn), int(item.valueType)
            if code == pynvml.NVML_SUCCESS and kind in _UNION_MEMBERS:
                values[key] = getattr(item.value, _UNION_MEMBERS[kind])
            elif code in LOST_CODES:
                raise GpuLostError("nvmlDeviceGetFieldValues", code, f"field {key[0]}")
            elif code in LASTING_CODES and support is not None:
                support.lacks(key)
            elif code != pynvml.NVML_SUCCESS and code not in ABSENT_CODES:
                calls.failures.append(CallFailure(f"nvmlDeviceGetFieldValues[{key[0]}]", code))
        return Fields(values)

    if not wanted:
        return Fields({})
    return calls.first_of(("nvmlDeviceGetFieldValues", read)) or Fields({})
