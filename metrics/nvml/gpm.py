"""Utilisation of MIG instances, by the driver's performance monitoring (GPM) of Hopper and later boards.

A figure is of the time between two samples of a GPU instance, so the first pass has none. The earlier sample is kept
from pass to pass. Two scrapes right after one another get the figures of the first; after a long pause the pair would
average over what nobody asked about, so it begins anew. Compute instances of one GPU instance share its figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Final

import pynvml

from metrics.nvml.calls import Calls
from metrics.nvml.values import MIG_FIGURES, MigFigure

#: Shortest time between two samples of a figure: the driver refreshes every 100 ms; a second is not mere noise.
MIN_WINDOW_S: Final = 1.0
#: Longest: ten minutes back is not what a scrape asks about.
MAX_WINDOW_S: Final = 600.0

_METRICS: Final[Mapping[MigFigure, int]] = MappingProxyType(
    {
        "graphics": pynvml.NVML_GPM_METRIC_GRAPHICS_UTIL,
        "sm": pynvml.NVML_GPM_METRIC_SM_UTIL,
        "tensor": pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL,
        "memory_bandwidth": pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL,
    }
)
_PERCENT: Final = 100


@dataclass(frozen=True, slots=True)
class _Taken:
    """A sample that the driver holds for us, when it was taken, and the ratios of the time before it."""

    sample: object
    at_s: float
    ratios: Mapping[MigFigure, float]


class Gpm:
    """Samples of one GPU's instances between passes. One thread at a time.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._taken: dict[int, _Taken] = {}

    def read(self, calls: Calls, gpu_instances: Iterable[int]) -> dict[int, Mapping[MigFigure, float]]:
        """Ratios 0..1 of each GPU instance since its last sample; what is not known is missing.

        Args:
            calls: Of the GPU; what fails is noted there.
            gpu_instances: Ids of the GPU instances there are now.

        Raises:
            GpuLostError: The GPU is gone.
        """
        there = set(gpu_instances)
        for gone in self._taken.keys() - there:
            _free(self._taken.pop(gone).sample)
        if not there or not calls.first_of(
            ("nvmlGpmQueryDeviceSupport", partial(_is_supported, calls.handle))
        ):
            return {}
        # What an instance lacks is not remembered: instances come and go with the GPU's partition.
        of_instances = Calls(calls.handle)
        found = {gpu_instance: self._ratios(of_instances, gpu_instance) for gpu_instance in sorted(there)}
        calls.failures.extend(of_instances.failures)
        return found

    def forget(self) -> None:
        """Free every sample: the GPU left MIG mode."""
        for taken in self._taken.values():
            _free(taken.sample)
        self._taken.clear()

    def _ratios(self, calls: Calls, gpu_instance: int) -> Mapping[MigFigure, float]:
        last = self._taken.get(gpu_instance)
        now_s = self._clock()
        if last is not None and now_s - last.at_s < MIN_WINDOW_S:
            return last.ratios
        key = str(gpu_instance)
        sample = calls.first_of(("nvmlGpmMigSampleGet", partial(_sample, calls.handle, gpu_instance)), of=key)
        if sample is None:
            return {}
        ratios: Mapping[MigFigure, float] = {}
        if last is not None and now_s - last.at_s <= MAX_WINDOW_S:
            found = calls.first_of(("nvmlGpmMetricsGet", partial(_between, last.sample, sample)), of=key)
            ratios = found or {}
        self._taken[gpu_instance] = _Taken(sample, now_s, ratios)
        if last is not None:
            _free(last.sample)
        return ratios


def _is_supported(handle: object) -> bool:
    return bool(pynvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice)


def _sample(handle: object, gpu_instance: int) -> object:
    sample = pynvml.nvmlGpmSampleAlloc()
    try:
        pynvml.nvmlGpmMigSampleGet(handle, gpu_instance, sample)
    except pynvml.NVMLError:
        _free(sample)
        raise
    return sample


def _between(before: object, after: object) -> dict[MigFigure, float]:
    """Ratios between two samples; a figure that the board lacks is left out."""
    asked = pynvml.c_nvmlGpmMetricsGet_t()
    asked.version = pynvml.NVML_GPM_METRICS_GET_VERSION
    asked.numMetrics = len(MIG_FIGURES)
    asked.sample1, asked.sample2 = before, after
    for place, figure in enumerate(MIG_FIGURES):
        asked.metrics[place].metricId = _METRICS[figure]
    pynvml.nvmlGpmMetricsGet(asked)
    return {
        figure: min(1.0, max(0.0, float(asked.metrics[place].value) / _PERCENT))
        for place, figure in enumerate(MIG_FIGURES)
        if asked.metrics[place].nvmlReturn == pynvml.NVML_SUCCESS
    }


def _free(sample: object) -> None:
    """Give a sample back; that the driver refuses must not keep the pass from going on."""
    try:
        pynvml.nvmlGpmSampleFree(sample)
    except pynvml.NVMLError:
        return
