"""An idle job of a live platform: seen by a real exporter, told twice, then ended; its GPU time goes back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.app import create_app
from scheduler.dispatch.executor import AgentExecutor
from tests.api.serving import serving
from tests.system.test_platform import enter_project, state_of, submit

ROOT = Path(__file__).parents[2]
SECRET = "an-invented-secret-of-the-tests"
POLICY = """
idle_policy:
  dry_run: false
  notice_after: 2s
  second_notice_after: 4s
  cancel_after: 6s
  min_coverage: 0.5
"""
FOR_EVER = "import time\nwhile True: time.sleep(0.1)\n"

pytestmark = pytest.mark.system


@pytest.fixture
def process() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start one of the platform's processes; all end with the test, the last one first."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **env: str) -> subprocess.Popen[str]:
        made = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | env,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(made)
        return made

    yield start
    for one in reversed(started):
        one.terminate()
        one.communicate(timeout=60)


@pytest.fixture
def http(
    database: Any, tmp_path: Path, process: Callable[..., subprocess.Popen[str]], wait_for: Any
) -> Iterator[httpx.Client]:
    """An agent, an exporter of its simulated GPUs that nobody uses, a scheduler: processes of their own; the API."""
    state = tmp_path / "state"
    secrets = state / "secrets"
    secrets.mkdir(mode=0o700, parents=True)
    (secrets / "agent.secret").write_text(SECRET, "utf-8")
    (secrets / "agent.secret").chmod(0o600)
    (tmp_path / "agent").mkdir()
    agent = process(
        "scheduler.agent", "--node", "n0", "--bind", "127.0.0.2", "--state", str(tmp_path / "agent"),
        "--secret-file", str(secrets / "agent.secret"), "--gpus", "8", "--flavor", "h200", "--simulated",
    )  # fmt: skip
    exporter = process(
        "api.cli", "exporter", "--simulated", "--node", "n0", "--gpus", "8", "--listen", "127.0.0.1:0"
    )
    assert agent.stdout is not None
    assert exporter.stdout is not None
    (state / "agents.json").write_text(json.dumps({"n0": agent.stdout.readline().strip()}))
    env = {
        "KEZEK_DATABASE_URL": database.url,
        "KEZEK_STATE_DIR": str(state),
        "KEZEK_EXPORTERS": exporter.stdout.readline().split()[3],
        "KEZEK_TELEMETRY_INTERVAL_S": "1",
    }
    policy = tmp_path / "idle.yaml"
    policy.write_text(POLICY)
    for command in (("policy", "enact", "examples/policy.yaml"), ("idle-policy", "set", str(policy))):
        assert process("api.cli", *command, **env).wait(60) == 0
    token = process("api.cli", "token", **env).communicate(timeout=60)[0].strip()
    process("api.cli", "scheduler", **env)
    executor = AgentExecutor(json.loads((state / "agents.json").read_text()), SECRET)
    with serving(create_app(database.engine, lambda: executor)) as client:
        client.headers["Authorization"] = f"Bearer {token}"
        wait_for("its node is up", lambda: client.get("/v1/cluster").json()["free"] == 8)
        yield client
    executor.close()


def test_a_simulated_idle_job_is_told_twice_and_then_ended(
    http: httpx.Client, tmp_path: Path, wait_for: Any
) -> None:
    headers = enter_project(http)
    before = balance(http, headers)
    job = submit(http, headers, tmp_path, FOR_EVER, nodes=1)
    notices: list[dict[str, Any]] = []

    def is_over() -> bool:
        notices[:] = http.get(f"/v1/jobs/{job}/notices", headers=headers).json()["items"]
        return state_of(http, job) == "CANCELLED"

    wait_for("the idle job ends", is_over)
    ended = http.get(f"/v1/jobs/{job}", headers=headers | {"Accept-Language": "kk"}).json()
    assert (ended["exit_error"], ended["attempt"]["stop_why"]) == ("IDLE", "idle")
    assert "бос тұрды" in ended["exit_error_text"]
    cancel, second, first = notices
    assert [one["step"] for one in (first, second, cancel)] == ["notice", "second_notice", "cancel"]
    assert [one["idle_gpus"] for one in notices] == [2, 2, 2]
    attempt = ended["attempt"]
    assert cancel["returned_gpu_seconds"] == attempt["claim_s"] - attempt["used_s"] > 0
    after = balance(http, headers)
    assert after["pending_s"] == 0
    assert after["remaining_s"] == before["remaining_s"] - attempt["used_s"]
    seen = http.get(f"/v1/jobs/{job}/efficiency", headers=headers).json()
    assert seen["is_simulated"] is True
    assert (seen["mean_utilisation_ratio"], seen["useful_gpu_seconds"]) == (0, 0)
    assert seen["coverage_ratio"] > 0.5
    assert seen["energy_kwh"] > 0
    use = http.get("/v1/telemetry/use?by=project", headers=headers).json()["items"]
    assert [(row["name"], row["energy_kwh"]) for row in use] == [("trial", seen["energy_kwh"])]


def balance(http: httpx.Client, headers: dict[str, str]) -> dict[str, int]:
    found: dict[str, int] = http.get("/v1/grants", headers=headers).json()["items"][0]["balance"]
    return found
