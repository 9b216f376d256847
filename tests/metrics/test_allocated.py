"""Who holds which GPU, as the control plane tells Prometheus."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from sqlalchemy.orm import Session

from metrics.allocated import MAX_PROJECTS, Allocated
from metrics.cached import CACHE_S
from metrics.controlplane import ControlPlane

GPUS = ("GPU-0", "GPU-1", "GPU-2")


def scrape(database: Any, rows: Any, *more: Collector) -> dict[tuple[Any, ...], float]:
    registry = CollectorRegistry()
    for collector in (Allocated(database.engine, lambda: rows.NOW), *more):
        registry.register(collector)
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


def test_an_empty_platform_shows_nobody(database: Any, rows: Any) -> None:
    assert scrape(database, rows) == {("kezek_projects_left_out",): 0.0}


def test_one_reading_serves_the_scrapes_of_its_time(database: Any, rows: Any) -> None:
    elapsed_s = [100.0]
    collector = Allocated(database.engine, lambda: rows.NOW, elapsed_s=lambda: elapsed_s[0])

    def held() -> int:
        return sum(len(f.samples) for f in collector.collect() if f.name == "kezek_gpu_allocation_info")

    assert held() == 0
    with Session(database.engine) as session, session.begin():
        of = rows.project(session, "p1")
        rows.allocate(session, of, rows.grant(session, of, 200), GPUS)
    elapsed_s[0] += CACHE_S - 0.001
    assert held() == 0
    elapsed_s[0] += 0.001
    assert held() == 2


def test_held_gpus_and_balances(database: Any, rows: Any) -> None:
    with Session(database.engine) as session, session.begin():
        of = rows.project(session, "p1")
        job_id = rows.allocate(session, of, rows.grant(session, of, 200), GPUS)
        rows.grant(session, of, 50)
        rows.grant(session, of, 900, days=-1)  # has ended
    found = scrape(database, rows)
    held = {dict(key[1:])["uuid"]: dict(key[1:]) for key in found if key[0] == "kezek_gpu_allocation_info"}
    assert set(held) == {"GPU-0", "GPU-1"}, "a released GPU is nobody's"
    assert held["GPU-0"] == {
        "uuid": "GPU-0",
        "node": "n1",
        "attempt": "17-1",
        "job_id": str(job_id),
        "project": "p1",
        "queue": "q",
        "sector": "energy",
        "category": "startup",
    }
    at = (("flavor", "h200"), ("project", "p1"))
    assert found["kezek_project_granted_device_seconds", *at] == 2000
    assert found["kezek_project_used_device_seconds", *at] == 250
    assert found["kezek_project_remaining_device_seconds", *at] == 1550


def test_projects_are_limited(database: Any, rows: Any) -> None:
    with Session(database.engine) as session, session.begin():
        for number in range(MAX_PROJECTS + 1):
            rows.grant(session, rows.project(session, f"p{number:03}"), 0)
    found = scrape(database, rows)
    shown = {dict(key[1:])["project"] for key in found if key[0] == "kezek_project_granted_device_seconds"}
    assert len(shown) == MAX_PROJECTS
    assert found[("kezek_projects_left_out",)] == 1


def test_labels_are_as_documented(database: Any, rows: Any, documented: dict[str, frozenset[str]]) -> None:
    with Session(database.engine) as session, session.begin():
        of = rows.project(session, "p1")
        rows.allocate(session, of, rows.grant(session, of, 200), GPUS)
    for name, *labels in scrape(database, rows, ControlPlane(database.engine)):
        assert documented[name] == frozenset(label for label, _ in labels)
