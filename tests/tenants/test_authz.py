from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Uuid, column

from store.engine import transaction
from tenants import service
from tenants.authz import ACTION_SCOPE, ROLE_ACTIONS, Action, may, visible_to
from tenants.errors import NotFoundError, UnsuitableError
from tenants.model import (
    PLATFORM_ROLES,
    PROJECT_ROLES,
    Principal,
    ProjectId,
    Role,
    Scope,
    TokenId,
    UserId,
)

AT = datetime(2026, 6, 1, tzinfo=UTC)
MINE, OTHERS = ProjectId(uuid4()), ProjectId(uuid4())

TABLE = {
    Role.RESEARCHER: "read read-content submit register-product",
    Role.PROJECT_MANAGER: "read read-content submit register-product manage-members",
    Role.OPERATOR: "read read-content submit manage-members administer",
    Role.REVIEWER: "read review-product",
    Role.COUNCIL_VIEWER: "read",
    Role.AUDITOR: "read",
}


def principal(role: Role, scope: Scope = Scope.ADMIN) -> Principal:
    is_platform = role in PLATFORM_ROLES
    return Principal(
        UserId(uuid4()),
        "name",
        None,
        TokenId(uuid4()),
        frozenset({scope}),
        frozenset({role}) if is_platform else frozenset(),
        {} if is_platform else {MINE: frozenset({role})},
    )


@pytest.mark.parametrize("role", Role)
def test_the_table_of_roles_and_actions(role: Role) -> None:
    who = principal(role)
    allowed = set(TABLE[role].split())
    assert {action.value for action in Action if may(who, action, MINE)} == allowed
    is_platform = role in PLATFORM_ROLES
    assert {action.value for action in Action if may(who, action, OTHERS)} == (
        allowed if is_platform else set()
    )
    assert {action.value for action in Action if may(who, action)} == (allowed if is_platform else set())


def test_every_role_and_action_is_in_the_tables() -> None:
    assert set(ROLE_ACTIONS) == set(Role) == PROJECT_ROLES | PLATFORM_ROLES
    assert set(ACTION_SCOPE) == set(Action)


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        (Scope.READ, "read read-content"),
        (Scope.WRITE, "read read-content submit manage-members"),
        (Scope.ADMIN, TABLE[Role.OPERATOR]),
    ],
)
def test_a_scope_narrows_a_role(scope: Scope, allowed: str) -> None:
    assert {action.value for action in Action if may(principal(Role.OPERATOR, scope), action)} == set(
        allowed.split()
    )


def test_a_role_held_in_the_wrong_place_gives_nothing() -> None:
    who = principal(Role.RESEARCHER)
    astray = Principal(
        who.user_id,
        "",
        None,
        who.token_id,
        who.scopes,
        frozenset({Role.RESEARCHER}),
        {MINE: frozenset({Role.OPERATOR})},
    )
    assert not any(may(astray, action, place) for action in Action for place in (MINE, OTHERS, None))


def test_the_clause_of_visible_rows() -> None:
    project_id = column("project_id", Uuid())

    def clause(who: Principal, action: Action = Action.READ) -> str:
        return str(visible_to(who, project_id, action).compile(compile_kwargs={"literal_binds": True}))

    assert clause(principal(Role.OPERATOR)) == clause(principal(Role.AUDITOR)) == "true"
    assert clause(principal(Role.AUDITOR), Action.READ_CONTENT) == "false"
    assert MINE.hex in clause(principal(Role.RESEARCHER)).replace("-", "")
    without_roles = Principal(
        UserId(uuid4()), "", None, TokenId(uuid4()), frozenset({Scope.ADMIN}), frozenset(), {}
    )
    assert clause(without_roles) == "false"
    assert clause(principal(Role.OPERATOR, Scope.READ), Action.SUBMIT) == "false"


def test_roles_are_given_once_and_where_they_belong(database: Any) -> None:
    with transaction(database.engine) as session:
        user = service.create_user(session, "a", None, actor="system", at=AT)
        give = {"actor": "system", "at": AT}
        for _ in range(2):
            service.grant_role(session, user.id, Role.AUDITOR, None, **give)
        with pytest.raises(UnsuitableError, match="name one"):
            service.grant_role(session, user.id, Role.RESEARCHER, None, **give)
        with pytest.raises(UnsuitableError, match="name no project"):
            service.grant_role(session, user.id, Role.AUDITOR, MINE, **give)
        with pytest.raises(NotFoundError):
            service.grant_role(session, user.id, Role.RESEARCHER, MINE, **give)
        with pytest.raises(NotFoundError):
            service.grant_role(session, UserId(uuid4()), Role.AUDITOR, None, **give)
