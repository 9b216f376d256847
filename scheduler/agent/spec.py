"""What the agent tells a shepherd about its rank: the shape of ``rank-<n>.spec``.

Imported for types only; the shepherd never loads `typing` at run time.
"""

from __future__ import annotations

from typing import TypedDict


class Isolation(TypedDict):
    """Protections that must be put in force, or the rank does not start."""

    mount_ns: bool
    landlock: bool
    drop_caps: bool
    uid: int | None


class Spec(TypedDict):
    """One rank: what to run, where, under which limits, and the files of its life.

    Paths are absolute. `lock` is held by the living shepherd, `control` and `notify` are FIFOs,
    `tmp_link` is the short path that leads to the rank's temporary directory, `hidden` are folders
    the rank finds empty and closed when `Isolation` has `mount_ns`. `cpus` are those it begins on.
    """

    attempt_id: str
    rank: int
    command: list[str]
    env: dict[str, str]
    scratch: str
    log: str
    log_cap_bytes: int
    lock: str
    control: str
    notify: str
    start_file: str
    exit_file: str
    outputs: list[str]
    outputs_dir: str
    tmp_link: str
    walltime_s: int
    kill_wait_s: int
    memory_bytes: int | None
    cpus: list[int]
    isolation: Isolation
    read: list[str]
    write: list[str]
    hidden: list[str]
