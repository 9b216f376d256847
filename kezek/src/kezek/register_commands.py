"""Commands `kezek registers` and `kezek reports`: how dossiers stand, documents that run out, issued reports."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from kezek import show_registers as show
from kezek.context import Output, connect, terminal
from kezek.localisation_commands import Slug, day
from kezek.registers import Registers, digest_of, save
from kezek.terminal import Format

app = typer.Typer(no_args_is_help=True, help="Registers of trusted software and of Kazakhstani producers.")
reports = typer.Typer(no_args_is_help=True, help="Reports that were issued, for officials and operators.")

On = Annotated[
    datetime | None, typer.Option(formats=["%Y-%m-%d"], help="As of this day, YYYY-MM-DD; else today.")
]
Day = Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="Day, YYYY-MM-DD.")]
StateRegister = Annotated[str, typer.Option("--register", help="trusted or producers.")]


@app.command("list")
def list_dossiers(*, output: Output = Format.TABLE) -> None:
    """List the dossiers you may see."""
    screen = terminal(output)
    with connect() as client:
        found = list(Registers(client).dossiers())
    if screen.is_json:
        screen.json([one.raw for one in found])
    elif found:
        screen.table(show.DOSSIER_HEADS, show.dossier_rows(found, screen.messages))
    else:
        screen.note(screen.messages.say("dossier.none"))


@app.command("show")
def show_dossier(slug: Slug, *, on: On = None, output: Output = Format.TABLE) -> None:
    """Show how a dossier stands: the order of steps, the criteria of the day, its documents."""
    screen = terminal(output)
    with connect() as client:
        found = Registers(client).dossier(slug, None if on is None else day(on))
    if screen.is_json:
        screen.json(found.raw)
        return
    messages, standing = screen.messages, found.inner("standing")
    screen.record(show.standing_pairs(found, messages))
    screen.table(show.STEP_HEADS, show.step_rows(standing, messages), messages.say("dossier.steps"))
    screen.table(
        show.CRITERION_HEADS, show.criterion_rows(standing, messages), messages.say("dossier.criteria")
    )
    screen.table(show.DOCUMENT_HEADS, show.document_rows(found, messages), messages.say("dossier.documents"))


@app.command("document")
def add_document(  # noqa: PLR0913 - every argument is an option of the command line
    slug: Slug,
    *,
    code: Annotated[str, typer.Option(help="What it is, such as test-protocols: docs/localisation.md.")],
    number: Annotated[str, typer.Option(help="Its number.")],
    issued_on: Day,
    expires_on: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Last day it is valid; else without end.")
    ] = None,
    level: Annotated[
        int | None, typer.Option(min=1, max=7, help="Assurance level, of an assurance certificate.")
    ] = None,
    share: Annotated[str | None, typer.Option(help="Share in percent, of an industrial certificate.")] = None,
    file: Annotated[Path | None, typer.Option(help="The document: its SHA-256 is entered, not it.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Enter a document of a dossier; you are reminded before it runs out."""
    screen = terminal(output)
    body = {
        "code": code,
        "number": number,
        "issued_on": day(issued_on),
        "expires_on": None if expires_on is None else day(expires_on),
        "level": level,
        "share_percent": share,
        "sha256": None if file is None else digest_of(file),
    }
    with connect() as client:
        made = Registers(client).add_document(slug, body)
    if screen.is_json:
        screen.json(made.raw)
    else:
        screen.line(screen.messages.say("dossier.documented", id=made.integer("id"), slug=slug))


@app.command("withdraw")
def withdraw_document(
    slug: Slug,
    document_id: Annotated[int, typer.Argument(min=1, metavar="DOCUMENT", help="Id of the document.")],
    *,
    output: Output = Format.TABLE,
) -> None:
    """Take a document out of account: it was replaced, or entered by mistake."""
    screen = terminal(output)
    with connect() as client:
        Registers(client).withdraw_document(slug, document_id)
    if screen.is_json:
        screen.json({"id": document_id})
    else:
        screen.line(screen.messages.say("dossier.withdrawn", id=document_id, slug=slug))


@app.command("reminders")
def list_reminders(*, on: On = None, output: Output = Format.TABLE) -> None:
    """List documents that run out: reminder from 60 days before, alarm from 30, expired after."""
    screen = terminal(output)
    with connect() as client:
        found = Registers(client).reminders(None if on is None else day(on))
    if screen.is_json:
        screen.json(found.raw)
        return
    rows = show.expiry_rows(found.objects("items"), screen.messages)
    if rows:
        screen.table(show.EXPIRY_HEADS, rows)
    else:
        screen.note(screen.messages.say("dossier.nothing_due", day=found.text("on")))


@app.command("check-list")
def check_list(*, on: On = None, output: Output = Format.TABLE) -> None:
    """Show the quarter's check list of the register of Kazakhstani producers; due entries first."""
    screen = terminal(output)
    with connect() as client:
        found = Registers(client).check_list(None if on is None else day(on))
    if screen.is_json:
        screen.json(found.raw)
        return
    title = f"{found.text('quarter_starts_on')} \N{EN DASH} {found.text('quarter_ends_on')}"
    screen.table(show.CHECK_HEADS, show.check_rows(found, screen.messages), title)


@app.command("enter")
def record_entry(slug: Slug, *, register: StateRegister, on: Day, output: Output = Format.TABLE) -> None:
    """Record, as a reviewer, that a product was entered in a register of the state."""
    _record(slug, "entries", {"state_register": register, "entered_on": day(on)}, output)


@app.command("leave")
def record_leaving(slug: Slug, *, register: StateRegister, on: Day, output: Output = Format.TABLE) -> None:
    """Record, as a reviewer, the first day on which a product is in a register no more."""
    _record(slug, "leavings", {"state_register": register, "left_on": day(on)}, output)


@app.command("check")
def record_check(
    slug: Slug,
    *,
    on: Day,
    kept: Annotated[bool, typer.Option("--kept/--not-kept", help="Whether the entry was found right.")],
    output: Output = Format.TABLE,
) -> None:
    """Record, as a reviewer, the quarterly look at an entry of the register of producers."""
    _record(slug, "checks", {"checked_on": day(on), "is_kept": kept}, output)


def _record(slug: str, what: str, body: dict[str, object], output: Format) -> None:
    screen = terminal(output)
    with connect() as client:
        Registers(client).record(slug, what, body)
    if screen.is_json:
        screen.json(body)
    else:
        screen.line(screen.messages.say("dossier.recorded", slug=slug))


@reports.command("list")
def list_reports(*, output: Output = Format.TABLE) -> None:
    """List the reports that were issued, the newest first."""
    screen = terminal(output)
    with connect() as client:
        found = list(Registers(client).reports())
    if screen.is_json:
        screen.json([one.raw for one in found])
    elif found:
        screen.table(show.REPORT_HEADS, show.report_rows(found, screen.messages))
    else:
        screen.note(screen.messages.say("report.none"))


@reports.command("issue")
def issue_report(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="monthly or yearly.")],
    period: Annotated[str, typer.Argument(metavar="PERIOD", help="YYYY-MM or YYYY.")],
    *,
    output: Output = Format.TABLE,
) -> None:
    """Issue a report as of now, as an operator."""
    screen = terminal(output)
    with connect() as client:
        made = Registers(client).issue_report({"kind": kind, "period": period})
    if screen.is_json:
        screen.json(made.raw)
    else:
        screen.line(screen.messages.say("report.issued", digest=made.text("sha256")))


@reports.command("download")
def download_report(
    digest: Annotated[str, typer.Argument(metavar="SHA256", help="Digest of the report's data.")],
    *,
    save_as: Annotated[Path, typer.Option("--save-as", help="File to write.")],
    file_format: Annotated[str, typer.Option("--format", help="pdf, xlsx, docx or json.")] = "pdf",
    language: Annotated[str, typer.Option(help="kk, ru or en.")] = "kk",
    output: Output = Format.TABLE,
) -> None:
    """Download the file of an issued report; it is the same, byte for byte, at any time."""
    screen = terminal(output)
    with connect() as client:
        content = Registers(client).report(digest, {"format": file_format, "language": language})
    save(content, save_as)
    if screen.is_json:
        screen.json({"sha256": digest, "saved": str(save_as)})
    else:
        size = screen.messages.size(len(content))
        screen.line(screen.messages.say("report.saved", path=str(save_as), size=size))
