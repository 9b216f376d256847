"""`kezek-server agents` on a cluster: keeps one agent on every GPU node that joined a Ray cluster.

A driver looks at the cluster's nodes again and again. A node with the label `kezek.io/node` and GPUs gets a detached
actor that claims all of its GPUs in Ray's books and hosts the agent; Ray brings the actor back when it dies. The actor
takes its settings from its own node's environment, so that no secret passes through Ray.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, Final

from metrics.nvml import open_source
from scheduler.agent.agent import NodeAgent
from scheduler.agent.config import AgentConfig
from scheduler.agent.inventory import GpuInventory
from scheduler.dispatch.agents import NAMESPACE, READY_TIMEOUT_S, bind, set_driver_environment
from scheduler.dispatch.raylocal import NODE_LABEL
from scheduler.dispatch.wire import GpuSlot
from store.settings import Settings

LOOK_EVERY_S: Final = 15.0
"""Pause between two looks at the cluster's nodes [s]: each connects to Ray anew, half a second of work."""

EXIT_USAGE: Final = 2
"""Exit code of a missing setting."""

ALIVE_FILE: Final = "agents.alive"
"""Touched in the state folder after each look; `kezek-server alive agents` reads it."""

_logger = logging.getLogger(__name__)


class NoGpuError(RuntimeError):
    """A node without GPUs was to have an agent."""


class NodeHost:
    """Body of the Ray actor."""

    def __init__(self, node: str) -> None:
        """Start the node's agent and serve it on the node's address in Ray.

        Raises:
            NoGpuError: no GPU was found and none is to be simulated.
            OSError: the state directory or the port cannot be had in time.
            ValueError: the node's environment holds no secret of the agents.
        """
        ray: Any = importlib.import_module("ray")  # heavy, and only here

        settings = Settings()
        if not settings.agent_secret:
            raise ValueError(f"node {node}: set KEZEK_AGENT_SECRET_FILE where its Ray node is started")
        address = str(ray.util.get_node_ip_address())
        agent = NodeAgent(
            AgentConfig(
                node=node,
                address=address,
                state=settings.state_dir.absolute() / "agents" / node,
                job_env=settings.job_env.absolute(),
                inventory=inventory(node, settings),
                labels={NODE_LABEL: node},
                hidden=tuple(path for path in (_ray_folder(),) if path.is_dir()),
            )
        )
        self._server = bind(agent, address, settings.agent_secret, settings.agent_port)
        threading.Thread(target=self._server.serve_forever, name="agent-http", daemon=True).start()

    def url(self) -> str:
        """Where the agent answers."""
        return self._server.url


def inventory(node: str, settings: Settings) -> GpuInventory:
    """Return the node's GPUs: those that NVML finds, or as many simulated ones as the setting says.

    Raises:
        NoGpuError: neither.
    """
    if settings.simulated_gpus:
        return GpuInventory.simulate(node, settings.simulated_gpus, settings.flavor)
    source = open_source()
    if source is None:
        raise NoGpuError(
            f"node {node}: NVML finds no GPU; see that the driver's library is mounted (runtime class, "
            "NVIDIA_DRIVER_CAPABILITIES=utility), or set KEZEK_SIMULATED_GPUS"
        )
    found = source.inventory()
    source.close()
    gpus = tuple(GpuSlot(gpu.uuid, gpu.index, settings.flavor) for gpu in found)
    return GpuInventory(gpus, simulated=False)


def _ray_folder() -> Path:
    return Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray"  # noqa: S108 - where Ray keeps its sockets


def ensure(settings: Settings) -> dict[str, str]:
    """Give every GPU node that has none an agent.

    Returns:
        The URL of each node's agent that came up within `READY_TIMEOUT_S`.

    Raises:
        ConnectionError: the cluster does not answer.
    """
    ray: Any = importlib.import_module("ray")  # reads the environment when it is imported

    ray.init(
        address=settings.ray_address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.WARNING
    )
    try:
        asked = {}
        for node in ray.nodes():
            name, gpus = node["Labels"].get(NODE_LABEL), node["Resources"].get("GPU", 0)
            if not node["Alive"] or not name or not gpus or settings.node not in {"", name}:
                continue
            host = (
                ray.remote(NodeHost)
                .options(
                    name=f"agent-{name}",
                    get_if_exists=True,
                    lifetime="detached",
                    num_cpus=0,
                    num_gpus=gpus,
                    label_selector={NODE_LABEL: name},
                    max_restarts=-1,
                    max_task_retries=-1,
                )
                .remote(name)
            )
            asked[host.url.remote()] = str(name)
        ready, _ = (
            ray.wait(list(asked), num_returns=len(asked), timeout=READY_TIMEOUT_S) if asked else ([], [])
        )
        found = {}
        for answer in ready:
            try:
                found[asked[answer]] = str(ray.get(answer))
            except ray.exceptions.RayError as error:
                _logger.error("node %s has no agent: %s", asked[answer], error)  # noqa: TRY400 - Ray's text says it all
        for name in sorted(set(asked.values()) - set(found)):
            _logger.warning("node %s has no agent yet", name)
        return found
    finally:
        ray.shutdown()


def follow(settings: Settings, ending: threading.Event, *, is_once: bool) -> int:
    """Look at the cluster until told to end; with `is_once` until some node has an agent.

    Returns:
        0.
    """
    known: dict[str, str] = {}
    while True:
        found = ensure(settings)
        for node, url in found.items():
            if known.get(node) != url:
                _logger.info("agent of %s answers at %s", node, url)
        known |= found
        (settings.state_dir / ALIVE_FILE).touch()
        if (is_once and found) or ending.wait(LOOK_EVERY_S):
            return 0


def main(settings: Settings, *, is_once: bool) -> int:
    """Keep agents on a Ray cluster's nodes until SIGTERM or SIGINT; return the exit code."""
    if not settings.ray_address or not settings.ray_token:
        sys.stderr.write(
            "kezek-server agents: set KEZEK_RAY_ADDRESS and KEZEK_RAY_TOKEN_FILE, or give --ready-file of a local "
            "cluster\n"
        )
        return EXIT_USAGE
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    set_driver_environment(settings.ray_address, RAY_AUTH_TOKEN=settings.ray_token)
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    return follow(settings, ending, is_once=is_once)
