"""Every reason is reached by a plan, with its numbers, and with the changes that start the job where any does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.explain import UNMENDED, explain
from scheduler.model import Array, JobId, ReasonCode, Reservation, ShareClass, Wait
from scheduler.order import ENTITLED_FIRST, FAIR_SHARE, PRIORITY_CLASS, RESERVED, RULES
from scheduler.plan import make_plan
from scheduler.windows import Window, WindowKind

HOUR_MS = 3_600_000
ME = JobId(1)
TWO = {"a": {"nominal": 8}, "b": {"nominal": 8}}


def gpus(node, *numbers):
    return " ".join(f"{node}:{number}" for number in numbers)


def budget_exhausted(build):
    return build.snapshot(pending=[build.job(1, 4)], grants=[build.grant(remaining_s=7_200)]), build.policy()


def grant_not_active(build):
    return build.snapshot(
        pending=[build.job(1, 4)], grants=[build.grant(ends_ms=build.now_ms + HOUR_MS // 2)]
    ), build.policy()


def project_suspended(build):
    return build.snapshot(pending=[build.job(1, is_suspended=True)]), build.policy()


def queue_limit(build):
    tree = {"a": {"nominal": 4, "borrowing_limit": 0}, "b": {"nominal": 4}}
    live = [build.live(9, gpus("n0", 0, 1), "a")]
    return build.snapshot(pending=[build.job(1, 4, "a")], live=live), build.policy(tree)


def borrowing_limit(build):
    tree = {"a": {"nominal": 4}, "b": {"nominal": 4, "lending_limit": 2}}
    live = [build.live(9, gpus("n0", 0, 1, 2, 3), "a")]
    return build.snapshot(pending=[build.job(1, 4, "a")], live=live), build.policy(tree)


def waiting_turn(build):
    return build.snapshot(pending=[build.job(1, 6), build.job(2, 4, age_s=90)]), build.policy()


def no_capacity(build):
    live = [build.live(9, gpus("n0", 0, 1, 2, 3, 4))]
    return build.snapshot(pending=[build.job(1, 4)], live=live), build.policy()


def fragmented(build):
    live = [build.live(9, f"{gpus('n0', 0, 1, 2, 3)} {gpus('n1', 0, 1, 2, 3)}")]
    policy = build.policy({"q": {"nominal": 16}, "x": {"nominal": 0}})
    return build.snapshot(build.nodes(8, 8), [build.job(1, 6, "x", nodes=1)], live), policy


def fragmented_by_entitled(build):
    live = [
        build.live(8, f"{gpus('n0', 0, 1)} {gpus('n1', 0, 1)}", "a", is_protected=True),
        build.live(9, f"{gpus('n0', 2, 3, 4, 5)} {gpus('n1', 2, 3, 4, 5)}", "b"),
    ]
    tree = {"a": {"nominal": 12}, "b": {"nominal": 0}}
    return build.snapshot(build.nodes(8, 8), [build.job(1, 8, "a", nodes=1)], live), build.policy(tree)


def reclaiming(build):
    live = [build.live(9, gpus("n0", *range(8)), "b", wall_s=90_000, grace_s=60)]
    tree = {"a": {"nominal": 8}, "b": {"nominal": 0}}
    return build.snapshot(pending=[build.job(1, 4, "a")], live=live), build.policy(tree)


def reserved_for(build):
    live = [build.live(9, gpus("n0", 0, 1, 2, 3), wall_s=3_660)]
    return build.snapshot(
        pending=[build.job(2, 8, age_s=90), build.job(1, 4, wall_s=9_000)], live=live
    ), build.policy()


def maintenance(build):
    window = Window(
        "w1", WindowKind.MAINTENANCE, frozenset({"n0"}), build.now_ms + HOUR_MS // 2, build.now_ms + HOUR_MS
    )
    return build.snapshot(pending=[build.job(1, 4)], windows=(window,)), build.policy()


def dependency(build):
    return build.snapshot(pending=[build.job(1, waits_for=JobId(7))]), build.policy()


def begin_time(build):
    return build.snapshot(pending=[build.job(1, begin_ms=build.now_ms + 1)]), build.policy()


def array_cap(build):
    live = [build.live(9, gpus("n0", 0), array_id=JobId(1))]
    return build.snapshot(pending=[build.job(1, array=Array(JobId(1), 1))], live=live), build.policy()


def backoff(build):
    return build.snapshot(pending=[build.job(1, back_off_until_ms=build.now_ms + 1)]), build.policy()


def held(build):
    return build.snapshot(pending=[build.job(1, is_held=True)]), build.policy()


def paused(build):
    return build.snapshot(pending=[build.job(1, is_paused=True)]), build.policy()


def never_fits(build):
    return build.snapshot(pending=[build.job(1, 9)]), build.policy()


CASES = {
    ReasonCode.BUDGET_EXHAUSTED: (budget_exhausted, {"gpus": 2, "walltime_s": 1_800}),
    ReasonCode.GRANT_NOT_ACTIVE: (grant_not_active, {"walltime_s": 1_800}),
    ReasonCode.PROJECT_SUSPENDED: (project_suspended, {}),
    ReasonCode.QUEUE_LIMIT: (queue_limit, {"gpus": 2}),
    ReasonCode.BORROWING_LIMIT: (borrowing_limit, {"gpus": 2}),
    ReasonCode.WAITING_TURN: (waiting_turn, {"gpus": 4}),
    ReasonCode.NO_CAPACITY: (no_capacity, {"gpus": 3}),
    ReasonCode.FRAGMENTED: (fragmented, {"gpus": 4, "nodes": None}),
    ReasonCode.FRAGMENTED_BY_ENTITLED: (fragmented_by_entitled, {"gpus": 2}),
    ReasonCode.RECLAIMING: (reclaiming, {}),
    ReasonCode.RESERVED_FOR: (reserved_for, {"walltime_s": 3_600}),
    ReasonCode.MAINTENANCE: (maintenance, {"walltime_s": 1_800}),
    ReasonCode.DEPENDENCY: (dependency, {}),
    ReasonCode.BEGIN_TIME: (begin_time, {}),
    ReasonCode.ARRAY_CAP: (array_cap, {}),
    ReasonCode.BACKOFF: (backoff, {}),
    ReasonCode.HELD: (held, {}),
    ReasonCode.PAUSED: (paused, {}),
    ReasonCode.NEVER_FITS: (never_fits, {"gpus": 8}),
}


def test_every_reason_has_a_case():
    assert set(CASES) == set(ReasonCode)


@pytest.mark.parametrize("code", ReasonCode)
def test_a_plan_reaches_the_reason_and_the_change_that_mends_it(build, code):
    case, changes = CASES[code]
    snapshot, policy = case(build)
    waits = {one.job_id: one for one in make_plan(snapshot, policy).entries if isinstance(one, Wait)}
    assert waits[ME].reason is code
    found = explain(ME, snapshot, policy)
    assert found.wait == waits[ME]
    assert {change.what: change.new for change in found.changes} == changes
    assert not (changes and code in UNMENDED)


def rule_ahead(snapshot, policy, who=ME, ahead=2):
    """The rule by which another job goes before one that waits its turn, as the plan tells it."""
    (wait,) = [one for one in make_plan(snapshot, policy).entries if isinstance(one, Wait)]
    assert (wait.job_id, wait.reason, wait.numbers["ahead"]) == (who, ReasonCode.WAITING_TURN, ahead)
    return wait.numbers["rule"]


def test_every_rule_of_the_order_is_named_by_a_plan(build):
    me, other = build.job(1, 6), build.job(2, 6)
    equal = {"a": {"nominal": 4}, "b": {"nominal": 4}}
    surplus = build.policy({"a": {"nominal": 8}, "x": {"nominal": 0}})

    def of_one_queue(ahead, policy=None):
        return rule_ahead(build.snapshot(pending=[me, ahead]), policy or build.policy())

    def across(*pending, **rest):
        return rule_ahead(build.snapshot(pending=pending, **rest), build.policy(equal))

    planned = Reservation(JobId(2), build.now_ms, (("n0", 6),), "h200", ShareClass.BORROWED, build.now_ms - 1)
    due = build.snapshot(pending=[build.job(1, 6, "x"), build.job(2, 6, "x")], reservations=(planned,))
    earlier = replace(other, submitted_ms=other.submitted_ms - 30_000)
    named = {
        of_one_queue(replace(other, is_expedited=True)),
        of_one_queue(earlier, build.policy(aging={"full_after": "80s"})),
        of_one_queue(replace(other, priority=1)),
        of_one_queue(earlier),
        rule_ahead(build.snapshot(pending=[other, build.job(3, 6)]), build.policy(), JobId(3)),
        across(build.job(1, 6, "a"), build.job(2, 4, "b")),
        across(build.job(1, 6, "b"), build.job(2, 6, "a")),
        across(build.job(1, 6, "a"), build.job(2, 6, "b"), usage={"a": 10**9}),
        rule_ahead(due, surplus),
    }
    assert named == {rule.name for rule in RULES} | {ENTITLED_FIRST, FAIR_SHARE, PRIORITY_CLASS, RESERVED}
