from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest

ROOT = Path(__file__).parents[2]
JOB_ENV = Path(os.environ.get("KEZEK_JOB_ENV", ROOT / ".jobenv"))
TIMEOUT_S = 150


def until(what: str, is_true: Callable[[], object], timeout_s: float = TIMEOUT_S) -> object:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = is_true()
        if found:
            return found
        time.sleep(0.1)
    pytest.fail(f"{what}: not within {timeout_s} s")


@dataclass
class Running:
    """A platform in a process of its own, as `make run` starts it."""

    state: Path
    options: tuple[str, ...]
    nodes: int
    process: subprocess.Popen[str] = field(init=False)
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        env = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
        self.output = (self.state.parent / f"{uuid.uuid4().hex}.out").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "api.cli", "up", *self.options],
            cwd=ROOT,
            env={
                **env,
                "KEZEK_STATE_DIR": str(self.state),
                "KEZEK_JOB_ENV": str(JOB_ENV),
                "KEZEK_NODES": str(self.nodes),
                "PYTHONUNBUFFERED": "1",
            },
            stdout=self.output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def text(self) -> str:
        return Path(self.output.name).read_text()

    def said(self, pattern: str) -> re.Match[str]:
        def look() -> re.Match[str] | None:
            found = re.search(pattern, self.text(), re.MULTILINE)
            if found is None and self.process.poll() is not None:
                pytest.fail(f"the platform ended with {self.process.returncode}:\n{self.text()}")
            return found

        found = until(pattern, look)
        assert isinstance(found, re.Match)
        return found

    def http(self) -> httpx.Client:
        token = self.said(r"^token: (\S+)")[1]
        url = self.said(r"^page:  (\S+)/$")[1]
        return httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30, trust_env=False
        )

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, name: str) -> psutil.Process:
        for child in self.family():
            try:
                command = child.cmdline()
            except (psutil.ZombieProcess, psutil.NoSuchProcess):
                continue  # one that was just killed
            if "api.cli" in command and name in command:
                return child
        pytest.fail(f"no process {name}")

    def ctrl_c(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(TIMEOUT_S)

    def server(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "api.cli", *arguments],
            cwd=ROOT,
            env={**os.environ, "KEZEK_STATE_DIR": str(self.state)},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def wait_for() -> Callable[..., object]:
    return until


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def begin(*options: str, state: str = "state", nodes: int = 2) -> Running:
        made = Running(tmp_path / state, options, nodes)
        started.append(made)
        return made

    yield begin
    for running in started:
        if running.process.poll() is None:
            running.process.send_signal(signal.SIGTERM)
            try:
                running.process.wait(60)
            except subprocess.TimeoutExpired:
                running.process.kill()
                running.process.wait()
        running.output.close()
