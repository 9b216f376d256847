"""CPUs of ranks: choosing them, writing them as a list, keeping running processes to them. Standard library only.

Source: sched_setaffinity(2) and sched(7); the list format of cpuset(7).
"""
# ruff: noqa: PTH208 - pathlib costs start time

from __future__ import annotations

import os
from collections.abc import Collection, Iterator

Cpus = frozenset[int]
"""Logical CPUs by number."""

REBIND_ROUNDS = 3
"""Passes over a rank's threads: one that was made during a pass has its maker's CPUs, old or new."""


def choose(free: Collection[int], wanted: int) -> Cpus | None:
    """The lowest-numbered CPUs for a rank; None where fewer are free than it wants."""
    return frozenset(sorted(free)[:wanted]) if len(free) >= wanted else None


def spell(cpus: Collection[int]) -> str:
    """CPUs as a list with ranges: `0-3,8`."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def read(text: str) -> Cpus:
    """What `spell` wrote.

    Raises:
        ValueError: it did not.
    """
    found: set[int] = set()
    for part in text.split(","):
        low, _, high = part.partition("-")
        found.update(range(int(low), int(high or low) + 1))
    return frozenset(found)


def rebind(pids: Collection[int], before: Cpus, now: Cpus) -> bool:
    """Keep running processes to other CPUs than before; whether a thread had to be moved.

    Threads that chose CPUs for themselves keep those of them that are allowed now.
    """
    is_moved = False
    for thread in _threads(pids):
        try:
            has = frozenset(os.sched_getaffinity(thread))
            wanted = now if has == before else has & now or now
            if wanted != has:
                os.sched_setaffinity(thread, wanted)
                is_moved = True
        except OSError:
            continue  # it ended, or the machine took these CPUs away
    return is_moved


def _threads(pids: Collection[int]) -> Iterator[int]:
    for pid in pids:
        try:
            yield from map(int, os.listdir(f"/proc/{pid}/task"))
        except OSError:
            continue  # ended meanwhile
