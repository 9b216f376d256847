"""Dossiers of the registers: opened by a project and filled with documents.

Every change is journaled in its transaction. Reads of a caller start from `visible_to`. How a dossier stands, and the
registers' entries and checks, are in `products.registers_standing`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Final
from uuid import UUID, uuid4

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from products.dossier import Document, DocumentCode
from products.registers import Kind
from products.registers_tables import DocumentRow, DossierRow
from store import journal
from tenants.authz import visible_to
from tenants.directory import organisation_of, project_of
from tenants.model import Organisation, Principal, Project, ProjectId
from tenants.tables import OrganisationRow, ProjectRow

MAX_PAGE: Final = 200
"""Dossiers of one page."""
MAX_DOCUMENTS: Final = 200
"""Documents of a dossier [count]: many times what both registers ask for."""


class RegistersError(Exception):
    """Base of what is refused here."""


class DossierNotFoundError(RegistersError):
    """There is no such dossier, or the caller may not know that there is."""

    def __init__(self, what: str) -> None:
        super().__init__(f"there is no {what} that you can see; check the spelling")


class DossierConflictError(RegistersError):
    """A slug, a document or an entry is there already, or the state does not allow it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDossier:
    """A dossier to be opened; `name` holds the keys kk, ru, en."""

    slug: str
    project: Project
    kind: Kind
    name: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DossierRecord:
    """An opened dossier."""

    id: UUID
    slug: str
    project_id: ProjectId
    kind: Kind
    name: dict[str, str]
    opened_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDocument:
    """A document as it is stored. `digest` is the SHA-256 of its file, None where none was stated."""

    id: int
    document: Document
    digest: str | None
    entered_at: datetime


def open_dossier(session: Session, new: NewDossier, *, actor: str, at: datetime) -> DossierRecord:
    """Open a dossier of a project.

    Raises:
        DossierConflictError: the slug is in use.
    """
    row = DossierRow(
        id=uuid4(),
        slug=new.slug,
        project_id=new.project.id,
        kind=new.kind.value,
        name=dict(new.name),
        opened_at=at,
    )
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError as error:
        raise DossierConflictError(f"a dossier {new.slug} is there already; choose another slug") from error
    data: dict[str, object] = {"project_id": str(new.project.id), "kind": new.kind.value}
    journal.append(session, "dossier.opened", f"dossier:{row.id}", actor=actor, at=at, data=data)
    return record_of(row)


def listing(
    session: Session, principal: Principal, *, after: str | None, limit: int
) -> tuple[tuple[DossierRecord, ...], str | None]:
    """A page of the dossiers the caller sees, by slug, and the slug to go on after."""
    size = max(1, min(limit, MAX_PAGE))
    statement = select(DossierRow).where(visible_to(principal, DossierRow.project_id))
    if after is not None:
        statement = statement.where(DossierRow.slug > after)
    rows = session.scalars(statement.order_by(DossierRow.slug).limit(size + 1)).all()
    more = rows[size - 1].slug if len(rows) > size else None
    return tuple(map(record_of, rows[:size])), more


def get(session: Session, principal: Principal, slug: str) -> DossierRecord:
    """One dossier.

    Raises:
        DossierNotFoundError: unknown or not visible.
    """
    row = session.scalar(
        select(DossierRow).where(DossierRow.slug == slug, visible_to(principal, DossierRow.project_id))
    )
    if row is None:
        raise DossierNotFoundError(f"dossier {slug}")
    return record_of(row)


def owner(session: Session, principal: Principal, record: DossierRecord) -> tuple[Project, Organisation]:
    """The project of a dossier that the caller sees, and its organisation.

    Raises:
        DossierNotFoundError: the project is not visible any more.
    """
    found = session.execute(
        select(ProjectRow, OrganisationRow)
        .join(OrganisationRow, OrganisationRow.id == ProjectRow.organisation_id)
        .where(ProjectRow.id == record.project_id, visible_to(principal, ProjectRow.id))
    ).one_or_none()
    if found is None:
        raise DossierNotFoundError(f"dossier {record.slug}")
    return project_of(found[0]), organisation_of(found[1])


def add_document(
    session: Session,
    record: DossierRecord,
    document: Document,
    *,
    digest: str | None,
    actor: str,
    at: datetime,
) -> StoredDocument:
    """Enter a document of a dossier.

    Raises:
        DossierConflictError: it is there already, or the dossier is full.
    """
    held = session.scalar(select(func.count()).where(DocumentRow.dossier_id == record.id)) or 0
    if held >= MAX_DOCUMENTS:
        raise DossierConflictError(
            f"dossier {record.slug} holds {held} documents, at most {MAX_DOCUMENTS} are kept; open another"
        )
    share = document.share_ratio
    row = DocumentRow(
        dossier_id=record.id,
        code=document.code.value,
        number=document.number,
        issued_on=document.issued_on,
        expires_on=document.expires_on,
        level=document.level,
        share_percent=None if share is None else Decimal(share.numerator * 100) / Decimal(share.denominator),
        digest=digest,
        entered_at=at,
        withdrawn_at=None,
    )
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError as error:
        raise DossierConflictError(
            f"a document {document.code} with this number is there already; withdraw it first, or enter the "
            "renewed one with its own number"
        ) from error
    expires = None if document.expires_on is None else document.expires_on.isoformat()
    data: dict[str, object] = {
        "document_id": row.id,
        "code": document.code.value,
        "issued_on": document.issued_on.isoformat(),
        "expires_on": expires,
        "digest": digest,
    }
    journal.append(session, "dossier.documented", f"dossier:{record.id}", actor=actor, at=at, data=data)
    return _stored(row)


def withdraw_document(
    session: Session, record: DossierRecord, document_id: int, *, actor: str, at: datetime
) -> None:
    """Take a document out of account: it was replaced, or was entered by mistake. Again is fine.

    Raises:
        DossierNotFoundError: the dossier has no such document.
    """
    row = session.get(DocumentRow, document_id, with_for_update=True)
    if row is None or row.dossier_id != record.id:
        raise DossierNotFoundError(f"document {document_id} of dossier {record.slug}")
    if row.withdrawn_at is None:
        row.withdrawn_at = at
        data: dict[str, object] = {"document_id": row.id}
        journal.append(
            session, "dossier.document_withdrawn", f"dossier:{record.id}", actor=actor, at=at, data=data
        )


def documents(session: Session, record: DossierRecord) -> tuple[StoredDocument, ...]:
    """A dossier's documents that were not withdrawn, in the order they were entered."""
    rows = session.scalars(
        select(DocumentRow)
        .where(DocumentRow.dossier_id == record.id, DocumentRow.withdrawn_at.is_(None))
        .order_by(DocumentRow.id)
    )
    return tuple(_stored(row) for row in rows)


def record_of(row: DossierRow) -> DossierRecord:
    """The value of a row."""
    return DossierRecord(
        id=row.id,
        slug=row.slug,
        project_id=ProjectId(row.project_id),
        kind=Kind(row.kind),
        name=dict(row.name),
        opened_at=row.opened_at,
    )


def _stored(row: DocumentRow) -> StoredDocument:
    share = None if row.share_percent is None else Fraction(row.share_percent) / 100
    document = Document(
        code=DocumentCode(row.code),
        number=row.number,
        issued_on=row.issued_on,
        expires_on=row.expires_on,
        level=row.level,
        share_ratio=share,
    )
    return StoredDocument(id=row.id, document=document, digest=row.digest, entered_at=row.entered_at)
