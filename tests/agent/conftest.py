from __future__ import annotations

import io
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from scheduler.dispatch.executor import AgentExecutor
from scheduler.dispatch.wire import AttemptStatus, Lease, RankExit, RankLease, Signal

SECRET = "an-invented-secret-of-the-tests"
ROOT = Path(__file__).resolve().parents[2]


def eventually(ask: Callable[[], object], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not ask():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


@dataclass
class RealNode:
    """A real agent in a process of its own, `inside` of what is named."""

    state: Path
    bind: str = "127.0.0.2"
    node: str = "n0"
    process: subprocess.Popen[str] = field(init=False)
    executor: AgentExecutor = field(init=False)
    url: str = ""
    more: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()

    def start(self) -> None:
        secret = self.state / "secret"
        secret.write_text(SECRET, "utf-8")
        secret.chmod(0o600)
        self.process = subprocess.Popen(
            [*self.inside, sys.executable, "-m", "scheduler.agent", "--node", self.node, "--bind", self.bind, "--state", str(self.state),
             "--secret-file", str(secret), "--gpus", "8", "--flavor", "h200", "--simulated", *self.more],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("http://"), "the agent did not start"
        self.executor = AgentExecutor({self.node: self.url}, SECRET)

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.executor.close()
        self.process.send_signal(number)
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def folder(self, attempt_id: str) -> Path:
        return self.state / self.node / "attempts" / attempt_id

    def lease(self, attempt_id: str, *command: str, gpu: int = 0, **more: object) -> Lease:
        uuid = self.executor.probe(self.node).gpus[gpu].uuid
        values = {
            "attempt_id": attempt_id, "job_id": 17, "epoch": 1, "command": command, "ranks": (RankLease(0, (uuid,)),),
            "world_size": 1, "master_addr": self.bind, "master_port": 20_000, "walltime_s": 60, "kill_wait_s": 1,
            "flavor": "h200", "simulated": True,
        } | more  # fmt: skip
        return Lease(**values)  # type: ignore[arg-type]

    def launch(self, attempt_id: str, *command: str, **more: object) -> None:
        self.executor.launch(self.node, self.lease(attempt_id, *command, **more))

    def status(self, attempt_id: str) -> AttemptStatus:
        return self.executor.attempt(self.node, attempt_id)

    def end(self, attempt_id: str, within_s: float = 20.0) -> RankExit:
        eventually(lambda: not self.status(attempt_id).is_alive, within_s)
        found = self.status(attempt_id).ranks[0].exit
        assert found is not None
        return found

    def run(self, attempt_id: str, *command: str, **more: object) -> RankExit:
        self.launch(attempt_id, *command, **more)
        return self.end(attempt_id)

    @staticmethod
    def eventually(ask: Callable[[], object], within_s: float = 20.0) -> None:
        eventually(ask, within_s)

    @staticmethod
    def tar_gz(*members: tuple[str, bytes], links: tuple[tuple[str, str], ...] = ()) -> bytes:
        return tar_gz(*members, links=links)

    @staticmethod
    def pids_with(marker: str) -> list[int]:
        """Processes that have the marker as an argument of their own."""
        found = []
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and marker.encode() in (folder / "cmdline").read_bytes().split(
                    b"\0"
                ):
                    found.append(int(folder.name))
            except OSError:
                continue
        return found

    def log(self, attempt_id: str) -> str:
        return self.executor.logs(self.node, attempt_id, 0, 0, 1_000_000).data.decode()


def _served(node: RealNode) -> Iterator[RealNode]:
    node.start()
    try:
        yield node
    finally:
        if node.process.poll() is not None:
            node.start()
        epoch = node.executor.probe(node.node).highest_epoch
        for attempt in node.executor.list_attempts(node.node):
            if attempt.is_alive:
                node.executor.signal(node.node, attempt.attempt_id, Signal.KILL, 0, epoch)
        eventually(lambda: not any(a.is_alive for a in node.executor.list_attempts(node.node)))
        node.stop()


@pytest.fixture
def agent_node(tmp_path: Path) -> Iterator[RealNode]:
    yield from _served(RealNode(tmp_path))


@pytest.fixture
def public_node() -> Iterator[RealNode]:
    """An agent whose state and job environment any uid may pass through."""
    if not Path("/usr/bin/python3").exists():
        pytest.skip("there is no /usr/bin/python3, hence no job environment that every uid can use")
    with tempfile.TemporaryDirectory(prefix="kz-test-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield from _served(RealNode(Path(folder), more=("--job-env", "/usr")))


def tar_gz(*members: tuple[str, bytes], links: tuple[tuple[str, str], ...] = ()) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type = tarfile.SYMTYPE
            info.linkname = target
            archive.addfile(info)
    return out.getvalue()
