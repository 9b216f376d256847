"""What an agent keeps on disk: its own record, attempts, bundles. Survives the agent."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

from scheduler.agent import procfs
from scheduler.dispatch.fields import Fields
from scheduler.dispatch.limits import MAX_INT

SEQ_BLOCK = 1_000
"""Event numbers reserved on disk at a time: one write per thousand events, a gap after a crash."""

LOCK_WAIT_S = 30.0
"""Time a new agent waits for its predecessor to be gone [s]: Ray restarts an actor in 2 s."""
LOCK_PAUSE_S = 0.1
"""Time between tries [s]."""


def write_json(path: Path, value: object, *, is_durable: bool) -> None:
    """Write JSON so that a reader sees all of it or nothing.

    Args:
        path: the file.
        value: what to write.
        is_durable: whether it must survive the loss of power too.

    Raises:
        OSError: the file system fails.
    """
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        json.dump(value, file)
        if is_durable:
            file.flush()
            os.fsync(file.fileno())
    partial.rename(path)
    if is_durable:
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make renames in a folder durable.

    Raises:
        OSError: the file system fails.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_tree(path: Path) -> None:
    """Remove a tenant's tree, whatever modes it left on its folders; errors leave the rest there."""

    def open_up(_function: object, failed: str, _error: object) -> None:
        with contextlib.suppress(OSError):
            Path(failed).parent.chmod(0o700)
            Path(failed).chmod(0o700)
            if Path(failed).is_dir():
                shutil.rmtree(failed, ignore_errors=True)
            else:
                Path(failed).unlink()

    shutil.rmtree(path, onerror=open_up)


def _take_lock(path: Path) -> int:
    """Be the only agent of the node, for as long as this process lives.

    Raises:
        BlockingIOError: another agent still has it after `LOCK_WAIT_S`.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(fd)
                raise
            time.sleep(LOCK_PAUSE_S)
        else:
            return fd


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRecord:
    """The agent's own memory.

    Attributes:
        state_id: made with the state directory.
        port: where it listens, 0 before the first start.
        highest_epoch: highest fencing epoch seen.
        seq_reserved: no event number above this has been given.
        draining: whether launches are refused.
        uid_next: counter of the per-attempt uids.
    """

    state_id: str
    port: int = 0
    highest_epoch: int = 0
    seq_reserved: int = 0
    draining: bool = False
    uid_next: int = 0

    def to_json(self) -> dict[str, object]:
        """The form on disk."""
        return {
            "state_id": self.state_id,
            "port": self.port,
            "highest_epoch": self.highest_epoch,
            "seq_reserved": self.seq_reserved,
            "draining": self.draining,
            "uid_next": self.uid_next,
        }

    @classmethod
    def from_json(cls, value: object) -> AgentRecord:
        """Read the form on disk.

        Raises:
            WireError: not that form.
        """
        f = Fields(value)
        return cls(
            state_id=f.text("state_id"),
            port=f.integer("port", 0, 65_535),
            highest_epoch=f.integer("highest_epoch", 0, MAX_INT),
            seq_reserved=f.integer("seq_reserved", 0, MAX_INT),
            draining=f.flag("draining"),
            uid_next=f.integer("uid_next", 0, MAX_INT),
        )


class StateDir:
    """The directory of one node's agent."""

    def __init__(self, root: Path) -> None:
        """Open it, or make it.

        Raises:
            OSError: it cannot be made or read, or another agent of the node lives.
            WireError: its record is damaged; move the directory away to start anew.
        """
        self.root = root
        self.attempts = root / "attempts"
        self.bundles = root / "bundles"
        self.trash = root / "trash"
        self._record_file = root / "agent.json"
        root.mkdir(mode=0o711, parents=True, exist_ok=True)
        for folder, mode in ((self.attempts, 0o711), (self.bundles, 0o700), (self.trash, 0o700)):
            folder.mkdir(mode=mode, exist_ok=True)
        self._lock = _take_lock(root / "agent.lock")
        self.notify = root / "notify"
        if not self.notify.exists():
            os.mkfifo(self.notify, 0o600)
        if self._record_file.exists():
            self.record = AgentRecord.from_json(json.loads(self._record_file.read_text("utf-8")))
        else:
            self.record = AgentRecord(state_id=secrets.token_hex(16))
            self.save(self.record)
        for left in self.trash.iterdir():
            remove_tree(left)

    def close(self) -> None:
        """Let another agent have the directory."""
        os.close(self._lock)

    @property
    def boot_id(self) -> str:
        """Changes with the machine's boot and with the directory."""
        return str(uuid.uuid5(uuid.UUID(procfs.boot_id()), self.record.state_id))

    def save(self, record: AgentRecord) -> None:
        """Replace the record, durably.

        Raises:
            OSError: the file system fails; the old record stands.
        """
        write_json(self._record_file, record.to_json(), is_durable=True)
        self.record = record

    def reserve_seq(self, seq: int) -> None:
        """Make sure that `seq` will never be given again after a restart.

        Raises:
            OSError: the file system fails.
        """
        if seq > self.record.seq_reserved:
            self.save(replace(self.record, seq_reserved=seq + SEQ_BLOCK))

    def discard(self, folder: Path) -> None:
        """Take a folder out of sight at once, then remove it.

        Raises:
            OSError: it cannot be moved.
        """
        hidden = self.trash / secrets.token_hex(8)
        folder.rename(hidden)
        remove_tree(hidden)
