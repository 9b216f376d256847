from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from store import journal
from store.engine import transaction
from tenants import access, tokens
from tenants.authz import Action, may
from tenants.errors import AuthenticationError, NotFoundError, UnsuitableError
from tenants.model import Role, Scope, UserId
from tenants.service import create_user
from tenants.tables import TokenRow, UserRow

AT = datetime(2026, 6, 1, tzinfo=UTC)


@given(st.integers(0, 53), st.sampled_from("0aZ_-"))
def test_one_wrong_character_breaks_the_form(place: int, character: str) -> None:
    secret = tokens.new_secret()
    assert tokens.is_well_formed(secret)
    wrong = secret[:place] + character + secret[place + 1 :]
    assert tokens.is_well_formed(wrong) == (wrong == secret)


@pytest.mark.parametrize(
    "text", ["", "kzk_", "kzk_" + "a" * 43 + "_000000", "x" * 10_000, "kzk_" + "é" * 43 + "_000000"]
)
def test_what_is_no_token_is_refused_by_its_form(text: str) -> None:
    assert not tokens.is_well_formed(text)


def test_only_the_digest_is_kept(database: Any) -> None:
    with transaction(database.engine) as session:
        issued = access.bootstrap_operator(session, AT)
        assert issued is not None
        assert access.bootstrap_operator(session, AT) is None
    with transaction(database.engine) as session:
        row = session.scalars(select(TokenRow)).one()
        assert row.digest == hashlib.sha256(issued.secret.encode()).digest()
        assert row.prefix == issued.prefix == issued.secret[:10]
        written = "".join(repr(record) for record in journal.read(session))
        assert issued.secret not in written
        assert issued.prefix not in written
        assert "operator" in written  # the role, never the user's name
        found = access.authenticate(session, issued.secret, AT)
    assert found.platform_roles == {Role.OPERATOR}
    assert may(found, Action.ADMINISTER)


def test_a_token_works_until_it_expires_is_revoked_or_its_user_leaves(database: Any) -> None:
    def code(secret: str, at: datetime) -> str:
        with transaction(database.engine) as session, pytest.raises(AuthenticationError) as error:
            access.authenticate(session, secret, at)
        return error.value.code.value

    with transaction(database.engine) as session:
        user = create_user(session, "a", None, actor="system", at=AT)
        issue = {"scopes": [Scope.READ], "actor": "system", "at": AT}
        short = access.issue_token(session, user.id, lifetime_s=60, **issue)
        other = access.issue_token(session, user.id, lifetime_s=3600, **issue)
    with transaction(database.engine) as session:
        caller = access.authenticate(session, short.secret, AT + timedelta(seconds=59))
        with pytest.raises(NotFoundError):
            access.revoke_token(session, caller, uuid4(), actor="system", at=AT)  # type: ignore[arg-type]
        access.revoke_token(session, caller, other.id, actor="system", at=AT)
        access.revoke_token(session, caller, other.id, actor="system", at=AT)
    assert code(short.secret, AT + timedelta(seconds=60)) == "TOKEN_EXPIRED"
    assert code(other.secret, AT) == "TOKEN_REVOKED"
    assert code(tokens.new_secret(), AT) == "UNAUTHENTICATED"
    assert code("nonsense", AT) == "UNAUTHENTICATED"
    with transaction(database.engine) as session:
        session.get_one(UserRow, user.id).is_active = False
        kinds = [record.kind for record in journal.read(session)]
    assert kinds.count("token.revoked") == 1
    assert code(short.secret, AT) == "UNAUTHENTICATED"


@pytest.mark.parametrize("lifetime_s", [59, 366 * 86_400 + 1, -1])
def test_a_lifetime_has_limits(database: Any, lifetime_s: int) -> None:
    with transaction(database.engine) as session:
        user = create_user(session, "a", None, actor="system", at=AT)
        with pytest.raises(UnsuitableError, match="lives"):
            access.issue_token(
                session, user.id, scopes=[Scope.READ], lifetime_s=lifetime_s, actor="system", at=AT
            )
        for edge in (access.MIN_LIFETIME_S, access.MAX_LIFETIME_S):
            access.issue_token(session, user.id, scopes=[Scope.READ], lifetime_s=edge, actor="system", at=AT)


def test_a_users_tokens_are_limited(database: Any) -> None:
    def issue(session: Any, user_id: UserId) -> None:
        access.issue_token(session, user_id, scopes=[Scope.READ], lifetime_s=60, actor="system", at=AT)

    with transaction(database.engine) as session:
        user = create_user(session, "a", None, actor="system", at=AT)
        for _ in range(access.MAX_LIVE_TOKENS):
            issue(session, user.id)
        with pytest.raises(UnsuitableError, match="revoke one"):
            issue(session, user.id)
        with pytest.raises(UnsuitableError, match="scope"):
            access.issue_token(session, user.id, scopes=[], lifetime_s=60, actor="system", at=AT)
        with pytest.raises(NotFoundError):
            issue(session, UserId(uuid4()))
