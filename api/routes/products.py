"""What was built: the product register, the life of its entries, and the evidence of each."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from sqlalchemy.orm import Session

from api import paging
from api.answers import PageOut
from api.auth import Caller, require
from api.context import Context, Ctx, Language
from api.errors import BODY_ERRORS, ErrorCode, documented
from api.kpi import checked_as_of
from api.product_answers import (
    ChainJobOut,
    ChainOut,
    LikenessesOut,
    ModelVersionOut,
    ProductDetailOut,
    ProductOut,
    VerdictOut,
)
from api.product_schemas import AsOfQuery, JobPath, LinkIn, ModelVersionIn, ProductEntryIn, ProductIn
from api.schemas import SLUG, PageQuery, ReturnIn
from products import artefacts, history
from products import chain as chains
from products import service as products
from products.errors import ProductNotFoundError
from products.gather import is_simulated
from products.model import Product
from store.engine import snapshot, transaction
from tenants import directory
from tenants.authz import Action, may
from tenants.model import Principal
from tenants.service import actor_of

router = APIRouter(prefix="/v1", tags=["products"])

SlugPath = Annotated[str, Path(pattern=SLUG, max_length=63)]
_JUDGE = documented(
    ErrorCode.FORBIDDEN, ErrorCode.NOT_INDEPENDENT, ErrorCode.NOT_FOUND, ErrorCode.CONFLICT, *BODY_ERRORS
)
_CHANGE = documented(ErrorCode.FORBIDDEN, ErrorCode.NOT_FOUND, ErrorCode.CONFLICT, *BODY_ERRORS)
_LINK = documented(
    ErrorCode.FORBIDDEN,
    ErrorCode.NOT_FOUND,
    ErrorCode.CONFLICT,
    ErrorCode.JOBS_NOT_OF_PROJECT,
    *BODY_ERRORS,
)


def _changeable(session: Session, caller: Principal, slug: str) -> Product:
    """A product that the caller may change: one of a project it registers products of."""
    found = products.get(session, caller, slug)
    slugs = directory.project_slugs(session, caller, [found.project_id])
    require(caller, Action.REGISTER_PRODUCT, directory.project(session, caller, slugs[found.project_id]))
    return found


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
    """Register a product of a project with the jobs it was built by: as a draft, or submitted for review at once."""
    with transaction(ctx.engine) as session:
        project = directory.project(session, caller, body.project)
        require(caller, Action.REGISTER_PRODUCT, project)
        said = {name: getattr(body.entry(), name) for name in products.ENTRY_FIELDS}
        new = products.NewProduct(
            slug=body.slug, project=project, job_ids=frozenset(body.jobs), is_draft=body.is_draft, **said
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
    """A product, the jobs it was built by, the digests of the files they kept, and products that look like it."""
    with snapshot(ctx.engine) as session:
        return ProductDetailOut.with_evidence(
            ProductOut.of(products.get(session, caller, slug), caller),
            artefacts.evidence(session, caller, slug),
            artefacts.versions(session, caller, slug),
            artefacts.duplicates(session, caller, slug),
        )


@router.put(
    "/products/{slug}",
    operation_id="changeProduct",
    summary="Change what is said of a product",
    responses=_CHANGE,
)
def change_product(ctx: Ctx, caller: Caller, slug: SlugPath, body: ProductEntryIn) -> ProductOut:
    """Replace the entry. Of a verified product, a further stage or a use of AI holds from its next verification."""
    with transaction(ctx.engine) as session:
        _changeable(session, caller, slug)
        changed = products.change(session, caller, slug, body.entry(), actor=actor_of(caller), at=ctx.now())
    return ProductOut.of(changed, caller)


@router.post(
    "/products/{slug}/submit",
    operation_id="submitProduct",
    summary="Submit a product for review",
    responses=_CHANGE,
)
def submit_product(ctx: Ctx, caller: Caller, slug: SlugPath) -> ProductOut:
    """Submit a draft, or a returned product again."""
    with transaction(ctx.engine) as session:
        _changeable(session, caller, slug)
        return ProductOut.of(
            products.submit(session, caller, slug, actor=actor_of(caller), at=ctx.now()), caller
        )


@router.post(
    "/products/{slug}/withdraw",
    operation_id="withdrawProduct",
    summary="Withdraw a product",
    responses=_CHANGE,
)
def withdraw_product(ctx: Ctx, caller: Caller, slug: SlugPath) -> ProductOut:
    """Withdraw a product for good, as its project or as a reviewer: it counts no more, earlier figures stand."""
    with transaction(ctx.engine) as session:
        if not may(caller, Action.REVIEW_PRODUCT):
            _changeable(session, caller, slug)
        return ProductOut.of(
            products.withdraw(session, caller, slug, actor=actor_of(caller), at=ctx.now()), caller
        )


@router.post(
    "/products/{slug}/jobs",
    operation_id="linkJobs",
    summary="Link jobs to a product",
    responses=_LINK,
)
def link_jobs(ctx: Ctx, caller: Caller, slug: SlugPath, body: LinkIn) -> ProductOut:
    """Name further jobs of the project as evidence. To a verified product they count from its next review."""
    with transaction(ctx.engine) as session:
        _changeable(session, caller, slug)
        linked = products.link(session, caller, slug, body.jobs, actor=actor_of(caller), at=ctx.now())
    return ProductOut.of(linked, caller)


@router.delete(
    "/products/{slug}/jobs/{job_id}",
    operation_id="unlinkJob",
    summary="Take a job back as evidence",
    responses=_CHANGE,
)
def unlink_job(ctx: Ctx, caller: Caller, slug: SlugPath, job_id: JobPath) -> ProductOut:
    """Take a job back as evidence from now on; what was counted before stands."""
    with transaction(ctx.engine) as session:
        _changeable(session, caller, slug)
        left = products.unlink(session, caller, slug, job_id, actor=actor_of(caller), at=ctx.now())
    return ProductOut.of(left, caller)


@router.post(
    "/products/{slug}/model-versions",
    status_code=201,
    operation_id="addModelVersion",
    summary="Name a version of a product's model",
    responses=documented(
        ErrorCode.FORBIDDEN,
        ErrorCode.NOT_FOUND,
        ErrorCode.OUTPUT_NOT_FOUND,
        ErrorCode.DIGEST_MISMATCH,
        *BODY_ERRORS,
    ),
)
def add_model_version(ctx: Ctx, caller: Caller, slug: SlugPath, body: ModelVersionIn) -> ModelVersionOut:
    """Name a file that a linked job kept as a version of the model; its digest is the one the agent computed."""
    with transaction(ctx.engine) as session:
        _changeable(session, caller, slug)
        made = artefacts.add_version(session, caller, slug, body.new(), actor=actor_of(caller), at=ctx.now())
    return ModelVersionOut.of(made)


@router.get(
    "/products/{slug}/duplicates",
    operation_id="listDuplicates",
    summary="Products that look like this one",
    responses=documented(ErrorCode.NOT_FOUND),
)
def list_duplicates(ctx: Ctx, caller: Caller, slug: SlugPath) -> LikenessesOut:
    """Products with the same name, model digest or link. They are shown; what follows is a reviewer's to decide."""
    with snapshot(ctx.engine) as session:
        return LikenessesOut.of(artefacts.duplicates(session, caller, slug))


@router.get(
    "/products/{slug}/verdict",
    operation_id="getVerdict",
    summary="Whether a product counts, and why",
    responses=documented(ErrorCode.NOT_FOUND, ErrorCode.IN_FUTURE),
)
def get_verdict(
    ctx: Ctx, caller: Caller, language: Language, slug: SlugPath, query: Annotated[AsOfQuery, Query()]
) -> VerdictOut:
    """Each condition of the evidence rule, with what it needs and what was found, at an instant."""
    with snapshot(ctx.engine) as session:
        return _verdict(session, ctx, (caller, language), slug, query)


@router.get(
    "/products/{slug}/chain",
    operation_id="getChain",
    summary="The chain of evidence of a product",
    responses=documented(ErrorCode.NOT_FOUND, ErrorCode.IN_FUTURE),
)
def get_chain(
    ctx: Ctx, caller: Caller, language: Language, slug: SlugPath, query: Annotated[AsOfQuery, Query()]
) -> ChainOut:
    """Policy and route, grant and decision, job, GPU-seconds and energy, model version, product, indicator."""
    with snapshot(ctx.engine) as session:
        found = products.get(session, caller, slug)
        return ChainOut(
            slug=found.slug,
            status=found.status,
            is_simulated=is_simulated(session),
            jobs=[ChainJobOut.of(each) for each in chains.chain(session, caller, slug, ctx.now())],
            verdict=_verdict(session, ctx, (caller, language), slug, query),
        )


def _verdict(
    session: Session, ctx: Context, asked_by: tuple[Principal, str], slug: str, query: AsOfQuery
) -> VerdictOut:
    caller, language = asked_by
    found = products.get(session, caller, slug)
    as_of = checked_as_of(query.as_of, ctx.now())
    verdict = next(
        (each for each in history.verdicts(session, as_of) if each.history.product_id == found.id), None
    )
    if verdict is None:
        raise ProductNotFoundError(slug)
    rule = next((each for each in history.published_rules() if each.version == verdict.rule), None)
    return VerdictOut.of(verdict, rule, language)


@router.post(
    "/products/{slug}/verify",
    operation_id="verifyProduct",
    summary="Verify a product",
    responses=_JUDGE,
)
def verify_product(ctx: Ctx, caller: Caller, slug: SlugPath) -> ProductOut:
    """Verify a submitted product or renew a verification, independent of its author, project and organisation."""
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
    """Return a submitted or verified product to its author, as an independent reviewer."""
    require(caller, Action.REVIEW_PRODUCT)
    with transaction(ctx.engine) as session:
        returned = products.send_back(session, caller, slug, body.note, actor=actor_of(caller), at=ctx.now())
    return ProductOut.of(returned, caller)
