"""Measures submit → first line of the job's own code, through the front door of a warm platform.

Usage: .venv/bin/python benchmarks/launch.py [--jobs 50] [--json]

Starts a platform of its own (2 nodes, simulated GPUs) in a temporary folder, submits one-GPU jobs one after the
other, and takes for each the instant that its program prints (`time.time()`, same machine, same clock) minus the
instant before the submit call. Prints p50 and p99 with machine, seed-free parameters and commit.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx
from kezek.bundle import pack

ROOT = Path(__file__).parents[1]
PROGRAM = "import time\nprint(time.time(), flush=True)\n"
START_TIMEOUT_S = 180
JOB_TIMEOUT_S = 60


def wait_for(is_true: Callable[[], object], timeout_s: float) -> object:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = is_true()
        if found:
            return found
        time.sleep(0.02)
    raise TimeoutError


def start(folder: Path) -> tuple[subprocess.Popen[str], str, str]:
    output = (folder / "out").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "api.cli", "up", "--idle"],
        cwd=ROOT,
        env={**os.environ, "KEZEK_STATE_DIR": str(folder / "state"), "KEZEK_NODES": "2"},
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    pattern = re.compile(r"^page:  (\S+)/\ntoken: (\S+)", re.MULTILINE)
    wait_for(lambda: pattern.search((folder / "out").read_text()), START_TIMEOUT_S)
    found = pattern.search((folder / "out").read_text())
    if found is None:
        raise RuntimeError((folder / "out").read_text())
    return process, found[1], found[2]


def enter(client: httpx.Client) -> dict[str, str]:
    organisation = {"kk": "Өлшем", "ru": "Измерение", "en": "Measurement"}
    for path, body in (
        (
            "/v1/organisations",
            {
                "slug": "bench",
                "name": organisation,
                "category": "foreign",
                "sector": "education",
                "region": "KZ-75",
                "bin": None,
            },
        ),
        ("/v1/projects", {"organisation": "bench", "slug": "bench", "programme": "kazllm"}),
        ("/v1/users", {"name": "bench", "organisation": "bench"}),
    ):
        client.post(path, json=body).raise_for_status()
    user = next(u for u in client.get("/v1/users").json()["items"] if u["name"] == "bench")
    client.post(
        f"/v1/users/{user['id']}/roles", json={"role": "researcher", "project": "bench"}
    ).raise_for_status()
    grant = {
        "project": "bench",
        "flavor": "h200",
        "gpu_seconds": 10**9,
        "starts_at": "2026-01-01T00:00:00Z",
        "ends_at": "2031-01-01T00:00:00Z",
        "grounds": [{"kind": "order", "body": "benchmark", "number": "1", "date": "2026-01-01"}],
    }
    client.post("/v1/grants", json=grant).raise_for_status()
    token = client.post("/v1/tokens", json={"user_id": user["id"], "scopes": ["write"]}).json()["secret"]
    return {"Authorization": f"Bearer {token}"}


def measure(client: httpx.Client, digest: str) -> float:
    before = time.time()
    job = {"project": "bench", "command": ["python", "now.py"], "gpus": 1, "walltime_s": 60, "bundle": digest}
    answer = client.post("/v1/jobs", json=job)
    answer.raise_for_status()
    number = answer.json()["id"]

    def ended() -> bool:
        return client.get(f"/v1/jobs/{number}").json()["state"] == "COMPLETED"

    wait_for(ended, JOB_TIMEOUT_S)
    text = client.get(f"/v1/jobs/{number}/logs", params={"rank": 0}).text
    return float(re.search(r"\d{9,}\.\d+", text)[0]) - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kezek-bench-") as name:
        folder = Path(name)
        process, url, token = start(folder)
        try:
            with httpx.Client(
                base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30, trust_env=False
            ) as client:
                client.headers.update(enter(client))
                (folder / "now.py").write_text(PROGRAM)
                bundle = pack([folder / "now.py"], folder)
                client.post(
                    "/v1/bundles", content=bundle.data, headers={"Content-Type": "application/gzip"}
                ).raise_for_status()
                measure(client, bundle.digest)  # warm: the bundle reaches the node
                taken = sorted(measure(client, bundle.digest) for _ in range(options.jobs))
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    result = {
        "jobs": options.jobs,
        "p50_s": round(statistics.median(taken), 3),
        "p99_s": round(taken[min(len(taken) - 1, int(0.99 * len(taken)))], 3),
        "min_s": round(taken[0], 3),
        "max_s": round(taken[-1], 3),
        "machine": f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}",
        "commit": commit,
    }
    print(
        json.dumps(result) if options.json else "\n".join(f"{key}: {value}" for key, value in result.items())
    )


if __name__ == "__main__":
    main()
