"""Many rows rewritten by one statement: ids, instants, JSON and nulls, what the session holds, what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from store.engine import snapshot, transaction
from store.rewrite import update_all
from tenants.tables import OrganisationRow

AT = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


def add(database: Any, count: int) -> list[UUID]:
    ids = [uuid4() for _ in range(count)]
    with transaction(database.engine) as session:
        for number, one in enumerate(ids):
            session.add(
                OrganisationRow(
                    id=one,
                    slug=f"o-{number}",
                    name={"kk": "қабат", "en": "one"},
                    category="foreign",
                    sector="education",
                    region="Astana",
                    bin=f"{number:012}",
                    created_at=AT,
                )
            )
    return ids


def rows(database: Any, ids: list[UUID]) -> list[tuple[object, ...]]:
    with snapshot(database.engine) as session:
        found = [session.get_one(OrganisationRow, one) for one in ids]
    return [(row.slug, row.name, row.bin, row.created_at) for row in found]


def test_each_row_gets_its_own_values_and_others_keep_theirs(database: Any) -> None:
    first, second, third = ids = add(database, 3)
    later = AT + timedelta(microseconds=1)
    with transaction(database.engine) as session:
        held = session.get_one(OrganisationRow, first)
        assert held.bin is not None
        values: list[dict[str, object]] = [
            {"id": first, "name": {"kk": 'қос "қабат"', "n": [1, None]}, "bin": None, "created_at": AT},
            {"id": second, "name": {"kk": "қабат", "en": "one"}, "bin": "7", "created_at": later},
            {"id": third},
        ]
        asked = [(values[0], ["name", "bin"]), (values[1], ["created_at"]), (values[2], [])]
        update_all(session, OrganisationRow, asked)
        assert held.bin is None  # an object that the session has is read again
    assert rows(database, ids) == [
        ("o-0", {"kk": 'қос "қабат"', "n": [1, None]}, None, AT),
        ("o-1", {"kk": "қабат", "en": "one"}, "7", later),
        ("o-2", {"kk": "қабат", "en": "one"}, "000000000002", AT),
    ]


def test_where_nothing_changed_nothing_is_asked_of_the_database(database: Any) -> None:
    (one,) = add(database, 1)
    with transaction(database.engine) as session:
        update_all(session, OrganisationRow, [({"id": one, "bin": "7"}, [])])
        update_all(session, OrganisationRow, [])
        assert session.execute(text("SELECT pg_current_xact_id_if_assigned()")).scalar() is None


def test_what_the_database_refuses_is_told(database: Any) -> None:
    ids = add(database, 2)
    with pytest.raises(IntegrityError), transaction(database.engine) as session:
        update_all(session, OrganisationRow, [({"id": ids[0], "slug": "No Slug"}, ["slug"])])
    assert [row[0] for row in rows(database, ids)] == ["o-0", "o-1"]


def test_a_value_without_a_form_in_json_is_a_mistake(database: Any) -> None:
    (one,) = add(database, 1)
    with pytest.raises(TypeError, match="cannot be written"), transaction(database.engine) as session:
        update_all(session, OrganisationRow, [({"id": one, "bin": {1, 2}}, ["bin"])])
