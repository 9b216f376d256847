from __future__ import annotations

from datetime import timedelta

import pytest

from scheduler import jobs, retention
from scheduler.dispatch.executor import StaleEpochError
from scheduler.dispatch.fake import Script
from scheduler.model import JobState
from scheduler.service import SchedulerService, SchedulerSettings
from store import clock, journal
from store.engine import snapshot, transaction


def later(days: float = 1):
    return clock.now() + timedelta(days=days)


def on_nodes(world):
    return sorted({s.attempt_id for name in world.node_names for s in world.executor.list_attempts(name)})


def removed(leader, before, **more):
    """How many attempts a round noted as gone."""

    def noted():
        with snapshot(leader.engine) as session:
            return len(journal.of_kind(session, "attempt.removed"))

    already = noted()
    retention.remove_old(leader, before, **more)
    return noted() - already


def test_what_ended_long_ago_leaves_its_nodes_and_its_rows_stay(world):
    gang, alive = world.submit(4, 600, Script(), nodes=2), world.submit(1, 600)
    world.turn()
    assert removed(world.leader, clock.now() - timedelta(days=1)) == 0
    assert on_nodes(world) == [f"{gang}-1", f"{alive}-1"]
    assert removed(world.leader, later()) == 1
    assert on_nodes(world) == [f"{alive}-1"]
    assert removed(world.leader, later()) == 0
    view = world.view(gang)
    assert view.state.value == "COMPLETED"
    assert view.attempt.removed_at is not None
    assert world.kinds(gang)[-1] == "attempt.removed"
    assert world.kinds(gang).count("attempt.removed") == 1
    with snapshot(world.engine) as session:
        record = journal.of_subject(session, f"job:{gang}")[-1]
        assert jobs.artefacts_of(session, world.principal, gang) == []
    assert record.data == {"attempt_id": f"{gang}-1"}
    world.check()


def test_a_round_is_bounded_and_takes_the_oldest(world):
    made = [world.submit(1, 600, Script()) for _ in range(3)]
    world.turn()
    ended = sorted(made, key=lambda job: world.view(job).attempt.ended_at)
    assert removed(world.leader, later(), limit=2) == 2
    assert on_nodes(world) == [f"{ended[-1]}-1"]
    assert removed(world.leader, later(), limit=2) == 1


def test_a_node_that_is_down_is_waited_for(world):
    job = world.submit(1, 600, Script())
    world.turn()
    node = world.view(job).slots[0].node
    world.lose(node)
    assert removed(world.leader, later()) == 0
    world.regain(node)
    assert removed(world.leader, later()) == 1


def test_a_job_that_is_to_run_again_keeps_what_its_last_attempt_saved(world):
    job = world.submit(1, 600)
    world.turn()
    node = world.view(job).slots[0].node
    world.lose(node)
    world.regain(node)
    world.hear()
    assert world.state(job) is JobState.PENDING
    assert removed(world.leader, later()) == 0
    world.cancel(job)
    assert removed(world.leader, later()) == 1


def test_a_node_that_refuses_is_asked_again(world):
    job = world.submit(1, 600, Script())
    world.turn()
    node = world.executor._nodes[world.view(job).slots[0].node]
    kept = node.runs[f"{job}-1"].exits.copy()
    node.runs[f"{job}-1"].exits.clear()  # it says that a rank lives
    assert removed(world.leader, later()) == 0
    assert world.view(job).attempt.removed_at is None
    node.runs[f"{job}-1"].exits.update(kept)
    assert removed(world.leader, later()) == 1


def test_a_scheduler_that_lost_its_lease_writes_nothing(world):
    job = world.submit(1, 600, Script())
    world.turn()
    old = world.leader
    world.lead("second")
    with pytest.raises(StaleEpochError):
        retention.remove_old(old, later())
    assert world.view(job).attempt.removed_at is None


def test_the_schedulers_loop_removes_by_itself(world, database, wait_until):
    from sqlalchemy import text

    job = world.submit(1, 600, Script())
    world.turn()
    with transaction(world.engine) as session:
        session.execute(text("UPDATE attempts SET ended_at = ended_at - interval '31 days'"))
        session.execute(text("UPDATE leases SET expires_at = '2026-01-01T00:00:00Z'"))
    settings = SchedulerSettings(
        holder="service", database_url=database.url, release="test", cycle_interval_ms=50, lease_ttl_s=60
    )
    service = SchedulerService(
        world.engine,
        lambda: {name: f"http://{name}" for name in world.node_names},
        lambda _: world.executor,
        settings,
    )
    import threading

    thread = threading.Thread(target=service.run)
    thread.start()
    try:
        wait_until(lambda: on_nodes(world) == [], "the attempt leaves its node")
        wait_until(lambda: world.view(job).attempt.removed_at is not None, "it is noted")
    finally:
        service.stop()
        thread.join(20)
    assert not thread.is_alive()
