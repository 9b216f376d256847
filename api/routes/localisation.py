"""The localisation share of a dossier's product: books, figures, calculations, and the form of the order's annex.

Source: Order No 604 of 28 November 2025.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Final

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response

from api import paging
from api.answers import PageOut
from api.auth import Caller, require
from api.context import Ctx
from api.errors import BODY_ERRORS, ErrorCode, documented
from api.limits import MAX_ID
from api.register_answers import CalculationOut, CalculationsOut, EnteredOut, LocalisationOut, PaymentOut
from api.register_schemas import BooksIn, CalculationIn, FormQuery, PaymentQuery, ShareQuery
from api.routes.registers import SlugPath
from api.schemas import PageQuery
from products import localisation_books, localisation_service
from products import registers_service as dossiers
from products.localisation import Contract, Party, Payment, Period, Rate, counts_as_foreign
from products.localisation_books import NO_PERIOD, Entries, NumberedPayment
from products.localisation_service import Calculation, Order
from products.reports.build import build
from store.engine import snapshot, transaction
from tenants.authz import Action, may
from tenants.model import Organisation, Principal, Project
from tenants.service import actor_of

router = APIRouter(prefix="/v1", tags=["registers"])

MEDIA_TYPES: Final = {
    "pdf": "application/pdf",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "json": "application/json",
}
"""Media type of each format of a report."""

_SEPARATOR: Final = "\x1f"
_FIGURES = (ErrorCode.NO_PAYMENTS, ErrorCode.RATE_MISSING, ErrorCode.BAD_BOOKS, ErrorCode.BAD_PERIOD)


def file_answers(description: str, *formats: str) -> dict[str, object]:
    """What the OpenAPI document says of an answer that is a file."""
    binary: dict[str, object] = {"schema": {"type": "string", "format": "binary"}}
    data: dict[str, object] = {
        "schema": {"type": "object"},
        "example": {
            "schema": "kezek-report/1",
            "format": "json",
            "language": "kk",
            "data": {"kind": "yearly"},
        },
    }
    return {
        "description": description,
        "content": {MEDIA_TYPES[name]: data if name == "json" else binary for name in formats},
    }


@router.post(
    "/dossiers/{slug}/books",
    operation_id="enterBooks",
    summary="Enter parties, contracts, payments and rates",
    responses=documented(
        ErrorCode.FORBIDDEN,
        ErrorCode.NOT_FOUND,
        ErrorCode.CONFLICT,
        ErrorCode.BAD_BOOKS,
        ErrorCode.BAD_PERIOD,
        *BODY_ERRORS,
    ),
)
def enter_books(ctx: Ctx, caller: Caller, slug: SlugPath, body: BooksIn) -> EnteredOut:
    """Enter all or nothing. The same again changes nothing; other values under the same key need `is_correction`."""
    entries = Entries(
        period=Period(body.starts_on, body.ends_on),
        parties=tuple(
            Party(each.id, each.is_foreign, each.controlled_by, each.acts_for) for each in body.parties
        ),
        contracts=tuple(Contract(each.number, each.party) for each in body.contracts),
        payments=tuple(
            NumberedPayment(
                each.number,
                Payment(each.contract, each.paid_on, Decimal(each.amount), each.currency, each.purpose),
            )
            for each in body.payments
        ),
        rates=tuple(Rate(each.currency, each.on, Decimal(each.tenge)) for each in body.rates),
        is_correction=body.is_correction,
    )
    with transaction(ctx.engine) as session:
        record = dossiers.get(session, caller, slug)
        project, _ = dossiers.owner(session, caller, record)
        require(caller, Action.REGISTER_PRODUCT, project)
        made = localisation_books.enter(session, record, entries, actor=actor_of(caller), at=ctx.now())
    return EnteredOut.of(made)


@router.get(
    "/dossiers/{slug}/payments",
    operation_id="listPayments",
    summary="List payments",
    responses=documented(ErrorCode.FORBIDDEN, ErrorCode.NOT_FOUND),
)
def list_payments(
    ctx: Ctx, caller: Caller, slug: SlugPath, query: Annotated[PageQuery, Query()]
) -> PageOut[PaymentOut]:
    """Payments by contract and number, each with whether it counts as foreign; for the project and operators."""
    key = paging.decode(query.cursor)
    contract, _, number = (key or "").partition(_SEPARATOR)
    with snapshot(ctx.engine) as session:
        record = dossiers.get(session, caller, slug)
        project, _ = dossiers.owner(session, caller, record)
        require(caller, Action.READ_CONTENT, project)
        after = None if key is None else (contract, number)
        found, more = localisation_books.page(session, record, after=after, limit=query.limit)
        parties = localisation_books.books(session, record, NO_PERIOD)
    foreign = counts_as_foreign(parties.parties)
    party_of = {each.number: each.party_id for each in parties.contracts}
    items = []
    for each in found:
        party = party_of[each.payment.contract]
        items.append(PaymentOut.of(each, party, counts_as_foreign=foreign[party]))
    cursor = None if more is None else paging.encode(_SEPARATOR.join(more))
    return PageOut(items=items, next_cursor=cursor)


@router.delete(
    "/dossiers/{slug}/payments",
    status_code=204,
    operation_id="removePayment",
    summary="Remove a payment",
    responses=documented(ErrorCode.FORBIDDEN, ErrorCode.NOT_FOUND),
)
def remove_payment(
    ctx: Ctx, caller: Caller, slug: SlugPath, query: Annotated[PaymentQuery, Query()]
) -> Response:
    """Remove a payment that was entered by mistake; the journal keeps its digest."""
    with transaction(ctx.engine) as session:
        record = dossiers.get(session, caller, slug)
        project, _ = dossiers.owner(session, caller, record)
        require(caller, Action.REGISTER_PRODUCT, project)
        localisation_books.remove_payment(
            session, record, (query.contract, query.number), actor=actor_of(caller), at=ctx.now()
        )
    return Response(status_code=204)


@router.get(
    "/dossiers/{slug}/localisation",
    operation_id="getLocalisation",
    summary="The localisation share of a period",
    responses=documented(ErrorCode.NOT_FOUND, *_FIGURES),
)
def get_localisation(
    ctx: Ctx, caller: Caller, slug: SlugPath, query: Annotated[ShareQuery, Query()]
) -> LocalisationOut:
    """Share = (1 - foreign / total) x 100 %, at least 80 %; with `applied_on` the rule for the past year too."""
    period = Period(query.starts_on, query.ends_on)
    with snapshot(ctx.engine) as session:
        record = dossiers.get(session, caller, slug)
        found = localisation_service.figures(session, record, period, query.applied_on)
    return LocalisationOut.of((period.starts_on, period.ends_on), found)


@router.post(
    "/dossiers/{slug}/calculations",
    status_code=201,
    operation_id="calculateShare",
    summary="Calculate the share and keep it",
    responses=documented(
        ErrorCode.FORBIDDEN,
        ErrorCode.NOT_FOUND,
        ErrorCode.IN_FUTURE,
        ErrorCode.BAD_BIN,
        *_FIGURES,
        *BODY_ERRORS,
    ),
)
def calculate(ctx: Ctx, caller: Caller, slug: SlugPath, body: CalculationIn) -> CalculationOut:
    """Keep the calculation report of a period that has ended, with the digest of the books it rests on."""
    order = Order(
        period=Period(body.starts_on, body.ends_on),
        number=body.iin,
        responsible=body.responsible,
        contact=body.contact,
    )
    with transaction(ctx.engine) as session:
        record = dossiers.get(session, caller, slug)
        project, organisation = dossiers.owner(session, caller, record)
        require(caller, Action.REGISTER_PRODUCT, project)
        made = localisation_service.calculate(
            session, record, organisation, order, actor=actor_of(caller), at=ctx.now()
        )
    return _out(made, caller, project, organisation)


@router.get(
    "/dossiers/{slug}/calculations",
    operation_id="listCalculations",
    summary="List calculations",
    responses=documented(ErrorCode.NOT_FOUND),
)
def list_calculations(ctx: Ctx, caller: Caller, slug: SlugPath) -> CalculationsOut:
    """Shares that were calculated and kept, the newest first, at most 200."""
    with snapshot(ctx.engine) as session:
        record = dossiers.get(session, caller, slug)
        project, organisation = dossiers.owner(session, caller, record)
        found = localisation_service.calculations(session, record)
    return CalculationsOut(items=[_out(each, caller, project, organisation) for each in found])


@router.get(
    "/dossiers/{slug}/calculations/{calculation_id}/form",
    operation_id="downloadForm",
    summary="The report in the form of the order's annex",
    response_class=Response,
    responses={
        **documented(ErrorCode.FORBIDDEN, ErrorCode.NOT_FOUND, ErrorCode.REPORT_NOT_OFFERED),
        200: file_answers("The form as PDF or DOCX, in Kazakh or Russian.", "pdf", "docx"),
    },
)
def download_form(
    ctx: Ctx,
    caller: Caller,
    slug: SlugPath,
    calculation_id: Annotated[int, Path(ge=1, le=MAX_ID)],
    query: Annotated[FormQuery, Query()],
) -> Response:
    """The calculation report: organisation, BIN or IIN, period, person responsible, sums, share, signature lines."""
    with snapshot(ctx.engine) as session:
        record = dossiers.get(session, caller, slug)
        project, organisation = dossiers.owner(session, caller, record)
        require(caller, Action.READ_CONTENT, project)
        made = localisation_service.calculation(session, record, calculation_id)
    form = localisation_service.form_of(record, organisation, made, query.language)
    content = build(form, query.format, query.language)
    return file_response(content, query.format, f"localisation-{slug}-{made.id}-{query.language}")


def file_response(content: bytes, file_format: str, name: str) -> Response:
    """A file to be saved."""
    headers = {
        "Content-Disposition": f'attachment; filename="{name}.{file_format}"',
        "X-Content-Type-Options": "nosniff",
    }
    return Response(content, media_type=MEDIA_TYPES[file_format], headers=headers)


def _out(
    made: Calculation, caller: Principal, project: Project, organisation: Organisation
) -> CalculationOut:
    return CalculationOut.of(
        made,
        is_iin=made.number != organisation.bin,
        may_read=may(caller, Action.READ_CONTENT, project.id),
    )
