"""Target indicators, what was imported with a decision, and the "icebreaker" initiatives."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from api import kpi
from api.auth import Caller, require
from api.context import Ctx, Language
from api.errors import BODY_ERRORS, ErrorCode, documented
from api.indicator_answers import (
    ContributionOut,
    ImportedOut,
    ImportedProductsOut,
    IndicatorOut,
    InitiativeOut,
    InitiativesOut,
)
from api.product_schemas import AsOfQuery, InitiativeIn, MeasurementIn, YearQuery
from api.schemas import SLUG
from products import history, initiatives
from products.kpi import track
from store.clock import ALMATY
from store.engine import snapshot, transaction
from tenants.authz import Action
from tenants.service import actor_of

router = APIRouter(prefix="/v1", tags=["indicators"])

SlugPath = Annotated[str, Path(pattern=SLUG, max_length=63)]
_ASKED = documented(ErrorCode.YEAR_WITHOUT_TARGET, ErrorCode.IN_FUTURE)


@router.get(
    "/kpi/indicators/2",
    operation_id="getIndicator2",
    summary="Target indicator 2",
    responses=_ASKED,
)
def get_indicator_2(
    ctx: Ctx, caller: Caller, language: Language, query: Annotated[YearQuery, Query()]
) -> IndicatorOut:
    """Growth of the number of AI products developed on the platform: targets beside both readings of the fact."""
    as_of = kpi.checked_as_of(query.as_of, ctx.now())
    with snapshot(ctx.engine) as session:
        years = [] if query.year is None else [query.year]
        return kpi.indicator(session, caller, language, as_of, years)


@router.get(
    "/kpi/indicators/7",
    operation_id="getIndicator7",
    summary="Contribution to target indicator 7",
    responses=_ASKED,
)
def get_indicator_7(
    ctx: Ctx, caller: Caller, language: Language, query: Annotated[YearQuery, Query()]
) -> ContributionOut:
    """The platform's contribution to the number of AI startups; without a year, in that of the as-of time."""
    return _contribution(ctx, caller, language, kpi.INDICATOR_7, query)


@router.get(
    "/kpi/indicators/8",
    operation_id="getIndicator8",
    summary="Contribution to target indicator 8",
    responses=_ASKED,
)
def get_indicator_8(
    ctx: Ctx, caller: Caller, language: Language, query: Annotated[YearQuery, Query()]
) -> ContributionOut:
    """The platform's contribution to AI products introduced through acceleration; without a year, in the as-of's."""
    return _contribution(ctx, caller, language, kpi.INDICATOR_8, query)


def _contribution(
    ctx: Ctx, caller: Caller, language: Language, number: int, query: YearQuery
) -> ContributionOut:
    as_of = kpi.checked_as_of(query.as_of, ctx.now())
    year = as_of.astimezone(ALMATY).year if query.year is None else query.year
    with snapshot(ctx.engine) as session:
        return kpi.contribution(session, caller, language, as_of, (number, year))


@router.get(
    "/imported-products",
    operation_id="listImportedProducts",
    summary="Products imported with their decision",
    responses=documented(),
)
def list_imported(ctx: Ctx, caller: Caller) -> ImportedProductsOut:  # noqa: ARG001 - open to every caller, not to none
    """Products of 2025 and 2026 without job evidence; they stand apart in indicator 2."""
    with snapshot(ctx.engine) as session:
        return ImportedProductsOut(items=[ImportedOut.of(item) for item in history.imported(session)])


@router.get(
    "/initiatives",
    operation_id="listInitiatives",
    summary="Icebreaker initiatives",
    responses=documented(ErrorCode.IN_FUTURE),
)
def list_initiatives(
    ctx: Ctx,
    caller: Caller,  # noqa: ARG001 - open to every caller, not to none
    query: Annotated[AsOfQuery, Query()],
) -> InitiativesOut:
    """Each with its own KPI and deadline, and where it stands as of an instant."""
    as_of = kpi.checked_as_of(query.as_of, ctx.now())
    today = as_of.astimezone(ALMATY).date()
    with snapshot(ctx.engine) as session:
        found = [track(each, today) for each in history.initiatives(session, as_of)]
    return InitiativesOut(as_of=as_of, items=[InitiativeOut.of(each) for each in found])


@router.post(
    "/initiatives",
    status_code=201,
    operation_id="registerInitiative",
    summary="Register an icebreaker initiative",
    responses=documented(ErrorCode.FORBIDDEN, ErrorCode.CONFLICT, *BODY_ERRORS),
)
def register_initiative(ctx: Ctx, caller: Caller, body: InitiativeIn) -> InitiativeOut:
    """Register an initiative with its KPI, the values at its start and to be reached, and its deadline."""
    require(caller, Action.ADMINISTER)
    at, made = ctx.now(), body.made()
    with transaction(ctx.engine) as session:
        initiatives.register(session, made, actor=actor_of(caller), at=at)
    return InitiativeOut.of(track(made, at.astimezone(ALMATY).date()))


@router.post(
    "/initiatives/{slug}/measurements",
    status_code=201,
    operation_id="measureInitiative",
    summary="Enter a value of an initiative's KPI",
    responses=documented(
        ErrorCode.FORBIDDEN, ErrorCode.NOT_FOUND, ErrorCode.CONFLICT, ErrorCode.IN_FUTURE, *BODY_ERRORS
    ),
)
def measure_initiative(ctx: Ctx, caller: Caller, slug: SlugPath, body: MeasurementIn) -> InitiativeOut:
    """Enter a value of a day with its source; once entered it stands."""
    require(caller, Action.ADMINISTER)
    at = ctx.now()
    today = at.astimezone(ALMATY).date()
    with transaction(ctx.engine) as session:
        initiatives.measure(session, slug, body.made(), today=today, actor=actor_of(caller), at=at)
        found = next(each for each in history.initiatives(session, at) if each.slug == slug)
    return InitiativeOut.of(track(found, today))
