"""Exporters of many nodes under a real Prometheus with Kezek's rules."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.system


def test_fifty_nodes_are_scraped_and_joined() -> None:
    """A subset of the whole machine; `benchmarks/scrape_load.py` scrapes all of it."""
    loaded = load(50, 20)
    assert loaded["up"] == 50
    assert loaded["never_down"] == 1
    assert 400 < loaded["series_per_node"] < 600
    assert loaded["rules_failed"] == loaded["rules_missed"] == 0
    assert loaded["joined_gpus"] == 400
    assert loaded["alerts"] == 0
    assert loaded["coverage"] == 1
    assert loaded["scrape_max_s"] < 5


@pytest.mark.nightly
def test_a_thousand_nodes_are_scraped_in_time() -> None:
    loaded = load(1000, 60)
    assert loaded["up"] == 1000
    assert loaded["never_down"] == 1
    assert loaded["samples_per_s"] > 30_000
    assert loaded["rules_failed"] == loaded["rules_missed"] == 0
    assert loaded["joined_gpus"] == 8000
    assert loaded["slowest_rule_group_s"] < 15
    assert loaded["prometheus_peak_mib"] < 4096


def load(nodes: int, seconds: int) -> dict[str, float]:
    command = (
        sys.executable,
        "benchmarks/scrape_load.py",
        "--nodes",
        str(nodes),
        "--seconds",
        str(seconds),
        "--json",
    )
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert run.returncode == 0, run.stderr
    found: dict[str, float] = json.loads(run.stdout)
    return found
