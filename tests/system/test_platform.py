"""The whole platform as a newcomer meets it: real PostgreSQL, Ray, agents, scheduler, API and ranks."""

from __future__ import annotations

import contextlib
import json
import re
import uuid
from ipaddress import ip_address
from pathlib import Path

import httpx
import psutil
import pytest
from kezek.bundle import pack

from api.confinement import confinement
from store import embedded

pytestmark = pytest.mark.system

SLOW = """
import os, pathlib, time
print("attempt", os.environ["KEZEK_ATTEMPT"], flush=True)
for step in range(200):
    time.sleep(0.1)
print("done", flush=True)
"""


def enter_project(http: httpx.Client) -> dict[str, str]:
    """Enter a project that may use everything of kazllm's queue; return its researcher's headers."""
    name = {"kk": "Сынақ", "ru": "Проба", "en": "Trial"}
    http.post(
        "/v1/organisations",
        json={
            "slug": "trial",
            "name": name,
            "category": "university",
            "sector": "education",
            "region": "KZ-75",
            "bin": "940240005121",
        },
    ).raise_for_status()
    http.post(
        "/v1/projects", json={"organisation": "trial", "slug": "trial", "programme": "kazllm"}
    ).raise_for_status()
    http.post("/v1/users", json={"name": "trial", "organisation": "trial"}).raise_for_status()
    user = next(user for user in http.get("/v1/users").json()["items"] if user["name"] == "trial")
    http.post(
        f"/v1/users/{user['id']}/roles", json={"role": "researcher", "project": "trial"}
    ).raise_for_status()
    grant = {
        "project": "trial",
        "flavor": "h200",
        "gpu_seconds": 100_000,
        "starts_at": "2026-01-01T00:00:00Z",
        "ends_at": "2031-01-01T00:00:00Z",
        "grounds": [{"kind": "order", "body": "test", "number": "1", "date": "2026-01-01"}],
    }
    http.post("/v1/grants", json=grant).raise_for_status()
    token = http.post("/v1/tokens", json={"user_id": user["id"], "scopes": ["write"]}).json()["secret"]
    return {"Authorization": f"Bearer {token}"}


def submit(
    http: httpx.Client, headers: dict[str, str], folder: Path, program: str, *arguments: str, nodes: int = 2
) -> int:
    (folder / "program.py").write_text(program)
    bundle = pack([folder / "program.py"], folder)
    http.post(
        "/v1/bundles", content=bundle.data, headers={**headers, "Content-Type": "application/gzip"}
    ).raise_for_status()
    job = {
        "project": "trial",
        "command": ["python", "program.py", *arguments],
        "gpus": 2,
        "nodes": nodes,
        "walltime_s": 120,
        "bundle": bundle.digest,
    }
    answer = http.post("/v1/jobs", json=job, headers={**headers, "Idempotency-Key": uuid.uuid4().hex})
    answer.raise_for_status()
    return int(answer.json()["id"])


def state_of(http: httpx.Client, job: int) -> str:
    try:
        return str(http.get(f"/v1/jobs/{job}").json()["state"])
    except httpx.TransportError:
        return "no API"


def attempts_seen(http: httpx.Client, headers: dict[str, str], job: int) -> list[str]:
    return [
        line
        for rank in (0, 1)
        for line in http.get(f"/v1/jobs/{job}/logs", params={"rank": rank}, headers=headers).text.splitlines()
    ]


def processes_naming(path: Path) -> list[list[str]]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            if any(str(path) in word for word in command):
                found.append(command)
    return found


def test_the_workload_is_played_to_its_end_and_nothing_is_left(start):
    running = start("--once", state="x" * 60, nodes=4)
    running.said(r"^ready after")
    family = running.family()
    assert len(family) > 5
    assert running.process.wait(240) == 0, running.text()
    last = running.text().strip().splitlines()[-1]
    found = re.fullmatch(r"kezek: OK jobs=(\d+) completed=(\d+) gpu_seconds=(\d+) journal=verified", last)
    assert found is not None, running.text()
    jobs, completed, gpu_seconds = map(int, found.groups())
    assert (jobs, completed) == (13, 10)
    assert gpu_seconds > 50
    assert "simulated" in running.text()
    assert not [
        process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]


def test_killed_parts_come_back_and_no_job_is_lost_or_run_twice(start, wait_for, tmp_path):
    running = start("--idle")
    with running.http() as http:
        headers = enter_project(http)
        job = submit(http, headers, tmp_path, SLOW)
        wait_for("the gang runs", lambda: state_of(http, job) == "RUNNING")
        running.child("scheduler").kill()
        second = submit(http, headers, tmp_path, SLOW)
        running.child("api").kill()
        wait_for("the API is back", lambda: state_of(http, second) != "no API")
        wait_for("the first job ends", lambda: state_of(http, job) == "COMPLETED")
        wait_for("the second job ends", lambda: state_of(http, second) == "COMPLETED")
        for number in (job, second):
            lines = attempts_seen(http, headers, number)
            assert sorted(lines) == [f"attempt {number}-1"] * 2 + ["done"] * 2
        for command in (("audit", "verify"), ("ledger", "verify"), ("replay",)):
            done = running.server(*command)
            assert done.returncode == 0, done.stderr
        held = submit(
            http, headers, tmp_path, SLOW
        )  # it runs for seconds: what follows must come before its end
        wait_for("the third job runs", lambda: state_of(http, held) == "RUNNING")
    family = running.family()
    assert running.ctrl_c() == 0, running.text()
    assert not [
        process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]
    assert processes_naming(running.state) == []

    again = start("--idle")
    with again.http() as http:
        wait_for("the interrupted job runs to its end", lambda: state_of(http, held) == "COMPLETED")
        assert f"attempt {held}-2" in attempts_seen(http, headers, held)
    for command in (("audit", "verify"), ("ledger", "verify"), ("replay",)):
        done = again.server(*command)
        assert done.returncode == 0, done.stderr


def test_a_second_platform_in_the_same_folder_is_refused(start):
    first = start("--idle")
    first.said(r"^state: ")
    second = start("--idle")
    assert second.process.wait(60) == 1
    assert "already runs" in second.text()


def test_a_tenants_rank_reaches_neither_ray_nor_agents_nor_the_database(start, wait_for, tmp_path):
    running = start("--idle")
    with running.http() as http:
        headers = enter_project(http)
        isolation = http.get("/v1/cluster").json()["nodes"][0]["isolation"]
        if "mount-ns" not in isolation or not any(name.startswith("landlock:") for name in isolation):
            assert "WARNING: no " in running.text()
            pytest.skip(f"this machine confines ranks by {isolation} only, and start-up warns of that")
        assert "WARNING" not in running.text()
        family = [psutil.Process(running.process.pid), *running.family()]
        listening = [
            (c.laddr.ip.removeprefix("::ffff:"), process.name())
            for process in family
            for c in process.net_connections("inet")
            if c.status == psutil.CONN_LISTEN
        ]
        assert len(listening) > 8
        assert [one for one in listening if not ip_address(one[0]).is_loopback] == []
        ray_dir = embedded.short_dir(running.state / "ray", label="ray")
        assert ray_dir.stat().st_mode & 0o777 == 0o700
        agents = json.loads((running.state / "agents.json").read_text())
        agent = next(
            process for process in running.family() if any("AgentHost" in word for word in process.cmdline())
        )
        arguments = (
            agents["n0"],
            str(embedded.short_dir(running.state / "pg" / "data", label="pg")),
            str(ray_dir),
            str(running.state / "secrets"),
            str(running.state / "agents" / "n0"),
            str(agent.pid),
        )
        program = (Path(__file__).parent / "hostile.py").read_text()
        job = submit(http, headers, tmp_path, program, *arguments, nodes=1)
        wait_for("the program ends", lambda: state_of(http, job) in {"COMPLETED", "FAILED", "TIMEOUT"})
        log = http.get(f"/v1/jobs/{job}/logs", params={"rank": 0}, headers=headers).text
    said = json.loads(log.strip().splitlines()[-1])
    assert int(said.pop("sockets seen")) >= 3  # PostgreSQL's and, per node of Ray, a raylet's and its store's
    assert said.pop("agent probe") == said.pop("agent launch") == "401"
    assert set(said.values()) == {"PermissionError"}, said
    assert agent.is_running()
    assert running.ctrl_c() == 0, running.text()
    assert not ray_dir.exists()


def test_start_up_names_what_every_node_has_and_warns_of_what_one_lacks():
    full = ("no-new-privs", "mount-ns", "landlock:7", "caps-dropped", "uid:per-attempt")
    assert confinement([full, full], is_root=True) == [
        "ranks are confined on every node by: caps-dropped, landlock:7, mount-ns, no-new-privs, uid:per-attempt"
    ]
    one, landlock, mounts, uid = confinement([full, ("no-new-privs",)], is_root=True)
    assert one == "ranks are confined on every node by: no-new-privs"
    assert landlock.startswith("WARNING: no Landlock")
    assert mounts.startswith("WARNING: no mount namespaces")
    assert uid == (
        "ranks share the platform's uid: "
        "a folder on the way to the state or to the interpreter of the job environment is private"
    )
    assert "root" in confinement([full[:-1]], is_root=False)[1]
