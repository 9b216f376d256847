"""What the platform observed: how jobs used their GPUs, notices of idle ones, use and energy, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

from kezek.fields import Fields, Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What was observed of GPUs that were held. None is "no data", never 0.

    Attributes:
        held_gpu_s: GPU-seconds held.
        coverage_ratio: Share of these that was observed; every figure but `held_gpu_s` speaks of that share only.
        busy_gpu_s: At 1 % utilisation or more.
        useful_gpu_s: Times utilisation: an upper bound.
        energy_coverage_ratio: Share of the time held for which energy was known.
        xids: Xid errors by code.
    """

    is_simulated: bool
    held_gpu_s: float
    coverage_ratio: float | None
    mean_utilisation_ratio: float | None
    busy_gpu_s: float | None
    useful_gpu_s: float | None
    idle_gpu_s: float | None
    energy_kwh: float | None
    energy_coverage_ratio: float | None
    throttled_gpu_s: float | None
    xids: dict[str, int]

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Read the platform's object.

        Raises:
            ProtocolError: a field is missing or of another type.
        """
        return cls(
            is_simulated=fields.flag("is_simulated"),
            held_gpu_s=fields.number("held_gpu_seconds"),
            coverage_ratio=fields.optional_number("coverage_ratio"),
            mean_utilisation_ratio=fields.optional_number("mean_utilisation_ratio"),
            busy_gpu_s=fields.optional_number("busy_gpu_seconds"),
            useful_gpu_s=fields.optional_number("useful_gpu_seconds"),
            idle_gpu_s=fields.optional_number("idle_gpu_seconds"),
            energy_kwh=fields.optional_number("energy_kwh"),
            energy_coverage_ratio=fields.optional_number("energy_coverage_ratio"),
            throttled_gpu_s=fields.optional_number("throttled_gpu_seconds"),
            xids={code: int(count) for code, count in fields.numbers("xids").items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """How a job used its GPUs over all its attempts."""

    job_id: int
    observed: Observed
    p95_utilisation_ratio: float | None
    memory_peak_bytes: int | None
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Read the platform's object.

        Raises:
            ProtocolError: a field is missing or of another type.
        """
        return cls(
            job_id=fields.integer("job_id"),
            observed=Observed.of(fields),
            p95_utilisation_ratio=fields.optional_number("p95_utilisation_ratio"),
            memory_peak_bytes=fields.optional_integer("memory_peak_bytes"),
            raw=fields.raw,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UseRow:
    """Use by one project, sector, category or product; `charged_gpu_s` is what the ledger took."""

    name: str
    attempts: int
    charged_gpu_s: int
    observed: Observed

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Read the platform's object.

        Raises:
            ProtocolError: a field is missing or of another type.
        """
        return cls(
            name=fields.text("name"),
            attempts=fields.integer("attempts"),
            charged_gpu_s=fields.integer("charged_gpu_seconds"),
            observed=Observed.of(fields),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """Use by attempts that ended in a period."""

    by: str
    since: datetime
    until: datetime
    rows: tuple[UseRow, ...]
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Read the platform's object.

        Raises:
            ProtocolError: a field is missing or of another type.
        """
        return cls(
            by=fields.text("by"),
            since=fields.instant("from"),
            until=fields.instant("to"),
            rows=tuple(map(UseRow.of, fields.objects("items"))),
            raw=fields.raw,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What a job's user was told because its GPUs stood idle.

    Attributes:
        step: notice, second_notice or cancel.
        next_at: when the next step follows if they stay idle; None after the last.
        returned_gpu_s: what went back to the grant; of the last step only.
        cleared_at: when the GPUs were seen in use again; None while the notice stands.
        text: the same as a sentence, in the language asked for.
    """

    id: int
    job_id: int
    step: str
    at: datetime
    next_at: datetime | None
    returned_gpu_s: int | None
    cleared_at: datetime | None
    text: str
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Read the platform's object.

        Raises:
            ProtocolError: a field is missing or of another type.
        """
        return cls(
            id=fields.integer("id"),
            job_id=fields.integer("job_id"),
            step=fields.text("step"),
            at=fields.instant("at"),
            next_at=fields.optional_instant("next_at"),
            returned_gpu_s=fields.optional_integer("returned_gpu_seconds"),
            cleared_at=fields.optional_instant("cleared_at"),
            text=fields.text("text"),
            raw=fields.raw,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleJob:
    """A running job whose GPUs stand idle now; `exemption` says why it is left alone."""

    job_id: int
    project: str
    gpus: int
    idle_gpus: int
    idle_since: datetime
    taken: tuple[str, ...]
    exemption: str | None
    next_step: str | None
    due_at: datetime | None

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Read the platform's object.

        Raises:
            ProtocolError: a field is missing or of another type.
        """
        return cls(
            job_id=fields.integer("job_id"),
            project=fields.text("project"),
            gpus=fields.integer("gpus"),
            idle_gpus=fields.integer("idle_gpus"),
            idle_since=fields.instant("idle_since"),
            taken=fields.texts("taken"),
            exemption=fields.optional_text("exemption"),
            next_step=fields.optional_text("next_step"),
            due_at=fields.optional_instant("due_at"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleJobs:
    """Jobs that stand idle now; in a dry run steps are noted, and nobody is told or stopped."""

    is_dry_run: bool
    jobs: tuple[IdleJob, ...]
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Read the platform's object.

        Raises:
            ProtocolError: a field is missing or of another type.
        """
        return cls(
            is_dry_run=fields.inner("policy").flag("dry_run"),
            jobs=tuple(map(IdleJob.of, fields.objects("items"))),
            raw=fields.raw,
        )
