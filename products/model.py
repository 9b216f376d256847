"""Frozen values of the products room: products, the evidence they rest on, indicator 2."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import NewType
from uuid import UUID

from tenants.model import OrganisationId, ProjectId, Sector, UserId

ProductId = NewType("ProductId", UUID)


class Stage(StrEnum):
    """How far a product has come."""

    IDEA = "idea"
    PROTOTYPE = "prototype"
    PILOT = "pilot"
    PRODUCTION = "production"
    RETIRED = "retired"


class ProductStatus(StrEnum):
    """What the register's reviewers say of a product."""

    SUBMITTED = "submitted"
    VERIFIED = "verified"
    RETURNED = "returned"


@dataclass(frozen=True, slots=True)
class Product:
    """An AI product of a project. `name` holds the keys kk, ru, en."""

    id: ProductId
    slug: str
    organisation_id: OrganisationId
    project_id: ProjectId
    name: dict[str, str]
    description: str
    sector: Sector
    stage: Stage
    status: ProductStatus
    started_on: date
    author_id: UserId
    registered_at: datetime
    verified_by: UserId | None
    verified_at: datetime | None
    return_note: str | None


@dataclass(frozen=True, slots=True)
class EvidenceFile:
    """A file a job kept; `digest` is the SHA-256 (hex) that the node's agent computed.

    `path` is None for a reader of figures only: a tenant wrote it.
    """

    attempt_id: str
    rank: int
    path: str | None
    size_bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class EvidenceJob:
    """A job a product was built by; `is_counted` when it completed and used GPU time."""

    job_id: int
    state: str
    gpu_seconds: int
    finished_at: datetime | None
    is_counted: bool
    files: tuple[EvidenceFile, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """What indicator 2 needs of a product.

    Args:
        product_id: the product.
        slug: its short name.
        status: what the reviewers said.
        verified_at: when it was verified, None while it is not.
        evidence_at: end of its first COMPLETED job that used GPU time, None when there is none.
    """

    product_id: ProductId
    slug: str
    status: ProductStatus
    verified_at: datetime | None
    evidence_at: datetime | None


@dataclass(frozen=True, slots=True)
class Counted:
    """A product that counts, since the first moment at which every condition held."""

    product_id: ProductId
    slug: str
    held_at: datetime
    year: int


@dataclass(frozen=True, slots=True)
class Indicator:
    """Indicator 2 in one year, both readings beside the target.

    Args:
        year: calendar year in Asia/Almaty.
        target: products planned for the year.
        cumulative: products that counted up to the end of the year or `as_of`; None before the year begins.
        added: products that began to count in the year; None before the year begins.
        as_of: the instant the figures hold for.
        counted: the products of `cumulative`, in the order in which they began to count.
        unverified: products that a reviewer has not verified, at `as_of`.
        without_evidence: verified products without a completed job that used GPU time, at `as_of`.
    """

    year: int
    target: int
    cumulative: int | None
    added: int | None
    as_of: datetime
    counted: tuple[Counted, ...]
    unverified: int
    without_evidence: int
