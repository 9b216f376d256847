"""Frozen values of the tenants room that only the front door reads: users, roles, tokens as they are listed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from tenants.model import OrganisationId, ProjectId, Role, Scope, TokenId, UserId

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RoleHeld:
    """A role and where it is held; no project = the whole platform."""

    role: Role
    project_id: ProjectId | None


@dataclass(frozen=True, slots=True)
class User:
    """A person or a service."""

    id: UserId
    name: str
    organisation_id: OrganisationId | None
    is_active: bool
    roles: tuple[RoleHeld, ...]


@dataclass(frozen=True, slots=True)
class Token:
    """A token without its secret, which is stored nowhere."""

    id: TokenId
    user_id: UserId
    prefix: str
    scopes: frozenset[Scope]
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """One page of a list; `next_key` continues it, None at its end."""

    items: tuple[T, ...]
    next_key: str | None
