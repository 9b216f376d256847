"""Whether the platform lives and is ready, and its metrics."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from api.auth import Caller, require
from api.context import Context, Ctx
from api.errors import ErrorCode, documented
from scheduler.apply import LEASE
from store import migrate
from store.engine import snapshot
from store.tables import LeaseRow
from tenants.authz import Action

router = APIRouter(tags=["operations"])


class HealthOut(BaseModel):
    """The process answers."""

    status: str


class CheckOut(BaseModel):
    """One condition of being ready, and why it does not hold."""

    is_ready: bool
    reason: str


class ReadyOut(BaseModel):
    """Whether every condition holds."""

    is_ready: bool
    checks: dict[str, CheckOut]


@router.get("/healthz", operation_id="getHealth", summary="Is the API alive")
def get_health() -> HealthOut:
    """Answers as long as the process does; asks nothing else."""
    return HealthOut(status="ok")


@router.get(
    "/readyz",
    operation_id="getReadiness",
    summary="Is the platform ready",
    response_model=ReadyOut,
    responses={503: {"model": ReadyOut, "description": "Some condition does not hold; each says why."}},
)
def get_readiness(ctx: Ctx) -> JSONResponse:
    """Whether the database is at this release's migration and a scheduler holds its lease."""
    checks = {"database": _database(ctx)}
    if checks["database"].is_ready:
        checks["scheduler"] = _scheduler(ctx)
    is_ready = all(check.is_ready for check in checks.values())
    body = ReadyOut(is_ready=is_ready, checks=checks)
    return JSONResponse(body.model_dump(mode="json"), 200 if is_ready else 503)


@router.get(
    "/metrics",
    operation_id="getMetrics",
    summary="Metrics in Prometheus' text format",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def get_metrics(ctx: Ctx) -> Response:
    """Figures of the control plane; the nodes' GPUs have exporters of their own."""
    return Response(generate_latest(ctx.registry), media_type=CONTENT_TYPE_LATEST)


@router.get(
    "/metrics/projects",
    operation_id="getProjectMetrics",
    summary="Metrics that name projects and jobs, in Prometheus' text format",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        **documented(ErrorCode.FORBIDDEN),
    },
)
def get_project_metrics(ctx: Ctx, caller: Caller) -> Response:
    """Whose job holds which GPU and what projects have left: for those who oversee the platform, by their token."""
    require(caller, Action.READ)
    return Response(generate_latest(ctx.projects_registry), media_type=CONTENT_TYPE_LATEST)


def _database(ctx: Context) -> CheckOut:
    try:
        migrate.check(ctx.engine)
    except migrate.SchemaMismatchError as error:
        return CheckOut(is_ready=False, reason=str(error))
    except (OperationalError, PoolTimeoutError):
        return CheckOut(is_ready=False, reason="the database does not answer")
    return CheckOut(is_ready=True, reason=f"at migration {migrate.head()}")


def _scheduler(ctx: Context) -> CheckOut:
    at = ctx.now()
    with snapshot(ctx.engine) as session:
        lease = session.scalar(select(LeaseRow).where(LeaseRow.name == LEASE))
    if lease is None:
        return CheckOut(is_ready=False, reason="no scheduler has run on this database yet; start one")
    if lease.expires_at <= at:
        since_s = int((at - lease.expires_at).total_seconds())
        return CheckOut(is_ready=False, reason=f"the scheduler's lease expired {since_s} s ago; start one")
    return CheckOut(is_ready=True, reason=f"epoch {lease.epoch}")
