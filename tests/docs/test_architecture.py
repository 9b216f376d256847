"""The map of the rooms names every module, and the gates count what it calls the pure core."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
(PURE,) = (
    {*contract["source_modules"]}
    for contract in PROJECT["importlinter"]["contracts"]
    if contract["name"].startswith("The pure core")
)
FOLDS = {"quota.fold", "scheduler.fold", "scheduler.known"}
"""Proven by comparing them with the tables, on a database."""
NO_ROOMS = {"__pycache__", "locale"}
"""Folders that hold no code."""


def row(room: str) -> list[set[str]]:
    """Names in the columns of the room's row: the pure core, the shell."""
    (line,) = re.findall(rf"^\| `{room}/` \|(.+)\|$", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    _, core, shell = (re.sub(r"\(.*?\)", " ", cell) for cell in line.split("|"))
    return [{name for name in re.split(r"[\s,]+", cell) if name} for cell in (core, shell)]


@pytest.mark.parametrize("room", ["products", "metrics", "scheduler", "quota", "tenants"])
def test_the_table_of_rooms_names_every_module_in_its_column_and_no_other(room):
    core, shell = row(room)
    pure = {module.removeprefix(f"{room}.") for module in PURE if module.startswith(f"{room}.")}
    modules = {path.stem for path in (ROOT / room).glob("*.py")} - {"__init__"}
    folders = {f"{path.name}/" for path in (ROOT / room).iterdir() if path.is_dir()}
    assert core == pure
    assert shell == (modules - pure) | (folders - {f"{name}/" for name in NO_ROOMS})
    assert not [name for name in pure if not (ROOT / room / f"{name.replace('.', '/')}.py").is_file()]


def test_every_branch_of_the_pure_core_but_the_folds_counts():
    counted = PROJECT["coverage"]["run"]["source_pkgs"]
    assert len(counted) == len(set(counted))
    assert set(counted) == PURE - FOLDS
    assert PROJECT["coverage"]["report"]["fail_under"] == 100
