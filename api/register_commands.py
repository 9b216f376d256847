"""The commands `kezek-server kpi` and `kezek-server product`: indicators from the database, products of before."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from api import kpi, offline
from api.i18n import LANGUAGES
from products.history import MAX_IMPORT_CHARS, BadImportError, import_products
from products.indicator import YearWithoutTargetError
from products.kpi import FutureError
from store import clock, journal
from store.engine import transaction
from store.settings import Settings

EXIT_FAILED = 1
"""Exit code of figures that cannot be given, or of an import that was refused."""


def add_kpi_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `kezek-server kpi` to its parser."""
    parser.add_argument("--indicator", type=int, choices=kpi.COUNTED, required=True)
    parser.add_argument("--year", type=int, help="one year; absent: every year, of 7 and 8 the as-of time's")
    parser.add_argument("--as-of", help="ISO 8601 instant with its offset; absent: now")
    parser.add_argument("--language", choices=LANGUAGES, default="en", help="language of the definition")
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--offline",
        action="store_true",
        help="start the state folder's own database for the reading when no platform runs",
    )


def add_product_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions of `kezek-server product` to its parser."""
    actions = parser.add_subparsers(dest="action", required=True)
    made = actions.add_parser("import", help="import products of 2025 and 2026 with their decisions")
    made.add_argument("file", type=Path, help="CSV; docs/products.md gives its columns")


def run_kpi(options: argparse.Namespace, settings: Settings, engine: Engine | None) -> int:
    """Print an indicator; `engine` is None to open the database as `--offline` does."""
    now = clock.now()
    try:
        as_of = kpi.checked_as_of(_instant(options.as_of), now)
        if engine is None:
            with offline.database(settings) as opened:
                found = kpi.document(
                    opened, options.indicator, as_of, year=options.year, language=options.language
                )
        else:
            found = kpi.document(
                engine, options.indicator, as_of, year=options.year, language=options.language
            )
    except (YearWithoutTargetError, FutureError, ValueError) as error:
        sys.stderr.write(f"kezek-server kpi: {error}\n")
        return EXIT_FAILED
    if options.json:
        sys.stdout.write(json.dumps(found, indent=2, ensure_ascii=False, sort_keys=True) + "\n")
    else:
        sys.stdout.writelines(f"{line}\n" for line in _lines(found))
    return 0


def run_product(options: argparse.Namespace, engine: Engine) -> int:
    """Import products of before; all of the file, or nothing."""
    try:
        with options.file.open(encoding="utf-8-sig", newline="") as opened:
            text = opened.read(MAX_IMPORT_CHARS + 1)
        with transaction(engine) as session:
            count = import_products(session, text, actor=journal.SYSTEM, at=clock.now())
    except (BadImportError, UnicodeDecodeError) as error:
        sys.stderr.write(f"kezek-server product import: {options.file}: {error}\n")
        return EXIT_FAILED
    sys.stdout.write(f"{options.file}: {count} products imported; no job evidence, shown apart\n")
    return 0


def _instant(text: str | None) -> datetime | None:
    if text is None:
        return None
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(f"{text} has no time zone; add one, as +05:00")
    return found


def _lines(found: dict[str, Any]) -> list[str]:
    simulated = ["Simulated: there are no real GPUs behind these figures."] if found["is_simulated"] else []
    ambiguity = [found["ambiguity"]] if found["ambiguity"] else []
    head = [found["definition"], *ambiguity, f"source: {found['source']}", f"as of: {found['as_of']}"]
    if "years" not in found:
        figure = f"{found['year']}: the platform's contribution {found['contribution']}, national target"
        return [*head, *simulated, f"{figure} {found['national_target']}", *found["counted"]]
    years = [
        f"{year['year']}: "
        + (
            "not begun"
            if year["added"] is None
            else f"{year['added']} added, {year['cumulative']} in all; imported {year['imported_added']} and "
            f"{year['imported_cumulative']}"
        )
        + f"; target {year['target']}"
        for year in found["years"]
    ]
    counted = [
        f"  {item['slug']}: counts since {item['held_at']}, rule {item['rule']}" for item in found["counted"]
    ]
    rest = f"not verified: {found['unverified']}; verified without evidence: {found['without_evidence']}"
    return [*head, *simulated, *years, *counted, rest]
