"""MIG devices: the instances a GPU is split in, each with values of its own.

NVML gives an instance its memory, its processes and its size, and on Hopper and later its utilisation
(``metrics.nvml.gpm``). Power, temperature and clocks belong to the whole board and are never copied to its
instances: a sum over them would count them twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Final

import pynvml

from metrics.nvml.calls import Calls
from metrics.nvml.gpm import Gpm
from metrics.nvml.values import MigInstance

#: MIG devices of one GPU: NVIDIA's boards have 7 at most; bounds the loop over a broken count.
MAX_MIG_PER_GPU: Final = 16
# The product name of a MIG device ends with its profile: "NVIDIA H100 80GB HBM3 MIG 1g.10gb".
_PROFILE_MARK: Final = " MIG "


def read_instances(parent: Calls, gpm: Gpm) -> tuple[MigInstance, ...]:
    """The instances of a GPU in MIG mode, by index; failures are noted with the parent's.

    Args:
        parent: Calls on the GPU.
        gpm: Its performance monitoring.

    Raises:
        GpuLostError: The GPU is gone.
    """
    found = tuple(_instances(parent))
    ratios = gpm.read(parent, (instance.gpu_instance for instance in found))
    return tuple(
        replace(instance, utilisation_ratios=ratios.get(instance.gpu_instance, {})) for instance in found
    )


def _instances(parent: Calls) -> Iterator[MigInstance]:
    function = "nvmlDeviceGetMigDeviceHandleByIndex"
    count = parent.int_of("nvmlDeviceGetMaxMigDeviceCount") or 0
    for index in range(min(count, MAX_MIG_PER_GPU)):
        # An index without an instance answers NOT_FOUND.
        handle = parent.first_of(
            (function, partial(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, parent.handle, index)),
            of=str(index),
        )
        if handle is not None:
            # What an instance lacks is not remembered: instances come and go with the GPU's partition.
            instance = Calls(handle)
            found = _instance(instance)
            parent.failures.extend(instance.failures)
            if found is not None:
                yield found


def _instance(calls: Calls) -> MigInstance | None:
    uuid = calls.text_of("nvmlDeviceGetUUID")
    gpu_instance = calls.int_of("nvmlDeviceGetGpuInstanceId")
    compute_instance = calls.int_of("nvmlDeviceGetComputeInstanceId")
    if uuid is None or gpu_instance is None or compute_instance is None:
        return None
    memory = calls.memory()
    return MigInstance(
        uuid=uuid,
        gpu_instance=gpu_instance,
        compute_instance=compute_instance,
        profile=_profile(calls.text_of("nvmlDeviceGetName")),
        memory_used_bytes=None if memory is None else memory.used,
        memory_total_bytes=None if memory is None else memory.total,
        multiprocessors=calls.first_of(("nvmlDeviceGetAttributes", partial(_multiprocessors, calls.handle))),
        processes=calls.processes(),
    )


def _multiprocessors(handle: object) -> int:
    return int(pynvml.nvmlDeviceGetAttributes(handle).multiprocessorCount)


def _profile(name: str | None) -> str | None:
    if name is None or _PROFILE_MARK not in name:
        return None
    return name.rpartition(_PROFILE_MARK)[2]


def is_enabled(calls: Calls) -> bool | None:
    """Whether the GPU is in MIG mode, None where it has no such mode."""

    def read() -> bool:
        return bool(pynvml.nvmlDeviceGetMigMode(calls.handle)[0] == pynvml.NVML_DEVICE_MIG_ENABLE)

    return calls.first_of(("nvmlDeviceGetMigMode", read))
