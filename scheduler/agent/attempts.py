"""The attempts of a node as the agent knows them, and how it learns what became of their ranks."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from scheduler.agent import procfs
from scheduler.agent.checkpoints import CheckpointState
from scheduler.agent.cpus import Cpus, read
from scheduler.agent.launching import RankFiles
from scheduler.agent.state import write_json
from scheduler.dispatch.fields import Fields, WireError
from scheduler.dispatch.limits import MAX_INT
from scheduler.dispatch.wire import AttemptStatus, Lease, RankExit, RankStatus

KILL_ROUNDS = 50
"""Rounds of killing what a lost shepherd left, 20 ms apart, before the next look tries again."""
KILL_PAUSE_S = 0.02

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class RankState:
    """One rank: what is known of it, and the numbers of its events."""

    files: RankFiles
    started_at: datetime | None = None
    exit: RankExit | None = None
    started_seq: int | None = None
    exited_seq: int | None = None
    starting: subprocess.Popen[bytes] | None = None
    checkpoint: CheckpointState = field(default_factory=CheckpointState)
    told_cpus: Cpus | None = None

    def send(self, command: str) -> bool:
        """Give its shepherd a command; False where none listens: the rank has ended, or is not begun."""
        try:
            fd = os.open(self.files.control, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            os.write(fd, f"{command}\n".encode())
        except OSError:
            return False
        finally:
            os.close(fd)
        return True

    def load_seqs(self) -> None:
        """Read the numbers given before, and what was seen of its checkpoints.

        Raises:
            WireError: the file is damaged.
        """
        if self.files.seqs.exists():
            f = Fields(json.loads(self.files.seqs.read_text("utf-8")))
            self.started_seq = f.optional_integer("started", 1, MAX_INT)
            self.exited_seq = f.optional_integer("exited", 1, MAX_INT)
            self.checkpoint = CheckpointState(
                newest_ns=f.optional_integer("newest_ns", 0, MAX_INT) or 0,
                reported_at=None if f.raw("checkpoint_at") is None else f.instant("checkpoint_at"),
                seq=f.optional_integer("checkpointed", 1, MAX_INT),
            )

    def save_seqs(self) -> None:
        """Keep the numbers.

        Raises:
            OSError: the file system fails.
        """
        saved = self.checkpoint
        numbers = {
            "started": self.started_seq,
            "exited": self.exited_seq,
            "checkpointed": saved.seq,
            "checkpoint_at": None if saved.reported_at is None else saved.reported_at.timestamp(),
            "newest_ns": saved.newest_ns,
        }
        write_json(self.files.seqs, numbers, is_durable=False)

    def is_starting(self) -> bool:
        """Whether its shepherd is still on the way; reaps the process that brought it."""
        if self.starting is not None and self.starting.poll() is not None:
            self.starting = None
        return self.starting is not None

    def read_start(self) -> datetime | None:
        """When the rank's program began, None if it has not (yet)."""
        try:
            f = Fields(json.loads(self.files.start.read_text("utf-8")))
            return None if f.raw("started_at") is None else f.instant("started_at")
        except (FileNotFoundError, ValueError):
            return None

    def read_exit(self) -> RankExit | None:
        """How the rank ended, None if the shepherd has not said."""
        try:
            return RankExit.from_json(json.loads(self.files.exit.read_text("utf-8")))
        except FileNotFoundError:
            return None
        except ValueError as error:  # WireError and damaged JSON alike
            _logger.warning("exit file %s is damaged: %s", self.files.exit, error)
            return _lost("SHEPHERD_FAILED", f"its exit file is damaged: {error}", self.started_at)

    def find_lost(self) -> RankExit | None:
        """The end of a rank whose shepherd died without a word; None while it lives.

        Takes the shepherd's lock, so that no shepherd can begin meanwhile, kills what is left,
        and writes the exit file in the shepherd's stead.
        """
        lock = os.open(self.files.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None  # the shepherd lives
            written = self.read_exit()
            if written is not None:
                return written
            if not self._kill_leftovers():
                _logger.error("processes of %s refuse to die; its GPUs stay held", self.files.spec)
                return None
            has_run = self.files.start.exists()
            why = "the rank's shepherd died" if has_run else "the rank never started"
            found = _lost("SHEPHERD_LOST", f"{why}; run the job again", self.read_start())
            write_json(self.files.exit, found.to_json(), is_durable=True)
            return found
        finally:
            os.close(lock)

    def _kill_leftovers(self) -> bool:
        try:
            spec = json.loads(self.files.spec.read_text("utf-8"))
            marker = f"TMPDIR={spec['tmp_link']}".encode()
            Path(spec["tmp_link"]).unlink(missing_ok=True)
        except (OSError, ValueError, KeyError) as error:
            _logger.warning("spec %s is damaged: %s", self.files.spec, error)
            return True
        leader, leader_ticks = self._leader()
        for _ in range(KILL_ROUNDS):
            left = [
                p for p in procfs.pids() if p != os.getpid() and _belongs(p, marker, leader, leader_ticks)
            ]
            if not left:
                return True
            for pid in left:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(KILL_PAUSE_S)
        return False

    def _leader(self) -> tuple[int, int | None]:
        try:
            f = Fields(json.loads(self.files.start.read_text("utf-8")))
            if f.text("boot_id") != procfs.boot_id():
                return 0, None
            return f.integer("pid", 1, MAX_INT), f.optional_integer("start_ticks", 0, MAX_INT)
        except (OSError, ValueError):
            return 0, None


def _belongs(pid: int, marker: bytes, leader: int, leader_ticks: int | None) -> bool:
    """Whether a process is of a rank: by the rank's own mark in its environment, or by session.

    A session whose leader's pid went to another process is not the rank's.
    """
    if procfs.is_zombie(pid):
        return False
    if procfs.has_in_environment(pid, marker):
        return True
    return leader > 0 and procfs.session(pid) == leader and procfs.start_ticks(leader) in {None, leader_ticks}


def _lost(code: str, detail: str, started_at: datetime | None) -> RankExit:
    return RankExit(
        exit_code=None,
        signal=None,
        timeout=False,
        oom=False,
        started_at=started_at,
        ended_at=datetime.now(UTC),
        max_rss_bytes=0,
        error=code,
        detail=detail,
    )


def _cpus(record: Fields) -> dict[int, Cpus]:
    """The CPUs of their own that the record of an attempt gives its ranks; one of an older agent gives none."""
    if record.raw("cpus") is None:
        return {}
    given = Fields(record.raw("cpus"), "cpus")
    ranks = cast("Mapping[str, object]", record.raw("cpus"))
    try:
        return {int(rank): read(given.text(rank)) for rank in ranks}
    except ValueError as error:
        raise WireError("cpus", "expected lists of CPUs by rank") from error


@dataclass(slots=True)
class Attempt:
    """One attempt on this node; `cpus` are those that a rank has for its own, by rank."""

    lease: Lease
    committed_at: datetime
    folder: Path
    uid: int | None
    cpus: Mapping[int, Cpus] = field(default_factory=dict)
    ranks: dict[int, RankState] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Attempt:
        """Read an attempt's folder.

        Raises:
            OSError: a file cannot be read.
            WireError: a file is damaged.
        """
        try:
            f = Fields(json.loads((folder / "lease.json").read_text("utf-8")))
        except json.JSONDecodeError as error:
            raise WireError(str(folder / "lease.json"), "not JSON") from error
        found = cls(
            Lease.from_json(f.raw("lease")),
            f.instant("committed_at"),
            folder,
            f.optional_integer("uid", 0, MAX_INT),
            _cpus(f),
        )
        for rank in found.lease.ranks:
            state = RankState(RankFiles(folder, rank.rank))
            state.load_seqs()
            if state.started_seq is not None:
                state.started_at = state.read_start()
            if state.exited_seq is not None:
                state.exit = state.read_exit()
            found.ranks[rank.rank] = state
        return found

    @property
    def is_alive(self) -> bool:
        """Whether a rank is not proven absent."""
        return any(r.exit is None for r in self.ranks.values())

    @property
    def gpu_uuids(self) -> tuple[str, ...]:
        """GPUs of this node it was given."""
        return tuple(uuid for rank in self.lease.ranks for uuid in rank.gpu_uuids)

    def status(self) -> AttemptStatus:
        """As told to the scheduler."""
        return AttemptStatus(
            attempt_id=self.lease.attempt_id,
            job_id=self.lease.job_id,
            epoch=self.lease.epoch,
            committed_at=self.committed_at,
            gpu_uuids=self.gpu_uuids,
            ranks=tuple(
                RankStatus(n, r.started_at, r.exit, r.checkpoint.reported_at)
                for n, r in sorted(self.ranks.items())
            ),
        )
