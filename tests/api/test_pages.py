from __future__ import annotations

import itertools
from html.parser import HTMLParser
from typing import Any

import pytest

from api.i18n import catalogue, choose, duration, number, translate
from tests.api.conftest import World


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.mark.parametrize(
    ("query", "header", "language"),
    [
        ("", None, "kk"),
        ("", "ru", "ru"),
        ("?lang=en", "ru", "en"),
        ("?lang=kk", None, "kk"),
        ("?lang=ru", None, "ru"),
        ("", "de", "kk"),
    ],
)
def test_the_page_speaks_three_languages(world: World, query: str, header: str | None, language: str) -> None:
    world.job()
    answer = world.call(
        None, "GET", f"/{query}", headers={} if header is None else {"Accept-Language": header}
    )
    page = Page(answer.text)
    assert answer.headers["content-language"] == language
    assert next(attributes["lang"] for tag, attributes in page.tags if tag == "html") == language
    for key in ("title", "simulated", "gpus_busy", "by_sector", "plan"):
        assert catalogue(language)[f"page.overview.{key}"] in page.text
    assert "page." not in page.text
    assert "{" not in page.text


def test_the_page_needs_nothing_from_elsewhere(world: World) -> None:
    answer = world.call(None, "GET", "/")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    page = Page(answer.text)
    links = [a.get("href") or a.get("src") or "" for _, a in page.tags]
    assert all(not link or link.startswith(("/", "#")) for link in links)
    assert "script" not in {tag for tag, _ in page.tags}
    assert world.call(None, "GET", "/static/kezek.css").status_code == 200
    headings = [int(tag[1]) for tag, _ in page.tags if tag in {"h1", "h2", "h3"}]
    assert headings.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))


def test_a_platform_without_nodes_shows_no_data_not_zero(bare: World) -> None:
    page = Page(bare.call(None, "GET", "/?lang=en").text)
    assert "No jobs yet: the platform is idle." in page.text
    gpus = page.text.split("GPUs", 2)[1]
    assert "No data" in gpus
    assert "No product is registered yet." in page.text


def test_public_figures_name_no_tenant(world: World) -> None:
    world.job()
    overview = world.call(None, "GET", "/v1/public/overview")
    found = overview.json()
    assert (found["gpus"], found["busy"], found["free"], found["pending"], found["is_simulated"]) == (
        16,
        0,
        16,
        1,
        True,
    )
    assert [cell["name"] for cell in found["by_sector"]] == ["other"]
    assert "uni" not in overview.text
    assert found["wait_median_s"] is None


def test_a_wrong_language_is_refused(world: World) -> None:
    assert world.call(None, "GET", "/?lang=<script>").json()["code"] == "VALIDATION"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("en;q=0.1, ru;q=0.9", "ru"),
        ("ru;q=0, en", "en"),
        ("ru;q=nan, kk;q=2", "xx"),
        ("*", "xx"),
        ("", "xx"),
        ("EN-us", "en"),
        ("," * 10_000 + "ru", "xx"),
    ],
)
def test_languages_are_chosen_by_quality(header: str, expected: str) -> None:
    assert choose(header, "xx") == expected


def test_figures_are_written_as_each_language_does() -> None:
    assert number("en", 12345) == "12,345"
    assert number("kk", 12345) == number("ru", 12345) == "12\xa0345"
    assert duration("en", 5400) == "1.5 h"
    assert duration("en", 59) == "59 s"
    assert translate("en", "no.such.key") == "no.such.key"
    assert translate("en", "reason.NO_CAPACITY", gpus=3) == "The job needs 3 GPUs of {flavor}; free: {free}."
