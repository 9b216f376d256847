"""Telemetry of a live platform: exporter, scheduler and API under a real Prometheus with Kezek's rules and panels."""

from __future__ import annotations

import json
import queue
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.system.test_platform import SLOW, enter_project, state_of, submit

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.system


def free_address() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Start a program in the test's folder, and end it afterwards."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str) -> None:
        with (tmp_path / f"{command[0]}.log").open("wb") as log:
            started.append(subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log))

    yield start
    for process in started:
        process.terminate()
        process.wait(20)


@pytest.fixture
def prometheus(tmp_path: Path, daemon: Callable[..., None]) -> Callable[..., str]:
    """Start a Prometheus over these pages (job name: address of the page), some of which want a token."""

    def start(pages: dict[str, str], token: str, alertmanager: str = "", sooner: str = "") -> str:
        address = free_address()
        rules = tmp_path / "rules"
        rules.mkdir()
        for path in (ROOT / "metrics/prometheus").glob("*.yaml"):
            (rules / path.name).write_text(fires_sooner(path.read_text(), sooner))
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules/*.yaml"],
            "alerting": {
                "alertmanagers": [{"static_configs": [{"targets": [alertmanager] if alertmanager else []}]}]
            },
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
        daemon(
            "prometheus",
            "--config.file=prometheus.yaml",
            "--storage.tsdb.path=series",
            f"--web.listen-address={address}",
        )
        return f"http://{address}/api/v1"

    return start


def fires_sooner(rules: str, alert: str) -> str:
    """The rules as shipped, but that one alert waits 3 s instead of minutes: its `for` is promtool's to prove."""
    document = yaml.safe_load(rules)
    for group in document["groups"]:
        for rule in group["rules"]:
            if rule.get("alert") == alert:
                rule["for"] = "3s"
    return yaml.safe_dump(document)


@pytest.fixture
def alertmanager(tmp_path: Path, daemon: Callable[..., None]) -> Iterator[tuple[str, queue.Queue[Any]]]:
    """Start an Alertmanager; return its address and what it tells people, alert by alert."""
    told: queue.Queue[Any] = queue.Queue()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            for alert in json.loads(self.rfile.read(int(self.headers["Content-Length"])))["alerts"]:
                told.put(alert)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, args=(0.1,)).start()
        hook = {"url": f"http://127.0.0.1:{server.server_port}/", "send_resolved": True}
        config = {
            "route": {
                "receiver": "people",
                "group_by": ["alertname"],
                "group_wait": "1s",
                "group_interval": "1s",
            },
            "receivers": [{"name": "people", "webhook_configs": [hook]}],
        }
        (tmp_path / "alertmanager.yaml").write_text(yaml.safe_dump(config))
        address = free_address()
        daemon(
            "prometheus-alertmanager",
            "--config.file=alertmanager.yaml",
            "--storage.path=silences",
            f"--web.listen-address={address}",
            "--cluster.listen-address=",
        )
        yield address, told
        server.shutdown()


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


def test_an_alert_of_the_live_platform_reaches_people_and_is_taken_back(
    start: Any, wait_for: Any, prometheus: Any, alertmanager: Any
) -> None:
    address, told = alertmanager
    running = start("--idle", nodes=1)
    plane, page, scheduler = running.said(r"^metrics: (\S+) (\S+) (\S+)$").groups()
    pages = {"kezek-control-plane": plane, "kezek-exporter": page, "kezek-scheduler": scheduler}
    url = prometheus(pages, running.said(r"^token: (\S+)")[1], address, "KezekExporterDown")

    def shown() -> list[Any]:
        try:
            answer = httpx.get(f"http://{address}/api/v2/alerts", timeout=10, trust_env=False)
            return [alert for alert in answer.json() if alert["labels"]["alertname"] == "KezekExporterDown"]
        except httpx.HTTPError:
            return []  # it still starts

    wait_for("all targets are up", lambda: value(url, "sum(up)") == 3)
    assert shown() == []
    exporter = running.child("exporter")
    exporter.suspend()  # hangs: it would be restarted if it died
    try:
        (alert,) = wait_for("the alert is at the Alertmanager", shown)
        assert alert["status"]["state"] == "active"
        assert alert["labels"]["severity"] == "warning"
        assert alert["labels"]["instance"] == httpx.URL(page).netloc.decode()
        assert "restart the exporter" in alert["annotations"]["description"]
        firing = told.get(timeout=60)
        assert (firing["status"], firing["labels"]["alertname"]) == ("firing", "KezekExporterDown")
    finally:
        exporter.resume()
    wait_for("the cause is mended", lambda: value(url, 'up{job="kezek-exporter"}') == 1)
    wait_for("the alert is cleared", lambda: shown() == [])
    assert [a for a in ask(url, "alerts")["alerts"] if a["labels"]["alertname"] == "KezekExporterDown"] == []
    cleared = told.get(timeout=60)
    assert (cleared["status"], cleared["labels"]["alertname"]) == ("resolved", "KezekExporterDown")
    assert told.empty()
