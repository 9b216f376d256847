"""Frozen values of the products room: what the register says of a product, and the evidence it rests on."""

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
    """Where an entry stands in its life."""

    DRAFT = "draft"
    SUBMITTED = "submitted"
    VERIFIED = "verified"
    RETURNED = "returned"
    WITHDRAWN = "withdrawn"


class Direction(StrEnum):
    """Directions of the Digital Qazaqstan strategy. Source: its presentation of 26 November 2025."""

    PUBLIC_SERVICES = "public-services"
    HEALTH_CARE = "health-care"
    EDUCATION_AND_LABOUR = "education-and-labour"
    ECONOMY = "economy"
    DATA = "data"
    CYBERSECURITY = "cybersecurity"
    ROBOTICS = "robotics"
    INFRASTRUCTURE = "infrastructure"
    REGULATION = "regulation"
    STARTUPS = "startups"


class AiKind(StrEnum):
    """What kind of AI a product uses, by what it works on."""

    LANGUAGE = "language"
    SPEECH = "speech"
    VISION = "vision"
    MULTIMODAL = "multimodal"
    FORECASTING = "forecasting"
    RECOMMENDATION = "recommendation"
    OPTIMISATION = "optimisation"
    ROBOTICS = "robotics"
    OTHER = "other"


class BuiltOn(StrEnum):
    """What model a product builds on."""

    KAZLLM = "kazllm"
    OWN_MODEL = "own-model"
    OPEN_MODEL = "open-model"
    COMMERCIAL_MODEL = "commercial-model"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class DataSet:
    """Data a product was made with.

    Args:
        id: its identifier where it is kept, such as a catalogue's number or an address.
        digest: SHA-256 (hex) of what was used, None where none is kept.
        licence: the terms it may be used under, such as "CC-BY-4.0".
    """

    id: str
    digest: str | None
    licence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the project says of its product.

    Args:
        name: by the keys kk, ru, en.
        description: what it does.
        sector: of the economy it serves.
        stage: how far it has come.
        started_on: day its making began.
        direction: of the Digital Qazaqstan strategy, None where none is named.
        ai_kind: kind of AI it uses; None: it is not said that it uses any.
        builds_on: models it builds on.
        links: addresses where it can be seen.
        users: who uses it, and how many.
        programme: acceleration programme, None without one.
        authors: names of those who made it; personal, so not for everybody.
        data_sets: data it was made with.
    """

    name: dict[str, str]
    description: str
    sector: Sector
    stage: Stage
    started_on: date
    direction: Direction | None = None
    ai_kind: AiKind | None = None
    builds_on: tuple[BuiltOn, ...] = ()
    links: tuple[str, ...] = ()
    users: str = ""
    programme: str | None = None
    authors: tuple[str, ...] = ()
    data_sets: tuple[DataSet, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Product(Entry):
    """A product of the register.

    `changed_at` is when its project last changed what it says of it; `verified_at` the last verification.
    """

    id: ProductId
    slug: str
    organisation_id: OrganisationId
    project_id: ProjectId
    status: ProductStatus
    author_id: UserId
    registered_at: datetime
    changed_at: datetime
    verified_by: UserId | None
    verified_at: datetime | None
    return_note: str | None


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version of a product's model: a file a job kept, with the digest its agent computed."""

    version: str
    job_id: int
    attempt_id: str
    rank: int
    path: str | None
    size_bytes: int
    digest: str
    linked_at: datetime


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
