"""The earliest start: what rules instants out all at once never rules out a start."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from scheduler.fit import Bounds, World
from scheduler.profile import FEW_INSTANTS, Run
from scheduler.reclaim import Candidates, by_loss
from scheduler.reserve import Search


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
