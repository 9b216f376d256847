"""Bootstrap of the agents on a Ray cluster: a short-lived driver, never the scheduler's process.

Per node one detached actor claims all of the node's GPUs in Ray's books and hosts the agent's HTTP
server. Ray brings it back when it dies; its state directory lets it go on where it was.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx

from scheduler.agent.agent import NodeAgent
from scheduler.agent.config import AgentConfig
from scheduler.agent.inventory import GpuInventory
from scheduler.agent.server import AgentServer
from scheduler.dispatch.executor import AgentExecutor, UnreachableError
from scheduler.dispatch.fields import Fields
from scheduler.dispatch.raylocal import MAX_NODES, NODE_LABEL
from scheduler.dispatch.wire import GpuSlot

NAMESPACE = "kezek"
READY_TIMEOUT_S = 60.0
"""Time for all agents to answer [s]: four came up in 2 s on two cores."""
READY_PAUSE_S = 0.1
"""Time between questions [s]."""
BIND_TIMEOUT_S = 30.0
"""Time a restarted agent tries to get its port back [s]: its predecessor is dying."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentNode:
    """A node that gets an agent: picklable, since it travels to the actor.

    Attributes:
        name: the node's name, as in its Ray label.
        address: its address.
        gpus: its GPUs.
        simulated: whether they are simulated.
    """

    name: str
    address: str
    gpus: tuple[GpuSlot, ...]
    simulated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapConfig:
    """What to bring up.

    Attributes:
        ray_address: ``host:port`` of Ray's control store.
        ray_token_file: file of Ray's token.
        nodes: the nodes.
        state: directory of the agents' states.
        secret_file: file of the agents' secret, mode 0600.
        job_env: environment ranks run in.
        agents_file: where the agents' URLs are written.
        hidden: the platform's folders with sockets, Ray's among them, which ranks must not reach.
    """

    ray_address: str
    ray_token_file: Path
    nodes: tuple[AgentNode, ...]
    state: Path
    secret_file: Path
    job_env: Path
    agents_file: Path
    hidden: tuple[Path, ...]


class AgentHost:
    """Body of the Ray actor."""

    def __init__(self, node: AgentNode, config: BootstrapConfig) -> None:
        """Start the agent and serve it.

        Raises:
            OSError: the state directory or the former port cannot be had in time.
        """
        agent = NodeAgent(
            AgentConfig(
                node=node.name,
                address=node.address,
                state=config.state / node.name,
                job_env=config.job_env,
                inventory=GpuInventory(node.gpus, node.simulated),
                labels={NODE_LABEL: node.name},
                hidden=config.hidden,
            )
        )
        secret = config.secret_file.read_text("utf-8").strip()
        self._server = bind(agent, node.address, secret)
        threading.Thread(target=self._server.serve_forever, name="agent-http", daemon=True).start()

    def url(self) -> str:
        """Where the agent answers."""
        return self._server.url


def bind(agent: NodeAgent, address: str, secret: str, port: int = 0) -> AgentServer:
    """Serve an agent, waiting a while for a dying predecessor to leave its port.

    Raises:
        OSError: the port was not to be had in time.
    """
    deadline = time.monotonic() + BIND_TIMEOUT_S
    while True:
        try:
            return AgentServer(agent, address, secret, port)
        except OSError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(READY_PAUSE_S)


def set_driver_environment(ray_address: str, **token: str) -> None:
    """Prepare this process's environment for a driver of Ray; must come before Ray is imported."""
    if ray_address.startswith("127."):
        # Else Ray replaces loopback addresses by the first interface's and then hangs.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ.update(
        RAY_AUTH_MODE="token",
        RAY_USAGE_STATS_ENABLED="0",
        RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
        **token,
    )
    os.environ.pop("RAY_ADDRESS", None)  # it would win over the address given


def bootstrap(config: BootstrapConfig) -> dict[str, str]:
    """Make sure every node has its agent; those that exist are kept.

    Returns:
        The URL of each node's agent, also written to ``agents_file``.

    Raises:
        TimeoutError: an agent did not answer in time; look at Ray's logs.
    """
    set_driver_environment(config.ray_address, RAY_AUTH_TOKEN_PATH=str(config.ray_token_file))
    import ray  # noqa: PLC0415 - reads the environment when it is imported

    root = str(Path(__file__).resolve().parents[2])
    ray.init(
        address=config.ray_address,
        namespace=NAMESPACE,
        runtime_env={"env_vars": {"PYTHONPATH": root}},
        log_to_driver=False,
        logging_level=logging.WARNING,
    )
    try:
        hosts = [
            ray.remote(AgentHost)
            .options(
                name=f"agent-{node.name}",
                get_if_exists=True,
                lifetime="detached",
                num_cpus=0,
                num_gpus=len(node.gpus),
                label_selector={NODE_LABEL: node.name},
                max_restarts=-1,
                max_task_retries=-1,
            )
            .remote(node, config)
            for node in config.nodes
        ]
        found: list[str] = ray.get(
            [cast("Any", host).url.remote() for host in hosts], timeout=READY_TIMEOUT_S
        )
    except ray.exceptions.GetTimeoutError as error:
        raise TimeoutError(f"the agents did not come up within {READY_TIMEOUT_S:.0f} s") from error
    finally:
        ray.shutdown()
    urls = {node.name: url for node, url in zip(config.nodes, found, strict=True)}
    _await_answers(urls, config.secret_file)
    partial = config.agents_file.with_name(f"{config.agents_file.name}.{os.getpid()}.part")
    partial.write_text(json.dumps(urls, indent=2), "utf-8")
    partial.rename(config.agents_file)
    return urls


def _await_answers(urls: dict[str, str], secret_file: Path) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    with AgentExecutor(urls, secret_file.read_text("utf-8").strip()) as executor:
        for node in executor.nodes():
            while True:
                try:
                    executor.probe(node)
                    break
                except (UnreachableError, httpx.HTTPError) as error:
                    if time.monotonic() >= deadline:
                        raise TimeoutError(f"the agent of node {node} does not answer") from error
                    time.sleep(READY_PAUSE_S)


def nodes_of(ready: object, flavor: str, inventory: object = None) -> tuple[AgentNode, ...]:
    """The nodes of a local cluster's ready file.

    Args:
        ready: its decoded content.
        flavor: kind of the simulated GPUs.
        inventory: list of GPUs (``GpuSlot`` in JSON) of a machine that has real ones, given to the
            cluster's only node; None simulates as many as the cluster claims.

    Raises:
        WireError: one of the two is damaged.
        ValueError: real GPUs, but not exactly one node.
    """
    f = Fields(ready)
    found: list[AgentNode] = []
    for path, value in f.items("nodes", MAX_NODES):
        n = Fields(value, path)
        name, address, count = n.text("name"), n.text("address"), n.integer("gpus", 0, 1024)
        simulated = GpuInventory.simulate(name, count, flavor)
        found.append(AgentNode(name=name, address=address, gpus=simulated.gpus, simulated=True))
    if inventory is None:
        return tuple(found)
    if len(found) != 1:
        raise ValueError(
            f"real GPUs belong to one node, the cluster has {len(found)}; start it with --nodes 1"
        )
    items = Fields({"gpus": inventory}).items("gpus", 1024)
    gpus = tuple(GpuSlot.from_json(value, path) for path, value in items)
    return (AgentNode(name=found[0].name, address=found[0].address, gpus=gpus, simulated=False),)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="kezek-server agents",
        description=__doc__,
        epilog="Without --ready-file: follow the Ray cluster at KEZEK_RAY_ADDRESS and keep an agent on each of its "
        "nodes until SIGTERM; --once ends when all answer. docs/agents.md tells more.",
    )
    p.add_argument("--ready-file", type=Path, required=True, help="ready file of the local cluster")
    p.add_argument("--token-file", type=Path, required=True, help="file of Ray's token")
    p.add_argument("--secret-file", type=Path, required=True, help="file of the agents' secret")
    p.add_argument("--state", type=Path, required=True, help="directory of the agents' states")
    p.add_argument("--job-env", type=Path, default=Path(sys.base_prefix), help="environment ranks run in")
    p.add_argument("--agents-file", type=Path, required=True, help="where the agents' URLs are written")
    p.add_argument(
        "--hide",
        type=Path,
        action="append",
        default=[],
        help="folder ranks must not reach, besides Ray's own",
    )
    p.add_argument("--flavor", default="h200", help="kind of the simulated GPUs")
    p.add_argument("--inventory-file", type=Path, help="real GPUs as JSON; without it they are simulated")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Bring the agents up and end."""
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    ready = json.loads(args.ready_file.read_text("utf-8"))
    inventory = json.loads(args.inventory_file.read_text("utf-8")) if args.inventory_file else None
    urls = bootstrap(
        BootstrapConfig(
            ray_address=Fields(ready).text("address"),
            ray_token_file=args.token_file.resolve(),
            nodes=nodes_of(ready, args.flavor, inventory),
            state=args.state.resolve(),
            secret_file=args.secret_file.resolve(),
            job_env=args.job_env.absolute(),
            agents_file=args.agents_file.resolve(),
            hidden=tuple(path.resolve() for path in (Path(Fields(ready).text("temp_dir")), *args.hide)),
        )
    )
    for node, url in urls.items():
        _logger.info("agent of %s answers at %s", node, url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
