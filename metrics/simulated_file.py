"""The file that tells the simulation which nodes there are and which job holds which GPU.

JSON, written by whoever simulates the machine and replaced whole (write beside it, then rename)::

    {"nodes": [{"node": "n1", "gpus": [{"uuid": "GPU-…", "model": "…", "memory_bytes": 141000000000}]}],
     "holders": {"GPU-…": {"job_id": "17", "started_at": "2026-01-31T10:00:00+00:00"}}}

``model``, ``memory_bytes`` and ``holders`` may be left out. The nodes are read once, at start; the holders
again whenever the file changes.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from metrics.nvml import MAX_GPUS_PER_NODE
from metrics.simulated import DEFAULT_MEMORY_BYTES, DEFAULT_MODEL, Holder, SimulatedGpu

#: About 30,000 GPUs with their holders; a larger file is a mistake and is not read into memory.
MAX_FILE_BYTES: Final = 8 * 2**20
#: Simulated nodes of one exporter: twice the machine that is planned for.
MAX_NODES: Final = 2500


class SimulationFileError(ValueError):
    """The file is missing, too large, or not of the documented shape.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"simulation file {path}: {what}; its shape is in docs/telemetry.md")
        self.path = path


@dataclass(frozen=True, slots=True)
class SimulatedNode:
    """A node with its GPUs in the order of their index."""

    node: str
    gpus: tuple[SimulatedGpu, ...]


@dataclass(frozen=True, slots=True)
class Simulation:
    """What the file says."""

    nodes: tuple[SimulatedNode, ...]
    holders: Mapping[str, Holder]


def read_simulation(path: Path) -> Simulation:
    """Read and check the file.

    Raises:
        SimulationFileError: It cannot be read, or it is not of the documented shape.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SimulationFileError(path, f"cannot be read ({error.strerror})") from error
    if len(raw) > MAX_FILE_BYTES:
        raise SimulationFileError(path, f"is larger than {MAX_FILE_BYTES} bytes")
    try:
        document = json.loads(raw)
        return Simulation(_nodes(document), _holders(document))
    except KeyError as error:
        raise SimulationFileError(path, f"lacks the key {error}") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise SimulationFileError(path, str(error)) from error


class HoldersFile:
    """The holders of the file, read again when it changes. Safe for use from several threads.

    Args:
        path: The simulation file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._holders: Mapping[str, Holder] = {}

    def __call__(self) -> Mapping[str, Holder]:
        """Who holds which GPU now.

        Raises:
            SimulationFileError: The file is gone or broken.
        """
        try:
            stat = self._path.stat()
        except OSError as error:
            raise SimulationFileError(self._path, f"cannot be read ({error.strerror})") from error
        seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        with self._lock:
            if seen != self._seen:
                self._holders = read_simulation(self._path).holders
                self._seen = seen
            return self._holders


def _nodes(document: Mapping[str, object]) -> tuple[SimulatedNode, ...]:
    entries = _list(document["nodes"], "nodes", MAX_NODES)
    nodes = tuple(_node(_mapping(entry, "a node")) for entry in entries)
    names = [node.node for node in nodes]
    uuids = [gpu.uuid for node in nodes for gpu in node.gpus]
    for what, values in (("node", names), ("GPU", uuids)):
        value, times = Counter(values).most_common(1)[0]
        if times > 1:
            raise ValueError(f"{what} {value!r} stands {times} times")
    return nodes


def _node(entry: Mapping[str, object]) -> SimulatedNode:
    name = _text(entry["node"], "node")
    gpus = _list(entry["gpus"], f"gpus of node {name}", MAX_GPUS_PER_NODE)
    return SimulatedNode(name, tuple(_gpu(_mapping(gpu, f"a GPU of node {name}")) for gpu in gpus))


def _gpu(entry: Mapping[str, object]) -> SimulatedGpu:
    memory_bytes = entry.get("memory_bytes", DEFAULT_MEMORY_BYTES)
    if not isinstance(memory_bytes, int) or isinstance(memory_bytes, bool) or memory_bytes <= 0:
        raise ValueError(f"memory_bytes must be a positive whole number, not {memory_bytes!r}")
    return SimulatedGpu(
        uuid=_text(entry["uuid"], "uuid"),
        model=_text(entry.get("model", DEFAULT_MODEL), "model"),
        memory_bytes=memory_bytes,
    )


def _holders(document: Mapping[str, object]) -> dict[str, Holder]:
    holders: dict[str, Holder] = {}
    for uuid, entry in _mapping(document.get("holders", {}), "holders").items():
        holder = _mapping(entry, f"holder of {uuid}")
        started_at = datetime.fromisoformat(_text(holder["started_at"], "started_at"))
        if started_at.tzinfo is None:
            raise ValueError(f"started_at of {uuid} has no time zone")
        holders[uuid] = Holder(_text(holder["job_id"], "job_id"), started_at)
    return holders


def _list(value: object, what: str, limit: int) -> list[object]:
    if not isinstance(value, list) or not 0 < len(value) <= limit:
        raise ValueError(f"{what} must be a list of 1 to {limit} entries")
    return value


def _mapping(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise TypeError(f"{what} must be an object")
    return value


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{what} must be a text that is not empty")
    return value
