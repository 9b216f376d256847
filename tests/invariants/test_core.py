"""Invariant 1: the pure core reads no clock, no chance, no environment and no file, and the page lists it whole."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRACT = "The pure core does no I/O and reads no clock"
CLOCKS = {"now", "utcnow", "today", "time", "time_ns", "monotonic", "perf_counter"}
OUTSIDE = {"open", "input", "print", "__import__", "exec", "eval"}


def core():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return next(found["source_modules"] for found in contracts if found["name"] == CONTRACT)


def impure_calls(source):
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Attribute) and called.attr in CLOCKS:
            yield f"line {node.lineno}: {ast.unparse(called)}()"
        if isinstance(called, ast.Name) and called.id in OUTSIDE:
            yield f"line {node.lineno}: {called.id}()"


@pytest.mark.parametrize("module", core())
def test_the_core_asks_nobody_for_the_time(module):
    assert list(impure_calls((ROOT / f"{module.replace('.', '/')}.py").read_text())) == []


def test_the_search_finds_what_it_is_for():
    found = list(
        impure_calls("from datetime import datetime, date\ndatetime.now()\ndate.today()\nopen('x')\n")
    )
    assert found == ["line 2: datetime.now()", "line 3: date.today()", "line 4: open()"]


def test_the_architecture_names_the_same_core():
    table = (ROOT / "ARCHITECTURE.md").read_text().split("## Rooms")[1].split("## One job")[0]
    named = set()
    for room, cell in re.findall(r"^\| `([a-z]+)/` \|[^|]*\|([^|]*)\|", table, re.MULTILINE):
        named |= {f"{room}.{module}" for module in re.findall(r"[a-z_.]+", cell)}
    assert named == set(core())
