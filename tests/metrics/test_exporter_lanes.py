"""How scrapes share collections and calls to the driver take turns."""

import threading
from typing import Any

import pytest

from metrics.exporter import (
    CollectionBusyError,
    Exporter,
    NodeSpec,
)
from metrics.nvml import GpuIdentity, GpuSample, NvmlError, XidHistory
from metrics.watchdog import Lane
from tests.metrics.conftest import DEADLINE_S, until


class GatedGpu:
    """A device that answers when it is let."""

    is_simulated = False

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.counted = 0

    def count(self) -> int:
        self.counted += 1
        return 1

    def identity(self, index: int) -> GpuIdentity:
        return GpuIdentity("GPU-x", index, "gated", None, "", "1")

    def sample(self, uuid: str) -> GpuSample:
        assert self.gate.wait(DEADLINE_S)
        return GpuSample(uuid, is_up=True, power_w=float(self.counted))

    def xids(self) -> tuple[XidHistory, ...]:
        return ()


def test_scrapes_share_one_collection() -> None:
    gpu = GatedGpu()
    exporter = Exporter([NodeSpec("n1", lambda: gpu)])
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda: answers.append(exporter.collect(DEADLINE_S))) for _ in range(4)
    ]
    threads[0].start()
    until(lambda: gpu.counted == 1)
    for thread in threads[1:]:
        thread.start()
    with pytest.raises(CollectionBusyError):
        exporter.collect(0.01)
    assert gpu.counted == 1, "who gave up waiting had started nothing"
    gpu.gate.set()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert len(answers) == 4
    assert all(answer[0].is_success for answer in answers)
    assert gpu.counted <= 2, "one collection, or two if a thread came after the first had ended"
    exporter.collect(DEADLINE_S)
    assert gpu.counted >= 2, "the next scrape reads anew"


def test_lane_takes_one_call_at_a_time() -> None:
    lane, gate = Lane("test"), threading.Event()
    first = lane.start(gate.wait)
    assert first is not None
    assert lane.start(lambda: 1) is None
    gate.set()
    assert first.result(DEADLINE_S) is True
    until(lambda: (future := lane.start(lambda: 2)) is not None and future.result(DEADLINE_S) == 2)


def test_lane_hands_over_the_exception() -> None:
    def fail() -> None:
        raise NvmlError("nvmlAnything", 999, "text")

    future = Lane("test").start(fail)
    assert future is not None
    with pytest.raises(NvmlError, match="999"):
        future.result(DEADLINE_S)
