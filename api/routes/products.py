"""What was built: the product register and target indicator 2."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from api import kpi, paging
from api.answers import PageOut
from api.auth import Caller, require
from api.context import Ctx, Language
from api.errors import BODY_ERRORS, ErrorCode, documented
from api.product_answers import IndicatorOut, ProductDetailOut, ProductOut
from api.schemas import SLUG, PageQuery, ProductIn, ReturnIn
from products import service as products
from store.engine import snapshot, transaction
from tenants import directory
from tenants.authz import Action
from tenants.service import actor_of

router = APIRouter(prefix="/v1", tags=["products"])

SlugPath = Annotated[str, Path(pattern=SLUG, max_length=63)]
_JUDGE = documented(
    ErrorCode.FORBIDDEN, ErrorCode.NOT_INDEPENDENT, ErrorCode.NOT_FOUND, ErrorCode.CONFLICT, *BODY_ERRORS
)


@router.get("/products", operation_id="listProducts", summary="List products", responses=documented())
def list_products(ctx: Ctx, caller: Caller, query: Annotated[PageQuery, Query()]) -> PageOut[ProductOut]:
    """Products of the projects you see, by slug."""
    with transaction(ctx.engine) as session:
        found, more = products.listing(session, caller, after=paging.decode(query.cursor), limit=query.limit)
    cursor = None if more is None else paging.encode(more)
    return PageOut(items=[ProductOut.of(item, caller) for item in found], next_cursor=cursor)


@router.post(
    "/products",
    status_code=201,
    operation_id="registerProduct",
    summary="Register a product",
    responses=documented(
        ErrorCode.FORBIDDEN,
        ErrorCode.UNKNOWN_PROJECT,
        ErrorCode.CONFLICT,
        ErrorCode.JOBS_NOT_OF_PROJECT,
        *BODY_ERRORS,
    ),
)
def register_product(ctx: Ctx, caller: Caller, body: ProductIn) -> ProductOut:
    """Register a product of a project with the jobs it was built by; it is submitted for review at once."""
    with transaction(ctx.engine) as session:
        project = directory.project(session, caller, body.project)
        require(caller, Action.REGISTER_PRODUCT, project)
        new = products.NewProduct(
            slug=body.slug,
            project=project,
            name=body.name.model_dump(),
            description=body.description,
            sector=body.sector,
            stage=body.stage,
            started_on=body.started_on,
            job_ids=frozenset(body.jobs),
        )
        made = products.register(session, caller, new, actor=actor_of(caller), at=ctx.now())
    return ProductOut.of(made, caller)


@router.get(
    "/products/{slug}",
    operation_id="getProduct",
    summary="Show a product with its evidence",
    responses=documented(ErrorCode.NOT_FOUND),
)
def get_product(ctx: Ctx, caller: Caller, slug: SlugPath) -> ProductDetailOut:
    """A product, the jobs it was built by, and the digests of the files they kept."""
    with transaction(ctx.engine) as session:
        found = products.get(session, caller, slug)
        evidence = products.evidence(session, caller, slug)
    return ProductDetailOut.with_evidence(found, caller, evidence)


@router.post(
    "/products/{slug}/verify",
    operation_id="verifyProduct",
    summary="Verify a product",
    responses=_JUDGE,
)
def verify_product(ctx: Ctx, caller: Caller, slug: SlugPath) -> ProductOut:
    """Verify a submitted product, as a reviewer independent of its author, project and organisation."""
    require(caller, Action.REVIEW_PRODUCT)
    with transaction(ctx.engine) as session:
        return ProductOut.of(
            products.verify(session, caller, slug, actor=actor_of(caller), at=ctx.now()), caller
        )


@router.post(
    "/products/{slug}/return",
    operation_id="returnProduct",
    summary="Return a product with a reason",
    responses=_JUDGE,
)
def return_product(ctx: Ctx, caller: Caller, slug: SlugPath, body: ReturnIn) -> ProductOut:
    """Return a submitted product to its author, as an independent reviewer."""
    require(caller, Action.REVIEW_PRODUCT)
    with transaction(ctx.engine) as session:
        returned = products.send_back(session, caller, slug, body.note, actor=actor_of(caller), at=ctx.now())
    return ProductOut.of(returned, caller)


@router.get(
    "/kpi/indicators/2",
    operation_id="getIndicator2",
    summary="Target indicator 2",
    tags=["indicators"],
    responses=documented(ErrorCode.YEAR_WITHOUT_TARGET),
)
def get_indicator_2(
    ctx: Ctx,
    caller: Caller,
    language: Language,
    year: Annotated[
        int | None, Query(ge=2000, le=2200, description="One year; absent: every year with a target.")
    ] = None,
) -> IndicatorOut:
    """Growth of the number of AI products developed on the platform: targets beside both readings of the fact."""
    with snapshot(ctx.engine) as session:
        years = [] if year is None else [year]
        return kpi.indicator_2(session, caller, language, ctx.now(), years)
