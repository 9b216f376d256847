"""What holds in every cluster, whatever happens to it: a state machine over cycles, time, nodes and policies."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from quota.policy import parse_policy
from quota.tree import WHOLE
from scheduler.fit import Bounds, World
from scheduler.index import Index
from scheduler.model import Admit, Array, JobId, NodeState, Preempt, ReasonCode, Reserve, Slot, Wait
from scheduler.plan import make_plan, plan_digest
from scheduler.windows import Window, WindowKind

sys.path.insert(0, str(Path(__file__).parent))
from cluster import PROJECT, Cluster
from guarantees import denied, overtaken, put_off

QUEUES = ["a", "p/b", "p/c", "x"]
GRACE = {"preemption": {"grace": "2m"}}
LONGEST_GRACE_MS = 300_000


def policy_of(a, b, c, limits, reservations, borrowed=1):
    tree = {
        "a": {"nominal": a, **GRACE} | limits.get("a", {}),
        "p": {
            "nominal": b + c,
            "children": {
                "b": {"nominal": b, "preemption": {"grace": "5m"}} | limits.get("b", {}),
                "c": {"nominal": c, **GRACE},
            },
        }
        | limits.get("p", {}),
        "x": {"nominal": 0, **GRACE},
    }
    ground = {"kind": "order", "body": "authorised body", "number": "7", "date": "2025-12-25"}
    return parse_policy(
        {
            "policy": {
                "version": "1",
                "effective_from": "2026-01-01",
                "grounds": [ground],
                "tree": tree,
                "routes": [{"queue": "a"}],
                "aging": {"full_after": "2h"},
                "start_reservations": reservations,
                "borrowed_reservations": borrowed,
            }
        }
    )


LIMITS = st.sampled_from(
    [
        {},
        {},
        {"a": {"borrowing_limit": 2}},
        {"p": {"lending_limit": 1}},
        {"p": {"borrowing_limit": 0}, "b": {"lending_limit": 1}},
    ]
)


SPECIAL = [
    {"begin": 5},
    {"begin": 90},
    {"is_held": True},
    {"array": Array(JobId(1), 1)},
    {"is_expedited": True},
    {"priority": 1},
]


JOBS = st.tuples(
    st.sampled_from([1, 1, 2, 2, 3, 4, 6, 8, 10]),
    st.sampled_from(QUEUES),
    st.sampled_from([3, 10, 45, 300]),
    st.sampled_from([None, None, None, 1, 2]),
    st.sampled_from([{}, {}, {}, {}, *SPECIAL]),
)


def entries(plan, kind):
    return [entry for entry in plan.entries if isinstance(entry, kind)]


class Cycles(RuleBasedStateMachine):
    """Nodes of 2 to 8 GPUs; jobs of every queue; the nominals never exceed the capacity by design."""

    @initialize(data=st.data())
    def begin(self, data):
        sizes = data.draw(st.lists(st.sampled_from([2, 4, 8]), min_size=1, max_size=4))
        self.total = sum(sizes)
        self.draw_policy = lambda draw: policy_of(
            draw(st.integers(0, self.total // 2)),
            draw(st.integers(0, self.total // 4)),
            draw(st.integers(0, self.total // 4)),
            draw(LIMITS),
            draw(st.sampled_from([0, 1, 3, 6])),
            draw(st.sampled_from([1, 3, 6])),
        )
        self.cluster = Cluster(self.draw_policy(data.draw), sizes)
        self.noticed = {}
        self.denied = {}
        self.cycled_ms = None
        self.windows = 0
        self.is_disturbed = True
        self.index = Index()
        self.submit(data.draw(st.lists(JOBS, max_size=10)))
        self.cycle()

    def disturb(self):
        """An act from outside, or the loss of a node, may move what was promised."""
        self.noticed.clear()
        self.denied.clear()
        self.is_disturbed = True

    @rule(jobs=st.lists(JOBS, min_size=1, max_size=4))
    def submit(self, jobs):
        for gpus, queue, wall, nodes, rest in jobs:
            size = min(gpus, self.total)
            size += size % 2 if nodes == 2 else 0
            more = dict(rest)
            if "begin" in more:
                more["begin_ms"] = self.cluster.at_ms + more.pop("begin") * 60_000
            self.is_disturbed |= "is_expedited" in more
            self.cluster.submit(size, queue, wall, nodes=nodes, **more)

    @rule(minutes=st.sampled_from([1, 2, 7, 60]))
    def pass_time(self, minutes):
        # Cycles come at least when the last plan said that the next one has to.
        left_ms = minutes * 60_000
        while left_ms:
            next_ms = getattr(self, "last", None) and self.last.next_ms
            if next_ms is not None and next_ms <= self.cluster.at_ms:
                self.cycle()
                next_ms = self.last.next_ms
            step_ms = left_ms if next_ms is None else min(left_ms, next_ms - self.cluster.at_ms)
            self.cluster.advance_ms(step_ms)
            left_ms -= step_ms
        self.cycle()

    @precondition(lambda self: self.cluster.live)
    @rule(data=st.data())
    def finish_early(self, data):
        self.cluster.finish(data.draw(st.sampled_from(sorted(self.cluster.live))))

    @precondition(lambda self: self.cluster.live)
    @rule(data=st.data())
    def fail_and_wait_again(self, data):
        """A launch was refused, or the node's own fault: the job waits again, after a back-off."""
        attempt = self.cluster.live[data.draw(st.sampled_from(sorted(self.cluster.live)))]
        self.cluster.requeue(attempt, back_off_until_ms=self.cluster.at_ms + 60_000)

    @precondition(lambda self: self.cluster.live)
    @rule(data=st.data())
    def save(self, data):
        """A checkpoint: work before it is not lost any more."""
        name = data.draw(st.sampled_from(sorted(self.cluster.live)))
        self.cluster.live[name] = replace(self.cluster.live[name], checkpoint_ms=self.cluster.at_ms)

    @precondition(lambda self: self.cluster.live)
    @rule(data=st.data(), is_protected=st.booleans())
    def pin(self, data, is_protected):
        """An operator forbids to take an attempt's GPUs back, or allows it again."""
        name = data.draw(st.sampled_from(sorted(self.cluster.live)))
        if self.cluster.live[name].reclaimed_by is None:
            self.cluster.live[name] = replace(self.cluster.live[name], is_protected=is_protected)
            self.disturb()

    @rule(
        data=st.data(),
        kind=st.sampled_from(list(WindowKind)),
        begin=st.sampled_from([0, 10, 100]),
        length=st.sampled_from([5, 60]),
        is_own=st.booleans(),
    )
    def set_apart(self, data, kind, begin, length, is_own):
        """A window: maintenance, or an advance reservation that the jobs' own project may use or not."""
        from_ms = self.cluster.at_ms + begin * 60_000
        self.windows += 1
        window = Window(
            f"w{self.windows}",
            kind,
            frozenset({data.draw(st.sampled_from(sorted(self.cluster.nodes)))}),
            from_ms,
            from_ms + length * 60_000,
            frozenset({PROJECT} if is_own and kind is WindowKind.RESERVATION else ()),
        )
        self.cluster.windows = (*self.cluster.windows, window)
        self.disturb()

    @precondition(lambda self: self.cluster.windows)
    @rule()
    def give_back(self):
        self.cluster.windows = self.cluster.windows[1:]

    @precondition(lambda self: self.cluster.pending)
    @rule(data=st.data())
    def cancel(self, data):
        job_id = data.draw(st.sampled_from(sorted(self.cluster.pending)))
        del self.cluster.pending[job_id]
        self.noticed.pop(job_id, None)

    @rule(
        data=st.data(), state=st.sampled_from([NodeState.UP, NodeState.UP, NodeState.DOWN, NodeState.DRAINED])
    )
    def node(self, data, state):
        name = data.draw(st.sampled_from(sorted(self.cluster.nodes)))
        if self.cluster.nodes[name].state is not state:
            self.cluster.set_node(name, state)
            self.disturb()

    @rule(data=st.data())
    def enact(self, data):
        self.cluster.policy = self.draw_policy(data.draw)
        self.disturb()

    @rule()
    def cycle(self):
        cluster = self.cluster
        if self.cycled_ms == cluster.at_ms:
            cluster.advance_ms(1)  # what happens meanwhile takes time: no two cycles share their instant
        snapshot = cluster.snapshot()
        before = copy.deepcopy(snapshot)
        plan = make_plan(snapshot, cluster.policy, self.index)
        unread = make_plan(snapshot, cluster.policy, self.index)
        assert snapshot == before
        cold = plan_digest(make_plan(before, cluster.policy))
        assert plan_digest(plan) == cold
        named = [entry.job_id for entry in entries(plan, Admit | Wait)]
        assert sorted(named) == sorted(cluster.pending)
        self.no_gpu_twice(snapshot, plan)
        self.victims_are_borrowers_of_others(snapshot, plan)
        self.every_victim_is_needed(plan)
        self.reclaimers_start_on_what_was_freed(plan)
        self.nothing_runs_into_a_window(plan)
        assert overtaken(snapshot, cluster.policy, plan) == set()
        if not self.is_disturbed:
            assert put_off(snapshot, cluster.policy, plan) == set()
        cluster.apply(plan)
        again = make_plan(cluster.snapshot(), cluster.policy, self.index)
        assert plan_digest(unread) == cold  # reasons are those of its own cycle, whenever they are read
        assert plan_digest(again) == plan_digest(make_plan(cluster.snapshot(), cluster.policy))
        assert entries(again, Admit) == []
        if not entries(plan, Preempt):  # who was spared by one reclaimer may be needed by the next
            assert entries(again, Preempt) == []
        self.last = plan
        self.nobody_is_denied_for_long()
        self.is_disturbed = False

    def nobody_is_denied_for_long(self):
        """Whom a borrower keeps from its guarantee starts, or is told when, within the longest grace and a cycle.

        Cycles here may be an hour apart, so only spans that end in two cycles at the most that grace apart count.
        """
        at_ms = self.cluster.at_ms
        now = denied(self.cluster.snapshot(), self.cluster.policy)
        if self.cycled_ms is None or at_ms - self.cycled_ms > LONGEST_GRACE_MS:
            self.denied.clear()
        self.cycled_ms = at_ms
        self.denied = {job_id: self.denied.get(job_id, at_ms) for job_id in now}
        assert all(at_ms - since_ms <= 2 * LONGEST_GRACE_MS for since_ms in self.denied.values())
        for kept in self.cluster.reservations:
            if kept.is_reclaim and kept.job_id not in self.noticed:
                assert kept.start_ms <= at_ms + LONGEST_GRACE_MS

    def nothing_runs_into_a_window(self, plan):
        for entry in entries(plan, Admit):
            job = self.cluster.known[entry.job_id]
            end_ms = plan.at_ms + job.request.walltime_s * 1_000
            for window in self.cluster.windows:
                is_shut = (
                    PROJECT not in window.projects and window.from_ms < end_ms and plan.at_ms < window.to_ms
                )
                assert not (is_shut and window.nodes & {slot.node for slot in entry.slots})

    def no_gpu_twice(self, snapshot, plan):
        held = [uuid for attempt in snapshot.live for slot in attempt.slots for uuid in slot.gpu_uuids]
        for entry in entries(plan, Admit):
            request = self.cluster.pending[entry.job_id].request
            own = [uuid for slot in entry.slots for uuid in slot.gpu_uuids]
            assert len(own) == request.gpus
            assert request.nodes in {None, len(entry.slots)}
            assert all(self.cluster.nodes[slot.node].state is NodeState.UP for slot in entry.slots)
            held += own
        assert len(held) == len(set(held))

    def victims_are_borrowers_of_others(self, snapshot, plan):
        shares = World(snapshot, Bounds(snapshot, self.cluster.policy)).shares.get(WHOLE)
        for entry in entries(plan, Preempt):
            victim = self.cluster.live[entry.attempt_id]
            assert victim.reclaimed_by is None
            assert victim.queue != self.cluster.pending[entry.for_job].queue
            assert victim.id in shares.charged(victim.queue, snapshot.at_ms)[1]
            assert entry.stop_ms >= snapshot.at_ms + victim.grace_s * 1_000

    def every_victim_is_needed(self, plan):
        """Every victim holds GPUs on a node of a start that notices go out for, or counts against a limit above both."""
        victims = {entry.attempt_id for entry in entries(plan, Preempt)}
        reserves = [entry for entry in entries(plan, Reserve) if entry.is_reclaim]
        by_job = {entry.for_job for entry in entries(plan, Preempt)}
        assert by_job <= {entry.job_id for entry in reserves}
        for victim in victims:
            nodes = {slot.node for slot in self.cluster.live[victim].slots}
            above = self.cluster.live[victim].queue.rpartition("/")[0]
            queues = {self.cluster.pending[entry.job_id].queue for entry in reserves}
            is_limited = bool(above) and any(queue.startswith(f"{above}/") for queue in queues)
            assert is_limited or any(node in nodes for entry in reserves for node, _ in entry.place)

    def reclaimers_start_on_what_was_freed(self, plan):
        """A job that got notices sent starts at the instant that it was told, unless the world changed."""
        started = {entry.job_id: entry for entry in entries(plan, Admit)}
        reserved = {entry.job_id: entry for entry in entries(plan, Reserve)}
        for job_id, (start_ms, place) in list(self.noticed.items()):
            if job_id in started:
                found = started[job_id]
                assert plan.at_ms <= start_ms
                assert tuple((slot.node, len(slot.gpu_uuids)) for slot in found.slots) == place
                del self.noticed[job_id]
            else:
                assert plan.at_ms < start_ms
                assert (reserved[job_id].start_ms, reserved[job_id].place) == (start_ms, place)
        for entry in reserved.values():
            if entry.is_reclaim:
                self.noticed.setdefault(entry.job_id, (entry.start_ms, entry.place))

    @invariant()
    def nobody_is_lost(self):
        if hasattr(self, "cluster"):
            assert not set(self.cluster.pending) & {a.job_id for a in self.cluster.live.values()}


TestCycles = Cycles.TestCase
TestCycles.settings = settings(stateful_step_count=30)


def test_backfill_delays_no_planned_start(build):
    """A flood of small jobs around a gang that waits: the gang starts when it was first told."""
    policy = build.policy({"q": {"nominal": 16}})
    cluster = Cluster(policy, [8, 8])
    for wall in (30, 50):
        cluster.submit(8, "q", wall)
    cluster.cycle()
    gang = cluster.submit(16, "q", 60)
    told = None
    while gang in cluster.pending:
        for wall in (5, 20, 40):
            cluster.submit(1, "q", wall)
        plan = cluster.cycle()
        start = next((e.start_ms for e in plan.entries if isinstance(e, Reserve) and e.job_id == gang), None)
        told = told or start
        assert start in {told, None}
        cluster.advance(5)
    assert cluster.live[f"{gang}-1"].admitted_ms == told


def test_no_two_jobs_evict_each_other_in_turn(build):
    """Two queues with more work than their nominal: after the first settling nobody is stopped any more."""
    policy = build.policy(
        {
            "a": {"nominal": 8, "preemption": {"grace": "2m"}},
            "b": {"nominal": 8, "preemption": {"grace": "2m"}},
        }
    )
    cluster = Cluster(policy, [8, 8])
    for _ in range(6):
        cluster.submit(4, "a", 6_000)
    cluster.cycle()
    for _ in range(6):
        cluster.submit(4, "b", 6_000)
    for _ in range(200):
        cluster.cycle()
        cluster.advance(1)
    notices = [entry for entry in cluster.log if entry[0] == "notice"]
    assert len(notices) == 2
    assert {entry[1] for entry in notices} == {3, 4}


def test_a_guarantee_is_denied_no_longer_than_the_grace(build):
    policy = build.policy({"a": {"nominal": 16}, "x": {"nominal": 0, "preemption": {"grace": "7m"}}})
    cluster = Cluster(policy, [8, 8])
    for _ in range(16):
        cluster.submit(1, "x", 10_000)
    cluster.cycle()
    cluster.advance(1)
    gang = cluster.submit(16, "a", 60)
    plan = cluster.cycle()
    assert {entry.reason for entry in entries(plan, Wait)} == {ReasonCode.RECLAIMING}
    cluster.advance(7)
    cluster.cycle()
    assert f"{gang}-1" in cluster.live


def test_a_reclaimer_that_could_start_beside_what_it_takes_back_for_another_starts_now(build):
    """One GPU is free and kept for a gang; the second job starts on it, and its victim gives way to the gang."""
    tree = {
        "a": {"nominal": 3, **GRACE},
        "b": {"nominal": 2, **GRACE},
        "c": {"nominal": 0, **GRACE},
    }
    cluster = Cluster(build.policy(tree), [2, 2, 1])
    for _ in range(2):
        cluster.submit(2, "c", 300)
    cluster.cycle()
    cluster.advance(1)
    gang, small = cluster.submit(3, "a", 10), cluster.submit(1, "b", 3)
    spread = (Slot("n1", ("n1:0",)), Slot("n2", ("n2:0",)))
    cluster.live["2-1"] = replace(cluster.live["2-1"], slots=spread)
    plan = cluster.cycle()
    assert [(entry.job_id, entry.slots) for entry in entries(plan, Admit)] == [
        (small, (Slot("n1", ("n1:1",)),))
    ]
    assert [entry.job_id for entry in entries(plan, Reserve)] == [gang]
    assert {(entry.attempt_id, entry.for_job) for entry in entries(plan, Preempt)} == {
        ("1-1", gang),
        ("2-1", gang),
    }
    assert entries(cluster.plan(), Admit) == []
    cluster.advance(2)
    cluster.cycle()
    assert gang not in cluster.pending
