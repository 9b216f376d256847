"""CPUs of ranks: which they get, through a real agent and a real shepherd, and the lists they are written in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.agent.cpus import choose, read, rebind, spell
from scheduler.dispatch.wire import Lease

PYTHON = f"{sys.base_prefix}/bin/python3"
NODE = frozenset(os.sched_getaffinity(0))
LOWEST = min(NODE)
TELL = "import json, os; print(json.dumps([sorted(os.sched_getaffinity(0)), os.environ['KEZEK_CPUS'], os.environ['OMP_NUM_THREADS']]))"
LOOP = """
import os, sys, threading, time
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
has = None
while True:
    now = [sorted(os.sched_getaffinity(int(t))) for t in sorted(os.listdir('/proc/self/task'))]
    if now != has:
        print(now, flush=True)
        has = now
    time.sleep(0.05)
"""
several = pytest.mark.skipif(len(NODE) < 2, reason="one CPU cannot be divided")


def told(node: Any, attempt_id: str) -> list[Any]:
    return list(json.loads(node.log(attempt_id)))


def test_a_rank_begins_on_the_cpus_it_asked_for(agent_node: Any) -> None:
    assert agent_node.run("17-1", PYTHON, "-c", TELL, cpus_per_rank=1).exit_code == 0
    assert told(agent_node, "17-1") == [[LOWEST], "1", "1"]


def test_a_rank_that_asked_for_none_shares_the_node(agent_node: Any) -> None:
    assert agent_node.run("17-1", PYTHON, "-c", TELL).exit_code == 0
    share = max(1, len(NODE) // 8)
    assert told(agent_node, "17-1") == [sorted(NODE), str(share), str(share)]


def test_a_number_of_threads_that_the_user_named_stands(agent_node: Any) -> None:
    env = {"OMP_NUM_THREADS": "3", "KEZEK_CPUS": "99"}
    assert agent_node.run("17-1", PYTHON, "-c", TELL, cpus_per_rank=1, env=env).exit_code == 0
    assert told(agent_node, "17-1")[1:] == ["1", "3"]


def test_a_rank_that_asks_for_more_than_is_left_shares(agent_node: Any) -> None:
    wanted = len(NODE) + 1
    assert agent_node.run("17-1", PYTHON, "-c", TELL, cpus_per_rank=wanted).exit_code == 0
    assert told(agent_node, "17-1")[:2] == [sorted(NODE), str(wanted)]


@several
def test_ranks_that_asked_have_cpus_of_their_own_and_the_others_the_rest(agent_node: Any) -> None:
    rest, second = sorted(NODE - {LOWEST}), min(NODE - {LOWEST})

    def lines(attempt_id: str) -> list[str]:
        return list(agent_node.log(attempt_id).splitlines())

    def last(attempt_id: str, cpus: list[int]) -> None:
        # Both of its threads are there, and were moved.
        agent_node.eventually(lambda: lines(attempt_id)[-1:] == [str([cpus, cpus])])

    agent_node.launch("17-1", PYTHON, "-c", LOOP, gpu=0)
    last("17-1", sorted(NODE))
    agent_node.launch("18-1", PYTHON, "-c", LOOP, gpu=1, cpus_per_rank=1, job_id=18)
    last("18-1", [LOWEST])
    last("17-1", rest)
    agent_node.stop()
    agent_node.start()  # an agent that begins anew knows whose the CPUs are
    assert agent_node.run("19-1", PYTHON, "-c", TELL, gpu=2, cpus_per_rank=1, job_id=19).exit_code == 0
    assert told(agent_node, "19-1")[0] == [second]
    assert agent_node.run("20-1", PYTHON, "-c", TELL, gpu=2, job_id=20).exit_code == 0
    assert told(agent_node, "20-1")[0] == rest
    agent_node.executor.signal("n0", "18-1", "kill", 0, 1)
    agent_node.end("18-1")
    last("17-1", sorted(NODE))


@several
def test_where_none_is_left_the_others_share_all(agent_node: Any) -> None:
    agent_node.launch("17-1", "sleep", "60", gpu=0, cpus_per_rank=len(NODE))
    assert agent_node.run("18-1", PYTHON, "-c", TELL, gpu=1, job_id=18).exit_code == 0
    assert told(agent_node, "18-1")[0] == sorted(NODE)


@several
def test_a_thread_that_chose_cpus_keeps_those_that_are_allowed() -> None:
    first, others = frozenset({LOWEST}), NODE - {LOWEST}
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        os.sched_setaffinity(sleeper.pid, first)
        assert not rebind([sleeper.pid], others, NODE)  # its own choice, and allowed
        assert os.sched_getaffinity(sleeper.pid) == first
        assert rebind([sleeper.pid], NODE, others)  # not allowed any more
        assert os.sched_getaffinity(sleeper.pid) == others
        assert rebind([sleeper.pid], others, NODE)  # it had what it was given
        assert os.sched_getaffinity(sleeper.pid) == NODE
    finally:
        sleeper.kill()
        sleeper.wait()
    assert not rebind([sleeper.pid], NODE, first)  # gone


def test_cpus_are_chosen_from_the_lowest_and_never_too_few() -> None:
    assert choose({9, 2, 4}, 2) == {2, 4}
    assert choose({9, 2, 4}, 3) == {9, 2, 4}
    assert choose({9, 2, 4}, 4) is None


@given(st.sets(st.integers(0, 300), min_size=1))
def test_a_list_of_cpus_is_read_as_it_was_written(cpus: set[int]) -> None:
    assert read(spell(cpus)) == cpus


def test_lists_of_cpus_have_ranges() -> None:
    assert spell({0, 1, 2, 3, 8}) == "0-3,8"
    with pytest.raises(ValueError, match="invalid literal"):
        read("0-3,")


def test_a_lease_says_nothing_of_cpus_that_nobody_asked_for(agent_node: Any) -> None:
    plain = agent_node.lease("17-1", "true").to_json()
    assert "cpus_per_rank" not in plain
    assert Lease.from_json(plain | {"cpus_per_rank": 4}).to_json() == plain | {"cpus_per_rank": 4}
