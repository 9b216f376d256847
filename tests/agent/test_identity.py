"""A rank's own uid, where the agent is root and every uid can reach what a rank needs."""

from __future__ import annotations

import os
from typing import Any

import pytest

from scheduler.agent.isolation import UID_COUNT, UID_FIRST


def test_each_attempt_has_a_uid_of_its_own_and_its_outputs_are_the_platforms(public_node: Any) -> None:
    if "uid:per-attempt" not in public_node.executor.probe("n0").isolation:
        assert os.geteuid() != 0, "root can always give a rank a uid of its own on passable paths"
        pytest.skip("an agent that is not root cannot give a rank another uid")
    uids = []
    for name in ("17-1", "18-1"):
        end = public_node.run(
            name, "sh", "-c", "id -u; echo kept > o.txt; echo t > $TMPDIR/t", outputs=("*.txt",)
        )
        assert end.exit_code == 0
        uids.append(int(public_node.log(name)))
        assert (public_node.folder(name) / "outputs-0" / "o.txt").stat().st_uid == 0
    assert len(set(uids)) == 2
    assert all(UID_FIRST <= uid < UID_FIRST + UID_COUNT for uid in uids)
    public_node.executor.remove("n0", "17-1", 1)
    assert not public_node.folder("17-1").exists()


def test_capabilities_do_not_come_back_to_a_rank(public_node: Any) -> None:
    end = public_node.run("17-1", "sh", "-c", "grep -E 'Cap(Prm|Eff|Bnd)|NoNewPrivs' /proc/self/status")
    assert end.exit_code == 0
    values = dict(line.split(":") for line in public_node.log("17-1").splitlines())
    assert values["NoNewPrivs"].strip() == "1"
    assert int(values["CapPrm"], 16) == 0
    assert int(values["CapEff"], 16) == 0
    if os.geteuid() == 0:
        assert int(values["CapBnd"], 16) == 0
