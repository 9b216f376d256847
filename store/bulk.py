"""Many rows of one table in one statement: COPY in the session's own transaction."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Final, TypeVar, cast

import psycopg
from sqlalchemy import Column, Table, func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session
from sqlalchemy.sql.schema import ScalarElementColumnDefault

from store.base import Base

T = TypeVar("T", bound=Base)
_QUOTE: Final = '"'
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


def insert_all(session: Session, rows: Sequence[Base]) -> None:
    """Insert new rows of one table, in order; the objects stay strangers to the session.

    Columns that the database fills (identities, server defaults) are left to it. What the session holds unflushed is
    flushed first. About 10 µs a row beside what the table's indexes and checks cost; the ORM's flush takes 100.

    Raises:
        IntegrityError: the database refuses one of them; psycopg's own, and the transaction or savepoint is over.
    """
    if not rows:
        return
    table = cast("Table", rows[0].__table__)
    names, columns = _columns(table, has_id=_has_id(table, rows[0]))
    copy_all(session, table.name, names, ([value(row) for value in columns] for row in rows))


def plain(kind: type[T], /, **values: object) -> T:
    """Values of a new row for `insert_all`, without what the ORM adds to each attribute: a tenth of its cost.

    It has every column's attribute, None where no value is given; it can never be added to a session.
    """
    table = cast("Table", kind.__table__)
    row = SimpleNamespace(**_blank(table))
    row.__dict__.update(values, __table__=table)
    return cast("T", row)


def next_ids(session: Session, kind: type[Base], count: int) -> list[int]:
    """Numbers for new rows, from the table's own sequence, in ascending order."""
    sequence = func.pg_get_serial_sequence(kind.__tablename__, "id")
    numbers = select(func.nextval(sequence)).select_from(func.generate_series(1, count))
    return sorted(session.scalars(numbers))


def _has_id(table: Table, row: Base) -> bool:
    """Whether the caller numbered the rows itself."""
    return any(
        column.identity is not None and not column.identity.always and getattr(row, column.key) is not None
        for column in table.columns
    )


@cache
def _blank(table: Table) -> dict[str, None]:
    return dict.fromkeys(column.key for column in table.columns)


def copy_all(session: Session, table: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """COPY rows into a table of ours; JSON columns as text. See `insert_all`."""
    session.flush()
    connection = cast("psycopg.Connection", session.connection().connection.driver_connection)
    names = ", ".join(f"{_QUOTE}{name}{_QUOTE}" for name in columns)
    statement = f"COPY {table} ({names}) FROM STDIN"
    with connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
        for row in rows:
            copy.write_row(row)


def to_json(value: object) -> str | None:
    """A JSON value as COPY takes it; None is NULL."""
    return None if value is None else _ENCODER.encode(value)


@cache
def _columns(table: Table, *, has_id: bool) -> tuple[list[str], list[Callable[[Base], object]]]:
    """Columns that the caller fills, and how each is read from a row's object."""
    chosen = [column for column in table.columns if has_id or column.identity is None]
    return [column.name for column in chosen], [_reader(column) for column in chosen]


def _reader(column: Column[object]) -> Callable[[Base], object]:
    name = column.key
    default = column.default.arg if isinstance(column.default, ScalarElementColumnDefault) else None
    if isinstance(column.type, JSONB):
        return lambda row: to_json(getattr(row, name))
    if default is None:
        return lambda row: getattr(row, name)
    return lambda row: default if getattr(row, name) is None else getattr(row, name)
