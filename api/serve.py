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
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from api.app import create_app
from metrics.allocated import Allocated
from metrics.controlplane import ControlPlane
from metrics.sampler import Sampler
from scheduler.dispatch.executor import AgentExecutor, Executor, UnreachableError
from scheduler.nodes import AgentsFile
from scheduler.service import LeaseLostError, SchedulerService, SchedulerSettings
from store import clock, seal
from store.settings import Settings

SEAL_EVERY_S = 0.5
"""Pause between two seals: a record is sealed within a second unless a transaction before it still runs."""

EXIT_LEASE_LOST = 3
"""Exit code of a scheduler that lost its lease; whoever watches it starts it again."""

_logger = logging.getLogger(__name__)


class _Agents:
    """The executor for the agents of `agents.json`, made anew when their addresses change."""

    def __init__(self, settings: Settings) -> None:
        self._file = AgentsFile(settings.state_dir / "agents.json")
        self._secret_file = settings.secrets_dir / "agent.secret"
        self._lock = threading.Lock()
        self._urls: Mapping[str, str] = {}
        self._executor: AgentExecutor | None = None

    def connect(self, urls: Mapping[str, str]) -> Executor:
        """An executor of the caller's own."""
        secret = self._secret_file.read_text("utf-8").strip() if self._secret_file.exists() else ""
        return AgentExecutor(urls, secret)

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
                self._executor = AgentExecutor(urls, self._secret_file.read_text("utf-8").strip())
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
    agents = _Agents(settings)
    app = create_app(
        engine,
        agents.current,
        collectors=[ControlPlane(engine)],
        project_collectors=[Allocated(engine, clock.now)],
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
    """Run the scheduler, the sealer and the telemetry's sampler until SIGTERM; return the exit code."""
    agents = _Agents(settings)
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
    )
    ending = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        ending.set()
        service.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    sealer = threading.Thread(target=_seal, args=(engine, head_file, ending.wait), name="sealer")
    sealer.start()
    sampler = Sampler(engine, lambda: _addresses(settings.exporters), clock.now)
    sampling = threading.Thread(target=sampler.run, args=(ending,), name="sampler")
    sampling.start()
    try:
        service.run()
    except LeaseLostError as error:
        _logger.error("%s", error)  # noqa: TRY400 - it says everything
        return EXIT_LEASE_LOST
    finally:
        ending.set()
        sealer.join()
        sampling.join()
        sampler.close()
    return 0


def _addresses(setting: str) -> list[str]:
    return [address.strip() for address in setting.split(",") if address.strip()]


def _seal(engine: Engine, head_file: Path, wait: Callable[[float], bool]) -> None:
    """Seal again and again; a database that is away for a while is waited for."""
    while not wait(SEAL_EVERY_S):
        try:
            seal.seal_once(engine, head_file, at=clock.now())
        except DBAPIError:
            _logger.exception("the journal could not be sealed; trying again")
