"""Checkpoints: a rank saves, its agent sees and tells it, and the job's next attempt finds what was saved."""

from __future__ import annotations

import os
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from scheduler.agent.checkpoints import (
    MAX_ENTRIES,
    REPORT_EVERY,
    CheckpointFolders,
    CheckpointLook,
    CheckpointState,
    newest_ns,
)
from scheduler.dispatch.wire import Signal

PYTHON = os.path.realpath(sys.executable)
AT = datetime(2026, 1, 1, tzinfo=UTC)
SAVES = """
import os, pathlib, signal, sys
folder = pathlib.Path(os.environ["KEZEK_CHECKPOINTS"])
print("found", sorted(p.name for p in folder.iterdir()), flush=True)
def save(*_):
    (folder / ".part").write_text("weights")
    (folder / ".part").rename(folder / "weights")
    print("saved", flush=True)
signal.signal(signal.SIGUSR1, save)
print("ready", flush=True)
while True: signal.pause()
"""


def told(node: Any) -> list[tuple[str, str]]:
    return [(event.attempt_id, str(event.kind)) for event in node.executor.observe("n0", 0, 0).events]


def save(node: Any, attempt_id: str) -> None:
    node.launch(attempt_id, PYTHON, "-c", SAVES)
    node.eventually(lambda: "ready" in node.log(attempt_id))
    node.executor.signal("n0", attempt_id, Signal.CHECKPOINT, 0, 1)
    node.eventually(lambda: "saved" in node.log(attempt_id))


def test_a_checkpoint_is_seen_told_and_found_by_the_next_attempt(agent_node: Any) -> None:
    before = datetime.now(UTC)
    save(agent_node, "17-1")
    agent_node.eventually(lambda: ("17-1", "checkpointed") in told(agent_node))
    seen_at = agent_node.status("17-1").ranks[0].checkpoint_at
    assert before < seen_at <= datetime.now(UTC)
    agent_node.executor.signal("n0", "17-1", Signal.KILL, 0, 1)
    agent_node.end("17-1")
    agent_node.launch("17-2", PYTHON, "-c", SAVES)
    agent_node.eventually(lambda: "ready" in agent_node.log("17-2"))
    assert "found ['weights']" in agent_node.log("17-2")
    agent_node.launch("18-1", PYTHON, "-c", SAVES, gpu=1, job_id=18)
    agent_node.eventually(lambda: "ready" in agent_node.log("18-1"))
    assert "found []" in agent_node.log("18-1")
    agent_node.executor.signal("n0", "17-2", Signal.KILL, 0, 1)
    agent_node.end("17-2")
    # What the first attempt saved is no checkpoint of the second.
    assert agent_node.status("17-2").ranks[0].checkpoint_at is None
    assert ("17-2", "checkpointed") not in told(agent_node)


def test_what_is_saved_in_the_last_moment_is_told_before_the_end(agent_node: Any) -> None:
    code = "import os, pathlib; (pathlib.Path(os.environ['KEZEK_CHECKPOINTS']) / 'weights').write_text('w')"
    agent_node.run("17-1", PYTHON, "-c", code)
    assert told(agent_node) == [("17-1", "started"), ("17-1", "checkpointed"), ("17-1", "exited")]
    rank = agent_node.status("17-1").ranks[0]
    assert rank.checkpoint_at <= rank.exit.ended_at


def test_a_restarted_agent_tells_the_same_checkpoint_once(agent_node: Any) -> None:
    save(agent_node, "17-1")
    agent_node.eventually(lambda: ("17-1", "checkpointed") in told(agent_node))
    before = agent_node.executor.observe("n0", 0, 0).events
    agent_node.stop(signal.SIGKILL)
    agent_node.start()
    agent_node.executor.signal("n0", "17-1", Signal.KILL, 0, 1)
    agent_node.end("17-1")
    after = agent_node.executor.observe("n0", 0, 0).events
    assert after[:-1] == before
    assert [event.kind for event in after] == ["started", "checkpointed", "exited"]


def test_what_a_job_saved_goes_with_its_last_attempt(agent_node: Any) -> None:
    code = "import os, pathlib; (pathlib.Path(os.environ['KEZEK_CHECKPOINTS']) / 'weights').write_text('w')"
    for attempt_id in ("17-1", "17-2"):
        agent_node.run(attempt_id, PYTHON, "-c", code)
    folder = agent_node.state / ".checkpoints" / "17"
    agent_node.executor.remove("n0", "17-1", 1)
    assert (folder / "0" / "weights").exists()
    agent_node.executor.remove("n0", "17-2", 1)
    assert not folder.exists()


def test_a_rank_reaches_no_other_jobs_checkpoints(agent_node: Any) -> None:
    save(agent_node, "17-1")
    isolation = agent_node.executor.probe("n0").isolation
    other = agent_node.state / ".checkpoints" / "17" / "0" / "weights"
    end = agent_node.run("18-1", "cat", str(other), gpu=1, job_id=18)
    is_confined = any(name.startswith("landlock") or name == "uid:per-attempt" for name in isolation)
    assert (end.exit_code != 0) == is_confined


def test_a_checkpoint_changes_hands_with_its_job(public_node: Any) -> None:
    if "uid:per-attempt" not in public_node.executor.probe("n0").isolation:
        assert os.geteuid() != 0, "root can always give a rank a uid of its own on passable paths"
        pytest.skip("an agent that is not root cannot give a rank another uid")
    script = "id -u; cat $KEZEK_CHECKPOINTS/w 2>/dev/null; echo more >> $KEZEK_CHECKPOINTS/w"
    for attempt_id in ("17-1", "17-2"):
        assert public_node.run(attempt_id, "sh", "-c", script).exit_code == 0
    uid, saved = public_node.log("17-2").splitlines()
    assert (saved, uid != public_node.log("17-1").strip()) == ("more", True)


def test_links_are_not_followed_when_a_checkpoint_changes_hands(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    foreign = tmp_path / "foreign"
    foreign.write_text("not the job's")
    folders = CheckpointFolders(tmp_path / "checkpoints")
    folders.make()
    found = folders.open("17-1", 17, 0, None)
    (found / "own").write_text("w")
    (found / "link").symlink_to(foreign)
    (found / "second-name").hardlink_to(foreign)
    folders.open("17-2", 17, 0, 4_242)
    assert (found / "own").stat().st_uid == 4_242
    assert (found / "link").lstat().st_uid == 4_242
    assert foreign.stat().st_uid == 0


def test_reports_are_bounded_and_the_last_one_is_told() -> None:
    state = CheckpointState(newest_ns=5)
    state.see(5, AT)
    assert state.due(AT, has_ended=True) is None  # what was there before
    state.see(6, AT)
    assert state.due(AT, has_ended=False) == AT
    state.tell(1, AT)
    soon = AT + timedelta(seconds=1)
    state.see(7, soon)
    state.see(7, soon + timedelta(seconds=1))  # the same one: seen when it was seen first
    assert state.due(AT + REPORT_EVERY - timedelta(milliseconds=1), has_ended=False) is None
    assert state.due(AT + REPORT_EVERY, has_ended=False) == soon
    assert state.due(soon, has_ended=True) == soon
    state.tell(2, soon)
    assert state.due(AT + 2 * REPORT_EVERY, has_ended=True) is None


def test_entries_that_begin_with_a_dot_are_no_checkpoints_and_looks_are_bounded(tmp_path: Path) -> None:
    assert newest_ns(tmp_path / "none") == 0
    (tmp_path / ".part").write_text("half")
    assert newest_ns(tmp_path) == 0
    (tmp_path / ".part").rename(tmp_path / "whole")
    first = newest_ns(tmp_path)
    assert first == (tmp_path / "whole").stat().st_ctime_ns
    os.utime(tmp_path / "whole", ns=(1, 2**62))  # a program cannot set the change time
    assert newest_ns(tmp_path) < 2**62
    for number in range(MAX_ENTRIES):
        (tmp_path / f"{number}").touch()
    *first, last = [Path(entry) for entry in os.scandir(tmp_path)]
    assert len(first) == MAX_ENTRIES
    last.chmod(0o600)
    assert newest_ns(tmp_path) < last.stat().st_ctime_ns  # one past the limit
    first[0].unlink()
    assert newest_ns(tmp_path) == last.stat().st_ctime_ns


def test_storage_that_hangs_hides_checkpoints_and_nothing_else(tmp_path: Path, monkeypatch: Any) -> None:
    import threading

    from scheduler.agent import checkpoints

    answers = threading.Event()

    def hangs(folder: Path) -> int:
        answers.wait(30)
        return newest_ns(folder)

    monkeypatch.setattr(checkpoints, "newest_ns", hangs)
    monkeypatch.setattr(checkpoints, "LOOK_TIMEOUT_S", 0.05)
    (tmp_path / "weights").write_text("w")
    look = CheckpointLook()
    assert look.newest_ns(tmp_path) == 0
    assert look.newest_ns(tmp_path) == 0  # the first still hangs: not waited for again
    answers.set()
    while look.newest_ns(tmp_path) == 0:
        pass
    assert look.newest_ns(tmp_path) == newest_ns(tmp_path)
    look.close()


def test_a_removal_that_was_cut_short_is_finished(tmp_path: Path) -> None:
    folders = CheckpointFolders(tmp_path)
    (tmp_path / ".gone-1" / "0").mkdir(parents=True)
    folders.make()
    assert list(tmp_path.iterdir()) == []
    folders.forget("17-1", 17)  # nothing there
    folders.open("17-1", 17, 0, None)
    (tmp_path / "17" / "attempt.json").write_text("damaged")
    folders.forget("17-1", 17)
    assert (tmp_path / "17").exists()
