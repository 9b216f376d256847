"""What a cluster's exporters cost a real Prometheus: ingestion, CPU, memory, lateness.

Every node is a target of its own; `fleet.py` answers for all of them with the page of a production exporter over
the scripted driver, values changing. Kezek's rules are evaluated over the joined series. Figures are of the time
after two rounds of scrapes, so without Prometheus' start.

Usage: python benchmarks/scrape_load.py [--nodes N] [--seconds S] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
from exporter import ROOT, build, commit, cpu_s, listening, machine, resident_mib
from fleet import GPUS, MAX_NODES
from prometheus_client.parser import text_string_to_metric_families

INTERVAL_S = 15


def pattern(folder: Path) -> Path:
    """One scrape of production's exporter with 8 busy GPUs, each with a process of attempt 1-1.

    A single scrape cannot know yet that Xids are watched; an exporter that runs does, so the pattern says so.
    """
    build(folder)
    with subprocess.Popen(["sleep", "60"], env={"KEZEK_ATTEMPT": "1-1", "PATH": os.defpath}) as rank:
        busy = [
            line for gpu in range(GPUS) for line in (f"gpu {gpu} util 90", f"gpu {gpu} proc {rank.pid} 1")
        ]
        (folder / "state").write_text("\n".join([f"count {GPUS}", *busy, ""]))
        env = {
            **os.environ,
            "LD_LIBRARY_PATH": str(folder),
            "FAKENVML_STATE": str(folder / "state"),
            "PYTHONPATH": str(ROOT),
        }
        command = [
            sys.executable,
            "-m",
            "metrics.exporter_cli",
            "--once",
            "--node",
            "n1",
            "--gpus",
            str(GPUS),
        ]
        page = subprocess.run(command, env=env, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        rank.kill()
    page = re.sub(r"^(kezek_gpu_xid_watched\{.*\}) 0.0$", r"\1 1.0", page, flags=re.MULTILINE)
    (folder / "pattern").write_text(page)
    return folder / "pattern"


def configuration(fleet: str, nodes: int) -> str:
    address = fleet.removeprefix("http://")
    targets = [
        {"targets": [address], "labels": {"__metrics_path__": f"/node/{node}", "instance": f"n{node:04d}"}}
        for node in range(nodes)
    ]
    interval = f"{INTERVAL_S}s"
    return json.dumps(  # JSON is YAML
        {
            "global": {"scrape_interval": interval, "scrape_timeout": "10s", "evaluation_interval": interval},
            "rule_files": [str(path) for path in sorted((ROOT / "metrics" / "prometheus").glob("*.yaml"))],
            "scrape_configs": [
                {"job_name": "kezek-exporter", "static_configs": targets},
                {"job_name": "kezek-control-plane", "static_configs": [{"targets": [address]}]},
            ],
        }
    )


def ask(url: str, query: str) -> float:
    answer = httpx.get(f"{url}/api/v1/query", params={"query": query}, timeout=30)
    result = answer.json()["data"]["result"]
    return float(result[0]["value"][1]) if result else 0.0


def own(url: str) -> dict[str, float]:
    """What Prometheus says of itself: sums of its families."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(httpx.get(f"{url}/metrics", timeout=30).text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def slowest_rule_group_s(url: str) -> float:
    groups = httpx.get(f"{url}/api/v1/rules", timeout=30).json()["data"]["groups"]
    return max(float(group["evaluationTime"]) for group in groups)


def wait_ready(url: str) -> None:
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s:
        try:
            if httpx.get(f"{url}/-/ready", timeout=5).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit("Prometheus did not start")


def run(folder: Path, nodes: int, seconds: int) -> dict[str, float]:
    with ExitStack() as stack:

        def start(*command: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        page = pattern(folder)
        fleet = start(
            sys.executable, str(Path(__file__).with_name("fleet.py")), str(page), "--nodes", str(nodes)
        )
        (folder / "prometheus.yaml").write_text(configuration(listening(fleet), nodes))
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{listener.getsockname()[1]}"
        url = f"http://{address}"
        prometheus = start(
            "prometheus",
            "--config.file=prometheus.yaml",
            f"--web.listen-address={address}",
            "--storage.tsdb.path=data",
            "--log.level=error",
        )
        wait_ready(url)
        time.sleep(2 * INTERVAL_S + 3)  # every target was scraped and every rule evaluated
        before, prometheus_s, fleet_s = own(url), cpu_s(prometheus.pid), cpu_s(fleet.pid)
        began_s, peak_mib = time.monotonic(), 0.0
        while time.monotonic() - began_s < seconds:
            time.sleep(1)
            peak_mib = max(peak_mib, resident_mib(prometheus.pid))
        took_s = time.monotonic() - began_s
        after = own(url)
        of = f'{{job="kezek-exporter"}}[{seconds + INTERVAL_S}s:{INTERVAL_S}s]'
        series = ask(url, 'sum(scrape_samples_scraped{job="kezek-exporter"})')
        return {
            "nodes": nodes,
            "up": ask(url, 'sum(up{job="kezek-exporter"})'),
            "never_down": float(ask(url, f"min(min_over_time(up{of}))")),
            "series": series,
            "series_per_node": series / nodes,
            "samples_per_s": (
                after["prometheus_tsdb_head_samples_appended_total"]
                - before["prometheus_tsdb_head_samples_appended_total"]
            )
            / took_s,
            "prometheus_cpu_cores": (cpu_s(prometheus.pid) - prometheus_s) / took_s,
            "prometheus_peak_mib": peak_mib,
            "fleet_cpu_cores": (cpu_s(fleet.pid) - fleet_s) / took_s,
            "scrape_p99_s": ask(url, 'quantile(0.99, scrape_duration_seconds{job="kezek-exporter"})'),
            "scrape_max_s": ask(url, f"max(max_over_time(scrape_duration_seconds{of}))"),
            "slowest_rule_group_s": slowest_rule_group_s(url),
            "rules_missed": after["prometheus_rule_group_iterations_missed_total"],
            "rules_failed": after["prometheus_rule_evaluation_failures_total"],
            # Exporters alone are scraped: that no scheduler is, is so.
            "alerts": ask(url, 'count(ALERTS{alertname!="KezekSchedulerStalled"})'),
            "joined_gpus": ask(url, "cluster:kezek_gpus_allocated:count"),
            "coverage": ask(url, "cluster:kezek_gpu_telemetry_coverage:ratio"),
            "disk_mib": sum(f.stat().st_size for f in (folder / "data").rglob("*") if f.is_file()) / 2**20,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=200, help=f"at most {MAX_NODES} (default %(default)s)")
    parser.add_argument("--seconds", type=int, default=30, help="measured time (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of text")
    options = parser.parse_args()
    if not 0 < options.nodes <= MAX_NODES:
        parser.error(f"--nodes must be 1 to {MAX_NODES}")
    with tempfile.TemporaryDirectory(prefix="kezek-bench-") as name:
        found = run(Path(name), options.nodes, options.seconds)
    if options.json:
        print(json.dumps(found))
        return
    print(f"machine: {machine()}; commit {commit()}; {GPUS} GPUs a node, scraped every {INTERVAL_S} s")
    for name, value in found.items():
        print(f"{name:22} {value:.4g}" if value < 1000 else f"{name:22} {value:.0f}")


if __name__ == "__main__":
    main()
