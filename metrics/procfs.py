"""What ``/proc`` says of a process: the facts that attribution decides over.

Runs in the pid namespace of the host, whose pids NVML gives; another user's environment is readable to root
only. Reading a process that hangs in the kernel may hang too: done in a lane, like a driver call.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from metrics.attribution import (
    GpuUse,
    Known,
    Owned,
    ProcessFacts,
    Verdict,
    gpu_use,
    owner,
    parse_cgroup,
    parse_environment,
    parse_stat,
)
from metrics.nvml import GpuProcess

#: Bytes of an environment that are read; the kernel's own limit on arguments and environment is larger, and
#: what the platform sets stands at its beginning.
MAX_ENVIRONMENT_BYTES: Final = 256 * 1024
_PROC: Final = Path("/proc")


def read_process(pid: int) -> ProcessFacts | None:
    """Facts of a process, None if it is gone or not of our namespace."""
    folder = _PROC / str(pid)
    try:
        session, start_ticks = parse_stat(folder.joinpath("stat").read_text(errors="replace"))
        pod_uid = parse_cgroup(folder.joinpath("cgroup").read_text(errors="replace"))
    except (OSError, ValueError):
        return None
    environment = _environment(folder)
    if _start_ticks(pid) != start_ticks:
        return None  # the pid was given to another process meanwhile
    return ProcessFacts(
        pid=pid,
        start_ticks=start_ticks,
        session=session,
        pod_uid=pod_uid,
        attempt=None if environment is None else parse_environment(environment),
        is_environment_readable=environment is not None,
    )


def use_of(processes: Iterable[GpuProcess], known: Known) -> GpuUse:
    """Who uses a GPU, from its processes."""
    return gpu_use(_owner(process.pid, known) for process in processes)


def _owner(pid: int, known: Known) -> Owned | Verdict:
    facts = read_process(pid)
    return owner(facts, None if facts is None else _start_ticks(facts.session), known)


def _start_ticks(pid: int) -> int | None:
    try:
        return parse_stat((_PROC / str(pid) / "stat").read_text(errors="replace"))[1]
    except (OSError, ValueError):
        return None


def _environment(folder: Path) -> bytes | None:
    try:
        with folder.joinpath("environ").open("rb") as stream:
            return stream.read(MAX_ENVIRONMENT_BYTES)
    except OSError:
        return None
