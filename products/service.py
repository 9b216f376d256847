"""The product register: enter a product with the jobs it was built by, judge it, show its evidence, count it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final
from uuid import uuid4

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from products.indicator import indicator_2
from products.model import (
    Candidate,
    EvidenceFile,
    EvidenceJob,
    Indicator,
    Product,
    ProductId,
    ProductStatus,
    Stage,
)
from products.tables import ProductJobRow, ProductRow
from scheduler.model import JobState
from scheduler.tables import ArtefactRow, JobRow
from store import journal
from tenants.authz import Action, may, visible_to
from tenants.model import OrganisationId, Principal, Project, ProjectId, Sector, UserId

MAX_JOBS: Final = 1_000
"""Jobs named as a product's evidence: a register of products, not of every run."""
MAX_PAGE: Final = 200
"""Products of one page."""
MAX_FILES: Final = 1_000
"""Files shown of one product's evidence; digests of the rest stay in the journal."""


class ProductsError(Exception):
    """Base of what this room refuses."""


class ProductNotFoundError(ProductsError):
    """There is no such product, or the caller may not know that there is."""

    def __init__(self, slug: str) -> None:
        super().__init__(f"there is no product {slug} that you can see; check the spelling")
        self.slug = slug


class ProductTakenError(ProductsError):
    """The slug is in use."""

    def __init__(self, slug: str) -> None:
        super().__init__(f"a product with the slug {slug} is already registered; choose another slug")
        self.slug = slug


class JobsNotOfProjectError(ProductsError):
    """Jobs named as evidence are not jobs of the product's project."""

    def __init__(self, job_ids: Iterable[int], project: str) -> None:
        self.job_ids = tuple(sorted(job_ids))
        named = ", ".join(str(job_id) for job_id in self.job_ids)
        super().__init__(f"no job of project {project}: {named}; name jobs that the project itself ran")


class NotIndependentError(ProductsError):
    """The reviewer is the author, of the owner's organisation, or a member of the project."""

    def __init__(self, slug: str) -> None:
        super().__init__(
            f"product {slug} must be judged by a reviewer who neither wrote it nor belongs to its project or "
            "organisation; ask another reviewer"
        )
        self.slug = slug


class ProductStateError(ProductsError):
    """The product is not waiting for a review."""

    def __init__(self, slug: str, status: ProductStatus) -> None:
        super().__init__(f"product {slug} is {status}, only a submitted one can be judged")
        self.slug = slug
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class NewProduct:
    """What is entered of a product; `name` holds the keys kk, ru, en."""

    slug: str
    project: Project
    name: dict[str, str]
    description: str
    sector: Sector
    stage: Stage
    started_on: date
    job_ids: frozenset[int]


def register(session: Session, principal: Principal, new: NewProduct, *, actor: str, at: datetime) -> Product:
    """Enter a product, submitted for review at once.

    Raises:
        ProductTakenError: the slug is in use.
        JobsNotOfProjectError: a job is unknown, invisible or of another project.
    """
    found = session.scalars(
        select(JobRow.id).where(
            visible_to(principal, JobRow.project_id),
            JobRow.project_id == new.project.id,
            JobRow.id.in_(new.job_ids),
        )
    )
    foreign = new.job_ids - set(found)
    if foreign:
        raise JobsNotOfProjectError(foreign, new.project.slug)
    row = ProductRow(
        id=uuid4(),
        slug=new.slug,
        organisation_id=new.project.organisation_id,
        project_id=new.project.id,
        name=dict(new.name),
        description=new.description,
        sector=new.sector.value,
        stage=new.stage.value,
        status=ProductStatus.SUBMITTED.value,
        started_on=new.started_on,
        author_id=principal.user_id,
        registered_at=at,
    )
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
    return _product(row)


def verify(session: Session, principal: Principal, slug: str, *, actor: str, at: datetime) -> Product:
    """Verify a submitted product. The caller has checked that the principal is a reviewer.

    Raises:
        ProductNotFoundError: unknown or invisible.
        NotIndependentError: the reviewer is not independent of the product.
        ProductStateError: the product is not waiting for a review.
    """
    row = _to_judge(session, principal, slug)
    row.status, row.verified_by, row.verified_at = ProductStatus.VERIFIED.value, principal.user_id, at
    journal.append(session, "product.verified", f"product:{row.id}", actor=actor, at=at, data={})
    return _product(row)


def send_back(
    session: Session, principal: Principal, slug: str, note: str, *, actor: str, at: datetime
) -> Product:
    """Return a submitted product to its author with a reason, which stays out of the journal.

    Raises:
        ProductNotFoundError: unknown or invisible.
        NotIndependentError: the reviewer is not independent of the product.
        ProductStateError: the product is not waiting for a review.
    """
    row = _to_judge(session, principal, slug)
    row.status, row.return_note = ProductStatus.RETURNED.value, note
    journal.append(session, "product.returned", f"product:{row.id}", actor=actor, at=at, data={})
    return _product(row)


def get(session: Session, principal: Principal, slug: str) -> Product:
    """One product.

    Raises:
        ProductNotFoundError: unknown or invisible.
    """
    return _product(_row(session, principal, slug))


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
    return tuple(_product(row) for row in rows[:size]), more


def evidence(session: Session, principal: Principal, slug: str) -> tuple[EvidenceJob, ...]:
    """The jobs a product was built by with the digests of what they kept, by job.

    File names are content a tenant wrote: who may read figures only sees digests without the paths.

    Raises:
        ProductNotFoundError: unknown or invisible.
    """
    product = _row(session, principal, slug)
    jobs = session.scalars(
        select(JobRow)
        .join(ProductJobRow, ProductJobRow.job_id == JobRow.id)
        .where(visible_to(principal, JobRow.project_id), ProductJobRow.product_id == product.id)
        .order_by(JobRow.id)
    ).all()
    rows = session.scalars(
        select(ArtefactRow)
        .where(ArtefactRow.job_id.in_([job.id for job in jobs]))
        .order_by(ArtefactRow.job_id, ArtefactRow.attempt_id, ArtefactRow.rank, ArtefactRow.path)
        .limit(MAX_FILES)
    )
    may_read = may(principal, Action.READ_CONTENT, ProjectId(product.project_id))
    files: dict[int, list[EvidenceFile]] = {}
    for row in rows:
        path = row.path if may_read else None
        files.setdefault(row.job_id, []).append(
            EvidenceFile(row.attempt_id, row.rank, path, row.size_bytes, row.digest)
        )
    return tuple(
        EvidenceJob(
            job_id=job.id,
            state=job.state,
            gpu_seconds=job.gpu_seconds,
            finished_at=job.finished_at,
            is_counted=job.state == JobState.COMPLETED.value and job.gpu_seconds > 0,
            files=tuple(files.get(job.id, ())),
        )
        for job in jobs
    )


def indicator(session: Session, year: int, as_of: datetime) -> Indicator:
    """Indicator 2 in one year over the whole register. O(products).

    Raises:
        YearWithoutTargetError: no target is set for the year.
    """
    return indicators(session, [year], as_of)[0]


def indicators(session: Session, years: Iterable[int], as_of: datetime) -> tuple[Indicator, ...]:
    """Indicator 2 in each of the years: a national figure, so it is counted over every project. O(products).

    Raises:
        YearWithoutTargetError: no target is set for one of the years.
    """
    first_evidence = (
        select(ProductJobRow.product_id, func.min(JobRow.finished_at).label("evidence_at"))
        .join(JobRow, JobRow.id == ProductJobRow.job_id)
        .where(JobRow.state == JobState.COMPLETED.value, JobRow.gpu_seconds > 0)
        .group_by(ProductJobRow.product_id)
        .subquery()
    )
    rows = session.execute(
        select(
            ProductRow.id,
            ProductRow.slug,
            ProductRow.status,
            ProductRow.verified_at,
            first_evidence.c.evidence_at,
        ).outerjoin(first_evidence, first_evidence.c.product_id == ProductRow.id)
    )
    candidates = [Candidate(ProductId(row[0]), row[1], ProductStatus(row[2]), row[3], row[4]) for row in rows]
    return tuple(indicator_2(candidates, year, as_of) for year in years)


def visible_ids(session: Session, principal: Principal, ids: Iterable[ProductId]) -> frozenset[ProductId]:
    """Those of the products that the caller may see."""
    found = session.scalars(
        select(ProductRow.id).where(
            visible_to(principal, ProductRow.project_id), ProductRow.id.in_(list(ids))
        )
    )
    return frozenset(ProductId(product_id) for product_id in found)


def count_by_status(session: Session) -> dict[ProductStatus, int]:
    """Products of the whole register by status: a public figure without names."""
    found = session.execute(select(ProductRow.status, func.count()).group_by(ProductRow.status))
    counts = dict.fromkeys(ProductStatus, 0)
    for status, number in found:
        counts[ProductStatus(status)] = number
    return counts


def _row(session: Session, principal: Principal, slug: str, *, is_locked: bool = False) -> ProductRow:
    statement = select(ProductRow).where(
        visible_to(principal, ProductRow.project_id), ProductRow.slug == slug
    )
    row = session.scalar(statement.with_for_update() if is_locked else statement)
    if row is None:
        raise ProductNotFoundError(slug)
    return row


def _to_judge(session: Session, principal: Principal, slug: str) -> ProductRow:
    row = _row(session, principal, slug, is_locked=True)
    is_related = (
        row.author_id == principal.user_id
        or row.organisation_id == principal.organisation_id
        or row.project_id in principal.project_roles
    )
    if is_related:
        raise NotIndependentError(slug)
    if row.status != ProductStatus.SUBMITTED.value:
        raise ProductStateError(slug, ProductStatus(row.status))
    return row


def _product(row: ProductRow) -> Product:
    return Product(
        id=ProductId(row.id),
        slug=row.slug,
        organisation_id=OrganisationId(row.organisation_id),
        project_id=ProjectId(row.project_id),
        name=dict(row.name),
        description=row.description,
        sector=Sector(row.sector),
        stage=Stage(row.stage),
        status=ProductStatus(row.status),
        started_on=row.started_on,
        author_id=UserId(row.author_id),
        registered_at=row.registered_at,
        verified_by=None if row.verified_by is None else UserId(row.verified_by),
        verified_at=row.verified_at,
        return_note=row.return_note,
    )
