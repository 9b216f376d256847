"""What was observed of the GPUs a job held, with the coverage of the observation."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Final, Self

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.auth import Caller
from api.context import Ctx
from api.errors import ApiError, ErrorCode, documented
from api.routes.jobs import JobPath
from api.schemas import Body, InstantIn
from metrics.efficiency import Summary
from metrics.service import Dimension, Use, is_simulated, job_summary, use_by
from products.use import use_by_product
from scheduler import jobs
from scheduler.jobs import JobView
from scheduler.tables import JobRow
from store.engine import snapshot
from tenants.authz import visible_to

router = APIRouter(prefix="/v1", tags=["jobs"])

DEFAULT_PERIOD: Final = timedelta(days=30)
"""Period told of when none is asked for."""
MAX_PERIOD: Final = timedelta(days=366)
"""Longest period of one answer: a year of attempts is read in seconds."""


class By(StrEnum):
    """By what use is told."""

    PROJECT = "project"
    SECTOR = "sector"
    CATEGORY = "category"
    PRODUCT = "product"


class UseQuery(Body):
    """Which use."""

    by: By = Field(default=By.PROJECT, description="One row for each of these.")
    since: InstantIn | None = Field(
        default=None, alias="from", description="First moment; absent: 30 days before the end."
    )
    until: InstantIn | None = Field(
        default=None, alias="to", description="First moment after the period; absent: now."
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.since and self.until and not timedelta() < self.until - self.since <= MAX_PERIOD:
            raise ValueError(f"`from` must be before `to`, and at most {MAX_PERIOD.days} days before it")
        return self

    def period(self, now: datetime) -> tuple[datetime, datetime]:
        """First moment, and first moment after.

        Raises:
            ApiError: VALIDATION, the first moment alone is given and lies in the future or too long ago.
        """
        until = self.until or now
        since = self.since or until - DEFAULT_PERIOD
        if not timedelta() < until - since <= MAX_PERIOD:
            raise ApiError(
                ErrorCode.VALIDATION,
                f"`from` must be in the past and at most {MAX_PERIOD.days} days before `to`; give `to` as well",
            )
        return since, until


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
                "busy_gpu_seconds": 444.0,
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
    busy_gpu_seconds: float | None
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
            busy_gpu_seconds=summary.busy_s,
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
        return EfficiencyOut.of(
            job, job_summary(session, job.id, ctx.now()), is_simulated=is_simulated(session, job.id)
        )


class UseRowOut(BaseModel):
    """Use by one group of attempts. An absent figure is "no data", never 0.

    `held`: allocated; `charged`: what the ledger took; `busy`: at 1 % utilisation or more; `useful`: times
    utilisation, an upper bound. Only what was observed is in the last two, and `coverage_ratio` says how much was.
    """

    name: str
    attempts: int
    is_simulated: bool
    held_gpu_seconds: float
    charged_gpu_seconds: int
    observed_gpu_seconds: float
    coverage_ratio: float | None
    busy_gpu_seconds: float | None
    useful_gpu_seconds: float | None
    idle_gpu_seconds: float | None
    mean_utilisation_ratio: float | None
    energy_kwh: float | None
    energy_coverage_ratio: float | None
    throttled_gpu_seconds: float | None
    xids: dict[str, int]

    @classmethod
    def of(cls, use: Use) -> Self:
        """The wire form."""
        summary = use.summary
        return cls(
            name=use.name,
            attempts=use.attempts,
            is_simulated=use.is_simulated,
            held_gpu_seconds=summary.held_s,
            charged_gpu_seconds=use.charged_s,
            observed_gpu_seconds=summary.observed_s,
            coverage_ratio=summary.coverage_ratio,
            busy_gpu_seconds=summary.busy_s,
            useful_gpu_seconds=summary.useful_s,
            idle_gpu_seconds=summary.idle_s,
            mean_utilisation_ratio=summary.mean_utilisation_ratio,
            energy_kwh=summary.energy_kwh,
            energy_coverage_ratio=summary.energy_coverage_ratio,
            throttled_gpu_seconds=summary.throttled_s,
            xids={str(code): count for code, count in sorted(summary.xids.items())},
        )


class UseOut(BaseModel):
    """Use by attempts that ended in a period. By product, a job that two products were built by counts for both."""

    by: By
    since: datetime = Field(serialization_alias="from")
    until: datetime = Field(serialization_alias="to")
    items: list[UseRowOut]


@router.get(
    "/telemetry/use",
    operation_id="getUse",
    summary="Show allocated, used and useful GPU time, and energy",
    responses=documented(),
)
def get_use(ctx: Ctx, caller: Caller, query: Annotated[UseQuery, Query()]) -> UseOut:
    """By project, sector, category or product, of the projects you see: whole attempts that ended in the period."""
    since, until = query.period(ctx.now())
    with snapshot(ctx.engine) as session:
        if query.by is By.PRODUCT:
            found = use_by_product(session, caller, since, until)
        else:
            visible = visible_to(caller, JobRow.project_id)
            found = use_by(session, Dimension(query.by.value), since, until, visible=visible)
    return UseOut(by=query.by, since=since, until=until, items=[UseRowOut.of(use) for use in found])
