"""A Ray cluster on this machine: one head and several nodes on loopback addresses.

Runs in the foreground as a process of its own; stops what it started, and nothing else, on
SIGTERM, SIGINT or its parent's death. What was found about Ray stands in ADR 0004.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, cast

NODE_LABEL = "kezek.io/node"
"""Label of a Ray node that holds its name; Ray's own node ids change with every restart."""
HEAD_ADDRESS = "127.0.0.1"
MAX_NODES = 64
"""Nodes on one machine: each costs 150 MB."""
MAX_TEMP_DIR_CHARS = 40
"""Longest temporary directory [characters]: Ray's sockets below it add 60, the kernel allows 107."""
MAX_GCS_RESTARTS = 5
"""Restarts of a dead control store per run: its state is on disk, but a store that keeps dying is broken."""
SUPERVISE_S = 1.0
"""Time between looks at the control store [s]: far below the 60 s after which nodes give up."""
OBJECT_STORE_BYTES = 80 * 1024 * 1024
"""Shared memory per node [bytes]: Ray's least; data never passes through it here."""
_PR_SET_PDEATHSIG = 1
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRayConfig:
    """What cluster to start.

    Attributes:
        nodes: number of nodes, named ``n0``, ``n1`` …
        gpus_per_node: GPUs each claims in Ray's books.
        token_file: file of Ray's authentication token, mode 0600.
        ready_file: written when everything is up.
        temp_dir: Ray's temporary directory, short; None makes one and removes it at the end.
    """

    nodes: int
    gpus_per_node: int
    token_file: Path
    ready_file: Path
    temp_dir: Path | None = None


@dataclass(frozen=True, slots=True)
class LocalNode:
    """A node of the cluster."""

    name: str
    address: str
    gpus: int


class _Popen(Protocol):
    def poll(self) -> int | None: ...


class _RayNode(Protocol):
    all_processes: dict[str, list[object]]

    def kill_gcs_server(self, *, check_alive: bool) -> None: ...

    def start_gcs_server(self) -> None: ...


class LocalCluster:
    """A running cluster.

    Attributes:
        ready: what stands in the ready file.
    """

    def __init__(self, head: object, ready: dict[str, object]) -> None:
        """Take Ray's head node."""
        self._head = cast("_RayNode", head)
        self._restarts = 0
        self.ready = ready

    def look(self) -> None:
        """Bring the head's control store back if it died; its state is on disk.

        To be called from the main thread: the kernel ends Ray's processes with the thread that
        started them.
        """
        running = self._head.all_processes.get("gcs_server", [])
        process = cast("_Popen | None", getattr(running[0], "process", None)) if running else None
        if process is None or process.poll() is None or self._restarts >= MAX_GCS_RESTARTS:
            return
        self._restarts += 1
        _logger.error("Ray's control store died; restart %d of %d", self._restarts, MAX_GCS_RESTARTS)
        self._head.kill_gcs_server(check_alive=False)
        self._head.start_gcs_server()


def free_ports(count: int) -> list[int]:
    """Ports on which nobody listens at any loopback address, each different.

    Raises:
        OSError: the kernel has none left.
    """
    with ExitStack() as stack:
        found: list[int] = []
        for _ in range(count):
            probe = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            probe.bind(("", 0))
            found.append(int(probe.getsockname()[1]))
        return found


def set_environment(token_file: Path, temp_dir: Path) -> None:
    """Prepare this process's environment for Ray; must come before Ray is imported.

    Args:
        token_file: file of the authentication token.
        temp_dir: holds the head's store, which lets it come back after a crash, and keeps Ray out of
            the host-wide ``/tmp/ray``, through which clusters of one host would find each other.
    """
    storage = temp_dir / "gcs"
    for folder in (storage, temp_dir / "ray"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ.update(
        RAY_TMPDIR=str(temp_dir),
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN_PATH=str(token_file),
        RAY_USAGE_STATS_ENABLED="0",
        RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S="0",  # agents never end by themselves: nothing to wait for
        # Without it Ray replaces loopback addresses by the first interface's and then hangs.
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
        RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
        RAY_gcs_storage="rocksdb",
        RAY_gcs_storage_path=str(storage),
    )
    for name in ("RAY_ADDRESS", "RAY_OVERRIDE_RESOURCES"):
        os.environ.pop(name, None)  # another cluster's must not leak in


def _node_arguments(temp_dir: Path, address: str) -> dict[str, object]:
    agent_http, agent_grpc, metrics, runtime_env = free_ports(4)
    return {
        "node_ip_address": address,
        "object_store_memory": OBJECT_STORE_BYTES,
        "temp_dir": str(temp_dir),
        "dashboard_agent_listen_port": agent_http,
        "metrics_agent_port": agent_grpc,
        "metrics_export_port": metrics,
        "runtime_env_agent_port": runtime_env,
    }


@contextmanager
def local_ray(config: LocalRayConfig) -> Iterator[LocalCluster]:
    """Start the cluster, give it, and stop it at the end.

    Nodes are started one after another: Ray's start is not safe to run in parallel.

    Raises:
        ValueError: too many nodes, or the temporary directory's path is too long.
    """
    if not 0 < config.nodes <= MAX_NODES:
        raise ValueError(f"a local cluster has 1..{MAX_NODES} nodes, not {config.nodes}")
    with ExitStack() as stack:
        if config.temp_dir is None:
            made = Path(tempfile.mkdtemp(prefix="kz-ray-", dir="/tmp"))
            stack.callback(shutil.rmtree, made, ignore_errors=True)
        else:
            made = config.temp_dir
        if len(str(made)) > MAX_TEMP_DIR_CHARS:
            raise ValueError(
                f"{made} is longer than {MAX_TEMP_DIR_CHARS} characters; give Ray a shorter --temp-dir"
            )
        set_environment(config.token_file, made)
        from ray.cluster_utils import Cluster  # noqa: PLC0415 - reads the environment when it is imported

        gcs_port, dashboard_port = free_ports(2)
        cluster = Cluster(
            initialize_head=True,
            head_node_args={
                **_node_arguments(made, HEAD_ADDRESS),
                "num_cpus": 1,
                "num_gpus": 0,
                "gcs_server_port": gcs_port,
                "include_log_monitor": False,
                "include_dashboard": True,
                "dashboard_host": HEAD_ADDRESS,
                "dashboard_port": dashboard_port,
            },
        )
        stack.callback(cluster.shutdown)
        nodes = [LocalNode(f"n{i}", f"127.0.0.{i + 2}", config.gpus_per_node) for i in range(config.nodes)]
        for node in nodes:
            arguments: dict[str, Any] = {
                **_node_arguments(made, node.address),
                "num_cpus": 1,
                "num_gpus": node.gpus,
                "include_dashboard": False,
                "labels": {NODE_LABEL: node.name},
            }
            cluster.add_node(**arguments)
            _logger.info("node %s is up on %s", node.name, node.address)
        ready: dict[str, object] = {
            "address": f"{HEAD_ADDRESS}:{gcs_port}",
            "dashboard_url": f"http://{HEAD_ADDRESS}:{dashboard_port}",
            "temp_dir": str(made),
            "pid": os.getpid(),
            "nodes": [asdict(node) for node in nodes],
        }
        yield LocalCluster(cluster.head_node, ready)


def _write_ready(path: Path, content: dict[str, object]) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    partial.write_text(json.dumps(content, indent=2), "utf-8")
    partial.rename(path)


def _end_on_signals() -> None:
    def end(number: int, _frame: object) -> None:
        for other in (signal.SIGTERM, signal.SIGINT):
            signal.signal(other, signal.SIG_IGN)  # one is enough; the end must not be cut short
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="scheduler.dispatch.raylocal", description=__doc__)
    p.add_argument("--nodes", type=int, default=4, help="number of nodes")
    p.add_argument("--gpus", type=int, default=8, help="GPUs of each node in Ray's books")
    p.add_argument("--token-file", type=Path, required=True, help="file of Ray's token, mode 0600")
    p.add_argument("--ready-file", type=Path, required=True, help="written when the cluster is up")
    p.add_argument("--temp-dir", type=Path, help="Ray's temporary directory; a short path")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run a cluster until SIGTERM, SIGINT or the parent's death."""
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    parent = os.getppid()

    _end_on_signals()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGTERM))
    if os.getppid() != parent:
        return 1  # the parent died before it could be watched
    config = LocalRayConfig(
        nodes=args.nodes,
        gpus_per_node=args.gpus,
        token_file=args.token_file.resolve(),
        ready_file=args.ready_file,
        temp_dir=args.temp_dir,
    )
    config.ready_file.unlink(missing_ok=True)
    try:
        with local_ray(config) as cluster:
            _end_on_signals()  # Ray has put its own handler in place meanwhile
            _write_ready(config.ready_file, cluster.ready)
            pause = threading.Event()
            while not pause.wait(SUPERVISE_S):
                cluster.look()
    except SystemExit:
        return 0
    except ValueError as error:
        _logger.error("%s", error)  # noqa: TRY400 - a wrong argument needs no traceback
        return 2
    finally:
        config.ready_file.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
