"""The HTTP application: rooms' routes, errors, limits and the OpenAPI document put together. No import side effects."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Final

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector
from sqlalchemy import Engine
from starlette.staticfiles import StaticFiles

from api import refusals
from api.answers import Problem
from api.context import Context
from api.examples import EXAMPLES, POLICY_EXAMPLE
from api.examples_registers import REGISTER_EXAMPLES
from api.latency import Latency
from api.limits import BodyLimit
from api.product_examples import PRODUCT_EXAMPLES
from api.routes import (
    files,
    health,
    idle,
    indicators,
    jobs,
    localisation,
    nodes,
    opendata,
    planning,
    products,
    public,
    quota,
    registers,
    reports,
    telemetry,
    tenants,
)
from scheduler.dispatch.executor import Executor
from store import clock

VERSION: Final = "0.1.0"
"""Version of the API's description; paths carry the major version."""

_DESCRIPTION: Final = """Kezek allocates the GPU time of the national AI supercomputer.

Every answer's times are RFC 3339 in UTC, durations are seconds, GPU time is raw device-seconds. Errors are problem
documents (RFC 9457) with a stable `code`; docs/api.md describes each. What belongs to a project you have no role in
does not exist for you."""

_TAGS: Final = [
    {"name": "jobs", "description": "Submit jobs, follow them, fetch what they made."},
    {"name": "planning", "description": "Why a job waits; what operators set above the machine."},
    {"name": "quota", "description": "Policies, grants and what is left of them."},
    {"name": "tenants", "description": "Organisations, projects, users, roles and tokens."},
    {"name": "products", "description": "What was built on the platform, with its evidence."},
    {"name": "indicators", "description": "Target indicators of the AI Concept 2024-2029."},
    {
        "name": "registers",
        "description": "Registers of the state: dossiers, localisation share, reminders, checks.",
    },
    {"name": "reports", "description": "Reports that were issued, and their files."},
    {"name": "machine", "description": "Nodes and GPUs."},
    {"name": "public", "description": "Open to everybody, without a token."},
    {"name": "operations", "description": "Health, readiness and metrics."},
]


class _Application(FastAPI):
    """The web framework's application whose OpenAPI document knows problem documents as the only errors."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, made once."""
        if self.openapi_schema is None:
            document = super().openapi()
            schemas = document["components"]["schemas"]
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= problem.pop("$defs", {})
            schemas["Problem"] = problem
            for name, example in {**EXAMPLES, **REGISTER_EXAMPLES, **PRODUCT_EXAMPLES}.items():
                schemas[name]["example"] = example
            for path in ("/v1/policies", "/v1/policies/preview"):
                policy = document["paths"][path]["post"]["requestBody"]["content"]
                policy["application/json"]["example"] = POLICY_EXAMPLE
        return super().openapi()


def create_app(
    engine: Engine,
    executor: Callable[[], Executor],
    *,
    collectors: Iterable[Collector] = (),
    project_collectors: Iterable[Collector] = (),
    now: Callable[[], datetime] = clock.now,
    metrics_token: str | None = None,
) -> FastAPI:
    """Make the application.

    Args:
        engine: a database at this release's migration (`/readyz` says when it is not).
        executor: gives the executor through which logs and outputs are read, asked anew by each request. It may raise
            `scheduler.dispatch.executor.UnreachableError` while there are no agents.
        collectors: what `/metrics` shows to everybody; asked at each scrape.
        project_collectors: what `/metrics/projects` shows: whose job holds which GPU, what projects have left.
        now: the clock.
        metrics_token: what `/metrics` asks for; None for nothing.
    """
    registry, projects_registry = CollectorRegistry(), CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    for collector in project_collectors:
        projects_registry.register(collector)
    app = _Application(
        title="Kezek",
        version=VERSION,
        description=_DESCRIPTION,
        openapi_tags=_TAGS,
        docs_url=None,  # the interactive pages load scripts from other hosts
        redoc_url=None,
    )
    app.state.context = Context(
        engine=engine,
        executor=executor,
        registry=registry,
        projects_registry=projects_registry,
        now=now,
        metrics_token=metrics_token,
    )
    for router in (
        public.router,
        tenants.router,
        quota.router,
        jobs.router,
        planning.router,
        nodes.router,
        files.router,
        telemetry.router,
        idle.router,
        products.router,
        registers.router,
        localisation.router,
        reports.router,
        opendata.router,
        indicators.router,
        health.router,
    ):
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=public.PAGES_DIR / "static"), name="static")
    refusals.install(app)
    app.add_middleware(BodyLimit)
    app.add_middleware(Latency, registry=registry)
    return app
