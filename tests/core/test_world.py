"""The world of a cycle: what is set aside for starts that attempts got notice for."""

from __future__ import annotations

from scheduler.model import JobId, ShareClass
from scheduler.profile import Hold


def test_budget_is_set_aside_of_the_first_grant_that_covers_the_start(build):
    """The first to end holds a second too little; where none covers it, none is touched."""
    few = build.grant(1, remaining_s=3_599, ends_ms=build.now_ms + 10**8)
    more = build.grant(2, remaining_s=3_600)
    start_ms = build.now_ms + 60_000
    hold = Hold(
        JobId(1), "q", "h200", 1, start_ms, start_ms + 3_600_000, ((0, 1),), ShareClass.ENTITLED,
        is_reclaim=True, project_id=build.project,
    )  # fmt: skip
    for grants, aside_s in (([few, more], {few.id: 0, more.id: 3_600}), ([few], {few.id: 0})):
        world = build.world(grants=grants)
        world.hold(hold)
        assert {grant_id: world.claimed_s(grant_id) for grant_id in aside_s} == aside_s
        assert world.claims(build.project) == sum(seconds > 0 for seconds in aside_s.values())
        assert world.claimed_s(more.id, JobId(1)) == 0
        world.release(JobId(1))
        assert {world.claimed_s(grant_id) for grant_id in aside_s} == {0}
