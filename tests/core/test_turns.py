"""Turns of a cycle beyond the worked cases: every reason, planned starts that stand, windows, several flavors."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from quota.fairshare import UsageBook, entry_charge, faded
from scheduler.facts import AbsenceProven, Admitted, GraceEnded, JobView, LaunchCommitted
from scheduler.lifecycle import step
from scheduler.model import (
    Admit,
    Array,
    JobId,
    JobState,
    NodeState,
    Preempt,
    ReasonCode,
    Reservation,
    Reserve,
    ShareClass,
    Wait,
)
from scheduler.plan import make_plan, plan_to_json
from scheduler.windows import Window, WindowKind

sys.path.insert(0, str(Path(__file__).parent))
from cluster import Cluster

MINUTE_MS = 60_000


def kinds(plan, kind):
    return [entry for entry in plan.entries if isinstance(entry, kind)]


def reasons(plan):
    return {entry.job_id: (entry.reason, dict(entry.numbers)) for entry in kinds(plan, Wait)}


KEPT_BACK = [
    ({"is_suspended": True}, ReasonCode.PROJECT_SUSPENDED, {}),
    ({"is_held": True}, ReasonCode.HELD, {}),
    ({"is_paused": True}, ReasonCode.PAUSED, {}),
    ({"waits_for": JobId(7)}, ReasonCode.DEPENDENCY, {"job": 7}),
    ({"begin_ms": 5}, ReasonCode.BEGIN_TIME, {"start_ms": 5}),
    ({"array": Array(JobId(3), 1)}, ReasonCode.ARRAY_CAP, {"array": 3, "limit": 1}),
    ({"back_off_until_ms": 5}, ReasonCode.BACKOFF, {"until_ms": 5, "attempts": 0}),
]


@pytest.mark.parametrize(("rest", "reason", "numbers"), KEPT_BACK)
def test_what_someone_keeps_back_says_who(build, rest, reason, numbers):
    moved = {
        key: value + build.now_ms if key in {"begin_ms", "back_off_until_ms"} else value
        for key, value in rest.items()
    }
    numbers = {key: value + build.now_ms if key.endswith("_ms") else value for key, value in numbers.items()}
    live = [build.live(9, "n0:0", array_id=JobId(3))]
    plan = make_plan(build.snapshot(pending=[build.job(1, **moved)], live=live), build.policy())
    assert reasons(plan) == {1: (reason, numbers)}


def test_what_keeps_one_job_back_is_not_told_to_others_like_it(build):
    jobs = [build.job(1, 4, is_held=True), build.job(2, 4), build.job(3, 4, begin_ms=build.now_ms + 5)]
    live = [build.live(9, " ".join(f"n0:{gpu}" for gpu in range(8)))]
    policy = build.policy({"q": {"nominal": 0}, "r": {"nominal": 8}}, start_reservations=0)
    plan = make_plan(build.snapshot(pending=jobs, live=live), policy)
    found = {job_id: reason for job_id, (reason, _) in reasons(plan).items()}
    assert found == {1: ReasonCode.HELD, 2: ReasonCode.NO_CAPACITY, 3: ReasonCode.BEGIN_TIME}


def test_an_array_starts_no_more_than_its_cap_in_one_cycle(build):
    jobs = [build.job(number, array=Array(JobId(1), 2)) for number in range(1, 5)]
    plan = make_plan(build.snapshot(pending=jobs), build.policy())
    assert [entry.job_id for entry in kinds(plan, Admit)] == [1, 2]
    assert {reason for reason, _ in reasons(plan).values()} == {ReasonCode.ARRAY_CAP}


def test_a_job_that_gpus_are_taken_back_for_has_its_place_in_its_array(build):
    """Its sibling neither takes back too nor starts, though there is room for it; nor once the notice is out."""
    tree = {"q": {"nominal": 8}, "r": {"nominal": 8}, "x": {"nominal": 0}}
    live = [
        build.live(8 + node, " ".join(f"n{node}:{gpu}" for gpu in range(8)), "x", wall_s=90_000, grace_s=120)
        for node in range(2)
    ]
    array = Array(JobId(1), 1)
    jobs = [
        build.job(1, 8, "q", nodes=1, age_s=90, array=array),
        build.job(2, 8, "r", nodes=1, array=array),
        build.job(3, 2, "q", array=array),
        build.job(4, 2, "r"),
    ]
    snapshot = build.snapshot(build.nodes(8, 8, 4), jobs, live)
    plan = make_plan(snapshot, build.policy(tree))
    assert [(entry.attempt_id, entry.for_job) for entry in kinds(plan, Preempt)] == [("8-1", 1)]
    assert [entry.job_id for entry in kinds(plan, Admit)] == [4]
    capped = (ReasonCode.ARRAY_CAP, {"array": 1, "limit": 1})
    assert {job_id: reasons(plan)[job_id] for job_id in (2, 3)} == {2: capped, 3: capped}
    (told,) = kinds(plan, Reserve)
    kept = Reservation(
        JobId(1), told.start_ms, told.place, "h200", ShareClass.ENTITLED, build.now_ms - 1, is_reclaim=True
    )
    noticed = [replace(live[0], reclaimed_by=JobId(1), stop_ms=told.start_ms), live[1]]
    later = replace(snapshot, pending=tuple(jobs[:3]), live=tuple(noticed), reservations=(kept,))
    plan = make_plan(later, build.policy(tree))
    assert kinds(plan, Admit) + kinds(plan, Preempt) == []
    assert {job_id: reasons(plan)[job_id] for job_id in (2, 3)} == {2: capped, 3: capped}
    freed = make_plan(replace(later, live=(live[1],)), build.policy(tree))
    assert [entry.job_id for entry in kinds(freed, Admit)] == [1]


def test_a_second_turn_starts_no_more_of_an_array_than_its_cap(build):
    """Both wait for the aged job's place in its own array, which the first start takes: then one of them may start."""
    array = Array(JobId(1), 1)
    aged = build.job(1, 8, "c", age_s=8 * 86_400, array=Array(JobId(7), 1))
    jobs = [
        aged,
        build.job(2, 2, "b", wall_s=300, age_s=90, array=Array(JobId(7), 1)),
        build.job(3, 1, "c", age_s=60, array=array),
        build.job(4, 1, "c", age_s=50, array=array),
    ]
    tree = {"b": {"nominal": 4}, "c": {"nominal": 8}}
    plan = make_plan(build.snapshot(build.nodes(8, 4), jobs), build.policy(tree, start_reservations=0))
    assert {entry.job_id for entry in kinds(plan, Admit)} == {2, 3}
    assert reasons(plan)[4] == (ReasonCode.ARRAY_CAP, {"array": 1, "limit": 1})


def window(build, kind, *, nodes="n0", begin=60, end=120, projects=()):
    return Window(
        "w1",
        kind,
        frozenset(nodes.split()),
        build.now_ms + begin * MINUTE_MS,
        build.now_ms + end * MINUTE_MS,
        frozenset(projects),
    )


def test_an_advance_reservation_is_for_its_projects(build):
    job = build.job(1, 8, wall_s=7_200)
    shut = window(build, WindowKind.RESERVATION)
    plan = make_plan(build.snapshot(pending=[job], windows=(shut,)), build.policy())
    assert reasons(plan)[1] == (
        ReasonCode.RESERVED_FOR,
        {"job": "w1", "window": "w1", "start_ms": shut.from_ms},
    )
    (reserve,) = kinds(plan, Reserve)
    assert reserve.start_ms == shut.to_ms
    own = replace(shut, projects=frozenset({build.project}))
    assert kinds(make_plan(build.snapshot(pending=[job], windows=(own,)), build.policy()), Admit)
    other = window(build, WindowKind.MAINTENANCE, nodes="n1")
    nodes = build.nodes(8, 8)
    (start,) = kinds(make_plan(build.snapshot(nodes, [job], windows=(other,)), build.policy()), Admit)
    assert start.slots[0].node == "n0"


def test_a_planned_start_that_lost_its_budget_keeps_nobody_out(build):
    """A start of this cycle took what was left of the project's grant: the room that was kept for the other is free."""
    other = UUID(int=2)
    grants = [build.grant(1, remaining_s=10_000), build.grant(2, project=other)]
    live = [build.live(9, "n0:0 n0:1 n0:2 n0:3", project_id=other, wall_s=1_860)]
    jobs = [
        build.job(1, 8, wall_s=1_000, age_s=90),
        build.job(2, 2, wall_s=1_500, age_s=80),
        build.job(3, 2, wall_s=90_000, age_s=70, project_id=other),
    ]
    start_ms, planned_ms = build.now_ms + 1_800_000, build.now_ms - 1
    kept = Reservation(JobId(1), start_ms, (("n0", 8),), "h200", ShareClass.ENTITLED, planned_ms)
    snapshot = build.snapshot(pending=jobs, live=live, grants=grants, reservations=(kept,))
    plan = make_plan(snapshot, build.policy())
    assert [entry.job_id for entry in kinds(plan, Admit)] == [2, 3]
    assert kinds(plan, Reserve) == []
    assert reasons(plan)[1][0] is ReasonCode.BUDGET_EXHAUSTED


def test_the_first_planned_start_that_shuts_a_job_out_is_named(build):
    live = [
        build.live(8, "n0:0 n0:1 n0:2 n0:3", wall_s=3_660),
        build.live(9, "n1:0 n1:1 n1:2 n1:3", wall_s=7_260),
    ]
    jobs = [build.job(1, 8, nodes=1), build.job(2, 8, nodes=1), build.job(3, 4, wall_s=90_000)]
    plan = make_plan(build.snapshot(build.nodes(8, 8), jobs, live), build.policy(start_reservations=2))
    assert [(entry.job_id, entry.place) for entry in kinds(plan, Reserve)] == [
        (1, (("n0", 8),)),
        (2, (("n0", 8),)),
    ]
    assert [entry.job_id for entry in kinds(plan, Admit)] == [3]
    nodes = build.nodes(8)
    plan = make_plan(build.snapshot(nodes, jobs, live[:1]), build.policy(start_reservations=2))
    assert reasons(plan)[3] == (
        ReasonCode.RESERVED_FOR,
        {"job": 1, "start_ms": build.now_ms + 3_600_000},
    )


@pytest.mark.parametrize(("borrowed", "holders"), [(0, [3]), (1, [1, 3]), (2, [1, 2, 3])])
def test_work_that_is_not_entitled_holds_few_planned_starts_and_entitled_work_the_rest(
    build, borrowed, holders
):
    """a and b hold what is theirs, a also what c lent; c's job cannot take that back, as it is protected."""
    tree = {"a": {"nominal": 8}, "b": {"nominal": 8}, "c": {"nominal": 8}}
    gpus = [" ".join(f"n{node}:{gpu}" for gpu in range(8)) for node in range(3)]
    live = [
        build.live(7, gpus[0], "a", ran_s=90),
        build.live(8, gpus[1], "b", ran_s=80),
        build.live(9, gpus[2], "a", ran_s=70, is_protected=True),
    ]
    jobs = [build.job(1, 8, "a"), build.job(2, 8, "b"), build.job(3, 8, "c")]
    policy = build.policy(tree, borrowed_reservations=borrowed)
    snapshot = build.snapshot(build.nodes(8, 8, 8), jobs, live)
    plan = make_plan(snapshot, policy)
    assert [entry.job_id for entry in kinds(plan, Reserve)] == holders
    standing = tuple(
        Reservation(
            job_id=entry.job_id,
            start_ms=entry.start_ms,
            place=entry.place,
            flavor=entry.flavor,
            share_class=entry.share_class,
            planned_ms=build.now_ms - MINUTE_MS,
        )
        for entry in kinds(plan, Reserve)
    )
    later = make_plan(replace(snapshot, reservations=standing), build.policy(tree, borrowed_reservations=0))
    assert [entry.job_id for entry in kinds(later, Reserve)] == holders  # who holds one keeps it


def test_a_job_that_takes_two_flavors_plans_the_earlier_start(build):
    nodes = (build.node("a", 2, "h100"), build.node("b", 2))
    live = [build.live(8, "a:0", wall_s=7_200), build.live(9, "b:0", wall_s=3_600)]
    grants = [build.grant(1), build.grant(2, flavor="h100")]
    job = build.job(1, 2, flavors=("h100", "h200", "gb300"))
    plan = make_plan(build.snapshot(nodes, [job], live, grants), build.policy())
    (reserve,) = kinds(plan, Reserve)
    assert (reserve.flavor, reserve.place) == ("h200", (("b", 2),))


def test_a_start_planned_on_a_lost_node_is_planned_anew(build):
    kept = Reservation(
        JobId(1), build.now_ms + MINUTE_MS, (("gone", 8),), "h200", ShareClass.ENTITLED, 0, is_reclaim=True
    )
    live = [build.live(9, "n0:0", wall_s=3_660)]
    snapshot = build.snapshot(pending=[build.job(1, 8)], live=live, reservations=(kept,))
    (reserve,) = kinds(make_plan(snapshot, build.policy()), Reserve)
    assert (reserve.start_ms, reserve.place) == (build.now_ms + 3_600_000, (("n0", 8),))
    assert not reserve.is_reclaim


def test_gpus_that_come_back_late_are_waited_for_on_the_same_nodes(build):
    kept = Reservation(JobId(1), build.now_ms, (("n0", 8),), "h200", ShareClass.ENTITLED, 0, is_reclaim=True)
    late = build.live(9, "n0:0", "x", reclaimed_by=JobId(1), stop_ms=build.now_ms, is_stopping=True)
    policy = build.policy({"q": {"nominal": 8}, "x": {"nominal": 0}})
    snapshot = build.snapshot(pending=[build.job(1, 8), build.job(2, 4)], live=[late], reservations=(kept,))
    plan = make_plan(snapshot, policy)
    assert kinds(plan, Admit) == []
    assert reasons(plan)[1] == (
        ReasonCode.RECLAIMING,
        {"gpus": 8, "until_ms": build.now_ms + MINUTE_MS},
    )
    assert reasons(plan)[2][0] is ReasonCode.RESERVED_FOR
    again = make_plan(replace(snapshot, live=()), policy)
    assert [entry.job_id for entry in kinds(again, Admit)] == [1]


def test_notices_are_entries_of_the_plan(build):
    policy = build.policy({"q": {"nominal": 8}, "x": {"nominal": 0}})
    live = [build.live(9, "n0:0", "x", wall_s=90_000, grace_s=120)]
    plan = make_plan(build.snapshot(pending=[build.job(1, 8)], live=live), policy)
    stop_ms = build.now_ms + 120_000
    assert kinds(plan, Preempt) == [Preempt("9-1", JobId(1), stop_ms)]
    assert plan_to_json(plan)["entries"][-1] == {
        "kind": "preempt",
        "attempt_id": "9-1",
        "for_job": 1,
        "stop_ms": stop_ms,
    }
    assert plan.next_ms == stop_ms


def test_what_an_operator_protects_is_no_victim(build):
    policy = build.policy({"q": {"nominal": 8}, "x": {"nominal": 0}})
    live = [build.live(9, "n0:0", "x", wall_s=90_000, is_protected=True)]
    plan = make_plan(build.snapshot(pending=[build.job(1, 8)], live=live), policy)
    assert kinds(plan, Preempt) == []


CLAIM_S = 8 * 3_600


def reclaiming(build, remaining_s, jobs):
    """Job 1 waits for the GPUs of a borrower under notice; the other node is free."""
    policy = build.policy({"q": {"nominal": 16}, "x": {"nominal": 0}})
    notice = {"reclaimed_by": JobId(1), "stop_ms": build.now_ms + MINUTE_MS}
    held = " ".join(f"n0:{gpu}" for gpu in range(8))
    live = [build.live(9, held, "x", wall_s=90_000, grace_s=120, **notice)]
    start_ms, planned_ms = build.now_ms + MINUTE_MS, build.now_ms - MINUTE_MS
    kept = Reservation(
        JobId(1), start_ms, (("n0", 8),), "h200", ShareClass.ENTITLED, planned_ms, is_reclaim=True
    )
    snapshot = build.snapshot(
        build.nodes(8, 8),
        jobs,
        live,
        [build.grant(remaining_s=remaining_s)],
        reservations=(kept,),
    )
    return snapshot, policy


@pytest.mark.parametrize(("remaining_s", "is_started"), [(2 * CLAIM_S, True), (2 * CLAIM_S - 1, False)])
def test_no_job_of_the_project_uses_up_the_budget_of_a_start_that_attempts_got_notice_for(
    build, remaining_s, is_started
):
    jobs = [build.job(1, 8), build.job(2, 8)]
    snapshot, policy = reclaiming(build, remaining_s, jobs)
    plan = make_plan(snapshot, policy)
    assert [entry.job_id for entry in kinds(plan, Admit)] == ([2] if is_started else [])
    assert [entry.job_id for entry in kinds(plan, Reserve)] == [1]
    if not is_started:
        numbers = {"claim_s": CLAIM_S, "remaining_s": CLAIM_S - 1, "pending_s": CLAIM_S}
        assert reasons(plan)[2] == (ReasonCode.BUDGET_EXHAUSTED, numbers)
    later = make_plan(
        replace(snapshot, live=()), policy
    )  # the borrower ended: what was set aside pays the start
    assert {entry.job_id for entry in kinds(later, Admit)} == ({1, 2} if is_started else {1})


def test_notice_that_goes_out_sets_aside_budget_of_a_grant_that_lasts(build):
    """The first grant to end does not reach the later end of the reclaimer: it pays a job that starts now."""
    policy = build.policy({"q": {"nominal": 12}, "x": {"nominal": 0}})
    live = [build.live(9, " ".join(f"n0:{gpu}" for gpu in range(8)), "x", wall_s=90_000)]
    lasting = build.grant(2, remaining_s=CLAIM_S)
    jobs = [build.job(1, 8, nodes=1), build.job(2, 4)]
    snapshot = build.snapshot(build.nodes(8, 4), jobs, live, grants=[lasting])
    plan = make_plan(snapshot, policy)
    assert [entry.for_job for entry in kinds(plan, Preempt)] == [1]
    assert kinds(plan, Admit) == []
    assert reasons(plan)[2][0] is ReasonCode.BUDGET_EXHAUSTED
    short = build.grant(1, remaining_s=CLAIM_S, ends_ms=build.now_ms + 3_600_000)
    plan = make_plan(replace(snapshot, grants=(short, lasting)), policy)
    assert [entry.for_job for entry in kinds(plan, Preempt)] == [1]
    assert [(entry.job_id, entry.grant_id) for entry in kinds(plan, Admit)] == [(2, short.id)]


def test_two_reclaimers_share_what_the_second_freed(build):
    """The first takes 2 of a borrower's 4; the second needs all 8 of a node: its victim serves the first too."""
    policy = build.policy({"a": {"nominal": 8}, "b": {"nominal": 8}, "x": {"nominal": 0}})
    live = [
        build.live(8, "n0:0 n0:1 n0:2 n0:3 n0:4 n0:5 n0:6 n0:7", "x", wall_s=90_000, ran_s=50),
        build.live(9, "n1:0 n1:1 n1:2 n1:3 n1:4 n1:5 n1:6 n1:7", "x", wall_s=90_000, ran_s=60),
    ]
    jobs = [build.job(1, 2, "a"), build.job(2, 6, "b", nodes=1)]
    plan = make_plan(build.snapshot(build.nodes(8, 8), jobs, live), policy)
    assert [entry.attempt_id for entry in kinds(plan, Preempt)] == ["8-1"]
    assert {entry.job_id for entry in kinds(plan, Reserve)} == {1, 2}


def test_fill_back_over_all_victims_spares_whom_a_later_reclaim_made_needless(build):
    policy = build.policy({"a": {"nominal": 2}, "b": {"nominal": 8}, "x": {"nominal": 0}})
    live = [
        build.live(8, "n0:0 n0:1", "x", wall_s=90_000, ran_s=10),
        build.live(9, "n1:0 n1:1 n1:2 n1:3 n1:4 n1:5 n1:6 n1:7", "x", wall_s=90_000, ran_s=900),
        build.live(7, "n0:2 n0:3 n0:4 n0:5 n0:6 n0:7", "a", wall_s=90_000, is_protected=True),
    ]
    jobs = [build.job(1, 2, "a"), build.job(2, 6, "b", nodes=1)]
    plan = make_plan(build.snapshot(build.nodes(8, 8), jobs, live), policy)
    assert [(entry.attempt_id, entry.for_job) for entry in kinds(plan, Preempt)] == [("9-1", 2)]
    places = {entry.job_id: entry.place for entry in kinds(plan, Reserve)}
    assert places == {1: (("n1", 2),), 2: (("n1", 6),)}


def test_nobody_gets_notice_for_a_job_that_can_start_once_its_queues_head_went_elsewhere(build):
    """The head's planned start is first sought without those of borrowers; beside these it comes on another node."""
    live = [
        build.live(9, "n0:0 n0:1 n0:2 n0:3 n0:4", "y", wall_s=6_060),
        build.live(8, " ".join(f"n1:{gpu}" for gpu in range(8)), "y", wall_s=6_060),
        build.live(7, "n2:0", "x", wall_s=600_000),
    ]
    jobs = [
        build.job(1, 4, "x", wall_s=90_000),
        build.job(2, 8, "a", wall_s=90_000, age_s=90),
        build.job(3, 1, "a", wall_s=90_000),
    ]
    start_ms, planned_ms = build.now_ms + 6_000_000, build.now_ms - 1
    kept = Reservation(JobId(1), start_ms, (("n0", 4),), "h200", ShareClass.BORROWED, planned_ms)
    policy = build.policy(
        {"a": {"nominal": 1}, "x": {"nominal": 0}, "y": {"nominal": 16}}, borrowed_reservations=16
    )
    plan = make_plan(build.snapshot(build.nodes(8, 8, 1), jobs, live, reservations=(kept,)), policy)
    assert kinds(plan, Preempt) == []
    assert [(entry.job_id, entry.slots[0].node) for entry in kinds(plan, Admit)] == [(3, "n0")]
    assert {entry.job_id: entry.place for entry in kinds(plan, Reserve)} == {1: (("n0", 4),), 2: (("n1", 8),)}


def test_a_gang_of_the_whole_nominal_lands_under_a_flood_of_small_jobs(build):
    policy = build.policy(
        {"q": {"nominal": 16}, "r": {"nominal": 0}}, aging={"full_after": "2h"}, start_reservations=0
    )
    cluster = Cluster(policy, [8, 8])
    for number in range(16):
        cluster.submit(1, "q", 5 + 5 * (number % 6))
    cluster.cycle()
    gang = cluster.submit(16, "q", 60)
    for _ in range(60):
        for _ in range(4):
            cluster.submit(1, "q", 30)
        cluster.cycle()
        cluster.advance(5)
        if gang not in cluster.pending:
            break
    # aged after 120 minutes, then the longest walltime of what runs, and a cycle
    waited_ms = cluster.live[f"{gang}-1"].admitted_ms - 10**12
    assert 120 * MINUTE_MS <= waited_ms <= (120 + 30 + 5) * MINUTE_MS


def test_drained_nodes_neither_count_nor_hold_up(build):
    nodes = (build.node("n0", state=NodeState.DRAINED), build.node("n1"))
    live = [build.live(9, "n0:0 n0:1 n0:2 n0:3 n0:4 n0:5 n0:6 n0:7", wall_s=90_000)]
    plan = make_plan(build.snapshot(nodes, [build.job(1, 8)], live), build.policy())
    assert [entry.share_class for entry in kinds(plan, Admit)] == ["entitled"]


def test_an_attempt_that_gave_way_waits_again_with_its_place():
    view = JobView(JobId(1), JobState.PENDING)
    for fact in (Admitted("1-1", 4, 60, ("n0",), 0), LaunchCommitted("1-1", 0), GraceEnded("1-1", 10_000)):
        view = step(view, fact).job
    assert view.state is JobState.COMPLETING
    assert step(view, GraceEnded("1-1", 11_000)).ignored == "already_stopping"
    outcome = step(view, AbsenceProven("1-1", 12_000))
    assert outcome.job.state is JobState.PENDING
    assert outcome.effects[0].used_s == 40


def test_use_fades_by_half_and_entries_count_until_the_next_sample():
    assert faded(1_000, 60, 60) == 500
    assert entry_charge(4, 3_600) == 14_400_000
    book = UsageBook({"a": 1_000}).admitted("a", entry_charge(1, 60)).admitted("b", entry_charge(2, 60))
    assert book.usage() == {"a": 61_000, "b": 120_000}
    assert book.sample({"a": 5}, 60, 60).usage() == {"a": 505}
