"""Following a job until it has ended: a line for each change, and a live bar in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Final

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from kezek import retry, show
from kezek.client import Client
from kezek.errors import NetworkError
from kezek.model import Job
from kezek.terminal import Terminal, clean

FIRST_POLL_S: Final = 0.5
"""Pause between two looks at a job that was just submitted [s]: a short job's end is seen at once."""
MAX_POLL_S: Final = 5.0
"""Longest pause between two looks [s]: a thousand watchers are two hundred reads a second."""
POLL_GROWTH: Final = 1.1
"""Growth of the pause while nothing changes."""
MAX_FAILURES: Final = 20
"""Looks in a row that may fail, each after its own retries: about five minutes of an absent platform."""


def watch(client: Client, job_id: int, terminal: Terminal, pause: retry.Pause = retry.sleep) -> Job:
    """Look at a job until it has ended, and tell what changes.

    Lines go to the result, the live bar beside it; for JSON only the bar is shown.

    Raises:
        ApiError: the platform refused.
        NetworkError: no answer for a long time.
    """
    live = _Bar(terminal) if terminal.is_live else None
    told = None
    with live.progress if live is not None else nullcontext():
        for job in _looks(client, job_id, pause):
            if live is not None:
                live.update(job)
            line = _line(job, terminal)
            if line != told and not job.is_final:
                told = line
                _tell(line, terminal, live)
    return job


def _looks(client: Client, job_id: int, pause: retry.Pause) -> Iterator[Job]:
    """The job as it is, again and again, the last time when it has ended."""
    failures, pause_s = 0, FIRST_POLL_S
    seen: tuple[str, object] | None = None
    while True:
        try:
            job = client.job(job_id)
        except NetworkError:
            failures += 1
            if failures >= MAX_FAILURES:
                raise
            pause(MAX_POLL_S)
            continue
        failures = 0
        yield job
        if job.is_final:
            return
        mark = (job.state, job.reason)
        pause_s = FIRST_POLL_S if mark != seen else min(pause_s * POLL_GROWTH, MAX_POLL_S)
        seen = mark
        pause(pause_s)


def _line(job: Job, terminal: Terminal) -> str:
    messages = terminal.messages
    named = messages.named("state", job.state)
    why = show.reason(job, messages)
    if why:
        return messages.say("job.waits", id=job.id, state=named, reason=why)
    return messages.say("job.status", id=job.id, state=named)


def _tell(line: str, terminal: Terminal, live: _Bar | None) -> None:
    if terminal.is_json:
        return
    if live is not None:
        live.progress.console.print(clean(line))
    else:
        terminal.line(line)


class _Bar:
    """The live bar: pulses while the job waits, then shows the run against its walltime."""

    def __init__(self, terminal: Terminal) -> None:
        self._messages: Final = terminal.messages
        self.progress: Final = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[beside]}", markup=False),
            console=terminal.notes,
            transient=True,
        )
        self._task: TaskID = self.progress.add_task("", total=None, beside="")

    def update(self, job: Job) -> None:
        """Show the job as it is now."""
        state, _ = show.state(job, self._messages)
        if job.started_at is None or job.state != "RUNNING":
            beside = "" if job.place is None else f"{self._messages.say('head.ahead')}: {job.place}"
            self.progress.update(self._task, description=state, total=None, beside=beside)
            return
        elapsed_s = max(0, int((datetime.now(UTC) - job.started_at).total_seconds()))
        elapsed, walltime = self._messages.duration(elapsed_s), self._messages.duration(job.walltime_s)
        beside = self._messages.say("job.elapsed", elapsed=elapsed, walltime=walltime)
        done = min(elapsed_s, job.walltime_s)
        self.progress.update(
            self._task, description=state, total=job.walltime_s, completed=done, beside=beside
        )
