"""Who calls: the bearer token becomes a principal; what may not be done is refused."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.context import Ctx
from api.errors import ApiError, ErrorCode
from store.engine import snapshot
from tenants.access import authenticate
from tenants.authz import Action, may
from tenants.model import Principal, Project

_BEARER = HTTPBearer(
    auto_error=False,
    scheme_name="token",
    description="A token of the platform, `kzk_…`; an operator issues the first one, `POST /v1/tokens` further ones.",
)


Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]
"""The bearer token as it was sent, or None."""


def caller_of(ctx: Ctx, credentials: Credentials) -> Principal:
    """The authenticated caller of this request.

    Raises:
        ApiError: UNAUTHENTICATED when there is no bearer token.
        AuthenticationError: the token is not accepted.
    """
    if credentials is None:
        raise ApiError(
            ErrorCode.UNAUTHENTICATED,
            "this address needs a token; send the header `Authorization: Bearer kzk_…`",
        )
    with snapshot(ctx.engine) as session:
        return authenticate(session, credentials.credentials, ctx.now())


Caller = Annotated[Principal, Depends(caller_of)]


def require(principal: Principal, action: Action, project: Project | None = None) -> None:
    """Refuse what the caller may not do on the project, or on the platform.

    Raises:
        ApiError: FORBIDDEN.
    """
    if may(principal, action, None if project is None else project.id):
        return
    where = "on the platform" if project is None else f"in project {project.slug}"
    raise ApiError(
        ErrorCode.FORBIDDEN,
        f"your roles and this token's scopes do not allow to {action} {where}; ask "
        + ("an operator" if project is None else "the project's manager for a role, or use a wider token"),
    )
