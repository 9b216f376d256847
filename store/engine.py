"""The one engine: PostgreSQL through SQLAlchemy and psycopg 3, and the unit of work every shell uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.orm import Session

POOL_SIZE = 10
"""Connections a process keeps; the embedded server allows 100 in all."""

STATEMENT_TIMEOUT_MS = 30_000
"""No statement of the platform needs longer; a stuck one must not hold its locks for ever."""

IDLE_TIMEOUT_MS = 30_000
"""Longest pause within a transaction: a process that froze in one must not keep its locks, the lease's among them."""

WAKE_CHANNEL = "kezek_wake"
"""NOTIFY channel that wakes the scheduler: a job was submitted, cancelled, or something ended."""


class DatabaseUrlError(ValueError):
    """The database URL is not one of PostgreSQL."""


def open_engine(url: str, *, pool_size: int = POOL_SIZE) -> Engine:
    """Return an engine for a `postgresql://` URL.

    Raises:
        DatabaseUrlError: when the URL is of another database.
    """
    if not url.startswith(("postgresql://", "postgresql+psycopg://")):
        scheme = url.split(":", 1)[0]
        raise DatabaseUrlError(
            f"database URL has the scheme {scheme!r}; Kezek runs on PostgreSQL only, set KEZEK_DATABASE_URL to "
            "postgresql://user:password@host:port/database"
        )
    return create_engine(
        url.replace("postgresql://", "postgresql+psycopg://", 1),
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=True,
        connect_args={
            "options": f"-c timezone=UTC -c statement_timeout={STATEMENT_TIMEOUT_MS}"
            f" -c idle_in_transaction_session_timeout={IDLE_TIMEOUT_MS}"
        },
    )


@contextmanager
def transaction(engine: Engine) -> Iterator[Session]:
    """One unit of work: commit at the end, roll back on any exception. No network call belongs inside."""
    with Session(engine, expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def snapshot(engine: Engine) -> Iterator[Session]:
    """A read-only, repeatable-read session: every statement sees the same instant of the database."""
    with engine.connect() as connection:
        fixed: Connection = connection.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        with fixed.begin(), Session(fixed, expire_on_commit=False) as session:
            yield session


def wake(session: Session) -> None:
    """Wake the scheduler when this transaction commits."""
    session.execute(text(f"NOTIFY {WAKE_CHANNEL}"))
