"""Open data: the public figures as JSON and CSV, with their schema. No token, no names, no cell of fewer than three."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from api.admission import Admitted
from api.context import Context, Ctx
from api.errors import ErrorCode, documented
from api.limits import PUBLIC_CACHE_S
from api.opendata_answers import SCHEMA_PATH, OpenDataOut, open_data_of
from products import opendata_gather
from products.opendata import OpenData, schema, to_csv
from store.engine import snapshot

router = APIRouter(tags=["public"])

_CACHED: Final = {"Cache-Control": f"public, max-age={PUBLIC_CACHE_S}"}
_ERRORS: Final = documented(ErrorCode.RATE_LIMITED)


def open_data(ctx: Context) -> OpenData:
    """The public figures, at most `PUBLIC_CACHE_S` seconds old."""

    def compute() -> OpenData:
        with snapshot(ctx.engine) as session:
            return opendata_gather.gather(session, ctx.now())

    return ctx.open_data.get(ctx.now(), compute)


@router.get(
    "/v1/public/open-data",
    operation_id="getOpenData",
    summary="The public figures",
    responses=_ERRORS,
)
def get_open_data(ctx: Ctx, _admitted: Admitted, response: Response) -> OpenDataOut:
    """Jobs, GPU-seconds, waiting times, products and utilisation of 30 days, by sector and by category."""
    response.headers.update(_CACHED)
    return open_data_of(open_data(ctx))


@router.get(
    "/v1/public/open-data.csv",
    operation_id="getOpenDataCsv",
    summary="The public figures as CSV",
    response_class=Response,
    responses={
        **_ERRORS,
        200: {"description": "RFC 4180, UTF-8.", "content": {"text/csv": {"schema": {"type": "string"}}}},
    },
)
def get_open_data_csv(ctx: Ctx, _admitted: Admitted) -> Response:
    """The rows of the open data; an empty cell is no data, never 0."""
    headers = {**_CACHED, "Content-Disposition": 'attachment; filename="kezek-open-data.csv"'}
    return Response(to_csv(open_data(ctx)), media_type="text/csv; charset=utf-8", headers=headers)


@router.get(
    SCHEMA_PATH,
    operation_id="getOpenDataSchema",
    summary="The schema of the public figures",
    response_class=JSONResponse,
    responses={
        **_ERRORS,
        200: {
            "description": "JSON Schema (draft 2020-12) of one row.",
            "content": {"application/json": {"schema": {"type": "object"}, "example": schema()}},
        },
    },
)
def get_open_data_schema(_admitted: Admitted) -> JSONResponse:
    """What each column means, as a JSON Schema."""
    return JSONResponse(schema(), headers=_CACHED)
