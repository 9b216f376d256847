"""Tokens: issued, revoked, and turned into the caller they stand for; and the first operator of a new platform."""

from __future__ import annotations

import hmac
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Final
from uuid import uuid4

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from store import journal
from tenants import tokens
from tenants.authz import Action, may
from tenants.errors import AuthenticationError, AuthFailure, NotFoundError, UnsuitableError
from tenants.model import (
    IssuedToken,
    OrganisationId,
    Principal,
    ProjectId,
    Role,
    Scope,
    TokenId,
    UserId,
)
from tenants.tables import RoleRow, TokenRow, UserRow

MIN_LIFETIME_S: Final = 60
"""Shortest life of a token: a minute."""
MAX_LIFETIME_S: Final = 366 * 86_400
"""Longest life of a token: a year; a secret that never expires is never changed."""
BOOTSTRAP_LIFETIME_S: Final = 90 * 86_400
"""Life of the first operator's token: time to enter a named operator and issue another."""
MAX_LIVE_TOKENS: Final = 50
"""Tokens of one user that work at a time: machines of a laboratory, and a bound on what must be watched."""
BOOTSTRAP_USER: Final = "operator"
"""Name of the first operator."""

_BOOTSTRAP_LOCK: Final = 0x6B7A6F70


def issue_token(
    session: Session,
    user_id: UserId,
    *,
    scopes: Collection[Scope],
    lifetime_s: int,
    actor: str,
    at: datetime,
) -> IssuedToken:
    """Make a token for a user. Its secret is in the answer and nowhere else.

    Args:
        session: the open unit of work.
        user_id: who will be recognised by it.
        scopes: what it may be used for, at least one.
        lifetime_s: seconds from `at` until it expires, MIN_LIFETIME_S to MAX_LIFETIME_S.
        actor: who makes it, as the journal names it.
        at: the instant.

    Raises:
        NotFoundError: no such user.
        UnsuitableError: no scope, a lifetime out of range, or too many tokens that work.
    """
    if not scopes:
        raise UnsuitableError("scopes", "a token without a scope is good for nothing; name at least one")
    if not MIN_LIFETIME_S <= lifetime_s <= MAX_LIFETIME_S:
        raise UnsuitableError(
            "lifetime_s", f"a token lives {MIN_LIFETIME_S} to {MAX_LIFETIME_S} seconds, not {lifetime_s}"
        )
    # The user's row is locked, so that the count below holds until the new token stands.
    if session.get(UserRow, user_id, with_for_update=True) is None:
        raise NotFoundError("user", user_id)
    live = select(func.count()).where(
        TokenRow.user_id == user_id, TokenRow.revoked_at.is_(None), TokenRow.expires_at > at
    )
    if (session.scalar(live) or 0) >= MAX_LIVE_TOKENS:
        raise UnsuitableError("user", f"the user has {MAX_LIVE_TOKENS} working tokens; revoke one first")
    secret = tokens.new_secret()
    row = TokenRow(
        id=uuid4(),
        user_id=user_id,
        prefix=tokens.prefix(secret),
        digest=tokens.digest(secret),
        scopes=sorted(scope.value for scope in set(scopes)),
        created_at=at,
        expires_at=at + timedelta(seconds=lifetime_s),
        revoked_at=None,
    )
    session.add(row)
    data: dict[str, object] = {
        "user_id": str(user_id),
        "scopes": list(row.scopes),
        "expires_at": row.expires_at.isoformat(),
    }
    journal.append(session, "token.issued", f"token:{row.id}", actor=actor, at=at, data=data)
    return IssuedToken(TokenId(row.id), secret, row.prefix, row.expires_at)


def revoke_token(
    session: Session, principal: Principal, token_id: TokenId, *, actor: str, at: datetime
) -> None:
    """Stop a token from working: one's own, or, as an operator, anyone's; again is fine.

    Raises:
        NotFoundError: no such token, or not the caller's.
    """
    row = session.get(TokenRow, token_id, with_for_update=True)
    if row is None or (row.user_id != principal.user_id and not may(principal, Action.ADMINISTER)):
        raise NotFoundError("token", token_id)
    if row.revoked_at is None:
        row.revoked_at = at
        journal.append(session, "token.revoked", f"token:{row.id}", actor=actor, at=at, data={})


def authenticate(session: Session, secret: str, at: datetime) -> Principal:
    """The caller that a secret stands for, with the roles held at this moment.

    A text that has not a token's form and checksum is refused before the database is asked.

    Raises:
        AuthenticationError: not a token, unknown, revoked, expired, or its user is not active.
    """
    if not tokens.is_well_formed(secret):
        raise AuthenticationError(
            AuthFailure.UNAUTHENTICATED, "this is not a token of the platform; check that it was copied whole"
        )
    digest = tokens.digest(secret)
    found = session.execute(
        select(TokenRow, UserRow)
        .join(UserRow, UserRow.id == TokenRow.user_id)
        .where(TokenRow.digest == digest)
    ).one_or_none()
    if found is None or not hmac.compare_digest(found[0].digest, digest):
        raise AuthenticationError(
            AuthFailure.UNAUTHENTICATED, "the token is unknown here; ask an operator for one of this platform"
        )
    token, user = found
    if token.revoked_at is not None:
        raise AuthenticationError(AuthFailure.TOKEN_REVOKED, "the token was revoked; make a new one")
    if token.expires_at <= at:
        raise AuthenticationError(
            AuthFailure.TOKEN_EXPIRED, f"the token expired at {token.expires_at.isoformat()}; make a new one"
        )
    if not user.is_active:
        raise AuthenticationError(
            AuthFailure.UNAUTHENTICATED, "the token's user is not active any more; ask an operator"
        )
    platform, projects = _roles(session, UserId(user.id))
    return Principal(
        user_id=UserId(user.id),
        user_name=user.name,
        organisation_id=None if user.organisation_id is None else OrganisationId(user.organisation_id),
        token_id=TokenId(token.id),
        scopes=frozenset(Scope(scope) for scope in token.scopes),
        platform_roles=platform,
        project_roles=projects,
    )


def bootstrap_operator(session: Session, at: datetime) -> IssuedToken | None:
    """Make the first operator and its token on a platform without users; None where there are some."""
    session.execute(text(f"SELECT pg_advisory_xact_lock({_BOOTSTRAP_LOCK})"))
    if session.scalar(select(UserRow.id).limit(1)) is not None:
        return None
    user = UserRow(id=uuid4(), name=BOOTSTRAP_USER, organisation_id=None, is_active=True, created_at=at)
    session.add(user)
    session.flush()
    session.add(
        RoleRow(id=uuid4(), user_id=user.id, project_id=None, role=Role.OPERATOR.value, created_at=at)
    )
    subject, actor = f"user:{user.id}", journal.SYSTEM
    journal.append(session, "user.created", subject, actor=actor, at=at, data={"organisation_id": None})
    role: dict[str, object] = {"role": Role.OPERATOR.value, "project_id": None}
    journal.append(session, "role.granted", subject, actor=actor, at=at, data=role)
    return issue_token(
        session,
        UserId(user.id),
        scopes=[Scope.ADMIN],
        lifetime_s=BOOTSTRAP_LIFETIME_S,
        actor=actor,
        at=at,
    )


def _roles(session: Session, user_id: UserId) -> tuple[frozenset[Role], dict[ProjectId, frozenset[Role]]]:
    platform: set[Role] = set()
    projects: dict[ProjectId, set[Role]] = {}
    for row in session.scalars(select(RoleRow).where(RoleRow.user_id == user_id)):
        if row.project_id is None:
            platform.add(Role(row.role))
        else:
            projects.setdefault(ProjectId(row.project_id), set()).add(Role(row.role))
    return frozenset(platform), {project: frozenset(roles) for project, roles in projects.items()}
