"""The product register and target indicator 2, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Self

from kezek.fields import Fields, Json


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductRequest:
    """A product to be registered; it is submitted for review at once.

    Args:
        slug: short name: small Latin letters, digits, hyphens.
        project: short name of the project that built it.
        name: its name by language: kk, ru, en.
        sector: sector of the economy it serves.
        stage: how far it has come.
        started_on: day its making began.
        description: what it does.
        jobs: jobs of the project that it was built by.
    """

    slug: str
    project: str
    name: Mapping[str, str]
    sector: str
    stage: str
    started_on: date
    description: str = ""
    jobs: tuple[int, ...] = ()

    def document(self) -> dict[str, object]:
        """The body of the request."""
        return {
            "slug": self.slug,
            "project": self.project,
            "name": dict(self.name),
            "sector": self.sector,
            "stage": self.stage,
            "started_on": self.started_on.isoformat(),
            "description": self.description,
            "jobs": list(self.jobs),
        }


@dataclass(frozen=True, slots=True)
class EvidenceJob:
    """A job a product was built by; `digests` are SHA-256 (hex) of the files it kept."""

    job_id: int
    state: str
    gpu_seconds: int
    is_counted: bool
    digests: tuple[str, ...]

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Read the platform's object.

        Raises:
            ProtocolError: a field is missing or of another type.
        """
        return cls(
            fields.integer("job_id"),
            fields.text("state"),
            fields.integer("gpu_seconds"),
            fields.flag("is_counted"),
            tuple(file.text("sha256") for file in fields.objects("files")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A product of the register. `evidence` is None in a list, where the platform does not send it."""

    id: str
    slug: str
    name: Mapping[str, str]
    description: str
    sector: str
    stage: str
    status: str
    started_on: str
    registered_at: datetime
    verified_at: datetime | None
    return_note: str | None
    evidence: tuple[EvidenceJob, ...] | None
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Read the platform's object.

        Raises:
            ProtocolError: a field is missing or of another type.
        """
        has_evidence = fields.raw.get("evidence") is not None
        return cls(
            id=fields.text("id"),
            slug=fields.text("slug"),
            name=fields.names("name"),
            description=fields.text("description"),
            sector=fields.text("sector"),
            stage=fields.text("stage"),
            status=fields.text("status"),
            started_on=fields.text("started_on"),
            registered_at=fields.instant("registered_at"),
            verified_at=fields.optional_instant("verified_at"),
            return_note=fields.optional_text("return_note"),
            evidence=tuple(map(EvidenceJob.of, fields.objects("evidence"))) if has_evidence else None,
            raw=fields.raw,
        )


@dataclass(frozen=True, slots=True)
class IndicatorYear:
    """One year: the target beside both readings of the fact; None before the year begins."""

    year: int
    target: int
    added: int | None
    cumulative: int | None


@dataclass(frozen=True, slots=True)
class Indicator:
    """Target indicator 2.

    Attributes:
        as_of: the instant the figures hold for.
        years: every year with a target, in order.
        unverified: products no reviewer has verified.
        without_evidence: verified products without a completed job that used GPU time.
    """

    as_of: datetime
    years: tuple[IndicatorYear, ...]
    unverified: int
    without_evidence: int
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Read the platform's object.

        Raises:
            ProtocolError: a field is missing or of another type.
        """
        years = tuple(
            IndicatorYear(
                year.integer("year"),
                year.integer("target"),
                year.optional_integer("added"),
                year.optional_integer("cumulative"),
            )
            for year in fields.objects("years")
        )
        return cls(
            fields.instant("as_of"),
            years,
            fields.integer("unverified"),
            fields.integer("without_evidence"),
            fields.raw,
        )
