from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

import api.tables
import metrics.tables
import products.evidence_tables
import products.registers_tables
import products.tables
import quota.tables
import scheduler.tables
import tenants.tables
from store import clock, embedded, engine, journal, lease, migrate, seal
from store.engine import snapshot, transaction

ROOMS = (
    api.tables,
    metrics.tables,
    products.registers_tables,
    products.tables,
    products.evidence_tables,
    quota.tables,
    scheduler.tables,
    tenants.tables,
)
AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def write(database, subject="node:n0", kind="node.up", data=None):
    with transaction(database.engine) as session:
        journal.append(session, kind, subject, actor=journal.SYSTEM, at=AT, data=data or {"gpus": 8})


def test_tables_and_migrations_agree(database):
    assert ROOMS
    assert migrate.difference(database.engine) == []
    migrate.check(database.engine)


def test_one_migration_head():
    from alembic.script import ScriptDirectory

    assert len(ScriptDirectory.from_config(migrate.config()).get_heads()) == 1


def test_a_database_at_another_migration_is_refused_by_name(database):
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'older'"))
    with pytest.raises(migrate.SchemaMismatchError, match=r"older.*kezek-server migrate"):
        migrate.check(database.engine)


def test_only_postgresql():
    with pytest.raises(engine.DatabaseUrlError, match="sqlite"):
        engine.open_engine("sqlite:///x.db")


@pytest.mark.parametrize("table", ["journal", "ledger_entries", "journal_seals", "journal_segments"])
@pytest.mark.parametrize("statement", ["DELETE FROM {}", "TRUNCATE {} CASCADE"])
def test_append_only_tables_refuse_change(database, table, statement):
    with pytest.raises(DBAPIError, match="append-only"), database.engine.begin() as connection:
        connection.execute(text(statement.format(table)))


def test_unknown_kind_is_refused_and_nothing_is_written(database):
    with pytest.raises(journal.UnknownKindError), transaction(database.engine) as session:
        journal.append(session, "job.evaporated", "job:1", actor="system", at=AT, data={})
    with snapshot(database.engine) as session:
        assert list(journal.read(session)) == []


def test_a_change_that_fails_leaves_no_record(database):
    def fail() -> None:
        with transaction(database.engine) as session:
            journal.append(session, "node.up", "node:n0", actor="system", at=AT, data={})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with snapshot(database.engine) as session:
        assert list(journal.read(session)) == []


def test_read_pages_and_subjects(database, monkeypatch):
    monkeypatch.setattr(journal, "PAGE", 2)
    for place in range(5):
        write(database, subject=f"node:n{place % 2}")
    with snapshot(database.engine) as session:
        everything = list(journal.read(session))
        assert [record.subject for record in everything] == ["node:n0", "node:n1"] * 2 + ["node:n0"]
        assert [r.id for r in journal.read(session, after_id=everything[2].id)] == [
            r.id for r in everything[3:]
        ]
        assert len(journal.of_subject(session, "node:n1")) == 2


def test_a_snapshot_gives_the_journal_it_saw_again(database):
    write(database)
    late = database.engine.connect()
    uncommitted = late.begin()
    late.execute(
        text(
            "INSERT INTO journal (at, kind, subject, actor, data) VALUES (now(), 'node.up', 'node:late', 'system', '{}')"
        )
    )
    write(database, subject="node:n1")
    with snapshot(database.engine) as session:
        seen = session.scalar(text("SELECT pg_current_snapshot()::text"))
    uncommitted.commit()
    late.close()
    write(database, subject="node:n2")
    with snapshot(database.engine) as session:
        assert [r.subject for r in journal.read(session, visible_in=seen)] == ["node:n0", "node:n1"]


def test_sealing_chains_segments_and_verifies(database, tmp_path, monkeypatch):
    monkeypatch.setattr(seal, "SEGMENT_MAX", 2)
    head_file = tmp_path / "head"
    assert seal.seal_once(database.engine, head_file, at=AT) is None
    for _ in range(5):
        write(database)
    head = seal.seal_once(database.engine, head_file, at=AT)
    assert (head.segment, head.last_seq) == (3, 5)
    write(database)
    verdict = seal.verify(database.engine, head_file)
    assert (verdict.problem, verdict.records_sealed, verdict.records_unsealed, verdict.segments) == (
        None,
        5,
        1,
        3,
    )
    assert seal.seal_once(database.engine, head_file, at=AT).last_seq == 6
    assert len(head_file.read_text().splitlines()) == 4


def test_a_record_of_an_older_running_transaction_is_waited_for(database, tmp_path):
    head_file = tmp_path / "head"
    slow = database.engine.connect()
    running = slow.begin()
    slow.execute(
        text(
            "INSERT INTO journal (at, kind, subject, actor, data) VALUES (now(), 'node.up', 'node:slow', 'system', '{}')"
        )
    )
    write(database, subject="node:fast")
    assert seal.seal_once(database.engine, head_file, at=AT) is None
    running.commit()
    slow.close()
    assert seal.seal_once(database.engine, head_file, at=AT).last_seq == 2
    assert seal.verify(database.engine, head_file).problem is None


@pytest.mark.parametrize(
    ("attack", "problem"),
    [
        ("UPDATE journal SET data = '{\"gpus\": 9}' WHERE id = 2", "changed after it was sealed"),
        ("UPDATE journal SET actor = 'user:x' WHERE id = 1", "changed after it was sealed"),
        ("DELETE FROM journal WHERE id = 1", "some were deleted"),
        (
            "DELETE FROM journal_segments WHERE number = 2; DELETE FROM journal_seals WHERE seq > 2",
            "was published",
        ),
        ("DELETE FROM journal_segments WHERE number = 1", "missing"),
        ("UPDATE journal_segments SET digest = decode('00', 'hex') WHERE number = 2", "changed"),
    ],
)
def test_tampering_is_found(database, tmp_path, attack, problem):
    head_file = tmp_path / "head"
    for _ in range(2):
        write(database)
        write(database)
        seal.seal_once(database.engine, head_file, at=AT)
    with psycopg.connect(database.url, autocommit=True) as connection:
        for table in ("journal", "journal_seals", "journal_segments"):
            connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER append_only")
        connection.execute(attack)
    assert problem in seal.verify(database.engine, head_file).problem


def test_a_rewritten_chain_differs_from_its_published_head(database, tmp_path):
    head_file = tmp_path / "head"
    write(database)
    seal.seal_once(database.engine, head_file, at=AT)
    line = json.loads(head_file.read_text())
    line["digest"] = "0" * 64
    head_file.write_text(json.dumps(line) + "\n" + '{"torn": ')
    assert "published head" in seal.verify(database.engine, head_file).problem


def test_a_head_published_after_a_crash_between_commit_and_publication(database, tmp_path):
    head_file = tmp_path / "head"
    write(database)
    seal.seal_once(database.engine, tmp_path / "lost", at=AT)
    write(database)
    seal.seal_once(database.engine, head_file, at=AT)
    assert seal.verify(database.engine, head_file).problem is None


def test_lease_has_one_holder_and_a_rising_epoch(database):
    with transaction(database.engine) as session:
        first = lease.acquire(session, "scheduler", "a", at=AT, ttl_s=10)
    with transaction(database.engine) as session:
        assert lease.acquire(session, "scheduler", "b", at=AT + timedelta(seconds=9), ttl_s=10) is None
        again = lease.acquire(session, "scheduler", "a", at=AT + timedelta(seconds=5), ttl_s=10)
    assert (first.epoch, again.epoch) == (1, 1)
    with transaction(database.engine) as session:
        second = lease.acquire(session, "scheduler", "b", at=AT + timedelta(seconds=16), ttl_s=10)
    assert second.epoch == 2
    with pytest.raises(lease.StaleEpochError, match="epoch 1"), transaction(database.engine) as session:
        lease.fence(session, first)
    with transaction(database.engine) as session:
        lease.fence(session, second)
        lease.release(session, second, at=AT)
    with transaction(database.engine) as session:
        third = lease.acquire(session, "scheduler", "c", at=AT + timedelta(seconds=17), ttl_s=10)
    assert third.epoch == 3


def test_a_process_that_froze_within_a_transaction_keeps_no_lock(database, monkeypatch):
    with transaction(database.engine) as session:
        assert lease.acquire(session, "scheduler", "first", at=clock.now(), ttl_s=0) is not None
    monkeypatch.setattr(engine, "IDLE_TIMEOUT_MS", 200)
    frozen = engine.open_engine(database.url, pool_size=1)
    with frozen.connect() as connection:
        connection.execute(text("SELECT * FROM leases FOR UPDATE"))
        with transaction(database.engine) as session:  # waits for the frozen one's locks
            taken = lease.acquire(session, "scheduler", "second", at=clock.now(), ttl_s=10)
        assert taken is not None
        with pytest.raises(DBAPIError, match="idle-in-transaction"):
            connection.execute(text("SELECT 1"))
    frozen.dispose()


def test_two_that_want_a_new_lease_at_once_get_one(database):
    results = []

    def want(holder):
        try:
            with transaction(database.engine) as session:
                results.append(lease.acquire(session, "scheduler", holder, at=AT, ttl_s=10))
        except DBAPIError:
            results.append(None)

    threads = [threading.Thread(target=want, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(result is not None for result in results) == 1


def test_instants_round_trip_to_the_millisecond():
    at = datetime(2026, 1, 1, 0, 0, 0, 999_999, tzinfo=UTC)
    assert clock.from_ms(clock.to_ms(at)) == at.replace(microsecond=999_000)
    assert clock.to_ms(datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)) == -1000
    assert clock.now().tzinfo is UTC
    with pytest.raises(ValueError, match="no time zone"):
        clock.to_ms(datetime(2026, 1, 1))  # noqa: DTZ001


SCRIPT = """
import sys, pathlib
from store import embedded
server = embedded.start(pathlib.Path(sys.argv[1]), durable=False)
print(server.url, server.process.pid, flush=True)
sys.stdin.read()
"""


def start_child(folder: Path, **options) -> tuple[subprocess.Popen[str], str, int]:
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        **options,
    )
    url, pid = child.stdout.readline().split()
    return child, url, int(pid)


def test_embedded_server_dies_with_a_killed_parent_and_comes_back(tmp_path):
    folder = tmp_path / ("long-" * 24)
    folder.mkdir(mode=0o700)
    child, url, pid = start_child(folder)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdin.close()
    child.stdout.close()
    server = embedded.start(folder, durable=False)
    assert not Path(f"/proc/{pid}").exists()
    with psycopg.connect(server.url) as connection:
        assert connection.execute("SELECT n FROM kept").fetchone() == (1,)
    server.stop()
    server.stop()


def test_programs_below_a_private_home_are_reached(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    package = Path(embedded._bin("postgres")).parents[2]
    for folder in (package, package.with_name(package.name + ".libs")):
        shutil.copytree(folder, home / folder.name, ignore=shutil.ignore_patterns("include", "pginstall"))
    copied = home / package.name / "pginstall18" / "bin"
    monkeypatch.setattr(embedded, "_bin", lambda name: str(copied / name))
    server = embedded.start(home / "state", durable=False)
    server.stop()


def test_the_password_is_needed(tmp_path):
    server = embedded.start(tmp_path / "s", durable=False)
    try:
        wrong = server.url.replace("postgresql://kezek:", "postgresql://kezek:no")
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(wrong)
        assert (tmp_path / "s" / "secrets" / "pg.password").stat().st_mode & 0o777 == 0o600
    finally:
        server.stop()
