"""Launches that one transaction records: how many, and that a scheduler's process uses it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from scheduler.calls import CALLS_MAX, GROUP_MAX, groups_of
from scheduler.dispatch.fake import Script
from scheduler.model import AttemptId, JobState
from scheduler.service import SchedulerService, SchedulerSettings
from store.engine import snapshot, transaction


@pytest.mark.parametrize(
    ("attempts", "groups", "largest"),
    [
        (0, 0, 0),
        (CALLS_MAX, CALLS_MAX, 1),
        (CALLS_MAX + 1, 5, 2),
        (CALLS_MAX * GROUP_MAX, CALLS_MAX, GROUP_MAX),
        (CALLS_MAX * GROUP_MAX + 1, CALLS_MAX + 1, GROUP_MAX),
    ],
)
def test_as_many_groups_as_calls_until_they_are_full(attempts: int, groups: int, largest: int) -> None:
    names = [AttemptId(f"{number}-1") for number in range(attempts)]
    found = groups_of(names)
    assert [name for group in found for name in group] == names
    assert (len(found), max(map(len, found), default=0)) == (groups, largest)


def test_a_cycles_launches_are_recorded_in_groups(
    database: Any, make_world: Callable[..., Any], wait_until: Callable[..., None]
) -> None:
    world = make_world(database.engine, gpus=32)
    settings = SchedulerSettings(
        holder="groups", database_url=database.url, release="test", cycle_interval_ms=50, lease_ttl_s=60
    )
    urls = {name: f"http://{name}" for name in world.node_names}
    service = SchedulerService(world.engine, lambda: urls, lambda _: world.executor, settings)
    jobs = [world.submit(1, 600, Script(runs=True)) for _ in range(20)]
    told = text("SELECT count(*), count(DISTINCT xid) FROM journal WHERE kind = 'attempt.dispatched'")

    def recorded() -> tuple[int, int]:
        with snapshot(world.engine) as session:
            launches, xids = session.execute(told).one()
        return launches, xids

    with transaction(world.engine) as session:
        session.execute(text("UPDATE leases SET expires_at = '2026-01-01T00:00:00Z'"))
    thread = threading.Thread(target=service.run)
    thread.start()
    try:
        # A job that ended before its launch was recorded would need no record of it.
        wait_until(lambda: recorded()[0] == len(jobs), "the launches are recorded")
        for job in jobs:
            world.finish(job)
        wait_until(lambda: {world.state(job) for job in jobs} == {JobState.COMPLETED}, "the jobs end")
    finally:
        service.stop()
        thread.join(20)
        world.pool.shutdown()
    assert not thread.is_alive()
    assert recorded() == (20, 7)
    world.check()
