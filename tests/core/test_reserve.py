"""The earliest start: what rules instants out all at once never rules out a start."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.fit import Bounds, World
from scheduler.model import JobId
from scheduler.profile import FEW_INSTANTS, Run
from scheduler.reclaim import Candidates, by_loss
from scheduler.reserve import Search, earliest, reclaim


@given(seed=st.integers(0, 10**9))
def test_a_start_is_found_where_a_look_at_each_instant_finds_one(build, seed):
    chance = random.Random(seed)  # noqa: S311 - a reproducible cluster, no secret
    tree = {"a": {"nominal": f"{chance.choice([25, 50])}%"}, "b": {"nominal": "25%"}}
    policy = build.policy(tree)
    nodes = build.nodes(*chance.choice([(8, 8), (8, 4, 2)]))
    free = [gpu for node in nodes for gpu in node.gpu_uuids]
    chance.shuffle(free)
    live = []
    while len(free) > chance.randint(0, 6):
        taken = [free.pop() for _ in range(min(len(free), chance.randint(1, 5)))]
        wall_s = chance.choice([60, 600, 3_600, 7_200])
        queue = chance.choice("ab")
        grace_s = chance.choice([0, 60, 900])
        live.append(
            build.live(len(live) + 100, " ".join(sorted(taken)), queue, wall_s=wall_s, grace_s=grace_s)
        )
    pending = [
        build.job(
            number, chance.randint(1, 16), queue=chance.choice("ab"), wall_s=chance.choice([300, 5_000])
        )
        for number in range(1, 5)
    ]
    snapshot = build.snapshot(nodes, pending, live)
    world = World(snapshot, Bounds(snapshot, policy))
    for job in pending:
        search = Search(job, "h200", world)
        for until_ms in (None, build.now_ms, build.now_ms + 60_000, build.now_ms + 3_600_000):
            for may_reclaim in (True, False):
                tried = (search.at(at_ms, may_reclaim=may_reclaim) for at_ms in search._instants(until_ms))
                expected = next((hold for hold in tried if hold is not None), None)
                assert search.earliest(until_ms=until_ms, may_reclaim=may_reclaim) == expected
        hold = search.earliest()
        if hold is not None and chance.random() < 0.7:
            world.hold(hold)


@given(
    runs=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(1, 9), st.integers(-1, 1)), max_size=8
    ),
    gone=st.lists(st.sets(st.integers(0, 9)), max_size=4),
    asked=st.lists(st.integers(0, 12), max_size=FEW_INSTANTS + 2),
)
def test_candidates_less_some_are_those_made_anew(runs, gone, asked):
    found = [
        Run(
            id=f"{number}-1",
            job_id=number,
            queue="q",
            flavor="h200",
            gpus=2,
            picks=((node, 1), (2, 1)),
            order=(5, number) if priority == 1 else (number % 3, number),
            end_ms=end_ms,
            priority=priority,
            grace_ms=grace_ms,
        )
        for number, (node, grace_ms, end_ms, priority) in enumerate(runs)
    ]
    kept = Candidates(by_loss(found, 5), 5, 4)
    for numbers in gone:
        [kept.back(at_ms).tolist() for at_ms in asked]
        left = [run for run in kept if run.job_id not in numbers]
        kept = kept.less([run for run in found if run.job_id in numbers])
        anew = Candidates(left, 5, 4)
        assert list(kept) == left
        assert sorted(kept.graces_ms) == sorted({run.grace_ms for run in left})
        assert list(kept.settled) == [run for run in left if run.order[0] != 5]
        given = [
            sum(g for run in left if run.end_ms > 3 for n, g in run.picks if n == node) for node in range(4)
        ]
        assert kept.back(3).tolist() == given
        for at_ms in asked:
            assert kept.back(at_ms).tolist() == anew.back(at_ms).tolist()


def busy(build, queue="q", **rest):
    """2 of 8 GPUs come free at each of the minutes 10, 20, 30 and 40."""
    return [
        build.live(10 + at, f"n0:{2 * at} n0:{2 * at + 1}", queue, wall_s=660 + 600 * at, **rest)
        for at in range(4)
    ]


def minutes(build, hold):
    return None if hold is None else (hold.start_ms - build.now_ms) / 60_000


@pytest.mark.parametrize(("limit", "start"), [(1, 30), (1_000, 30)])
def test_instants_without_room_use_up_nothing_of_how_many_are_tried(build, monkeypatch, limit, start):
    monkeypatch.setattr("scheduler.reserve.MAX_INSTANTS", limit)
    assert minutes(build, earliest(build.job(1, 6), build.world(live=busy(build)))) == start


@pytest.mark.parametrize(("limit", "start"), [(2, None), (3, 15)])
def test_a_job_that_fits_none_of_so_many_instants_has_no_planned_start(build, monkeypatch, limit, start):
    """Borrowers leave after 15 minutes: were they gone, there would be room now, at 10 and at 15."""
    monkeypatch.setattr("scheduler.reserve.MAX_INSTANTS", limit)
    policy = build.policy({"q": {"nominal": 8}, "s": {"nominal": 0}})
    world = build.world(policy, live=busy(build, "s", grace_s=900))
    assert minutes(build, earliest(build.job(1, 6), world)) == start


@pytest.mark.parametrize("queue", ["q", "s"])
@pytest.mark.parametrize("cells", [2, 3, 262_144])
def test_a_start_beyond_the_table_is_found_as_within_it(build, monkeypatch, queue, cells):
    """Whether the queue may be entitled, or only borrows."""
    monkeypatch.setattr("scheduler.timeline.MAX_CELLS", cells)
    policy = build.policy({"q": {"nominal": 8}, "s": {"nominal": 0}})
    world = build.world(policy, live=busy(build, queue))
    assert minutes(build, earliest(build.job(1, 6, queue), world)) == 30
    assert (world.profiles["h200"].timeline.until_ms > build.now_ms + 10**7) is (cells > 4)


def test_gpus_are_taken_back_on_the_first_flavor_where_that_buys_a_start(build):
    """r is within its guarantee on b300 and borrows on h200."""
    policy = build.policy({"q": {"nominal": 4}, "r": {"nominal": 4}})
    nodes = (build.node("n0", 4), build.node("x0", 4, "b300"))
    live = [
        build.live(8, "x0:0 x0:1 x0:2 x0:3", "r", ran_s=120),
        build.live(9, "n0:0 n0:1 n0:2 n0:3", "r", ran_s=60),
    ]
    job = build.job(1, 2, "q", flavors=("b300", "h200"))
    hold = reclaim(job, build.world(policy, nodes=nodes, live=live))
    assert (hold.flavor, hold.victims) == ("h200", ("9-1",))
    alone = build.job(1, 2, "q", flavors=("b300",))
    assert reclaim(alone, build.world(policy, nodes=nodes, live=live)) is None


@pytest.mark.parametrize(("own", "is_owed"), [(2, True), (3, False)])
def test_nothing_is_taken_back_for_a_job_that_is_entitled_only_later(build, own, is_owed):
    """With 3 of its queue's 4 in use it is so in 30 s: before the notice of the borrower would end."""
    policy = build.policy({"q": {"nominal": 4}, "r": {"nominal": 4}})
    gpus = [f"n0:{gpu}" for gpu in range(8)]
    live = [
        build.live(8, " ".join(gpus[:own]), "q", wall_s=90),
        build.live(9, " ".join(gpus[own:]), "r", grace_s=60),
    ]
    assert (reclaim(build.job(1, 2, "q"), build.world(policy, live=live)) is not None) is is_owed


def test_few_instants_are_remembered_and_all_are_answered():
    run = Run("1-1", JobId(1), "q", "h200", 2, ((1, 2),), (0, 1), end_ms=100)
    candidates = Candidates([run], 0, 2)
    asked = [candidates.back(at_ms).tolist() for at_ms in range(95, 105)]
    assert asked == [[0, 2]] * 5 + [[0, 0]] * 5
    assert len(candidates._known.back) == FEW_INSTANTS
