"""Whose GPU process is it: from what the kernel says of a process to the attempt that it belongs to.

Pure: it decides over facts that ``metrics.procfs`` read. NVML gives pids; a pid is reused, so a process is a
pid *and* its start time, and two readings of different start times are two processes.

The evidence, strongest first:

1. descent: an ancestor is a rank, or the shepherd that watches one, as the node's agent wrote down. The shepherd
   adopts every orphan below it, so a process cannot leave its descent, whatever sessions it starts (``torchrun``
   starts one for each worker) and whatever it does to its environment;
2. the session of a rank, for what a lost shepherd left behind;
3. ``KEZEK_ATTEMPT`` in the environment it was started with, only where the agent's word is not at hand: a process
   can be started with another's, so this alone proves nothing against its owner.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

#: Variable that the platform sets for each rank; the value is the attempt's id.
ATTEMPT_VARIABLE: Final = b"KEZEK_ATTEMPT"
#: Longest attempt id that is believed; a label made of a tenant's text must not be longer.
MAX_ATTEMPT_CHARS: Final = 64

_ATTEMPT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# After the program's name in parentheses: state is the 1st field, parent the 2nd, session the 4th, start time the 20th.
_PARENT_FIELD: Final = 1
_SESSION_FIELD: Final = 3
_START_FIELD: Final = 19


class Evidence(StrEnum):
    """Why a process is held to be an attempt's."""

    DESCENT = "descent"
    SESSION = "session"
    ENVIRONMENT = "environment"


class Verdict(StrEnum):
    """What is known of a process that is no attempt's."""

    UNATTRIBUTED = "unattributed"
    UNEXAMINED = "unexamined"


@dataclass(frozen=True, slots=True)
class Identity:
    """A process, told apart from all others of this boot.

    Attributes:
        pid: Its number in its own pid namespace, which is the one that a process in a container knows itself by.
        start_ticks: Start time since boot, clock ticks; None if it has ended.
        pid_namespace: Inode of its pid namespace; None if that may not be asked.
    """

    pid: int
    start_ticks: int | None
    pid_namespace: int | None = None

    def may_be(self, other: Identity) -> bool:
        """Whether nothing speaks against both being the same process."""
        return self.pid == other.pid and all(
            mine is None or theirs is None or mine == theirs
            for mine, theirs in (
                (self.start_ticks, other.start_ticks),
                (self.pid_namespace, other.pid_namespace),
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFacts:
    """What the kernel says of one process.

    Attributes:
        ancestors: The process itself, its parent and so on outwards; those that no rank can be may be left out.
        session: The leader of its session.
        attempt: ``KEZEK_ATTEMPT`` of its first environment, or None.
        is_environment_readable: Whether the environment could be read; else ``attempt`` says nothing.
    """

    ancestors: tuple[Identity, ...]
    session: Identity
    attempt: str | None = None
    is_environment_readable: bool = True


@dataclass(frozen=True, slots=True)
class Rank:
    """A rank that the node's agent says lives.

    Attributes:
        attempt: Id of the attempt it is part of.
        leader: Its first process, which leads a session.
        shepherd: What watches it and adopts its orphans; None in a record that does not name it.
    """

    attempt: str
    leader: Identity
    shepherd: Identity | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What the node's agent says of the ranks that live on the node.

    Attributes:
        ranks: All of them.
        skipped: Records that could not be read or were too many: their ranks are missing above.
    """

    ranks: tuple[Rank, ...] = ()
    skipped: int = 0

    @property
    def start_ticks(self) -> frozenset[int]:
        """Start times of ranks and shepherds: a process of another start time is none of them."""
        identities = (of for rank in self.ranks for of in (rank.leader, rank.shepherd) if of is not None)
        return frozenset(of.start_ticks for of in identities if of.start_ticks is not None)


@dataclass(frozen=True, slots=True)
class Owned:
    """A process is an attempt's."""

    attempt: str
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class GpuUse:
    """Who uses a GPU.

    Attributes:
        processes: Number of processes by attempt and why they are held to be its.
        unattributed: Processes that belong to no attempt.
        unexamined: Processes of which nothing could be learnt: gone, or hidden from us.
    """

    processes: Mapping[tuple[str, Evidence], int]
    unattributed: int
    unexamined: int


def owner(process: ProcessFacts | None, known: Known | None) -> Owned | Verdict:
    """Whose a process is.

    Args:
        process: None if nothing could be read of it.
        known: The agent's word; None where there is none, and only then the environment is believed.
    """
    if process is None:
        return Verdict.UNEXAMINED
    if known is not None:
        return _by_agent(process, known)
    if process.attempt is not None:
        return Owned(process.attempt, Evidence.ENVIRONMENT)
    return Verdict.UNATTRIBUTED if process.is_environment_readable else Verdict.UNEXAMINED


def _by_agent(process: ProcessFacts, known: Known) -> Owned | Verdict:
    # From the outermost: what a rank's process makes below itself cannot stand before the rank.
    for ancestor in reversed(process.ancestors):
        for rank in known.ranks:
            if ancestor.may_be(rank.leader) or (rank.shepherd is not None and ancestor.may_be(rank.shepherd)):
                return Owned(rank.attempt, Evidence.DESCENT)
    for rank in known.ranks:
        # The kernel gives no pid away that a session still bears, so a leader that has ended is still the one.
        if process.session.may_be(rank.leader):
            return Owned(rank.attempt, Evidence.SESSION)
    return Verdict.UNATTRIBUTED


def gpu_use(owners: Iterable[Owned | Verdict]) -> GpuUse:
    """Count the processes of one GPU by owner."""
    counts: Counter[tuple[str, Evidence]] = Counter()
    verdicts: Counter[Verdict] = Counter()
    for whose in owners:
        match whose:
            case Owned(attempt=attempt, evidence=evidence):
                counts[attempt, evidence] += 1
            case Verdict():
                verdicts[whose] += 1
    return GpuUse(dict(counts), verdicts[Verdict.UNATTRIBUTED], verdicts[Verdict.UNEXAMINED])


@dataclass(frozen=True, slots=True)
class Stat:
    """What ``/proc/PID/stat`` says, pids as the reader's pid namespace has them."""

    parent: int
    session: int
    start_ticks: int


def parse_stat(text: str) -> Stat:
    """Parent, session and start time of ``/proc/PID/stat``.

    The program's name stands in parentheses and may itself hold spaces and parentheses.

    Raises:
        ValueError: It is not such a line.
    """
    fields = text.rpartition(")")[2].split()
    if len(fields) <= _START_FIELD:
        raise ValueError(f"not a line of /proc/PID/stat: {text!r}")
    return Stat(int(fields[_PARENT_FIELD]), int(fields[_SESSION_FIELD]), int(fields[_START_FIELD]))


def parse_status(text: str) -> tuple[int, int]:
    """Pid and session of ``/proc/PID/status`` in the process's own pid namespace, the last of each list.

    Raises:
        ValueError: They are not there.
    """
    found = {name: value.split() for name, _, value in (line.partition(":") for line in text.splitlines())}
    try:
        return int(found["NSpid"][-1]), int(found["NSsid"][-1])
    except (KeyError, IndexError) as error:
        raise ValueError("no NSpid and NSsid in /proc/PID/status") from error


def is_attempt_id(text: str) -> bool:
    """Whether a text can be an attempt's id."""
    return len(text) <= MAX_ATTEMPT_CHARS and _ATTEMPT.fullmatch(text) is not None


def parse_environment(raw: bytes) -> str | None:
    """Attempt id of ``/proc/PID/environ``; None where it is missing or is not one."""
    for entry in raw.split(b"\0"):
        name, _, value = entry.partition(b"=")
        if name == ATTEMPT_VARIABLE:
            text = value.decode("ascii", errors="replace")
            return text if is_attempt_id(text) else None
    return None
