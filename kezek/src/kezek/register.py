"""The product register and target indicator 2, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Final, Self

from kezek.fields import Fields, Json


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductRequest:
    """A product to be registered; it is submitted for review at once unless it is a draft.

    Args:
        slug: short name: small Latin letters, digits, hyphens.
        project: short name of the project that built it.
        name: its name by language: kk, ru, en.
        sector: sector of the economy it serves.
        stage: how far it has come.
        started_on: day its making began.
        description: what it does.
        jobs: jobs of the project that it was built by.
        is_draft: keep it as a draft.
        further: the register's further fields by their name in the API, such as "direction" or "ai_kind".
    """

    slug: str
    project: str
    name: Mapping[str, str]
    sector: str
    stage: str
    started_on: date
    description: str = ""
    jobs: tuple[int, ...] = ()
    is_draft: bool = False
    further: Mapping[str, object] = field(default_factory=dict)

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
            "is_draft": self.is_draft,
            **self.further,
        }


ENTRY_FIELDS: Final = (
    "name",
    "description",
    "sector",
    "stage",
    "started_on",
    "direction",
    "ai_kind",
    "builds_on",
    "links",
    "users",
    "programme",
    "authors",
    "data_sets",
)
"""What a project says of its product, by name in the API."""


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
    direction: str | None
    ai_kind: str | None
    builds_on: tuple[str, ...]
    links: tuple[str, ...]
    users: str
    programme: str | None
    authors: tuple[str, ...]
    data_sets: tuple[str, ...]
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
            direction=fields.optional_text("direction"),
            ai_kind=fields.optional_text("ai_kind"),
            builds_on=fields.texts("builds_on"),
            links=fields.texts("links"),
            users=fields.text("users"),
            programme=fields.optional_text("programme"),
            authors=() if fields.raw.get("authors") is None else fields.texts("authors"),
            data_sets=tuple(
                f"{one.text('id')} ({one.text('licence')})" for one in fields.objects("data_sets")
            ),
            registered_at=fields.instant("registered_at"),
            verified_at=fields.optional_instant("verified_at"),
            return_note=fields.optional_text("return_note"),
            evidence=tuple(map(EvidenceJob.of, fields.objects("evidence"))) if has_evidence else None,
            raw=fields.raw,
        )


@dataclass(frozen=True, slots=True)
class IndicatorYear:
    """One year: the target beside both readings of the fact; None before the year begins.

    `imported` counts products imported with a decision, up to the year; they stand apart.
    """

    year: int
    target: int
    added: int | None
    cumulative: int | None
    imported: int | None
    forecast_low: int | None
    forecast_high: int | None


@dataclass(frozen=True, slots=True)
class Indicator:
    """Target indicator 2.

    Attributes:
        as_of: the instant the figures hold for.
        years: every year with a target, in order.
        unverified: products no reviewer has verified.
        without_evidence: verified products without a completed job of the GPU-hours that the rule names.
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
                year.optional_integer("imported_cumulative"),
                year.optional_integer("forecast_low"),
                year.optional_integer("forecast_high"),
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
