"""Commands about what was built: the product register, its evidence, and the icebreaker initiatives."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Final

import typer

from kezek import show
from kezek.context import Output, connect, terminal
from kezek.errors import UsageFaultError
from kezek.register import Product, ProductRequest
from kezek.terminal import Format

products = typer.Typer(no_args_is_help=True, help="The register of products built on the platform.")
initiatives = typer.Typer(no_args_is_help=True, help="Icebreaker initiatives with their KPI and deadline.")

Slug = Annotated[str, typer.Argument(help="Short name of the product.")]
Jobs = Annotated[list[int], typer.Argument(min=1, metavar="JOBS...", help="Numbers of jobs.")]
Day = Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="Day, YYYY-MM-DD.")]
Direction = Annotated[str | None, typer.Option(help="Direction of the Digital Qazaqstan strategy.")]
AiKind = Annotated[str | None, typer.Option(help="Kind of AI, such as language, speech or vision.")]
BuildsOn = Annotated[list[str] | None, typer.Option(help="Model it builds on, such as kazllm; repeat.")]
Link = Annotated[list[str] | None, typer.Option(help="Address where it can be seen; repeat.")]
Users = Annotated[str | None, typer.Option(help="Who uses it, and how many.")]
Programme = Annotated[str | None, typer.Option(help="Acceleration programme.")]
Author = Annotated[list[str] | None, typer.Option(help="Who made it; repeat.")]
DataSet = Annotated[
    list[str] | None, typer.Option(help="Data it was made with: ID,LICENCE[,SHA256]; repeat.")
]

_DATA_SET_PARTS: Final = (2, 3)


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
def show_product(slug: Slug, *, output: Output = Format.TABLE) -> None:
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
    direction: Direction = None,
    ai_kind: AiKind = None,
    builds_on: BuildsOn = None,
    link: Link = None,
    users: Users = None,
    programme: Programme = None,
    author: Author = None,
    data_set: DataSet = None,
    draft: Annotated[bool, typer.Option("--draft", help="Keep it as a draft; submit it later.")] = False,
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
        is_draft=draft,
        further=_given(
            direction=direction,
            ai_kind=ai_kind,
            builds_on=builds_on,
            links=link,
            users=users,
            programme=programme,
            authors=author,
            data_sets=_data_sets(data_set),
        ),
    )
    with connect() as client:
        made = client.register_product(request)
    if screen.is_json:
        screen.json(made.raw)
    else:
        key = "product.drafted" if draft else "product.registered"
        screen.line(screen.messages.say(key, slug=made.slug))


@products.command("describe")
def describe_product(  # noqa: PLR0913 - every argument is an option of the command line
    slug: Slug,
    *,
    description: Annotated[str | None, typer.Option(help="What it does.")] = None,
    stage: Annotated[str | None, typer.Option(help="idea, prototype, pilot, production or retired.")] = None,
    direction: Direction = None,
    ai_kind: AiKind = None,
    builds_on: BuildsOn = None,
    link: Link = None,
    users: Users = None,
    programme: Programme = None,
    author: Author = None,
    data_set: DataSet = None,
    output: Output = Format.TABLE,
) -> None:
    """Say something else of a product; what is not named stays. Of a verified one, more holds once verified again."""
    changes = _given(
        description=description,
        stage=stage,
        direction=direction,
        ai_kind=ai_kind,
        builds_on=builds_on,
        links=link,
        users=users,
        programme=programme,
        authors=author,
        data_sets=_data_sets(data_set),
    )
    if not changes:
        raise UsageFaultError("usage.nothing_to_change")
    with connect() as client:
        _told(client.change_product(slug, changes), output)


@products.command("submit")
def submit_product(slug: Slug, *, output: Output = Format.TABLE) -> None:
    """Submit a draft, or a returned product again, for review."""
    with connect() as client:
        _told(client.submit_product(slug), output)


@products.command("withdraw")
def withdraw_product(slug: Slug, *, output: Output = Format.TABLE) -> None:
    """Withdraw a product for good; earlier figures stand."""
    with connect() as client:
        _told(client.withdraw_product(slug), output)


@products.command("verify")
def verify_product(slug: Slug, *, output: Output = Format.TABLE) -> None:
    """Verify a product as an independent reviewer, or renew its verification."""
    with connect() as client:
        _told(client.verify_product(slug), output)


@products.command("return")
def return_product(
    slug: Slug,
    *,
    note: Annotated[str, typer.Option(help="The reason, for its author.")],
    output: Output = Format.TABLE,
) -> None:
    """Return a product to its author with a reason, as an independent reviewer."""
    with connect() as client:
        _told(client.return_product(slug, note), output)


@products.command("link")
def link_jobs(slug: Slug, jobs: Jobs, *, output: Output = Format.TABLE) -> None:
    """Name further jobs of the project as a product's evidence."""
    with connect() as client:
        _told(client.link_jobs(slug, jobs), output)


@products.command("unlink")
def unlink_job(
    slug: Slug,
    job_id: Annotated[int, typer.Argument(min=1, metavar="JOB", help="Number of the job.")],
    *,
    output: Output = Format.TABLE,
) -> None:
    """Take a job back as evidence from now on."""
    with connect() as client:
        _told(client.unlink_job(slug, job_id), output)


@products.command("version")
def add_version(  # noqa: PLR0913 - every argument is an option of the command line
    slug: Slug,
    version: Annotated[str, typer.Argument(help="Version of the model, such as 1.0.")],
    *,
    job: Annotated[int, typer.Option(min=1, help="Linked job that made it.")],
    path: Annotated[str, typer.Option(help="File that the job kept.")],
    rank: Annotated[int, typer.Option(min=0, help="Rank of a gang that kept it.")] = 0,
    digest: Annotated[
        str | None, typer.Option(help="SHA-256 you hold; must be what the node computed.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Name a file that a linked job kept as a version of the product's model."""
    screen = terminal(output)
    asked = {"version": version, "job": job, "path": path, "rank": rank, **_given(sha256=digest)}
    with connect() as client:
        made = client.add_version(slug, asked)
    if screen.is_json:
        screen.json(made.raw)
    else:
        screen.line(screen.messages.say("product.version", version=version, digest=made.text("sha256")))


@products.command("verdict")
def show_verdict(
    slug: Slug,
    *,
    as_of: Annotated[str | None, typer.Option(help="RFC 3339 instant; else now.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Show whether a product counts for indicator 2, condition by condition."""
    screen = terminal(output)
    with connect() as client:
        found = client.verdict(slug, as_of)
    if screen.is_json:
        screen.json(found.raw)
        return
    messages = screen.messages
    screen.table(show.CONDITION_HEADS, show.condition_rows(found, messages))
    if found.counts and found.counted_at is not None:
        at = messages.instant(found.counted_at)
        screen.line(messages.say("product.counts", at=at, year=str(found.year), rule=found.rule or ""))
    else:
        screen.line(messages.say("product.counts_not"))
    if found.is_review_overdue and found.review_due_at is not None:
        screen.note(messages.say("product.overdue", at=messages.instant(found.review_due_at)))


@products.command("chain")
def show_chain(slug: Slug, *, output: Output = Format.TABLE) -> None:
    """Show the chain of evidence: policy, queue, decision, job, GPU-hours, energy, model digest."""
    screen = terminal(output)
    with connect() as client:
        found = client.chain(slug)
    if screen.is_json:
        screen.json(found.raw)
        return
    screen.table(show.CHAIN_HEADS, show.chain_rows(found, screen.messages))
    if found.is_simulated:
        screen.note(screen.messages.say("cluster.simulated"))


@products.command("duplicates")
def show_duplicates(slug: Slug, *, output: Output = Format.TABLE) -> None:
    """Show products with the same name, model digest or link."""
    screen = terminal(output)
    with connect() as client:
        found = client.duplicates(slug)
    if screen.is_json:
        screen.json([each.raw for each in found])
    elif found:
        screen.table(show.LIKENESS_HEADS, show.likeness_rows(found, screen.messages))
    else:
        screen.note(screen.messages.say("product.unique"))


@initiatives.command("list")
def list_initiatives(*, output: Output = Format.TABLE) -> None:
    """List the icebreaker initiatives, and where each stands."""
    screen = terminal(output)
    with connect() as client:
        found = client.initiatives()
    if screen.is_json:
        screen.json([each.raw for each in found])
    elif found:
        screen.table(show.INITIATIVE_HEADS, show.initiative_rows(found, screen.messages))
    else:
        screen.note(screen.messages.say("initiative.none"))


@initiatives.command("add")
def add_initiative(  # noqa: PLR0913 - every argument is an option of the command line
    slug: Annotated[str, typer.Argument(help="Short name: small Latin letters, digits, hyphens.")],
    *,
    direction: Annotated[str, typer.Option(help="Direction of the Digital Qazaqstan strategy.")],
    kpi_kk: Annotated[str, typer.Option(help="What is measured, in Kazakh.")],
    kpi_ru: Annotated[str, typer.Option(help="What is measured, in Russian.")],
    kpi_en: Annotated[str, typer.Option(help="What is measured, in English.")],
    unit: Annotated[str, typer.Option(help="Unit of the KPI.")],
    baseline: Annotated[int, typer.Option(help="Value at the start.")],
    target: Annotated[int, typer.Option(help="Value to reach.")],
    deadline: Day,
    output: Output = Format.TABLE,
) -> None:
    """Register an icebreaker initiative, as an operator."""
    asked = {
        "slug": slug,
        "direction": direction,
        "kpi": {"kk": kpi_kk, "ru": kpi_ru, "en": kpi_en},
        "unit": unit,
        "baseline": baseline,
        "target": target,
        "deadline": deadline.date().isoformat(),
    }
    screen = terminal(output)
    with connect() as client:
        made = client.add_initiative(asked)
    if screen.is_json:
        screen.json(made.raw)
    else:
        screen.table(show.INITIATIVE_HEADS, show.initiative_rows([made], screen.messages))


@initiatives.command("measure")
def measure_initiative(
    slug: Annotated[str, typer.Argument(help="Short name of the initiative.")],
    value: Annotated[int, typer.Argument(help="Value of its KPI.")],
    *,
    on: Day,
    source: Annotated[str, typer.Option(help="Where it was read.")],
    output: Output = Format.TABLE,
) -> None:
    """Enter a value of an initiative's KPI, as an operator; once entered it stands."""
    screen = terminal(output)
    asked = {"on": on.date().isoformat(), "value": value, "source": source}
    with connect() as client:
        made = client.measure_initiative(slug, asked)
    if screen.is_json:
        screen.json(made.raw)
    else:
        screen.table(show.INITIATIVE_HEADS, show.initiative_rows([made], screen.messages))


def _told(product: Product, output: Format) -> None:
    screen = terminal(output)
    if screen.is_json:
        screen.json(product.raw)
        return
    messages = screen.messages
    status = messages.named("product_status", product.status)
    screen.line(messages.say("product.status", slug=product.slug, status=status))


def _given(**values: object) -> Mapping[str, object]:
    return {name: value for name, value in values.items() if value is not None}


def _data_sets(texts: list[str] | None) -> list[dict[str, str]] | None:
    if texts is None:
        return None
    found = []
    for text in texts:
        parts = [part.strip() for part in text.split(",")]
        if len(parts) not in _DATA_SET_PARTS or not all(parts):
            raise UsageFaultError("usage.data_set", text=text)
        found.append(dict(zip(("id", "licence", "digest"), parts, strict=False)))
    return found
