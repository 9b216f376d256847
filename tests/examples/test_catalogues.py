"""The three message catalogues say the same things, each in its language."""

import re
import string
from enum import StrEnum
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po

from api.errors import ErrorCode
from api.findings import KINDS
from metrics.idle import Step
from products.evidence import Condition
from scheduler.ending import FINAL_CODES
from scheduler.fit import DISRUPTIONS, LACKS, Limit
from scheduler.lifecycle import IDLE_ERROR
from scheduler.model import JobState, ReasonCode
from scheduler.order import ENTITLED_FIRST, FAIR_SHARE, PRIORITY_CLASS, RESERVED, RULES
from scheduler.plan import AGED
from tenants.model import Category, Role, Sector

LOCALE = Path(__file__).resolve().parents[2] / "api" / "locale"
GLOSSARY = LOCALE.parents[1] / "docs" / "glossary.md"
LANGUAGES = ("kk", "ru", "en")
API = LOCALE.parent
RANK_ERROR = re.compile(r'"((?:EXEC|ISOLATION|OUTPUTS|SHEPHERD)_[A-Z_]+)"')
EXIT_ERRORS = (
    FINAL_CODES
    | {IDLE_ERROR}
    | {
        code
        for path in (API.parent / "scheduler").rglob("*.py")
        for code in RANK_ERROR.findall(path.read_text("utf-8"))
    }
)
SAME_ON_PURPOSE = {"language.kk", "language.ru", "language.en", "page.overview.gpus"}
KAZAKH_LETTERS = set("әғқңөұүһіӘҒҚҢӨҰҮҺІ")


def load(language: str) -> Catalog:
    with (LOCALE / language / "LC_MESSAGES" / "kezek.po").open("rb") as file:
        return read_po(file, locale=language, abort_invalid=True)


CATALOGUES = {language: load(language) for language in LANGUAGES}


def messages(language: str) -> dict[str, str]:
    found = {}
    for message in CATALOGUES[language]:
        if message.id:
            assert isinstance(message.id, str)
            assert isinstance(message.string, str)
            assert message.id not in found
            found[message.id] = message.string
    return found


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


@pytest.mark.parametrize("language", LANGUAGES)
def test_file_is_sound_and_nothing_is_empty(language: str) -> None:
    catalogue = CATALOGUES[language]
    assert catalogue.charset == "utf-8"
    assert catalogue.num_plurals == (3 if language == "ru" else 2)
    assert f"Language: {language}\\n" in (LOCALE / language / "LC_MESSAGES" / "kezek.po").read_text(
        encoding="utf-8"
    )
    assert [errors for _, errors in catalogue.check()] == []
    assert all(text.strip() == text and text for text in messages(language).values())
    assert not any(message.fuzzy for message in catalogue if message.id)


def test_plural_form_of_kazakh_is_the_stated_one() -> None:
    assert "Plural-Forms: nplurals=2; plural=(n != 1);" in (LOCALE / "kk/LC_MESSAGES/kezek.po").read_text(
        encoding="utf-8"
    )


def test_a_key_stands_once_in_each_file() -> None:
    for language in LANGUAGES:
        lines = (LOCALE / language / "LC_MESSAGES/kezek.po").read_text(encoding="utf-8").splitlines()
        keys = [line for line in lines if line.startswith("msgid ")]
        assert len(keys) == len(set(keys))


@pytest.mark.parametrize("language", ["kk", "ru"])
def test_keys_and_placeholders_are_those_of_english(language: str) -> None:
    english, other = messages("en"), messages(language)
    assert list(other) == list(english)
    assert {key: placeholders(text) for key, text in other.items()} == {
        key: placeholders(text) for key, text in english.items()
    }


def test_no_text_was_left_in_another_language() -> None:
    kazakh, russian, english = (messages(language) for language in LANGUAGES)
    for key in set(english) - SAME_ON_PURPOSE:
        assert english[key].isascii(), key
        assert not KAZAKH_LETTERS & set(russian[key]), key
        assert any("а" <= letter.lower() <= "я" for letter in russian[key] + kazakh[key]), key  # noqa: RUF001 - Cyrillic


def keys_of(prefix: str, suffix: str = "") -> set[str]:
    return {key.removeprefix(prefix).removesuffix(suffix) for key in messages("en") if key.startswith(prefix)}


@pytest.mark.parametrize(
    ("prefix", "codes"),
    [
        ("state.", set(JobState)),
        ("reason.", set(ReasonCode)),
        ("limit.", set(Limit)),
        (
            "rule.",
            {ENTITLED_FIRST, FAIR_SHARE, PRIORITY_CLASS, RESERVED, AGED, *(rule.name for rule in RULES)},
        ),
        ("condition.", set(Condition)),
        ("exit_error.", EXIT_ERRORS | {"other"}),
        ("finding.", set(KINDS)),
        ("idle.", set(Step)),
        ("never_fits.", {Limit.FLAVOR, Limit.QUEUE, Limit.LABELS, Limit.TOPOLOGY, Limit.CPUS, Limit.MEMORY}),
        ("lacks.", set(LACKS)),
        ("borrowing_limit.", {DISRUPTIONS}),
        ("language.", {*LANGUAGES, "choose"}),
        ("category.", set(Category)),
        ("sector.", set(Sector)),
        ("role.", set(Role)),
    ],
)
def test_every_code_of_the_platform_has_its_text_and_no_text_is_of_another(
    prefix: str, codes: set[str]
) -> None:
    assert keys_of(prefix) == {str(code) for code in codes}


def test_every_error_has_its_title_and_no_title_is_of_another() -> None:
    assert keys_of("error.", ".title") == {code.value for code in ErrorCode}


def test_no_text_is_left_unused() -> None:
    by_code = (
        "state.",
        "reason.",
        "rule.",
        "limit.",
        "category.",
        "sector.",
        "role.",
        "exit_error.",
        "finding.",
        "idle.",
        "condition.",
    )
    of_enums = (
        *by_code,
        "never_fits.",
        "lacks.",
        "borrowing_limit.",
        "language.",
        "error.",
        "told.",
        "moved.",
    )
    sources = [*API.rglob("*.py"), *API.rglob("*.html")]
    code = "".join(path.read_text("utf-8") for path in sources)
    built = {f"page.overview.{name}" for name in ("by_sector", "by_category", "sector", "category")}
    built |= {f"unit.{name}" for name in ("hours", "minutes")}
    built |= {"indicator.7.definition", "indicator.7.ambiguity", "indicator.8.definition"}
    unused = {key for key in messages("en") if not key.startswith(of_enums) and f'"{key}"' not in code}
    assert unused == built


@pytest.mark.parametrize(
    ("reason", "numbers"),
    [
        ("BUDGET_EXHAUSTED", {"claim_s", "remaining_s", "pending_s"}),
        ("GRANT_NOT_ACTIVE", {"flavor", "walltime_s"}),
        ("PROJECT_SUSPENDED", set[str]()),
        ("QUEUE_LIMIT", {"queue", "nominal", "used", "gpus"}),
        ("WAITING_TURN", {"ahead", "rule"}),
        ("NO_CAPACITY", {"free", "gpus", "flavor"}),
        ("FRAGMENTED", {"free", "gpus", "flavor"}),
        ("BACKOFF", {"until_ms", "attempts"}),
        ("HELD", set[str]()),
        ("NEVER_FITS", {"limit", "queue", "gpus", "walltime_s", "max_gpus", "flavors"}),
    ],
)
def test_a_reason_asks_only_for_numbers_the_plan_gives(reason: str, numbers: set[str]) -> None:
    assert placeholders(messages("en")[f"reason.{reason}"]) <= numbers


@pytest.mark.parametrize(
    "codes", [JobState, ReasonCode, Category, Sector, Role], ids=lambda codes: codes.__name__
)
def test_glossary_explains_every_code_in_three_languages(codes: type[StrEnum]) -> None:
    rows = [
        line.strip("| ").split(" | ")
        for line in GLOSSARY.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ")
    ]
    assert all(len(row) == 4 and all(cell.strip() for cell in row) for row in rows)
    explained = {row[0].split("`")[1] for row in rows if "`" in row[0]}
    assert {str(code) for code in codes} <= explained
