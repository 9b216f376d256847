"""What a process measures of itself: calls to agents and phases of cycles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from metrics.scheduling import CALLS, OUTCOMES, PHASES, CallFigures, CyclePhases
from scheduler.dispatch.executor import AgentExecutor, Executor, RefusedError, UnreachableError
from scheduler.dispatch.fake import FakeExecutor, Script
from scheduler.dispatch.wire import GpuSlot, Lease, RankLease

GPU = GpuSlot("GPU-0", 0, "h200")


def lease(epoch: int = 1) -> Lease:
    return Lease(
        attempt_id="1-1",
        job_id=1,
        epoch=epoch,
        command=("true",),
        world_size=1,
        master_addr="127.0.0.1",
        master_port=29_500,
        ranks=(RankLease(0, (GPU.uuid,)),),
        flavor="h200",
        simulated=True,
        walltime_s=60,
        kill_wait_s=5,
    )


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def scraped(registry: CollectorRegistry, parse: Any) -> Any:
    return parse(generate_latest(registry).decode())


def test_calls_are_counted_by_kind_and_outcome(registry: CollectorRegistry, parse: Any) -> None:
    fake = FakeExecutor({"n0": (GPU,)}, lambda _: Script(log=b"hello", outputs={"model": b"12345"}))
    executor: Executor = CallFigures(registry).wrap(fake)
    assert executor.nodes() == ("n0",)
    executor.probe("n0")
    executor.launch("n0", lease())
    assert executor.attempt("n0", "1-1").attempt_id == "1-1"
    assert len(executor.list_attempts("n0")) == 1
    executor.observe("n0", 0, 0)
    executor.logs("n0", "1-1", 0, 0, 100)
    with pytest.raises(RefusedError):
        executor.attempt("n0", "none")
    with pytest.raises(RefusedError):
        executor.probe("elsewhere")
    found = scraped(registry, parse)
    calls = {
        (labels["kind"], labels["outcome"]): value
        for labels, value in found.samples["kezek_executor_calls_total"]
        if value
    }
    assert calls == {
        ("probe", "ok"): 1,
        ("probe", "refused"): 1,
        ("launch", "ok"): 1,
        ("attempt", "ok"): 1,
        ("attempt", "refused"): 1,
        ("list_attempts", "ok"): 1,
        ("observe", "ok"): 1,
        ("logs", "ok"): 1,
    }
    assert found.value("kezek_executor_call_seconds_count", kind="attempt") == 2
    assert found.value("kezek_executor_call_seconds_count", kind="observe") is None  # a long poll


def test_an_agent_that_is_away_is_counted_and_still_an_error(registry: CollectorRegistry, parse: Any) -> None:
    with AgentExecutor({"n0": "http://127.0.0.1:9"}, "secret") as inner:
        executor = CallFigures(registry).wrap(inner)
        with pytest.raises(UnreachableError):
            executor.probe("n0")
        with pytest.raises(UnreachableError):
            list(executor.output("n0", "1-1", 0, "model"))
    found = scraped(registry, parse)
    assert found.value("kezek_executor_calls_total", kind="probe", outcome="unreachable") == 1
    assert found.value("kezek_executor_calls_total", kind="output", outcome="unreachable") == 1
    assert found.value("kezek_executor_call_seconds_count", kind="probe") == 0  # a time-out is no duration


def test_a_download_that_its_reader_gave_up_is_no_failure(registry: CollectorRegistry, parse: Any) -> None:
    figures = CallFigures(registry)

    def pieces() -> Any:
        with figures.counted("output"):
            yield b"1"
            yield b"2"

    reader = pieces()
    next(reader)
    reader.close()
    assert scraped(registry, parse).value("kezek_executor_calls_total", kind="output", outcome="ok") == 1


def test_a_fault_of_ours_is_told_apart(registry: CollectorRegistry, parse: Any) -> None:
    with pytest.raises(ZeroDivisionError), CallFigures(registry).counted("drain"):
        raise ZeroDivisionError
    assert scraped(registry, parse).value("kezek_executor_calls_total", kind="drain", outcome="failed") == 1


def test_every_kind_and_outcome_begins_at_zero(registry: CollectorRegistry, parse: Any) -> None:
    CallFigures(registry)
    series = scraped(registry, parse).samples["kezek_executor_calls_total"]
    assert {(labels["kind"], labels["outcome"]) for labels, _ in series} == {
        (kind, outcome) for kind in CALLS for outcome in OUTCOMES
    }
    assert {value for _, value in series} == {0}


def test_kinds_are_the_executors_methods() -> None:
    methods = {name for name in vars(Executor) if not name.startswith("_")}
    assert methods - {"nodes"} == set(CALLS)


def test_phases_have_a_histogram_each(registry: CollectorRegistry, parse: Any) -> None:
    took = CyclePhases(registry)
    took("plan", 0.02)
    found = scraped(registry, parse)
    counts = {labels["phase"]: value for labels, value in found.samples["kezek_cycle_phase_seconds_count"]}
    assert counts == {phase: float(phase == "plan") for phase in PHASES}
    assert found.value("kezek_cycle_phase_seconds_bucket", phase="plan", le="0.025") == 1
    assert found.value("kezek_cycle_phase_seconds_bucket", phase="plan", le="0.01") == 0


def test_the_number_of_series_is_the_documented_one(registry: CollectorRegistry) -> None:
    CallFigures(registry)
    of_calls = sum(not line.startswith("#") for line in generate_latest(registry).decode().splitlines())
    CyclePhases(registry)
    lines = generate_latest(registry).decode().splitlines()
    of_scheduler = sum(not line.startswith("#") for line in lines)
    created = sum("_created{" in line for line in lines)  # switched off where they are served
    assert created == of_scheduler - 254
    page = (Path(__file__).resolve().parents[2] / "docs" / "telemetry-control-plane.md").read_text()
    assert "A scheduler has 254 of these series; an API process has 212" in page
    assert of_calls - sum("_created{" in line for line in lines if "executor" in line) == 212
