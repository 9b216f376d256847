"""What the played workload demands of telemetry."""

from __future__ import annotations

from typing import Any

import pytest

from api.play_telemetry import telemetry

SUMMARY = {
    "is_simulated": True,
    "held_gpu_seconds": 100.0,
    "observed_gpu_seconds": 80.0,
    "mean_utilisation_ratio": 0.5,
    "p95_utilisation_ratio": 0.9,
    "memory_peak_bytes": 1,
    "energy_kwh": 0.002,
}
UNSEEN = {
    **dict.fromkeys(SUMMARY),
    "is_simulated": True,
    "held_gpu_seconds": 20.0,
    "observed_gpu_seconds": 0.0,
}


def look(*summaries: dict[str, Any], is_simulated: bool = True) -> tuple[list[str], list[str]]:
    """What did not hold, and what was said."""

    def get(path: str) -> dict[str, Any]:
        if path == "/v1/cluster":
            return {"is_simulated": is_simulated}
        job = int(path.removeprefix("/v1/jobs/").removesuffix("/efficiency"))
        return {"job_id": job, **summaries[job]}

    said: list[str] = []
    return telemetry(get, range(len(summaries)), said.append), said


def test_a_job_between_two_readings_is_no_fault() -> None:
    problems, said = look(SUMMARY, UNSEEN)
    assert problems == []
    line = "  telemetry (simulated): 1 of 2 completed jobs observed, 67% of the GPU time they held; "
    assert said == [line + "mean utilisation 50%, 2.0 Wh"]


@pytest.mark.parametrize(
    "figure", ["mean_utilisation_ratio", "p95_utilisation_ratio", "memory_peak_bytes", "energy_kwh"]
)
def test_a_figure_that_is_missing_everywhere_is_a_fault(figure: str) -> None:
    problems, said = look({**SUMMARY, figure: None})
    assert problems == ["telemetry: none of 1 completed jobs was observed with every figure"]
    assert said == []


def test_no_telemetry_at_all_is_a_fault() -> None:
    assert look(UNSEEN)[0] == ["telemetry: none of 1 completed jobs was observed with every figure"]
    assert look()[0] == ["telemetry: none of 0 completed jobs was observed with every figure"]


def test_simulated_figures_that_do_not_say_so_are_a_fault() -> None:
    problems, _ = look({**SUMMARY, "is_simulated": False})
    assert problems == ["telemetry of job 0 says simulated=False, the cluster True"]
    problems, said = look({**SUMMARY, "is_simulated": False}, is_simulated=False)
    assert problems == []
    assert "(measured)" in said[0]
