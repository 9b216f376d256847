"""Commands about what was observed: efficiency, notices, idle, use."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from itertools import islice
from typing import Annotated, Final

import typer

from kezek import show_telemetry as show
from kezek.context import JobNumber, Output, connect, terminal
from kezek.messages import ALMATY
from kezek.terminal import Format

MAX_NOTICES: Final = 10_000
"""Most notices of one listing: fifty pages of the platform."""
DEFAULT_NOTICES: Final = 20
"""Notices listed when no limit is given: a screenful."""


class By(StrEnum):
    """By what use is told."""

    PROJECT = "project"
    SECTOR = "sector"
    CATEGORY = "category"
    PRODUCT = "product"


def efficiency(job_id: JobNumber, *, output: Output = Format.TABLE) -> None:
    """Show how a job used its GPUs, how much of the time was observed, and its energy."""
    screen = terminal(output)
    with connect() as client:
        found = client.efficiency(job_id)
    if screen.is_json:
        screen.json(found.raw)
        return
    screen.table(show.FIGURE_HEADS, show.efficiency_rows(found, screen.messages))
    if found.observed.is_simulated:
        screen.note(screen.messages.say("telemetry.simulated"))


def notices(
    job_id: Annotated[int | None, typer.Argument(min=1, metavar="[JOB]", help="Only of this job.")] = None,
    *,
    project: Annotated[str | None, typer.Option("--project", "-p", help="Only of this project.")] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=MAX_NOTICES, help="At most so many, the latest first.")
    ] = DEFAULT_NOTICES,
    output: Output = Format.TABLE,
) -> None:
    """List what you were told because the GPUs of a job stood idle."""
    screen = terminal(output)
    with connect() as client:
        found = list(islice(client.notices(job_id, project=project), limit))
    if screen.is_json:
        screen.json([notice.raw for notice in found])
    elif found:
        screen.table(show.NOTICE_HEADS, show.notice_rows(found, screen.messages))
    else:
        screen.note(screen.messages.say("telemetry.no_notices"))


def idle(*, output: Output = Format.TABLE) -> None:
    """List the running jobs whose GPUs stand idle now, with what is due and why some are left alone."""
    screen = terminal(output)
    with connect() as client:
        found = client.idle_jobs()
    if screen.is_json:
        screen.json(found.raw)
        return
    if found.jobs:
        screen.table(show.IDLE_HEADS, show.idle_rows(found.jobs, screen.messages))
    else:
        screen.note(screen.messages.say("telemetry.none_idle"))
    if found.is_dry_run:
        screen.note(screen.messages.say("telemetry.dry_run"))


def use(
    *,
    by: Annotated[By, typer.Option(help="One row for each of these.")] = By.PROJECT,
    since: Annotated[
        datetime | None,
        typer.Option("--from", formats=["%Y-%m-%d"], help="First day, YYYY-MM-DD; else 30 days before."),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option("--to", formats=["%Y-%m-%d"], help="First day after the period; else until now."),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Show GPU-hours allocated, used and useful, and energy, of attempts that ended in a period."""
    screen = terminal(output)
    days = [None if day is None else day.replace(tzinfo=ALMATY) for day in (since, until)]
    with connect() as client:
        found = client.use(by.value, since=days[0], until=days[1])
    if screen.is_json:
        screen.json(found.raw)
        return
    messages = screen.messages
    if not found.rows:
        screen.note(messages.say("telemetry.no_use"))
        return
    screen.table(show.use_heads(found), show.use_rows(found, messages))
    screen.note(messages.say("telemetry.coverage"))
    if by is By.PRODUCT:
        screen.note(messages.say("telemetry.products"))
    if any(row.observed.is_simulated for row in found.rows):
        screen.note(messages.say("telemetry.simulated"))
