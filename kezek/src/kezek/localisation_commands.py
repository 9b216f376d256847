"""Commands `kezek localisation`: books of a dossier, its localisation share, the form of Order No 604."""

from __future__ import annotations

import sys
from datetime import date, datetime
from pathlib import Path
from typing import Annotated

import typer

from kezek import show_registers as show
from kezek.context import Output, connect, terminal
from kezek.errors import UsageFaultError
from kezek.registers import Registers, read_rows, save
from kezek.terminal import Format

app = typer.Typer(no_args_is_help=True, help="Localisation share of a software product (Order No 604).")

Slug = Annotated[str, typer.Argument(metavar="DOSSIER", help="Short name of the dossier.")]
Since = Annotated[
    datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First day of the period, YYYY-MM-DD.")
]
Until = Annotated[
    datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="Last day of the period, YYYY-MM-DD.")
]
Rows = Annotated[Path | None, typer.Option(help="CSV file; its columns: docs/localisation.md.")]


def day(at: datetime | date) -> str:
    """A day as the platform reads it."""
    return at.strftime("%Y-%m-%d")


@app.command("open")
def open_dossier(  # noqa: PLR0913 - every argument is an option of the command line
    slug: Slug,
    *,
    project: Annotated[
        str, typer.Option("--project", "-p", envvar="KEZEK_PROJECT", help="Short name of the project.")
    ],
    name_kk: Annotated[str, typer.Option(help="Name of the product in Kazakh.")],
    name_ru: Annotated[str, typer.Option(help="Name of the product in Russian.")],
    name_en: Annotated[str, typer.Option(help="Name of the product in English.")],
    kind: Annotated[str, typer.Option(help="software or electronics.")] = "software",
    output: Output = Format.TABLE,
) -> None:
    """Open the dossier of a product, which its books, documents and entries then belong to."""
    screen = terminal(output)
    name = {"kk": name_kk, "ru": name_ru, "en": name_en}
    with connect() as client:
        made = Registers(client).open({"slug": slug, "project": project, "kind": kind, "name": name})
    if screen.is_json:
        screen.json(made.raw)
    else:
        screen.line(screen.messages.say("dossier.opened", slug=made.text("slug")))


@app.command("import")
def import_books(  # noqa: PLR0913 - every argument is an option of the command line
    slug: Slug,
    *,
    since: Since,
    until: Until,
    parties: Rows = None,
    contracts: Rows = None,
    payments: Rows = None,
    rates: Rows = None,
    correct: Annotated[
        bool, typer.Option("--correct", help="Replace what was entered with other values.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Enter parties, contracts, payments and rates of a reporting period from CSV files, all or none."""
    screen = terminal(output)
    files = {"parties": parties, "contracts": contracts, "payments": payments, "rates": rates}
    given = {kind: read_rows(path, kind) for kind, path in files.items() if path is not None}
    if not given:
        raise UsageFaultError("usage.no_rows")
    body = {"starts_on": day(since), "ends_on": day(until), "is_correction": correct, **given}
    with connect() as client:
        made = Registers(client).enter_books(slug, body)
    if screen.is_json:
        screen.json(made.raw)
    else:
        counts = {name: made.integer(name) for name in ("added", "unchanged", "corrected")}
        screen.line(screen.messages.say("localisation.entered", **counts))


@app.command("payments")
def payments_of(slug: Slug, *, output: Output = Format.TABLE) -> None:
    """List the payments of a dossier, each with whether it counts as foreign."""
    screen = terminal(output)
    with connect() as client:
        found = list(Registers(client).payments(slug))
    if screen.is_json:
        screen.json([one.raw for one in found])
    else:
        screen.table(show.PAYMENT_HEADS, show.payment_rows(found, screen.messages))


@app.command("remove")
def remove_payment(
    slug: Slug,
    *,
    contract: Annotated[str, typer.Option(help="Number of the contract.")],
    number: Annotated[str, typer.Option(help="Number of the payment.")],
    output: Output = Format.TABLE,
) -> None:
    """Remove a payment that was entered by mistake."""
    screen = terminal(output)
    with connect() as client:
        Registers(client).remove_payment(slug, contract, number)
    if screen.is_json:
        screen.json({"contract": contract, "number": number})
    else:
        screen.line(screen.messages.say("localisation.removed", number=number, contract=contract))


@app.command("show")
def show_share(
    slug: Slug,
    *,
    since: Since,
    until: Until,
    applied_on: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"], help="Day of the application: shows the rule for the year before."
        ),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Show the localisation share of a period, and whether it reaches 80 %."""
    screen = terminal(output)
    query = {"starts_on": day(since), "ends_on": day(until)}
    if applied_on is not None:
        query["applied_on"] = day(applied_on)
    with connect() as client:
        found = Registers(client).share(slug, query)
    if screen.is_json:
        screen.json(found.raw)
        return
    screen.record(show.share_pairs(found, screen.messages))
    if outside := found.integer("payments_outside"):
        screen.note(screen.messages.say("localisation.outside", count=outside))


@app.command("report")
def report(  # noqa: PLR0913 - every argument is an option of the command line
    slug: Slug,
    *,
    since: Since,
    until: Until,
    responsible: Annotated[str, typer.Option(help="Person responsible, as the form is to name it.")],
    contact: Annotated[str, typer.Option(help="Telephone or e-mail.")],
    save_as: Annotated[Path, typer.Option("--save-as", help="File to write.")],
    file_format: Annotated[str, typer.Option("--format", help="pdf or docx.")] = "pdf",
    language: Annotated[str, typer.Option(help="kk or ru.")] = "kk",
    iin_stdin: Annotated[
        bool, typer.Option("--iin-stdin", help="Read the applicant's IIN from standard input; else the BIN.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Calculate the share of a period, keep it, and save the report in the form of the order's annex."""
    screen = terminal(output)
    if save_as.exists():
        raise UsageFaultError("usage.file_exists", path=str(save_as))
    body: dict[str, object] = {
        "starts_on": day(since),
        "ends_on": day(until),
        "responsible": responsible,
        "contact": contact,
    }
    if iin_stdin:
        body["iin"] = sys.stdin.readline().strip()
    with connect() as client:
        registers = Registers(client)
        made = registers.calculate(slug, body)
        query = {"format": file_format, "language": language}
        save(registers.form(slug, made.integer("id"), query), save_as)
    if screen.is_json:
        screen.json({**made.raw, "saved": str(save_as)})
        return
    percent = made.inner("share").text("share_percent")
    screen.line(screen.messages.say("localisation.saved", path=str(save_as), percent=percent))
