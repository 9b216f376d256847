from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import Engine

from store import embedded, engine, migrate

settings.register_profile("dev", max_examples=25, deadline=None)
settings.register_profile(
    "ci", max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "nightly", max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


@dataclass(frozen=True)
class Database:
    """A fresh migrated database of the test session's own PostgreSQL."""

    url: str
    engine: Engine


@pytest.fixture(scope="session")
def postgres() -> Iterator[embedded.EmbeddedPostgres]:
    with tempfile.TemporaryDirectory(prefix="kezek-test-") as folder:
        server = embedded.start(Path(folder), durable=False)
        try:
            template = engine.open_engine(server.url, pool_size=1)
            migrate.upgrade(template)
            template.dispose()
            yield server
        finally:
            server.stop()


@pytest.fixture
def database(postgres: embedded.EmbeddedPostgres) -> Iterator[Database]:
    name = f"t_{uuid.uuid4().hex[:12]}"
    admin = postgres.url.replace(f"@/{embedded.SERVER_USER}?", "@/postgres?")
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {embedded.SERVER_USER}")
    url = postgres.url.replace(f"@/{embedded.SERVER_USER}?", f"@/{name}?")
    made = engine.open_engine(url, pool_size=4)
    try:
        yield Database(url, made)
    finally:
        made.dispose()
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
