"""The settings that the chart renders start the real processes: PostgreSQL, Ray, agents, exporter, scheduler, API; a job runs.

Only what a cluster alone has is replaced: mounts by folders, names and addresses of pods by those of the loopback, the
image's interpreter by this one.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psycopg
import pytest
import yaml

from api import play, play_stage
from scheduler.dispatch.raylocal import RAY_ADDRESS
from store import embedded
from tests.helm.conftest import NEEDED, ROOT, Thing, containers, things

pytestmark = [pytest.mark.ray, pytest.mark.system]
NODE = "n0"
WORKLOAD = """
organisations:
  - slug: su
    name: {kk: Өзен, ru: Река, en: River}
    category: research-institute
    sector: water-supply
    region: KZ-31
    bin: "070940008436"
    project:
      slug: floods
      programme: null
      grants:
        - gpu_hours: 10
          flavor: h200
          starts: 2026-01-01
          ends: 2031-01-01
          decision: {kind: order, body: "authorised body", number: "EXAMPLE-1", date: 2025-12-26}
jobs:
  - name: hello
    project: floods
    files: [hello.py]
    command: [python, hello.py]
    gpus: 1
    nodes: 1
    flavor: h200
    walltime: 60s
    outputs: []
    expect: {state: COMPLETED, exit_code: 0}
"""


def free_port(address: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def until(what: str, is_true: Callable[[], object], within_s: float = 90) -> object:
    deadline = time.monotonic() + within_s
    while not (found := is_true()):
        assert time.monotonic() < deadline, f"{what}: not within {within_s} s"
        time.sleep(0.1)
    return found


@dataclass
class Cluster:
    """Stands in for Kubernetes: folders for mounts, ports of the loopback for pods."""

    base: Path
    rendered: tuple[Thing, ...]
    ray_address: str = ""
    ports: dict[str, int] = field(
        default_factory=lambda: {n: free_port() for n in ("8080", "7070", "9400", "9401")}
    )
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def write_secrets(self, database_url: str) -> None:
        folder = self.base / "secrets"
        folder.mkdir()
        for name in ("agent-secret", "ray-token", "metrics-token", "exporter-token"):
            (folder / name).write_text(secrets.token_hex(32) + "\n")
            (folder / name).chmod(0o600)
        (folder / "database-url").write_text(database_url)

    def secret(self, name: str) -> str:
        return (self.base / "secrets" / name).read_text().strip()

    def container(self, name: str) -> Thing:
        (found,) = [made for full, _, made in containers(self.rendered) if full.endswith(f":{name}")]
        return found

    def here(self, name: str, text: str) -> str:
        """A value of a container as it is on this machine."""
        text = text.replace("/run/secrets/kezek", str(self.base / "secrets"))
        text = text.replace("/var/lib/kezek", str(self.state(name)))
        text = text.replace("/opt/kezek/venv/bin/python", sys.executable)
        text = text.replace("/opt/kezek/jobenv", os.environ.get("KEZEK_JOB_ENV", str(ROOT / ".jobenv")))
        text = text.replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - it is replaced
        text = re.sub(r"kezek-ray-head-svc\.kezek\.svc:6379", self.ray_address, text)
        text = re.sub(r"kezek-(nodes|exporter)\.kezek\.svc", "127.0.0.1", text)
        return re.sub("|".join(self.ports), lambda found: str(self.ports[found[0]]), text)

    def state(self, name: str) -> Path:
        folder = self.base / {"keeper": "ray"}.get(name, name)  # one pod, one volume
        folder.mkdir(exist_ok=True)
        return folder

    def env(self, name: str) -> dict[str, str]:
        made = self.container(name)
        found = {}
        for source in made.get("envFrom", []):
            (settings,) = [
                thing["data"]
                for thing in self.rendered
                if thing["kind"] == "ConfigMap"
                and thing["metadata"]["name"] == source["configMapRef"]["name"]
            ]
            found |= settings
        for variable in made.get("env", []):
            fields = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            found[variable["name"]] = {"spec.nodeName": NODE, "status.podIP": RAY_ADDRESS}.get(
                fields
            ) or variable["value"]
        kept = {key: os.environ[key] for key in ("PATH",) if key in os.environ}
        return kept | {key: self.here(name, value) for key, value in found.items()}

    def command(self, name: str) -> list[str]:
        made = self.container(name)
        return [self.here(name, word) for word in [*made["command"], *made.get("args", [])]]

    def probe(self, name: str, kind: str = "livenessProbe") -> list[str]:
        return [self.here(name, word) for word in self.container(name)[kind]["exec"]["command"]]

    def start(self, name: str, command: list[str] | None = None, env: dict[str, str] | None = None) -> None:
        with (self.base / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                command or self.command(name),
                env=self.env(name) | (env or {}),
                cwd=self.empty(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def empty(self) -> Path:
        folder = self.base / "empty"
        folder.mkdir(exist_ok=True)
        return folder

    def run(
        self, name: str, *arguments: str, stdin: str | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        words = [*self.command(name)[:4], *arguments] if arguments else self.command(name)
        return subprocess.run(
            words,
            env=self.env(name) | env,
            cwd=self.empty(),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )

    def log(self, name: str) -> str:
        return (self.base / f"{name}.log").read_text()[-3000:]

    def stop(self, *names: str) -> None:
        for name in names or reversed(tuple(self.running)):
            process = self.running[name]
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(40)


@pytest.fixture
def cluster(tmp_path: Path, postgres: embedded.EmbeddedPostgres) -> Iterator[Cluster]:
    """One machine's chart over an empty database; the node of Ray that the DaemonSet's first container would be."""
    name = f"h_{secrets.token_hex(6)}"
    admin = postgres.url.replace(f"@/{embedded.SERVER_USER}?", "@/postgres?")
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    values = ("--values", str(ROOT / "helm/values/one-machine.yaml"), "--set", "nodes.gpus=8")
    made = Cluster(tmp_path, things(*values))
    made.write_secrets(postgres.url.replace(f"@/{embedded.SERVER_USER}?", f"@/{name}?"))
    try:
        yield made
    finally:
        made.stop()
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def start_ray(cluster: Cluster) -> None:
    ready = cluster.base / "ray.json"
    words = ["ray-local", "--nodes", "1", "--gpus", "8", "--ready-file", str(ready)]
    token = str(cluster.base / "secrets" / "ray-token")
    prefix = cluster.command("keeper")[:4]
    cluster.start("ray", [*prefix, *words, "--token-file", token])
    until("Ray", lambda: ready.exists() or cluster.running["ray"].poll() is not None)
    assert ready.exists(), cluster.log("ray")
    found = json.loads(ready.read_text())
    cluster.ray_address = found["address"]
    assert found["nodes"][0]["name"] == NODE


def test_a_job_runs_on_what_the_chart_starts(cluster: Cluster):
    early = cluster.run("api")
    assert early.returncode == 1
    assert "the database is at migration none" in early.stderr

    migrated = cluster.run("migrate")
    assert migrated.returncode == 0, migrated.stderr
    enacted = cluster.run(
        "api", "policy", "enact", "/dev/stdin", stdin=(ROOT / "examples/policy.yaml").read_text()
    )
    assert enacted.returncode == 0, enacted.stderr
    start_ray(cluster)
    for name in ("keeper", "exporter", "scheduler", "api"):
        cluster.start(name)

    api = f"http://127.0.0.1:{cluster.ports['8080']}"
    with httpx.Client(base_url=api, trust_env=False, timeout=30) as http:

        def answers(path: str) -> int:
            try:
                return http.get(path).status_code
            except httpx.TransportError:
                return 0

        for kind in ("startupProbe", "readinessProbe"):
            path = cluster.container("api")[kind]["httpGet"]["path"]
            until(kind, lambda path=path: answers(path) == 200)
        until("the scheduler leads", lambda: answers("/readyz") == 200)
        assert answers("/v1/jobs") == 401
        assert answers("/metrics") == 401
        bearer = {"Authorization": f"Bearer {cluster.secret('metrics-token')}"}
        assert "kezek_" in http.get("/metrics", headers=bearer).text

        token = cluster.run("api", "token").stdout.strip()
        operator = {"Authorization": f"Bearer {token}"}
        until(
            "the node is up",
            lambda: [n["state"] for n in http.get("/v1/cluster", headers=operator).json()["nodes"]] == ["UP"],
        )

    (cluster.base / "hello.py").write_text("import os; print('rank', os.environ['RANK'], 'runs')\n")
    workload = yaml.safe_load(WORKLOAD)
    said: list[str] = []
    with httpx.Client(base_url=api, trust_env=False, timeout=30) as http:
        stage = play_stage.Stage(http, token)
        play._enter(stage, workload)
        job = play._submit(stage, cluster.base, workload["jobs"][0], said.append)
        play._follow(stage, [job], said.append, lambda: None)
        assert play._check(stage, job) == [], (said, cluster.log("scheduler"))

    for name in ("scheduler", "keeper"):
        probed = subprocess.run(
            cluster.probe(name), env=cluster.env(name), capture_output=True, text=True, check=False
        )
        assert probed.returncode == 0, probed.stderr
    telemetry = f"http://127.0.0.1:{cluster.ports['9400']}"
    assert httpx.get(f"{telemetry}/-/healthy", trust_env=False).text == "ok\n"
    assert httpx.get(f"{telemetry}/metrics", trust_env=False).status_code == 401
    bearer = {"Authorization": f"Bearer {cluster.secret('exporter-token')}"}
    page = httpx.get(f"{telemetry}/metrics", headers=bearer, trust_env=False).text
    assert page.count(f'node="{NODE}"') > 2
    cycles = f"http://127.0.0.1:{cluster.ports['9401']}/metrics"
    assert httpx.get(cycles, trust_env=False).status_code == 401
    bearer = {"Authorization": f"Bearer {cluster.secret('metrics-token')}"}
    page = httpx.get(cycles, headers=bearer, trust_env=False).text
    assert re.search(r'^kezek_cycle_phase_seconds_count\{phase="apply"\} [1-9]', page, re.MULTILINE)

    verified = cluster.run("scheduler", "audit", "verify")
    assert verified.returncode == 0, verified.stderr
    assert (cluster.state("scheduler") / "journal-heads.jsonl").exists()


def test_a_probe_finds_a_scheduler_that_does_not_work(cluster: Cluster):
    def probe() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            cluster.probe("scheduler"),
            env=cluster.env("scheduler"),
            capture_output=True,
            text=True,
            check=False,
        )

    assert "has not worked yet" in probe().stderr
    beat = cluster.state("scheduler") / "scheduler.alive"
    beat.touch()
    assert probe().returncode == 0
    os.utime(beat, (time.time() - 61, time.time() - 61))
    assert probe().returncode == 1
    assert "silent for 61 s" in probe().stderr


def test_one_of_two_schedulers_leads_and_both_are_alive(cluster: Cluster):
    assert cluster.run("migrate").returncode == 0
    for name in ("first", "second"):
        (cluster.base / name).mkdir()
        # Each pod has an address of its own.
        pod = {"KEZEK_STATE_DIR": str(cluster.base / name), "KEZEK_SCHEDULER_METRICS": "127.0.0.1:0"}
        env = cluster.env("scheduler") | pod
        with (cluster.base / f"{name}.log").open("ab") as log:
            cluster.running[name] = subprocess.Popen(
                cluster.command("scheduler"), env=env, stdout=log, stderr=log, start_new_session=True
            )
    until("one leads", lambda: "leading with epoch 1" in cluster.log("first") + cluster.log("second"))
    for name in ("first", "second"):
        until(f"{name} works", (cluster.base / name / "scheduler.alive").exists)
    leader = "first" if "leading" in cluster.log("first") else "second"
    other = {"first": "second", "second": "first"}[leader]
    cluster.stop(leader)
    until("the other takes over", lambda: "leading with epoch 2" in cluster.log(other))


def test_the_settings_of_the_configmap_are_those_of_the_code():
    (data,) = [
        t["data"]
        for t in things(*NEEDED)
        if t["kind"] == "ConfigMap" and t["metadata"]["name"] == "kezek-settings"
    ]
    script = "from store.settings import Settings; print(Settings().model_dump_json())"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**data, "PATH": os.environ["PATH"]},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    read = json.loads(done.stdout)
    for name, value in data.items():
        assert str(read[name.removeprefix("KEZEK_").lower()]) == value
    assert set(yaml.safe_load((ROOT / "helm/values.yaml").read_text())["settings"]) <= set(read)
