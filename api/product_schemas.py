"""What the API reads about products and initiatives: bodies and queries."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Final

from pydantic import Field, StringConstraints

from api.limits import MAX_ID
from api.schemas import Body, InstantIn, JobNumber, Line, Names, Prose, Sha256, Slug, Word
from products.artefacts import NewVersion
from products.kpi import Initiative, Measurement
from products.model import AiKind, BuiltOn, DataSet, Direction, Entry, Stage
from products.service import MAX_JOBS
from scheduler.dispatch.limits import MAX_WORLD_SIZE
from scheduler.jobs import MAX_OUTPUT_CHARS
from tenants.model import Sector

MAX_LISTED: Final = 50
"""Authors, links or data sets of one product [count]: a team and its sources, not a catalogue."""
MAX_LINK_CHARS: Final = 1_000
"""Longest address [characters]; browsers take about twice that."""
MAX_KPI: Final = 10**15
"""Largest value of an initiative's KPI: a budget in tenge, and far more."""

Link = Annotated[
    str, StringConstraints(pattern=r"^https?://[^\s\x00-\x1f\x7f/]+\S*$", max_length=MAX_LINK_CHARS)
]
Path = Annotated[Word, StringConstraints(min_length=1, max_length=MAX_OUTPUT_CHARS)]


class DataSetIn(Body):
    """Data a product was made with."""

    id: Line = Field(description="Its identifier where it is kept: a catalogue's number or an address.")
    digest: Sha256 | None = Field(default=None, description="SHA-256 of what was used.")
    licence: Line = Field(description='Terms of use, such as "CC-BY-4.0".')


class ProductEntryIn(Body):
    """What a project says of its product."""

    name: Names
    description: Prose = ""
    sector: Sector
    stage: Stage
    started_on: date
    direction: Direction | None = Field(
        default=None, description="Direction of the Digital Qazaqstan strategy."
    )
    ai_kind: AiKind | None = Field(
        default=None, description="Kind of AI; absent: it is not said that the product uses any."
    )
    builds_on: list[BuiltOn] = Field(default=[], max_length=len(BuiltOn))
    links: list[Link] = Field(default=[], max_length=MAX_LISTED)
    users: Prose = Field(default="", description="Who uses it, and how many.")
    programme: Line | None = Field(default=None, description="Acceleration programme.")
    authors: list[Line] = Field(default=[], max_length=MAX_LISTED)
    data_sets: list[DataSetIn] = Field(default=[], max_length=MAX_LISTED)

    def entry(self) -> Entry:
        """The room's value."""
        return Entry(
            name=self.name.model_dump(),
            description=self.description,
            sector=self.sector,
            stage=self.stage,
            started_on=self.started_on,
            direction=self.direction,
            ai_kind=self.ai_kind,
            builds_on=tuple(dict.fromkeys(self.builds_on)),
            links=tuple(dict.fromkeys(self.links)),
            users=self.users,
            programme=self.programme,
            authors=tuple(self.authors),
            data_sets=tuple(DataSet(each.id, each.digest, each.licence) for each in self.data_sets),
        )


class ProductIn(ProductEntryIn):
    """A product to be registered: as a draft, or submitted for review at once."""

    slug: Slug
    project: Slug
    jobs: list[JobNumber] = Field(
        default=[], max_length=MAX_JOBS, description="Jobs of the project that the product was built by."
    )
    is_draft: bool = Field(default=False, description="Keep it as a draft until it is submitted.")


class LinkIn(Body):
    """Jobs of the project that the product was built by."""

    jobs: list[JobNumber] = Field(min_length=1, max_length=MAX_JOBS)


class ModelVersionIn(Body):
    """A file that a linked job kept, as a version of the product's model."""

    version: Line
    job: JobNumber
    rank: int = Field(default=0, ge=0, le=MAX_WORLD_SIZE)
    path: Path
    sha256: Sha256 | None = Field(
        default=None, description="What you hold; refused unless the node's agent computed the same."
    )

    def new(self) -> NewVersion:
        """The room's value."""
        return NewVersion(self.version, self.job, self.rank, self.path, self.sha256)


class AsOfQuery(Body):
    """The instant that figures hold for."""

    as_of: InstantIn | None = Field(default=None, description="Absent: now.")


class YearQuery(AsOfQuery):
    """A year of an indicator, and the instant that its figures hold for."""

    year: int | None = Field(
        default=None, ge=2000, le=2200, description="One year; absent: every year with a target."
    )


class InitiativeIn(Body):
    """An "icebreaker" initiative with its own KPI and deadline."""

    slug: Slug
    direction: Direction
    kpi: Names = Field(description="What is measured.")
    unit: Line
    baseline: int = Field(ge=-MAX_KPI, le=MAX_KPI, description="Value at the start.")
    target: int = Field(
        ge=-MAX_KPI, le=MAX_KPI, description="Value to reach; below the baseline when less is better."
    )
    deadline: date

    def made(self) -> Initiative:
        """The room's value.

        Raises:
            BadInitiativeError: target and baseline are equal.
        """
        return Initiative(
            slug=self.slug,
            direction=self.direction,
            kpi=tuple(sorted(self.kpi.model_dump().items())),
            unit=self.unit,
            baseline=self.baseline,
            target=self.target,
            deadline=self.deadline,
        )


class MeasurementIn(Body):
    """A value of an initiative's KPI on a day, with where it was read."""

    on: date
    value: int = Field(ge=-MAX_KPI, le=MAX_KPI)
    source: Line

    def made(self) -> Measurement:
        """The room's value."""
        return Measurement(self.on, self.value, self.source)


JobPath = Annotated[int, Field(ge=1, le=MAX_ID)]
