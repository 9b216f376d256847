"""Who may do what: one table of roles and actions, and the clause every query of tenant-owned rows starts from."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final
from uuid import UUID

from sqlalchemy import ColumnElement, SQLColumnExpression, false, true

from tenants.model import PLATFORM_ROLES, PROJECT_ROLES, Principal, ProjectId, Role, Scope


class Action(StrEnum):
    """What a caller wants to do; on a project, or, for the platform's own affairs, on none."""

    READ = "read"
    """See rows and figures: projects, grants, jobs' states and GPU-seconds, products."""
    READ_CONTENT = "read-content"
    """See what a person wrote and what a job made: names, command lines, logs, outputs."""
    SUBMIT = "submit"
    """Upload code, submit jobs, and cancel, hold or release jobs of the project."""
    REGISTER_PRODUCT = "register-product"
    """Enter a product of the project in the register."""
    MANAGE_MEMBERS = "manage-members"
    """Give project roles on the project."""
    REVIEW_PRODUCT = "review-product"
    """Verify or return a product."""
    ADMINISTER = "administer"
    """Enter organisations, projects, users, platform roles, policies and grants; favour a job."""


ROLE_ACTIONS: Final[Mapping[Role, frozenset[Action]]] = {
    Role.RESEARCHER: frozenset({Action.READ, Action.READ_CONTENT, Action.SUBMIT, Action.REGISTER_PRODUCT}),
    Role.PROJECT_MANAGER: frozenset(
        {Action.READ, Action.READ_CONTENT, Action.SUBMIT, Action.REGISTER_PRODUCT, Action.MANAGE_MEMBERS}
    ),
    Role.OPERATOR: frozenset(
        {Action.READ, Action.READ_CONTENT, Action.SUBMIT, Action.MANAGE_MEMBERS, Action.ADMINISTER}
    ),
    Role.REVIEWER: frozenset({Action.READ, Action.REVIEW_PRODUCT}),
    Role.COUNCIL_VIEWER: frozenset({Action.READ}),
    Role.AUDITOR: frozenset({Action.READ}),
}
"""What each role may do: project roles on their project, platform roles on every project and on none.

No one who administers the platform also judges its products, and whoever oversees it reads figures, not content.
"""

ACTION_SCOPE: Final[Mapping[Action, Scope]] = {
    Action.READ: Scope.READ,
    Action.READ_CONTENT: Scope.READ,
    Action.SUBMIT: Scope.WRITE,
    Action.REGISTER_PRODUCT: Scope.WRITE,
    Action.MANAGE_MEMBERS: Scope.WRITE,
    Action.REVIEW_PRODUCT: Scope.WRITE,
    Action.ADMINISTER: Scope.ADMIN,
}
"""The scope a token needs for an action."""

_SCOPE_RANK: Final[Mapping[Scope, int]] = {Scope.READ: 0, Scope.WRITE: 1, Scope.ADMIN: 2}


def has_scope(principal: Principal, scope: Scope) -> bool:
    """Whether the token allows `scope`; a wider scope holds the narrower: admin > write > read."""
    return any(_SCOPE_RANK[held] >= _SCOPE_RANK[scope] for held in principal.scopes)


def may(principal: Principal, action: Action, project_id: ProjectId | None = None) -> bool:
    """Whether the caller may do `action` on the project, or, without one, on the platform.

    A project role counts on its own project only; a platform role counts everywhere.
    """
    if not has_scope(principal, ACTION_SCOPE[action]):
        return False
    roles = principal.platform_roles & PLATFORM_ROLES
    if project_id is not None:
        roles |= principal.project_roles.get(project_id, frozenset()) & PROJECT_ROLES
    return any(action in ROLE_ACTIONS[role] for role in roles)


def visible_to(
    principal: Principal,
    project_id_column: SQLColumnExpression[UUID] | SQLColumnExpression[UUID | None],
    action: Action = Action.READ,
) -> ColumnElement[bool]:
    """The clause that keeps a query to rows of projects on which the caller may do `action`.

    Args:
        principal: the caller.
        project_id_column: the column of the tenant-owned table that names its project.
        action: READ for rows and figures; READ_CONTENT where texts, logs or outputs are shown.
    """
    if may(principal, action):
        return true()
    projects = sorted(project for project in principal.project_roles if may(principal, action, project))
    return project_id_column.in_(projects) if projects else false()
