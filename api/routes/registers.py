"""The registers of the state: dossiers with their documents, how they stand, reminders, entries, quarterly checks.

Source: Orders No 53 of 2018 as amended by No 567 of 7 November 2025, and No 604 of 28 November 2025.
"""

from __future__ import annotations

from datetime import date
from fractions import Fraction
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from api import paging
from api.answers import PageOut
from api.auth import Caller, require
from api.context import Context, Ctx
from api.errors import BODY_ERRORS, ErrorCode, documented
from api.limits import MAX_ID
from api.register_answers import (
    CheckItemOut,
    CheckListOut,
    DocumentOut,
    DossierDetailOut,
    DossierOut,
    ExpiryOut,
    RemindersOut,
    StandingOut,
)
from api.register_schemas import CheckIn, DayQuery, DocumentIn, DossierIn, EntryIn, LeavingIn
from api.schemas import SLUG, PageQuery
from products import registers_service as dossiers
from products import registers_standing as standings
from products.dossier import Document
from products.registers import quarter
from store.clock import ALMATY
from store.engine import snapshot, transaction
from tenants import directory
from tenants.authz import Action
from tenants.service import actor_of

router = APIRouter(prefix="/v1", tags=["registers"])

SlugPath = Annotated[str, Path(pattern=SLUG, max_length=63)]
_READ = documented(ErrorCode.NOT_FOUND)
_WRITE = documented(ErrorCode.FORBIDDEN, ErrorCode.NOT_FOUND, ErrorCode.CONFLICT, *BODY_ERRORS)


def day_of(ctx: Context, asked: date | None) -> date:
    """The day asked for, else today in Almaty."""
    return asked or ctx.now().astimezone(ALMATY).date()


@router.get(
    "/dossiers", operation_id="listDossiers", summary="List dossiers of the registers", responses=documented()
)
def list_dossiers(ctx: Ctx, caller: Caller, query: Annotated[PageQuery, Query()]) -> PageOut[DossierOut]:
    """Dossiers of the projects you see, by slug."""
    with transaction(ctx.engine) as session:
        found, more = dossiers.listing(session, caller, after=paging.decode(query.cursor), limit=query.limit)
    cursor = None if more is None else paging.encode(more)
    return PageOut(items=[DossierOut.of(each) for each in found], next_cursor=cursor)


@router.post(
    "/dossiers",
    status_code=201,
    operation_id="openDossier",
    summary="Open a dossier",
    responses=documented(ErrorCode.FORBIDDEN, ErrorCode.UNKNOWN_PROJECT, ErrorCode.CONFLICT, *BODY_ERRORS),
)
def open_dossier(ctx: Ctx, caller: Caller, body: DossierIn) -> DossierOut:
    """Open the dossier of one product of a project; shares and eligibility are per product."""
    with transaction(ctx.engine) as session:
        project = directory.project(session, caller, body.project)
        require(caller, Action.REGISTER_PRODUCT, project)
        new = dossiers.NewDossier(
            slug=body.slug, project=project, kind=body.kind, name=body.name.model_dump()
        )
        made = dossiers.open_dossier(session, new, actor=actor_of(caller), at=ctx.now())
    return DossierOut.of(made)


@router.get(
    "/dossiers/{slug}", operation_id="getDossier", summary="Show a dossier and how it stands", responses=_READ
)
def get_dossier(
    ctx: Ctx, caller: Caller, slug: SlugPath, query: Annotated[DayQuery, Query()]
) -> DossierDetailOut:
    """Documents, the criteria that apply on the day, eligibility, the order of steps, what runs out."""
    with snapshot(ctx.engine) as session:
        found = dossiers.get(session, caller, slug)
        held = dossiers.documents(session, found)
        standing = standings.standing(session, found, day_of(ctx, query.on))
    return DossierDetailOut(
        **DossierOut.of(found).model_dump(),
        documents=[DocumentOut.of(each) for each in held],
        standing=StandingOut.of(standing),
    )


@router.post(
    "/dossiers/{slug}/documents",
    status_code=201,
    operation_id="addDocument",
    summary="Enter a document",
    responses=documented(
        ErrorCode.FORBIDDEN, ErrorCode.NOT_FOUND, ErrorCode.CONFLICT, ErrorCode.BAD_DOCUMENT, *BODY_ERRORS
    ),
)
def add_document(ctx: Ctx, caller: Caller, slug: SlugPath, body: DocumentIn) -> DocumentOut:
    """Enter a document with its last day. Reminders begin 60 days before it, the alarm 30 days before."""
    share = None if body.share_percent is None else Fraction(body.share_percent) / 100
    document = Document(
        code=body.code,
        number=body.number,
        issued_on=body.issued_on,
        expires_on=body.expires_on,
        level=body.level,
        share_ratio=share,
    )
    with transaction(ctx.engine) as session:
        record = dossiers.get(session, caller, slug)
        project, _ = dossiers.owner(session, caller, record)
        require(caller, Action.REGISTER_PRODUCT, project)
        stored = dossiers.add_document(
            session, record, document, digest=body.sha256, actor=actor_of(caller), at=ctx.now()
        )
    return DocumentOut.of(stored)


@router.delete(
    "/dossiers/{slug}/documents/{document_id}",
    status_code=204,
    operation_id="withdrawDocument",
    summary="Withdraw a document",
    responses=documented(ErrorCode.FORBIDDEN, ErrorCode.NOT_FOUND),
)
def withdraw_document(
    ctx: Ctx, caller: Caller, slug: SlugPath, document_id: Annotated[int, Path(ge=1, le=MAX_ID)]
) -> Response:
    """Take a document out of account, because it was replaced or entered by mistake; the journal keeps it."""
    with transaction(ctx.engine) as session:
        record = dossiers.get(session, caller, slug)
        project, _ = dossiers.owner(session, caller, record)
        require(caller, Action.REGISTER_PRODUCT, project)
        dossiers.withdraw_document(session, record, document_id, actor=actor_of(caller), at=ctx.now())
    return Response(status_code=204)


@router.post(
    "/dossiers/{slug}/entries",
    status_code=204,
    operation_id="recordEntry",
    summary="Record an entry in a register of the state",
    responses=_WRITE,
)
def record_entry(ctx: Ctx, caller: Caller, slug: SlugPath, body: EntryIn) -> Response:
    """Record, as a reviewer, that the product was entered; for producers both conditions must hold on the day."""
    require(caller, Action.REVIEW_PRODUCT)
    with transaction(ctx.engine) as session:
        record = dossiers.get(session, caller, slug)
        standings.record_entry(
            session, record, body.state_register, body.entered_on, actor=actor_of(caller), at=ctx.now()
        )
    return Response(status_code=204)


@router.post(
    "/dossiers/{slug}/leavings",
    status_code=204,
    operation_id="recordLeaving",
    summary="Record a leaving of a register of the state",
    responses=_WRITE,
)
def record_leaving(ctx: Ctx, caller: Caller, slug: SlugPath, body: LeavingIn) -> Response:
    """Record, as a reviewer, the first day on which the product is in the register no more."""
    require(caller, Action.REVIEW_PRODUCT)
    with transaction(ctx.engine) as session:
        record = dossiers.get(session, caller, slug)
        standings.record_leaving(
            session, record, body.state_register, body.left_on, actor=actor_of(caller), at=ctx.now()
        )
    return Response(status_code=204)


@router.post(
    "/dossiers/{slug}/checks",
    status_code=204,
    operation_id="recordCheck",
    summary="Record a quarterly check",
    responses=_WRITE,
)
def record_check(ctx: Ctx, caller: Caller, slug: SlugPath, body: CheckIn) -> Response:
    """Record, as a reviewer, that the entry in the register of Kazakhstani producers was looked at."""
    require(caller, Action.REVIEW_PRODUCT)
    with transaction(ctx.engine) as session:
        record = dossiers.get(session, caller, slug)
        standings.record_check(
            session, record, body.checked_on, is_kept=body.is_kept, actor=actor_of(caller), at=ctx.now()
        )
    return Response(status_code=204)


@router.get(
    "/registers/reminders",
    operation_id="listReminders",
    summary="Documents that run out",
    responses=documented(),
)
def list_reminders(ctx: Ctx, caller: Caller, query: Annotated[DayQuery, Query()]) -> RemindersOut:
    """Documents of the dossiers you see: reminder from 60 days before the last day, alarm from 30, expired after."""
    on = day_of(ctx, query.on)
    with snapshot(ctx.engine) as session:
        found = standings.reminders(session, caller, on)
    return RemindersOut(on=on, items=[ExpiryOut.of(each) for each in found])


@router.get(
    "/registers/check-list",
    operation_id="getCheckList",
    summary="The quarter's check list",
    responses=documented(),
)
def get_check_list(ctx: Ctx, caller: Caller, query: Annotated[DayQuery, Query()]) -> CheckListOut:
    """Entries of the register of Kazakhstani producers that you see: which still qualify, which are to be checked."""
    on = day_of(ctx, query.on)
    with snapshot(ctx.engine) as session:
        found = standings.quarterly(session, caller, on)
    starts_on, ends_on = quarter(on)
    items = [CheckItemOut.of(each) for each in found]
    return CheckListOut(on=on, quarter_starts_on=starts_on, quarter_ends_on=ends_on, items=items)
