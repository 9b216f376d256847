"""A real platform for the command line: the API over HTTP, a scheduler, one node's agent, a fresh database."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from kezek.fields import Fields
from kezek.model import Job

from api.app import create_app
from scheduler.dispatch.executor import AgentExecutor
from scheduler.service import SchedulerService, SchedulerSettings
from store import clock
from store.engine import transaction
from tenants.access import bootstrap_operator

ROOT = Path(__file__).resolve().parents[2]
SECRET = "an-invented-secret-of-the-tests"
POLICY = {
    "policy": {
        "version": "test-1",
        "effective_from": "2026-01-01",
        "grounds": [{"kind": "order", "body": "authorised body", "number": "1", "date": "2025-12-25"}],
        "tree": {"science": {"nominal": "100%", "default_walltime": "10m", "max_walltime": "1d"}},
        "routes": [{"queue": "science"}],
    }
}
ORDER = {"kind": "order", "body": "authorised body", "number": "2", "date": "2026-01-05"}
NAME = {"kk": "Сынақ", "ru": "Проба", "en": "Trial"}


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass
class Platform:
    """Where the platform is, whose tokens there are, and a user's shell."""

    url: str
    operator: str
    home: Path
    token: str = ""
    stranger: str = ""
    env: dict[str, str] = field(default_factory=dict)

    def call(self, method: str, path: str, body: object = None, token: str = "") -> Any:
        answer = httpx.request(
            method,
            self.url + path,
            json=body,
            headers={"Authorization": f"Bearer {token or self.operator}"},
            trust_env=False,
        )
        assert answer.is_success, answer.text
        return answer.json()

    def environment(self, **more: str) -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("KEZEK", "LC_", "LANG"))
        }
        own = {"KEZEK_URL": self.url, "KEZEK_TOKEN": self.token, "KEZEK_LANG": "en", "HOME": str(self.home)}
        return kept | own | {"XDG_CONFIG_HOME": str(self.home / "config")} | self.env | more

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", "from kezek.cli import main; main()", *arguments],
            env=self.environment(**env), cwd=self.home, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
        )  # fmt: skip

    def kezek(self, *arguments: str, **env: str) -> Done:
        process = self.start(*arguments, **env)
        out, err = process.communicate(timeout=60)
        return Done(process.returncode, out, err)

    def write(self, name: str, text: str) -> Path:
        path = self.home / name
        path.write_text(text, "utf-8")
        return path


def eventually(ask: Callable[[], object], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not ask():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


@pytest.fixture
def soon() -> Callable[..., None]:
    return eventually


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[str]:
    """URL of a node's agent in a process of its own."""
    state = tmp_path / "agent"
    state.mkdir()
    secret = state / "secret"
    secret.write_text(SECRET, "utf-8")
    secret.chmod(0o600)
    with subprocess.Popen(
        [sys.executable, "-m", "scheduler.agent", "--node", "n0", "--bind", "127.0.0.2", "--state", str(state),
         "--secret-file", str(secret), "--gpus", "8", "--flavor", "h200", "--simulated"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            assert url.startswith("http://"), "the agent did not start"
            yield url
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture
def api(database: Any, agent: str) -> Iterator[str]:
    """URL of the API, with a scheduler behind it."""
    executors: list[AgentExecutor] = []

    def connect(urls: Mapping[str, str]) -> AgentExecutor:
        executors.append(AgentExecutor(urls, SECRET))
        return executors[-1]

    executor = connect({"n0": agent})
    settings = SchedulerSettings(
        holder="client-tests", database_url=database.url, release="test", cycle_interval_ms=100
    )
    service = SchedulerService(database.engine, lambda: {"n0": agent}, connect, settings)
    app = create_app(database.engine, lambda: executor)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    threads = [threading.Thread(target=service.run), threading.Thread(target=server.run)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: server.started)
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}"
    finally:
        service.stop()
        server.should_exit = True
        for thread in threads:
            thread.join(30)
        for made in executors:
            made.close()


@pytest.fixture
def platform(api: str, database: Any, tmp_path: Path) -> Platform:
    """The platform with a project that has GPU time, its user, and a stranger."""
    with transaction(database.engine) as session:
        issued = bootstrap_operator(session, clock.now())
    assert issued is not None
    home = tmp_path / "home"
    home.mkdir()
    made = Platform(api, issued.secret, home)
    made.call("POST", "/v1/policies", POLICY)
    for slug in ("aurora", "boreal"):
        organisation = {
            "slug": slug,
            "name": NAME,
            "category": "foreign",
            "sector": "education",
            "region": "KZ-71",
        }
        made.call("POST", "/v1/organisations", organisation)
        made.call("POST", "/v1/projects", {"organisation": slug, "slug": slug})
    grant = {"project": "aurora", "flavor": "h200", "gpu_seconds": 36_000}
    period = {"starts_at": "2026-01-01T00:00:00Z", "ends_at": "2099-01-01T00:00:00Z"}
    made.call("POST", "/v1/grants", grant | period | {"grounds": [ORDER]})
    made.token = _user(made, "aurora")
    made.stranger = _user(made, "boreal")
    eventually(lambda: made.call("GET", "/v1/cluster")["gpus"])
    return made


def _user(platform: Platform, project: str) -> str:
    user = platform.call("POST", "/v1/users", {"name": f"user-{project}", "organisation": project})
    platform.call("POST", f"/v1/users/{user['id']}/roles", {"role": "researcher", "project": project})
    return str(platform.call("POST", "/v1/tokens", {"user_id": user["id"], "scopes": ["write"]})["secret"])


def job(**changes: object) -> Job:
    plain: dict[str, object] = {
        "id": 7, "project": "p", "queue": "q", "state": "PENDING", "name": "n", "command": ["trian.py"], "reason": None,
        "place": 0, "gpus": 2, "nodes": None, "walltime_s": 60, "flavors": ["h200"], "is_held": False,
        "is_cancel_requested": False, "is_simulated": True, "attempts": 1, "exit_code": None, "exit_signal": None,
        "exit_error": None, "exit_error_text": None, "gpu_seconds": 0, "submitted_at": "2026-01-01T00:00:00Z",
        "first_started_at": None, "finished_at": None,
        "attempt": {
            "started_at": None,
            "ranks": [
                {"rank": 0, "node": "n0", "gpu_uuids": ["a", "b"], "exit_code": None, "signal": None, "error": None}
            ],
        },
    }  # fmt: skip
    return Job.of(Fields(plain | changes, "job"))
