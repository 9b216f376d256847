"""The whole platform on one machine: what `make run` starts, watches and stops.

Order: a local Ray cluster begins to start; meanwhile PostgreSQL, migrations, policy, API; then node agents,
scheduler and exporter; then the workload. State lives in the state folder and survives; sockets live in short private
folders of the temporary directory. Everything started is stopped, by pid, and nothing else.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import httpx
from sqlalchemy import Engine

from api.operator import operator_token
from api.play import Outcome, PlayError, play
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


class AlreadyRunningError(RuntimeError):
    """A platform already runs in this state folder."""


class StoppedError(Exception):
    """The user asked to stop (Ctrl-C or SIGTERM)."""


def _say(text: str) -> None:
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


def _port(settings: Settings, remembered: Path) -> int:
    """Return the port of the API: the one asked for, else last time's if it is free, else any free one."""
    wanted = [settings.listen_port] if settings.listen_port else []
    if not wanted and remembered.exists():
        wanted = [int(remembered.read_text())]
    for port in [*wanted, 0]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.listen_host, port))
            except OSError:
                if settings.listen_port:
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
                _say(f"policy {enacted.version} enacted from {source}")
        return self.engine

    def start_api(self) -> str:
        """Start the API and return its URL once it answers."""
        port = _port(self.settings, self.state_dir / "api.port")
        self._child("api", "api", env={"KEZEK_LISTEN_PORT": str(port)})
        url = f"http://{self.settings.listen_host}:{port}"
        self.wait_for("api", lambda: _answers(f"{url}/healthz"))
        return url

    def launch_ray(self) -> None:
        """Begin to start a local Ray cluster; it takes ten seconds, so the rest starts meanwhile."""
        self._ray_ready.unlink(missing_ok=True)
        ray_dir = embedded.short_dir(self.state_dir / "ray", label="ray")
        # What Ray kept of an earlier start (agents of other GPUs among it) is nothing to go by: our database is.
        shutil.rmtree(ray_dir, ignore_errors=True)
        ray_dir.mkdir(mode=0o700, exist_ok=True)
        token = _secret(self.state_dir / "secrets" / "ray.token")
        _, nodes, gpus = self._inventory()
        self._child(
            "ray-local",
            "ray-local",
            *("--nodes", str(nodes), "--gpus", str(gpus), "--ready-file", str(self._ray_ready)),
            *("--token-file", str(token), "--temp-dir", str(ray_dir)),
            is_restarted=False,
        )

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
        """Start the scheduler, and wait until it leads and every node is up."""
        self._child("scheduler", "scheduler")
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

    def start_exporter(self) -> None:
        """Start the node exporter: of this machine's GPUs, or of the simulated ones."""
        if (self.state_dir / "gpus.json").exists() and open_source() is not None:
            self._child("exporter", "exporter", "--listen", f"{self.settings.listen_host}:0")
            return
        self.refresh_holders()
        arguments = ("--simulated", "--nodes-file", str(self.state_dir / "holders.json"))
        self._child("exporter", "exporter", *arguments, "--listen", f"{self.settings.listen_host}:0")

    def refresh_holders(self) -> None:
        """Tell the simulated telemetry which jobs hold which GPUs."""
        self.holders = write_holders(self.open_engine(), self.state_dir / "holders.json", last=self.holders)

    def stop(self) -> None:
        """Stop what was started: ranks (their jobs keep their place), scheduler, API, Ray, database."""
        scheduler = [child for child in self.children if child.name in {"scheduler", "api", "exporter"}]
        stop_all(scheduler)
        agents_file = self.state_dir / "agents.json"
        if self.engine is not None:
            if agents_file.exists():
                with AgentExecutor.from_files(
                    agents_file, self.state_dir / "secrets" / "agent.secret"
                ) as executor:
                    requeue_all_live(self.engine, executor, at=clock.now())
            seal.seal_once(self.engine, self.state_dir / "journal-heads.jsonl", at=clock.now())
            self.engine.dispose()
        stop_all([child for child in self.children if child not in scheduler])
        agents_file.unlink(missing_ok=True)
        if self.database is not None:
            self.database.stop()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _lock(state_dir: Path) -> int:
    """Make sure that one platform at most runs in a state folder; the lock ends with the process.

    Raises:
        AlreadyRunningError: when another one holds it.
    """
    descriptor = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise AlreadyRunningError(
            f"a platform already runs in {state_dir}; stop it with Ctrl-C, or set KEZEK_STATE_DIR to another folder"
        ) from None
    return descriptor


def _announce(url: str, token: str, platform: Platform) -> None:
    with engine.snapshot(platform.open_engine()) as session:
        view = cluster(session)
    simulated = all(node.is_simulated for node in view.nodes)
    kind = "simulated GPUs (no GPU was found here)" if simulated else "GPUs"
    _say(f"cluster: {len(view.nodes)} nodes, {view.gpus} {kind}")
    protections = sorted({name for node in view.nodes for name in node.isolation})
    if protections:
        _say(f"ranks are confined by: {', '.join(protections)}")
    else:
        _say(
            "WARNING: ranks run under the platform's own user and nothing on this machine confines them "
            "(no Landlock): a tenant's program can read the platform's secrets. Run trusted code only."
        )
    _say(f"page:  {url}/")
    _say(f"token: {token}   (operator)")
    _say(f"try:   export KEZEK_URL={url} KEZEK_TOKEN={token}; .venv/bin/kezek cluster")


def up(settings: Settings, *, is_once: bool, workload: Path | None) -> int:
    """Run the platform until it is stopped, or, with `is_once`, until the workload is done.

    Args:
        settings: of this machine.
        is_once: end by itself; the exit code says whether every check held.
        workload: what to play; None plays nothing.

    Returns:
        0 when stopped by the user or every check held, 1 otherwise.
    """
    state_dir = settings.state_dir.resolve()
    state_dir.mkdir(parents=True, exist_ok=True)
    (state_dir / "secrets").mkdir(mode=0o700, exist_ok=True)
    try:
        descriptor = _lock(state_dir)
    except AlreadyRunningError as error:
        sys.stderr.write(f"kezek-server up: {error}\n")
        return 1
    platform = Platform(settings.model_copy(update={"state_dir": state_dir}), state_dir)

    def ask_to_stop(_number: int, _frame: FrameType | None) -> None:
        platform.is_stopping = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask_to_stop)
    outcome: Outcome | None = None
    is_well = False
    try:
        outcome = _run(platform, is_once=is_once, workload=workload)
        is_well = outcome is not None and not outcome.problems
    except StoppedError:
        is_well = not is_once
        _say("stopping: running jobs keep their place and start again with the next `make run`")
    except (ChildError, PlayError, embedded.EmbeddedPostgresError, migrate.SchemaMismatchError) as error:
        sys.stderr.write(f"kezek-server up: {error}\n")
    finally:
        platform.stop()
        os.close(descriptor)
    if outcome is not None and is_once:
        for problem in outcome.problems:
            _say(f"kezek: FAILED {problem}")
        if is_well:
            _say(outcome.last_line())
    return 0 if is_well else 1


def _run(platform: Platform, *, is_once: bool, workload: Path | None) -> Outcome | None:
    started = time.monotonic()
    _say(f"state: {platform.state_dir}")
    platform.launch_ray()
    database = platform.start_database()
    url = platform.start_api()
    token = operator_token(database, platform.settings)
    _say(f"database and API are up after {time.monotonic() - started:.1f} s; Ray is starting")
    platform.start_agents()
    platform.start_scheduler()
    platform.start_exporter()
    _say(f"ready after {time.monotonic() - started:.1f} s")
    _announce(url, token, platform)

    def tick() -> None:
        platform.watch()
        platform.refresh_holders()

    outcome = None
    if workload is not None:
        outcome = play(workload, url=url, token=token, say=_say, tick=tick)
        outcome = outcome.verified(database, platform.state_dir / "journal-heads.jsonl")
    if is_once:
        return outcome
    if outcome is not None:
        for problem in outcome.problems:
            _say(f"workload: FAILED {problem}")
        _say(
            outcome.last_line() if not outcome.problems else "the workload did not go as expected; see above"
        )
    _say("the platform stays up; Ctrl-C stops it")
    while True:
        tick()
        time.sleep(0.5)
