from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from api import processes
from api.play import duration_s
from api.play_stage import PlayError
from api.processes import Child, ChildError, clean_env, stop_all

ROOT = Path(__file__).parents[2]


def child(tmp_path: Path, program: str, **options) -> Child:
    made = Child(
        "part", (sys.executable, "-c", program), clean_env(), tmp_path / "log" / "part.log", **options
    )
    made.start()
    return made


def wait_until(is_true, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_child_that_ends_is_restarted_until_it_is_plainly_broken(tmp_path):
    made = child(tmp_path, "print('cannot'); raise SystemExit(7)")
    for _ in range(processes.RESTARTS_MAX):
        made.process.wait(20)
        made.must_run()
    made.process.wait(20)
    with pytest.raises(ChildError, match=r"part ended with code 7; the end of .*part.log:\n(cannot\n)+"):
        made.must_run()
    assert len(made.starts) == processes.RESTARTS_MAX + 1


def test_a_child_that_must_not_be_restarted_is_told_at_once(tmp_path):
    made = child(tmp_path, "pass", is_restarted=False)
    made.process.wait(20)
    with pytest.raises(ChildError, match="code 0"):
        made.must_run()


def test_stopping_takes_the_children_of_children_and_those_that_do_not_listen(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "STOP_TIMEOUT_S", 0.5)
    deaf = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True);"
        "print('ready', flush=True); time.sleep(60)"
    )
    made = child(tmp_path, deaf)
    wait_until(lambda: "ready" in made.log_file.read_text())
    family = [psutil.Process(made.process.pid), *psutil.Process(made.process.pid).children(recursive=True)]
    assert len(family) == 2
    stop_all([made])
    made.stop()
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)


def test_children_end_with_a_killed_parent(tmp_path):
    program = (
        "import sys; from pathlib import Path; from api.processes import Child, clean_env;"
        "c = Child('p', (sys.executable, '-c', 'import time; print(1, flush=True); time.sleep(60)'), clean_env(), Path(sys.argv[1]));"
        "c.start(); print(c.process.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "log")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        pid = int(parent.stdout.readline())
        wait_until((tmp_path / "log").read_text)
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_nothing_of_whoever_started_us_reaches_a_child(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:1")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("KEZEK_NODES", "3")
    monkeypatch.delenv("HOME", raising=False)
    env = clean_env(KEZEK_FLAVOR="h100")
    assert not {"RAY_ADDRESS", "PYTHONPATH"} & set(env)
    assert (env["KEZEK_NODES"], env["KEZEK_FLAVOR"], env["PATH"]) == ("3", "h100", os.environ["PATH"])
    assert env["HOME"]


def test_the_end_of_a_long_log_is_shown(tmp_path):
    assert processes.tail(tmp_path / "none") == "(no log)"
    log = tmp_path / "log"
    log.write_text("a" * 10_000 + "the end")
    assert processes.tail(log).endswith("the end")
    assert len(processes.tail(log)) == processes.LOG_TAIL


@pytest.mark.parametrize(("text", "seconds"), [("3s", 3), ("2m", 120), ("1h", 3600), ("1d", 86_400)])
def test_durations(text, seconds):
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "3", "s", "-1s", "1.5h", "1w"])
def test_what_is_no_duration(text):
    with pytest.raises(PlayError, match="whole number"):
        duration_s(text)
