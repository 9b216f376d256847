"""Sockets in the platform's folders: hidden from a rank by mounts of its own, which Landlock cannot do."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from scheduler.agent import confine
from scheduler.agent.isolation import survey

CONNECT = """
import socket, sys
for path in sys.argv[1:]:
    try:
        socket.socket(socket.AF_UNIX).connect(path)
        print("connected")
    except OSError as error:
        print(type(error).__name__)
"""
CONFINED = """
import os, sys
sys.path.insert(0, sys.argv[1])
import confine
confine.enter({"mount_ns": True, "landlock": False, "drop_caps": False, "uid": None}, [], [], sys.argv[2:3])
status = open("/proc/self/status").read()
print(os.geteuid(), *(line.split()[1] for line in status.splitlines() if line.startswith(("CapPrm", "CapBnd"))))
try:
    os.listdir(sys.argv[2])
except PermissionError:
    print("closed")
"""
UNPRIVILEGED_UID = 61_234


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kz-test-", dir="/tmp") as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def sockets(folder: Path) -> Iterator[tuple[Path, Path, Path]]:
    """Sockets anybody may connect to: in a folder to hide, in one below it, and in one that stays open."""
    with ExitStack() as stack:
        paths = (folder / "hidden" / "s", folder / "hidden" / "below" / "s", folder / "open" / "s")
        for path in paths:
            path.parent.mkdir(parents=True)
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(path))
            path.chmod(0o777)
            listener.listen()
        yield paths


def skip_without_namespaces(node: Any) -> None:
    if "mount-ns" not in node.executor.probe("n0").isolation:
        pytest.skip("this machine gives its users no mount namespaces")


@pytest.mark.parametrize("which", ["agent_node", "public_node"])
def test_a_rank_connects_to_no_socket_in_a_hidden_folder(
    which: str, sockets: tuple[Path, Path, Path], request: pytest.FixtureRequest
) -> None:
    node = request.getfixturevalue(which)
    node.stop()
    node.more += ("--hide", str(sockets[0].parent), "--hide", str(sockets[1].parent))
    node.start()
    skip_without_namespaces(node)
    python = "/usr/bin/python3" if which == "public_node" else f"{sys.base_prefix}/bin/python3"
    end = node.run("17-1", python, "-c", CONNECT, *map(str, sockets))
    assert end.exit_code == 0
    assert node.log("17-1").split() == ["PermissionError", "PermissionError", "connected"]
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(str(sockets[0]))  # for everybody else nothing changed


def test_a_rank_does_not_start_when_a_hidden_folder_is_gone(agent_node: Any, folder: Path) -> None:
    hidden = folder / "hidden"
    hidden.mkdir()
    agent_node.stop()
    agent_node.more = ("--hide", str(hidden))
    agent_node.start()
    skip_without_namespaces(agent_node)
    hidden.rmdir()
    end = agent_node.run("17-1", "true")
    assert end.error == "ISOLATION_FAILED"
    assert str(hidden) in end.detail


def test_a_node_that_cannot_hide_a_folder_does_not_claim_to(tmp_path: Path) -> None:
    found = survey(tmp_path, Path(sys.base_prefix), [tmp_path / "missing"])
    assert "mount-ns" not in found.names
    assert found.isolation(None)["mount_ns"] is False


def test_an_ordinary_user_hides_folders_and_keeps_no_capability(folder: Path) -> None:
    hidden = folder / "hidden"
    hidden.mkdir(mode=0o755)
    shutil.copy(confine.__file__, folder / "confine.py")
    python, uid = [sys.executable], os.geteuid()
    if uid == 0:
        uid = UNPRIVILEGED_UID
        python = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "/usr/bin/python3"]
        if not Path(python[-1]).exists():
            pytest.skip("there is no interpreter that every user can run")
    done = subprocess.run(
        [*python, "-I", "-S", "-c", CONFINED, str(folder), str(hidden)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and "unshare" in done.stderr:
        pytest.skip("this machine gives ordinary users no namespaces")
    nothing = "0" * 16
    assert done.stdout.split() == [str(uid), nothing, nothing, "closed"], done.stderr
