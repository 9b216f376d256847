"""What the node's agent says of the ranks that live on its node: the files that it and its shepherds keep.

``DIR/attempts/<attempt>/start-<rank>.json`` names the rank's first process and its shepherd, by pid, start time and pid
namespace; ``exit-<rank>.json`` appears when the rank's absence is proven. They are read here without the agent's code,
since the exporter loads nothing of the platform; a test starts the real agent and compares. A rank cannot write them.
"""

from __future__ import annotations

import json
import logging
import os
import re
from itertools import islice
from pathlib import Path
from typing import Final

from metrics.attribution import Identity, Known, Rank, is_attempt_id
from metrics.procfs import boot_id

#: Attempts that are looked at; an agent keeps the ended ones for 30 days, so that is one every two minutes.
MAX_ATTEMPTS: Final = 20_000
#: Ranks that live at once; a node has at most 64 GPUs of up to 7 slices.
MAX_RANKS: Final = 512
#: Files of one attempt: nine for each rank.
MAX_FILES: Final = 9 * MAX_RANKS
#: Bytes of a start file; it has some 200.
MAX_START_BYTES: Final = 4096

_FILE: Final = re.compile(r"(?:(rank)-([0-9]{1,6})\.spec|(start|exit)-([0-9]{1,6})\.json)")

_log = logging.getLogger(__name__)


class AgentStateError(Exception):
    """The agent's files cannot be read at all: nothing is known of ranks."""


class AgentState:
    """Reads the state directory of one node's agent, time after time. Not reentrant.

    Args:
        folder: The directory, ``<state>/agents/<node>``.
    """

    def __init__(self, folder: Path) -> None:
        self._attempts = folder / "attempts"
        # Attempts whose ranks have all ended: they stay ended, and are not opened again.
        self._ended: set[str] = set()
        self._skipped: frozenset[str] = frozenset()

    def read(self) -> Known:
        """The ranks that live now. Costs one listing of the attempts and two reads for each that lives.

        Raises:
            AgentStateError: The directory cannot be read.
        """
        skipped: set[str] = set()
        try:
            boot = boot_id()
            names = _names(self._attempts, MAX_ATTEMPTS + 1)
        except OSError as error:
            raise AgentStateError(
                f"the agent's files at {self._attempts} cannot be read ({error.strerror})"
            ) from error
        if len(names) > MAX_ATTEMPTS:
            skipped.add(f"more than {MAX_ATTEMPTS} attempts")
        self._ended &= set(names)
        ranks: list[Rank] = []
        for name in names[:MAX_ATTEMPTS]:
            if name not in self._ended and is_attempt_id(name):
                ranks.extend(self._attempt(name, boot, skipped))
        if len(ranks) > MAX_RANKS:
            skipped.add(f"more than {MAX_RANKS} ranks")
        for what in sorted(skipped - self._skipped):
            _log.warning("agent's files: skipped %s", what)
        self._skipped = frozenset(skipped)
        return Known(tuple(ranks[:MAX_RANKS]), len(skipped))

    def _attempt(self, name: str, boot: str, skipped: set[str]) -> list[Rank]:
        try:
            files = _names(self._attempts / name, MAX_FILES)
        except FileNotFoundError:
            return []  # just removed
        except OSError as error:
            skipped.add(f"{name} ({error.strerror})")
            return []
        found: dict[str, set[str]] = {"rank": set(), "start": set(), "exit": set()}
        for match in filter(None, map(_FILE.fullmatch, files)):
            found[match[1] or match[3]].add(match[2] or match[4])
        if found["rank"] and found["rank"] <= found["exit"]:
            self._ended.add(name)
            return []
        ranks = []
        for number in sorted(found["start"] - found["exit"]):
            file = self._attempts / name / f"start-{number}.json"
            try:
                rank = _rank(name, boot, file)
            except FileNotFoundError:
                continue
            except (OSError, ValueError, RecursionError) as error:
                skipped.add(f"{name}/{file.name} ({getattr(error, 'strerror', None) or error})")
                continue
            if rank is not None:
                ranks.append(rank)
        return ranks


def _names(folder: Path, limit: int) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in islice(entries, limit)]


def _rank(attempt: str, boot: str, file: Path) -> Rank | None:
    """The rank of a start file; None if it ended before it could be written down, or with an earlier boot.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not such a file.
    """
    with file.open("rb") as stream:
        raw = stream.read(MAX_START_BYTES + 1)
    if len(raw) > MAX_START_BYTES:
        raise ValueError(f"longer than {MAX_START_BYTES} bytes")
    content = json.loads(raw)
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 (of the file, not of a caller)
    if content.get("boot_id") != boot:
        return None
    namespace = _number(content, "pid_namespace")
    leader = _identity(content, "pid", "start_ticks", namespace)
    if leader is None:
        return None
    return Rank(attempt, leader, _identity(content, "shepherd_pid", "shepherd_start_ticks", namespace))


def _identity(content: dict[str, object], pid: str, ticks: str, namespace: int | None) -> Identity | None:
    number, start_ticks = _number(content, pid), _number(content, ticks)
    return None if number is None or start_ticks is None else Identity(number, start_ticks, namespace)


def _number(content: dict[str, object], name: str) -> int | None:
    value = content.get(name)
    if value is None:
        return None
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} is not a number")
    return value
