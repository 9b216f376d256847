"""Labels that an operator gives nodes by patterns of their names."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from scheduler.dispatch.executor import AgentExecutor
from scheduler.dispatch.labels import NodeLabels
from store.settings import Settings
from tests.agent.conftest import SECRET


def test_labels_are_given_by_patterns_the_last_one_winning() -> None:
    labels = NodeLabels("gpu-r1-*:kezek.kz/rack=r1,gpu-*:kezek.kz/block=b1,gpu-r1-07:kezek.kz/rack=r9")
    assert labels.of("gpu-r1-01") == {"kezek.kz/rack": "r1", "kezek.kz/block": "b1"}
    assert labels.of("gpu-r1-07") == {"kezek.kz/rack": "r9", "kezek.kz/block": "b1"}
    assert labels.of("cpu-01") == NodeLabels().of("gpu-r1-01") == {}


@pytest.mark.parametrize("text", ["n0", "n0:rack", "n0:rack=", ":rack=1", "n0:=1"])
def test_what_is_no_label_is_refused_by_reader_and_setting_alike(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="NODES:KEY=VALUE"):
        NodeLabels(text)
    monkeypatch.setenv("KEZEK_NODE_LABELS", text)
    with pytest.raises(ValidationError, match="node_labels"):
        Settings()


def test_the_setting_takes_a_whole_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    text = ",".join(f"gpu-r{number}-*:kezek.kz/rack=r{number}" for number in range(1_000))
    monkeypatch.setenv("KEZEK_NODE_LABELS", text)
    assert NodeLabels(Settings().node_labels).of("gpu-r7-1") == {"kezek.kz/rack": "r7"}
    monkeypatch.setenv("KEZEK_NODE_LABELS", "a:b=" + "c" * 65_536)
    with pytest.raises(ValidationError, match="node_labels"):
        Settings()


def test_a_probe_has_the_labels_of_agent_and_operator(agent_node) -> None:  # type: ignore[no-untyped-def]
    plain = agent_node.executor.probe("n0")
    given = NodeLabels("n?:kezek.kz/rack=r1,n0:kezek.io/node=other")
    with AgentExecutor({"n0": agent_node.url}, SECRET, given) as executor:
        found = executor.probe("n0")
    assert found.labels == {**plain.labels, "kezek.kz/rack": "r1", "kezek.io/node": "other"}
    assert (found.cpus, found.memory_bytes) == (plain.cpus, plain.memory_bytes)
