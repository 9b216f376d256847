"""Telemetry of a live platform: exporter, scheduler and API under a real Prometheus with Kezek's rules and panels."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.system.test_platform import SLOW, enter_project, state_of, submit

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.system


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Callable[[dict[str, str], str], str]]:
    """Start a Prometheus over these pages (job name: address of the page), some of which want a token."""
    started: list[subprocess.Popen[bytes]] = []

    def start(pages: dict[str, str], token: str) -> str:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{listener.getsockname()[1]}"
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(path) for path in (ROOT / "metrics/prometheus").glob("*.yaml")],
            "scrape_configs": [
                {
                    "job_name": name,
                    "metrics_path": httpx.URL(page).path,
                    "static_configs": [{"targets": [httpx.URL(page).netloc.decode()]}],
                    **({"authorization": {"credentials": token}} if name == "kezek-projects" else {}),
                }
                for name, page in pages.items()
            ],
        }
        (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
        command = (
            "prometheus",
            "--config.file=prometheus.yaml",
            "--storage.tsdb.path=series",
            f"--web.listen-address={address}",
        )
        with (tmp_path / "prometheus.log").open("wb") as log:
            started.append(subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log))
        return f"http://{address}/api/v1"

    yield start
    for process in started:
        process.terminate()
        process.wait(20)


def ask(url: str, path: str, **parameters: str) -> Any:
    try:
        answer = httpx.get(f"{url}/{path}", params=parameters, timeout=10, trust_env=False).json()
    except (httpx.HTTPError, json.JSONDecodeError):
        return {}  # it still starts
    assert answer["status"] == "success", answer
    return answer["data"]


def value(url: str, query: str) -> float | None:
    found = ask(url, "query", query=query).get("result", [])
    return float(found[0]["value"][1]) if found else None


def queries() -> list[str]:
    found = []
    for path in (ROOT / "metrics/grafana").glob("*.json"):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                expr = target["expr"].replace("$__range", "5m").replace('="$job_id"', '=~".+"')
                found.append(expr.replace('="$node"', '=~".+"').replace("$sector", ".*"))
    return found


def test_a_live_platform_is_seen_by_prometheus(
    start: Any, wait_for: Any, tmp_path: Path, prometheus: Any
) -> None:
    running = start("--idle")
    plane, exporter, scheduler = running.said(r"^metrics: (\S+) (\S+) (\S+)$").groups()
    pages = {
        "kezek-control-plane": plane,
        "kezek-projects": f"{plane}/projects",
        "kezek-exporter": exporter,
        "kezek-scheduler": scheduler,
    }
    url = prometheus(pages, running.said(r"^token: (\S+)")[1])
    with running.http() as http:
        headers = enter_project(http)
        job = submit(http, headers, tmp_path, SLOW)
        wait_for("the gang runs", lambda: state_of(http, job) == "RUNNING")
        wait_for("four targets are up", lambda: value(url, "sum(up)") == 4)
        labels = f'{{job_id="{job}",project="trial"}}'
        wait_for(
            "telemetry and allocation meet",
            lambda: value(url, f"job_id:kezek_gpu_telemetry_coverage:ratio{labels}") == 1,
        )
        wait_for(
            "its GPUs work", lambda: (value(url, f"job_id:kezek_gpu_utilization:avg{labels}") or 0) > 0.5
        )
        assert value(url, "min(kezek_exporter_simulated)") == 1
        assert value(url, "sum(kezek_gpus_live) - sum(kezek_gpus_expected)") == 0
        assert value(url, 'sum(kezek_queue_held_gpus{queue="kazllm"})') == 2
        wait_for("quota is compared", lambda: value(url, 'queue:kezek_quota_use:ratio{queue="kazllm"}'))
        assert value(url, "sum(kezek_queue_entitlement_violated_gpus)") == 0
        assert (value(url, 'sum(kezek_cycle_phase_seconds_count{phase="apply"})') or 0) > 1
        launches = 'sum(kezek_executor_calls_total{kind="launch",outcome="ok"})'
        assert value(url, launches) == 2
        assert (value(url, 'sum(kezek_api_request_seconds_count{route="/v1/jobs",status="2xx"})') or 0) >= 1
        for query in queries():
            ask(url, "query", query=query)  # fails where a query does
        rules = [rule for group in ask(url, "rules")["groups"] for rule in group["rules"]]
        assert len(rules) > 40
        wait_for(
            "every rule was evaluated",
            lambda: all(
                rule["health"] == "ok" for group in ask(url, "rules")["groups"] for rule in group["rules"]
            ),
        )
        wait_for("the job ends", lambda: state_of(http, job) == "COMPLETED")
        kept = http.get(f"/v1/jobs/{job}/efficiency", headers=headers).json()
    assert kept["is_simulated"] is True
    assert kept["coverage_ratio"] > 0.5
    assert kept["mean_utilisation_ratio"] > 0.3
    assert kept["energy_kwh"] > 0
    alerts = ask(url, "alerts")["alerts"]
    assert [alert for alert in alerts if alert["state"] == "firing"] == []


def test_an_exporter_that_was_killed_comes_back_at_its_address(start: Any, wait_for: Any) -> None:
    running = start("--idle", nodes=1)
    page = running.said(r"^metrics: \S+ (\S+) \S+$")[1]
    before = running.child("exporter")
    before.kill()

    def is_back() -> bool:
        try:
            return httpx.get(page, timeout=2, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    wait_for("another process answers", lambda: is_back() and running.child("exporter").pid != before.pid)
    assert re.search(r"kezek_gpus_live\{node=\"n0\"\} 8", httpx.get(page, trust_env=False).text)
