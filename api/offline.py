"""The database of a state folder, whether its platform runs or not."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine

from api.commands import NoDatabaseError, database_url
from store import embedded, migrate
from store.engine import open_engine
from store.settings import Settings


@contextmanager
def database(settings: Settings) -> Iterator[Engine]:
    """Open the database: the setting's, that of the running platform, or the embedded one, started for this reading.

    No network connection is made. An embedded server that was started is stopped at the end.

    Raises:
        NoDatabaseError: no database is set, and the state folder holds none.
        EmbeddedPostgresError: the embedded server does not start.
        SchemaMismatchError: the database is at another migration than this release.
    """
    if settings.database_url:
        yield from _opened(settings.database_url)
        return
    state_dir = settings.state_dir.resolve()
    if not (state_dir / "pg" / "data" / "PG_VERSION").exists():
        raise NoDatabaseError(
            f"no database in {state_dir}: set KEZEK_DATABASE_URL, or KEZEK_STATE_DIR to a platform's state folder"
        )
    descriptor = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            # The lock of `kezek-server up`: whoever holds it runs the server, and must not be given a second one.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield from _opened(database_url(settings))
            return
        server = embedded.start(state_dir)
        try:
            yield from _opened(server.url)
        finally:
            server.stop()
    finally:
        os.close(descriptor)


def _opened(url: str) -> Iterator[Engine]:
    engine = open_engine(url)
    try:
        migrate.check(engine)
        yield engine
    finally:
        engine.dispose()
