"""Reading ``/proc``: who lives, since when, with how much memory. Standard library only.

Source: proc(5).
"""
# ruff: noqa: PTH112, PTH116, PTH123, PTH208 - pathlib costs start time

from __future__ import annotations

import os
from collections.abc import Iterable

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_STAT_STATE, _STAT_PARENT, _STAT_SESSION, _STAT_START = 0, 1, 3, 19
_STATM_FIELDS = 7


def _stat(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return []


def start_ticks(pid: int) -> int | None:
    """When a process began [clock ticks since boot]; with the pid its identity. None if it is gone."""
    fields = _stat(pid)
    return int(fields[_STAT_START]) if fields else None


def session(pid: int) -> int | None:
    """The session a process belongs to, None if it is gone."""
    fields = _stat(pid)
    return int(fields[_STAT_SESSION]) if fields else None


def is_zombie(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    fields = _stat(pid)
    return not fields or fields[_STAT_STATE] in {b"Z", b"X"}


def pids() -> list[int]:
    """All processes that can be seen."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def descendants(root: int) -> list[int]:
    """Processes below `root`, parents first. Costs one read per thread of the tree.

    A fork at the same moment may be missed; who needs certainty asks again until none is left.
    """
    found = _children(root)
    for pid in found:  # grows while it is walked
        found.extend(_children(pid))
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found.extend(int(child) for child in file.read().split())
        except FileNotFoundError:
            if os.path.isdir(f"/proc/{pid}/task/{thread}"):
                return _children_by_parent(pid)  # a kernel without CONFIG_PROC_CHILDREN
        except OSError:
            continue  # ended meanwhile
    return found


def _children_by_parent(pid: int) -> list[int]:
    return [p for p in pids() if (fields := _stat(p)) and int(fields[_STAT_PARENT]) == pid]


def memory_bytes(processes: Iterable[int]) -> int:
    """Resident memory of processes together: each one's own, and the largest shared part once."""
    own, shared = 0, 0
    for pid in processes:
        try:
            with open(f"/proc/{pid}/statm", "rb") as file:
                fields = file.read().split()
        except OSError:
            continue
        if len(fields) == _STATM_FIELDS:
            own += int(fields[1]) - int(fields[2])
            shared = max(shared, int(fields[2]))
    return (own + shared) * _PAGE_BYTES


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler of its own for a signal; without one it would die of it."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("SigCgt:"):
                    return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    except OSError:
        return False
    return False


def has_in_environment(pid: int, assignment: bytes) -> bool:
    """Whether a process was started with ``NAME=value`` in its environment."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return assignment in file.read().split(b"\0")
    except OSError:
        return False


def pid_namespace() -> int:
    """Inode of our own pid namespace: with it, a pid written down is understood from outside a container.

    Raises:
        OSError: ``/proc`` is not there.
    """
    return os.stat("/proc/self/ns/pid").st_ino


def boot_id() -> str:
    """Identity of this boot of the machine.

    Raises:
        OSError: ``/proc`` is not there.
    """
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
