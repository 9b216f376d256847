"""Planning through the API: arrays, dependencies, explanations, acts, windows, a policy's preview."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from api.i18n import LANGUAGES, duration, instant, translate
from scheduler.apply import LEASE
from scheduler.causes import MoveCause
from scheduler.cycling import cycle
from scheduler.launch import Leader
from scheduler.told import MAX_STARTS_TOLD
from store import lease
from store.engine import transaction
from store.tables import JournalRow
from tests.api.conftest import AT, POLICY, World

TOMORROW = (AT + timedelta(days=1)).isoformat()


def act(**changes: Any) -> dict[str, Any]:
    return {"kind": "pin", "reason": "the exam of the year", "expires_at": TOMORROW, **changes}


def window(**changes: Any) -> dict[str, Any]:
    return {
        "kind": "maintenance",
        "nodes": ["n0", "n0"],
        "from_at": AT.isoformat(),
        "to_at": TOMORROW,
        "reason": "firmware",
        **changes,
    }


def wire(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


@contextmanager
def leading(world: World) -> Iterator[Leader]:
    """A scheduler that leads, whose cycles the test makes."""
    with transaction(world.engine) as session:
        held = lease.acquire(session, LEASE, "test", at=AT, ttl_s=86_400)
        assert held is not None
    with ThreadPoolExecutor(1) as pool:
        yield Leader(world.engine, world.fake, held, pool, threading.Event())


def test_an_array_and_a_dependency_are_told_as_they_were_asked(world: World) -> None:
    first = world.job(array={"count": 3, "cap": 2}).json()
    assert first["array"] == {"id": first["id"], "index": 0, "cap": 2}
    listed = world.ok("uni-researcher", "GET", "/v1/jobs")["items"]
    assert [job["array"]["index"] for job in listed] == [2, 1, 0]
    begin_at = "2026-06-02T12:00:00Z"
    after = world.job(
        depends_on=[{"job_id": first["id"], "kind": "afterany"}, {"job_id": first["id"] + 1}],
        begin_at=begin_at,
    ).json()
    assert after["depends_on"] == [
        {"job_id": first["id"], "kind": "afterany"},
        {"job_id": first["id"] + 1, "kind": "afterok"},
    ]
    assert after["begin_at"] == begin_at
    assert (after["planned_start"], after["preemptions"]) == (None, 0)


def test_a_job_of_another_project_is_no_dependency(world: World) -> None:
    other = world.job("firm-researcher").json()["id"]
    answer = world.job(depends_on=[{"job_id": other}])
    assert (answer.status_code, answer.json()["code"]) == (422, "VALIDATION")
    assert answer.json()["errors"][0]["place"] == "body.depends_on"


def test_a_waiting_job_is_explained_with_the_change_that_starts_it(world: World) -> None:
    world.ok("operator", "POST", "/v1/windows", window(from_at=(AT + timedelta(minutes=30)).isoformat()))
    world.ok(
        "operator",
        "POST",
        "/v1/windows",
        window(nodes=["n1"], from_at=(AT + timedelta(minutes=30)).isoformat()),
    )
    short, long = world.job(walltime_s=60).json()["id"], world.job(walltime_s=3_600).json()["id"]
    starts = world.ok("uni-researcher", "GET", f"/v1/jobs/{short}/explanation")
    assert (starts["is_waiting"], starts["reason"]) == (False, None)
    waits = world.ok("uni-researcher", "GET", f"/v1/jobs/{long}/explanation")
    assert waits["reason"]["code"] == "MAINTENANCE"
    assert waits["place"] == 2
    assert [(one["job_id"], one["rule"]) for one in waits["ahead"]] == [(short, "id")]
    assert waits["ahead"][0]["text"]
    assert waits["starts_by"] == TOMORROW.replace("+00:00", "Z")
    assert waits["changes"] == [{"what": "walltime_s", "old": 3_600, "new": 1_800, "is_now": True}]
    assert waits["expected"] == {
        "from_at": AT.isoformat().replace("+00:00", "Z"),
        "to_at": waits["starts_by"],
        "is_learned": False,
        "learned_from": 0,
        "stated_percent": None,
    }
    assert world.call("firm-researcher", "GET", f"/v1/jobs/{long}/explanation").status_code == 404


def test_the_starts_a_job_was_told_are_read_with_their_causes(world: World) -> None:
    ends = [AT + timedelta(minutes=30), AT + timedelta(minutes=90)]
    nodes = ["n0", "n1"]
    job_id = world.job(gpus=8).json()["id"]

    def told(language: str = "en") -> list[dict[str, Any]]:
        headers = {"Accept-Language": language}
        found = world.ok("uni-researcher", "GET", f"/v1/jobs/{job_id}/explanation", headers=headers)
        return list(found["starts_told"])

    assert told() == []
    with leading(world) as leader:
        for end in ends:
            world.ok("operator", "POST", "/v1/windows", window(nodes=nodes, to_at=end.isoformat()))
            cycle(leader, "test", at=world.clock())
            world.clock.at += timedelta(minutes=1)
        paused = world.ok("operator", "POST", "/v1/acts", act(kind="pause", job_id=job_id))
        cycle(leader, "test", at=world.clock())
        world.ok("operator", "POST", f"/v1/acts/{paused['id']}/end")
        cycle(leader, "test", at=world.clock())
    again, given_up, later, first = told()
    assert (first["later_s"], first["cause"], first["starts_at"]) == (0, None, wire(ends[0]))
    assert (later["later_s"], later["cause"], later["starts_at"]) == (3_600, "window", wire(ends[1]))
    assert (later["told_at"], given_up["told_at"]) == (
        wire(AT + timedelta(minutes=1)),
        wire(AT + timedelta(minutes=2)),
    )
    assert (given_up["later_s"], given_up["cause"], given_up["starts_at"]) == (None, "operator_act", None)
    assert (again["later_s"], again["cause"], again["starts_at"]) == (0, None, wire(ends[1]))
    assert f"by {duration('en', 3_600)}, to {instant('en', ends[1])}" in later["text"]
    assert len({*(one["text"] for language in ("kk", "ru", "en") for one in told(language))}) == 12

    assert world.call("uni-manager", "GET", "/v1/moved-starts").status_code == 403
    moved = world.ok("operator", "GET", "/v1/moved-starts")
    assert moved["by_cause"] == {"operator_act": 1, "window": 1}
    assert [(one["job_id"], one["cause"]) for one in moved["items"]] == [
        (job_id, "operator_act"),
        (job_id, "window"),
    ]
    only = world.ok("operator", "GET", "/v1/moved-starts?cause=window")
    assert [one["text"] for one in only["items"]] == [later["text"]]
    assert only["by_cause"] == moved["by_cause"]
    assert len(world.ok("operator", "GET", "/v1/moved-starts?limit=1")["items"]) == 1
    assert world.call("operator", "GET", "/v1/moved-starts?cause=weather").status_code == 422


def test_of_many_starts_told_the_last_are_shown(world: World) -> None:
    job_id = world.job(gpus=8).json()["id"]
    with leading(world) as leader:
        for number in range(MAX_STARTS_TOLD + 1):
            ends = (AT + timedelta(hours=number + 1)).isoformat()
            world.ok("operator", "POST", "/v1/windows", window(nodes=["n0", "n1"], to_at=ends))
            cycle(leader, "test", at=world.clock())
            shown = world.ok("uni-researcher", "GET", f"/v1/jobs/{job_id}/explanation")["starts_told"]
            assert len(shown) == min(number + 1, MAX_STARTS_TOLD)
            world.clock.at += timedelta(seconds=1)
    assert shown[0]["starts_at"] == wire(AT + timedelta(hours=MAX_STARTS_TOLD + 1))
    assert {one["cause"] for one in shown} == {"window"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_cause_has_words(language: str) -> None:
    words = {translate(language, f"moved.{cause}") for cause in MoveCause}
    assert len(words) == len(MoveCause)
    assert not any(word.startswith("moved.") for word in words)


def test_an_act_is_set_listed_and_ended_by_operators_only(world: World) -> None:
    job_id = world.job().json()["id"]
    assert world.call("uni-manager", "POST", "/v1/acts", json=act(job_id=job_id)).status_code == 403
    assert world.call("uni-manager", "GET", "/v1/acts").status_code == 403
    made = world.ok("operator", "POST", "/v1/acts", act(job_id=job_id))
    paused = world.ok("operator", "POST", "/v1/acts", act(kind="pause", queue="universities"))
    assert [one["id"] for one in world.ok("operator", "GET", "/v1/acts")["items"]] == [
        made["id"],
        paused["id"],
    ]
    explained = world.ok("uni-researcher", "GET", f"/v1/jobs/{job_id}/explanation")
    assert explained["reason"]["code"] == "PAUSED"
    ended = world.ok("operator", "POST", f"/v1/acts/{paused['id']}/end")
    assert ended["ended_at"] is not None
    assert world.call("operator", "POST", f"/v1/acts/{paused['id']}/end").status_code == 404
    world.clock.at += timedelta(days=2)
    assert world.ok("operator", "GET", "/v1/acts")["items"] == []


def test_an_act_that_cannot_be_is_refused(world: World) -> None:
    job_id = world.job().json()["id"]
    for bad in (
        act(),
        act(job_id=job_id, queue="universities"),
        act(queue="universities"),
        act(job_id=999_999),
        act(job_id=job_id, expires_at=AT.isoformat()),
        act(job_id=job_id, reason="  "),
    ):
        answer = world.call("operator", "POST", "/v1/acts", json=bad)
        assert (answer.status_code, answer.json()["code"]) == (422, "VALIDATION"), bad
    assert world.ok("operator", "GET", "/v1/acts")["items"] == []


def test_a_window_is_added_seen_by_all_and_removed(world: World) -> None:
    assert world.call("uni-manager", "POST", "/v1/windows", json=window()).status_code == 403
    made = world.ok("operator", "POST", "/v1/windows", window(kind="reservation", projects=["uni-project"]))
    assert (made["nodes"], len(made["projects"])) == (["n0"], 1)
    (seen,) = world.ok("firm-researcher", "GET", "/v1/windows")["items"]
    assert (seen["id"], seen["reason"], seen["projects"]) == (made["id"], None, [])
    for bad in (window(nodes=["n9"]), window(to_at=AT.isoformat()), window(from_at="2026-07-01T00:00:00Z")):
        assert world.call("operator", "POST", "/v1/windows", json=bad).status_code == 422, bad
    world.ok("operator", "POST", f"/v1/windows/{made['id']}/remove")
    assert world.call("operator", "POST", f"/v1/windows/{made['id']}/remove").status_code == 404
    assert world.ok("operator", "GET", "/v1/windows")["items"] == []


def test_a_policy_is_previewed_without_being_entered(world: World) -> None:
    tree = {"universities": {"nominal": "25%", "default_walltime": "1h"}, "startups": {"nominal": "75%"}}
    other = {
        "policy": {**POLICY["policy"], "version": "2026.2", "effective_from": "2026-07-01", "tree": tree}
    }
    assert world.call("uni-manager", "POST", "/v1/policies/preview", json=other).status_code == 403
    found = world.ok("operator", "POST", "/v1/policies/preview", other)
    nominal = {one["path"]: (one["nominal_before"], one["nominal_after"]) for one in found["queues"]}
    assert nominal == {"startups": (4, 12), "universities": (8, 4)}
    assert (found["version"], found["preempting"], found["admitted"]) == ("2026.2", [], [])
    assert len(world.ok("operator", "GET", "/v1/policies")["items"]) == 1


def test_a_window_recurs_until_its_end(world: World) -> None:
    until = (AT + timedelta(days=20)).isoformat()
    weekly = {"every": "week", "until": until}
    short = {"to_at": (AT + timedelta(hours=2)).isoformat()}
    weekly_one = world.ok("operator", "POST", "/v1/windows", window(**short, repeats=weekly))
    assert weekly_one["repeats"] == {
        "every": "week",
        "interval": 1,
        "zone": "Asia/Almaty",
        "until": until.replace("+00:00", "Z"),
    }
    for bad in (
        {"repeats": weekly | {"interval": 0}},
        {"repeats": weekly | {"interval": 53}},
        {"repeats": weekly | {"zone": "Asia/Nowhere"}},
        {"repeats": weekly | {"until": (AT + timedelta(days=400)).isoformat()}},
        {"repeats": weekly | {"until": AT.isoformat()}},
        {"repeats": weekly | {"every": "month"}},
        {"repeats": weekly | {"every": "day"}, "to_at": (AT + timedelta(days=1)).isoformat()},
    ):
        answer = world.call("operator", "POST", "/v1/windows", json=window(**short | bad))
        assert answer.status_code == 422, bad
    # A job that would run into the second occurrence waits on that node; the first has ended.
    daily = weekly | {"every": "day"}
    made = world.ok("operator", "POST", "/v1/windows", window(**short, repeats=daily))
    world.clock.at = AT + timedelta(hours=23)
    seen = world.ok("firm-researcher", "GET", "/v1/windows")["items"]
    assert [one["id"] for one in seen] == [weekly_one["id"], made["id"]]
    world.ok("operator", "POST", "/v1/windows", window(nodes=["n1"], to_at=until))
    long = world.job(walltime_s=7_200).json()["id"]
    found = world.ok("uni-researcher", "GET", f"/v1/jobs/{long}/explanation")
    assert found["reason"]["code"] == "MAINTENANCE"
    assert found["changes"] == [{"what": "walltime_s", "old": 7_200, "new": 3_600, "is_now": True}]


def test_a_node_is_drained_with_a_reason_and_put_back_by_operators_only(world: World) -> None:
    why = {"reason": "a fan is broken"}
    assert world.call("uni-manager", "POST", "/v1/nodes/n0/drain", json=why).status_code == 403
    assert world.call("uni-manager", "POST", "/v1/nodes/n0/resume").status_code == 403
    assert world.call("uni-manager", "GET", "/v1/nodes").status_code == 403
    assert world.call("operator", "POST", "/v1/nodes/n9/drain", json=why).status_code == 404
    assert world.call("operator", "POST", "/v1/nodes/n9/resume").status_code == 404
    assert world.call("operator", "POST", "/v1/nodes/n0/drain", json={"reason": " "}).status_code == 422
    drained = world.ok("operator", "POST", "/v1/nodes/n0/drain", why)
    assert drained == {
        "name": "n0",
        "state": "DRAINED",
        "reason": "a fan is broken",
        "drained_at": AT.isoformat().replace("+00:00", "Z"),
    }
    again = world.ok("operator", "POST", "/v1/nodes/n0/drain", {"reason": "again"})
    assert again == drained
    assert world.ok("operator", "GET", "/v1/nodes")["items"][0] == drained
    assert world.job(gpus=16).json()["code"] == "NEVER_FITS"  # it has left the capacity
    resumed = world.ok("operator", "POST", "/v1/nodes/n0/resume")
    assert resumed == {"name": "n0", "state": "UP", "reason": None, "drained_at": None}
    assert world.ok("operator", "POST", "/v1/nodes/n0/resume") == resumed
    with world.engine.connect() as connection:
        rows = connection.execute(
            select(JournalRow.kind, JournalRow.data)
            .where(JournalRow.subject == "node:n0")
            .order_by(JournalRow.id)
        ).all()
    told = [(row.kind, set(row.data)) for row in rows if row.kind != "node.registered"]
    assert told == [("node.drained", {"reason_digest"}), ("node.resumed", set())]
