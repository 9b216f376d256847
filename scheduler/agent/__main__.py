"""Run a node's agent by itself: ``python -m scheduler.agent --node n0 --bind 127.0.0.2 …``."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from scheduler.agent.agent import NodeAgent
from scheduler.agent.config import AgentConfig
from scheduler.agent.inventory import GpuInventory
from scheduler.agent.server import AgentServer


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="scheduler.agent", description=__doc__)
    p.add_argument("--node", required=True, help="name of the node")
    p.add_argument("--bind", required=True, help="the node's address")
    p.add_argument("--state", required=True, type=Path, help="directory of states; the node's own is below")
    p.add_argument("--secret-file", required=True, type=Path, help="file with the agents' secret")
    p.add_argument("--job-env", type=Path, default=Path(sys.base_prefix), help="environment ranks run in")
    p.add_argument("--gpus", type=int, default=8, help="number of simulated GPUs")
    p.add_argument("--flavor", default="h200", help="kind of the simulated GPUs")
    p.add_argument("--simulated", action="store_true", required=True, help="the GPUs are simulated")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; ranks live on."""
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    agent = NodeAgent(
        AgentConfig(
            node=args.node,
            address=args.bind,
            state=args.state / args.node,
            job_env=args.job_env,
            inventory=GpuInventory.simulate(args.node, args.gpus, args.flavor),
            labels={"kezek.io/node": args.node},
        )
    )
    server = AgentServer(agent, args.bind, args.secret_file.read_text("utf-8").strip())
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    thread = threading.Thread(target=server.serve_forever, name="agent-http", daemon=True)
    thread.start()
    sys.stdout.write(f"{server.url}\n")
    sys.stdout.flush()
    stop.wait()
    server.shutdown()
    server.server_close()
    agent.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
