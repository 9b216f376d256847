"""Where ranks save their work, and how the agent sees that they did.

A rank's checkpoint folder belongs to its job and outlives the attempt, so that the job's next attempt goes on from
what is there. A checkpoint is an entry that was made, replaced or written to since the last look: its change time,
which the kernel sets and no program can, is newer than all before. Programs write beside, under a name that begins
with a dot, and rename. To announce what was not saved harms only the job itself: it is taken back sooner and given
back less.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import stat
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

from scheduler.agent.state import remove_tree, write_json

MAX_ENTRIES = 1_000
"""Entries of a checkpoint folder looked at: a program keeps a few; the look is taken twice a second."""
REPORT_EVERY = timedelta(seconds=60)
"""Time between two reports of one rank: a program that saves at every step must not flood the journal."""
LOOK_TIMEOUT_S = 1.0
"""Longest wait for one look [s]: storage that hangs must not blind the agent to the ends of ranks."""
_GONE = ".gone-"

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class CheckpointState:
    """What was seen of one rank's checkpoints, and told.

    Attributes:
        newest_ns: newest change time seen [ns since the epoch, by the storage's clock].
        reported_at: the last checkpoint told, by the agent's clock.
        seq: number of the event that told it.
        unreported_at: when a newer one was seen that is not told yet.
    """

    newest_ns: int = 0
    reported_at: datetime | None = None
    seq: int | None = None
    unreported_at: datetime | None = None

    def see(self, newest_ns: int, at: datetime) -> None:
        """Note the newest change time of a look at an instant."""
        if newest_ns > self.newest_ns:
            self.newest_ns = newest_ns
            self.unreported_at = at

    def due(self, at: datetime, *, has_ended: bool) -> datetime | None:
        """The checkpoint that is to be told now; an ended rank tells its last at once."""
        is_soon = self.reported_at is not None and at - self.reported_at < REPORT_EVERY
        return None if is_soon and not has_ended else self.unreported_at

    def tell(self, seq: int, at: datetime) -> None:
        """It is told under this number."""
        self.seq, self.reported_at, self.unreported_at = seq, at, None


@dataclass(frozen=True, slots=True)
class CheckpointFolders:
    """The checkpoint folders of jobs below one root, which agents of several nodes may share."""

    root: Path

    def make(self) -> None:
        """Make the root; finish removals that were cut short.

        Raises:
            OSError: it cannot be made.
        """
        self.root.mkdir(mode=0o711, parents=True, exist_ok=True)
        for left in self.root.glob(f"{_GONE}*"):
            remove_tree(left)

    def folder(self, job_id: int, rank: int) -> Path:
        """Where a rank of a job saves its work."""
        return self.root / str(job_id) / str(rank)

    def open(self, attempt_id: str, job_id: int, rank: int, uid: int | None) -> Path:
        """The rank's folder with what former attempts left, for an attempt that runs under `uid` (None: ours).

        Raises:
            OSError: the file system fails.
        """
        found = self.folder(job_id, rank)
        found.parent.mkdir(mode=0o711, exist_ok=True)
        found.mkdir(mode=0o700, exist_ok=True)
        write_json(self._user(job_id), attempt_id, is_durable=False)
        if uid is not None:
            _hand_over(found, uid)
        return found

    def forget(self, attempt_id: str, job_id: int) -> None:
        """Drop what the job saved when its last attempt is removed; nothing where another came after it.

        Raises:
            OSError: the file system fails.
        """
        try:
            user = json.loads(self._user(job_id).read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return
        if user == attempt_id:
            hidden = self.root / f"{_GONE}{secrets.token_hex(8)}"
            with suppress(FileNotFoundError):  # another node's agent was first
                (self.root / str(job_id)).rename(hidden)
                remove_tree(hidden)

    def _user(self, job_id: int) -> Path:
        """Names the attempt that used the job's folders last."""
        return self.root / str(job_id) / "attempt.json"


def _hand_over(folder: Path, uid: int) -> None:
    """Give a tree to another uid; links are not followed, and a file with a second name elsewhere stays as it is."""
    os.chown(folder, uid, uid)
    for base, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(base) / name
            found = path.lstat()
            if not stat.S_ISREG(found.st_mode) or found.st_nlink == 1:
                os.chown(path, uid, uid, follow_symlinks=False)


def newest_ns(folder: Path) -> int:
    """Newest change time of a folder's entries but those that begin with a dot [ns]; 0 for none or no folder."""
    found = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in islice(entries, MAX_ENTRIES):
            if not entry.name.startswith("."):
                with suppress(OSError):  # renamed meanwhile: the next look sees it
                    found = max(found, entry.stat(follow_symlinks=False).st_ctime_ns)
    return found


class CheckpointLook:
    """Looks at folders in a thread of its own, one at a time. Called by one thread."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "agent-checkpoints")
        self._last: Future[int] | None = None

    def newest_ns(self, folder: Path) -> int:
        """See `newest_ns`; 0, as if nothing were new, while the storage does not answer."""
        if self._last is not None and not self._last.done():
            return 0
        self._last = self._pool.submit(newest_ns, folder)
        try:
            return self._last.result(LOOK_TIMEOUT_S)
        except TimeoutError:
            _logger.warning("checkpoint folder %s does not answer; its checkpoints are not seen", folder)
            return 0

    def close(self) -> None:
        """Let the thread end."""
        self._pool.shutdown(wait=False, cancel_futures=True)
