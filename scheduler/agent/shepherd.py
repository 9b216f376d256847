"""The shepherd: starts one rank, watches it, and leaves one file that says how it ended.

Run as ``python -I -S -E shepherd.py <spec.json>`` by the agent. It detaches itself twice, so that
neither the agent's death nor Ray's takes the rank along, and becomes the subreaper of all the rank
starts: when it has no child left, no process of the rank is left. It holds a lock for as long as
it lives; whoever gets the lock knows that it is gone. Standard library only.
"""
# ruff: noqa: PTH100, PTH104, PTH108, PTH110, PTH119, PTH120, PTH123 - pathlib costs start time

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import sys
import time
import traceback
import warnings  # noqa: F401 - os.execvpe imports it, when the rank can no longer read this interpreter
from collections.abc import Mapping

if __name__ == "__main__":  # isolated: neither site packages nor this folder are on the path
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
from scheduler.agent import confine, cpus, procfs, ranklog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from scheduler.agent.spec import Spec

POLL_S = 0.25
"""Time between looks at the rank's memory [s]: a GiB/s allocator overshoots by 256 MiB at most."""
REAP_S = 0.02
"""Time between rounds of killing [s]; doubles up to `POLL_S` while something refuses to die."""
READ_BYTES = 256 * 1024
"""Largest read from the rank's pipe [bytes]: a few pipe buffers."""
MAX_CONTROL_BYTES = 4096
"""Commands read at once [bytes]: one command is one line below PIPE_BUF."""
_EXEC_ERRORS = {2: "EXEC_NOT_FOUND", 8: "EXEC_NOT_EXECUTABLE", 13: "EXEC_NOT_EXECUTABLE"}


def write_atomically(path: str, value: Mapping[str, object]) -> None:
    """Write JSON so that a reader or a crash sees all of it or nothing.

    Raises:
        OSError: the file system fails.
    """
    partial = f"{path}.{os.getpid()}.part"
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(partial, path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Shepherd:
    """One rank from its start to the proof of its absence."""

    def __init__(self, spec: Spec) -> None:
        """Take the node-side description of the rank, see `scheduler.agent.spec`."""
        self._spec = spec
        self._log = ranklog.Log(spec["log"], spec["log_cap_bytes"])
        self._control = os.open(spec["control"], os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._wake_r, self._wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        self._cpus = frozenset(spec["cpus"])
        self._pid = 0
        self._pipe = -1
        self._started_at: float | None = None
        self._term_at = 0.0
        self._kill_at: float | None = None
        self._status: int | None = None
        self._is_timeout = False
        self._is_oom = False
        self._max_rss_bytes = 0
        self._error: tuple[str, str] | None = None

    def start(self) -> None:
        """Start the rank; a program that cannot be run becomes the rank's error, not an exception."""
        self._pipe, writer = os.pipe2(os.O_CLOEXEC)
        failure_r, failure_w = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()
        self._started_at = time.time()
        self._pid = os.fork()
        if self._pid == 0:
            self._be_the_rank(parent, writer, failure_w)
        os.close(writer)
        os.close(failure_w)
        with os.fdopen(failure_r, "rb") as file:
            failure = file.read().decode("utf-8", "replace")  # end of file: the program runs
        if failure:
            code, _, detail = failure.partition("\n")
            self._error = (code, detail)
            self._started_at = None
        self._term_at = time.monotonic() + float(self._spec["walltime_s"])
        os.set_blocking(self._pipe, False)
        started = {
            "pid": self._pid,
            "start_ticks": procfs.start_ticks(self._pid),
            "shepherd_pid": os.getpid(),
            "shepherd_start_ticks": procfs.start_ticks(os.getpid()),
            "pid_namespace": procfs.pid_namespace(),
            "boot_id": procfs.boot_id(),
            "started_at": self._started_at,
        }
        write_atomically(self._spec["start_file"], started)
        self._notify()

    def _be_the_rank(self, parent: int, writer: int, failure: int) -> None:
        spec = self._spec
        code = "ISOLATION_FAILED"
        try:
            os.setsid()
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            with contextlib.suppress(OSError):  # CPUs that were taken away since: no reason not to run
                os.sched_setaffinity(0, self._cpus)
            os.chdir(spec["scratch"])
            os.umask(0o077)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(writer, 1)
            os.dup2(writer, 2)
            confine.enter(spec["isolation"], spec["read"], spec["write"], spec["hidden"])
            confine.die_with_parent(parent)
            code = "EXEC_FAILED"
            os.execvpe(spec["command"][0], spec["command"], spec["env"])  # noqa: S606 - the job's own program
        except OSError as error:
            if code == "EXEC_FAILED":
                code = _EXEC_ERRORS.get(error.errno or 0, code)
            os.write(failure, f"{code}\n{_advice(code, spec['command'][0], error)}".encode())
        except BaseException as error:  # noqa: BLE001 - the edge of a forked process: nothing may pass it
            os.write(failure, f"{code}\n{error!r}".encode())
        finally:
            os._exit(127)

    def watch(self) -> None:
        """Serve the rank until its first process has ended."""
        poll = select.poll()
        for fd in (self._pipe, self._control, self._wake_r):
            poll.register(fd, select.POLLIN)
        next_look = 0.0
        while self._status is None:
            now = time.monotonic()
            if now >= next_look:
                self._look_at_memory()
                next_look = now + POLL_S
            self._enforce_deadlines(now)
            for fd, events in poll.poll(POLL_S * 1000):
                if fd == self._control:
                    self._obey()
                elif fd == self._wake_r:
                    with contextlib.suppress(BlockingIOError):
                        os.read(fd, MAX_CONTROL_BYTES)
                elif not self._drain(READ_BYTES) and events & select.POLLHUP:
                    poll.unregister(self._pipe)  # the rank closed its output and runs on
            self._reap()

    def _enforce_deadlines(self, now: float) -> None:
        if not self._is_timeout and now >= self._term_at:
            self._is_timeout = True
            self._terminate(float(self._spec["kill_wait_s"]))
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_all()

    def _look_at_memory(self) -> None:
        used = procfs.memory_bytes(procfs.descendants(os.getpid()))
        self._max_rss_bytes = max(self._max_rss_bytes, used)
        limit = self._spec["memory_bytes"]
        if limit is not None and used > limit:
            self._is_oom = True
            self._kill_all()

    def _obey(self) -> None:
        """Carry out the agent's commands: ``checkpoint``, ``term <seconds>``, ``kill``, ``cpus <list>``."""
        try:
            lines = os.read(self._control, MAX_CONTROL_BYTES).decode("ascii", "replace").splitlines()
        except BlockingIOError:
            return
        for line in lines:
            word, _, argument = line.partition(" ")
            if word == "checkpoint":
                self._checkpoint()
            elif word == "term":
                self._terminate(float(argument))
            elif word == "kill":
                self._kill_all()
            elif word == "cpus":
                with contextlib.suppress(ValueError):  # no list of CPUs: those it has are kept
                    self._share(cpus.read(argument))

    def _checkpoint(self) -> None:
        """SIGUSR1 to the rank, or below it to those that handle it; nobody dies of a notice."""
        if procfs.catches(self._pid, signal.SIGUSR1):
            self._send(self._pid, signal.SIGUSR1)
            return
        for pid in procfs.descendants(self._pid):
            if procfs.catches(pid, signal.SIGUSR1):
                self._send(pid, signal.SIGUSR1)

    def _share(self, now: cpus.Cpus) -> None:
        """The rank has no CPUs of its own, and what it shares with others changed."""
        before, self._cpus = self._cpus, now
        for _ in range(cpus.REBIND_ROUNDS):
            if not cpus.rebind(procfs.descendants(os.getpid()), before, now):
                return

    def _terminate(self, kill_after_s: float) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGTERM)
        kill_at = time.monotonic() + kill_after_s
        self._kill_at = kill_at if self._kill_at is None else min(self._kill_at, kill_at)

    def _kill_all(self) -> None:
        for pid in procfs.descendants(os.getpid()):
            self._send(pid, signal.SIGKILL)

    @staticmethod
    def _send(pid: int, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)

    def _drain(self, limit_bytes: int) -> int:
        if self._pipe < 0:
            return 0  # the rank was never started
        try:
            data = os.read(self._pipe, limit_bytes)
        except BlockingIOError:
            return 0
        self._log.write(data)
        return len(data)

    def _reap(self) -> bool:
        """Collect ended children; False when there is none left, dead or alive."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._pid:
                self._status = status
                self._max_rss_bytes = max(self._max_rss_bytes, usage.ru_maxrss * 1024)

    def clear(self) -> None:
        """Kill what the rank left behind, round by round, until its absence is proven."""
        pause = REAP_S
        while self._reap():
            self._kill_all()
            self._drain(READ_BYTES)
            select.select([self._wake_r], [], [], pause)
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_r, MAX_CONTROL_BYTES)
            pause = min(pause * 2, POLL_S)
        while self._drain(READ_BYTES):
            pass  # bounded: nobody writes any more

    def report(self) -> None:
        """Keep the outputs, write the exit file and tell the agent."""
        outputs: list[dict[str, object]] = []
        if self._spec["outputs"] and self._error is None:
            from scheduler.agent import harvest  # noqa: PLC0415 - keeps hashlib and glob off the launch path

            try:
                outputs, left = harvest.collect(
                    self._spec["scratch"], self._spec["outputs"], self._spec["outputs_dir"]
                )
                self._error = None if left is None else ("OUTPUTS_TRUNCATED", left)
            except OSError as error:
                self._error = ("OUTPUTS_FAILED", f"{error.strerror}: {error.filename}")
        with contextlib.suppress(OSError):
            os.unlink(self._spec["tmp_link"])
        write_atomically(self._spec["exit_file"], self._exit(outputs))
        self._notify()

    def fail(self, detail: str) -> None:
        """The shepherd itself broke: leave nothing alive and say so."""
        self._error = ("SHEPHERD_FAILED", detail)
        self.clear()
        write_atomically(self._spec["exit_file"], self._exit([]))
        self._notify()

    def _exit(self, outputs: list[dict[str, object]]) -> dict[str, object]:
        status = self._status if self._started_at is not None else None
        return {
            "exit_code": os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else None,
            "signal": os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else None,
            "timeout": self._is_timeout,
            "oom": self._is_oom,
            "started_at": self._started_at,
            "ended_at": time.time(),
            "max_rss_bytes": self._max_rss_bytes,
            "outputs": outputs,
            "error": None if self._error is None else self._error[0],
            "detail": None if self._error is None else self._error[1],
        }

    def _notify(self) -> None:
        """Wake the agent if one listens; it also looks by itself now and then."""
        with contextlib.suppress(OSError):
            fd = os.open(self._spec["notify"], os.O_WRONLY | os.O_NONBLOCK)
            try:
                os.write(fd, b".")
            finally:
                os.close(fd)


def _advice(code: str, program: str, error: OSError) -> str:
    if code == "EXEC_NOT_FOUND":
        return (
            f"{program!r} was not found; a file of the job's own is run as './{os.path.basename(program)}' "
            "or with its interpreter, as in 'python train.py'"
        )
    if code == "EXEC_NOT_EXECUTABLE":
        return (
            f"{program!r} cannot be run ({error.strerror}); make it executable and give it a '#!' line, "
            "or name its interpreter"
        )
    return f"{program!r}: {error.strerror}"


def _detach(ready_w: int) -> None:
    """Leave the caller's session and parentage; only the grandchild returns."""
    os.setsid()
    if os.fork():
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        if fd != ready_w:
            os.dup2(null, fd)


def main(spec_path: str) -> None:
    """Shepherd the rank of one spec file; returns in the agent's child as soon as the rank runs."""
    with open(spec_path, encoding="utf-8") as file:
        spec: Spec = json.load(file)
    ready_r, ready_w = os.pipe()
    if os.fork():
        os.close(ready_w)
        os.read(ready_r, 1)
        os._exit(0)
    os.close(ready_r)
    _detach(ready_w)
    lock = os.open(spec["lock"], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os._exit(0)  # another shepherd has the rank
    if os.path.exists(spec["exit_file"]) or os.path.exists(spec["start_file"]):
        os._exit(0)  # the rank had its run
    confine.become_subreaper()
    shepherd = Shepherd(spec)
    try:
        shepherd.start()
        os.close(ready_w)
        shepherd.watch()
        shepherd.clear()
        shepherd.report()
    except Exception:  # noqa: BLE001 - the process's edge: the rank's end is reported whatever broke
        shepherd.fail(traceback.format_exc(limit=4))


if __name__ == "__main__":
    main(sys.argv[1])
