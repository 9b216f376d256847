"""The commands `kezek-server report`: make a report, issue it, verify a file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import date, datetime
from pathlib import Path

from sqlalchemy import Engine

from api.commands import NoDatabaseError, database_url
from products.gather import gather, issue
from products.kpi import FutureError
from products.reports.build import FORMATS, MAX_FILE_BYTES, UnreadableReportError, build, verify
from products.reports.data import BadReportError, month_period
from products.reports.texts import LANGUAGES
from store import clock, journal, migrate
from store.engine import DatabaseUrlError, open_engine, snapshot, transaction
from store.settings import Settings

EXIT_FAILED = 1
"""Exit code of a report that cannot be made, or of a file that does not hold."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions of `kezek-server report` to its parser."""
    actions = parser.add_subparsers(dest="action", required=True)
    monthly = actions.add_parser("monthly", help="make the KPI report of a month")
    monthly.add_argument("--period", required=True, metavar="YYYY-MM")
    yearly = actions.add_parser("yearly", help="make the platform's contribution to the yearly report")
    yearly.add_argument("--period", required=True, metavar="YYYY")
    for made in (monthly, yearly):
        made.add_argument("--format", choices=FORMATS, default="pdf")
        made.add_argument("--language", choices=LANGUAGES, default="kk")
        made.add_argument("--as-of", help="ISO 8601 instant with its offset; absent: now")
        made.add_argument("--output", type=Path, required=True, help="file to write")
    check = actions.add_parser("verify", help="check a report's file against the data it carries")
    check.add_argument("file", type=Path)


def run_report(options: argparse.Namespace, opened: Callable[[], Engine], now: datetime) -> int:
    """Do what the parsed command line asks; return the exit code.

    Args:
        options: parsed by the parser that `add_arguments` filled.
        opened: opens the database; not called to verify a file, which needs none.
        now: the present instant.
    """
    try:
        return _verify(options.file) if options.action == "verify" else _make(options, opened(), now)
    except (FutureError, BadReportError, UnreadableReportError, OSError, ValueError) as error:
        sys.stderr.write(f"kezek-server report {options.action}: {error}\n")
        return EXIT_FAILED


def period_of(action: str, text: str) -> tuple[date, date]:
    """First and last day of "2026-10" (monthly) or "2026" (yearly).

    Raises:
        ValueError: it is neither.
    """
    parts = text.split("-")
    if len(parts) == (2 if action == "monthly" else 1) and all(part.isdigit() for part in parts):
        numbers = [int(part) for part in parts]
        return (
            month_period(numbers[0], numbers[1])
            if action == "monthly"
            else (
                date(numbers[0], 1, 1),
                date(numbers[0], 12, 31),
            )
        )
    wanted = "YYYY-MM, as 2026-10" if action == "monthly" else "YYYY, as 2026"
    raise ValueError(f"{text!r} is no period; write {wanted}")


def _make(options: argparse.Namespace, engine: Engine, now: datetime) -> int:
    as_of = now if options.as_of is None else datetime.fromisoformat(options.as_of)
    if as_of.tzinfo is None:
        raise ValueError(f"{options.as_of} has no time zone; add one, as +05:00")
    if as_of > now:
        raise FutureError(f"as-of time {as_of.isoformat()}", now)
    period = period_of(options.action, options.period)
    with snapshot(engine) as session:
        report = gather(session, options.action, period, as_of)
    content = build(report, options.format, options.language)
    with transaction(engine) as session:
        made = issue(session, report, actor=journal.SYSTEM, at=now)
    options.output.write_bytes(content)
    sys.stdout.write(f"{options.output}: {len(content)} bytes, data SHA-256 {made}\n")
    return 0


def _verify(file: Path) -> int:
    with file.open("rb") as opened:
        found = verify(opened.read(MAX_FILE_BYTES + 1))
    if found.problem is not None:
        sys.stderr.write(f"{file}: NOT verified: {found.problem}\n")
        return EXIT_FAILED
    sys.stdout.write(
        f"{file}: verified, {found.kind} report in {found.language} as {found.file_format}, "
        f"as of {found.as_of.isoformat()}, data SHA-256 {found.digest}\n"
    )
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments that follow `kezek-server report`."""
    parser = argparse.ArgumentParser(
        prog="kezek-server report", description="Make a report, or verify a file."
    )
    add_arguments(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Run `kezek-server report`; return its exit code (0 done, 1 failed, 2 wrong command line)."""
    options = parse(arguments)

    def opened() -> Engine:
        found = open_engine(database_url(Settings()))
        migrate.check(found)
        return found

    try:
        return run_report(options, opened, clock.now())
    except (NoDatabaseError, DatabaseUrlError, migrate.SchemaMismatchError) as error:
        sys.stderr.write(f"kezek-server report: {error}\n")
        return EXIT_FAILED
