"""Worked cases of the quota tree joined with time: small worlds, exact outcomes.

Times are minutes from now. Nodes have 8 GPUs. A walltime that is not given is ten years.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quota.cohort import divide
from quota.policy import parse_policy
from quota.tree import WHOLE, Use, tree_of
from scheduler.fit import Bounds, World
from scheduler.model import Admit, JobId, JobState, LiveAttempt, Preempt, Request, Reserve, Slot, Wait
from scheduler.plan import make_plan
from scheduler.windows import Window, WindowKind

MINUTE_MS = 60_000
TEN_YEARS = 10 * 365 * 24 * 60


def grace(minutes):
    return {"preemption": {"grace": f"{minutes}m"}}


def live_of(build, running, policy):
    """Attempts on the nodes they name, or on the first that have room."""
    free = {}
    graces = {node.path: node.grace_s for node in policy.tree}
    found = []
    for number, job in enumerate(running.values()):
        left, slots = job["gpus"], []
        for node in [job["node"]] if "node" in job else ["n0", "n1", "n2", "n3"]:
            start = free.get(node, 0)
            take = min(left, 8 - start)
            if take > 0:
                slots.append(Slot(node, tuple(f"{node}:{index}" for index in range(start, start + take))))
                free[node] = start + take
                left -= take
        admitted_ms = build.now_ms + job["admitted"] * MINUTE_MS
        checkpoint = job.get("last_checkpoint")
        found.append(
            LiveAttempt(
                id=f"{900 + number}-1",
                job_id=JobId(900 + number),
                project_id=build.project,
                queue=job["queue"],
                request=Request(job["gpus"], job.get("wall", TEN_YEARS) * 60, ("h200",)),
                slots=tuple(slots),
                state=JobState.RUNNING,
                admitted_ms=admitted_ms,
                committed_ms=admitted_ms,
                grace_s=graces[job["queue"]],
                checkpoint_ms=None if checkpoint is None else build.now_ms + checkpoint * MINUTE_MS,
            )
        )
    return found


def case(build, *, nodes, tree, running=None, pending=None, usage=None, windows=(), **settings):
    """Plan a case; what became of everybody, by name."""
    policy = build.policy(tree, **settings)
    live = live_of(build, running or {}, policy)
    jobs = [
        build.job(
            number + 1,
            job["gpus"],
            job["queue"],
            wall_s=job.get("wall", TEN_YEARS) * 60,
            nodes=job.get("nodes"),
            age_s=1_000 - number,
        )
        for number, job in enumerate((pending or {}).values())
    ]
    snapshot = build.snapshot(
        build.nodes(*[8] * nodes),
        jobs,
        live,
        [build.grant(remaining_s=10**18, ends_ms=10**15)],
        usage=usage or {},
        windows=windows,
    )
    names = dict(enumerate(pending or {}, start=1)) | dict(enumerate(running or {}, start=900))
    return told(make_plan(snapshot, policy), names, build.now_ms) | {
        "class": classes(snapshot, policy, names)
    }


def told(plan, names, now_ms):
    found = {"admit": {}, "wait": {}, "preempt": [], "reserve": {}}
    for entry in plan.entries:
        match entry:
            case Admit():
                found["admit"][names[entry.job_id]] = str(entry.share_class)
            case Wait():
                numbers = {
                    key: names.get(value, value) if key in {"ahead", "job"} else value
                    for key, value in entry.numbers.items()
                }
                found["wait"][names[entry.job_id]] = {"reason": str(entry.reason), **numbers}
            case Preempt():
                found["preempt"].append(names[int(entry.attempt_id.partition("-")[0])])
            case Reserve():
                start = (entry.start_ms - now_ms) / MINUTE_MS
                found["reserve"][names[entry.job_id]] = {"start": start, "nodes": [n for n, _ in entry.place]}
    return found


def classes(snapshot, policy, names):
    shares = World(snapshot, Bounds(snapshot, policy)).shares[WHOLE]
    found = {}
    for attempt in snapshot.live:
        borrowed = shares.charged(attempt.queue, snapshot.at_ms)[1]
        found[names[attempt.job_id]] = "borrowed" if attempt.id in borrowed else "entitled"
    return found


def agree(found, expected):
    """Every key of `expected` stands in `found`, at any depth."""
    if isinstance(expected, dict):
        return all(key in found and agree(found[key], value) for key, value in expected.items())
    return found == expected


def a(gpus, **rest):
    return {"queue": "a", "gpus": gpus, **rest}


def b(gpus, **rest):
    return {"queue": "b", "gpus": gpus, **rest}


def q(gpus, **rest):
    return {"queue": "q", "gpus": gpus, **rest}


def x(gpus, **rest):
    return {"queue": "x", "gpus": gpus, **rest}


HALVES = {"a": {"nominal": 8}, "b": {"nominal": 8}}
QUARTERS = {"p": {"nominal": 8, "children": {"a": {"nominal": 4}, "b": {"nominal": 4}}}}
LEFT_USED_MORE = {"p/a": 100, "p/b": 10}

CASES = {
    "idle quota is lent": (
        {"nodes": 2, "tree": HALVES, "pending": {"a1": a(4), "a2": a(4), "a3": a(4)}},
        {"admit": {"a1": "entitled", "a2": "entitled", "a3": "borrowed"}},
    ),
    "what is not lent is not borrowed": (
        {
            "nodes": 2,
            "tree": {"a": {"nominal": 8}, "b": {"nominal": 8, "lending_limit": 2}},
            "pending": {"a1": a(4), "a2": a(4), "a3": a(4)},
        },
        {
            "admit": {"a1": "entitled", "a2": "entitled"},
            "wait": {"a3": {"reason": "BORROWING_LIMIT", "lendable_gpus": 2}},
        },
    ),
    "entitled work reclaims the least lost work, no more than needed": (
        {
            "nodes": 2,
            "tree": {"a": {"nominal": 8, **grace(5)}, "b": {"nominal": 8}},
            "running": {
                "a1": a(8, node="n0", admitted=-600, last_checkpoint=-1),
                "a2": a(4, node="n1", admitted=-500, last_checkpoint=-300),
                "a3": a(4, node="n1", admitted=-400, last_checkpoint=-10),
            },
            "pending": {"b1": b(4)},
        },
        {
            "class": {"a1": "entitled", "a2": "borrowed", "a3": "borrowed"},
            "preempt": ["a3"],
            "reserve": {"b1": {"start": 5, "nodes": ["n1"]}},
            "wait": {"b1": {"reason": "RECLAIMING", "gpus": 4}},
        },
    ),
    "a gang larger than its nominal is wholly borrowed": (
        {
            "nodes": 2,
            "tree": {"a": {"nominal": 8, **grace(5)}, "b": {"nominal": 8}},
            "running": {"a1": a(16, admitted=-100)},
            "pending": {"b1": b(4)},
        },
        {"class": {"a1": "borrowed"}, "preempt": ["a1"], "reserve": {"b1": {"start": 5}}},
    ),
    "borrowers never reclaim": (
        {
            "nodes": 2,
            "tree": HALVES,
            "running": {
                "a1": a(8, node="n0", admitted=-100, wall=400),
                "a2": a(4, node="n1", admitted=-90, wall=400),
                "b0": b(4, node="n1", admitted=-80, wall=400),
            },
            "pending": {"b1": b(8, nodes=1)},
        },
        {"preempt": [], "wait": {"b1": {"reason": "NO_CAPACITY"}}},
    ),
    "entitled jobs may stand in each other's way, and nobody is stopped for it": (
        {
            "nodes": 2,
            "tree": HALVES,
            "running": {
                "a1": a(4, node="n0", admitted=-100, wall=160),
                "a2": a(4, node="n1", admitted=-90, wall=120),
            },
            "pending": {"b1": b(8, nodes=1)},
        },
        {
            "preempt": [],
            "wait": {"b1": {"reason": "FRAGMENTED_BY_ENTITLED"}},
            "reserve": {"b1": {"start": 30, "nodes": ["n1"]}},
        },
    ),
    "backfill delays no start reservation": (
        {
            "nodes": 1,
            "tree": {"q": {"nominal": 8}},
            "running": {"r1": q(4, admitted=-60, wall=120)},
            "pending": {"j1": q(8, wall=120), "j2": q(2, wall=30), "j3": q(2, wall=90)},
        },
        {
            "reserve": {"j1": {"start": 60}},
            "admit": {"j2": "entitled"},
            "wait": {"j1": {"reason": "NO_CAPACITY"}, "j3": {"reason": "RESERVED_FOR", "job": "j1"}},
        },
    ),
    "a borrower that can be reclaimed in time may backfill past a reservation": (
        {
            "nodes": 1,
            "tree": {"q": {"nominal": 8}, "x": {"nominal": 0, **grace(2)}},
            "running": {"r1": q(6, admitted=-60, wall=120)},
            "pending": {"j1": q(8, wall=120), "x1": x(2, wall=600)},
        },
        {"reserve": {"j1": {"start": 60}}, "admit": {"x1": "borrowed"}, "preempt": []},
    ),
    "and gets its notice when its grace is all that is left": (
        {
            "nodes": 1,
            "tree": {"q": {"nominal": 8}, "x": {"nominal": 0, **grace(2)}},
            "running": {"r1": q(6, admitted=-118, wall=120), "x1": x(2, wall=600, admitted=-58)},
            "pending": {"j1": q(8, wall=120)},
        },
        {"reserve": {"j1": {"start": 2}}, "preempt": ["x1"], "wait": {"j1": {"reason": "RECLAIMING"}}},
    ),
    "entitled goes before borrowed, whatever the usage": (
        {
            "nodes": 1,
            "tree": QUARTERS,
            "running": {"z": {"queue": "p/b", "gpus": 4, "admitted": -10, "wall": 600}},
            "usage": LEFT_USED_MORE,
            "pending": {"b1": {"queue": "p/b", "gpus": 4}, "a1": {"queue": "p/a", "gpus": 4}},
        },
        {
            "admit": {"a1": "entitled"},
            "wait": {"b1": {"reason": "WAITING_TURN", "ahead": "a1", "rule": "entitled_first"}},
        },
    ),
    "among entitled siblings the one with less decayed usage goes first, and the other reclaims": (
        {
            "nodes": 1,
            "tree": QUARTERS | {"x": {"nominal": 0, **grace(2)}},
            "running": {"x1": x(4, admitted=-30, wall=600)},
            "usage": LEFT_USED_MORE,
            "pending": {"a1": {"queue": "p/a", "gpus": 4}, "b1": {"queue": "p/b", "gpus": 4}},
        },
        {"admit": {"b1": "entitled"}, "preempt": ["x1"], "reserve": {"a1": {"start": 2}}},
    ),
    "among borrowers too, less usage first": (
        {
            "nodes": 1,
            "tree": {"a": {"nominal": 0}, "b": {"nominal": 0}, "c": {"nominal": 8}},
            "usage": {"a": 100, "b": 10},
            "pending": {"a1": a(8), "b1": b(8)},
        },
        {
            "admit": {"b1": "borrowed"},
            "wait": {"a1": {"reason": "WAITING_TURN", "ahead": "b1", "rule": "fair_share"}},
        },
    ),
    "a new policy re-classes and stops nobody": (
        {
            "nodes": 1,
            "tree": {"q": {"nominal": 4}, "r": {"nominal": 4}},
            "running": {"j1": q(4, admitted=-20), "j2": q(4, admitted=-10)},
        },
        {"class": {"j1": "entitled", "j2": "borrowed"}, "preempt": []},
    ),
    "fill-back spares the victim that proved needless": (
        {
            "nodes": 2,
            "tree": {"a": {"nominal": 0, **grace(5)}, "b": {"nominal": 16}},
            "running": {
                "a1": a(2, node="n0", admitted=-100, last_checkpoint=-1),
                "a2": a(6, node="n0", admitted=-100, last_checkpoint=-2),
                "a3": a(8, node="n1", admitted=-100, last_checkpoint=-90),
            },
            "pending": {"b1": b(6, nodes=1)},
        },
        {"preempt": ["a2"], "reserve": {"b1": {"start": 5, "nodes": ["n0"]}}},
    ),
    "a queue never reclaims from itself": (
        {
            "nodes": 1,
            "tree": {"q": {"nominal": 4, **grace(2)}, "x": {"nominal": 4}},
            "running": {"j1": q(6, admitted=-30, wall=90)},
            "pending": {"j2": q(4, wall=30)},
        },
        {
            "class": {"j1": "borrowed"},
            "preempt": [],
            "wait": {"j2": {"reason": "NO_CAPACITY"}},
            "reserve": {"j2": {"start": 60}},
        },
    ),
}


@pytest.mark.parametrize(("given", "expected"), CASES.values(), ids=CASES)
def test_case(build, given, expected):
    found = case(build, **given)
    assert agree(found, expected), found
    if "admit" in expected:
        assert found["admit"] == expected["admit"]


def test_nothing_starts_that_would_run_into_maintenance(build):
    window = Window(
        "w1",
        WindowKind.MAINTENANCE,
        frozenset({"n0"}),
        build.now_ms + 120 * MINUTE_MS,
        build.now_ms + 240 * MINUTE_MS,
    )
    found = case(
        build,
        nodes=1,
        tree={"q": {"nominal": 8}},
        windows=(window,),
        pending={"long": q(4, wall=240), "short": q(4, wall=60)},
    )
    assert found["admit"] == {"short": "entitled"}
    assert agree(found, {"wait": {"long": {"reason": "MAINTENANCE"}}, "reserve": {"long": {"start": 240}}}), (
        found
    )


def test_nominal_by_weight_largest_remainder_ties_by_name(build):
    tree = {"p": {"nominal": 7, "children": {"a": {}, "b": {}, "c": {}}}}
    nominals = divide(build.policy(tree), 7).nominals
    assert {path: nominals[path] for path in ("p/a", "p/b", "p/c")} == {"p/a": 3, "p/b": 2, "p/c": 2}


def test_capacity_out_of_service_shrinks_nominals_in_proportion(build):
    found = divide(build.policy({"a": {"nominal": 16}, "b": {"nominal": 16}}), 24)
    assert (found.nominals["a"], found.nominals["b"]) == (12, 12)
    assert [alert.code for alert in found.alerts] == ["nominal_exceeds_capacity"]


def test_a_national_policy_on_32_gpus():
    sectors = "public-administration oil-and-gas mining energy transport logistics water-supply agriculture"
    tree = {
        "kazllm": {"nominal": "18.75%"},
        "priority-sectors": {"nominal": "25%", "children": {name: {} for name in sectors.split()}},
        "government": {"nominal": "6.25%"},
        "science": {
            "nominal": "18.75%",
            "children": {"universities": {"weight": 2}, "research-institutes": {"weight": 1}},
        },
        "startups": {"nominal": "18.75%"},
        "business": {"nominal": "6.25%"},
        "citizens": {"nominal": "6.25%"},
        "export": {"nominal": 0, "borrowing_limit": "25%"},
    }
    ground = {"kind": "order", "body": "authorised body", "number": "7", "date": "2025-12-25"}
    document = {
        "version": "1",
        "effective_from": "2026-01-01",
        "grounds": [ground],
        "tree": tree,
        "routes": [{"queue": "kazllm"}],
    }
    nominals = divide(parse_policy({"policy": document}), 32).nominals
    expected = {
        "kazllm": 6,
        "priority-sectors": 8,
        "government": 2,
        "science": 6,
        "science/universities": 4,
        "science/research-institutes": 2,
        "startups": 6,
        "business": 2,
        "citizens": 2,
        "export": 0,
        "priority-sectors/energy": 1,
    }
    assert {path: nominals[path] for path in expected} == expected


@given(st.data())
def test_use_is_the_same_however_it_came_about(build, data):
    """Counted from the queues upwards, added queue by queue, or taken back from more; also of unknown queues."""
    share = {"nominal": 4, "lending_limit": data.draw(st.integers(0, 4))}
    policy = build.policy({"a": {"nominal": 8, "children": {"b": share, "c": share}}, "d": {"nominal": 8}})
    tree = tree_of(policy, 16)
    held, more = [
        data.draw(st.dictionaries(st.sampled_from(["a/b", "a/c", "d", "a/gone", "gone"]), st.integers(1, 6)))
        for _ in range(2)
    ]
    both = {queue: held.get(queue, 0) + more.get(queue, 0) for queue in {*held, *more}}
    whole, added = Use(tree, both), Use(tree, {})
    less = whole.copy()
    for queue, gpus in held.items():
        added.add(queue, gpus)
    for queue, gpus in more.items():
        less.add(queue, -gpus)
    nodes = [*tree.nominal, "a/gone", "gone"]
    found = [[use.at(node) for node in nodes] for use in (Use(tree, held), added, less)]
    assert found[0] == found[1] == found[2]
    assert [whole.at(node) for node in nodes] == [Use(tree, both).at(node) for node in nodes]
