"""The processes of a platform on one machine: started, watched and stopped. `api.up` drives them.

Order: a local Ray cluster begins to start; meanwhile PostgreSQL, migrations, policy, API; then node agents,
scheduler and exporter; then the workload. State lives in the state folder and survives; sockets live in short private
folders of the temporary directory. Everything started is stopped, by pid, and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from api.processes import Child, ChildError, clean_env, stop_all
from api.simulation import write_holders
from metrics.nvml import open_source
from quota.service import enact, policies
from scheduler.dispatch.executor import AgentExecutor
from scheduler.figures import cluster
from scheduler.model import NodeState
from scheduler.service import requeue_all_live
from store import clock, embedded, engine, migrate, seal
from store.settings import Settings

READY_TIMEOUT_S = 120
"""A local Ray cluster of 16 nodes on two cores needs most of it."""

POLL_S = 0.05
"""Pause between two looks at something that is starting."""

SAMPLE_EVERY_S = 1
"""Pause between two readings of telemetry [s]: the example's jobs last seconds."""

LOOPBACK = "127.0.0.1"
"""Where pages of metrics are served: they have no authentication, so on no other address."""


class AlreadyRunningError(RuntimeError):
    """A platform already runs in this state folder."""


class StoppedError(Exception):
    """The user asked to stop (Ctrl-C or SIGTERM)."""


def say(text: str) -> None:
    """Tell the user one line, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _secret(path: Path) -> Path:
    """Make a secret of 256 random bits in a 0600 file, once."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
    return path


def _port(host: str, asked: int, remembered: Path) -> int:
    """Return a port: the one asked for, else last time's if it is free, else any free one."""
    wanted = [asked] if asked else []
    if not wanted and remembered.exists():
        wanted = [int(remembered.read_text())]
    for port in [*wanted, 0]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                if asked:
                    raise
                continue
            taken: int = probe.getsockname()[1]
            remembered.write_text(str(taken))
            return taken
    raise AlreadyRunningError("no free port on the loopback address; stop something or set KEZEK_LISTEN_PORT")


@dataclass(slots=True)
class Platform:
    """One running platform. `children` are in the order of their start."""

    settings: Settings
    state_dir: Path
    children: list[Child] = field(default_factory=list)
    database: embedded.EmbeddedPostgres | None = None
    engine: Engine | None = None
    is_stopping: bool = False
    holders: str = ""
    addresses: dict[str, str] = field(default_factory=dict)

    def _command(self, *arguments: str) -> tuple[str, ...]:
        return (sys.executable, "-I", "-m", "api.cli", *arguments)

    def _child(
        self, name: str, *arguments: str, env: dict[str, str] | None = None, is_restarted: bool = True
    ) -> Child:
        made = Child(
            name,
            self._command(*arguments),
            clean_env(KEZEK_STATE_DIR=str(self.state_dir), **(env or {})),
            self.state_dir / "log" / f"{name}.log",
            is_restarted=is_restarted,
        )
        made.start()
        self.children.append(made)
        return made

    def watch(self) -> None:
        """Restart children that ended.

        Raises:
            StoppedError: when the user asked to stop.
            ChildError: when a child keeps ending.
        """
        if self.is_stopping:
            raise StoppedError
        for child in self.children:
            child.must_run()

    def wait_for(self, what: str, is_ready: Callable[[], bool]) -> None:
        """Wait until something is ready, watching the children meanwhile.

        Raises:
            ChildError: when it is not ready in time.
        """
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not is_ready():
            self.watch()
            if time.monotonic() > deadline:
                raise ChildError(
                    what, f"is not ready after {READY_TIMEOUT_S} s", self.state_dir / "log" / f"{what}.log"
                )
            time.sleep(POLL_S)

    def start_database(self) -> Engine:
        """Start or reach the database and migrate it; its URL goes to a 0600 file for our own commands."""
        url = self.settings.database_url
        if url is None:
            self.database = embedded.start(self.state_dir)
            url = self.database.url
        url_file = self.state_dir / "secrets" / "database.url"
        url_file.touch(mode=0o600)
        url_file.write_text(url)
        self.engine = engine.open_engine(url)
        migrate.upgrade(self.engine)
        with engine.transaction(self.engine) as session:
            if not policies(session):
                source = self.settings.policy_file or Path("examples/policy.yaml")
                enacted = enact(session, source.read_text(encoding="utf-8"), at=clock.now(), actor="system")
                say(f"policy {enacted.version} enacted from {source}")
        return self.engine

    def start_api(self) -> str:
        """Start the API and return its URL once it answers."""
        host = self.settings.listen_host
        port = _port(host, self.settings.listen_port, self.state_dir / "api.port")
        self._child("api", "api", env={"KEZEK_LISTEN_PORT": str(port)})
        url = f"http://{host}:{port}"
        self.wait_for("api", lambda: _answers(f"{url}/healthz"))
        return url

    def launch_ray(self) -> None:
        """Begin to start a local Ray cluster; it takes ten seconds, so the rest starts meanwhile."""
        self._ray_ready.unlink(missing_ok=True)
        ray_dir = self._ray_dir()
        # What Ray kept of an earlier start (agents of other GPUs among it) is nothing to go by: our database is.
        # The folder itself stays: ranks that outlived a killed platform have it hidden, and a new one would show.
        _empty(ray_dir)
        token = _secret(self.state_dir / "secrets" / "ray.token")
        _, nodes, gpus = self._inventory()
        self._child(
            "ray-local",
            "ray-local",
            *("--nodes", str(nodes), "--gpus", str(gpus), "--ready-file", str(self._ray_ready)),
            *("--token-file", str(token), "--temp-dir", str(ray_dir)),
            is_restarted=False,
        )

    def _ray_dir(self) -> Path:
        return embedded.short_dir(self.state_dir / "ray", label="ray")

    @property
    def _ray_ready(self) -> Path:
        return self.state_dir / "ray.json"

    def start_agents(self) -> None:
        """Start one agent per node in the Ray cluster, once that is up.

        Raises:
            ChildError: when Ray or an agent does not come up.
        """
        self.wait_for("ray-local", self._ray_ready.exists)
        secrets_dir = self.state_dir / "secrets"
        inventory, _, _ = self._inventory()
        hidden = [self._ray_dir()]
        if self.database is not None:
            hidden.append(embedded.short_dir(self.database.data_dir, label="pg"))
        agents = Child(
            "agents",
            self._command(
                "agents",
                *("--ready-file", str(self._ray_ready), "--token-file", str(secrets_dir / "ray.token")),
                *("--secret-file", str(_secret(secrets_dir / "agent.secret"))),
                *(
                    "--state",
                    str(self.state_dir / "agents"),
                    "--agents-file",
                    str(self.state_dir / "agents.json"),
                ),
                *("--job-env", str(self.settings.job_env.absolute()), "--flavor", self.settings.flavor),
                *(("--inventory-file", str(inventory)) if inventory else ()),
                *(word for folder in hidden for word in ("--hide", str(folder))),
            ),
            clean_env(),
            self.state_dir / "log" / "agents.log",
            is_restarted=False,
        )
        agents.start()
        self.wait_for("agents", lambda: not agents.is_running())
        if agents.process is None or agents.process.returncode != 0:
            raise ChildError("agents", "failed", agents.log_file)

    def _inventory(self) -> tuple[Path | None, int, int]:
        """Return the file of this machine's real GPUs (None: simulated), nodes and GPUs per node."""
        source = open_source()
        if source is None:
            return None, self.settings.nodes, self.settings.gpus_per_node
        found = source.inventory()
        source.close()
        path = self.state_dir / "gpus.json"
        path.write_text(
            json.dumps(
                [{"uuid": gpu.uuid, "index": gpu.index, "flavor": self.settings.flavor} for gpu in found],
                indent=1,
            )
        )
        return path, 1, len(found)

    def start_scheduler(self) -> None:
        """Start the scheduler, and wait until it leads and every node is up.

        It is told where the exporter will answer, which starts once the nodes are known; its own figures are served
        beside. A job of the example ends in seconds, hence the short pause between two readings.
        """
        exporter = self._loopback("exporter")
        env = {
            "KEZEK_EXPORTERS": ",".join(filter(None, (self.settings.exporters, f"http://{exporter}"))),
            "KEZEK_TELEMETRY_INTERVAL_S": str(SAMPLE_EVERY_S),
            "KEZEK_SCHEDULER_METRICS": self._loopback("scheduler-metrics"),
        }
        self._child("scheduler", "scheduler", env=env)
        self.wait_for("scheduler", self._has_nodes)

    def _has_nodes(self) -> bool:
        expected = len(json.loads((self.state_dir / "agents.json").read_text(encoding="utf-8")))
        with engine.snapshot(self.open_engine()) as session:
            return sum(node.state is NodeState.UP for node in cluster(session).nodes) >= expected

    def open_engine(self) -> Engine:
        """The database's engine.

        Raises:
            EmbeddedPostgresError: before `start_database`.
        """
        if self.engine is None:
            raise embedded.EmbeddedPostgresError("the database is not started yet")
        return self.engine

    def start_exporter(self) -> tuple[str, ...]:
        """Start the node exporter, of this machine's GPUs or of the simulated ones; wait until it answers.

        Returns:
            Addresses that Prometheus can scrape beside the API: the exporter's, the scheduler's.
        """
        address = self._loopback("exporter")
        if (self.state_dir / "gpus.json").exists() and open_source() is not None:
            node = next(iter(json.loads((self.state_dir / "agents.json").read_text(encoding="utf-8"))))
            agent = self.state_dir / "agents" / node
            arguments: tuple[str, ...] = ("--node", node, "--agent-state", str(agent))
        else:
            self.refresh_holders()
            arguments = ("--simulated", "--nodes-file", str(self.state_dir / "holders.json"))
        self._child("exporter", "exporter", *arguments, "--listen", address)
        self.wait_for("exporter", lambda: _answers(f"http://{address}/-/healthy"))
        return (f"http://{address}/metrics", f"http://{self._loopback('scheduler-metrics')}/metrics")

    def _loopback(self, name: str) -> str:
        """Loopback address of a page of metrics: last start's if it is free, and the same for all of this start."""
        if name not in self.addresses:
            self.addresses[name] = f"{LOOPBACK}:{_port(LOOPBACK, 0, self.state_dir / f'{name}.port')}"
        return self.addresses[name]

    def refresh_holders(self) -> None:
        """Tell the simulated telemetry which jobs hold which GPUs."""
        self.holders = write_holders(self.open_engine(), self.state_dir / "holders.json", last=self.holders)

    def stop(self) -> None:
        """Stop what was started: ranks (their jobs keep their place), scheduler, API, Ray, database."""
        scheduler = [child for child in self.children if child.name in {"scheduler", "api", "exporter"}]
        stop_all(scheduler)
        agents_file = self.state_dir / "agents.json"
        is_settled = False
        if self.engine is not None:
            try:
                self._settle(self.engine, agents_file)
                is_settled = True
            except DBAPIError as error:
                sys.stderr.write(
                    f"kezek-server up: the database is away, jobs are settled at the next start: {error}\n"
                )
            self.engine.dispose()
        stop_all([child for child in self.children if child not in scheduler])
        agents_file.unlink(missing_ok=True)
        _empty(self._ray_dir())
        has_attempts = any((self.state_dir / "agents").glob("*/attempts/*"))
        if is_settled or not has_attempts:  # else ranks may live on, and must not see the next start's folder
            with contextlib.suppress(OSError):
                self._ray_dir().rmdir()
        if self.database is not None:
            self.database.stop()

    def _settle(self, opened: Engine, agents_file: Path) -> None:
        """End every rank, let its job wait again, and seal what the journal says of it."""
        if agents_file.exists():
            secret_file = self.state_dir / "secrets" / "agent.secret"
            with AgentExecutor.from_files(agents_file, secret_file) as executor:
                requeue_all_live(opened, executor, at=clock.now())
        seal.seal_once(opened, self.state_dir / "journal-heads.jsonl", at=clock.now())


def _empty(folder: Path) -> None:
    for left in folder.iterdir():
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return False
