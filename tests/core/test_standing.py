"""Planned starts that stand are moved by entitled work alone: by no job of their own queue that is not entitled now."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scheduler.model import Admit, JobId, Reservation, ShareClass
from scheduler.windows import Window, WindowKind

sys.path.insert(0, str(Path(__file__).parent))
from cluster import MINUTE_MS, Cluster
from test_again import run, settled, stands

TREE = {"q": {"nominal": 2}, "r": {"nominal": 2}}


@pytest.mark.parametrize("share_class", [ShareClass.ENTITLED, ShareClass.BORROWED])
def test_a_job_put_first_plans_its_start_behind_those_that_stand(build, share_class):
    """It is of higher priority, and larger than the nominal: the start that was told comes when it was told."""
    cluster = Cluster(build.policy(TREE, start_reservations=6, borrowed_reservations=6), [4])
    run(cluster, "r", "n0:4", 3, grace=5)
    told = cluster.submit(2 if share_class is ShareClass.ENTITLED else 3, "q", 10)
    stands(cluster, told, 3, "n0:2" if share_class is ShareClass.ENTITLED else "n0:3", share_class)
    first = cluster.submit(4, "q", 5, priority=1)
    small = cluster.submit(1, "q", 30)
    _, planned, _ = settled(cluster)
    assert (planned[told], planned[first]) == (3, 13)
    assert small in planned


def test_a_start_that_takes_back_keeps_its_victims_while_others_stand_on_what_they_free(build):
    """A job that starts at its turn would lose less: but then the other victim runs on where a gang was told to start."""
    tree = {
        "a": {"nominal": 2},
        "p": {"nominal": 5, "children": {"b": {"nominal": 3}, "c": {"nominal": 2}}},
        "x": {"nominal": 0, "preemption": {"grace": "1m"}},
    }
    policy = build.policy(tree, start_reservations=16, borrowed_reservations=16)
    cluster = Cluster(policy, [8, 8, 2])
    run(cluster, "p/c", "n1:6", 27)
    run(cluster, "p/c", "n0:2", 37)
    run(cluster, "p/b", "n2:2", 7)
    run(cluster, "p/c", "n0:3 n1:1", 38)
    now = cluster.submit(3, "x", 20)
    owner = cluster.submit(2, "p/b", 30, priority=1)
    gang = cluster.submit(10, "a", 40)
    other = cluster.submit(2, "p/c", 10, nodes=2, priority=1)
    stands(cluster, now, 7, "n0:3")
    stands(cluster, owner, 7, "n0:2", ShareClass.ENTITLED)
    stands(cluster, gang, 27, "n1:8 n2:2")
    stands(cluster, other, 7, "n1:1 n2:1")
    starts, planned, _ = settled(cluster)
    assert (starts, planned) == ([now], {owner: 7, gang: 27, other: 7})


def test_what_gpus_were_taken_back_for_starts_in_no_window_that_was_set_meanwhile(build):
    cluster = Cluster(build.policy(TREE), [4])
    job = cluster.submit(2, "q", 30)
    start_ms = cluster.at_ms + 5 * MINUTE_MS
    cluster.reservations = (
        Reservation(
            JobId(job),
            start_ms,
            (("n0", 2),),
            "h200",
            ShareClass.ENTITLED,
            cluster.at_ms - 1,
            is_reclaim=True,
        ),
    )
    window = Window("w1", WindowKind.MAINTENANCE, frozenset({"n0"}), cluster.at_ms, start_ms)
    cluster.windows = (window,)
    assert not any(isinstance(entry, Admit) for entry in cluster.cycle().entries)
    cluster.windows = ()
    cluster.advance(1)
    assert [entry.job_id for entry in cluster.cycle().entries if isinstance(entry, Admit)] == [job]
