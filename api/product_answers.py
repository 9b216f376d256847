"""What the API answers about products and indicators: wire types and how they are made of the room's values."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from uuid import UUID

from pydantic import BaseModel

from api.answers import NamesOut
from products.model import EvidenceJob, Indicator, Product, ProductStatus, Stage
from tenants.authz import Action, may
from tenants.model import Principal, Sector


class ProductOut(BaseModel):
    """A product of the register."""

    id: UUID
    slug: str
    organisation_id: UUID
    project_id: UUID
    name: NamesOut
    description: str
    sector: Sector
    stage: Stage
    status: ProductStatus
    started_on: date
    author_id: UUID
    registered_at: datetime
    verified_by: UUID | None
    verified_at: datetime | None
    return_note: str | None

    @classmethod
    def of(cls, found: Product, caller: Principal) -> ProductOut:
        """The wire form; a reviewer's note is for the project and for reviewers."""
        may_read = may(caller, Action.READ_CONTENT, found.project_id) or may(caller, Action.REVIEW_PRODUCT)
        plain = ("id", "slug", "organisation_id", "project_id", "description", "sector", "stage", "status")
        dated = ("started_on", "author_id", "registered_at", "verified_by", "verified_at")
        return cls(
            name=NamesOut.of(found.name),
            return_note=found.return_note if may_read else None,
            **{name: getattr(found, name) for name in (*plain, *dated)},
        )


class EvidenceFileOut(BaseModel):
    """A file a job kept; `path` is null for a caller who reads figures only."""

    attempt_id: str
    rank: int
    path: str | None
    size_bytes: int
    sha256: str


class EvidenceJobOut(BaseModel):
    """A job a product was built by; `is_counted` when it completed and used GPU time."""

    job_id: int
    state: str
    gpu_seconds: int
    finished_at: datetime | None
    is_counted: bool
    files: list[EvidenceFileOut]


class ProductDetailOut(ProductOut):
    """A product with its evidence."""

    evidence: list[EvidenceJobOut]

    @classmethod
    def with_evidence(
        cls, found: Product, caller: Principal, evidence: Sequence[EvidenceJob]
    ) -> ProductDetailOut:
        """The wire form."""
        jobs = [
            EvidenceJobOut(
                job_id=job.job_id,
                state=job.state,
                gpu_seconds=job.gpu_seconds,
                finished_at=job.finished_at,
                is_counted=job.is_counted,
                files=[
                    EvidenceFileOut(
                        attempt_id=file.attempt_id,
                        rank=file.rank,
                        path=file.path,
                        size_bytes=file.size_bytes,
                        sha256=file.digest,
                    )
                    for file in job.files
                ],
            )
            for job in evidence
        ]
        return cls(**ProductOut.of(found, caller).model_dump(), evidence=jobs)


class IndicatorYearOut(BaseModel):
    """One year: the target beside both readings of the fact; null before the year begins."""

    year: int
    target: int
    added: int | None
    cumulative: int | None


class CountedOut(BaseModel):
    """A product that counts since `held_at`; `slug` is null where the caller may not see the product."""

    product_id: UUID
    slug: str | None
    held_at: datetime
    year: int


class IndicatorOut(BaseModel):
    """Target indicator 2."""

    indicator: int
    unit: str
    definition: str
    ambiguity: str
    source: str
    as_of: datetime
    years: list[IndicatorYearOut]
    counted: list[CountedOut]
    unverified: int
    without_evidence: int

    @staticmethod
    def year_of(found: Indicator) -> IndicatorYearOut:
        """One year's wire form."""
        return IndicatorYearOut(
            year=found.year, target=found.target, added=found.added, cumulative=found.cumulative
        )
