"""Traces of other clusters as jobs to replay: readers of three formats.

Where users get them: csv is this project's own form (job_id, submit_s, duration_s, gpus, tenant, sector, est_s);
swf is the Standard Workload Format of the Parallel Workloads Archive; openb is the pod list of the Alibaba GPU
cluster trace of 2023. Traces stay out of the repository.

A trace may also say what a job asked for beyond GPUs; that counts where the machine is described too
(`scheduler.machines`), and is left out on uniform nodes. A job without a walltime gets one of `scheduler.estimates`,
from the seed that the readers take, and no longer than its queue takes where its run fits that (`within_limit`).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from scheduler.estimates import estimate_s
from scheduler.model import Placement, Request

ASKS: Final = (
    "nodes",
    "flavors",
    "cpus_per_gpu",
    "memory_bytes_per_gpu",
    "node_labels",
    "topology_required",
    "topology_preferred",
    "placement",
)
"""Columns of the project's own form that may be left out: what a job asked for beyond GPUs."""
MAX_TRACE_JOBS: Final = 5_000_000
"""Jobs of one trace: what fits the memory of a small machine."""

MIB: Final = 2**20
"""Bytes of a MiB."""

MAX_FIGURE: Final = 2**53
"""Largest figure of a trace, either sign: a float says no whole number above it exactly."""
SWF_FIELDS: Final = 18
"""Fields of a line of the Standard Workload Format, version 2.2."""


class TraceError(ValueError):
    """A trace that cannot be read.

    Args:
        line: number of the line, from 1.
        why: what is wrong with it and what to do.
    """

    def __init__(self, line: int, why: str) -> None:
        super().__init__(f"line {line}: {why}")
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
        asks: all that was asked for, as far as the trace says it; no flavors = any; None = GPUs alone.
        is_walltime_drawn: the trace names none; it is one of `scheduler.estimates`.
    """

    id: str
    submit_s: int
    duration_s: int
    gpus: int
    tenant: str
    sector: str
    walltime_s: int
    asks: Request | None = None
    is_walltime_drawn: bool = False


def within_limit(job: TraceJob, max_walltime_s: int | None) -> TraceJob:
    """The job as its user would have asked in a queue that takes no longer walltimes; as it is where it ran longer.

    What a trace names stays: that such a job can never start is what a replay is to tell.

    Args:
        job: of the queue.
        max_walltime_s: longest walltime of the queue; None = no limit.
    """
    if max_walltime_s is None or not job.is_walltime_drawn:
        return job
    if not job.duration_s <= max_walltime_s < job.walltime_s:
        return job
    asks = None if job.asks is None else replace(job.asks, walltime_s=max_walltime_s)
    return replace(job, walltime_s=max_walltime_s, asks=asks)


def read_csv(lines: Iterable[str], seed: int = 0) -> list[TraceJob]:
    """Read the project's own form; the header names the columns. Those of `asks` may be left out, `est_s` empty.

    Raises:
        TraceError: a column is missing or a figure is none.
    """
    found: list[TraceJob] = []
    for number, row in enumerate(csv.DictReader(lines), start=2):
        duration_s = figure(row.get("duration_s"), "duration_s", number)
        job_id = row.get("job_id") or f"line-{number}"
        est_s = figure(row["est_s"], "est_s", number) if row.get("est_s") else None
        job = TraceJob(
            id=job_id,
            submit_s=figure(row.get("submit_s"), "submit_s", number),
            duration_s=duration_s,
            gpus=figure(row.get("gpus"), "gpus", number),
            tenant=row.get("tenant") or "all",
            sector=row.get("sector") or "",
            walltime_s=estimate_s(job_id, duration_s, seed) if est_s is None else max(1, est_s),
            is_walltime_drawn=est_s is None,
        )
        found.append(replace(job, asks=_asks(row, job, number)))
    return _usable(found)


def _asks(row: Mapping[str, str | None], job: TraceJob, number: int) -> Request | None:
    """What a row of the project's own form asks for beyond GPUs; None for nothing."""
    if not any(row.get(name) for name in ASKS):
        return None

    def stated(name: str) -> int | None:
        return figure(row[name], name, number) if row.get(name) else None

    placement = row.get("placement") or Placement.PACK.value
    if placement not in set(Placement):
        raise TraceError(number, f'"placement" is {placement!r}, must be one of {", ".join(Placement)}')
    return Request(
        gpus=job.gpus,
        walltime_s=job.walltime_s,
        flavors=tuple(filter(None, (row.get("flavors") or "").split("|"))),
        node_labels=labels_of(row.get("node_labels"), number),
        topology_required=row.get("topology_required") or None,
        topology_preferred=row.get("topology_preferred") or None,
        placement=Placement(placement),
        nodes=stated("nodes"),
        cpus_per_gpu=stated("cpus_per_gpu"),
        memory_bytes_per_gpu=stated("memory_bytes_per_gpu"),
    )


def labels_of(text: str | None, number: int) -> tuple[tuple[str, str], ...]:
    """Labels of `key=value|key=value`, by key.

    Raises:
        TraceError: one has no value, in line `number`.
    """
    pairs = [part.partition("=") for part in filter(None, (text or "").split("|"))]
    if not all(key and value for key, _, value in pairs):
        raise TraceError(number, f"labels are {text!r}, must be key=value, more of them divided by |")
    return tuple(sorted((key, value) for key, _, value in pairs))


def read_swf(lines: Iterable[str], seed: int = 0) -> list[TraceJob]:
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
            figure(fields[7], "requested processors", number)
            if fields[7] != "-1"
            else figure(fields[4], "allocated processors", number)
        )
        duration_s = figure(fields[3], "run time", number)
        asked_s = figure(fields[8], "requested time", number)
        found.append(
            TraceJob(
                id=fields[0],
                submit_s=figure(fields[1], "submit time", number),
                duration_s=duration_s,
                gpus=gpus,
                tenant=f"user-{fields[11]}",
                sector=f"group-{fields[12]}",
                walltime_s=asked_s if asked_s > 0 else estimate_s(fields[0], duration_s, seed),
                is_walltime_drawn=asked_s <= 0,
            )
        )
    return _usable(found)


def read_openb(lines: Iterable[str], seed: int = 0) -> list[TraceJob]:
    """Read the pod list: pods with GPUs that were scheduled; a share of a GPU counts as a whole one.

    A pod asks for one node, its CPUs and memory, rounded up for each GPU, and any of the models it names.

    The trace names no tenant: the class of service (`qos`) stands for it; nor a walltime.

    Raises:
        TraceError: a column is missing or a figure is none.
    """
    found: list[TraceJob] = []
    for number, row in enumerate(csv.DictReader(lines), start=2):
        if not row.get("scheduled_time") or not row.get("deletion_time"):
            continue
        duration_s = figure(row.get("deletion_time"), "deletion_time", number) - figure(
            row.get("scheduled_time"), "scheduled_time", number
        )
        job_id = row.get("name") or f"line-{number}"
        walltime_s = estimate_s(job_id, duration_s, seed)
        gpus = figure(row.get("num_gpu"), "num_gpu", number)
        cpu_milli = figure(row.get("cpu_milli"), "cpu_milli", number)
        memory_bytes = figure(row.get("memory_mib"), "memory_mib", number) * MIB
        found.append(
            TraceJob(
                id=job_id,
                submit_s=figure(row.get("creation_time"), "creation_time", number),
                duration_s=duration_s,
                gpus=gpus,
                tenant=row.get("qos") or "all",
                sector="",
                walltime_s=walltime_s,
                asks=Request(
                    gpus=gpus,
                    walltime_s=walltime_s,
                    flavors=tuple(filter(None, (row.get("gpu_spec") or "").split("|"))),
                    nodes=1,
                    cpus_per_gpu=-(-cpu_milli // (1_000 * max(1, gpus))),
                    memory_bytes_per_gpu=-(-memory_bytes // max(1, gpus)),
                ),
                is_walltime_drawn=True,
            )
        )
    return _usable(found)


READERS: Final[Mapping[str, Callable[[Iterable[str], int], list[TraceJob]]]] = {
    "csv": read_csv,
    "swf": read_swf,
    "openb": read_openb,
}
"""Readers of lines by the name of the format; the seed is of the walltimes that a trace does not name."""


def figure(text: str | None, name: str, number: int) -> int:
    """A whole number of line `number`; decimals are rounded down.

    Raises:
        TraceError: it is none, or beyond `MAX_FIGURE`.
    """
    try:
        found = math.floor(float(text or ""))
    except (ValueError, OverflowError):
        raise TraceError(number, f'"{name}" is {text!r}, must be a number') from None
    if abs(found) > MAX_FIGURE:
        raise TraceError(number, f'"{name}" is {text!r}, must be a number within {MAX_FIGURE} of 0')
    return found


def _usable(jobs: list[TraceJob]) -> list[TraceJob]:
    """The jobs that ran on GPUs, by submission, the first one's being 0."""
    if len(jobs) > MAX_TRACE_JOBS:
        raise TraceError(MAX_TRACE_JOBS, f"the trace has more than {MAX_TRACE_JOBS} jobs; split it")
    kept = [job for job in jobs if job.gpus > 0 and job.duration_s >= 0]
    begin_s = min((job.submit_s for job in kept), default=0)
    moved = [replace(job, submit_s=job.submit_s - begin_s) for job in kept]
    return sorted(moved, key=lambda job: (job.submit_s, job.id))
