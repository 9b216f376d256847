"""Whether a job fits, and the one reason when it does not, in its documented order."""

from __future__ import annotations

from dataclasses import fields, replace
from uuid import UUID

import pytest

from scheduler.fit import Fit, Limit, NoFit, can_ever_fit, fits, has_room
from scheduler.model import NodeState, ReasonCode, Slot
from scheduler.windows import Window, WindowKind
from scheduler.world import is_same_world

TREE = {
    "p": {"nominal": "75%", "children": {"q": {"nominal": 8, "max_walltime": "2h", "borrowing_limit": 0}, "r": {"nominal": 4, "max_gpus_per_job": 2}}},
    "x": {"nominal": 0, "borrowing_limit": 0},
}  # fmt: skip


def test_a_job_that_fits_gets_exact_gpus_and_a_claim(build):
    world = build.world(nodes=build.nodes(8), live=[build.live(9, "n0:0 n0:1")])
    assert fits(build.job(gpus=2, wall_s=90), world) == Fit(
        (Slot("n0", ("n0:2", "n0:3")),), "h200", build.grant().id, 180
    )


DAY_MS = 86_400_000


@pytest.mark.parametrize(
    ("job", "reason", "numbers"),
    [
        # each line also breaks every rule of the lines below it
        ({"gpus": 9, "is_suspended": True, "is_held": True, "back_off_until_ms": 1}, ReasonCode.NEVER_FITS, {"limit": "nominal", "max_gpus": 8}),
        ({"gpus": 8, "is_suspended": True, "is_held": True, "back_off_until_ms": 1}, ReasonCode.PROJECT_SUSPENDED, {}),
        ({"gpus": 8, "is_held": True, "back_off_until_ms": 1}, ReasonCode.HELD, {}),
        ({"gpus": 8, "back_off_until_ms": 1, "attempts": 2}, ReasonCode.BACKOFF, {"attempts": 2}),
    ],
)  # fmt: skip
def test_reasons_of_the_job_itself_come_first(build, job, reason, numbers):
    job = dict(job)
    if "back_off_until_ms" in job:
        job["back_off_until_ms"] += build.now_ms
        numbers = numbers | ({"until_ms": build.now_ms + 1} if reason is ReasonCode.BACKOFF else {})
    found = fits(build.job(**job), build.world(grants=[], live=[build.live(9, "n0:0")]))
    assert isinstance(found, NoFit)
    assert found.reason is reason
    assert numbers.items() <= dict(found.numbers).items()


def test_a_back_off_ends_at_its_instant(build):
    assert isinstance(fits(build.job(back_off_until_ms=build.now_ms), build.world()), Fit)


@pytest.mark.parametrize(
    ("grants", "numbers"),
    [
        ([], {"flavor": "h200", "walltime_s": 3_600}),
        ([{"flavor": "h100"}], {"flavor": "h200", "walltime_s": 3_600}),
        ([{"project": UUID(int=2)}], {"flavor": "h200", "walltime_s": 3_600}),
        ([{"starts_ms": 1}], {"starts_ms": 1}),
        ([{"ends_ms": 3_599_999}], {"ends_ms": 3_599_999}),
        (
            [{"ends_ms": 10}, {"starts_ms": 60_000, "ends_ms": DAY_MS}],
            {"starts_ms": 60_000, "ends_ms": DAY_MS},
        ),
    ],
)
def test_the_walltime_must_lie_within_a_grant(build, grants, numbers):
    shift = {"starts_ms", "ends_ms"}
    moved = [{k: v + build.now_ms if k in shift else v for k, v in grant.items()} for grant in grants]
    world = build.world(grants=[build.grant(n, **grant) for n, grant in enumerate(moved)])
    found = fits(build.job(), world)
    expected = {k: v + build.now_ms if k in shift else v for k, v in numbers.items()}
    assert isinstance(found, NoFit)
    assert found.reason is ReasonCode.GRANT_NOT_ACTIVE
    assert expected.items() <= dict(found.numbers).items()


def test_a_grant_serves_from_its_first_to_its_last_instant(build):
    grant = build.grant(starts_ms=build.now_ms, ends_ms=build.now_ms + 3_600_000)
    assert isinstance(fits(build.job(), build.world(grants=[grant])), Fit)


def test_the_claim_must_be_covered_by_one_grant_the_first_to_end(build):
    later = build.grant(1, remaining_s=9_000, ends_ms=build.now_ms + 3 * DAY_MS)
    sooner = build.grant(2, remaining_s=7_200, pending_s=5, ends_ms=build.now_ms + 2 * DAY_MS)
    world = build.world(grants=[later, sooner])
    first = fits(build.job(1, 2), world)
    assert isinstance(first, Fit)
    assert first.grant_id == sooner.id
    world.start(build.job(1, 2), first)
    second = fits(build.job(2, 2), world)
    assert isinstance(second, Fit)
    assert second.grant_id == later.id
    world.start(build.job(2, 2), second)
    numbers = {"claim_s": 3_600, "remaining_s": 1_800, "pending_s": 7_200}
    assert fits(build.job(3), world) == NoFit(ReasonCode.BUDGET_EXHAUSTED, numbers)
    assert isinstance(fits(build.job(3, wall_s=1_800), world), Fit)


def test_a_limit_refuses_at_the_node_that_it_is_of(build):
    policy = build.policy(
        {
            "p": {
                "nominal": 12,
                "borrowing_limit": 0,
                "children": {"q": {"nominal": 8}, "r": {"nominal": 4}},
            },
            "x": {"nominal": 4, "borrowing_limit": 2},
            "y": {"nominal": 8, "lending_limit": 6},
        }
    )
    nodes = build.nodes(8, 8, 8)
    live = [build.live(8, "n0:0 n0:1 n0:2 n0:3 n0:4 n0:5", "p/r")]
    world = build.world(policy, nodes=nodes, live=live)
    assert isinstance(fits(build.job(gpus=6, queue="p/q"), world), Fit)
    numbers = {"queue": "p/q", "node": "p", "lendable_gpus": 6, "gpus": 7}
    assert fits(build.job(gpus=7, queue="p/q"), world) == NoFit(ReasonCode.BORROWING_LIMIT, numbers)
    numbers = {"queue": "x", "nominal": 4, "used": 0, "gpus": 7}
    never = {
        "limit": "nominal",
        "queue": "x",
        "gpus": 7,
        "walltime_s": 3_600,
        "max_gpus": 6,
        "flavors": "h200",
    }
    assert fits(build.job(gpus=7, queue="x"), world) == NoFit(ReasonCode.NEVER_FITS, never)
    busy = build.world(policy, nodes=nodes, live=[build.live(8, "n0:0", "x")])
    numbers = {"queue": "x", "nominal": 4, "used": 1, "gpus": 6}
    assert fits(build.job(gpus=6, queue="x"), busy) == NoFit(ReasonCode.QUEUE_LIMIT, numbers)
    assert has_room(build.request(6), busy)


def test_a_moved_queue_counts_where_it_went(build):
    policy = build.policy(
        {"p": {"children": {"q": {"nominal": 8}}}, "r": {"nominal": 4}}, moves={"old": "p/q"}
    )
    world = build.world(policy, nodes=build.nodes(8, 8), live=[build.live(8, "n0:0", "old")])
    borrowed = fits(build.job(gpus=8, queue="old"), world)
    assert isinstance(borrowed, Fit)
    assert borrowed.share_class == "borrowed"
    job = build.job(gpus=7, queue="old")
    fit = fits(job, world)
    assert isinstance(fit, Fit)
    assert fit.share_class == "entitled"
    world.start(job, fit)
    assert world.shares_of("h200").use.at("p/q") == 8


def test_room_is_missing_or_in_pieces(build):
    live = [build.live(8, "n0:0 n0:1 n0:2 n1:0 n1:1 n1:2")]
    world = build.world(nodes=build.nodes(8, 8), live=live)
    assert fits(build.job(gpus=8, nodes=1), world) == NoFit(
        ReasonCode.FRAGMENTED_BY_ENTITLED, {"free": 10, "gpus": 8, "flavor": "h200"}
    )
    lent = build.policy({"q": {"nominal": 8}, "r": {"nominal": 8}})
    world = build.world(lent, nodes=build.nodes(8, 8), live=live)
    assert fits(build.job(gpus=8, nodes=1), world) == NoFit(
        ReasonCode.FRAGMENTED, {"free": 10, "gpus": 8, "flavor": "h200"}
    )
    down = (*build.nodes(8), build.node("n1", state=NodeState.DOWN))
    world = build.world(nodes=down)
    assert fits(build.job(gpus=16), world) == NoFit(
        ReasonCode.NO_CAPACITY, {"free": 8, "gpus": 16, "flavor": "h200"}
    )
    assert not has_room(build.request(16), world)


def test_flavors_in_order_and_the_refusal_that_came_nearest(build):
    nodes = (build.node("a", 2, "h100"), build.node("b", 2))
    both = [build.grant(1), build.grant(2, flavor="h100")]
    job = build.job(gpus=2, flavors=("h100", "h200"))
    found = fits(job, build.world(nodes=nodes, grants=both))
    assert isinstance(found, Fit)
    assert (found.flavor, found.slots[0].node) == ("h100", "a")
    found = fits(job, build.world(nodes=nodes, grants=both, live=[build.live(9, "a:0")]))
    assert isinstance(found, Fit)
    assert found.flavor == "h200"
    busy = build.world(nodes=nodes, grants=[build.grant(1)], live=[build.live(9, "b:0")])
    assert fits(job, busy) == NoFit(ReasonCode.NO_CAPACITY, {"free": 1, "gpus": 2, "flavor": "h200"})


def test_a_flavor_that_no_node_has_refuses_and_the_next_is_tried(build):
    """As when a flavor's last node left: its grant is still there."""
    both = [build.grant(1), build.grant(2, flavor="h100")]
    job = build.job(gpus=2, flavors=("h100", "h200"))
    found = fits(job, build.world(nodes=build.nodes(2), grants=both))
    assert isinstance(found, Fit)
    assert found.flavor == "h200"
    busy = build.world(nodes=build.nodes(2), grants=both, live=[build.live(9, "n0:0 n0:1")])
    assert fits(job, busy) == NoFit(ReasonCode.NO_CAPACITY, {"free": 0, "gpus": 2, "flavor": "h100"})


def test_an_applier_checks_the_very_slots_of_the_plan(build):
    job = build.job(gpus=2)
    free = build.world(nodes=build.nodes(4, 4))
    slots = (Slot("n1", ("n1:1", "n1:3")),)
    assert fits(job, free, slots=slots) == Fit(slots, "h200", build.grant().id, 7_200)
    taken = build.world(nodes=build.nodes(4, 4), live=[build.live(9, "n1:3")])
    found = fits(job, taken, slots=slots)
    assert isinstance(found, NoFit)
    assert found.reason is ReasonCode.NO_CAPACITY
    for wrong in (slots[:0], (Slot("n1", ("n1:1",)),), (Slot("n7", ("n7:0", "n7:1")),)):
        assert isinstance(fits(job, free, slots=wrong), NoFit)
    gang = build.job(gpus=2, nodes=2)
    assert isinstance(fits(gang, free, slots=slots), NoFit)
    assert isinstance(fits(gang, free, slots=(Slot("n0", ("n0:0",)), Slot("n1", ("n1:1",)))), Fit)


NEVER = [
    ("gone", {}, Limit.QUEUE, 0),
    ("p", {}, Limit.QUEUE, 0),
    ("p/q", {"gpus": 0}, Limit.REQUEST, 8),
    ("p/q", {"wall_s": 0}, Limit.REQUEST, 8),
    ("p/q", {"nodes": 0}, Limit.REQUEST, 8),
    ("p/q", {"nodes": -1}, Limit.REQUEST, 8),
    ("p/q", {"gpus": 3, "nodes": 2}, Limit.REQUEST, 8),
    ("p/q", {"flavors": ("h100",)}, Limit.FLAVOR, 0),
    ("p/q", {"flavors": ()}, Limit.FLAVOR, 0),
    ("p/q", {"wall_s": 7_201}, Limit.WALLTIME, 8),
    ("p/r", {"gpus": 3}, Limit.MAX_GPUS_PER_JOB, 2),
    ("p/q", {"gpus": 9}, Limit.NOMINAL, 8),
    ("x", {"gpus": 1}, Limit.NOMINAL, 0),
    ("p/q", {"gpus": 6, "nodes": 3}, Limit.SHAPE, 0),
    ("p/q", {"gpus": 5, "nodes": 1, "small": True}, Limit.SHAPE, 4),
    ("p/q", {"gpus": 9, "nodes": 3, "small": True}, Limit.NOMINAL, 6),
]


@pytest.mark.parametrize(("queue", "request_", "limit", "max_gpus"), NEVER)
def test_what_can_never_start_is_told_with_what_would(build, queue, request_, limit, max_gpus):
    request_ = dict(request_)
    nodes = build.nodes(4, 4, 4, 4) if request_.pop("small", False) else build.nodes(8, 8)
    bounds = build.bounds(build.snapshot(nodes), build.policy(TREE))
    request = build.request(**request_)
    never = can_ever_fit(request, queue, bounds)
    assert never is not None
    assert never.limit is limit
    assert never.numbers["limit"] == limit
    assert never.numbers["max_gpus"] == max_gpus
    assert never.numbers["flavors"] == "h200"
    assert ("max_walltime_s" in never.numbers) == (queue == "p/q")
    assert (never.numbers["queue"], never.numbers["gpus"], never.numbers["walltime_s"]) == (
        queue,
        request.gpus,
        request.walltime_s,
    )
    if max_gpus and limit is not Limit.REQUEST:
        walltime_s = min(request.walltime_s, 7_200)
        smaller = build.request(max_gpus, walltime_s, request.nodes, request.flavors)
        assert can_ever_fit(smaller, queue, bounds) is None


def test_what_runs_or_is_down_does_not_make_a_job_impossible(build):
    nodes = (build.node("n0", state=NodeState.DOWN), build.node("n1", state=NodeState.DRAINED))
    bounds = build.bounds(build.snapshot(nodes, live=[build.live(1, "n0:0")]), build.policy())
    assert can_ever_fit(build.request(8), "q", bounds) is None
    assert can_ever_fit(build.request(9), "q", bounds) is not None


def test_a_world_is_the_same_when_all_that_fit_reads_of_its_snapshot_is(build):
    snapshot = build.snapshot(pending=[build.job()], live=[build.live(9, "n0:0")])
    now_ms = snapshot.at_ms
    window = Window("w1", WindowKind.MAINTENANCE, frozenset({"n0"}), now_ms, now_ms + DAY_MS)
    others = {
        "at_ms": now_ms + 1,
        "live": (),
        "nodes": (),
        "capacity": {"h200": 1},
        "grants": (build.grant(pending_s=1),),
        "windows": (window,),
    }
    for name, value in others.items():
        assert not is_same_world(snapshot, replace(snapshot, **{name: value})), name
    same = {"version": "v2", "pending": (), "usage": {"science": 1}, "reservations": ()}
    assert is_same_world(snapshot, replace(snapshot, **same))
    assert {*others, *same} == {one.name for one in fields(snapshot)}
