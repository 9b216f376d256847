"""The two long-running control-plane processes: the API, and the scheduler with the journal's sealer beside it."""

from __future__ import annotations

import logging
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import cast

import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, disable_created_metrics
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from api.app import create_app
from metrics.allocated import Allocated
from metrics.controlplane import ControlPlane
from metrics.idle_watch import IdleWatch
from metrics.metrics_http import RegistryServer, listen_address
from metrics.sampler import Sampler
from metrics.scheduling import CallFigures, CyclePhases
from products.registers_collector import DocumentsDue
from scheduler.discovery import Discovery, expand
from scheduler.dispatch.executor import AgentExecutor, Executor, UnreachableError
from scheduler.dispatch.labels import NodeLabels
from scheduler.nodes import AgentsFile
from scheduler.service import LeaseLostError, SchedulerService, SchedulerSettings
from store import clock, seal
from store.settings import Settings

SEAL_EVERY_S = 0.5
"""Pause between two seals: a record is sealed within a second unless a transaction before it still runs."""

EXIT_LEASE_LOST = 3
"""Exit code of a scheduler that lost its lease; whoever watches it starts it again."""

EXIT_SETTING = 2
"""Exit code of a scheduler whose settings name an address it cannot take."""

_logger = logging.getLogger(__name__)


class _Agents:
    """The executor for the agents of `agents.json`, made anew when their addresses change."""

    def __init__(self, settings: Settings, figures: CallFigures) -> None:
        self._settings = settings
        self._figures = figures
        self._file = (
            Discovery(settings.agents, self._secret())
            if settings.agents
            else AgentsFile(settings.state_dir / "agents.json")
        )
        self._lock = threading.Lock()
        self._urls: Mapping[str, str] = {}
        self._executor: Executor | None = None

    def connect(self, urls: Mapping[str, str]) -> Executor:
        """An executor of the caller's own."""
        return self._figures.wrap(AgentExecutor(urls, self._secret(), NodeLabels(self._settings.node_labels)))

    def _secret(self) -> str:
        made = self._settings.secrets_dir / "agent.secret"
        return self._settings.agent_secret or (made.read_text("utf-8").strip() if made.exists() else "")

    def urls(self) -> Mapping[str, str]:
        """The agents' addresses, now."""
        return self._file()

    def current(self) -> Executor:
        """The shared executor.

        Raises:
            UnreachableError: there are no agents yet.
        """
        with self._lock:
            urls = self._file()
            if not urls:
                raise UnreachableError(
                    "-", "no agent is known yet; the nodes are starting, try again in a minute"
                )
            if self._executor is None or urls != self._urls:
                # The one before may still serve a download; its connections close when it is collected.
                self._executor = self.connect(urls)
                self._urls = urls
            return self._executor


class ApiServer(uvicorn.Server):
    """A server whose long polls end when it is told to stop, well within the time it waits for its requests."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let the long polls answer, then wait for what is under way."""
        cast("FastAPI", self.config.app).state.context.followers.is_ending = True
        await super().shutdown(sockets)


def serve(engine: Engine, settings: Settings) -> int:
    """Serve the HTTP API until SIGTERM; return the exit code."""
    registry = _registry()
    agents = _Agents(settings, CallFigures(registry))
    app = create_app(
        engine,
        agents.current,
        collectors=[ControlPlane(engine), DocumentsDue(engine, clock.now), registry],
        project_collectors=[Allocated(engine, clock.now)],
        metrics_token=settings.metrics_token,
    )
    ApiServer(
        uvicorn.Config(
            app,
            host=settings.listen_host,
            port=settings.listen_port,
            log_level=settings.log_level.lower(),
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=5,
        )
    ).run()
    return 0


def schedule(engine: Engine, settings: Settings, database_url: str, head_file: Path) -> int:
    """Run the scheduler, the sealer, the telemetry's sampler and the watch over idle jobs until SIGTERM."""
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    registry = _registry()
    agents = _Agents(settings, CallFigures(registry))
    service = SchedulerService(
        engine,
        agents.urls,
        agents.connect,
        SchedulerSettings(
            holder=uuid.uuid4().hex,
            database_url=database_url,
            release=version("kezek-server"),
            cycle_interval_ms=settings.cycle_interval_ms,
            lease_ttl_s=settings.lease_ttl_s,
            node_down_after_s=settings.node_down_after_s,
            keep_days=settings.keep_days,
        ),
        took=CyclePhases(registry),
        beat=(settings.state_dir / "scheduler.alive").touch,
    )
    ending = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        ending.set()
        service.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    try:
        page = _serve_metrics(settings, registry)
    except (ValueError, OSError) as error:
        _logger.error("KEZEK_SCHEDULER_METRICS: %s", error)  # noqa: TRY400 - it says everything
        return EXIT_SETTING
    sealer = threading.Thread(target=_seal, args=(engine, head_file, ending.wait), name="sealer")
    sealer.start()
    sampler = Sampler(engine, lambda: expand(settings.exporters), clock.now, settings.exporter_token)
    sampling = threading.Thread(
        target=sampler.run, args=(ending, settings.telemetry_interval_s), name="sampler"
    )
    sampling.start()
    idle = IdleWatch(engine, clock.now, uuid.uuid4().hex)
    watching = threading.Thread(target=idle.run, args=(ending, settings.telemetry_interval_s), name="idle")
    watching.start()
    try:
        service.run()
    except LeaseLostError as error:
        _logger.error("%s", error)  # noqa: TRY400 - it says everything
        return EXIT_LEASE_LOST
    finally:
        ending.set()
        sealer.join()
        sampling.join()
        watching.join()
        sampler.close()
        if page is not None:
            page.stop()
    return 0


def _registry() -> CollectorRegistry:
    """A registry for this process's own metrics, without a `_created` series that no query needs beside each."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    return CollectorRegistry()


def _serve_metrics(settings: Settings, registry: CollectorRegistry) -> RegistryServer | None:
    """Serve this process's metrics where the setting says; None if nowhere.

    Raises:
        ValueError: not HOST:PORT, or one that others reach without a token.
        OSError: the address is taken.
    """
    if not settings.scheduler_metrics:
        return None
    token = settings.metrics_token or None
    address = listen_address(settings.scheduler_metrics, token, "KEZEK_METRICS_TOKEN_FILE")
    page = RegistryServer(address, registry, token)
    page.start()
    return page


def _seal(engine: Engine, head_file: Path, wait: Callable[[float], bool]) -> None:
    """Seal again and again; a database that is away for a while is waited for."""
    while not wait(SEAL_EVERY_S):
        try:
            seal.seal_once(engine, head_file, at=clock.now())
        except DBAPIError:
            _logger.exception("the journal could not be sealed; trying again")
