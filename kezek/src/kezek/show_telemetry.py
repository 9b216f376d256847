"""How what was observed looks in a terminal: rows, no input or output. Coverage stands beside every figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kezek.messages import Messages
from kezek.telemetry import Efficiency, IdleJob, Notice, Observed, Use
from kezek.terminal import Cell

FIGURE_HEADS = ("figure", "value", "coverage")
NOTICE_HEADS = ("jobs", "at", "step", "cleared", "text")
IDLE_HEADS = ("jobs", "project", "gpus", "idle_gpus", "idle_since", "taken", "next_step", "due", "exemption")
_USE_HEADS = ("attempt_count", "held", "charged", "busy_time", "useful", "coverage")
_ENERGY_HEADS = ("energy", "energy_coverage", "throttled", "xids")
_BY_HEADS = {"project": "project", "sector": "sector", "category": "category", "product": "slug"}


def efficiency_rows(found: Efficiency, messages: Messages) -> list[Sequence[Cell]]:
    """A job's figures as the rows of `FIGURE_HEADS`."""
    seen = found.observed
    peak = None if found.memory_peak_bytes is None else messages.size(found.memory_peak_bytes)
    coverage = _share(seen.coverage_ratio, messages)
    rows = (
        ("utilisation_mean", _share(seen.mean_utilisation_ratio, messages), coverage),
        ("utilisation_p95", _share(found.p95_utilisation_ratio, messages), coverage),
        ("memory_peak", peak or messages.say("telemetry.no_data"), coverage),
        ("busy_time", _hours(seen.busy_gpu_s, messages), coverage),
        ("useful", _hours(seen.useful_gpu_s, messages), coverage),
        ("idle_time", _hours(seen.idle_gpu_s, messages), coverage),
        ("throttled", _hours(seen.throttled_gpu_s, messages), coverage),
        ("xids", _xids(seen, messages), coverage),
        ("energy", _energy(seen, messages), _share(seen.energy_coverage_ratio, messages)),
    )
    held = (messages.say("head.held"), _hours(seen.held_gpu_s, messages), messages.say("yesno.none"))
    return [held, *((messages.say(f"head.{head}"), value, share) for head, value, share in rows)]


def use_heads(found: Use) -> tuple[str, ...]:
    """The heads of `use_rows`."""
    return (_BY_HEADS.get(found.by, "name"), *_USE_HEADS, *_ENERGY_HEADS)


def use_rows(found: Use, messages: Messages) -> list[Sequence[Cell]]:
    """Use as the rows of `use_heads`."""
    return [
        (
            _name(found.by, row.name, messages),
            str(row.attempts),
            _hours(row.observed.held_gpu_s, messages),
            _hours(row.charged_gpu_s, messages),
            _hours(row.observed.busy_gpu_s, messages),
            _hours(row.observed.useful_gpu_s, messages),
            _share(row.observed.coverage_ratio, messages),
            _energy(row.observed, messages),
            _share(row.observed.energy_coverage_ratio, messages),
            _hours(row.observed.throttled_gpu_s, messages),
            _xids(row.observed, messages),
        )
        for row in found.rows
    ]


def notice_rows(notices: Iterable[Notice], messages: Messages) -> list[Sequence[Cell]]:
    """Notices as the rows of `NOTICE_HEADS`."""
    return [
        (
            str(notice.job_id),
            messages.instant(notice.at),
            messages.named("idle_step", notice.step),
            messages.instant(notice.cleared_at),
            notice.text,
        )
        for notice in notices
    ]


def idle_rows(jobs: Iterable[IdleJob], messages: Messages) -> list[Sequence[Cell]]:
    """Idle jobs as the rows of `IDLE_HEADS`."""
    none = messages.say("yesno.none")
    return [
        (
            str(job.job_id),
            job.project,
            str(job.gpus),
            str(job.idle_gpus),
            messages.instant(job.idle_since),
            ", ".join(messages.named("idle_step", step) for step in job.taken) or none,
            none if job.next_step is None else messages.named("idle_step", job.next_step),
            messages.instant(job.due_at),
            none if job.exemption is None else messages.named("idle_exemption", job.exemption),
        )
        for job in jobs
    ]


def _name(by: str, name: str, messages: Messages) -> str:
    return messages.named(by, name) if by in {"sector", "category"} else name


def _share(ratio: float | None, messages: Messages) -> str:
    if ratio is None:
        return messages.say("telemetry.no_data")
    return messages.say("unit.percent", value=messages.number(ratio * 100, 1))


def _hours(seconds: float | None, messages: Messages) -> str:
    if seconds is None:
        return messages.say("telemetry.no_data")
    return messages.number(seconds / 3600, 2)


def _energy(seen: Observed, messages: Messages) -> str:
    if seen.energy_kwh is None:
        return messages.say("telemetry.no_data")
    return messages.number(seen.energy_kwh, 3)


def _xids(seen: Observed, messages: Messages) -> str:
    """Errors by code; of what was never observed nothing is said to have gone well."""
    if not seen.coverage_ratio:
        return messages.say("telemetry.no_data")
    listed = ", ".join(f"{code}: {count}" for code, count in seen.xids.items())
    return listed or messages.say("yesno.none")
