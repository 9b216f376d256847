"""What ``/proc`` says of a process: the facts that attribution decides over.

Runs in the pid namespace of the host, whose pids NVML gives; who a process descends from everybody may read, another
user's environment only root. Reading a process that hangs in the kernel may hang too: done in a lane, like a driver
call.

Source: proc(5), pid_namespaces(7).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from metrics.attribution import (
    GpuUse,
    Identity,
    Known,
    ProcessFacts,
    Stat,
    gpu_use,
    owner,
    parse_environment,
    parse_stat,
    parse_status,
)
from metrics.nvml import GpuProcess

#: Bytes of an environment that are read; the kernel's own limit on arguments and environment is larger, and
#: what the platform sets stands at its beginning.
MAX_ENVIRONMENT_BYTES: Final = 256 * 1024
#: Ancestors looked at: a launcher, a shell and a worker are a handful; deeper than this nobody nests by accident.
MAX_ANCESTORS: Final = 256
# Readings of a line of ancestors: one that ends meanwhile hands its children over, and the line is read again.
_TRIES: Final = 3
_PROC: Final = Path("/proc")


def read_process(pid: int, start_ticks: frozenset[int] | None = None) -> ProcessFacts | None:
    """Facts of a process, None if it is gone or not of our namespace.

    Args:
        pid: As our pid namespace has it.
        start_ticks: Start times of ranks and shepherds: ancestors that started at another time are left out. None:
            nothing is known of ranks; no ancestor is looked at, but the environment is.
    """
    own = _stat(pid)
    line = [] if own is None or start_ticks is None else _steady_line(pid)
    if own is None or (start_ticks is not None and not line):
        return None
    ancestors = [_identity(at, stat) for at, stat in line if stat.start_ticks in (start_ticks or ())]
    session = _session(pid, own)
    environment = _environment(pid) if start_ticks is None else None
    now = _stat(pid)
    if session is None or None in ancestors or now is None or now.start_ticks != own.start_ticks:
        return None  # gone, or the pid was given to another process meanwhile
    return ProcessFacts(
        ancestors=tuple(of for of in ancestors if of is not None),
        session=session,
        attempt=None if environment is None else parse_environment(environment),
        is_environment_readable=environment is not None,
    )


def use_of(processes: Iterable[GpuProcess], known: Known | None) -> GpuUse:
    """Who uses a GPU, from its processes and, where there is one, the agent's word."""
    start_ticks = None if known is None else known.start_ticks
    return gpu_use(owner(read_process(process.pid, start_ticks), known) for process in processes)


def boot_id() -> str:
    """Identity of this boot of the machine.

    Raises:
        OSError: ``/proc`` is not there.
    """
    return (_PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()


def _steady_line(pid: int) -> list[tuple[int, Stat]]:
    """A process and its ancestors, outwards; empty if it is gone or its line would not stand still."""
    for _ in range(_TRIES):
        line = _line(pid)
        if line[-1:] and (line[-1][1].parent == 0 or len(line) == MAX_ANCESTORS):
            return line
    return []


def _line(pid: int) -> list[tuple[int, Stat]]:
    """As far as it can be read at once: a parent that ends hands its children over while we climb."""
    found: list[tuple[int, Stat]] = []
    at = pid
    while len(found) < MAX_ANCESTORS:
        stat = _stat(at)
        if stat is None or (found and stat.start_ticks > found[-1][1].start_ticks):
            break  # it ended, or its pid went to a younger process
        found.append((at, stat))
        if stat.parent == 0:
            break
        at = stat.parent
    return found


def _session(pid: int, own: Stat) -> Identity | None:
    leader = _stat(own.session) if own.session else None
    if leader is not None:
        return _identity(own.session, leader)
    try:
        session = parse_status((_PROC / str(pid) / "status").read_text(errors="replace"))[1]
    except (OSError, ValueError):
        return None
    return Identity(session, None, _pid_namespace(pid))


def _identity(pid: int, stat: Stat) -> Identity | None:
    try:
        inner = parse_status((_PROC / str(pid) / "status").read_text(errors="replace"))[0]
    except (OSError, ValueError):
        return None
    return Identity(inner, stat.start_ticks, _pid_namespace(pid))


def _pid_namespace(pid: int) -> int | None:
    try:
        return (_PROC / str(pid) / "ns/pid").stat().st_ino
    except OSError:
        return None  # of another user: its pid and start time must do


def _stat(pid: int) -> Stat | None:
    try:
        return parse_stat((_PROC / str(pid) / "stat").read_text(errors="replace"))
    except (OSError, ValueError):
        return None


def _environment(pid: int) -> bytes | None:
    try:
        with (_PROC / str(pid) / "environ").open("rb") as stream:
            return stream.read(MAX_ENVIRONMENT_BYTES)
    except OSError:
        return None
