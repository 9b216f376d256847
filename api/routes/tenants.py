"""Who: the caller itself, organisations, projects, users, roles and tokens."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query, Response

from api import paging
from api.answers import (
    IssuedTokenOut,
    MeOut,
    OrganisationOut,
    PageOut,
    ProjectOut,
    TokenOut,
    UserOut,
)
from api.auth import Caller, require
from api.context import Ctx
from api.errors import BODY_ERRORS, ApiError, ErrorCode, documented
from api.schemas import (
    SLUG,
    OrganisationIn,
    PageQuery,
    ProjectIn,
    ProjectStatusIn,
    RoleIn,
    TokenIn,
    UserIn,
)
from quota import policy as policies
from quota.service import policy_in_force
from store.engine import transaction, wake
from tenants import access, directory, service
from tenants.authz import Action, has_scope, may
from tenants.model import PLATFORM_ROLES, OrganisationId, Scope, TokenId, UserId

router = APIRouter(prefix="/v1", tags=["tenants"])

SlugPath = Annotated[str, Path(pattern=SLUG, max_length=63)]
_READ = documented(ErrorCode.FORBIDDEN, ErrorCode.NOT_FOUND)
_WRITE = documented(ErrorCode.FORBIDDEN, ErrorCode.NOT_FOUND, ErrorCode.CONFLICT, *BODY_ERRORS)


@router.get("/me", operation_id="getMe", summary="Who am I", responses=documented())
def get_me(ctx: Ctx, caller: Caller) -> MeOut:
    """The caller, its roles and what its token allows."""
    with transaction(ctx.engine) as session:
        return MeOut.of(caller, directory.project_slugs(session, caller, caller.project_roles))


@router.get("/organisations", operation_id="listOrganisations", summary="List organisations", responses=_READ)
def list_organisations(
    ctx: Ctx, caller: Caller, query: Annotated[PageQuery, Query()]
) -> PageOut[OrganisationOut]:
    """Your own organisation and those of projects you see, by slug."""
    with transaction(ctx.engine) as session:
        found = directory.organisations(session, caller, after=paging.decode(query.cursor), limit=query.limit)
    more = None if found.next_key is None else paging.encode(found.next_key)
    return PageOut(items=[OrganisationOut.of(item) for item in found.items], next_cursor=more)


@router.post(
    "/organisations",
    status_code=201,
    operation_id="createOrganisation",
    summary="Enter an organisation",
    responses=documented(ErrorCode.FORBIDDEN, ErrorCode.CONFLICT, ErrorCode.BAD_BIN, *BODY_ERRORS),
)
def create_organisation(ctx: Ctx, caller: Caller, body: OrganisationIn) -> OrganisationOut:
    """Enter an organisation; operators only. The BIN's control digit is checked."""
    require(caller, Action.ADMINISTER)
    new = service.NewOrganisation(
        slug=body.slug,
        name=body.name.model_dump(),
        category=body.category,
        sector=body.sector,
        region=body.region,
        bin=body.bin,
    )
    with transaction(ctx.engine) as session:
        made = service.create_organisation(session, new, actor=service.actor_of(caller), at=ctx.now())
    return OrganisationOut.of(made)


@router.get(
    "/organisations/{slug}",
    operation_id="getOrganisation",
    summary="Show an organisation",
    responses=_READ,
)
def get_organisation(ctx: Ctx, caller: Caller, slug: SlugPath) -> OrganisationOut:
    """One organisation that you see."""
    with transaction(ctx.engine) as session:
        return OrganisationOut.of(directory.organisation(session, caller, slug))


@router.get("/projects", operation_id="listProjects", summary="List projects", responses=_READ)
def list_projects(ctx: Ctx, caller: Caller, query: Annotated[PageQuery, Query()]) -> PageOut[ProjectOut]:
    """Projects you see, by slug."""
    with transaction(ctx.engine) as session:
        found = directory.projects(session, caller, after=paging.decode(query.cursor), limit=query.limit)
    more = None if found.next_key is None else paging.encode(found.next_key)
    return PageOut(items=[ProjectOut.of(item) for item in found.items], next_cursor=more)


@router.post(
    "/projects",
    status_code=201,
    operation_id="createProject",
    summary="Make a project",
    responses=documented(
        ErrorCode.FORBIDDEN,
        ErrorCode.NOT_FOUND,
        ErrorCode.CONFLICT,
        ErrorCode.NO_ROUTE,
        ErrorCode.NO_POLICY,
        *BODY_ERRORS,
    ),
)
def create_project(ctx: Ctx, caller: Caller, body: ProjectIn) -> ProjectOut:
    """Make a project of an organisation; operators only. The policy in force gives it its queue."""
    require(caller, Action.ADMINISTER)
    at = ctx.now()
    with transaction(ctx.engine) as session:
        owner = directory.organisation(session, caller, body.organisation)
        policy = policy_in_force(session, at)
        queue = policies.route(policy, owner.category.value, owner.sector.value, body.programme)
        if queue is None:
            raise ApiError(
                ErrorCode.NO_ROUTE,
                f"no route of policy {policy.version} matches category {owner.category}, sector {owner.sector}, "
                f"programme {body.programme}; name a programme that has a route, or enact a policy with one",
                numbers={"policy": policy.version, "category": owner.category, "sector": owner.sector},
            )
        new = service.NewProject(
            organisation_id=owner.id, slug=body.slug, queue=queue, programme=body.programme
        )
        return ProjectOut.of(service.create_project(session, new, actor=service.actor_of(caller), at=at))


@router.get("/projects/{slug}", operation_id="getProject", summary="Show a project", responses=_READ)
def get_project(ctx: Ctx, caller: Caller, slug: SlugPath) -> ProjectOut:
    """One project that you see."""
    with transaction(ctx.engine) as session:
        return ProjectOut.of(directory.project(session, caller, slug))


@router.put(
    "/projects/{slug}/status",
    operation_id="setProjectStatus",
    summary="Suspend or resume a project",
    responses=_WRITE,
)
def set_project_status(ctx: Ctx, caller: Caller, slug: SlugPath, body: ProjectStatusIn) -> ProjectOut:
    """Keep a project's jobs from starting, or let them start again; operators only."""
    require(caller, Action.ADMINISTER)
    with transaction(ctx.engine) as session:
        found = directory.project(session, caller, slug)
        actor = service.actor_of(caller)
        changed = service.set_project_status(session, found.id, body.status, actor=actor, at=ctx.now())
        wake(session)
        return ProjectOut.of(changed)


@router.get("/users", operation_id="listUsers", summary="List users", responses=_READ)
def list_users(ctx: Ctx, caller: Caller, query: Annotated[PageQuery, Query()]) -> PageOut[UserOut]:
    """Operators and auditors see all users; others see themselves and the members of their projects."""
    with transaction(ctx.engine) as session:
        found = directory.users(session, caller, after=paging.decode(query.cursor), limit=query.limit)
    more = None if found.next_key is None else paging.encode(found.next_key)
    return PageOut(items=[UserOut.of(item) for item in found.items], next_cursor=more)


@router.post("/users", status_code=201, operation_id="createUser", summary="Enter a user", responses=_WRITE)
def create_user(ctx: Ctx, caller: Caller, body: UserIn) -> UserOut:
    """Enter a person or a service that will hold tokens; operators only."""
    require(caller, Action.ADMINISTER)
    with transaction(ctx.engine) as session:
        organisation_id: OrganisationId | None = None
        if body.organisation is not None:
            organisation_id = directory.organisation(session, caller, body.organisation).id
        actor = service.actor_of(caller)
        made = service.create_user(session, body.name.strip(), organisation_id, actor=actor, at=ctx.now())
    return UserOut.of(made)


@router.post(
    "/users/{user_id}/roles",
    operation_id="grantRole",
    summary="Give a user a role",
    responses=_WRITE,
)
def grant_role(ctx: Ctx, caller: Caller, user_id: UUID, body: RoleIn) -> UserOut:
    """Give a role. Platform roles: operators. Project roles: operators and the project's managers."""
    with transaction(ctx.engine) as session:
        project = None if body.project is None else directory.project(session, caller, body.project)
        is_platform = body.role in PLATFORM_ROLES or project is None
        require(caller, Action.ADMINISTER if is_platform else Action.MANAGE_MEMBERS, project)
        project_id = None if project is None else project.id
        actor = service.actor_of(caller)
        service.grant_role(session, UserId(user_id), body.role, project_id, actor=actor, at=ctx.now())
        session.flush()
        return UserOut.of(directory.user(session, caller, UserId(user_id)))


@router.get("/tokens", operation_id="listTokens", summary="List tokens", responses=_READ)
def list_tokens(ctx: Ctx, caller: Caller, query: Annotated[PageQuery, Query()]) -> PageOut[TokenOut]:
    """Your tokens without their secrets; an operator sees everyone's."""
    with transaction(ctx.engine) as session:
        found = directory.tokens(session, caller, after=paging.decode_uuid(query.cursor), limit=query.limit)
    more = None if found.next_key is None else paging.encode(found.next_key)
    return PageOut(items=[TokenOut.of(item) for item in found.items], next_cursor=more)


@router.post("/tokens", status_code=201, operation_id="issueToken", summary="Issue a token", responses=_WRITE)
def issue_token(ctx: Ctx, caller: Caller, body: TokenIn) -> IssuedTokenOut:
    """Issue a token for yourself with no more than your own token's scopes; operators issue for anyone."""
    user_id = caller.user_id if body.user_id is None else UserId(body.user_id)
    if user_id != caller.user_id:
        require(caller, Action.ADMINISTER)
    wider = [scope for scope in body.scopes if not has_scope(caller, scope)]
    if wider or not has_scope(caller, Scope.WRITE):
        raise ApiError(
            ErrorCode.FORBIDDEN,
            "a token issues tokens only of its own scopes, and needs the scope write; use a wider token",
        )
    with transaction(ctx.engine) as session:
        issued = access.issue_token(
            session,
            user_id,
            scopes=body.scopes,
            lifetime_s=body.lifetime_s,
            actor=service.actor_of(caller),
            at=ctx.now(),
        )
    return IssuedTokenOut.of(issued)


@router.delete(
    "/tokens/{token_id}",
    status_code=204,
    operation_id="revokeToken",
    summary="Revoke a token",
    responses=_READ,
)
def revoke_token(ctx: Ctx, caller: Caller, token_id: UUID) -> Response:
    """Stop a token from working at once: one of your own, or, as an operator, anyone's."""
    if token_id != caller.token_id and not (has_scope(caller, Scope.WRITE) or may(caller, Action.ADMINISTER)):
        raise ApiError(
            ErrorCode.FORBIDDEN, "a token without the scope write revokes only itself; use a wider token"
        )
    with transaction(ctx.engine) as session:
        actor = service.actor_of(caller)
        access.revoke_token(session, caller, TokenId(token_id), actor=actor, at=ctx.now())
    return Response(status_code=204)
