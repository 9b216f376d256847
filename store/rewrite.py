"""Some columns of many rows that are there already, in one statement: an UPDATE from a JSON array of rows."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import cast
from uuid import UUID

from sqlalchemy import Dialect, Table, text
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import TextClause

from store.base import Base


def update_all(
    session: Session, kind: type[Base], rows: Sequence[tuple[Mapping[str, object], Collection[str]]]
) -> None:
    """Write columns of many rows that the caller has locked; about 15 µs a row, where the ORM's flush takes 100.

    Objects that the session has of these rows are expired, so that they are read again when they are looked at.

    Args:
        session: the open unit of work.
        kind: the table's class; its primary key is one column.
        rows: for each row its values by column, the key's among them, and the columns that changed. What changed of
            any of them is written of all that changed, so each has to have the values of all these columns.

    Raises:
        IntegrityError: the database refuses one of them.
    """
    changed = [values for values, columns in rows if columns]
    if not changed:
        return
    table = cast("Table", kind.__table__)
    (key,) = (column.name for column in table.primary_key)
    names = tuple(sorted({name for _, columns in rows for name in columns}))
    found = [{name: values[name] for name in (key, *names)} for values in changed]
    data = json.dumps(found, default=_to_text, separators=(",", ":"), ensure_ascii=False)
    session.execute(_statement(table, key, names, session.get_bind().dialect), {"rows": data})
    touched = {values[key] for values in changed}
    for identity in list(session.identity_map.keys()):
        if identity[0] is kind and identity[1][0] in touched:
            session.expire(session.identity_map[identity])


def _to_text(value: object) -> str:
    """A value that JSON has no form of, as the database reads it.

    Raises:
        TypeError: it is neither an instant nor an id.
    """
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{value!r} cannot be written: neither JSON nor an instant nor an id")


@cache
def _statement(table: Table, key: str, names: tuple[str, ...], dialect: Dialect) -> TextClause:
    """An UPDATE of these columns; a null is NULL, in a column of JSON too."""
    types = ", ".join(f"{name} {table.c[name].type.compile(dialect)}" for name in (key, *names))
    sets = ", ".join(f"{name} = changed.{name}" for name in names)
    source = f"jsonb_to_recordset(CAST(:rows AS jsonb)) AS changed({types})"
    where = f"{table.name}.{key} = changed.{key}"
    return text(f"UPDATE {table.name} SET {sets} FROM {source} WHERE {where}")  # noqa: S608 - names of our own columns
