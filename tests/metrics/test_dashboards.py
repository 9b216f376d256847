"""Grafana dashboards: importable, in units, and asking only for what exists."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "metrics" / "grafana").glob("*.json"))
UNITS = {
    "none",
    "percentunit",
    "s",
    "h",
    "bytes",
    "Bps",
    "watt",
    "joule",
    "celsius",
    "hertz",
    "dateTimeFromNow",
}
# Unit of the panel by the ending of the metrics in it.
ENDINGS = {
    "_ratio": "percentunit",
    "_watts": "watt",
    "_celsius": "celsius",
    "_hertz": "hertz",
    ":ratio": "percentunit",
}


def dashboard(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def expressions(page: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for panel in page["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def recorded() -> dict[str, frozenset[str]]:
    """Recorded series with the labels of the outermost ``by``."""
    rules = yaml.safe_load((ROOT / "metrics" / "prometheus" / "recording.yaml").read_text())["groups"]
    found: dict[str, frozenset[str]] = {}
    for rule in (rule for group in rules for rule in group["rules"]):
        by = re.search(r"by \(([^)]*)\)", rule["expr"])
        found[rule["record"]] = frozenset(re.findall(r"\w+", by[1])) if by else frozenset()
    return found


@pytest.fixture
def known(documented: dict[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    # A ratio of recorded series has the labels of these; their level says which.
    levels = {
        "sector": {"sector"},
        "category": {"category"},
        "job_id": {"job_id", "project", "sector", "category"},
    }
    return {
        **documented,
        **{name: labels | levels.get(name.partition(":")[0], set()) for name, labels in recorded().items()},
    }


def test_the_four_pages_are_there() -> None:
    assert [path.stem for path in PAGES] == ["cluster", "job", "node", "sector"]
    assert len({dashboard(path)["uid"] for path in PAGES}) == 4


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_page_is_importable(path: Path) -> None:
    page = dashboard(path)
    assert page["uid"] == f"kezek-{path.stem}"
    variables = {variable["name"]: variable for variable in page["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert len({panel["id"] for panel in page["panels"]}) == len(page["panels"])
    assert len({panel["title"] for panel in page["panels"]}) == len(page["panels"])
    for panel in page["panels"]:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__range"}
            assert used <= set(variables), panel["title"]
    assert "max(kezek_exporter_simulated)" in {expr for _, expr in expressions(page)}, (
        "it says what is simulated"
    )


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_panels_do_not_overlap(path: Path) -> None:
    cells: set[tuple[int, int]] = set()
    for panel in dashboard(path)["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        own = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not own & cells, panel["title"]
        cells |= own


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_queries_use_metrics_and_labels_that_exist(path: Path, known: dict[str, frozenset[str]]) -> None:
    for title, expr in expressions(dashboard(path)):
        names = re.findall(r"(?<![\w:])(?:\w+:)?kezek_[a-z0-9_]+(?::\w+)?", expr)
        assert names, title
        assert not set(names) - set(known), title
        for name, selector in re.findall(r"((?:\w+:)?kezek_[a-z0-9_]+(?::\w+)?)\{([^}]*)\}", expr):
            assert set(re.findall(r"(\w+)(?:=~|!~|!=|=)", selector)) <= known[name], f"{title}: {name}"
        grouped = set(re.findall(r"\w+", " ".join(re.findall(r"(?:by|on|group_left) \(([^)]*)\)", expr))))
        assert grouped <= frozenset().union(*(known[name] for name in names)), title


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_legends_and_variables_name_labels_that_exist(path: Path, known: dict[str, frozenset[str]]) -> None:
    page = dashboard(path)
    for panel in page["panels"]:
        for target in panel["targets"]:
            names = re.findall(r"(?<![\w:])(?:\w+:)?kezek_[a-z0-9_]+(?::\w+)?", target["expr"])
            labels = frozenset().union(*(known[name] for name in names))
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels, panel["title"]
    for variable in page["templating"]["list"][1:]:
        found = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
        assert found is not None
        assert found[2] in known[found[1]]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_panels_are_in_the_unit_of_their_metrics(path: Path) -> None:
    for panel in dashboard(path)["panels"]:
        for target in panel["targets"]:
            first = re.search(r"(?:\w+:)?kezek_[a-z0-9_]+(?::\w+)?", target["expr"])
            assert first is not None
            for ending, unit in ENDINGS.items():
                if first[0].endswith(ending):
                    assert panel["fieldConfig"]["defaults"]["unit"] == unit, panel["title"]
