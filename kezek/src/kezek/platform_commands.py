"""Commands about the platform: quota, cluster, kpi, outputs. Products have `kezek.product_commands`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kezek import show
from kezek.context import JobNumber, Output, connect, terminal
from kezek.errors import UsageFaultError
from kezek.messages import ALMATY
from kezek.terminal import Format, Terminal

outputs = typer.Typer(no_args_is_help=True, help="Files that jobs kept.")


def quota(*, output: Output = Format.TABLE) -> None:
    """Show what your projects have: GPU-hours granted, used and left, and their queues with their slices."""
    screen = terminal(output)
    with connect() as client:
        found = client.quota()
    if screen.is_json:
        screen.json(found.raw)
        return
    messages = screen.messages
    if found.grants:
        rows = show.grant_rows(found.grants, messages)
        screen.table(show.GRANT_HEADS, rows, messages.say("quota.grants"))
    else:
        screen.note(messages.say("quota.none"))
    if found.queues:
        screen.table(show.QUEUE_HEADS, show.queue_rows(found.queues, messages), messages.say("quota.queues"))
    if slices := show.slice_rows(found.queues, messages):
        screen.table(show.SLICE_HEADS, slices, messages.say("quota.slices"))


def cluster(*, output: Output = Format.TABLE) -> None:
    """Show the nodes and how many of their GPUs are free."""
    screen = terminal(output)
    with connect() as client:
        found = client.cluster()
    if screen.is_json:
        screen.json(found.raw)
        return
    messages = screen.messages
    if not found.nodes:
        screen.note(messages.say("cluster.empty"))
        return
    screen.table(show.NODE_HEADS, show.node_rows(found, messages))
    figures = {"total": found.gpus, "busy": found.busy, "free": found.free, "down": found.down}
    screen.note(messages.say("cluster.total", **figures))
    if found.is_simulated:
        screen.note(messages.say("cluster.simulated"))


class Indicator(StrEnum):
    """Indicators that the platform has figures of."""

    TWO = "2"
    SEVEN = "7"
    EIGHT = "8"


def kpi(
    *,
    indicator: Annotated[
        Indicator, typer.Option(help="2, or the platform's contribution to 7 or 8.")
    ] = Indicator.TWO,
    year: Annotated[
        int | None, typer.Option(min=2000, max=2200, help="One year; else every year, of 7 and 8 this one.")
    ] = None,
    as_of: Annotated[str | None, typer.Option(help="RFC 3339 instant; else now.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Show a target indicator: 2 by plan and fact, 7 and 8 as the platform's contribution."""
    screen = terminal(output)
    if indicator is not Indicator.TWO:
        _contribution(screen, int(indicator), year, as_of)
        return
    with connect() as client:
        found = client.indicator_2(year, as_of)
    if screen.is_json:
        screen.json(found.raw)
        return
    messages = screen.messages
    screen.table(show.YEAR_HEADS, show.year_rows(found, messages), messages.say("kpi.title"))
    screen.note(messages.say("kpi.ambiguity"))
    screen.note(messages.say("kpi.unverified", count=found.unverified, count_without=found.without_evidence))
    screen.note(f"{messages.say('head.as_of')}: {messages.instant(found.as_of)} ({ALMATY.tzname(None)})")


def _contribution(screen: Terminal, number: int, year: int | None, as_of: str | None) -> None:
    with connect() as client:
        found = client.contribution(number, year, as_of)
    if screen.is_json:
        screen.json(found.raw)
        return
    messages = screen.messages
    row = (str(found.year), str(found.contribution), str(found.national_target))
    screen.table(show.CONTRIBUTION_HEADS, [row], found.definition)
    if found.ambiguity is not None:
        screen.note(found.ambiguity)
    screen.note(f"{messages.say('head.as_of')}: {messages.instant(found.as_of)} ({ALMATY.tzname(None)})")


@outputs.command("list")
def list_outputs(job_id: JobNumber, *, output: Output = Format.TABLE) -> None:
    """List the files a job kept, with their digests."""
    screen = terminal(output)
    with connect() as client:
        found = list(client.outputs(job_id))
    if screen.is_json:
        screen.json([one.raw for one in found])
    elif found:
        screen.table(show.OUTPUT_HEADS, show.output_rows(found, screen.messages))
    else:
        screen.note(screen.messages.say("outputs.none", id=job_id))


@outputs.command("download")
def download_outputs(
    job_id: JobNumber,
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="[FILES]...", help="Only these; else all.")
    ] = None,
    *,
    to: Annotated[Path, typer.Option(help="Folder to save them in.")] = Path(),
    rank: Annotated[int | None, typer.Option(min=0, help="Only of this rank.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Download files a job kept and check their digests; those of rank N > 0 go to rank-N/."""
    screen = terminal(output)
    wanted = set(paths or ())
    saved: list[dict[str, object]] = []
    with connect() as client:
        latest = {(one.rank, one.path): one for one in client.outputs(job_id) if rank in {None, one.rank}}
        for path in sorted(wanted - {path for _, path in latest}):
            raise UsageFaultError("usage.no_such_output", id=job_id, path=path)
        for one in latest.values():
            if wanted and one.path not in wanted:
                continue
            folder = to / f"rank-{one.rank}" if one.rank else to
            target = client.download(job_id, one, folder)
            saved.append({**one.raw, "saved": str(target)})
            if not screen.is_json:
                size = screen.messages.size(one.size_bytes)
                screen.line(screen.messages.say("outputs.saved", path=str(target), size=size))
    if screen.is_json:
        screen.json(saved)
    elif not saved:
        screen.note(screen.messages.say("outputs.none", id=job_id))
