"""Commands of the register on the database, what looks alike, and the limits of both."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from api import offline, register_commands
from api.commands import NoDatabaseError
from products import duplicates, history, service
from products.duplicates import Likeness, Mark, Marks, alike, plain_link, plain_name
from products.errors import TooManyJobsError
from products.history import IMPORT_COLUMNS
from products.model import Stage
from store import embedded, migrate
from store.engine import open_engine, transaction
from store.settings import Settings
from tenants.model import Sector
from tests.products.test_chain import World, counted, day

ROW = "old,Ескі,Старый,Old,2025-09-01,order,Ministry,12,2026-02-01"
CSV = f"{','.join(IMPORT_COLUMNS)}\n{ROW}\n"


@pytest.fixture
def world(database: Any) -> World:
    return World(database.engine)


def kpi(engine: Engine, capsys: Any, *arguments: str, code: int = 0) -> tuple[str, str]:
    parser = argparse.ArgumentParser()
    register_commands.add_kpi_arguments(parser)
    assert register_commands.run_kpi(parser.parse_args(arguments), Settings(), engine) == code
    said = capsys.readouterr()
    return said.out, said.err


def imported(engine: Engine, file: Path) -> int:
    parser = argparse.ArgumentParser()
    register_commands.add_product_arguments(parser)
    return register_commands.run_product(parser.parse_args(["import", str(file)]), engine)


def test_the_command_tells_the_figure_of_the_reports(
    world: World, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.clock.now", lambda: day(60))
    counted(world, "tilshi", day(2))
    as_of = ("--as-of", day(30).isoformat())
    out, _ = kpi(world.engine, capsys, "--indicator", "2", "--json", *as_of)
    found = json.loads(out)
    told = {year["year"]: (year["added"], year["cumulative"], year["target"]) for year in found["years"]}
    assert (told[2026], told[2027]) == ((1, 1, 10), (None, None, 15))
    assert [item["slug"] for item in found["counted"]] == ["tilshi"]
    assert {"definition", "source", "as_of", "coverage", "rule"} <= found.keys()
    report = world.gather(day(30))
    assert [(year.year, year.added, year.cumulative) for year in report.indicator][-1] == (2026, 1, 1)
    plain, _ = kpi(world.engine, capsys, "--indicator", "2", *as_of)
    assert "2026: 1 added, 1 in all; imported 0 and 0; target 10" in plain
    assert "tilshi: counts since" in plain
    early, _ = kpi(world.engine, capsys, "--indicator", "2", "--json", "--as-of", day(1).isoformat())
    assert {year["cumulative"] for year in json.loads(early)["years"]} == {0, None}
    seven, _ = kpi(world.engine, capsys, "--indicator", "7", "--year", "2026", *as_of)
    assert "2026: the platform's contribution 1, national target 10\ntilshi-llp" in seven
    assert "percentage" in seven


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--year", "2031"), "no target"),
        (("--as-of", "2099-01-01T00:00:00+05:00"), "has passed"),
        (("--as-of", "2026-01-01T00:00:00"), "time zone"),
        (("--as-of", "soon"), "soon"),
    ],
)
def test_a_figure_that_cannot_be_told_is_an_error(
    world: World, capsys: Any, arguments: tuple[str, ...], says: str
) -> None:
    out, error = kpi(world.engine, capsys, "--indicator", "2", *arguments, code=1)
    assert says in error
    assert out == ""


def test_an_import_is_taken_from_a_file(world: World, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "before.csv"
    file.write_text(CSV, encoding="utf-8-sig")
    assert imported(world.engine, file) == 0
    assert "1 products imported" in capsys.readouterr().out
    assert imported(world.engine, file) == 1
    assert "old is there already" in capsys.readouterr().err
    file.write_bytes(b"\xff\xfe")
    assert imported(world.engine, file) == 1
    assert str(file) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "header"),
        (f"{','.join(IMPORT_COLUMNS)}\n", "no product"),
        (CSV.replace("old,", "Old One,"), "no slug"),
        (CSV.rstrip() + ",more\n", "9 values"),
        (CSV.replace("Ескі", '"Ескі'), "no CSV"),
        (CSV.replace("2025-09-01", "2026-12-31"), "future"),
        (CSV.replace("old,", "taken,"), "taken is there already"),
    ],
)
def test_what_is_no_import_is_refused_whole(world: World, content: str, says: str) -> None:
    world.register("taken", world.job(day(1), 60), day(1))
    with pytest.raises(history.BadImportError, match=says), transaction(world.engine) as session:
        history.import_products(session, content, actor="system", at=day(5))
    with transaction(world.engine) as session:
        assert history.imported(session) == ()


def test_the_length_of_an_import_is_limited(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_IMPORT_CHARS", len(CSV))
    with pytest.raises(history.BadImportError, match="characters"), transaction(world.engine) as session:
        history.import_products(session, CSV + "\n", actor="system", at=day(1))
    with transaction(world.engine) as session:
        assert history.import_products(session, CSV, actor="system", at=day(1)) == 1


def test_the_jobs_of_a_product_are_limited(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_JOBS", 1)
    world.register("full", world.job(day(1), 60), day(1))
    more = world.job(day(2), 60)
    with pytest.raises(TooManyJobsError, match="full"), transaction(world.engine) as session:
        service.link(session, world.author, "full", [more], actor="user:author", at=day(3))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    server = embedded.start(tmp_path, durable=False)
    try:
        made = open_engine(server.url, pool_size=1)
        migrate.upgrade(made)
        made.dispose()
    finally:
        server.stop()
    return tmp_path


def test_offline_starts_the_folders_database_and_stops_it(folder: Path) -> None:
    settings = Settings(state_dir=folder)
    with offline.database(settings) as engine, transaction(engine) as session:
        assert history.imported(session) == ()
    assert not (folder / "pg" / "data" / "postmaster.pid").exists()
    with (
        pytest.raises(NoDatabaseError, match="state folder"),
        offline.database(Settings(state_dir=folder / "none")),
    ):
        pytest.fail("there is no database")


def test_offline_uses_the_database_that_is_set(database: Any) -> None:
    with offline.database(Settings(database_url=database.url)) as engine, transaction(engine) as session:
        assert history.imported(session) == ()


def marks(slug: str, **more: Any) -> Marks:
    return Marks(slug, **{"is_imported": False, "names": (), **more})


def test_names_and_links_are_compared_by_what_they_say() -> None:
    assert plain_name("  Digit-Reader 2! ") == plain_name("DIGIT READER２") == "digitreader2"
    assert plain_link("http://www.A.kz/x/#top") == plain_link("https://a.kz/x") == "a.kz/x"
    assert plain_link("https://a.kz/x?y=1") != plain_link("https://a.kz/x")
    own = marks("own", names=("Тілші", "!"), digests=("aa",), links=("https://a.kz/",))
    others = [
        own,
        marks("b", names=("!",)),
        marks("c", names=("ТІЛШІ",), digests=("aa",), links=("http://a.kz",)),
        marks("own", is_imported=True, names=("тілші",)),
    ]
    assert alike(own, others) == (
        Likeness("c", is_imported=False, mark=Mark.DIGEST, value="aa"),
        Likeness("c", is_imported=False, mark=Mark.LINK, value="https://a.kz/"),
        Likeness("c", is_imported=False, mark=Mark.NAME, value="Тілші"),
        Likeness("own", is_imported=True, mark=Mark.NAME, value="Тілші"),
    )


def test_the_likenesses_shown_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "MAX_SHOWN", 2)
    found = alike(marks("own", names=("a",)), [marks(f"p{n}", names=("a",)) for n in range(5)])
    assert [each.slug for each in found] == ["p0", "p1"]


def test_an_entry_keeps_what_was_said_when(world: World) -> None:
    """A change writes a statement; the one before stands for every as-of up to it."""
    product = counted(world, "tilshi", day(2))
    with transaction(world.engine) as session:
        known = service.get(session, world.author, "tilshi")
        changed = {name: getattr(known, name) for name in service.ENTRY_FIELDS} | {"stage": Stage.IDEA}
        entry = service.NewProduct(**changed, slug="tilshi", project=world.project, job_ids=frozenset())
        service.change(session, world.author, "tilshi", entry, actor="user:author", at=day(10))
    with transaction(world.engine) as session:
        (before,), (after,) = history.verdicts(session, day(9)), history.verdicts(session, day(11))
    assert (before.counts, after.counts) == (True, False)
    assert (product.sector, product.started_on) == (Sector.EDUCATION, date(2026, 9, 1))
    assert after.spans[0].until == day(10) == datetime(2026, 10, 11, 6, tzinfo=UTC)
