"""Reads of the tenants room: what a caller may see of organisations, projects, users and tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Select, or_, select, true
from sqlalchemy.orm import InstrumentedAttribute, Session

from tenants.authz import Action, may, visible_to
from tenants.errors import NotFoundError
from tenants.model import (
    Category,
    Organisation,
    OrganisationId,
    Principal,
    Project,
    ProjectId,
    ProjectStatus,
    Role,
    Scope,
    Sector,
    TokenId,
    UserId,
)
from tenants.tables import OrganisationRow, ProjectRow, RoleRow, TokenRow, UserRow
from tenants.views import Listing, RoleHeld, Token, User

MAX_PAGE: Final = 200
"""Rows of one page of a list."""

R = TypeVar("R", OrganisationRow, ProjectRow, UserRow, TokenRow)
V = TypeVar("V")


def organisation_of(row: OrganisationRow) -> Organisation:
    """The value of a row."""
    return Organisation(
        id=OrganisationId(row.id),
        slug=row.slug,
        name=dict(row.name),
        category=Category(row.category),
        sector=Sector(row.sector),
        region=row.region,
        bin=row.bin,
    )


def project_of(row: ProjectRow) -> Project:
    """The value of a row."""
    return Project(
        id=ProjectId(row.id),
        organisation_id=OrganisationId(row.organisation_id),
        slug=row.slug,
        queue=row.queue,
        programme=row.programme,
        status=ProjectStatus(row.status),
    )


def user_of(row: UserRow, roles: Iterable[RoleRow]) -> User:
    """The value of a row and of the roles its user holds."""
    held = sorted(
        (RoleHeld(Role(r.role), None if r.project_id is None else ProjectId(r.project_id)) for r in roles),
        key=lambda found: (str(found.project_id or ""), found.role),
    )
    organisation_id = None if row.organisation_id is None else OrganisationId(row.organisation_id)
    return User(UserId(row.id), row.name, organisation_id, row.is_active, tuple(held))


def token_of(row: TokenRow) -> Token:
    """The value of a row."""
    return Token(
        id=TokenId(row.id),
        user_id=UserId(row.user_id),
        prefix=row.prefix,
        scopes=frozenset(Scope(scope) for scope in row.scopes),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )


def organisations(
    session: Session, principal: Principal, *, after: str | None = None, limit: int = MAX_PAGE
) -> Listing[Organisation]:
    """Organisations the caller sees, by slug: its own and those of projects it sees."""
    statement = select(OrganisationRow).where(_organisation_visible(principal))
    return _page(session, statement, OrganisationRow.slug, (after, limit), organisation_of)


def organisation(session: Session, principal: Principal, slug: str) -> Organisation:
    """One organisation.

    Raises:
        NotFoundError: unknown or not visible.
    """
    row = session.scalar(
        select(OrganisationRow).where(OrganisationRow.slug == slug, _organisation_visible(principal))
    )
    if row is None:
        raise NotFoundError("organisation", slug)
    return organisation_of(row)


def projects(
    session: Session, principal: Principal, *, after: str | None = None, limit: int = MAX_PAGE
) -> Listing[Project]:
    """Projects the caller sees, by slug."""
    statement = select(ProjectRow).where(visible_to(principal, ProjectRow.id))
    return _page(session, statement, ProjectRow.slug, (after, limit), project_of)


def project(session: Session, principal: Principal, slug: str) -> Project:
    """One project.

    Raises:
        NotFoundError: unknown or not visible.
    """
    row = session.scalar(
        select(ProjectRow).where(ProjectRow.slug == slug, visible_to(principal, ProjectRow.id))
    )
    if row is None:
        raise NotFoundError("project", slug)
    return project_of(row)


def project_slugs(session: Session, principal: Principal, ids: Iterable[UUID]) -> dict[ProjectId, str]:
    """Slugs of those of the projects that the caller sees. One query however many ids."""
    wanted = set(ids)
    if not wanted:
        return {}
    found = session.execute(
        select(ProjectRow.id, ProjectRow.slug).where(
            ProjectRow.id.in_(wanted), visible_to(principal, ProjectRow.id)
        )
    )
    return {ProjectId(project_id): slug for project_id, slug in found}


def users(
    session: Session, principal: Principal, *, after: str | None = None, limit: int = MAX_PAGE
) -> Listing[User]:
    """Users by name: operators and auditors see all, others see themselves and members of their projects."""
    listing = _page(
        session,
        select(UserRow).where(_user_visible(principal)),
        UserRow.name,
        (after, limit),
        lambda row: row,
    )
    return Listing(tuple(_with_roles(session, principal, listing.items)), listing.next_key)


def user(session: Session, principal: Principal, user_id: UserId) -> User:
    """One user.

    Raises:
        NotFoundError: unknown or not visible.
    """
    row = session.scalar(select(UserRow).where(UserRow.id == user_id, _user_visible(principal)))
    if row is None:
        raise NotFoundError("user", user_id)
    return _with_roles(session, principal, [row])[0]


def tokens(
    session: Session, principal: Principal, *, after: str | None = None, limit: int = MAX_PAGE
) -> Listing[Token]:
    """The caller's own tokens, by id; an operator sees everyone's."""
    own = true() if may(principal, Action.ADMINISTER) else TokenRow.user_id == principal.user_id
    key = None if after is None else UUID(after)
    return _page(session, select(TokenRow).where(own), TokenRow.id, (key, limit), token_of)


def _organisation_visible(principal: Principal) -> ColumnElement[bool]:
    through_projects = OrganisationRow.id.in_(
        select(ProjectRow.organisation_id).where(visible_to(principal, ProjectRow.id))
    )
    if may(principal, Action.READ):
        return true()
    if principal.organisation_id is None:
        return through_projects
    return or_(OrganisationRow.id == principal.organisation_id, through_projects)


def _user_visible(principal: Principal) -> ColumnElement[bool]:
    if principal.platform_roles & {Role.OPERATOR, Role.AUDITOR} and may(principal, Action.READ):
        return true()
    members = select(RoleRow.user_id).where(
        RoleRow.project_id.in_([p for p in principal.project_roles if may(principal, Action.READ, p)])
    )
    return or_(UserRow.id == principal.user_id, UserRow.id.in_(members))


def _with_roles(session: Session, principal: Principal, rows: Sequence[UserRow]) -> list[User]:
    """Users with those of their roles that the caller may know of: platform roles and roles on visible projects."""
    shown = or_(RoleRow.project_id.is_(None), visible_to(principal, RoleRow.project_id))
    found = session.scalars(select(RoleRow).where(RoleRow.user_id.in_([row.id for row in rows]), shown))
    by_user: dict[UUID, list[RoleRow]] = {}
    for role in found:
        by_user.setdefault(role.user_id, []).append(role)
    return [user_of(row, by_user.get(row.id, ())) for row in rows]


def _page(
    session: Session,
    statement: Select[R],
    key: InstrumentedAttribute[str] | InstrumentedAttribute[UUID],
    place: tuple[str | UUID | None, int],
    convert: Callable[[R], V],
) -> Listing[V]:
    """One page by keyset: rows whose key is above the last one of the page before."""
    after, limit = place
    size = max(1, min(limit, MAX_PAGE))
    if after is not None:
        statement = statement.where(key > after)
    rows = session.scalars(statement.order_by(key).limit(size + 1)).all()
    more = str(getattr(rows[size - 1], key.key)) if len(rows) > size else None
    return Listing(tuple(convert(row) for row in rows[:size]), more)
