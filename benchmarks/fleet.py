"""Stands in for the node exporters of a whole machine, and for its control plane, before a Prometheus under load.

What one production exporter answers over the scripted driver is the pattern; each node gets it with its own name
and UUIDs, and values that change from scrape to scrape: utilisation, power, memory, temperature, energy, traffic.
One process answers for all nodes, each at a path of its own, so that the load is Prometheus' and not ours.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

GPUS = 8
MAX_NODES = 1000
PATTERN_UUID = re.compile(r"GPU-00000000-0000-0000-0000-00000000000(\d)")

CHANGING: dict[str, Callable[[float, int], float]] = {
    "kezek_gpu_utilization_ratio": lambda now_s, seed: (int(now_s / 7) * 31 + seed * 17) % 101 / 100,
    "kezek_gpu_memory_bandwidth_utilization_ratio": lambda now_s, seed: (int(now_s) + seed) % 60 / 100,
    "kezek_gpu_memory_used_bytes": lambda now_s, seed: float(2**30 * (20 + (int(now_s / 30) + seed) % 40)),
    "kezek_gpu_power_watts": lambda now_s, seed: 300 + (now_s * 13 + seed * 7) % 400,
    "kezek_gpu_energy_joules_total": lambda now_s, seed: now_s * 500 + seed,
    "kezek_gpu_temperature_celsius": lambda now_s, seed: float(50 + (int(now_s / 5) + seed) % 30),
    "kezek_gpu_nvlink_transmit_bytes_total": lambda now_s, seed: (now_s + seed) * 1e9,
    "kezek_gpu_nvlink_receive_bytes_total": lambda now_s, seed: (now_s + seed) * 1e9,
    "kezek_gpu_pcie_transmit_bytes_total": lambda now_s, seed: (now_s + seed) * 1e8,
    "kezek_gpu_pcie_receive_bytes_total": lambda now_s, seed: (now_s + seed) * 1e8,
    "kezek_gpu_collect_last_success_timestamp_seconds": lambda now_s, _seed: now_s,
}
"""Value of a family at a time, for a GPU's number."""


def uuid_of(node: int, index: int) -> str:
    """UUID of a GPU of the fleet."""
    return f"GPU-{node:08x}-0000-0000-0000-{index:012d}"


class Fleet:
    """Pages of all nodes, made of one exporter's page."""

    def __init__(self, pattern: str) -> None:
        self._lines = [self._line(line) for line in pattern.splitlines()]

    @staticmethod
    def _line(line: str) -> tuple[str, str | None, int]:
        """The line up to its value, the changing family it belongs to if any, and its GPU's index."""
        gpu = PATTERN_UUID.search(line)
        text = PATTERN_UUID.sub(r"GPU-\0-0000-0000-0000-00000000000\1", line)
        text = text.replace('node="n1"', 'node="\0n"').replace('attempt="1-1"', 'attempt="\0a-1"')
        name = re.split(r"[{ ]", line, maxsplit=1)[0]
        if line.startswith("#") or name not in CHANGING:
            return text, None, 0
        return text.rpartition(" ")[0], name, int(gpu[1]) if gpu else 0

    def page(self, node: int, now_s: float) -> bytes:
        """What the node's exporter answers at a Unix time."""
        lines = [
            text if name is None else f"{text} {CHANGING[name](now_s, node * GPUS + index)}"
            for text, name, index in self._lines
        ]
        page = "\n".join([*lines, ""])
        page = page.replace("\0n", f"n{node:04d}").replace("\0a", str(node))
        return page.replace("\0", f"{node:08x}").encode()


def control_plane(nodes: int) -> bytes:
    """Allocations of the whole machine, and a queue with its quota: what the rules join with telemetry."""
    lines = [
        f'kezek_gpu_allocation_info{{uuid="{uuid_of(node, index)}",node="n{node:04d}",attempt="{node}-1",'
        f'job_id="{node}",project="p{node % 100}",queue="q{node % 20}",sector="s{node % 12}",category="university"}} 1'
        for node in range(nodes)
        for index in range(GPUS)
    ]
    lines += [f'kezek_queue_nominal_gpus{{queue="q{queue}"}} 400' for queue in range(20)]
    return "\n".join([*lines, "kezek_journal_unsealed_records 3", ""]).encode()


async def _serve(fleet: Fleet, nodes: int) -> None:
    plane = control_plane(nodes)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await reader.readline():
                while (await reader.readline()).strip():
                    pass
                path = request.split()[1].decode()
                number = path.removeprefix("/node/")
                body = fleet.page(int(number), time.time()) if number != path else plane
                head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + body)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=MAX_NODES)
    sys.stdout.write(f"fleet: listening on http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pattern", type=Path, help="page of one exporter with 8 GPUs on node n1")
    parser.add_argument(
        "--nodes", type=int, default=MAX_NODES, help="nodes to stand in for (default %(default)s)"
    )
    options = parser.parse_args()
    asyncio.run(_serve(Fleet(options.pattern.read_text()), options.nodes))


if __name__ == "__main__":
    main()
