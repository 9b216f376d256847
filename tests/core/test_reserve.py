"""The earliest start: what rules instants out all at once never rules out a start."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from scheduler.fit import Bounds, World
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
