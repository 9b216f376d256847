from __future__ import annotations

import asyncio
import re
import threading
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update

from api.latency import Latency
from metrics.allocated import Allocated
from metrics.bounded import MAX_QUEUES, OTHER_QUEUE, bounded
from metrics.cached import CACHE_S
from metrics.controlplane import ControlPlane
from metrics.scheduling import CallFigures, CyclePhases
from products.registers_collector import DocumentsDue
from scheduler.dispatch.fake import Script
from scheduler.tables import JobRow
from store import clock
from store.engine import transaction

PAGE = Path(__file__).resolve().parents[2] / "docs" / "telemetry-control-plane.md"
FORBIDDEN = {"job", "instance", "pod", "namespace", "service"}


def scrape(world):
    registry = CollectorRegistry()
    registry.register(ControlPlane(world.engine))
    samples = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            assert not FORBIDDEN & set(sample.labels)
            samples[(sample.name, *sorted(sample.labels.items()))] = sample.value
    return samples


def test_an_empty_platform_has_no_invented_figures(database):
    class Empty:
        engine = database.engine

    samples = scrape(Empty)
    assert samples == {("kezek_journal_unsealed_records",): 0.0}


def test_queues_gpus_waits_and_charges_are_told(world):
    done, waiting = world.submit(2, 600, Script()), world.submit(8, 600)
    world.turn()
    world.turn()
    world.submit(8, 600)
    world.turn()
    samples = scrape(world)
    queue = ("queue", "science")
    assert samples["kezek_queue_jobs", queue, ("state", "PENDING")] == 1
    assert samples["kezek_queue_jobs", queue, ("state", "RUNNING")] == 1
    assert samples["kezek_queue_wait_seconds_count", queue] == 2
    assert samples["kezek_queue_wait_seconds_bucket", ("le", "+Inf"), queue] == 2
    assert samples["kezek_queue_wait_seconds_bucket", ("le", "60"), queue] == 2
    assert samples["kezek_device_seconds_total", queue] == world.view(done).gpu_seconds > 0
    gpus = {key[3][1]: value for key, value in samples.items() if key[0] == "kezek_gpus"}
    assert gpus == {"busy": 8, "free": 8, "down": 0}
    assert all(dict(key[1:])["simulated"] == "true" for key in samples if key[0] == "kezek_gpus")
    assert samples["kezek_scheduler_epoch",] == 1
    assert samples["kezek_journal_unsealed_records",] > 10
    assert ("kezek_cycle_duration_seconds", ("quantile", "0.99")) in samples
    assert world.state(waiting).value == "RUNNING"


def test_label_values_are_bounded():
    labels = bounded(f"q{number:05}" for number in range(MAX_QUEUES + 1))
    assert min(labels.values()) == OTHER_QUEUE
    assert len(set(labels.values())) == MAX_QUEUES + 1
    assert OTHER_QUEUE not in bounded(f"q{number}" for number in range(MAX_QUEUES)).values()


def test_a_queue_of_the_policy_without_jobs_is_a_known_zero(world):
    samples = scrape(world)
    for queue in ("business", "science"):
        for state in ("PENDING", "ADMITTED", "RUNNING", "COMPLETING"):
            assert samples["kezek_queue_jobs", ("queue", queue), ("state", state)] == 0
        assert samples["kezek_device_seconds_total", ("queue", queue)] == 0


def pending(collector):
    family = next(family for family in collector.collect() if family.name == "kezek_queue_jobs")
    labels = {"queue": "science", "state": "PENDING"}
    return next(sample.value for sample in family.samples if sample.labels == labels)


def test_one_reading_serves_the_scrapes_of_its_time(world):
    now = [100.0]
    collector = ControlPlane(world.engine, elapsed_s=lambda: now[0])
    assert pending(collector) == 0
    world.submit(1)
    now[0] += CACHE_S - 0.001
    assert pending(collector) == 0
    now[0] += 0.001
    assert pending(collector) == 1


def test_scrapes_at_a_time_share_one_reading(world):
    from sqlalchemy import event

    begun = []
    event.listen(world.engine, "checkout", lambda *_: begun.append(1))
    collector = ControlPlane(world.engine)
    threads = [threading.Thread(target=lambda: list(collector.collect())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(begun) == 1


def test_a_reading_that_failed_is_not_kept():
    from sqlalchemy import create_engine
    from sqlalchemy.exc import OperationalError

    collector = ControlPlane(create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none"))
    for _ in range(2):
        with pytest.raises(OperationalError):
            list(collector.collect())


def test_use_is_told_beside_the_quota(world):
    world.submit(3)
    world.turn()
    samples = scrape(world)
    queue = ("queue", "science")
    assert samples["kezek_queue_held_gpus", ("flavor", "h200"), queue] == 3
    assert samples["kezek_queue_nominal_gpus", queue] >= 3
    assert samples["kezek_queue_nominal_gpus", ("queue", "business")] >= 0
    assert samples["kezek_queue_entitled_waiting_gpus", queue] == 0
    assert samples["kezek_queue_entitlement_violated_gpus", queue] == 0


def test_quota_that_others_hold_while_it_is_wanted_is_told(world):
    """As after a change of policy: one queue runs beyond its nominal, another waits below its own."""

    def change(*job_ids, **values):
        with transaction(world.engine) as session:
            session.execute(update(JobRow).where(JobRow.id.in_(job_ids)).values(**values))
        world.warm.forget("a test changed the tables by hand")

    first = world.submit(8)
    world.turn()
    change(first, queue="business")
    second = world.submit(8)
    world.turn()
    change(first, second, queue="science")
    waits, held, too_large, broke = (world.submit(gpus) for gpus in (2, 2, 8, 1))
    change(waits, held, too_large, broke, queue="business", reason="NO_CAPACITY")
    change(held, is_held=True)
    change(too_large, gpus=9)
    change(broke, reason="BUDGET_EXHAUSTED")
    samples = scrape(world)
    assert samples["kezek_queue_held_gpus", ("flavor", "h200"), ("queue", "science")] == 16
    assert samples["kezek_queue_nominal_gpus", ("queue", "science")] == 8
    assert samples["kezek_queue_entitled_waiting_gpus", ("queue", "business")] == 2
    assert samples["kezek_queue_entitlement_violated_gpus", ("queue", "business")] == 2
    assert samples["kezek_queue_entitlement_violated_gpus", ("queue", "science")] == 0


def test_documented_metrics_are_those_of_the_platform(world):
    async def answer(scope, _receive, send):
        scope["route"] = type("Route", (), {"path": "/v1/jobs"})
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def ignore(*_):
        return None

    world.submit(1, 600, Script())
    world.submit(1)
    world.turn()
    registry = CollectorRegistry()
    everything = (
        ControlPlane(world.engine),
        Allocated(world.engine, clock.now),
        DocumentsDue(world.engine, clock.now),
    )
    for collector in everything:
        registry.register(collector)
    CallFigures(registry)
    CyclePhases(registry)
    asyncio.run(Latency(answer, registry)({"type": "http", "method": "GET"}, ignore, ignore))
    given = set()
    for family in registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert family.samples, name
        if not name.endswith("_created"):
            given.add((name, family.type, frozenset(labels)))
    documented = set()
    for line in PAGE.read_text("utf-8").splitlines():
        if line.startswith("| `kezek_"):
            name, kind, unit, labels = (cell.strip() for cell in line.strip("|").split("|")[:4])
            documented.add((name.strip("`"), kind, frozenset(re.findall(r"`(\w+)`", labels))))
            assert unit == ("seconds" if "_seconds" in name else "none")
    assert documented == given
