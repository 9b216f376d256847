"""Child processes of the one-machine platform: started, watched, restarted and stopped by pid.

Every child runs in a session of its own, so that a terminal's Ctrl-C reaches only its parent, and gets a
signal from the kernel when the parent dies, so that nothing outlives a killed parent.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

STOP_TIMEOUT_S = 15
"""Time a child gets after SIGTERM before it is killed."""

RESTARTS_MAX = 5
"""Restarts of one child within `RESTART_WINDOW_S` before the platform gives up: it is broken, not unlucky."""

RESTART_WINDOW_S = 60
"""See `RESTARTS_MAX`."""

LOG_TAIL = 1500
"""Bytes of a child's log that an error message shows."""


class ChildError(RuntimeError):
    """A child process ended that should not have, or did not become ready."""

    def __init__(self, name: str, what: str, log_file: Path) -> None:
        super().__init__(f"{name} {what}; the end of {log_file}:\n{tail(log_file)}")
        self.name = name


def tail(path: Path) -> str:
    """Return the end of a log file, or a note that there is none."""
    if not path.exists():
        return "(no log)"
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - LOG_TAIL))
        return file.read().decode(errors="replace")


@dataclass(slots=True)
class Child:
    """One child process and its history of restarts."""

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    log_file: Path
    is_restarted: bool = True
    process: subprocess.Popen[bytes] | None = None
    starts: list[float] = field(default_factory=list)

    def start(self) -> None:
        """Start the process. Call from the main thread: its death signal follows the thread that made it."""
        setpriv = shutil.which("setpriv")
        prefix = (setpriv, "--pdeathsig", "TERM") if setpriv else ()
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        self.starts.append(time.monotonic())
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - the platform's own commands
                [*prefix, *self.command],
                env=dict(self.env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def is_running(self) -> bool:
        """Whether the process is alive."""
        return self.process is not None and self.process.poll() is None

    def must_run(self) -> None:
        """Restart a child that ended.

        Raises:
            ChildError: when it is not one to restart, or ended too often.
        """
        if self.is_running():
            return
        code = self.process.returncode if self.process else None
        recent = [start for start in self.starts if start > time.monotonic() - RESTART_WINDOW_S]
        if not self.is_restarted or len(recent) > RESTARTS_MAX:
            raise ChildError(self.name, f"ended with code {code}", self.log_file)
        self.start()

    def stop(self) -> None:
        """Stop exactly this process: SIGTERM, then SIGKILL when it does not end in time."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def clean_env(**extra: str) -> dict[str, str]:
    """Return a small environment for a child: no Python or Ray variable of whoever started us, only `extra`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in {"PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER", "LD_LIBRARY_PATH"}
        or name.startswith("KEZEK_")
    }
    kept.setdefault("PATH", os.defpath)
    kept.setdefault("HOME", "/tmp")  # noqa: S108 - Ray wants some home; nothing is kept there
    return {**kept, "PYTHONUNBUFFERED": "1", **extra}


def stop_all(children: Sequence[Child]) -> None:
    """Stop children in reverse order of their start, and wait until what they had started has ended too.

    A child's own children (Ray's, above all) may outlive it for a moment; what is left after `STOP_TIMEOUT_S` is
    killed. They are told from other processes by pid and time of start.
    """
    family = [
        descendant
        for child in children
        if child.process is not None and child.is_running()
        for descendant in psutil.Process(child.process.pid).children(recursive=True)
    ]
    for child in reversed(children):
        child.stop()
    _, left = psutil.wait_procs(family, timeout=STOP_TIMEOUT_S)
    for descendant in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            descendant.kill()
    psutil.wait_procs(left, timeout=STOP_TIMEOUT_S)
