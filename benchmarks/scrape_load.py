"""What a cluster's exporters cost a real Prometheus: ingestion, CPU, memory.

Simulated exporters speak for 50 nodes each, so fewer processes are needed; the series are those of as many nodes.
Rules are evaluated too. Bounded: by default 200 of 1,000 nodes with 8 GPUs,
30 s; the figures per series tell what the whole would cost.

Usage: python benchmarks/scrape_load.py [--nodes N] [--seconds S]
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import httpx
from exporter import ROOT, commit, cpu_s, listening, machine, resident_mib

GPUS = 8
NODES_PER_EXPORTER = 50
MAX_NODES = 1000
INTERVAL_S = 15


def nodes_file(path: Path, first: int) -> None:
    nodes = [
        {
            "node": f"n{number:04}",
            "gpus": [{"uuid": f"GPU-{uuid.UUID(int=number * GPUS + index)}"} for index in range(GPUS)],
        }
        for number in range(first, first + NODES_PER_EXPORTER)
    ]
    held = [gpu["uuid"] for node in nodes for gpu in node["gpus"][: GPUS // 2]]  # type: ignore[index, misc]
    holder = {"job_id": "1", "started_at": "2026-01-01T00:00:00+00:00"}
    path.write_text(json.dumps({"nodes": nodes, "holders": dict.fromkeys(held, holder)}))


def start_exporter(path: Path) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "metrics.exporter_cli", "--simulated", "--nodes-file", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    return process, listening(process)


def ask(url: str, query: str) -> float:
    answer = httpx.get(f"{url}/api/v1/query", params={"query": query}, timeout=30)
    result = answer.json()["data"]["result"]
    return float(result[0]["value"][1]) if result else 0.0


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


def configuration(targets: list[str]) -> str:
    rules = [str(path) for path in sorted((ROOT / "metrics" / "prometheus").glob("*.yaml"))]
    scrape = {"job_name": "kezek-exporter", "static_configs": [{"targets": targets}]}
    interval = f"{INTERVAL_S}s"
    return json.dumps(  # JSON is YAML
        {
            "global": {"scrape_interval": interval, "scrape_timeout": "10s", "evaluation_interval": interval},
            "rule_files": rules,
            "scrape_configs": [scrape],
        }
    )


def run(folder: Path, nodes: int, seconds: int) -> str:
    processes: list[subprocess.Popen[str]] = []
    try:
        targets = []
        for first in range(0, nodes, NODES_PER_EXPORTER):
            path = folder / f"nodes-{first}.json"
            nodes_file(path, first)
            process, url = start_exporter(path)
            processes.append(process)
            targets.append(url.removeprefix("http://"))
        (folder / "prometheus.yaml").write_text(configuration(targets))
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        command = [
            "prometheus",
            "--config.file=prometheus.yaml",
            f"--web.listen-address={url.removeprefix('http://')}",
        ]
        server = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL, text=True)
        processes.append(server)
        wait_ready(url)
        time.sleep(2 * INTERVAL_S)  # every target was scraped and every rule evaluated once
        before_s, began_s = cpu_s(server.pid), time.monotonic()
        time.sleep(seconds)
        cpu = (cpu_s(server.pid) - before_s) / (time.monotonic() - began_s)
        series = ask(url, 'sum(scrape_samples_scraped{job="kezek-exporter"})')
        up, slowest = ask(url, "sum(up)"), ask(url, "max(scrape_duration_seconds)")
        if up != len(targets):
            raise SystemExit(
                f"{up:.0f} of {len(targets)} targets are up: the figures would be of fewer nodes"
            )
        return (
            f"| {nodes} | {series:.0f} | {series / nodes:.0f} | {series / INTERVAL_S:.0f} | {cpu:.2f} | "
            f"{resident_mib(server.pid):.0f} | {slowest:.2f} |"
        )
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--nodes", type=int, default=200, help=f"simulated nodes, at most {MAX_NODES} (default %(default)s)"
    )
    parser.add_argument("--seconds", type=int, default=30, help="measured time (default %(default)s)")
    options = parser.parse_args()
    if not 0 < options.nodes <= MAX_NODES or options.nodes % NODES_PER_EXPORTER:
        parser.error(f"--nodes must be a multiple of {NODES_PER_EXPORTER}, at most {MAX_NODES}")
    print(f"machine: {machine()}; commit {commit()}; {GPUS} GPUs a node, scraped every {INTERVAL_S} s")
    print(
        "| nodes | series | series a node | samples/s | CPU cores of Prometheus | resident MiB | slowest scrape s |"
    )
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="kezek-bench-") as name:
        print(run(Path(name), options.nodes, options.seconds), flush=True)


if __name__ == "__main__":
    main()
