"""What becomes of a rank, seen through a real agent and a real shepherd."""

from __future__ import annotations

import hashlib
import sys
from typing import Any

PYTHON = f"{sys.base_prefix}/bin/python3"


def test_exit_code_and_environment(agent_node: Any) -> None:
    code = "import os; print(os.environ['KEZEK_ATTEMPT'], os.environ['RANK'], os.environ['PET_MASTER_PORT'], os.environ['GREETING']); print(os.environ.get('SECRET_OF_THE_PLATFORM')); raise SystemExit(7)"
    end = agent_node.run("17-1", PYTHON, "-c", code, env={"GREETING": "hi", "RANK": "99"})
    assert (end.exit_code, end.signal, end.error) == (7, None, None)
    assert agent_node.log("17-1").splitlines() == ["17-1 0 20000 hi", "None"]
    assert end.max_rss_bytes > 1_000_000


def test_a_signal_is_told_from_an_exit_code(agent_node: Any) -> None:
    end = agent_node.run("17-1", "sh", "-c", "kill -SEGV $$")
    assert (end.exit_code, end.signal, end.timeout, end.oom) == (None, 11, False, False)


def test_walltime_asks_then_kills(agent_node: Any) -> None:
    end = agent_node.run(
        "17-1", "sh", "-c", "trap 'echo asked' TERM; while :; do sleep 0.1; done", walltime_s=1, kill_wait_s=1
    )
    assert (end.signal, end.timeout, end.oom) == (9, True, False)
    assert "asked" in agent_node.log("17-1")
    assert 1.9 < (end.ended_at - end.started_at).total_seconds() < 6


def test_memory_above_the_limit_is_oom(agent_node: Any) -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; x = bytearray(200 << 20); time.sleep(60)'])"
    end = agent_node.run("17-1", PYTHON, "-c", code, memory_bytes_per_rank=100 << 20)
    assert (end.oom, end.timeout, end.exit_code == 0) == (True, False, False)
    assert end.max_rss_bytes > 100 << 20


def test_a_missing_program_is_a_clear_error(agent_node: Any) -> None:
    end = agent_node.run("17-1", "train.py")
    assert (end.exit_code, end.signal, end.started_at, end.error) == (None, None, None, "EXEC_NOT_FOUND")
    assert "./train.py" in end.detail


def test_a_program_without_the_right_to_run_is_a_clear_error(agent_node: Any) -> None:
    data = agent_node.tar_gz(("train.py", b"print(1)"))
    digest = hashlib.sha256(data).hexdigest()
    agent_node.executor.put_bundle("n0", digest, data, 1)
    end = agent_node.run("17-1", "./train.py", bundle=digest)
    assert end.error == "EXEC_NOT_EXECUTABLE"
    assert "interpreter" in end.detail


def test_outputs_are_kept_with_digests_and_nothing_else(agent_node: Any) -> None:
    script = "mkdir -p out/deep; printf model > out/deep/m.bin; printf log > a.txt; printf no > b.dat; ln -s /etc/passwd c.txt; ln -s /etc d.txt; printf x > .hidden.txt"
    end = agent_node.run("17-1", "sh", "-c", script, outputs=("out", "*.txt"))
    assert [(o.path, o.size_bytes, o.sha256) for o in end.outputs] == [
        ("a.txt", 3, hashlib.sha256(b"log").hexdigest()),
        ("out/deep/m.bin", 5, hashlib.sha256(b"model").hexdigest()),
    ]
    assert b"".join(agent_node.executor.output("n0", "17-1", 0, "out/deep/m.bin")) == b"model"


def test_a_huge_log_is_cut_and_the_rank_goes_on(agent_node: Any) -> None:
    cap = 64 * 1024 * 1024
    code = "import sys; b = b'x' * 1048576; [sys.stdout.buffer.write(b) for _ in range(80)]"
    end = agent_node.run("17-1", PYTHON, "-c", code)
    assert end.exit_code == 0
    page = agent_node.executor.logs("n0", "17-1", 0, cap - 3, 1000)
    assert page.data.startswith(b"xxx\n[kezek: the log is cut at")
    assert page.is_complete
    assert page.next_offset - cap < 200


def test_a_page_of_a_log_is_at_most_a_mebibyte_and_past_the_end_empty(agent_node: Any) -> None:
    agent_node.run("17-1", PYTHON, "-c", "print('y' * 3_000_000)")
    page = agent_node.executor.logs("n0", "17-1", 0, 0, 1024 * 1024)
    assert (len(page.data), page.next_offset, page.is_complete) == (1024 * 1024, 1024 * 1024, False)
    past = agent_node.executor.logs("n0", "17-1", 0, 9_000_000, 10)
    assert (past.data, past.is_complete) == (b"", True)


def test_what_a_rank_leaves_behind_is_reaped(agent_node: Any) -> None:
    code = "import os, sys\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        os.execv('/bin/sleep', ['sleep', '98765.25'])\n    os._exit(0)\nos.wait()"
    end = agent_node.run("17-1", PYTHON, "-c", code)
    assert end.exit_code == 0
    assert agent_node.pids_with("98765.25") == []


def test_a_checkpoint_notice_reaches_a_handler(agent_node: Any) -> None:
    code = "import signal, sys\nsignal.signal(signal.SIGUSR1, lambda *_: (print('saved'), sys.exit(0)))\nprint('ready')\nwhile True: signal.pause()"
    agent_node.launch("17-1", PYTHON, "-c", code)
    agent_node.eventually(lambda: "ready" in agent_node.log("17-1"))
    agent_node.executor.signal("n0", "17-1", "checkpoint", 0, 1)
    assert agent_node.end("17-1").exit_code == 0
    assert "saved" in agent_node.log("17-1")


def test_an_observer_is_woken_by_the_end(agent_node: Any) -> None:
    agent_node.launch("17-1", "sh", "-c", "exit 0")
    kinds: list[str] = []
    after = 0
    while "exited" not in kinds:
        page = agent_node.executor.observe("n0", after, 10)
        assert page.events, "the long poll came back empty"
        after = page.next_after
        kinds += [str(e.kind) for e in page.events]
    assert kinds == ["started", "exited"]
