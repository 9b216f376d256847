"""The command ``kezek-server exporter``: GPU telemetry of one node, or of a simulated machine.

Light on purpose: nothing but this room, ``prometheus_client`` and ``pynvml`` is loaded.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from prometheus_client.exposition import generate_latest

from metrics import exporter_settings
from metrics.agentstate import AgentState
from metrics.exporter import Exporter, GpuCollector, NodeSpec, collection_limit_s
from metrics.exporter_http import ExporterServer
from metrics.exporter_settings import ExporterSettings
from metrics.metrics_http import listen_address
from metrics.nvml import MAX_GPUS_PER_NODE, GpuSource, open_source
from metrics.podresources import lister
from metrics.simulated import Holders, SimulatedGpu, SimulatedSource, simulated_uuid, utc_now
from metrics.simulated_file import HoldersFile, SimulatedNode, SimulationFileError, read_simulation

#: Exit status when ``--once`` printed its scrape but the collection failed.
EXIT_COLLECTION_FAILED: Final = 1
#: Exit status of a wrong command line or simulation file, as argparse has it.
EXIT_USAGE: Final = 2

_DEFAULT_SIMULATED_GPUS: Final = 8


def main(argv: Sequence[str] | None = None) -> int:
    """Run the exporter.

    Args:
        argv: Arguments after the command's name; those of the process if None.

    Returns:
        Exit status: 0 after SIGTERM or SIGINT or a successful ``--once``, else
        ``EXIT_COLLECTION_FAILED`` or ``EXIT_USAGE``.
    """
    try:
        settings = exporter_settings.load()
        options = _parser(settings).parse_args(argv)
        logging.basicConfig(
            level=settings.log_level, stream=sys.stderr, format="exporter: %(levelname)s %(message)s"
        )
        exporter_settings.check_listener(options.listen, settings.token, is_production=settings.is_production)
        address = listen_address(options.listen, settings.token, "KEZEK_EXPORTER_TOKEN_FILE")
        exporter = Exporter(_nodes(options))
    except (ValueError, SimulationFileError) as error:
        sys.stderr.write(f"exporter: {error}\n")
        return EXIT_USAGE
    if options.once:
        return _print_once(exporter)
    try:
        server = ExporterServer(address, exporter, is_simulated=options.simulated, token=settings.token)
    except OSError as error:
        sys.stderr.write(
            f"exporter: cannot listen on {address[0]}:{address[1]} ({error.strerror}); is it taken?\n"
        )
        return EXIT_USAGE
    return _serve(server)


def _parser(settings: ExporterSettings) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kezek-server exporter",
        description="GPU telemetry of one node in Prometheus' format, from NVML or simulated.",
    )
    parser.add_argument("--simulated", action="store_true", help="make values up instead of reading NVML")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--nodes-file", type=Path, metavar="FILE", help="simulated nodes and who holds their GPUs"
    )
    which.add_argument("--node", default=settings.node, help="name of the node (default: %(default)s)")
    parser.add_argument(
        "--gpus",
        type=_gpu_count,
        default=settings.gpus or None,
        metavar="N",
        help=f"GPUs the node must have; with --simulated, to make up (default {_DEFAULT_SIMULATED_GPUS})",
    )
    parser.add_argument(
        "--pod-resources",
        type=Path,
        metavar="SOCKET",
        help="the kubelet's socket (/var/lib/kubelet/pod-resources/kubelet.sock): tells which pod holds which GPU",
    )
    parser.add_argument(
        "--agent-state",
        type=Path,
        default=settings.agent_state or None,
        metavar="DIR",
        help="state folder of the node's agent: tells which processes are ranks, whatever their environment says",
    )
    parser.add_argument(
        "--listen",
        default=settings.listen,
        metavar="HOST:PORT",
        help="any but a loopback address needs a token; port 0 takes a free one and prints it (default %(default)s)",
    )
    parser.add_argument(
        "--once", action="store_true", help="print one scrape and exit; 1 if collection failed"
    )
    return parser


def _gpu_count(text: str) -> int:
    count = int(text) if text.isdecimal() else 0
    if not 1 <= count <= MAX_GPUS_PER_NODE:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of GPUs from 1 to {MAX_GPUS_PER_NODE}")
    return count


def _nodes(options: argparse.Namespace) -> tuple[NodeSpec, ...]:
    """The nodes that the options name.

    Raises:
        ValueError: Options that contradict each other.
        SimulationFileError: The nodes file is broken.
    """
    nodes_file: Path | None = options.nodes_file
    if nodes_file is not None:
        if not options.simulated or options.gpus is not None:
            raise ValueError(
                "--nodes-file describes a simulation: give it with --simulated and without --gpus"
            )
        holders = HoldersFile(nodes_file)
        return tuple(_simulated(node, holders) for node in read_simulation(nodes_file).nodes)
    if options.simulated and options.pod_resources is not None:
        raise ValueError("--pod-resources is of real GPUs: no pod holds a simulated one")
    if options.simulated and options.agent_state is not None:
        raise ValueError("--agent-state is of real GPUs: no process runs on a simulated one")
    name: str = options.node
    if not options.simulated:
        pods = None if options.pod_resources is None else lister(options.pod_resources)
        ranks = None if options.agent_state is None else AgentState(options.agent_state).read
        return (NodeSpec(name, open_source, options.gpus, pods, ranks),)
    count: int = options.gpus or _DEFAULT_SIMULATED_GPUS
    gpus = tuple(SimulatedGpu(simulated_uuid(name, index)) for index in range(count))
    return (_simulated(SimulatedNode(name, gpus), dict),)


def _simulated(node: SimulatedNode, holders: Holders) -> NodeSpec:
    source: GpuSource = SimulatedSource(node.gpus, holders, utc_now)
    opener: Callable[[], GpuSource] = partial(_same, source)
    return NodeSpec(node.node, opener, len(node.gpus))


def _same(source: GpuSource) -> GpuSource:
    return source


def _print_once(exporter: Exporter) -> int:
    collector = GpuCollector(exporter, collection_limit_s(None))
    sys.stdout.write(generate_latest(collector).decode())
    sys.stdout.flush()
    return 0 if all(reading.is_success for reading in collector.last) else EXIT_COLLECTION_FAILED


def _serve(server: ExporterServer) -> int:
    with server:
        # shutdown() waits for the loop that the signal interrupts, so it is called from another thread.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: threading.Thread(target=server.shutdown, daemon=True).start())
        label = " (simulated)" if server.is_simulated else ""
        sys.stdout.write(f"exporter: listening on http://{server.server_name}:{server.server_port}{label}\n")
        sys.stdout.flush()
        server.serve_forever(poll_interval=0.1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
