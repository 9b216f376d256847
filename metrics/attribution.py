"""Whose GPU process is it: from what the kernel says of a process to the attempt that it belongs to.

Pure: it decides over facts that ``metrics.procfs`` read. NVML gives pids; a pid is reused, so a process is a
pid *and* its start time, and two readings of different start times are two processes.

The evidence, strongest first:

1. the Kubernetes pod of its control group, where the platform runs in pods: a tenant cannot leave it;
2. the session it runs in, where the leader of the session is known to be a rank: a process leaves its
   session only by starting one of its own;
3. ``KEZEK_ATTEMPT`` in the environment it was started with: a process can be started with another's, so this
   alone proves nothing against its owner; what it says is compared with the allocation.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

#: Variable that the platform sets for each rank; the value is the attempt's id.
ATTEMPT_VARIABLE: Final = b"KEZEK_ATTEMPT"
#: Longest attempt id that is believed; a label made of a tenant's text must not be longer.
MAX_ATTEMPT_CHARS: Final = 64

_ATTEMPT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Both drivers: "…/kubepods-burstable-pod1f2e_…_4.slice/…" (systemd) and "/kubepods/burstable/pod1f2e-…/…".
_POD: Final = re.compile(r"pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})")
# After the program's name in parentheses: state is the 1st field, session the 4th, start time the 20th.
_SESSION_FIELD: Final = 3
_START_FIELD: Final = 19


class Evidence(StrEnum):
    """Why a process is held to be an attempt's."""

    POD = "pod"
    SESSION = "session"
    ENVIRONMENT = "environment"


class Verdict(StrEnum):
    """What is known of a process that is no attempt's."""

    UNATTRIBUTED = "unattributed"
    UNEXAMINED = "unexamined"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFacts:
    """What the kernel says of one process.

    Attributes:
        pid: Its number.
        start_ticks: Start time since boot, clock ticks; with the pid it names the process.
        session: Pid of the session's leader.
        pod_uid: Kubernetes pod of its control group, or None.
        attempt: ``KEZEK_ATTEMPT`` of its first environment, or None.
        is_environment_readable: Whether the environment could be read; else ``attempt`` says nothing.
    """

    pid: int
    start_ticks: int
    session: int
    pod_uid: str | None = None
    attempt: str | None = None
    is_environment_readable: bool = True


@dataclass(frozen=True, slots=True)
class Known:
    """What the platform knows of the attempts that run on the node.

    Attributes:
        pods: Attempt by pod UID.
        sessions: Attempt by the session leader's pid and start time.
    """

    pods: Mapping[str, str] = field(default_factory=dict)
    sessions: Mapping[tuple[int, int], str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Owned:
    """A process is an attempt's."""

    attempt: str
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class GpuUse:
    """Who uses a GPU.

    Attributes:
        processes: Number of processes by attempt.
        unattributed: Processes that belong to no attempt.
        unexamined: Processes of which nothing could be learnt: gone, or hidden from us.
    """

    processes: Mapping[str, int]
    unattributed: int
    unexamined: int


def owner(process: ProcessFacts | None, leader_start_ticks: int | None, known: Known) -> Owned | Verdict:
    """Whose a process is.

    Args:
        process: None if nothing could be read of it.
        leader_start_ticks: Start time of its session's leader, None if that has ended.
        known: The attempts of the node.
    """
    if process is None:
        return Verdict.UNEXAMINED
    if process.pod_uid is not None and process.pod_uid in known.pods:
        return Owned(known.pods[process.pod_uid], Evidence.POD)
    if leader_start_ticks is not None:
        attempt = known.sessions.get((process.session, leader_start_ticks))
        if attempt is not None:
            return Owned(attempt, Evidence.SESSION)
    if process.attempt is not None:
        return Owned(process.attempt, Evidence.ENVIRONMENT)
    return Verdict.UNATTRIBUTED if process.is_environment_readable else Verdict.UNEXAMINED


def gpu_use(owners: Iterable[Owned | Verdict]) -> GpuUse:
    """Count the processes of one GPU by owner."""
    counts: Counter[str] = Counter()
    verdicts: Counter[Verdict] = Counter()
    for whose in owners:
        match whose:
            case Owned(attempt=attempt):
                counts[attempt] += 1
            case Verdict():
                verdicts[whose] += 1
    return GpuUse(dict(counts), verdicts[Verdict.UNATTRIBUTED], verdicts[Verdict.UNEXAMINED])


def parse_stat(text: str) -> tuple[int, int]:
    """Session and start time of ``/proc/PID/stat``.

    The program's name stands in parentheses and may itself hold spaces and parentheses.

    Raises:
        ValueError: It is not such a line.
    """
    fields = text.rpartition(")")[2].split()
    if len(fields) <= _START_FIELD:
        raise ValueError(f"not a line of /proc/PID/stat: {text!r}")
    return int(fields[_SESSION_FIELD]), int(fields[_START_FIELD])


def parse_cgroup(text: str) -> str | None:
    """Pod UID in ``/proc/PID/cgroup`` of either version and either driver, with dashes; None outside pods."""
    found = _POD.search(text)
    return None if found is None else found[1].replace("_", "-")


def parse_environment(raw: bytes) -> str | None:
    """Attempt id of ``/proc/PID/environ``; None where it is missing or is not one."""
    for entry in raw.split(b"\0"):
        name, _, value = entry.partition(b"=")
        if name == ATTEMPT_VARIABLE:
            text = value.decode("ascii", errors="replace")
            return text if len(text) <= MAX_ATTEMPT_CHARS and _ATTEMPT.fullmatch(text) else None
    return None
