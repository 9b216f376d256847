"""What was observed of the GPUs a job held, with the coverage of the observation."""

from __future__ import annotations

from typing import Self

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from api.auth import Caller
from api.context import Ctx
from api.errors import ErrorCode, documented
from api.routes.jobs import JobPath
from metrics.efficiency import Summary
from metrics.service import job_summary
from scheduler import jobs
from scheduler.jobs import JobView
from scheduler.snapshot import load_nodes
from store.engine import snapshot

router = APIRouter(prefix="/v1", tags=["jobs"])


class EfficiencyOut(BaseModel):
    """What was observed of a job's GPUs over all its attempts. An absent figure is "no data", never 0."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "job_id": 17,
                "is_simulated": True,
                "held_gpu_seconds": 480.0,
                "observed_gpu_seconds": 456.0,
                "coverage_ratio": 0.95,
                "mean_utilisation_ratio": 0.81,
                "p95_utilisation_ratio": 0.97,
                "idle_gpu_seconds": 12.0,
                "useful_gpu_seconds": 369.4,
                "memory_peak_bytes": 68719476736,
                "energy_kwh": 0.071,
                "energy_coverage_ratio": 0.95,
                "throttled_gpu_seconds": 0.0,
                "xids": {"31": 1},
            }
        }
    )

    job_id: int
    is_simulated: bool
    held_gpu_seconds: float
    observed_gpu_seconds: float
    coverage_ratio: float | None
    mean_utilisation_ratio: float | None
    p95_utilisation_ratio: float | None
    idle_gpu_seconds: float | None
    useful_gpu_seconds: float | None
    memory_peak_bytes: int | None
    energy_kwh: float | None
    energy_coverage_ratio: float | None
    throttled_gpu_seconds: float | None
    xids: dict[str, int]

    @classmethod
    def of(cls, job: JobView, summary: Summary, *, is_simulated: bool) -> Self:
        """The wire form of a summary."""
        return cls(
            job_id=job.id,
            is_simulated=is_simulated,
            held_gpu_seconds=summary.held_s,
            observed_gpu_seconds=summary.observed_s,
            coverage_ratio=summary.coverage_ratio,
            mean_utilisation_ratio=summary.mean_utilisation_ratio,
            p95_utilisation_ratio=summary.p95_utilisation_ratio,
            idle_gpu_seconds=summary.idle_s,
            useful_gpu_seconds=summary.useful_s,
            memory_peak_bytes=summary.memory_peak_bytes,
            energy_kwh=summary.energy_kwh,
            energy_coverage_ratio=summary.energy_coverage_ratio,
            throttled_gpu_seconds=summary.throttled_s,
            xids={str(code): count for code, count in sorted(summary.xids.items())},
        )


@router.get(
    "/jobs/{job_id}/efficiency",
    operation_id="getJobEfficiency",
    summary="Show how a job used its GPUs",
    responses=documented(ErrorCode.NOT_FOUND),
)
def get_job_efficiency(ctx: Ctx, caller: Caller, job_id: JobPath) -> EfficiencyOut:
    """Mean and 95th percentile of utilisation, memory peak, energy, idle and throttled time, with coverage."""
    with snapshot(ctx.engine) as session:
        job = jobs.get(session, caller, job_id)
        is_simulated = any(node.is_simulated for node in load_nodes(session))
        return EfficiencyOut.of(job, job_summary(session, job.id, ctx.now()), is_simulated=is_simulated)
