"""Texts of the reports in Kazakh, Russian and English, and dates and numbers as CLDR has each language write them."""

from __future__ import annotations

import gettext
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Final, Literal

from babel.dates import format_date, format_datetime
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.numbers import format_decimal

from products.indicator import ALMATY

Language = Literal["kk", "ru", "en"]

LANGUAGES: Final[tuple[Language, ...]] = ("kk", "ru", "en")
"""Languages of the reports; the state language stands first."""

_FOLDER: Final = Path(__file__).parent / "locale"


class MissingTextError(KeyError):
    """A language has no text of a key: a defect of the catalogue."""


@cache
def _catalogue(language: Language) -> gettext.GNUTranslations:
    with (_FOLDER / f"{language}.po").open("rb") as file:
        found = read_po(file, locale=language)
    compiled = BytesIO()
    write_mo(compiled, found)
    compiled.seek(0)
    return gettext.GNUTranslations(compiled)


def text(language: Language, key: str, **values: object) -> str:
    """The text of a key with its placeholders filled in.

    Raises:
        MissingTextError: the language has no such text.
    """
    found = _catalogue(language).gettext(key)
    if found == key:
        raise MissingTextError(f"{language} has no text {key!r}")
    return found.format(**values)


def count(language: Language, key: str, number: int) -> str:
    """A number with its noun in the language's plural form.

    Raises:
        MissingTextError: the language has no such text.
    """
    found = _catalogue(language).ngettext(key, key, number)
    if found == key:
        raise MissingTextError(f"{language} has no text {key!r}")
    return found.format(count=decimal(language, Decimal(number), places=0))


def decimal(language: Language, value: Decimal, *, places: int) -> str:
    """A number with a fixed number of decimal places, grouped as the language does."""
    pattern = "#,##0" + ("." + "0" * places if places else "")
    return format_decimal(value, format=pattern, locale=language)


def percent(language: Language, whole: int) -> str:
    """A whole percentage; the space before the sign does not break."""
    return f"{whole}%" if language == "en" else f"{whole}\N{NO-BREAK SPACE}%"


def day(language: Language, on: date) -> str:
    """A date with the month's name."""
    return format_date(on, format="long", locale=language)


def instant(language: Language, at: datetime) -> str:
    """Date and time in Almaty with the zone's offset."""
    local = at.astimezone(ALMATY)
    clock = format_datetime(local, "HH:mm (ZZZZ)", locale=language).replace("GMT", "UTC")
    return f"{day(language, local.date())}, {clock}"


def month(language: Language, on: date) -> str:
    """A month of a year, as "2026 жылғы қазан"."""
    name = format_date(on, format="LLLL", locale=language)
    return text(language, "period.month", year=on.year, month=name.lower() if language != "en" else name)
