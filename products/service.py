"""The product register: enter a product with the jobs it was built by, change what is said of it, judge it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import uuid4

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from products import history
from products.entries import product_of, write_entry
from products.errors import (
    JobNotLinkedError,
    JobsNotOfProjectError,
    JobUnlinkedError,
    NotDueError,
    NotIndependentError,
    ProductNotFoundError,
    ProductStateError,
    ProductTakenError,
    SectorFixedError,
    TooManyJobsError,
)
from products.evidence_tables import ProductFactRow
from products.model import (
    Entry,
    Product,
    ProductId,
    ProductStatus,
)
from products.rules import rule_in_force
from products.tables import ProductJobRow, ProductRow
from scheduler.tables import JobRow
from store import journal
from tenants.authz import visible_to
from tenants.model import Principal, Project, ProjectId

MAX_JOBS: Final = 1_000
"""Jobs named as a product's evidence: a register of products, not of every run."""
MAX_PAGE: Final = 200
"""Products of one page."""
ENTRY_FIELDS: Final = tuple(Entry.__dataclass_fields__)
"""Names of the fields that a project fills in."""
RENEWAL_DAYS: Final = 60
"""Days before it is due from which an unchanged product may be verified again [days]."""

_OPEN: Final = (ProductStatus.DRAFT, ProductStatus.RETURNED)
_JUDGED: Final = (ProductStatus.SUBMITTED, ProductStatus.VERIFIED)
_LIVE: Final = tuple(status for status in ProductStatus if status is not ProductStatus.WITHDRAWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewProduct(Entry):
    """What is entered of a product; a draft waits for its author, any other for a reviewer."""

    slug: str
    project: Project
    job_ids: frozenset[int]
    is_draft: bool = False


def register(session: Session, principal: Principal, new: NewProduct, *, actor: str, at: datetime) -> Product:
    """Enter a product, as a draft or submitted for review at once.

    Raises:
        ProductTakenError: the slug is in use.
        JobsNotOfProjectError: a job is unknown, invisible or of another project.
    """
    _check_jobs(session, principal, new.job_ids, new.project.id, f"project {new.project.slug}")
    row = ProductRow(
        id=uuid4(),
        slug=new.slug,
        organisation_id=new.project.organisation_id,
        project_id=new.project.id,
        status=(ProductStatus.DRAFT if new.is_draft else ProductStatus.SUBMITTED).value,
        author_id=principal.user_id,
        registered_at=at,
        changed_at=at,
    )
    write_entry(row, new)
    session.add(row)
    try:
        session.flush()
    except IntegrityError as error:
        if getattr(getattr(error.orig, "diag", None), "constraint_name", None) != "uq_products_slug":
            raise
        raise ProductTakenError(new.slug) from error
    session.add_all(
        ProductJobRow(product_id=row.id, job_id=job_id, linked_at=at) for job_id in sorted(new.job_ids)
    )
    data: dict[str, object] = {
        "project_id": str(row.project_id),
        "organisation_id": str(row.organisation_id),
        "sector": row.sector,
        "stage": row.stage,
        "jobs": sorted(new.job_ids),
    }
    journal.append(session, "product.registered", f"product:{row.id}", actor=actor, at=at, data=data)
    made = product_of(row)
    history.describe(session, made, statement_of(made), actor=actor, at=at)
    if not new.is_draft:
        journal.append(session, "product.submitted", f"product:{row.id}", actor=actor, at=at, data={})
    return made


def change(
    session: Session, principal: Principal, slug: str, entry: Entry, *, actor: str, at: datetime
) -> Product:
    """Say something else of a product. Of a verified one, what is more waits for its next verification.

    Raises:
        ProductNotFoundError: unknown or invisible.
        ProductStateError: it is withdrawn.
        SectorFixedError: it was verified, and the sector is another.
    """
    row = _in(row_of(session, principal, slug, is_locked=True), _LIVE, "changed")
    if row.verified_at is not None and entry.sector.value != row.sector:
        raise SectorFixedError(slug)
    write_entry(row, entry)
    row.changed_at = at
    changed = product_of(row)
    history.describe(session, changed, statement_of(changed), actor=actor, at=at)
    return changed


def link(
    session: Session, principal: Principal, slug: str, job_ids: Iterable[int], *, actor: str, at: datetime
) -> Product:
    """Link further jobs to a product; those that are linked stay as they are. The caller may change the product.

    Raises:
        ProductNotFoundError: unknown or invisible.
        ProductStateError: it is withdrawn.
        JobsNotOfProjectError: a job is unknown, invisible or of another project.
        JobUnlinkedError: a job was taken back before.
        TooManyJobsError: more than `MAX_JOBS` in all.
    """
    row = _in(row_of(session, principal, slug, is_locked=True), _LIVE, "changed")
    wanted = frozenset(job_ids)
    _check_jobs(session, principal, wanted, ProjectId(row.project_id), f"the project of product {slug}")
    linked = _linked(session, row)
    gone = wanted & _unlinked(session, row)
    if gone:
        raise JobUnlinkedError(slug, min(gone))
    added = sorted(wanted - linked)
    if len(linked) + len(added) > MAX_JOBS:
        raise TooManyJobsError(slug, MAX_JOBS)
    if added:
        session.add_all(ProductJobRow(product_id=row.id, job_id=job_id, linked_at=at) for job_id in added)
        row.changed_at = at
        data: dict[str, object] = {"jobs": added}
        journal.append(session, "product.jobs_linked", f"product:{row.id}", actor=actor, at=at, data=data)
        session.flush()
    return product_of(row)


def unlink(
    session: Session, principal: Principal, slug: str, job_id: int, *, actor: str, at: datetime
) -> Product:
    """Take a job back as evidence: from now on it is none. The link itself stays, earlier figures with it.

    Raises:
        ProductNotFoundError: unknown or invisible.
        ProductStateError: it is withdrawn.
        JobNotLinkedError: the job is not linked, or was taken back already.
    """
    row = _in(row_of(session, principal, slug, is_locked=True), _LIVE, "changed")
    if job_id not in _linked(session, row) - _unlinked(session, row):
        raise JobNotLinkedError(slug, job_id)
    session.add(ProductFactRow(product_id=row.id, at=at, kind="unlinked", job_id=job_id))
    row.changed_at = at
    data: dict[str, object] = {"job": job_id}
    journal.append(session, "product.job_unlinked", f"product:{row.id}", actor=actor, at=at, data=data)
    return product_of(row)


def submit(session: Session, principal: Principal, slug: str, *, actor: str, at: datetime) -> Product:
    """Submit a draft, or a returned product again, for review. The caller may change the product.

    Raises:
        ProductNotFoundError: unknown or invisible.
        ProductStateError: it is neither a draft nor returned.
    """
    row = _in(row_of(session, principal, slug, is_locked=True), _OPEN, "submitted")
    row.status, row.return_note = ProductStatus.SUBMITTED.value, None
    journal.append(session, "product.submitted", f"product:{row.id}", actor=actor, at=at, data={})
    return product_of(row)


def verify(session: Session, principal: Principal, slug: str, *, actor: str, at: datetime) -> Product:
    """Verify a submitted product, or renew a verification. The caller has checked that the principal is a reviewer.

    Raises:
        ProductNotFoundError: unknown or invisible.
        NotIndependentError: the reviewer is not independent of the product.
        ProductStateError: the product is neither submitted nor verified.
        NotDueError: it is verified, unchanged since, and not to be verified again yet.
    """
    row = _to_judge(session, principal, slug)
    if row.status == ProductStatus.VERIFIED.value:
        _check_due(row, at)
    row.status, row.verified_by, row.verified_at = ProductStatus.VERIFIED.value, principal.user_id, at
    journal.append(session, "product.verified", f"product:{row.id}", actor=actor, at=at, data={})
    return product_of(row)


def send_back(
    session: Session, principal: Principal, slug: str, note: str, *, actor: str, at: datetime
) -> Product:
    """Return a product to its author with a reason, which stays out of the journal. A verified one ceases to count.

    Raises:
        ProductNotFoundError: unknown or invisible.
        NotIndependentError: the reviewer is not independent of the product.
        ProductStateError: the product is neither submitted nor verified.
    """
    row = _to_judge(session, principal, slug)
    row.status, row.return_note = ProductStatus.RETURNED.value, note
    journal.append(session, "product.returned", f"product:{row.id}", actor=actor, at=at, data={})
    return product_of(row)


def withdraw(session: Session, principal: Principal, slug: str, *, actor: str, at: datetime) -> Product:
    """Withdraw a product for good: it ceases to count from now on, earlier figures stand.

    Raises:
        ProductNotFoundError: unknown or invisible.
        ProductStateError: it is withdrawn already.
    """
    row = _in(row_of(session, principal, slug, is_locked=True), _LIVE, "withdrawn")
    row.status = ProductStatus.WITHDRAWN.value
    withdrawn = product_of(row)
    history.withdraw(session, withdrawn, actor=actor, at=at)
    return withdrawn


def get(session: Session, principal: Principal, slug: str) -> Product:
    """One product.

    Raises:
        ProductNotFoundError: unknown or invisible.
    """
    return product_of(row_of(session, principal, slug))


def listing(
    session: Session, principal: Principal, *, after: str | None = None, limit: int = MAX_PAGE
) -> tuple[tuple[Product, ...], str | None]:
    """Products the caller sees, by slug, and the key that continues the list (None at its end)."""
    size = max(1, min(limit, MAX_PAGE))
    statement = select(ProductRow).where(visible_to(principal, ProductRow.project_id))
    if after is not None:
        statement = statement.where(ProductRow.slug > after)
    rows = session.scalars(statement.order_by(ProductRow.slug).limit(size + 1)).all()
    more = rows[size - 1].slug if len(rows) > size else None
    return tuple(product_of(row) for row in rows[:size]), more


def visible_ids(session: Session, principal: Principal, ids: Iterable[ProductId]) -> frozenset[ProductId]:
    """Those of the products that the caller may see."""
    found = session.scalars(
        select(ProductRow.id).where(
            visible_to(principal, ProductRow.project_id), ProductRow.id.in_(list(ids))
        )
    )
    return frozenset(ProductId(product_id) for product_id in found)


def count_by_status(session: Session) -> dict[ProductStatus, int]:
    """Products of the whole register by status: a public figure without names, and without drafts."""
    is_told = ProductRow.status != ProductStatus.DRAFT.value
    found = session.execute(
        select(ProductRow.status, func.count()).where(is_told).group_by(ProductRow.status)
    )
    counts: dict[ProductStatus, int] = dict.fromkeys(set(ProductStatus) - {ProductStatus.DRAFT}, 0)
    for status, number in found:
        counts[ProductStatus(status)] = number
    return counts


def row_of(session: Session, principal: Principal, slug: str, *, is_locked: bool = False) -> ProductRow:
    """The row of a product, for this room.

    Raises:
        ProductNotFoundError: unknown or invisible.
    """
    statement = select(ProductRow).where(
        visible_to(principal, ProductRow.project_id), ProductRow.slug == slug
    )
    row = session.scalar(statement.with_for_update() if is_locked else statement)
    if row is None:
        raise ProductNotFoundError(slug)
    return row


def statement_of(product: Entry) -> history.Statement:
    """What an entry says that the evidence rule reads: that it uses AI is said by naming the kind."""
    return history.Statement(product.stage, product.ai_kind is not None, product.programme)


def _check_jobs(
    session: Session, principal: Principal, job_ids: frozenset[int], project_id: ProjectId, owner: str
) -> None:
    found = session.scalars(
        select(JobRow.id).where(
            visible_to(principal, JobRow.project_id),
            JobRow.project_id == project_id,
            JobRow.id.in_(job_ids),
        )
    )
    foreign = job_ids - set(found)
    if foreign:
        raise JobsNotOfProjectError(foreign, owner)


def _linked(session: Session, row: ProductRow) -> set[int]:
    return set(session.scalars(select(ProductJobRow.job_id).where(ProductJobRow.product_id == row.id)))


def _unlinked(session: Session, row: ProductRow) -> set[int]:
    found = session.scalars(
        select(ProductFactRow.job_id).where(
            ProductFactRow.product_id == row.id, ProductFactRow.kind == "unlinked"
        )
    )
    return {job_id for job_id in found if job_id is not None}


def _in(row: ProductRow, allowed: tuple[ProductStatus, ...], act: str) -> ProductRow:
    if ProductStatus(row.status) not in allowed:
        raise ProductStateError(row.slug, ProductStatus(row.status), allowed, act)
    return row


def _to_judge(session: Session, principal: Principal, slug: str) -> ProductRow:
    row = row_of(session, principal, slug, is_locked=True)
    is_related = (
        row.author_id == principal.user_id
        or row.organisation_id == principal.organisation_id
        or row.project_id in principal.project_roles
    )
    if is_related:
        raise NotIndependentError(slug)
    return _in(row, _JUDGED, "judged")


def _check_due(row: ProductRow, at: datetime) -> None:
    rule = rule_in_force(history.published_rules(), at)
    if rule is None or row.verified_at is None or row.changed_at > row.verified_at:
        return
    due_at = row.verified_at + timedelta(days=rule.reverify_days)
    if at < due_at - timedelta(days=RENEWAL_DAYS):
        raise NotDueError(row.slug, due_at.isoformat(timespec="seconds"))
