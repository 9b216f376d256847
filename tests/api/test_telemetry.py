"""Telemetry over the API: what a job did with its GPUs, and how long answers take."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from starlette.responses import PlainTextResponse

from api.latency import Latency
from metrics.efficiency import Fold
from metrics.folds import to_json
from metrics.tables import AttemptTelemetryRow
from scheduler.tables import AllocationRow, NodeRow
from store.engine import transaction
from tests.api.conftest import AT, NODES, World
from tests.api.serving import serving


def observed(world: World) -> int:
    """A job that held two GPUs for 100 s, of which 150 GPU-seconds were observed at 50 %."""
    job = int(world.job(gpus=2).json()["id"])
    attempt = world.run(job)
    seconds = [0.0] * 101
    seconds[50] = 150.0
    fold = Fold(
        observed_s=150.0,
        utilisation_s=tuple(seconds),
        memory_peak_bytes=2**30,
        energy_j=36_000.0,
        energy_observed_s=150.0,
        throttled_s=3.0,
        throttle_observed_s=150.0,
        xids={31: 2},
    )
    with transaction(world.engine) as session:
        for gpu in NODES["n0"][:2]:
            session.add(
                AllocationRow(
                    attempt_id=attempt,
                    gpu_uuid=gpu.uuid,
                    node="n0",
                    rank=0,
                    allocated_at=AT - timedelta(seconds=100),
                    released_at=AT,
                )
            )
        session.add(AttemptTelemetryRow(attempt_id=attempt, observed_until=AT, fold=to_json(fold)))
    return job


def efficiency(world: World, who: str, job: int) -> Any:
    return world.call(who, "GET", f"/v1/jobs/{job}/efficiency")


def test_a_jobs_figures_stand_beside_their_coverage(world: World) -> None:
    job = observed(world)
    assert efficiency(world, "uni-researcher", job).json() == {
        "job_id": job,
        "is_simulated": True,
        "held_gpu_seconds": 200.0,
        "observed_gpu_seconds": 150.0,
        "coverage_ratio": 0.75,
        "busy_gpu_seconds": 150.0,
        "mean_utilisation_ratio": 0.5,
        "p95_utilisation_ratio": 0.5,
        "idle_gpu_seconds": 0.0,
        "useful_gpu_seconds": 75.0,
        "memory_peak_bytes": 2**30,
        "energy_kwh": 0.01,
        "energy_coverage_ratio": 0.75,
        "throttled_gpu_seconds": 3.0,
        "xids": {"31": 2},
    }


def test_what_was_not_observed_is_no_data(world: World) -> None:
    job = int(world.job().json()["id"])
    found = efficiency(world, "uni-researcher", job).json()
    assert found["held_gpu_seconds"] == found["observed_gpu_seconds"] == 0
    assert found["is_simulated"] is True  # all of this machine is
    figures = set(found) - {"job_id", "is_simulated", "held_gpu_seconds", "observed_gpu_seconds", "xids"}
    assert {name: found[name] for name in figures} == dict.fromkeys(figures)


def test_simulated_means_the_gpus_that_the_job_held(world: World) -> None:
    job = observed(world)
    with transaction(world.engine) as session:
        session.get_one(NodeRow, "n0").is_simulated = False
    assert efficiency(world, "uni-researcher", job).json()["is_simulated"] is False


def test_who_may_not_see_a_job_does_not_learn_of_its_telemetry(world: World) -> None:
    job = observed(world)
    for who in ("uni-manager", "operator", "auditor"):
        assert efficiency(world, who, job).status_code == 200, who
    for who in ("firm-researcher", "firm-manager"):
        answer = efficiency(world, who, job)
        assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND"), who
    assert efficiency(world, "uni-researcher", 10**9).json()["code"] == "NOT_FOUND"
    assert world.call(None, "GET", f"/v1/jobs/{job}/efficiency").status_code == 401


def requests_of(text: str) -> dict[tuple[str, str, str], float]:
    return {
        (sample.labels["route"], sample.labels["method"], sample.labels["status"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "kezek_api_request_seconds_count"
    }


def test_latency_is_told_by_route_and_never_by_path(world: World) -> None:
    job = int(world.job().json()["id"])
    for who in ("uni-researcher", "operator"):
        assert world.call(who, "GET", f"/v1/jobs/{job}").is_success
    world.call("operator", "GET", "/v1/jobs/999999")
    world.call(None, "GET", "/made/up/1")
    world.call(None, "GET", "/made/up/2")
    world.call(None, "GET", "/static/nothing.css")
    world.call("uni-researcher", "GET", f"/v1/jobs/{job}/logs?wait_s=0.1")
    found = requests_of(world.call(None, "GET", "/metrics").text)
    assert found["/v1/jobs/{job_id}", "GET", "2xx"] == 2
    assert found["/v1/jobs/{job_id}", "GET", "4xx"] == 1
    assert found["/v1/jobs", "POST", "2xx"] == 1
    assert found["unmatched", "GET", "4xx"] == 2
    assert found["/static", "GET", "4xx"] == 1
    assert not [key for key in found if "logs" in key[0]], "who waits for news is not slow"
    assert not [key for key in found if f"/{job}" in key[0].removeprefix("/v1") or "made" in key[0]]


def test_a_request_that_fails_is_counted_as_one() -> None:
    app, registry = FastAPI(), CollectorRegistry()

    @app.get("/broken")
    def broken() -> PlainTextResponse:
        raise ZeroDivisionError

    app.add_middleware(Latency, registry=registry)
    with serving(app) as client:
        assert client.request("PROPFIND", "/broken").status_code == 405
        assert client.get("/broken").status_code == 500
    assert requests_of(generate_latest(registry).decode()) == {
        ("/broken", "GET", "5xx"): 1,
        ("/broken", "other", "4xx"): 1,
    }
