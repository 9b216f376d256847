"""One cycle: worked cases, then what holds for any snapshot."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quota.tree import WHOLE, Use, tree_of
from scheduler.entries import waits_of
from scheduler.model import Admit, Expire, JobId, JobState, LiveAttempt, NodeState, ReasonCode, Reserve, Wait
from scheduler.order import RULES, Aging, FairShare, deciding_rule, in_order
from scheduler.plan import EXPIRE_SLACK_S, effects_digest, make_plan, plan_digest, plan_to_json

DAY_S = 86_400


def plan_of(build, policy=None, **snapshot):
    return make_plan(build.snapshot(**snapshot), policy or build.policy())


def started(plan):
    return [entry.job_id for entry in plan.entries if isinstance(entry, Admit)]


def waits(plan):
    return {
        entry.job_id: (entry.reason, dict(entry.numbers)) for entry in plan.entries if isinstance(entry, Wait)
    }


DAY_OLD = 86_400
ORDER = [
    ("expedited", {"is_expedited": True, "age_s": 1}, {"age_s": 8 * DAY_OLD}),
    ("aged", {"age_s": 7 * DAY_OLD}, {"priority": 9, "age_s": 7 * DAY_OLD - 1}),
    ("submitted", {"age_s": 9 * DAY_OLD}, {"priority": 9, "age_s": 8 * DAY_OLD}),
    ("job_priority", {"priority": 1, "age_s": 1}, {"priority": 0, "age_s": 99}),
    ("job_priority", {"priority": 1, "age_s": 1}, {"gpus": 9, "age_s": 8 * DAY_OLD}),
    ("submitted", {"number": 7, "age_s": 2}, {"number": 3, "age_s": 1}),
    ("id", {"number": 3}, {"number": 7}),
]


@pytest.mark.parametrize(("rule", "ahead", "behind"), ORDER)
def test_the_first_rule_that_differs_decides(build, rule, ahead, behind):
    aging = Aging(build.now_ms, 7 * DAY_OLD, {WHOLE: {"q": 8}})
    first = build.job(**{"number": 1} | ahead)
    second = build.job(**{"number": 2} | behind)
    assert in_order([second, first], aging, "q") == [first, second]
    assert deciding_rule(first, second, aging, "q") == rule
    assert {found.name for found in RULES} == {name for name, _, _ in ORDER}


def test_where_nothing_is_in_service_queues_go_by_name(build):
    tree = {"b": {"nominal": "50%"}, "a": {"nominal": "50%"}}
    bounds = build.bounds(build.snapshot((build.node("n0", state=NodeState.DRAINED),)), build.policy(tree))
    fair = FairShare(bounds.fair_tree, {"a": 5}, bounds.priorities, bounds.times)
    assert fair.next_of(["b", "a"]) == "a"


def test_a_job_that_does_not_fit_is_passed_over(build):
    live = [build.live(9, "n0:0 n0:1 n0:2 n0:3", wall_s=9_000)]
    jobs = [build.job(1, 8), build.job(2, 2), build.job(3, 2)]
    plan = plan_of(build, pending=jobs, live=live)
    assert started(plan) == [2, 3]
    assert waits(plan)[1][0] is ReasonCode.NO_CAPACITY


def test_entries_carry_exact_slots_and_claims(build):
    plan = plan_of(build, nodes=build.nodes(8, 8), pending=[build.job(1, 16, wall_s=60)])
    (entry,) = plan.entries
    assert isinstance(entry, Admit)
    assert [(slot.node, len(slot.gpu_uuids)) for slot in entry.slots] == [("n0", 8), ("n1", 8)]
    assert (entry.claim_s, entry.share_class, entry.grant_id) == (960, "entitled", build.grant().id)
    assert (plan.version, plan.policy_version, plan.at_ms) == ("v1", "1", build.now_ms)


def test_whoever_took_the_last_room_in_this_cycle_is_named_with_the_rule(build):
    jobs = [
        build.job(1, 2, age_s=9),
        build.job(2, 4, age_s=8),
        build.job(3, 1, age_s=7),
        build.job(4, 3, age_s=6),
    ]
    tree = {"q": {"nominal": 8}, "r": {"nominal": 8}}
    nodes = (*build.nodes(8), build.node("n1", state=NodeState.DOWN))
    plan = plan_of(
        build, build.policy(tree), nodes=nodes, pending=[*jobs, build.job(5, 8, "r", age_s=6, nodes=1)]
    )
    assert started(plan) == [1, 2, 3]
    assert waits(plan)[5] == (ReasonCode.WAITING_TURN, {"ahead": 1, "rule": "priority_class"})
    assert waits(plan)[4] == (ReasonCode.WAITING_TURN, {"ahead": 2, "rule": "submitted"})


def test_two_jobs_of_one_shape_get_the_same_answer(build):
    plan = plan_of(build, pending=[build.job(1, 8), build.job(2, 8), build.job(3, 8)])
    expected = (ReasonCode.WAITING_TURN, {"ahead": 1, "rule": "id"})
    assert waits(plan) == {2: expected, 3: expected}


def test_waiting_for_quota_while_gpus_are_free_is_no_waiting_for_a_turn(build):
    policy = build.policy({"q": {"nominal": 4, "borrowing_limit": 0}, "r": {"nominal": 4}})
    plan = plan_of(build, policy, pending=[build.job(1, 3), build.job(2, 2)])
    assert waits(plan) == {2: (ReasonCode.QUEUE_LIMIT, {"queue": "q", "nominal": 4, "used": 3, "gpus": 2})}


def test_what_did_not_fit_beside_the_running_jobs_either_keeps_its_own_reason(build):
    live = [build.live(9, "n0:0 n1:0")]
    nodes = (*build.nodes(2, 2), build.node("n2", state=NodeState.DOWN))
    plan = plan_of(
        build, nodes=nodes, pending=[build.job(1, 1, age_s=90), build.job(2, 2, nodes=1)], live=live
    )
    assert started(plan) == [1]
    assert waits(plan)[2][0] is ReasonCode.NO_CAPACITY
    plan = plan_of(build, nodes=build.nodes(2, 2), pending=[build.job(2, 2, nodes=1)], live=live)
    assert waits(plan)[2][0] is ReasonCode.FRAGMENTED_BY_ENTITLED
    policy = build.policy({"q": {"nominal": 3}, "r": {}})
    plan = plan_of(build, policy, nodes=build.nodes(2, 2), pending=[build.job(2, 2, nodes=1)], live=live)
    assert waits(plan)[2][0] is ReasonCode.FRAGMENTED


AGED = {"age_s": 7 * DAY_S}


def test_an_aged_job_that_lacks_room_closes_its_queue_behind_it(build):
    live = [build.live(9, "n0:0", "r", wall_s=90_000), build.live(8, "n1:0", "r", wall_s=90_000)]
    policy = build.policy({"q": {"nominal": "50%"}, "r": {"nominal": "50%"}})
    jobs = [
        build.job(1, 4, nodes=1, **AGED),
        build.job(2, 1, wall_s=60),
        build.job(3, 1, "r", wall_s=60),
        build.job(4, 3, is_held=True),
    ]
    nodes = build.nodes(4, 4)
    plan = plan_of(build, policy, nodes=nodes, pending=jobs, live=live)
    assert started(plan) == [3]
    assert waits(plan)[1][0] is ReasonCode.FRAGMENTED_BY_ENTITLED
    assert waits(plan)[2] == (ReasonCode.WAITING_TURN, {"ahead": 1, "rule": "aged"})
    assert waits(plan)[4][0] is ReasonCode.HELD  # its own reason stays decisive
    younger = [replace(jobs[0], submitted_ms=jobs[0].submitted_ms + 1), *jobs[1:]]
    assert started(plan_of(build, policy, nodes=nodes, pending=younger, live=live)) == [2, 3]


def test_the_first_of_two_aged_jobs_is_the_one_ahead_and_holds_a_start_beyond_the_limit(build):
    policy = build.policy(start_reservations=0)
    live = [build.live(9, "n0:0"), build.live(8, "n1:0")]
    jobs = [build.job(1, 4, nodes=1, **AGED), build.job(2, 4, nodes=1, **AGED), build.job(3, 1, wall_s=60)]
    plan = plan_of(build, policy, nodes=build.nodes(4, 4), pending=jobs, live=live)
    assert waits(plan)[3] == (ReasonCode.WAITING_TURN, {"ahead": 1, "rule": "aged"})
    assert [entry.job_id for entry in plan.entries if isinstance(entry, Reserve)] == [1]


def test_an_attempt_past_its_walltime_is_expired_once(build):
    late_s = 3_600 + EXPIRE_SLACK_S
    live = [
        build.live(1, "n0:0", ran_s=late_s),
        build.live(2, "n0:1", ran_s=late_s - 1),
        build.live(3, "n0:2", ran_s=late_s, is_stopping=True),
        build.live(4, "n0:3", ran_s=late_s, state=JobState.COMPLETING),
        build.live(5, "n0:4", ran_s=late_s, committed_ms=None, state=JobState.ADMITTED),
    ]
    plan = plan_of(build, live=live, pending=[build.job(9, 7)])
    assert plan.entries[0] == Expire("1-1")
    # Its GPUs are not free before absence is proven; they are counted on a minute from now.
    assert [type(entry) for entry in plan.entries] == [Expire, Wait, Reserve]
    assert plan.next_ms == build.now_ms + 60_000


def test_a_plan_as_json_and_its_digest(build):
    live = [build.live(8, "n0:0", ran_s=9_999), build.live(7, "n0:7", "x", wall_s=9_999, grace_s=60)]
    policy = build.policy({"q": {"nominal": 8}, "x": {"nominal": 0}})
    plan = plan_of(build, policy, live=live, pending=[build.job(1, 2, wall_s=60), build.job(2, 6)])
    assert plan_to_json(plan) == {
        "at_ms": build.now_ms,
        "version": "v1",
        "policy_version": "1",
        "entries": [
            {"kind": "expire", "attempt_id": "8-1"},
            {
                "kind": "admit",
                "job_id": 1,
                "slots": [{"node": "n0", "gpu_uuids": ["n0:1", "n0:2"]}],
                "grant_id": str(build.grant().id),
                "claim_s": 120,
                "share_class": "entitled",
            },
            {
                "kind": "wait",
                "job_id": 2,
                "reason": "WAITING_TURN",
                "numbers": {"ahead": 1, "rule": "id"},
            },
            {
                "kind": "reserve",
                "job_id": 2,
                "start_ms": build.now_ms + 60_000,
                "place": [["n0", 6]],
                "flavor": "h200",
                "share_class": "entitled",
                "is_reclaim": False,
            },
        ],
    }
    assert json.loads(json.dumps(plan_to_json(plan))) == plan_to_json(plan)
    assert plan_digest(plan) != plan_digest(replace(plan, version="v2"))
    assert len(plan_digest(plan)) == 64


def test_reasons_of_some_jobs_are_those_of_the_whole_plan_and_the_digest_names_them(build):
    pending = [build.job(number, 8) for number in range(1, 6)]
    whole, part = plan_of(build, pending=pending), plan_of(build, pending=pending)
    wanted = frozenset({JobId(2), JobId(4), JobId(99)})
    reasons = tuple(entry for entry in whole.entries if isinstance(entry, Wait) and entry.job_id in wanted)
    assert [wait.job_id for wait in reasons] == [2, 4]
    assert waits_of(part, wanted) == reasons  # before the others were worked out
    assert waits_of(whole, wanted) == reasons  # and after
    assert waits_of(replace(whole, entries=tuple(whole.entries)), wanted) == reasons
    digests = {effects_digest(whole, jobs) for jobs in ((), (2,), (2, 4))}
    assert len(digests) == 3
    assert effects_digest(part, [JobId(4), JobId(2)]) == effects_digest(whole, [JobId(2), JobId(4)])
    assert effects_digest(whole, ()) == plan_digest(replace(whole, entries=whole.effects))


TREE = {
    "a": {
        "nominal": "50%",
        "borrowing_limit": "10%",
        "children": {"x": {"nominal": "50%", "priority": 1}, "y": {}},
    },
    "b": {"nominal": "30%", "max_walltime": "2h", "borrowing_limit": 0},
    "c": {"nominal": 0},
}
QUEUES = ["a/x", "a/y", "b", "c", "old", "gone"]
FLAVORS = [("h200",), ("h100",), ("h100", "h200")]


@st.composite
def snapshots(draw, build):
    """Clusters of up to six nodes, some down, with running and waiting jobs of every kind."""
    nodes, free = [], []
    for number in range(draw(st.integers(1, 6))):
        node = build.node(
            f"n{number}",
            draw(st.sampled_from([2, 4, 8])),
            draw(st.sampled_from(["h100", "h200"])),
            draw(st.sampled_from([NodeState.UP] * 4 + [NodeState.DOWN, NodeState.DRAINED])),
        )
        nodes.append(node)
        free.extend(node.gpu_uuids)
    live = []
    for number in range(draw(st.integers(0, 5))):
        held = draw(st.lists(st.sampled_from(free), unique=True, max_size=4)) if free else []
        free = [uuid for uuid in free if uuid not in held]
        if held:
            live.append(
                build.live(
                    900 + number,
                    " ".join(held),
                    draw(st.sampled_from(QUEUES)),
                    ran_s=draw(st.sampled_from([60, 9_000])),
                )
            )
    pending = []
    for number in range(draw(st.integers(0, 14))):
        queue = draw(st.sampled_from(QUEUES))
        pending.append(
            build.job(
                number + 1,
                draw(st.integers(1, 12)),
                queue,
                wall_s=draw(st.sampled_from([600, 3_600, 9_000])),
                nodes=draw(st.sampled_from([None, None, 1, 2])),
                flavors=draw(st.sampled_from(FLAVORS)),
                age_s=draw(st.sampled_from([5, 60, 7 * DAY_S])),
                priority=draw(st.integers(0, 1)),
                is_held=draw(st.sampled_from([False] * 5 + [True])),
                project_id=UUID(int=1 + QUEUES.index(queue)),  # a project has one queue
            )
        )
    grants = [
        build.grant(number, project=UUID(int=1 + number % len(QUEUES)), flavor=draw(st.sampled_from(["h100", "h200"])), remaining_s=draw(st.sampled_from([0, 20_000, 10**6])))
        for number in range(draw(st.integers(0, 16)))
    ]  # fmt: skip
    return build.snapshot(nodes, pending, live, grants)


def policy_for(build):
    return build.policy(TREE, moves={"old": "b"})


def applied(snapshot, plan):
    """The snapshot after the plan was carried out at the same instant."""
    jobs = {job.id: job for job in snapshot.pending}
    starts = [entry for entry in plan.entries if isinstance(entry, Admit)]
    live = [
        LiveAttempt(f"{entry.job_id}-1", entry.job_id, jobs[entry.job_id].project_id, jobs[entry.job_id].queue, jobs[entry.job_id].request, entry.slots, JobState.ADMITTED, snapshot.at_ms)
        for entry in starts
    ]  # fmt: skip
    claimed = {}
    for entry in starts:
        claimed[entry.grant_id] = claimed.get(entry.grant_id, 0) + entry.claim_s
    grants = [
        replace(
            grant,
            remaining_s=grant.remaining_s - claimed.get(grant.id, 0),
            pending_s=grant.pending_s + claimed.get(grant.id, 0),
        )
        for grant in snapshot.grants
    ]
    gone = {entry.job_id for entry in starts}
    pending = tuple(job for job in snapshot.pending if job.id not in gone)
    return replace(snapshot, live=(*snapshot.live, *live), grants=tuple(grants), pending=pending)


@given(st.data())
def test_every_pending_job_is_in_exactly_one_entry(build, data):
    snapshot = data.draw(snapshots(build))
    plan = make_plan(snapshot, policy_for(build))
    named = [entry.job_id for entry in plan.entries if isinstance(entry, Admit | Wait)]
    assert sorted(named) == [job.id for job in snapshot.pending]


@given(st.data())
def test_no_gpu_twice_and_a_gang_whole_or_not_at_all(build, data):
    snapshot = data.draw(snapshots(build))
    plan = make_plan(snapshot, policy_for(build))
    nodes = {node.name: node for node in snapshot.nodes}
    jobs = {job.id: job for job in snapshot.pending}
    held = [uuid for attempt in snapshot.live for slot in attempt.slots for uuid in slot.gpu_uuids]
    for entry in plan.entries:
        if isinstance(entry, Admit):
            request = jobs[entry.job_id].request
            own = [uuid for slot in entry.slots for uuid in slot.gpu_uuids]
            held += own
            assert len(own) == request.gpus
            assert request.nodes in {None, len(entry.slots)}
            if request.nodes is not None:
                assert {len(slot.gpu_uuids) for slot in entry.slots} == {request.gpus // request.nodes}
            assert all(nodes[slot.node].state is NodeState.UP for slot in entry.slots)
            assert all(set(slot.gpu_uuids) <= set(nodes[slot.node].gpu_uuids) for slot in entry.slots)
            assert len({nodes[slot.node].flavor for slot in entry.slots} - set(request.flavors)) == 0
    assert len(held) == len(set(held))


@given(st.data())
def test_neither_a_ceiling_nor_a_budget_is_ever_exceeded(build, data):
    snapshot = data.draw(snapshots(build))
    policy = policy_for(build)
    plan = make_plan(snapshot, policy)
    jobs = {job.id: job for job in snapshot.pending}
    gone = {node.name for node in snapshot.nodes if node.state is NodeState.DRAINED}
    tree = tree_of(policy, sum(snapshot.capacity.values()))
    held = {}
    for attempt in snapshot.live:
        gpus = sum(len(slot.gpu_uuids) for slot in attempt.slots if slot.node not in gone)
        queue = {"old": "b"}.get(attempt.queue, attempt.queue)
        held[queue] = held.get(queue, 0) + gpus
    before, use = Use(tree, held), Use(tree, held)
    for job_id in started(plan):
        use.add({"old": "b"}.get(jobs[job_id].queue, jobs[job_id].queue), jobs[job_id].request.gpus)
    for node, ceiling in tree.ceiling.items():
        assert use.at(node) <= max(ceiling, before.at(node))
    assert all(grant.remaining_s >= 0 for grant in applied(snapshot, plan).grants)


@given(st.data())
def test_the_same_input_gives_the_same_plan_and_stays_as_it_was(build, data):
    snapshot = data.draw(snapshots(build))
    before = copy.deepcopy(snapshot)
    first = make_plan(snapshot, policy_for(build))
    assert snapshot == before
    assert plan_digest(make_plan(before, policy_for(build))) == plan_digest(first)


@given(st.data())
def test_a_job_that_waits_for_its_turn_would_have_started_alone(build, data):
    snapshot = data.draw(snapshots(build))
    policy = policy_for(build)
    plan = make_plan(snapshot, policy)
    jobs = {job.id: job for job in snapshot.pending}
    for job_id, (reason, numbers) in waits(plan).items():
        if reason is ReasonCode.WAITING_TURN:
            alone = replace(snapshot, pending=(jobs[job_id],))
            assert started(make_plan(alone, policy)) == [job_id]
            # Who is ahead as it is aged started on the last room, or waits and shields its queue.
            assert numbers["ahead"] in started(plan) or numbers["rule"] == "aged"


def test_an_empty_cluster_and_an_empty_queue(build):
    assert plan_of(build).entries == ()
    plan = plan_of(build, nodes=(), pending=[build.job(1)])
    assert waits(plan)[JobId(1)][0] is ReasonCode.NEVER_FITS
