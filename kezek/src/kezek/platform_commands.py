"""Commands about the platform: quota, cluster, kpi, products, outputs."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from kezek import show
from kezek.context import JobNumber, Output, connect, terminal
from kezek.errors import UsageFaultError
from kezek.messages import ALMATY
from kezek.register import ProductRequest
from kezek.terminal import Format

products = typer.Typer(no_args_is_help=True, help="The register of products built on the platform.")
outputs = typer.Typer(no_args_is_help=True, help="Files that jobs kept.")


def quota(*, output: Output = Format.TABLE) -> None:
    """Show what your projects have: GPU-hours granted, used and left, and their queues."""
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


def kpi(
    *,
    year: Annotated[
        int | None, typer.Option(min=2000, max=2200, help="One year; else every year with a target.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Show target indicator 2: AI products developed on the platform, plan and fact by year."""
    screen = terminal(output)
    with connect() as client:
        found = client.indicator_2(year)
    if screen.is_json:
        screen.json(found.raw)
        return
    messages = screen.messages
    screen.table(show.YEAR_HEADS, show.year_rows(found, messages), messages.say("kpi.title"))
    screen.note(messages.say("kpi.ambiguity"))
    screen.note(messages.say("kpi.unverified", count=found.unverified, count_without=found.without_evidence))
    screen.note(f"{messages.say('head.as_of')}: {messages.instant(found.as_of)} ({ALMATY.tzname(None)})")


@products.command("list")
def list_products(*, output: Output = Format.TABLE) -> None:
    """List the products you may see."""
    screen = terminal(output)
    with connect() as client:
        found = list(client.products())
    if screen.is_json:
        screen.json([product.raw for product in found])
    elif found:
        screen.table(show.PRODUCT_HEADS, show.product_rows(found, screen.messages))
    else:
        screen.note(screen.messages.say("product.none"))


@products.command("show")
def show_product(
    slug: Annotated[str, typer.Argument(help="Short name of the product.")], *, output: Output = Format.TABLE
) -> None:
    """Show a product and the jobs it was built by."""
    screen = terminal(output)
    with connect() as client:
        found = client.product(slug)
    if screen.is_json:
        screen.json(found.raw)
        return
    screen.record(show.product_pairs(found, screen.messages))
    if found.evidence:
        screen.table(show.EVIDENCE_HEADS, show.evidence_rows(found, screen.messages))


@products.command("register")
def register_product(  # noqa: PLR0913 - every argument is an option of the command line
    slug: Annotated[str, typer.Argument(help="Short name: small Latin letters, digits, hyphens.")],
    *,
    project: Annotated[
        str, typer.Option("--project", "-p", envvar="KEZEK_PROJECT", help="Short name of the project.")
    ],
    name_kk: Annotated[str, typer.Option(help="Name in Kazakh.")],
    name_ru: Annotated[str, typer.Option(help="Name in Russian.")],
    name_en: Annotated[str, typer.Option(help="Name in English.")],
    sector: Annotated[str, typer.Option(help="Sector of the economy it serves, such as health-care.")],
    stage: Annotated[str, typer.Option(help="idea, prototype, pilot, production or retired.")],
    started_on: Annotated[
        datetime, typer.Option(formats=["%Y-%m-%d"], help="Day its making began, YYYY-MM-DD.")
    ],
    job: Annotated[list[int] | None, typer.Option(min=1, help="Job it was built by; repeat.")] = None,
    description: Annotated[str, typer.Option(help="What it does.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Enter a product in the register; a reviewer then verifies it."""
    screen = terminal(output)
    request = ProductRequest(
        slug=slug,
        project=project,
        name={"kk": name_kk, "ru": name_ru, "en": name_en},
        sector=sector,
        stage=stage,
        started_on=started_on.date(),
        description=description,
        jobs=tuple(job or ()),
    )
    with connect() as client:
        made = client.register_product(request)
    if screen.is_json:
        screen.json(made.raw)
    else:
        screen.line(screen.messages.say("product.registered", slug=made.slug))


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
