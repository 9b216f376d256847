"""How dossiers stand: criteria and steps on a day, reminders of expiring documents, entries and quarterly checks.

Entries and checks are recorded by an official and journaled in their transaction. Reads of a caller start from
`visible_to`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from fractions import Fraction
from typing import Final
from uuid import UUID

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from products.dossier import Document, Entered, dossier_of, producer_of
from products.registers import (
    REMIND_DAYS,
    CheckItem,
    DocumentState,
    Eligibility,
    ExpiringDocument,
    Expiry,
    Finding,
    Producer,
    Registered,
    StepState,
    check_list,
    due,
    eligibility,
    steps,
    trusted_findings,
)
from products.registers_service import DossierConflictError, DossierRecord, documents, record_of
from products.registers_tables import (
    CalculationRow,
    DocumentRow,
    DossierRow,
    RegisterCheckRow,
    RegisterEntryRow,
)
from store import journal
from tenants.authz import visible_to
from tenants.model import Principal

MAX_DUE: Final = 1_000
"""Documents of one list of reminders [count]; the most urgent come first."""
MAX_REGISTERED: Final = 5_000
"""Entries of one check list [count]: far above what one platform's projects enter."""


class Register(StrEnum):
    """The two registers of the state. Source: Orders No 53 as amended by No 567, and No 604 with No 327."""

    TRUSTED = "trusted"
    PRODUCERS = "producers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a dossier stands on a day.

    Args:
        on: the day.
        findings: the criteria of the trusted register that apply on it, held or not.
        eligibility: both conditions for the register of Kazakhstani producers.
        steps: localisation share, trusted register, register of producers, in this order.
        expiries: documents that want attention, the most urgent first.
        share_ratio: localisation share last calculated, None when there is none.
    """

    on: date
    findings: tuple[Finding, ...]
    eligibility: Eligibility
    steps: tuple[StepState, ...]
    expiries: tuple[Expiry, ...]
    share_ratio: Fraction | None


def standing(session: Session, record: DossierRecord, on: date) -> Standing:
    """How a dossier stands on a day: every rule is applied as of it."""
    held = [stored.document for stored in documents(session, record)]
    ratio = share_ratio(session, record.id, on)
    dossier = dossier_of(record.kind, held, ratio, on)
    found = eligibility(_producer(session, record, held, on), on)
    is_registered = any(_holds(span, on) for span in _spans(session, record.id, Register.PRODUCERS))
    return Standing(
        on=on,
        findings=trusted_findings(dossier, on),
        eligibility=found,
        steps=steps(dossier, found, is_registered=is_registered),
        expiries=due(_expiring(record.slug, held), on),
        share_ratio=ratio,
    )


def reminders(session: Session, principal: Principal, on: date) -> tuple[Expiry, ...]:
    """Documents of the caller's dossiers that want attention on a day, the most urgent first."""
    return due(_due_documents(session, visible_to(principal, DossierRow.project_id), on), on)


def record_entry(
    session: Session, record: DossierRecord, register: Register, entered_on: date, *, actor: str, at: datetime
) -> None:
    """Record that a product was entered in a register of the state.

    Raises:
        DossierConflictError: it is in that register already, or what comes before is not done.
    """
    spans = _spans(session, record.id, register)
    if any(span.until is None or span.until > entered_on for span in spans):
        raise DossierConflictError(
            f"dossier {record.slug} is in the register {register} already; record its leaving first"
        )
    if register is Register.PRODUCERS:
        held = [stored.document for stored in documents(session, record)]
        found = eligibility(_producer(session, record, held, entered_on), entered_on)
        if not found.is_eligible:
            raise DossierConflictError(
                f"dossier {record.slug} does not meet both conditions of section 3 of Order No 604 on {entered_on}: "
                f"produced on the territory: {found.is_produced_here}, in the trusted register: {found.is_trusted}; "
                "see its standing for what is missing"
            )
    session.add(
        RegisterEntryRow(dossier_id=record.id, register=register.value, entered_on=entered_on, left_on=None)
    )
    data: dict[str, object] = {"register": register.value, "entered_on": entered_on.isoformat()}
    journal.append(session, "register.entered", f"dossier:{record.id}", actor=actor, at=at, data=data)


def record_leaving(
    session: Session, record: DossierRecord, register: Register, left_on: date, *, actor: str, at: datetime
) -> None:
    """Record the first day on which a product is in a register no more.

    Raises:
        DossierConflictError: it is not there, or the day is not after its entry.
    """
    row = session.scalar(
        select(RegisterEntryRow)
        .where(
            RegisterEntryRow.dossier_id == record.id,
            RegisterEntryRow.register == register.value,
            RegisterEntryRow.left_on.is_(None),
        )
        .with_for_update()
    )
    if row is None or row.entered_on >= left_on:
        raise DossierConflictError(
            f"dossier {record.slug} is not in the register {register} before {left_on}; check the register and the day"
        )
    row.left_on = left_on
    data: dict[str, object] = {"register": register.value, "left_on": left_on.isoformat()}
    journal.append(session, "register.left", f"dossier:{record.id}", actor=actor, at=at, data=data)


def record_check(
    session: Session, record: DossierRecord, on: date, *, is_kept: bool, actor: str, at: datetime
) -> None:
    """Record the quarterly look at an entry of the register of Kazakhstani producers.

    Source: Order No 604, section 6.

    Raises:
        DossierConflictError: it is not in the register, or was checked on that day already.
    """
    if not any(_holds(span, on) for span in _spans(session, record.id, Register.PRODUCERS)):
        raise DossierConflictError(f"dossier {record.slug} is not in the register of producers on {on}")
    try:
        with session.begin_nested():
            session.add(RegisterCheckRow(dossier_id=record.id, checked_on=on, is_kept=is_kept, checked_at=at))
    except IntegrityError as error:
        raise DossierConflictError(f"dossier {record.slug} was checked on {on} already") from error
    data: dict[str, object] = {"checked_on": on.isoformat(), "is_kept": is_kept}
    journal.append(session, "register.checked", f"dossier:{record.id}", actor=actor, at=at, data=data)


def quarterly(session: Session, principal: Principal, on: date) -> tuple[CheckItem, ...]:
    """The check list of the quarter of a day, over the caller's dossiers that are in the register of producers."""
    rows = session.scalars(
        select(DossierRow)
        .join(RegisterEntryRow, RegisterEntryRow.dossier_id == DossierRow.id)
        .where(
            visible_to(principal, DossierRow.project_id),
            RegisterEntryRow.register == Register.PRODUCERS.value,
            RegisterEntryRow.entered_on <= on,
            (RegisterEntryRow.left_on.is_(None)) | (RegisterEntryRow.left_on > on),
        )
        .order_by(DossierRow.slug)
        .limit(MAX_REGISTERED)
    ).all()
    records = [record_of(row) for row in rows]
    producers, expiring = [], []
    for record in records:
        held = [stored.document for stored in documents(session, record)]
        producers.append(_producer(session, record, held, on))
        expiring += _expiring(record.slug, held)
    looked_at = session.execute(
        select(RegisterCheckRow.dossier_id, func.max(RegisterCheckRow.checked_on))
        .where(
            RegisterCheckRow.dossier_id.in_([record.id for record in records]),
            RegisterCheckRow.checked_on <= on,
        )
        .group_by(RegisterCheckRow.dossier_id)
    )
    checked: dict[UUID, date] = {row[0]: row[1] for row in looked_at}
    seen = {record.slug: checked[record.id] for record in records if record.id in checked}
    return check_list(Registered(producers=tuple(producers), documents=tuple(expiring), checked_on=seen), on)


def due_by_state(session: Session, on: date) -> dict[str, int]:
    """How many documents of the whole platform are in each state that wants attention: the operators' notice."""
    counts = {state.value: 0 for state in DocumentState if state is not DocumentState.VALID}
    for item in due(_due_documents(session, None, on), on):
        counts[item.state.value] += 1
    return counts


def share_ratio(session: Session, dossier_id: UUID, on: date) -> Fraction | None:
    """The localisation share last calculated by the end of a day, exact; None when there is none."""
    row = session.scalar(
        select(CalculationRow)
        .where(
            CalculationRow.dossier_id == dossier_id,
            func.date(func.timezone("Asia/Almaty", CalculationRow.calculated_at)) <= on,
        )
        .order_by(CalculationRow.id.desc())
        .limit(1)
    )
    if row is None:
        return None
    return 1 - Fraction(row.foreign_tenge) / Fraction(row.total_tenge)


def _due_documents(session: Session, scope: ColumnElement[bool] | None, on: date) -> list[ExpiringDocument]:
    """Documents with a last day at most `REMIND_DAYS` away, the most urgent first."""
    statement = (
        select(DossierRow.slug, DocumentRow.code, DocumentRow.number, DocumentRow.expires_on)
        .join(DossierRow, DossierRow.id == DocumentRow.dossier_id)
        .where(
            DocumentRow.withdrawn_at.is_(None),
            DocumentRow.expires_on.is_not(None),
            DocumentRow.expires_on - on <= REMIND_DAYS,
        )
        .order_by(DocumentRow.expires_on, DocumentRow.id)
        .limit(MAX_DUE)
    )
    if scope is not None:
        statement = statement.where(scope)
    return [
        ExpiringDocument(slug, code, number, last)
        for slug, code, number, last in session.execute(statement)
        if last is not None
    ]


def _expiring(slug: str, held: list[Document]) -> list[ExpiringDocument]:
    return [
        ExpiringDocument(slug, document.code.value, document.number, document.expires_on)
        for document in held
        if document.expires_on is not None
    ]


def _producer(session: Session, record: DossierRecord, held: list[Document], on: date) -> Producer:
    return producer_of(
        record.slug,
        held,
        is_calculated=share_ratio(session, record.id, on) is not None,
        trusted=_spans(session, record.id, Register.TRUSTED),
        on=on,
    )


def _spans(session: Session, dossier_id: UUID, register: Register) -> list[Entered]:
    rows = session.scalars(
        select(RegisterEntryRow)
        .where(RegisterEntryRow.dossier_id == dossier_id, RegisterEntryRow.register == register.value)
        .order_by(RegisterEntryRow.entered_on)
    )
    return [Entered(row.entered_on, row.left_on) for row in rows]


def _holds(span: Entered, on: date) -> bool:
    return span.since <= on and (span.until is None or on < span.until)
