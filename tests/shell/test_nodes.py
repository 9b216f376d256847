"""Nodes that an operator drained and that fall silent: what ran there ends, and drained they stay."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler import jobs, nodes
from scheduler.model import JobState, NodeState
from store import clock
from store.engine import snapshot, transaction


def act(world: Any, name: str, what: Any) -> bool:
    with transaction(world.engine) as session:
        return bool(what(session, name, at=clock.now(), actor="user:1"))


def states(world: Any) -> dict[str, tuple[NodeState, bool]]:
    with snapshot(world.engine) as session:
        return {node.name: (node.state, node.drained_at is not None) for node in nodes.in_service(session)}


def test_jobs_of_a_drained_node_that_falls_silent_run_again_elsewhere(world: Any) -> None:
    job = world.submit(gpus=4)
    world.turn()
    (slot,) = world.view(job).slots
    assert act(world, slot.node, nodes.drain)
    world.turn()
    assert world.state(job) is JobState.RUNNING  # a drained node keeps what it runs
    world.lose(slot.node)
    assert states(world)[slot.node] == (NodeState.DOWN, True)
    assert (
        world.state(job) is JobState.COMPLETING
    )  # it is stopped, and its GPUs count until their absence is proven
    world.check()
    world.regain(slot.node)
    assert states(world)[slot.node] == (NodeState.DRAINED, True)
    world.turn()
    world.turn()
    assert world.state(job) is JobState.RUNNING
    (again,) = world.view(job).slots
    assert again.node != slot.node
    world.check()


@pytest.mark.parametrize("is_drained_first", [True, False])
def test_a_silent_node_stays_drained_until_it_is_put_back(world: Any, is_drained_first: bool) -> None:
    first, second = (nodes.drain, nodes.mark_down) if is_drained_first else (nodes.mark_down, nodes.drain)
    assert act(world, "n0", first)
    assert act(world, "n0", second)
    assert states(world)["n0"] == (NodeState.DOWN, True)
    assert not act(world, "n0", nodes.drain)
    assert not act(world, "n0", nodes.mark_down)
    with pytest.raises(jobs.JobRefusedError):
        world.submit(gpus=8)  # it left the capacity, silent or not
    world.cycle()
    world.register("n0")
    assert states(world)["n0"] == (NodeState.DRAINED, True)
    world.cycle()
    assert act(world, "n0", nodes.mark_down)
    assert act(world, "n0", nodes.resume)
    assert not act(world, "n0", nodes.resume)
    assert states(world)["n0"] == (NodeState.DOWN, False)
    world.cycle()
    world.register("n0")
    assert states(world)["n0"] == (NodeState.UP, False)
    world.check()
