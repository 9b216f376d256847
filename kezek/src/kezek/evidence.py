"""What a product rests on, and initiatives, as frozen values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

from kezek.fields import Fields, Json


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition of the evidence rule; `text` says what it needs and what was found, in the reader's language."""

    code: str
    holds: bool
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a product counts for indicator 2 at an instant, and why."""

    slug: str
    as_of: datetime
    rule: str | None
    counts: bool
    counted_at: datetime | None
    year: int | None
    conditions: tuple[Condition, ...]
    review_due_at: datetime | None
    is_review_overdue: bool
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Read the platform's object.

        Raises:
            ProtocolError: a field is missing or of another type.
        """
        return cls(
            fields.text("slug"),
            fields.instant("as_of"),
            fields.optional_text("rule"),
            fields.flag("counts"),
            fields.optional_instant("counted_at"),
            fields.optional_integer("year"),
            tuple(
                Condition(one.text("condition"), one.flag("holds"), one.text("text"))
                for one in fields.objects("conditions")
            ),
            fields.optional_instant("review_due_at"),
            fields.flag("is_review_overdue"),
            fields.raw,
        )


@dataclass(frozen=True, slots=True)
class ChainJob:
    """A job of the chain: the policies, queues and decisions before it, the digests after it, and what is missing."""

    job_id: int
    state: str
    gpu_seconds: int
    policies: tuple[str, ...]
    queues: tuple[str, ...]
    decisions: tuple[str, ...]
    energy_kwh: float | None
    digests: tuple[str, ...]
    breaks: tuple[str, ...]

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Read the platform's object.

        Raises:
            ProtocolError: a field is missing or of another type.
        """
        attempts = tuple(fields.objects("attempts"))
        grounds = [ground for attempt in attempts for ground in attempt.inner("grant").objects("grounds")]
        energy = fields.raw.get("energy_kwh")
        return cls(
            fields.integer("job_id"),
            fields.text("state"),
            fields.integer("gpu_seconds"),
            _once(attempt.optional_text("policy") or "" for attempt in attempts),
            _once(attempt.text("queue") for attempt in attempts),
            _once(f"{one.text('body')} {one.text('number')}, {one.text('date')}" for one in grounds),
            float(energy) if isinstance(energy, int | float) else None,
            tuple(version.text("sha256") for version in fields.objects("model_versions")),
            fields.texts("breaks"),
        )


@dataclass(frozen=True, slots=True)
class Chain:
    """The chain of evidence of a product."""

    jobs: tuple[ChainJob, ...]
    verdict: Verdict
    is_simulated: bool
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Read the platform's object.

        Raises:
            ProtocolError: a field is missing or of another type.
        """
        jobs = tuple(map(ChainJob.of, fields.objects("jobs")))
        return cls(jobs, Verdict.of(fields.inner("verdict")), fields.flag("is_simulated"), fields.raw)


@dataclass(frozen=True, slots=True)
class Likeness:
    """Another product with the same name, digest or link; `slug` is None where you may not see it."""

    slug: str | None
    is_imported: bool
    mark: str
    value: str
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Read the platform's object.

        Raises:
            ProtocolError: a field is missing or of another type.
        """
        slug, value = fields.optional_text("slug"), fields.text("value")
        return cls(slug, fields.flag("is_imported"), fields.text("mark"), value, fields.raw)


@dataclass(frozen=True, slots=True)
class Contribution:
    """The platform's contribution to the national indicator 7 or 8, never its fulfilment."""

    indicator: int
    year: int
    contribution: int
    national_target: int
    definition: str
    ambiguity: str | None
    as_of: datetime
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Read the platform's object.

        Raises:
            ProtocolError: a field is missing or of another type.
        """
        return cls(
            fields.integer("indicator"),
            fields.integer("year"),
            fields.integer("contribution"),
            fields.integer("national_target"),
            fields.text("definition"),
            fields.optional_text("ambiguity"),
            fields.instant("as_of"),
            fields.raw,
        )


@dataclass(frozen=True, slots=True)
class Initiative:
    """An icebreaker initiative and where it stands; figures are None where nothing was measured."""

    slug: str
    kpi: Mapping[str, str]
    direction: str
    unit: str
    target: int
    value: int | None
    done_percent: int | None
    progress: str
    deadline: str
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Read the platform's object.

        Raises:
            ProtocolError: a field is missing or of another type.
        """
        return cls(
            fields.text("slug"),
            fields.names("kpi"),
            fields.text("direction"),
            fields.text("unit"),
            fields.integer("target"),
            fields.optional_integer("value"),
            fields.optional_integer("done_percent"),
            fields.text("progress"),
            fields.text("deadline"),
            fields.raw,
        )


def _once(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for text in texts if text))
