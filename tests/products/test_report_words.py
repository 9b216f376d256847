"""Words of reports: catalogues, dates, numbers, plurals, hyphens, and data as canonical JSON."""

import re
import string
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from babel.messages.pofile import read_po

import products
from products.kpi import Direction, Progress
from products.model import Stage
from products.reports import texts
from products.reports.data import (
    FIGURES,
    canonical,
    month_period,
)
from products.reports.hyphens import LEAST_PART, SOFT_HYPHEN, ZERO_WIDTH_SPACE, breakable
from products.reports.texts import LANGUAGES, MissingTextError, count, decimal, instant, month, text
from tenants.model import Category, Sector

ROOT = Path(products.__file__).resolve().parents[1]
KAZAKH = "әғқңөұүһі"


@pytest.mark.parametrize(("year", "number", "last"), [(2026, 2, 28), (2028, 2, 29), (2026, 12, 31)])
def test_months_end_where_they_do(year: int, number: int, last: int) -> None:
    assert month_period(year, number) == (date(year, number, 1), date(year, number, last))


def test_dates_numbers_and_plurals_are_those_of_the_language() -> None:
    on = date(2026, 10, 1)
    assert [month(language, on) for language in LANGUAGES] == [
        "2026 жылғы қазан",
        "октябрь 2026 года",
        "October 2026",
    ]
    assert [texts.day(language, on) for language in LANGUAGES] == [
        "2026\u202fж. 1 қазан",
        "1 октября 2026\u202fг.",
        "October 1, 2026",
    ]
    assert [count("ru", "count.products", n) for n in (1, 2, 5, 11, 21, 1000)] == [
        "1 продукт",
        "2 продукта",
        "5 продуктов",
        "11 продуктов",
        "21 продукт",
        "1\xa0000 продуктов",
    ]
    assert [count("en", "count.universities", n) for n in (0, 1, 2)] == [
        "0 universities",
        "1 university",
        "2 universities",
    ]
    assert count("kk", "count.startups", 7) == "7 стартап"
    assert decimal("kk", Decimal("1234567.85"), places=1) == "1\xa0234\xa0567,8"
    assert instant("kk", datetime(2026, 12, 31, 20, tzinfo=UTC)).endswith("01:00 (UTC+05:00)")
    for ask in (lambda: text("en", "form.title"), lambda: count("en", "count.cats", 2)):
        with pytest.raises(MissingTextError):
            ask()


def catalogue(language: str) -> dict[str, tuple[str, ...]]:
    with (ROOT / "products/reports/locale" / f"{language}.po").open("rb") as file:
        found = read_po(file, locale=language, abort_invalid=True)
    assert [errors for _, errors in found.check()] == []
    return {
        (message.id if isinstance(message.id, str) else message.id[0]): (
            message.string if isinstance(message.string, tuple | list) else (message.string,)
        )
        for message in found
        if message.id
    }


def test_catalogues_hold_the_same_keys_placeholders_and_every_code() -> None:
    found = {language: catalogue(language) for language in LANGUAGES}
    assert list(found["kk"]) == list(found["ru"])
    assert set(found["kk"]) - set(found["en"]) == {key for key in found["kk"] if key.startswith("form.")}
    for key, forms in found["kk"].items():
        wanted = fields(forms[0])
        for language in LANGUAGES:
            for form in found[language].get(key, ()):
                assert form.strip() == form != ""
                assert fields(form) == wanted, key
        assert not set(KAZAKH) & set("".join(found["ru"][key]).replace("ҚОҮ", "")), key
    for prefix, codes in (
        ("sector", Sector),
        ("category", Category),
        ("stage", Stage),
        ("progress", Progress),
        ("direction", Direction),
        ("figure", FIGURES),
        ("definition", FIGURES),
    ):
        for code in codes:
            assert f"{prefix}.{code}" in found["en"]


def fields(form: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(form) if name}


def test_names_of_sectors_and_categories_are_those_of_the_platforms_pages() -> None:
    for language in LANGUAGES:
        with (ROOT / "api/locale" / language / "LC_MESSAGES/kezek.po").open("rb") as file:
            platform = {message.id: message.string for message in read_po(file, locale=language)}
        for codes, prefix in ((Sector, "sector"), (Category, "category")):
            assert all(text(language, f"{prefix}.{code}") == platform[f"{prefix}.{code}"] for code in codes)


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("қамтылымның", "қам-ты-лым-ның"),
        ("бағдарламалық", "бағ-дар-ла-ма-лық"),
        ("энергетика", "энер-ге-ти-ка"),
        ("үйлестіру", "үй-лес-ті-ру"),
        ("коммуникация", "ком-му-ни-ка-ция"),
        ("сала", "сала"),
        ("strategy", "strategy"),
        ("жүйесінде", "жү-йе-сін-де"),
        ("подъездного", "подъ-езд-но-го"),
    ],
)
def test_long_words_break_between_syllables(word: str, parts: str) -> None:
    assert breakable(word).replace(SOFT_HYPHEN, "-") == parts


def test_no_part_of_a_word_is_longer_than_a_cell_and_nothing_else_changes() -> None:
    said = "қолжетімсіздіктеріміздегілерге, TransformerTokenizerConfiguration 1a2b"
    marked = breakable(said)
    assert marked.replace(SOFT_HYPHEN, "").replace(ZERO_WIDTH_SPACE, "") == said
    parts = re.split(f"[{SOFT_HYPHEN}{ZERO_WIDTH_SPACE} ,]+", marked)
    assert max(map(len, parts)) <= 12
    assert min(map(len, parts)) >= LEAST_PART


def test_canonical_json_has_one_form() -> None:
    assert canonical({"b": 1, "a": "ә"}) == '{"a":"ә","b":1}'.encode()
