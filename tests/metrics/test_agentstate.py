"""Ranks as the node's agent wrote them down, and GPU processes told by them: real agent, real ranks, scripted driver."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from metrics.agentstate import MAX_ATTEMPTS, MAX_RANKS, MAX_START_BYTES, AgentState, AgentStateError
from metrics.attribution import Identity, Known, Rank
from metrics.procfs import boot_id
from scheduler.dispatch.wire import Signal
from tests.agent.conftest import RealNode, eventually

GPU = "GPU-00000000-0000-0000-0000-000000000000"
KINDS = ("plain", "torchrun", "cleared", "forged", "orphan")

# A rank whose processes hide as well as a tenant can: sessions of their own as torchrun's workers have, no environment,
# another attempt's id, and a daemon that has left its parents.
PROGRAM = """
import os, subprocess, sys, time
hold = [sys.executable, "-c", "import time; time.sleep(600)"]
subprocess.Popen([*hold, MARK + "plain"])
subprocess.Popen([*hold, MARK + "torchrun"], start_new_session=True)
subprocess.Popen([*hold, MARK + "cleared"], env={}, start_new_session=True)
subprocess.Popen([*hold, MARK + "forged"], env={"KEZEK_ATTEMPT": "99-1"})
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve(hold[0], [*hold, MARK + "orphan"], {})
    os._exit(0)
time.sleep(600)
"""


@contextmanager
def living(node: RealNode) -> Iterator[RealNode]:
    node.start()
    try:
        yield node
    finally:
        if node.process.poll() is not None:
            node.start()
        for attempt in node.executor.list_attempts(node.node):
            if attempt.is_alive:
                node.executor.signal(node.node, attempt.attempt_id, Signal.KILL, 0, 1)
        eventually(lambda: not any(a.is_alive for a in node.executor.list_attempts(node.node)))
        # unshare passes no signal on; its end does.
        node.stop(signal.SIGKILL if node.inside else signal.SIGTERM)
        eventually(lambda: not node.pids_with(str(node.state)))


@pytest.fixture
def stranger() -> Iterator[int]:
    """A process of nobody's rank that claims to be one."""
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={"KEZEK_ATTEMPT": "17-1"}
    ) as process:
        yield process.pid
        process.kill()


def pids_of(node: RealNode, attempt: str) -> dict[str, int]:
    """Start the program and return its processes, as the test's own pid namespace has them."""
    mark = uuid.uuid4().hex
    node.launch(attempt, "python", "-c", PROGRAM.replace("MARK", repr(mark)))
    eventually(lambda: all(len(node.pids_with(mark + kind)) == 1 for kind in KINDS))
    eventually((node.folder(attempt) / "start-0.json").exists)
    return {kind: node.pids_with(mark + kind)[0] for kind in KINDS}


def script(*pids: int) -> list[str]:
    return ["count 1", *(f"gpu 0 proc {pid} 1000" for pid in pids)]


def test_every_process_of_a_rank_is_told_by_descent_whatever_it_pretends(
    tmp_path: Path, make_driver: Any, serve: Any, stranger: int
) -> None:
    with living(RealNode(tmp_path)) as node:
        pids = pids_of(node, "17-1")
        driver = make_driver(*script(*pids.values(), stranger))
        served = serve("--node", "n0", "--agent-state", str(node.state / "n0"), driver=driver)
        scrape = served.scrape()
        assert scrape.samples["kezek_gpu_attempt_processes"] == [
            ({"uuid": GPU, "attempt": "17-1", "evidence": "descent"}, len(KINDS))
        ]
        assert scrape.value("kezek_gpu_unattributed_processes", uuid=GPU) == 1, "the stranger is not believed"
        assert scrape.value("kezek_gpu_unexamined_processes", uuid=GPU) == 0
        assert scrape.value("kezek_agent_state_success", node="n0") == 1
        assert scrape.value("kezek_agent_state_skipped", node="n0") == 0
        node.executor.signal("n0", "17-1", Signal.KILL, 0, 1)
        node.end("17-1")
        driver.script(*script(stranger))
        after = served.scrape()
        assert "kezek_gpu_attempt_processes" not in after.samples
        assert after.value("kezek_gpu_unattributed_processes", uuid=GPU) == 1


def test_ranks_of_a_container_are_told_from_the_hosts_pid_namespace(
    tmp_path: Path, make_driver: Any, serve: Any, stranger: int
) -> None:
    inside = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child=SIGTERM")
    if subprocess.run([*inside, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no right to make a pid namespace")
    with living(RealNode(tmp_path, inside=inside)) as node:
        pids = pids_of(node, "17-1")
        written = json.loads((node.folder("17-1") / "start-0.json").read_text())
        assert written["pid_namespace"] != Path("/proc/self/ns/pid").stat().st_ino
        assert written["pid"] not in pids.values(), "the agent knows the rank by another number than we"
        driver = make_driver(*script(*pids.values(), stranger))
        scrape = serve("--node", "n0", "--agent-state", str(node.state / "n0"), driver=driver).scrape()
        found = scrape.value("kezek_gpu_attempt_processes", uuid=GPU, attempt="17-1", evidence="descent")
        assert found == len(KINDS)
        assert scrape.value("kezek_gpu_unattributed_processes", uuid=GPU) == 1


def test_what_a_lost_shepherd_left_is_told_by_session(tmp_path: Path, make_driver: Any, serve: Any) -> None:
    with living(RealNode(tmp_path)) as node:
        pids = pids_of(node, "17-1")
        written = json.loads((node.folder("17-1") / "start-0.json").read_text())
        node.stop(signal.SIGKILL)  # an agent would kill at once what a lost shepherd left
        os.kill(written["shepherd_pid"], signal.SIGKILL)
        eventually(lambda: not Path(f"/proc/{written['pid']}").exists())  # the rank dies with its shepherd
        driver = make_driver(*script(*pids.values()))
        scrape = serve("--node", "n0", "--agent-state", str(node.state / "n0"), driver=driver).scrape()
        assert scrape.value("kezek_gpu_attempt_processes", attempt="17-1", evidence="session") == 2
        assert scrape.value("kezek_gpu_unattributed_processes", uuid=GPU) == 3, "in sessions of their own"
        for kind in ("cleared", "orphan"):  # no mark of the rank is left on them for the next agent to find
            os.kill(pids[kind], signal.SIGKILL)


def test_without_the_agents_word_the_environment_is_believed_and_said_so(
    tmp_path: Path, make_driver: Any, serve: Any, stranger: int
) -> None:
    absent = str(tmp_path / "absent")
    scrape = serve("--node", "n0", "--agent-state", absent, driver=make_driver(*script(stranger))).scrape()
    assert scrape.value("kezek_agent_state_success", node="n0") == 0
    assert scrape.value("kezek_agent_state_skipped", node="n0") is None
    assert scrape.value("kezek_gpu_attempt_processes", attempt="17-1", evidence="environment") == 1
    assert scrape.value("kezek_gpu_collect_success", node="n0") == 1, "the GPUs were read all the same"
    assert f"the agent's files at {absent}/attempts cannot be read" in (tmp_path / "exporter.log").read_text()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write files of an agent, as it would."""

    def put(attempt: str, rank: int = 0, **changes: object) -> Path:
        folder = tmp_path / "attempts" / attempt
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"rank-{rank}.spec").touch()
        content = {"pid": 7, "start_ticks": 70, "boot_id": boot_id(), "started_at": 1.0} | changes
        file = folder / f"start-{rank}.json"
        file.write_text(json.dumps(content))
        return file

    return put


def test_who_lives_is_read_anew_each_time(tmp_path: Path, write: Any) -> None:
    write("17-1", shepherd_pid=6, shepherd_start_ticks=69, pid_namespace=5)
    write("18-1", rank=3)  # of an agent that did not write down shepherds yet
    state = AgentState(tmp_path)
    first = Rank("17-1", Identity(7, 70, 5), Identity(6, 69, 5))
    second = Rank("18-1", Identity(7, 70))
    assert set(state.read().ranks) == {first, second}
    (tmp_path / "attempts/17-1/exit-0.json").touch()
    assert state.read() == Known((second,))
    write("19-1", boot_id="an earlier one")
    write("20-1", start_ticks=None)  # it ended before it could be written down
    write("../17-1x")
    assert state.read() == Known((second,))
    (tmp_path / "attempts/18-1/exit-3.json").touch()
    write("18-1", rank=4)
    assert state.read() == Known((second,)), "one rank of two has ended"


@pytest.mark.parametrize(
    ("content", "is_read"),
    [
        (b"{}" + b" " * (MAX_START_BYTES - 2), True),
        (b"{}" + b" " * (MAX_START_BYTES - 1), False),
        (b"", False),
        (b"[]", False),
        (b"[" * MAX_START_BYTES, False),
        (b"\xff", False),
    ],
)
def test_damaged_files_are_skipped_and_counted(
    tmp_path: Path, write: Any, content: bytes, is_read: bool
) -> None:
    write("17-1").write_bytes(content)
    write("18-1")
    assert AgentState(tmp_path).read() == Known((Rank("18-1", Identity(7, 70)),), int(not is_read))


@pytest.mark.parametrize("changes", [{"pid": "7"}, {"pid": -7}, {"start_ticks": 1.5}, {"pid": True}])
def test_fields_that_are_no_numbers_are_skipped_and_counted(tmp_path: Path, write: Any, changes: Any) -> None:
    write("17-1", **changes)
    assert AgentState(tmp_path).read() == Known((), 1)


def test_no_more_ranks_than_a_node_can_have_are_believed(tmp_path: Path, write: Any) -> None:
    for rank in range(MAX_RANKS):
        write(f"{rank // 100}-1", rank)
    state = AgentState(tmp_path)
    assert (len(state.read().ranks), state.read().skipped) == (MAX_RANKS, 0)
    write("17-1")
    assert (len(state.read().ranks), state.read().skipped) == (MAX_RANKS, 1)


def test_no_more_attempts_than_an_agent_keeps_are_looked_at(tmp_path: Path) -> None:
    for number in range(MAX_ATTEMPTS):
        (tmp_path / "attempts" / f"{number}-1").mkdir(parents=not number)
    state = AgentState(tmp_path)
    assert state.read() == Known()
    (tmp_path / "attempts" / "one-more").mkdir()
    assert state.read() == Known((), 1)


def test_the_exporter_stays_small_with_all_that_an_agent_and_a_kubelet_can_say(
    tmp_path: Path, write: Any, make_driver: Any, serve: Any, kubelet_socket: Path
) -> None:
    for rank in range(MAX_RANKS):
        write(f"{rank}-1", rank)
    for number in range(MAX_RANKS, MAX_ATTEMPTS):
        (tmp_path / "attempts" / f"{number}-1").mkdir()
        (tmp_path / "attempts" / f"{number}-1" / "rank-0.spec").touch()
        (tmp_path / "attempts" / f"{number}-1" / "exit-0.json").touch()
    driver = make_driver("count 16", *(f"gpu {index} proc {os.getpid()} 1000" for index in range(16)))
    served = serve(
        *("--node", "n0", "--agent-state", str(tmp_path), "--pod-resources", str(kubelet_socket)),
        driver=driver,
    )
    for _ in range(5):
        scrape = served.scrape(30)
    assert scrape.value("kezek_agent_state_success") == 1
    assert scrape.value("kezek_kubelet_query_success") == 1
    status = Path(f"/proc/{served.process.pid}/status").read_text()
    resident = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    assert resident is not None
    assert int(resident[1]) < 60 * 1024


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AgentStateError, match="No such file"):
        AgentState(tmp_path).read()
