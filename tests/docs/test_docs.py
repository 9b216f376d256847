"""Docs say what the code does: settings, commands, journal kinds, links, and nothing of a machine of ours."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from api import cli
from metrics import exporter_settings
from store import journal
from store.settings import Settings

ROOT = Path(__file__).parents[2]
DOCS = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "examples").glob("*.md"),
    ROOT / "kezek/README.md",
]


def rows(path: Path) -> dict[str, list[str]]:
    """The rows of a page's tables by the code in their first cell."""
    found = {}
    for line in path.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("| `"):
            found[cells[0].strip("`")] = cells[1:]
    return found


def test_every_setting_is_documented_with_its_default():
    documented = rows(ROOT / "docs/settings.md")
    exporters = {f"KEZEK_{setting.name.upper()}" for setting in exporter_settings.SETTINGS}
    assert set(documented) == {f"KEZEK_{name.upper()}" for name in Settings.model_fields} | exporters
    for name, field in Settings.model_fields.items():
        default = documented[f"KEZEK_{name.upper()}"][0]
        if field.default not in {None, ""}:
            assert default == f"`{field.default}`"


def test_every_command_of_the_server_is_documented():
    listed = set(re.findall(r"^  ([a-z-]+) {2,}", cli.USAGE, re.MULTILINE))
    page = (ROOT / "docs/operations.md").read_text()
    assert listed == {
        "up",
        "api",
        "scheduler",
        "exporter",
        "ray-local",
        "agents",
        "agent",
        "migrate",
        "policy",
        "token",
        "audit",
        "ledger",
        "replay",
        "simulate",
        "kpi",
        "product",
        "report",
        "alive",
    }
    assert not [name for name in listed if not re.search(rf"`{name}[ `]", page)]


def test_every_command_that_is_listed_runs():
    for name in re.findall(r"^  ([a-z-]+) {2,}", cli.USAGE, re.MULTILINE):
        done = subprocess.run(
            [str(ROOT / ".venv/bin/kezek-server"), name, "--help"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (name, done.stderr)
        assert "usage" in done.stdout.lower()


def test_every_kind_of_record_is_documented():
    page = (ROOT / "docs/journal.md").read_text()
    assert not [kind for kind in journal.KINDS if f"`{kind}`" not in page]


@pytest.mark.parametrize("page", DOCS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_page_is_reached_from_the_readme():
    readme = (ROOT / "README.md").read_text()
    assert not [page.name for page in (ROOT / "docs").glob("*.md") if f"docs/{page.name}" not in readme]


def test_lock_files_name_no_host():
    for lock in (ROOT / "requirements").glob("*.lock"):
        assert not re.search(r"https?://|index-url|find-links", lock.read_text())
        assert "--hash=sha256:" in lock.read_text()


def test_pyproject_and_requirements_agree():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    listed = [
        line
        for line in (ROOT / "requirements/server.in").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert set(project) - {"kezek"} <= set(listed)
    client = tomllib.loads((ROOT / "kezek/pyproject.toml").read_text())["project"]["dependencies"]
    assert set(client) <= set(listed)
