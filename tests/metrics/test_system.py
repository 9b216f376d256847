"""Real Prometheus and Alertmanager over real exporters: rules and panels evaluate, an alert comes and goes."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, start_http_server
from sqlalchemy.orm import Session

from metrics.allocated import Allocated
from metrics.controlplane import ControlPlane

ROOT = Path(__file__).resolve().parents[2]
RULES = sorted((ROOT / "metrics" / "prometheus").glob("*.yaml"))
PAGES = sorted((ROOT / "metrics" / "grafana").glob("*.json"))
DEADLINE_S = 40.0
GPUS = tuple(f"GPU-00000000-0000-0000-0000-{index:012d}" for index in range(3))
SCRIPT = (
    *("count 3", "gpu 0 util 90", "gpu 1 util 50", "gpu 2 mig 1", "gpu 0 xid 1 13"),
    "gpu 2 instance 3 0 1g.10gb 10200547328 500000 16",
)

pytestmark = pytest.mark.system

# Panels that must show something here; the others wait for what did not happen (errors, throttling) or for time.
EXPECTED_FILLED = {
    *("cluster: GPUs busy", "cluster: GPUs by state", "cluster: Journal records not sealed yet"),
    *("cluster: Utilisation", "cluster: Coverage", "cluster: Power", "cluster: GPUs held by sector"),
    *("node: Live", "node: GPUs", "node: Held by", "node: Utilisation", "node: Memory in use, share"),
    *(
        "node: Temperature",
        "node: Clocks",
        "node: Xid errors",
        "node: MIG instances",
        "node: Memory of MIG instances",
    ),
    *("job: GPUs", "job: Utilisation", "job: Least used GPU", "job: Memory by GPU", "job: Coverage"),
    *("sector: GPUs held by sector", "sector: Utilisation by category", "sector: Power by sector"),
    "sector: Grants in force: share used",
}


def until(condition: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, what
        threading.Event().wait(0.1)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class Monitoring:
    """A running Prometheus, and what its Alertmanager sent."""

    url: str
    sent: list[dict[str, Any]] = field(default_factory=list)

    def ask(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=10) as answer:  # noqa: S310 (our own Prometheus)
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            text = error.read().decode()  # 503 while it starts is plain text
            return json.loads(text) if text.startswith("{") else {"status": text}
        except OSError:
            return {"status": "not up yet"}

    def rules(self) -> list[dict[str, Any]]:
        answer = self.ask("rules")
        return [rule for group in answer.get("data", {}).get("groups", []) for rule in group["rules"]]

    def is_scraping(self) -> bool:
        targets = self.ask("targets").get("data", {}).get("activeTargets", [])
        return len(targets) == 3 and all(target["health"] == "up" for target in targets)

    def has_evaluated(self) -> bool:
        rules = self.rules()
        return bool(rules) and all(rule["health"] != "unknown" for rule in rules)

    def value(self, query: str) -> float | None:
        result = self.ask("query", query=query).get("data", {}).get("result", [])
        return float(result[0]["value"][1]) if result else None

    def states(self, alert: str) -> list[str]:
        return [str(sent["status"]) for sent in self.sent if sent["labels"]["alertname"] == alert]


def receiver(monitoring: Monitoring) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            monitoring.sent.extend(json.loads(body)["alerts"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


def configure(folder: Path, targets: dict[str, str], alertmanager: str, webhook: str) -> None:
    scrape = [
        {"job_name": name, "static_configs": [{"targets": [target.removeprefix("http://")]}]}
        for name, target in targets.items()
    ]
    (folder / "prometheus.yaml").write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(path) for path in RULES],
                "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
                "scrape_configs": scrape,
            }
        )
    )
    route = {"receiver": "test", "group_wait": "0s", "group_interval": "1s", "group_by": ["..."]}
    (folder / "alertmanager.yaml").write_text(
        yaml.safe_dump(
            {"route": route, "receivers": [{"name": "test", "webhook_configs": [{"url": webhook}]}]}
        )
    )


@pytest.fixture
def monitoring(tmp_path: Path) -> Iterator[Callable[[dict[str, str]], Monitoring]]:
    with ExitStack() as stack:

        def run(name: str, *command: str) -> None:
            log = stack.enter_context((tmp_path / f"{name}.log").open("w"))
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=tmp_path)
            stack.enter_context(process)
            stack.callback(process.kill)

        def start(targets: dict[str, str]) -> Monitoring:
            prometheus, alertmanager = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
            found = Monitoring(f"http://{prometheus}")
            server = stack.enter_context(receiver(found))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            configure(tmp_path, targets, alertmanager, f"http://127.0.0.1:{server.server_port}/")
            run(
                "alertmanager",
                "prometheus-alertmanager",
                "--config.file=alertmanager.yaml",
                "--storage.path=alerts",
                f"--web.listen-address={alertmanager}",
                "--cluster.listen-address=",
            )
            run(
                "prometheus",
                "prometheus",
                "--config.file=prometheus.yaml",
                "--storage.tsdb.path=series",
                f"--web.listen-address={prometheus}",
            )
            return found

        yield start


@pytest.fixture
def control_plane(database: Any, rows: Any) -> Iterator[str]:
    """The control plane's metrics over a real database in which a job holds two of the GPUs."""
    with Session(database.engine) as session, session.begin():
        of = rows.project(session, "p1")
        rows.allocate(session, of, rows.grant(session, of, 200), GPUS)
    registry = CollectorRegistry()
    registry.register(Allocated(database.engine, lambda: rows.NOW))
    registry.register(ControlPlane(database.engine))
    server, thread = start_http_server(0, "127.0.0.1", registry)
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def panels() -> Iterator[tuple[str, str]]:
    for path in PAGES:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                expr = target["expr"]
                for variable, value in (
                    ("node", "n1"),
                    ("job_id", ".+"),
                    ("sector", ".*"),
                    ("__range", "10m"),
                ):
                    expr = expr.replace(f"${variable}", value)
                yield f"{path.stem}: {panel['title']}", expr.replace('job_id=".+"', 'job_id=~".+"')


def test_rules_and_panels_evaluate_and_an_alert_comes_and_goes(
    make_driver: Any, serve: Any, no_driver: Any, control_plane: str, monitoring: Any
) -> None:
    driver = make_driver(*SCRIPT)
    real = serve("--node", "n1", "--gpus", "3", driver=driver)
    simulated = serve("--simulated", "--node", "n2", "--gpus", "8", driver=no_driver)
    prometheus = monitoring(
        {"kezek-exporter": real.url, "kezek-simulated": simulated.url, "kezek-control-plane": control_plane}
    )
    until(prometheus.is_scraping, "three targets are up")
    until(prometheus.has_evaluated, "every rule was evaluated")
    until(lambda: prometheus.value("cluster:kezek_gpus_allocated:count") == 2, "the join has data")
    assert [rule["name"] for rule in prometheus.rules() if rule["health"] != "ok"] == []

    # Telemetry of one node and allocations of the control plane meet.
    until(
        lambda: prometheus.value("job_id:kezek_gpu_utilization:avg") == pytest.approx(0.7), "the job's mean"
    )
    until(lambda: prometheus.value("cluster:kezek_gpu_telemetry_coverage:ratio") == 1, "all its GPUs report")
    assert prometheus.value('count(kezek_gpu_info{simulated="true"})') == 8

    def filled() -> set[str]:
        answers = {(title, expr): prometheus.ask("query", query=expr) for title, expr in panels()}
        assert {key: answer for key, answer in answers.items() if answer["status"] != "success"} == {}
        return {title for (title, _), answer in answers.items() if answer["data"]["result"]}

    until(lambda: not EXPECTED_FILLED - filled(), "the panels show something")

    raised = "KezekGpuRecoveryActionNeeded"
    assert prometheus.states(raised) == []
    driver.script(*SCRIPT, "gpu 1 recovery 2")
    until(lambda: "firing" in prometheus.states(raised), "the alert was raised and sent")
    alert = next(sent for sent in prometheus.sent if sent["labels"]["alertname"] == raised)
    assert alert["labels"]["uuid"] == GPUS[1]
    assert "2: drain and reboot" in alert["annotations"]["description"]
    driver.script(*SCRIPT)
    until(lambda: "resolved" in prometheus.states(raised), "the alert was cleared and that was sent")
