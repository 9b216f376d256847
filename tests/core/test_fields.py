"""Values made of plain fields: what rows and records say, read one by one."""

from __future__ import annotations

from uuid import UUID

import pytest

from quota.model import Balance, Grant, GrantId
from scheduler.fields import (
    Act,
    ActKind,
    Standing,
    array_of,
    capacity_of,
    grant_view,
    integer,
    reservation_of,
    state_of,
    waits_for,
    windows_at,
)
from scheduler.model import Array, GrantView, JobId, NodeState, Reservation, ShareClass
from scheduler.windows import Window, WindowKind


def test_the_acts_that_stand_are_those_that_have_not_expired():
    acts = [
        Act(ActKind.PAUSE, 1, None, 101),
        Act(ActKind.PAUSE, 2, None, 100),
        Act(ActKind.EXPEDITE, 3, None, 101),
        Act(ActKind.PIN, 4, None, 101),
        Act(ActKind.PAUSE, None, "z", 101),
        Act(ActKind.PAUSE, None, "p/a", 101),
        Act(ActKind.PAUSE, None, "gone", 100),
        Act(ActKind.PIN, None, None, 101),
    ]
    assert Standing.at(acts, 100) == Standing(frozenset({1}), ("p/a", "z"), frozenset({3}), frozenset({4}))


@pytest.mark.parametrize(
    ("job_id", "queue", "is_paused"),
    [
        (1, "q", True),
        (2, "q", False),
        (2, "p/a", True),
        (2, "p/a/b", True),
        (2, "p/ab", False),
        (2, "p", False),
    ],
)
def test_a_pause_is_for_a_job_or_for_a_queue_and_all_below_it(job_id, queue, is_paused):
    standing = Standing(paused=frozenset({1}), paused_queues=("p/a",))
    assert standing.pauses(job_id, queue) is is_paused


@pytest.mark.parametrize("value", ["1", 1.0, True, None])
def test_what_is_no_integer_is_refused(value):
    with pytest.raises(TypeError, match="expected an integer"):
        integer(value)


@pytest.mark.parametrize(
    ("kind", "met_by"),
    [
        ("afterok", {"COMPLETED"}),
        ("afterany", {"COMPLETED", "FAILED", "CANCELLED"}),
        ("afternotok", {"FAILED", "CANCELLED"}),
    ],
)
def test_a_job_waits_for_the_first_that_has_not_ended_as_it_must(kind, met_by):
    def waits(state):
        depends_on = [{"job_id": 7, "kind": "afterok"}, {"job_id": 8, "kind": kind}]
        return waits_for({"depends_on": depends_on}, {7: "COMPLETED", 8: state})

    states = {"PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED"}
    assert {state for state in states if waits(state) is None} == met_by
    assert {waits(state) for state in states - met_by} == {JobId(8)}
    both = {"depends_on": [{"job_id": 7, "kind": "afterok"}, {"job_id": 8, "kind": kind}]}
    assert waits_for(both, {7: "FAILED", 8: "RUNNING"}) == 7


def test_the_array_and_the_planned_start_of_a_job_that_has_them():
    assert array_of({"array_id": None}) is None
    assert array_of({"array_id": 7, "array_cap": 2}) == Array(JobId(7), 2)
    assert reservation_of(1, {"reservation": None}) is None
    said = {
        "start_ms": 9, "place": [["n0", 8], ["n1", 2]], "flavor": "h200", "share_class": "borrowed",
        "planned_ms": 5, "is_reclaim": True,
    }  # fmt: skip
    old = Reservation(JobId(1), 9, (("n0", 8), ("n1", 2)), "h200", ShareClass.BORROWED, 5, is_reclaim=True)
    assert reservation_of(1, {"reservation": said}) == old
    new = reservation_of(1, {"reservation": said | {"policy": "3", "capacity_gpus": 16}})
    assert (new.policy_version, new.capacity_gpus) == ("3", 16)


def test_a_window_that_has_ended_is_none_any_more():
    def window(to_ms, **rest):
        return {"kind": "maintenance", "nodes": ["n0"], "from_ms": 0, "to_ms": to_ms, "projects": []} | rest

    found = windows_at({2: window(101), 1: window(100), 3: window(200, repeats=None)}, 100)
    assert found == tuple(
        Window(f"w{number}", WindowKind.MAINTENANCE, frozenset({"n0"}), 0, to_ms, frozenset())
        for number, to_ms in ((2, 101), (3, 200))
    )


@pytest.mark.parametrize(
    ("is_down", "is_drained", "state"),
    [
        (False, False, NodeState.UP),
        (False, True, NodeState.DRAINED),
        (True, False, NodeState.DOWN),
        (True, True, NodeState.DOWN),
    ],
)
def test_silence_shows_before_an_operators_act(is_down, is_drained, state):
    assert state_of(is_down=is_down, is_drained=is_drained) is state


def test_what_is_down_is_in_service_and_what_is_drained_is_not(build):
    states = {"a": NodeState.UP, "b": NodeState.DOWN, "c": NodeState.DRAINED}
    nodes = tuple(build.node(name, 8, state=state) for name, state in states.items())
    assert capacity_of((*nodes, build.node("d", 4, "b300"))) == {"h200": 16, "b300": 4}


def test_of_a_grant_the_plan_needs_what_is_left_and_when():
    grant = Grant(GrantId(UUID(int=1)), UUID(int=2), "h200", 100, 5, 9, Balance(100, 10, 20, remaining_s=70))
    assert grant_view(grant) == GrantView(grant.id, grant.project_id, "h200", 5, 9, 70, 10)
