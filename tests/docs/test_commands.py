"""What `kezek-server` says when something is wrong: one line that names it, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOWHERE = "postgresql://nobody:nothing@127.0.0.1:1/none"


def server(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "api.cli", *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **env},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "env", "code", "said"),
    [
        (("policy", "check", "nope.yaml"), {}, 1, "nope.yaml"),
        (("idle-policy", "check", "nope.yaml"), {}, 1, "nope.yaml"),
        (("idle-policy", "check", "examples/policy.yaml"), {}, 1, "document.policy: unknown key"),
        (("idle-policy", "set"), {}, 2, "needs a file"),
        (("idle-policy", "show", "nope.yaml"), {}, 2, "takes no file"),
        (("audit", "verify"), {"KEZEK_STATE_DIR": "/nonexistent"}, 1, "set KEZEK_DATABASE_URL"),
        (("audit", "verify"), {"KEZEK_DATABASE_URL": "mysql://x"}, 1, "'mysql'"),
        (("migrate",), {"KEZEK_DATABASE_URL": NOWHERE}, 1, "cannot be reached"),
        (("ledger", "verify"), {"KEZEK_DATABASE_URL": NOWHERE}, 1, "cannot be reached"),
        (("migrate",), {"KEZEK_NODES": "zero"}, 2, "KEZEK_NODES"),
        (("up", "--idle"), {"KEZEK_NODES": "-3"}, 2, "KEZEK_NODES"),
        (("migrate",), {"KEZEK_LOG_LEVEL": "LOUD"}, 2, "LOUD"),
        (("kpi", "--indicator", "9"), {}, 2, "invalid choice"),
        (("nonsense",), {}, 2, "nonsense"),
    ],
)
def test_a_fault_is_one_clear_message(arguments, env, code, said):
    done = server(*arguments, **env)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"KEZEK_POLICY_FILE": "/nope.yaml"}, "/nope.yaml"),
        ({"KEZEK_DATABASE_URL": NOWHERE}, "cannot be reached"),
    ],
)
def test_a_platform_that_cannot_start_says_why_and_leaves_nothing(tmp_path, env, said):
    done = server("up", "--idle", KEZEK_STATE_DIR=str(tmp_path / "state"), HOME=str(tmp_path), **env)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    running = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [command for command in running if str(tmp_path).encode() in command]


def test_no_arguments_lists_the_commands():
    done = server()
    assert done.returncode == 2
    assert "usage: kezek-server" in done.stdout
