"""Telemetry of attempts: fetched from real exporters, folded in PostgreSQL, read as figures with coverage."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine, select, true, update
from sqlalchemy.orm import Session

from metrics.efficiency import BINS, EMPTY, Fold
from metrics.folds import FoldShapeError, from_json, to_json
from metrics.readings import PageError, parse_page
from metrics.sampler import MAX_EXPORTERS, Sampler
from metrics.service import Dimension, job_summary, use_by
from metrics.tables import AttemptTelemetryRow
from scheduler.tables import AllocationRow, AttemptRow

GPU = "GPU-00000000-0000-0000-0000-{:012d}".format
GPUS = (GPU(0), GPU(1), GPU(2))


class Clock:
    """Now, as the test says."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at

    def forward(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


class Page:
    """An exporter whose page the test writes."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.status = 200

    def gpu(self, index: int, utilisation: float, energy_j: float) -> None:
        self.lines.append(f'kezek_gpu_utilization_ratio{{uuid="{GPU(index)}"}} {utilisation}')
        self.lines.append(f'kezek_gpu_energy_joules_total{{uuid="{GPU(index)}"}} {energy_j}')


@pytest.fixture
def page() -> Iterator[Page]:
    found = Page()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = "".join(f"{line}\n" for line in found.lines).encode()
            self.send_response(found.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
        yield found
        server.shutdown()


@pytest.fixture
def clock(rows: Any) -> Clock:
    return Clock(rows.NOW)


@pytest.fixture
def job_id(database: Any, rows: Any) -> int:
    with Session(database.engine) as session, session.begin():
        of = rows.project(session, "p1")
        return int(rows.allocate(session, of, rows.grant(session, of, 200), GPUS))


@pytest.fixture
def sampler(database: Any, page: Any, clock: Clock) -> Iterator[Callable[[], Sampler]]:
    made: list[Sampler] = []

    def make(*more: str) -> Sampler:
        made.append(Sampler(database.engine, lambda: [page.url, *more], clock))
        return made[-1]

    yield make
    for one in made:
        one.close()


def summary(database: Any, job_id: int, at: datetime) -> Any:
    with Session(database.engine) as session:
        return job_summary(session, job_id, at)


def test_ticks_add_up_to_a_summary(database: Any, sampler: Any, page: Any, clock: Clock, job_id: int) -> None:
    reader = sampler()
    for step in range(1, 5):
        clock.forward(30)
        page.lines.clear()
        page.gpu(0, 0.9, 1000 * step)
        page.gpu(1, 0.0, 100 * step)
        page.gpu(2, 1.0, 5)  # released: nobody's
        assert reader.tick() == 1
    found = summary(database, job_id, clock.at)
    assert found.held_s == 240
    assert found.coverage_ratio == 1
    assert found.mean_utilisation_ratio == pytest.approx(0.45)
    assert found.p95_utilisation_ratio == 0.9
    assert found.idle_s == 120
    assert found.energy_j == 3300
    assert found.energy_coverage_ratio == 0.75


def test_silent_exporter_costs_coverage_and_is_no_zero(
    database: Any, sampler: Any, page: Any, clock: Clock, job_id: int
) -> None:
    reader = sampler()
    clock.forward(30)
    page.gpu(0, 0.8, 10)
    reader.tick()
    page.status = 500
    clock.forward(300)
    assert reader.tick() == 0
    page.status = 200
    clock.forward(30)
    page.lines.clear()
    page.gpu(0, 0.8, 210)
    reader.tick()
    found = summary(database, job_id, clock.at)
    assert found.held_s == 720
    assert found.observed_s == 90, "a reading stands for a minute at most"
    assert found.mean_utilisation_ratio == pytest.approx(0.8)
    assert found.energy_j == 200, "the counter knew the gap"


def test_restarted_and_second_samplers_count_nothing_twice(
    database: Any, sampler: Any, page: Any, clock: Clock, job_id: int
) -> None:
    page.gpu(0, 0.5, 0)
    first, second = sampler(), sampler()
    for _ in range(4):
        clock.forward(20)
        first.tick()
        second.tick()
        clock.forward(5)
        second.tick()
    third = sampler()
    clock.forward(25)
    third.tick()
    assert summary(database, job_id, clock.at).observed_s == 125


def test_two_samplers_at_once(database: Any, sampler: Any, page: Any, clock: Clock, job_id: int) -> None:
    page.gpu(0, 0.5, 0)
    clock.forward(30)
    threads = [threading.Thread(target=sampler().tick) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert summary(database, job_id, clock.at).observed_s == 30


def test_clock_set_back_adds_nothing(
    database: Any, sampler: Any, page: Any, clock: Clock, job_id: int
) -> None:
    page.gpu(0, 0.5, 0)
    reader = sampler()
    clock.forward(30)
    reader.tick()
    clock.forward(-20)
    assert reader.tick() == 0
    assert summary(database, job_id, clock.at).observed_s == 30


def test_job_never_observed_has_no_figures(database: Any, clock: Clock, job_id: int) -> None:
    clock.forward(100)
    found = summary(database, job_id, clock.at)
    assert (found.held_s, found.coverage_ratio) == (200, 0)
    assert found.mean_utilisation_ratio is None
    assert summary(database, job_id + 1, clock.at).coverage_ratio is None


def test_what_is_no_exporter_does_not_stop_the_others(
    sampler: Any, page: Any, clock: Clock, job_id: int, caplog: pytest.LogCaptureFixture
) -> None:
    page.gpu(0, 0.5, 0)
    clock.forward(30)
    reader = sampler("http://127.0.0.1:9", *(f"http://127.0.0.1:9/{n:04}" for n in range(2)))
    assert reader.tick() == 1
    assert "no telemetry from http://127.0.0.1:9;" in caplog.text
    assert job_id
    caplog.clear()
    clock.forward(30)
    reader.tick()
    assert caplog.text == "", "one line when it begins"


def test_what_is_no_page_of_metrics_is_said_and_left_out(
    sampler: Any, page: Any, clock: Clock, job_id: int, caplog: pytest.LogCaptureFixture
) -> None:
    page.lines.append("kezek_gpu_up{")
    clock.forward(30)
    assert sampler().tick() == 0
    assert "is this the address of a node exporter?" in caplog.text
    assert job_id


@pytest.mark.parametrize(("spare_bytes", "added"), [(0, 1), (-1, 0)])
def test_pages_are_limited(
    sampler: Any,
    page: Any,
    clock: Clock,
    job_id: int,
    *,
    monkeypatch: pytest.MonkeyPatch,
    spare_bytes: int,
    added: int,
) -> None:
    page.gpu(0, 0.5, 0)
    size_bytes = sum(len(line) + 1 for line in page.lines)
    monkeypatch.setattr("metrics.sampler.MAX_PAGE_BYTES", size_bytes + spare_bytes)
    clock.forward(30)
    assert sampler().tick() == added
    assert job_id


def test_loop_goes_on_when_the_database_was_away(
    database: Any, page: Any, clock: Clock, job_id: int, caplog: pytest.LogCaptureFixture
) -> None:
    page.gpu(0, 0.5, 0)
    clock.forward(30)
    away = create_engine("postgresql+psycopg://nobody@127.0.0.1:9/none")
    ends = iter([away, database.engine])
    stop = threading.Event()

    class Twice(Sampler):
        """The first tick meets a database that is away; after the second the loop is told to end."""

        def tick(self) -> int:
            self._engine = next(ends)
            if self._engine is database.engine:
                stop.set()
            return super().tick()

    reader = Twice(away, lambda: [page.url], clock)
    reader.run(stop, 0.01)
    reader.close()
    away.dispose()
    assert "telemetry of this tick is lost" in caplog.text
    assert summary(database, job_id, clock.at).observed_s == 30


def test_exporters_are_limited(database: Any, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    asked: list[str] = []

    class Counting(Sampler):
        def _fetch(self, url: str) -> str | None:
            asked.append(url)
            return ""

    reader = Counting(database.engine, lambda: [f"http://x{n}" for n in range(MAX_EXPORTERS + 1)], clock)
    reader.tick()
    reader.close()
    assert len(asked) == MAX_EXPORTERS
    assert f"only the first {MAX_EXPORTERS}" in caplog.text


def test_use_by_each_dimension(
    database: Any, sampler: Any, page: Any, clock: Clock, rows: Any, job_id: int
) -> None:
    page.gpu(0, 0.5, 0)
    page.gpu(1, 0.5, 0)
    clock.forward(30)
    sampler().tick()
    clock.forward(30)
    assert job_id
    with Session(database.engine) as session, session.begin():
        session.execute(update(AttemptRow).values(ended_at=clock.at, used_s=120))
        session.execute(
            update(AllocationRow).where(AllocationRow.released_at.is_(None)).values(released_at=clock.at)
        )
    day = timedelta(days=1)
    with Session(database.engine) as session:
        for dimension, name in (
            (Dimension.SECTOR, "energy"),
            (Dimension.CATEGORY, "startup"),
            (Dimension.PROJECT, "p1"),
        ):
            (use,) = use_by(session, dimension, rows.NOW, rows.NOW + day, visible=true())
            assert (use.name, use.attempts, use.charged_s) == (name, 1, 120)
            assert use.summary.held_s == 120
            assert use.summary.useful_s == 30
            assert use.summary.coverage_ratio == 0.5
        assert use_by(session, Dimension.SECTOR, rows.NOW + day, rows.NOW + 2 * day, visible=true()) == ()
        assert use_by(session, Dimension.SECTOR, clock.at, clock.at + day, visible=true()) != (), (
            "the first moment is in it"
        )
        assert use_by(session, Dimension.SECTOR, rows.NOW, clock.at, visible=true()) == (), (
            "the moment after it is not"
        )


def test_page_of_the_real_exporter(once: Any, make_driver: Any) -> None:
    lines = (
        "count 1",
        "gpu 0 util 40",
        "gpu 0 energy_mj 5000",
        "gpu 0 hw_thermal_ns 2000000000",
        "gpu 0 power_cap_ns 9",
    )
    reading = parse_page(once("--node", "n1", driver=make_driver(*lines)).stdout, 7.0)[GPU(0)]
    assert (reading.at_s, reading.utilisation_ratio, reading.energy_j) == (7.0, 0.4, 5.0)
    assert (reading.throttled_s, reading.memory_used_bytes, reading.power_w) == (2.0, 0, 71.5)


def test_xids_of_a_page() -> None:
    page = "".join(f'kezek_gpu_xid_errors_total{{uuid="a",xid="{xid}"}} 3\n' for xid in ("79", "other"))
    assert parse_page(page, 0.0)["a"].xids == {79: 3}
    assert not parse_page(page, 0.0)["a"].is_known


@pytest.mark.parametrize("page", ["<html>no</html>", "kezek_gpu_up{", 'kezek_gpu_up{uuid="a"} much'])
def test_what_is_no_page(page: str) -> None:
    with pytest.raises(PageError, match="not a page of metrics"):
        parse_page(page, 0.0)


SECONDS = st.floats(0, 1e9)
FOLDS = st.builds(
    Fold,
    observed_s=SECONDS,
    utilisation_s=st.lists(SECONDS, min_size=BINS, max_size=BINS).map(tuple),
    memory_peak_bytes=st.none() | st.integers(0, 2**50),
    energy_j=SECONDS,
    energy_observed_s=SECONDS,
    throttled_s=SECONDS,
    throttle_observed_s=SECONDS,
    xids=st.dictionaries(st.integers(1, 200), st.integers(1, 10**6), max_size=5),
)


@given(FOLDS)
def test_stored_fold_is_the_same(fold: Fold) -> None:
    assert from_json(to_json(fold)) == fold


@pytest.mark.parametrize(
    "change", [{"energy_j": "x"}, {"energy_j": True}, {"xids": []}, {"utilisation_s": {"x": 1}}]
)
def test_stored_fold_of_another_shape(change: dict[str, object]) -> None:
    with pytest.raises(FoldShapeError):
        from_json(to_json(EMPTY) | change)
    with pytest.raises(FoldShapeError):
        from_json({})


def test_empty_fold_is_small(database: Any, sampler: Any, page: Any, clock: Clock, job_id: int) -> None:
    page.gpu(0, 0.5, 0)
    clock.forward(30)
    sampler().tick()
    with Session(database.engine) as session:
        stored = session.scalars(select(AttemptTelemetryRow)).one()
        assert stored.fold["utilisation_s"] == {"50": 30.0}
    assert job_id
