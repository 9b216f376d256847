"""Reports: issue one from the database, list those issued, download their files. For officials and operators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response

from api import paging
from api.answers import PageOut
from api.auth import Caller, require
from api.context import Ctx
from api.errors import BODY_ERRORS, ApiError, ErrorCode, documented
from api.findings import Finding
from api.register_answers import ReportOut
from api.register_schemas import FormQuery, ReportIn, ReportsQuery
from api.reports import period_of
from api.routes.localisation import file_answers, file_response
from products.kpi import FutureError
from products.reports import archive
from products.reports.build import build
from products.reports.observed import gather_observed
from store.engine import snapshot, transaction
from tenants.authz import Action
from tenants.service import actor_of

router = APIRouter(prefix="/v1", tags=["reports"])

DigestPath = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the report's data.")]


@router.get(
    "/reports",
    operation_id="listReports",
    summary="List issued reports",
    responses=documented(ErrorCode.FORBIDDEN),
)
def list_reports(ctx: Ctx, caller: Caller, query: Annotated[ReportsQuery, Query()]) -> PageOut[ReportOut]:
    """Reports that were issued, the newest first; for operators, reviewers, auditors and the council's viewers."""
    require(caller, Action.READ)
    with snapshot(ctx.engine) as session:
        found, more = archive.listing(session, after=paging.decode(query.cursor), limit=query.limit)
    cursor = None if more is None else paging.encode(more)
    return PageOut(items=[ReportOut.of(each) for each in found], next_cursor=cursor)


@router.post(
    "/reports",
    status_code=201,
    operation_id="issueReport",
    summary="Issue a report",
    responses=documented(ErrorCode.FORBIDDEN, ErrorCode.IN_FUTURE, *BODY_ERRORS),
)
def issue_report(ctx: Ctx, caller: Caller, body: ReportIn) -> ReportOut:
    """Make the monthly report or the contribution to the yearly one and remember it by its digest; operators only."""
    require(caller, Action.ADMINISTER)
    now = ctx.now()
    as_of = body.as_of or now
    if as_of > now:
        raise FutureError(f"as-of time {as_of.isoformat()}", now)
    try:
        period = period_of(body.kind, body.period)
    except ValueError as error:
        found = Finding("body.period", str(error))
        raise ApiError(ErrorCode.VALIDATION, f"body.period: {error}", errors=[found]) from error
    with snapshot(ctx.engine) as session:
        report = gather_observed(session, body.kind, period, as_of)
    with transaction(ctx.engine) as session:
        digest = archive.issue(session, report, actor=actor_of(caller), at=now)
        return ReportOut.of(archive.issued(session, digest))


@router.get(
    "/reports/{digest}",
    operation_id="downloadReport",
    summary="Download an issued report",
    response_class=Response,
    responses={
        **documented(ErrorCode.FORBIDDEN, ErrorCode.NOT_FOUND),
        200: file_answers("The report's file.", "pdf", "xlsx", "docx", "json"),
    },
)
def download_report(
    ctx: Ctx, caller: Caller, digest: DigestPath, query: Annotated[FormQuery, Query()]
) -> Response:
    """The file, made again from the kept data: the same bytes at any time. `kezek-server report verify` checks it."""
    require(caller, Action.READ)
    with snapshot(ctx.engine) as session:
        report = archive.report_of(session, digest)
    content = build(report, query.format, query.language)
    name = f"{report.kind}-{report.starts_on.isoformat()}-{digest[:12]}-{query.language}"
    return file_response(content, query.format, name)
