"""The machine, and what everybody may know of it: the cluster, the public figures, the page that shows them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from api import i18n
from api.admission import Admitted
from api.auth import Caller
from api.context import Context, Ctx
from api.errors import ErrorCode, documented
from api.job_answers import ClusterOut
from api.opendata_answers import open_data_of
from api.overview_answers import OverviewOut
from api.routes.opendata import open_data
from products import history
from products import service as products
from products.indicator import TARGETS
from products.kpi import Indicator2
from scheduler import jobs
from store.clock import ALMATY
from store.engine import snapshot

router = APIRouter()

PAGES_DIR: Final = Path(__file__).parent.parent / "pages"
"""Templates and static files."""

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""The page loads its own style sheet and nothing else, and runs no script."""


@router.get(
    "/v1/cluster",
    operation_id="getCluster",
    summary="Nodes and GPUs",
    tags=["machine"],
    responses=documented(),
)
def get_cluster(ctx: Ctx, caller: Caller) -> ClusterOut:  # noqa: ARG001 - open to every caller, not to none
    """Nodes with their GPUs by state; whether they are simulated; what of isolation each node enforces."""
    with snapshot(ctx.engine) as session:
        return ClusterOut.of(jobs.cluster(session))


@router.get(
    "/v1/public/overview",
    operation_id="getOverview",
    summary="What the supercomputer is busy with",
    tags=["public"],
    responses=documented(ErrorCode.RATE_LIMITED),
)
def get_overview(ctx: Ctx, _admitted: Admitted) -> OverviewOut:
    """Public figures, for anyone without a token; cells of fewer than three organisations are merged."""
    return _overview(ctx)[0]


def _overview(ctx: Context) -> tuple[OverviewOut, Indicator2 | None]:
    at = ctx.now()
    year = at.astimezone(ALMATY).year
    with snapshot(ctx.engine) as session:
        counts = {status.value: number for status, number in products.count_by_status(session).items()}
        found = OverviewOut.of(jobs.busy_with(session, at), counts)
        fact = history.indicator_years(session, [year], at)[0] if year in TARGETS else None
    return found, fact


@router.get("/", include_in_schema=False)
def overview_page(
    ctx: Ctx,
    request: Request,
    _admitted: Admitted,
    lang: Annotated[str | None, Query(pattern="^(kk|ru|en)$")] = None,
) -> HTMLResponse:
    """What the supercomputer is busy with, as a page; Kazakh unless the reader asks for another language."""
    language = lang or i18n.choose(request.headers.get("accept-language"), "kk")
    found, fact = _overview(ctx)
    use = open_data_of(open_data(ctx)).utilisation
    html = _template().render(
        language=language,
        languages=i18n.LANGUAGES,
        overview=found,
        indicator=fact,
        utilisation=i18n.percent(language, use.utilisation_ratio),
        coverage=i18n.percent(language, use.coverage_ratio),
        year_text=None if fact is None else str(fact.year),
        at=i18n.instant(language, found.as_of),
        **_writers(language),
    )
    headers = {
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "Content-Language": language,
        "Vary": "Accept-Language",
        "Cache-Control": "no-cache",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    return HTMLResponse(html, headers=headers)


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(PAGES_DIR / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("overview.html")


def _writers(language: str) -> Mapping[str, object]:
    """How the template writes texts, figures and durations."""

    def text(key: str, **values: object) -> str:
        return i18n.translate(language, key, **values)

    def figure(value: float | None) -> str:
        return text("page.overview.no_data") if value is None else i18n.number(language, value)

    def duration(value_s: float | None) -> str:
        return text("page.overview.no_data") if value_s is None else i18n.duration(language, value_s)

    return {"t": text, "n": figure, "d": duration}
