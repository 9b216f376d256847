"""Traces of other clusters as jobs to replay: readers of three formats.

Where users get them: csv is this project's own form (job_id, submit_s, duration_s, gpus, tenant, sector, est_s);
swf is the Standard Workload Format of the Parallel Workloads Archive; openb is the pod list of the Alibaba GPU
cluster trace of 2023. Traces stay out of the repository.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

MAX_TRACE_JOBS: Final = 5_000_000
"""Jobs of one trace: what fits the memory of a small machine."""

SWF_FIELDS: Final = 18
"""Fields of a line of the Standard Workload Format, version 2.2."""


class TraceError(ValueError):
    """A trace that cannot be read.

    Args:
        line: number of the line, from 1.
        why: what is wrong with it and what to do.
    """

    def __init__(self, line: int, why: str) -> None:
        super().__init__(f"line {line} of the trace: {why}")
        self.line = line
        self.why = why


@dataclass(frozen=True, slots=True)
class TraceJob:
    """A job of a trace.

    Args:
        submit_s: seconds since the trace began.
        duration_s: how long it ran; no scheduler sees it.
        gpus: 1 or more.
        tenant: who paid.
        sector: a group of tenants; "" where the trace has none.
        walltime_s: what was asked for; never below 1.
    """

    id: str
    submit_s: int
    duration_s: int
    gpus: int
    tenant: str
    sector: str
    walltime_s: int


def read_csv(lines: Iterable[str]) -> list[TraceJob]:
    """Read the project's own form; the header names the columns.

    Raises:
        TraceError: a column is missing or a figure is none.
    """
    found: list[TraceJob] = []
    for number, row in enumerate(csv.DictReader(lines), start=2):
        duration_s = _figure(row.get("duration_s"), "duration_s", number)
        found.append(
            TraceJob(
                id=row.get("job_id") or f"line-{number}",
                submit_s=_figure(row.get("submit_s"), "submit_s", number),
                duration_s=duration_s,
                gpus=_figure(row.get("gpus"), "gpus", number),
                tenant=row.get("tenant") or "all",
                sector=row.get("sector") or "",
                walltime_s=max(1, _figure(row.get("est_s"), "est_s", number))
                if row.get("est_s")
                else max(1, duration_s),
            )
        )
    return _usable(found)


def read_swf(lines: Iterable[str]) -> list[TraceJob]:
    """Read the Standard Workload Format: a processor counts as a GPU, the user is the tenant.

    Requested figures go before used ones; jobs without processors or run time are left out.

    Raises:
        TraceError: a line has other than 18 figures.
    """
    found: list[TraceJob] = []
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields or fields[0].startswith(";"):
            continue
        if len(fields) != SWF_FIELDS:
            raise TraceError(number, f"has {len(fields)} fields, the format has {SWF_FIELDS}")
        gpus = (
            _figure(fields[7], "requested processors", number)
            if fields[7] != "-1"
            else _figure(fields[4], "allocated processors", number)
        )
        duration_s = _figure(fields[3], "run time", number)
        asked_s = _figure(fields[8], "requested time", number)
        found.append(
            TraceJob(
                id=fields[0],
                submit_s=_figure(fields[1], "submit time", number),
                duration_s=duration_s,
                gpus=gpus,
                tenant=f"user-{fields[11]}",
                sector=f"group-{fields[12]}",
                walltime_s=max(1, asked_s if asked_s > 0 else duration_s),
            )
        )
    return _usable(found)


def read_openb(lines: Iterable[str]) -> list[TraceJob]:
    """Read the pod list: pods with GPUs that were scheduled; a share of a GPU counts as a whole one.

    The trace names no tenant: the class of service (`qos`) stands for it; nor a walltime: the run time does.

    Raises:
        TraceError: a column is missing or a figure is none.
    """
    found: list[TraceJob] = []
    for number, row in enumerate(csv.DictReader(lines), start=2):
        if not row.get("scheduled_time") or not row.get("deletion_time"):
            continue
        duration_s = _figure(row.get("deletion_time"), "deletion_time", number) - _figure(
            row.get("scheduled_time"), "scheduled_time", number
        )
        found.append(
            TraceJob(
                id=row.get("name") or f"line-{number}",
                submit_s=_figure(row.get("creation_time"), "creation_time", number),
                duration_s=duration_s,
                gpus=_figure(row.get("num_gpu"), "num_gpu", number),
                tenant=row.get("qos") or "all",
                sector="",
                walltime_s=max(1, duration_s),
            )
        )
    return _usable(found)


READERS: Final[Mapping[str, Callable[[Iterable[str]], list[TraceJob]]]] = {
    "csv": read_csv,
    "swf": read_swf,
    "openb": read_openb,
}
"""Readers by the name of the format."""


def _figure(text: str | None, name: str, number: int) -> int:
    """A whole number of a row; decimals are rounded down."""
    try:
        return math.floor(float(text or ""))
    except (ValueError, OverflowError):
        raise TraceError(number, f'"{name}" is {text!r}, must be a number of seconds or GPUs') from None


def _usable(jobs: list[TraceJob]) -> list[TraceJob]:
    """The jobs that ran on GPUs, by submission, the first one's being 0."""
    if len(jobs) > MAX_TRACE_JOBS:
        raise TraceError(MAX_TRACE_JOBS, f"the trace has more than {MAX_TRACE_JOBS} jobs; split it")
    kept = [job for job in jobs if job.gpus > 0 and job.duration_s >= 0]
    begin_s = min((job.submit_s for job in kept), default=0)
    moved = [replace(job, submit_s=job.submit_s - begin_s) for job in kept]
    return sorted(moved, key=lambda job: (job.submit_s, job.id))
