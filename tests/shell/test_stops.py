"""Stops and notices in groups: one transaction for many, and what fails keeps back nothing but itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from quota import service as quota
from scheduler import heard, notices, observe, stops
from scheduler.calls import RETRY_S, Calls, in_groups
from scheduler.dispatch.executor import RefusedError, StaleEpochError, UnreachableError
from scheduler.dispatch.fake import FakeExecutor
from scheduler.dispatch.wire import AgentCode, AttemptEvent, AttemptStatus, EventKind, Signal
from scheduler.facts import RankStarted
from scheduler.heard import Heard, take_heard
from scheduler.model import AttemptId, JobId, JobState
from scheduler.side_by_side import call_nodes
from store import clock, lease
from store.engine import snapshot, transaction


class Unwell(FakeExecutor):
    """Nodes of which some do not answer, or refuse every signal; it counts the signals."""

    silent: frozenset[str] = frozenset()
    refusing: frozenset[str] = frozenset()
    mute: frozenset[str] = frozenset()
    is_stale = False
    asked: list[tuple[str, str]]

    def signal(self, node: str, attempt_id: str, signal: Signal, kill_after_s: int, epoch: int) -> None:
        self.asked.append((node, attempt_id))
        if self.is_stale:
            raise StaleEpochError(node, "epoch 1 is over", 2)
        if node in self.silent:
            raise UnreachableError(node, "silent by the script")
        if node in self.refusing:
            raise RefusedError(node, AgentCode.BAD_REQUEST, "refused by the script")
        super().signal(node, attempt_id, signal, kill_after_s, epoch)

    def attempt(self, node: str, attempt_id: str) -> AttemptStatus:
        self.asked.append((node, attempt_id))
        if node in self.mute:
            raise UnreachableError(node, "mute by the script")
        return super().attempt(node, attempt_id)


WHOLE = {
    "policy": {
        "version": "test-2",
        "effective_from": "2026-02-01",
        "grounds": [{"kind": "order", "body": "authorised body", "number": "2", "date": "2026-01-20"}],
        "tree": {"science": {"nominal": "100%"}, "business": {"nominal": 0}},
        "routes": [{"category": "university", "queue": "science"}, {"queue": "business"}],
    }
}
"""One queue may have both nodes."""


@pytest.fixture
def unwell(world: Any) -> Any:
    with transaction(world.engine) as session:
        quota.enact(session, WHOLE, at=clock.now(), actor="system")
    world.executor.__class__ = Unwell
    world.executor.asked = []
    return world


def stopping(world: Any, count: int, gpus: int = 1, **more: Any) -> list[AttemptId]:
    """Attempts of jobs that run and were cancelled."""
    jobs = [world.submit(gpus, 600, **more) for _ in range(count)]
    world.turn()
    for job in jobs:
        assert world.cancel(job).state is JobState.COMPLETING
    return [AttemptId(f"{job}-1") for job in jobs]


def transactions(world: Any, kind: str) -> tuple[int, int]:
    """Records of a kind, and the transactions that wrote them."""
    told = text("SELECT count(*), count(DISTINCT xid) FROM journal WHERE kind = :kind")
    with snapshot(world.engine) as session:
        records, xids = session.execute(told, {"kind": kind}).one()
    return records, xids


def undelivered(world: Any) -> list[AttemptId]:
    with snapshot(world.engine) as session:
        return stops.undelivered_stops(session)


@pytest.mark.parametrize("count", [4, 5])
def test_one_transaction_ends_as_many_as_it_may(
    unwell: Any, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(stops, "STOPS_TOGETHER", 4)
    attempts = stopping(unwell, count)
    assert undelivered(unwell) == attempts
    assert stops.deliver_stops(unwell.leader, attempts) == frozenset()
    records, xids = transactions(unwell, "attempt.ended")
    # What answers together is recorded together: here all are on one node.
    assert (records, xids) == (count, -(-count // 4))
    assert undelivered(unwell) == []
    unwell.check()


def test_a_silent_node_keeps_back_its_own_alone_and_is_asked_once(unwell: Any) -> None:
    attempts = stopping(unwell, 8, 2)
    on = {name: unwell.view(int(name.partition("-")[0])).slots[0].node for name in attempts}
    unwell.executor.silent = frozenset({"n0"})
    silent = {name for name, node in on.items() if node == "n0"}
    assert silent
    assert silent != set(attempts)
    unwell.executor.asked.clear()
    assert stops.deliver_stops(unwell.leader, attempts) == silent
    assert [node for node, _ in unwell.executor.asked].count("n0") == 1
    ended = {name for name in attempts if unwell.state(int(name.partition("-")[0])) is JobState.CANCELLED}
    assert ended == set(attempts) - silent
    assert set(undelivered(unwell)) == silent
    unwell.executor.silent = frozenset()
    assert stops.deliver_stops(unwell.leader, undelivered(unwell)) == frozenset()
    unwell.check()


def test_a_gang_is_told_when_all_its_nodes_are(unwell: Any) -> None:
    (gang,) = stopping(unwell, 1, 4, nodes=2)
    unwell.executor.refusing = frozenset({"n1"})
    assert stops.deliver_stops(unwell.leader, [gang]) == {gang}
    assert undelivered(unwell) == [gang]
    # What the other node said is taken all the same.
    view = unwell.view(int(gang.partition("-")[0]))
    assert [rank.signal for rank in view.attempt.ranks] == [15, None]
    unwell.executor.refusing = frozenset()
    assert stops.deliver_stops(unwell.leader, [gang]) == frozenset()
    unwell.check()


def test_a_node_that_was_told_and_says_no_more_is_asked_for_proof_later(unwell: Any) -> None:
    attempts = stopping(unwell, 3)
    unwell.executor.mute = frozenset({"n0", "n1"})
    assert stops.deliver_stops(unwell.leader, attempts) == frozenset()
    assert undelivered(unwell) == []
    with snapshot(unwell.engine) as session:
        assert stops.told_stops(session) == attempts
    unwell.executor.asked.clear()
    assert stops.prove_absences(unwell.leader, attempts) == set(attempts)
    assert len(unwell.executor.asked) == 1  # silent once, it is not asked for each
    unwell.executor.mute = frozenset()
    assert stops.prove_absences(unwell.leader, attempts) == frozenset()
    assert {unwell.state(int(name.partition("-")[0])) for name in attempts} == {JobState.CANCELLED}
    unwell.check()


def test_a_stop_of_another_scheduler_is_not_recorded(unwell: Any) -> None:
    attempts = stopping(unwell, 2)
    before = unwell.leader
    unwell.lead("second")
    with pytest.raises(StaleEpochError):
        stops.deliver_stops(before, attempts)
    unwell.executor.is_stale = True
    with pytest.raises(lease.StaleEpochError):
        stops.prove_absences(before, attempts)
    with pytest.raises(StaleEpochError):
        stops.deliver_stops(unwell.leader, attempts)
    assert undelivered(unwell) == attempts


def test_absence_waits_for_the_record_of_a_leader(unwell: Any) -> None:
    attempts = stopping(unwell, 1)
    before = unwell.leader
    with transaction(unwell.engine) as session:
        session.execute(text("UPDATE leases SET epoch = epoch + 1"))
    with pytest.raises(lease.StaleEpochError):
        stops.deliver_stops(before, attempts)
    assert undelivered(unwell) == attempts


def test_notices_to_many_are_sent_side_by_side_and_again_where_a_node_was_silent(unwell: Any) -> None:
    jobs = [unwell.submit(2, 600) for _ in range(8)]
    unwell.turn()
    attempts = [AttemptId(f"{job}-1") for job in jobs]
    with transaction(unwell.engine) as session:
        session.execute(text("UPDATE attempts SET reclaimed_by = 1, notice_ends_at = now()"))
    unwell.executor.silent = frozenset({"n1"})
    unwell.executor.asked.clear()
    failed = notices.send_notices(unwell.leader, attempts)
    with snapshot(unwell.engine) as session:
        assert set(notices.undelivered_notices(session)) == failed
    assert {unwell.view(int(name.partition("-")[0])).slots[0].node for name in failed} == {"n1"}
    assert [node for node, _ in unwell.executor.asked].count("n1") == 1
    unwell.executor.silent = frozenset()
    assert notices.send_notices(unwell.leader, sorted(failed)) == frozenset()
    with snapshot(unwell.engine) as session:
        assert notices.undelivered_notices(session) == []
    unwell.executor.asked.clear()


def test_a_fact_that_cannot_be_drops_only_itself(world: Any) -> None:
    jobs = [world.submit(1, 600) for _ in range(4)]
    world.cycle()
    world.dispatch()
    now_ms = clock.to_ms(clock.now())
    facts = [Heard(JobId(job), RankStarted(AttemptId(f"{job}-1"), 0, now_ms)) for job in jobs]
    never = Heard(JobId(jobs[1]), RankStarted(AttemptId(f"{jobs[1]}-1"), 7, now_ms))
    unknown = Heard(JobId(99_999), RankStarted(AttemptId("99999-1"), 0, now_ms))
    outcomes = take_heard(world.leader, [facts[0], never, facts[1], unknown, *facts[2:]], at=clock.now())
    assert [outcome is None for outcome in outcomes] == [False, True, False, True, False, False]
    assert {world.state(job) for job in jobs} == {JobState.RUNNING}
    world.check()


def test_an_event_without_an_attempts_name_drops_only_itself(world: Any) -> None:
    job = world.submit(1, 600)
    world.cycle()
    world.dispatch()
    events = [
        AttemptEvent(seq=1, attempt_id=name, rank=0, kind=EventKind.STARTED, at=clock.now(), exit=None)
        for name in ("no-number-here", f"{job}-1")
    ]
    observe.take_events(world.leader, events)
    assert world.state(job) is JobState.RUNNING


@pytest.mark.parametrize(("most", "xids"), [(4, 1), (3, 2)])
def test_a_transaction_takes_so_many_facts(
    world: Any, monkeypatch: pytest.MonkeyPatch, most: int, xids: int
) -> None:
    monkeypatch.setattr(heard, "FACTS_TOGETHER", most)
    jobs = [world.submit(1, 600) for _ in range(4)]
    world.cycle()
    world.dispatch()
    now_ms = clock.to_ms(clock.now())
    facts = [Heard(JobId(job), RankStarted(AttemptId(f"{job}-1"), 0, now_ms)) for job in jobs]
    take_heard(world.leader, facts, at=clock.now())
    assert transactions(world, "attempt.started") == (4, xids)


def test_a_node_that_does_not_answer_keeps_no_answer_of_another_back(world: Any) -> None:
    waits = threading.Event()

    def call(node: str, attempt_id: AttemptId) -> str:
        if node == "slow":
            assert waits.wait(20)
            raise UnreachableError(node, "it timed out")
        return attempt_id

    names = [AttemptId("1-1"), AttemptId("2-1")]
    found = call_nodes(world.leader, {"slow": names, "quick": names}, call)
    assert [(answer.node, answer.result) for answer in next(found)] == [("quick", "1-1"), ("quick", "2-1")]
    waits.set()
    ((first, second),) = list(found)
    assert isinstance(first.result, UnreachableError)
    assert second.result is first.result


def test_what_a_call_leaves_is_begun_again_after_a_pause(
    wait_until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, ended = threading.Event(), threading.Semaphore(0)
    calls = Calls(lost.set, ended.release)
    both = [AttemptId("1-1"), AttemptId("2-1")]
    try:
        assert calls.begin(both) == both
        assert calls.begin(both) == []
        calls.submit(both, lambda: {both[1]})
        assert ended.acquire(timeout=20)
        assert calls.begin(both) == [both[0]]
        later = clock.now().timestamp() + RETRY_S
        monkeypatch.setattr("scheduler.calls.time.monotonic", lambda: later + 1e9)
        assert calls.begin(both) == [both[1]]

        def fail() -> None:
            raise lease.StaleEpochError("scheduler", 1)

        calls.submit(both, fail)
        wait_until(lost.is_set, "the loss is told")
    finally:
        calls.close()


@pytest.mark.parametrize(("count", "groups"), [(0, []), (3, [3]), (4, [3, 1])])
def test_groups_hold_so_many(count: int, groups: list[int]) -> None:
    names = [AttemptId(f"{number}-1") for number in range(count)]
    assert [len(group) for group in in_groups(names, 3)] == groups
