"""The message catalogue: Kazakh, Russian and English texts by stable keys, and figures as each language writes them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Final

from babel.dates import format_datetime
from babel.messages.pofile import read_po
from babel.numbers import format_decimal, format_percent

from store.clock import ALMATY

LANGUAGES: Final = ("kk", "ru", "en")
"""Languages of the platform; the state language stands first."""

MAX_HEADER_CHARS: Final = 500
"""Accept-Language beyond this is not read: browsers send a few dozen characters."""

_LOCALE_DIR: Final = Path(__file__).parent / "locale"
_MINUTE_S: Final = 60
_HOUR_S: Final = 3600


@cache
def catalogue(language: str) -> Mapping[str, str]:
    """Texts of a language by key; read from its `.po` file once."""
    path = _LOCALE_DIR / language / "LC_MESSAGES" / "kezek.po"
    with path.open("rb") as file:
        found = read_po(file, locale=language)
    return {str(message.id): str(message.string) for message in found if message.id and message.string}


def translate(language: str, key: str, **values: object) -> str:
    """The text of a key with its placeholders filled in; the key itself when the catalogue lacks it.

    A placeholder without a value shows as its name in braces.
    """
    text = catalogue(language).get(key)
    if text is None:
        return key
    return text.format_map(_Named(values)) if "{" in text else text


class _Named(dict[str, object]):
    """Values of placeholders; what is missing keeps its braces."""

    def __missing__(self, key: str) -> str:
        return "{" + key + "}"


def choose(header: str | None, default: str) -> str:
    """The language that an Accept-Language header prefers of ours, else `default`.

    Source: RFC 9110 section 12.5.4; ties go to the one named first.
    """
    wanted: list[tuple[float, int, str]] = []
    for place, part in enumerate((header or "")[:MAX_HEADER_CHARS].split(",")):
        tag, _, parameters = part.strip().partition(";")
        language = tag.strip().lower().split("-", 1)[0]
        quality = _quality(parameters)
        if language in LANGUAGES and quality > 0:
            wanted.append((-quality, place, language))
    return min(wanted)[2] if wanted else default


def _quality(parameters: str) -> float:
    name, _, value = parameters.strip().partition("=")
    if name.strip().lower() != "q":
        return 1.0
    try:
        found = float(value)
    except ValueError:
        return 0.0
    return found if 0 <= found <= 1 else 0.0


def number(language: str, value: float) -> str:
    """A figure as the language writes it."""
    return format_decimal(value, locale=language)


def percent(language: str, ratio: float | None) -> str:
    """A ratio 0..1 in percent with one place as the language writes it; "no data" where there are none."""
    if ratio is None:
        return translate(language, "page.overview.no_data")
    return format_percent(ratio, format="#,##0.0 %" if language != "en" else "#,##0.0%", locale=language)


def instant(language: str, at: datetime) -> str:
    """Date and time in Almaty as the language writes them, with the zone's offset."""
    return format_datetime(at.astimezone(ALMATY), "d MMMM y, HH:mm (ZZZZ)", locale=language)


def gibibytes(language: str, value_bytes: int) -> str:
    """A size of memory, rounded to a tenth of a gibibyte."""
    return translate(language, "unit.gib", value=number(language, round(value_bytes / 2**30, 1)))


def duration(language: str, value_s: float) -> str:
    """A duration in the largest unit that keeps it above one, rounded to a tenth."""
    for unit, size_s in (("hours", _HOUR_S), ("minutes", _MINUTE_S)):
        if value_s >= size_s:
            return translate(language, f"unit.{unit}", value=number(language, round(value_s / size_s, 1)))
    return translate(language, "unit.seconds", value=number(language, round(value_s, 1)))
