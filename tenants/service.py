"""Writes of the tenants room, each journaled in its transaction: organisations, projects, users, roles.

Reads stand in `tenants.directory`, tokens in `tenants.access`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import uuid4

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from store import journal
from store.base import Base
from tenants.access import authenticate, bootstrap_operator, issue_token, revoke_token
from tenants.directory import organisation_of, project_of, user_of
from tenants.errors import NotFoundError, TakenError, UnsuitableError
from tenants.identifiers import check_bin
from tenants.model import (
    PLATFORM_ROLES,
    PROJECT_ROLES,
    Category,
    Organisation,
    OrganisationId,
    Principal,
    Project,
    ProjectId,
    ProjectStatus,
    Role,
    Sector,
    UserId,
)
from tenants.tables import OrganisationRow, ProjectRow, RoleRow, UserRow
from tenants.views import User

__all__ = [
    "NewOrganisation",
    "NewProject",
    "actor_of",
    "authenticate",
    "bootstrap_operator",
    "create_organisation",
    "create_project",
    "create_user",
    "grant_role",
    "issue_token",
    "revoke_token",
    "set_project_status",
]

CATEGORIES_WITHOUT_BIN: Final = frozenset({Category.FOREIGN, Category.CITIZEN})
"""Who has no BIN: a citizen has an IIN, which the platform does not keep; a foreign body is in no register here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewOrganisation:
    """What is entered of an organisation; `name` holds the keys kk, ru, en."""

    slug: str
    name: dict[str, str]
    category: Category
    sector: Sector
    region: str
    bin: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewProject:
    """What is entered of a project; the caller has routed it to its `queue` by the policy in force."""

    organisation_id: OrganisationId
    slug: str
    queue: str
    programme: str | None


def actor_of(principal: Principal) -> str:
    """How the journal names a caller."""
    return f"user:{principal.user_id}"


def create_organisation(session: Session, new: NewOrganisation, *, actor: str, at: datetime) -> Organisation:
    """Enter an organisation.

    Raises:
        IdentifierError: the BIN is wrong.
        UnsuitableError: a BIN is missing, or given for a category that has none.
        TakenError: slug or BIN is in use.
    """
    has_bin = new.category not in CATEGORIES_WITHOUT_BIN
    if has_bin and new.bin is None:
        raise UnsuitableError("bin", f"an organisation of the category {new.category} needs its BIN; add it")
    if new.bin is not None:
        if not has_bin:
            raise UnsuitableError("bin", f"the category {new.category} has no BIN; leave it out")
        check_bin(new.bin)
    row = OrganisationRow(
        id=uuid4(),
        slug=new.slug,
        name=dict(new.name),
        category=new.category.value,
        sector=new.sector.value,
        region=new.region,
        bin=new.bin,
        created_at=at,
    )
    _insert(session, row, "organisation", {"uq_organisations_slug": "slug", "uq_organisations_bin": "bin"})
    data: dict[str, object] = {"category": row.category, "sector": row.sector, "region": row.region}
    journal.append(session, "organisation.created", f"organisation:{row.id}", actor=actor, at=at, data=data)
    return organisation_of(row)


def create_project(session: Session, new: NewProject, *, actor: str, at: datetime) -> Project:
    """Make a project of an organisation.

    Raises:
        NotFoundError: no such organisation.
        TakenError: the slug is in use.
    """
    if session.get(OrganisationRow, new.organisation_id) is None:
        raise NotFoundError("organisation", new.organisation_id)
    row = ProjectRow(
        id=uuid4(),
        organisation_id=new.organisation_id,
        slug=new.slug,
        queue=new.queue,
        programme=new.programme,
        status=ProjectStatus.ACTIVE.value,
        created_at=at,
    )
    _insert(session, row, "project", {"uq_projects_slug": "slug"})
    data: dict[str, object] = {"organisation_id": str(row.organisation_id), "queue": row.queue}
    journal.append(session, "project.created", f"project:{row.id}", actor=actor, at=at, data=data)
    return project_of(row)


def set_project_status(
    session: Session, project_id: ProjectId, status: ProjectStatus, *, actor: str, at: datetime
) -> Project:
    """Suspend a project (its jobs wait, its running ones go on) or let it start jobs again; again is fine.

    Raises:
        NotFoundError: no such project.
    """
    row = session.get(ProjectRow, project_id, with_for_update=True)
    if row is None:
        raise NotFoundError("project", project_id)
    if row.status != status.value:
        row.status = status.value
        kind = "project.suspended" if status is ProjectStatus.SUSPENDED else "project.resumed"
        journal.append(session, kind, f"project:{row.id}", actor=actor, at=at, data={})
    return project_of(row)


def create_user(
    session: Session, name: str, organisation_id: OrganisationId | None, *, actor: str, at: datetime
) -> User:
    """Enter a person or a service that will hold tokens.

    Raises:
        NotFoundError: no such organisation.
        TakenError: the name is in use.
    """
    if organisation_id is not None and session.get(OrganisationRow, organisation_id) is None:
        raise NotFoundError("organisation", organisation_id)
    row = UserRow(id=uuid4(), name=name, organisation_id=organisation_id, is_active=True, created_at=at)
    _insert(session, row, "user", {"uq_users_name": "name"})
    data: dict[str, object] = {"organisation_id": None if organisation_id is None else str(organisation_id)}
    journal.append(session, "user.created", f"user:{row.id}", actor=actor, at=at, data=data)
    return user_of(row, ())


def grant_role(
    session: Session, user_id: UserId, role: Role, project_id: ProjectId | None, *, actor: str, at: datetime
) -> None:
    """Give a user a role: a project role on a project, a platform role on none; a role already held stays.

    Raises:
        NotFoundError: no such user or project.
        UnsuitableError: a project role without a project, or a platform role with one.
    """
    if role in PROJECT_ROLES and project_id is None:
        raise UnsuitableError("project", f"the role {role} is held on a project; name one")
    if role in PLATFORM_ROLES and project_id is not None:
        raise UnsuitableError("project", f"the role {role} is held on the whole platform; name no project")
    # The user's row is locked, so that two grants of one role come one after the other.
    if session.get(UserRow, user_id, with_for_update=True) is None:
        raise NotFoundError("user", user_id)
    if project_id is not None and session.get(ProjectRow, project_id) is None:
        raise NotFoundError("project", project_id)
    same_project = RoleRow.project_id.is_(None) if project_id is None else RoleRow.project_id == project_id
    held = select(RoleRow.id).where(RoleRow.user_id == user_id, RoleRow.role == role.value, same_project)
    if session.scalar(held) is not None:
        return
    session.add(RoleRow(id=uuid4(), user_id=user_id, project_id=project_id, role=role.value, created_at=at))
    data: dict[str, object] = {
        "role": role.value,
        "project_id": None if project_id is None else str(project_id),
    }
    journal.append(session, "role.granted", f"user:{user_id}", actor=actor, at=at, data=data)


def _insert(session: Session, row: Base, what: str, unique: dict[str, str]) -> None:
    """Write a row; a unique constraint it breaks becomes an error that names the field."""
    session.add(row)
    try:
        session.flush()
    except IntegrityError as error:
        diagnosis = getattr(error.orig, "diag", None)
        field = unique.get(getattr(diagnosis, "constraint_name", None) or "")
        if field is None:
            raise
        raise TakenError(what, field) from error
