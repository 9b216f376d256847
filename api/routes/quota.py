"""How much: policies, grants, and what a project has left."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Final, cast

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel
from sqlalchemy.orm import Session

from api import paging
from api.answers import GrantOut, PageOut, PoliciesOut, PolicyOut
from api.auth import Caller, require
from api.context import Ctx
from api.errors import BODY_ERRORS, ApiError, ErrorCode, documented
from api.limits import MAX_PAGE
from api.queue_answers import QueueOut
from api.schemas import GrantIn, GrantsQuery
from quota import service as quota
from quota.model import Ground
from scheduler.jobs import queue_use
from store.engine import transaction, wake
from tenants import directory
from tenants.authz import Action, may
from tenants.model import Project, ProjectId
from tenants.service import actor_of

router = APIRouter(prefix="/v1", tags=["quota"])

YAML_TYPES: Final = frozenset({"application/yaml", "application/x-yaml", "text/yaml"})
"""Media types under which a policy may come as YAML."""
JSON_TYPE: Final = "application/json"

POLICY_BODY: Final = {
    "requestBody": {
        "required": True,
        "description": "The policy document: mapping with the key `policy`, as YAML or as JSON.",
        "content": {
            "application/yaml": {"schema": {"type": "string", "maxLength": 262_144}},
            JSON_TYPE: {
                "schema": {
                    "type": "object",
                    "required": ["policy"],
                    "properties": {"policy": {"type": "object"}},
                    "additionalProperties": False,
                }
            },
        },
    }
}
"""How the OpenAPI document describes a body that is a policy."""


class InForceOut(BaseModel):
    """The policy in force and what it comes to on the machine as it stands, in whole GPUs and in slices."""

    version: str
    effective_from: str
    digest: str
    queues: list[QueueOut]


class QuotaOut(BaseModel):
    """What the caller's projects have: grants with balances, and the queues their jobs wait in."""

    grants: list[GrantOut]
    queues: list[QueueOut]


async def policy_body(request: Request) -> str | dict[str, object]:
    """The policy's document: text for YAML, a mapping for JSON.

    Raises:
        ApiError: UNSUPPORTED_MEDIA, or BAD_REQUEST for what is no text or no JSON object.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != JSON_TYPE and media not in YAML_TYPES:
        raise ApiError(
            ErrorCode.UNSUPPORTED_MEDIA,
            f"the body's type is {media or 'not stated'}; send application/yaml or application/json",
        )
    try:
        text = (await request.body()).decode()
        found: object = text if media != JSON_TYPE else json.loads(text)
    except (ValueError, RecursionError):
        raise ApiError(ErrorCode.BAD_REQUEST, f"the body is not {media} in UTF-8; check its syntax") from None
    if isinstance(found, str) and media != JSON_TYPE:
        return found
    if not isinstance(found, dict):
        raise ApiError(ErrorCode.BAD_REQUEST, 'the body must be an object with the key "policy"')
    return cast("dict[str, object]", found)


@router.get("/policies", operation_id="listPolicies", summary="List policies", responses=documented())
def list_policies(ctx: Ctx, caller: Caller) -> PoliciesOut:  # noqa: ARG001 - open to every caller, not to none
    """Every policy with its grounds, the latest to come into force first: the rules are open to all users."""
    with transaction(ctx.engine) as session:
        return PoliciesOut(items=[PolicyOut.of(found) for found in quota.policies(session)])


@router.post(
    "/policies",
    status_code=201,
    operation_id="enactPolicy",
    summary="Enact a policy",
    responses=documented(
        ErrorCode.FORBIDDEN,
        ErrorCode.CONFLICT,
        ErrorCode.BAD_POLICY,
        ErrorCode.SHARES_EXCEED,
        ErrorCode.NO_ENACTING_ACT,
        *BODY_ERRORS,
    ),
    openapi_extra=POLICY_BODY,
)
def enact_policy(
    ctx: Ctx, caller: Caller, document: Annotated[str | dict[str, object], Depends(policy_body)]
) -> PolicyOut:
    """Enter a policy on its grounds, one of which must enact; operators only. The same document again is fine."""
    require(caller, Action.ADMINISTER)
    at = ctx.now()
    with transaction(ctx.engine) as session:
        enacted = quota.enact(session, document, at=at, actor=actor_of(caller))
        wake(session)
        found = next(each for each in quota.policies(session) if each.policy.version == enacted.version)
    return PolicyOut.of(found)


@router.get(
    "/policies/in-force",
    operation_id="getPolicyInForce",
    summary="The policy in force",
    responses=documented(ErrorCode.NO_POLICY),
)
def get_policy_in_force(ctx: Ctx, caller: Caller) -> InForceOut:  # noqa: ARG001 - open to every caller
    """The policy in force with the nominal quota of every node of its tree in whole GPUs and in slices."""
    at = ctx.now()
    with transaction(ctx.engine) as session:
        policy, digest = quota.in_force(session, at)
        queues = [QueueOut.of(use) for use in queue_use(session, policy, at)]
    return InForceOut(
        version=policy.version,
        effective_from=policy.effective_from.isoformat(),
        digest=digest,
        queues=queues,
    )


@router.get(
    "/grants",
    operation_id="listGrants",
    summary="List grants",
    responses=documented(ErrorCode.UNKNOWN_PROJECT),
)
def list_grants(ctx: Ctx, caller: Caller, query: Annotated[GrantsQuery, Query()]) -> PageOut[GrantOut]:
    """Grants with their balances of the projects you see; a page holds the grants of `limit` projects."""
    with transaction(ctx.engine) as session:
        if query.project is not None:
            only = [directory.project(session, caller, query.project)]
            return PageOut(items=_grants(session, only), next_cursor=None)
        found = directory.projects(session, caller, after=paging.decode(query.cursor), limit=query.limit)
        items = _grants(session, found.items)
    more = None if found.next_key is None else paging.encode(found.next_key)
    return PageOut(items=items, next_cursor=more)


@router.post(
    "/grants",
    status_code=201,
    operation_id="awardGrant",
    summary="Award GPU time",
    responses=documented(
        ErrorCode.FORBIDDEN,
        ErrorCode.UNKNOWN_PROJECT,
        ErrorCode.NO_ENACTING_ACT,
        ErrorCode.BAD_GRANT,
        *BODY_ERRORS,
    ),
)
def award_grant(ctx: Ctx, caller: Caller, body: GrantIn) -> GrantOut:
    """Award device-seconds of a flavor to a project, on grounds of which one must enact; operators only."""
    require(caller, Action.ADMINISTER)
    at = ctx.now()
    with transaction(ctx.engine) as session:
        project = directory.project(session, caller, body.project)
        asked = quota.Award(
            project_id=project.id,
            flavor=body.flavor,
            granted_s=body.gpu_seconds,
            starts_at=body.starts_at,
            ends_at=body.ends_at,
            grounds=tuple(
                Ground(ground.kind, ground.body, ground.number, ground.date, ground.digest)
                for ground in body.grounds
            ),
        )
        made = quota.award(session, asked, at=at, actor=actor_of(caller))
        wake(session)
    return GrantOut.of(made, {project.id: project.slug})


@router.get("/quota", operation_id="getQuota", summary="What my projects have", responses=documented())
def get_quota(ctx: Ctx, caller: Caller) -> QuotaOut:
    """Grants and balances of the first 200 projects you see (`/v1/grants` pages through all), and their queues."""
    at = ctx.now()
    with transaction(ctx.engine) as session:
        projects = directory.projects(session, caller, limit=MAX_PAGE).items
        grants = _grants(session, projects)
        try:
            uses = queue_use(session, quota.policy_in_force(session, at), at)
        except quota.NoPolicyError:
            uses = []
    mine = {project.queue for project in projects}
    sees_all = may(caller, Action.READ)
    return QuotaOut(grants=grants, queues=[QueueOut.of(use) for use in uses if sees_all or use.path in mine])


def _grants(session: Session, projects: Sequence[Project]) -> list[GrantOut]:
    """Grants in the order of their projects, so that pages of projects follow each other."""
    slugs = {project.id: project.slug for project in projects}
    place = {project.id: number for number, project in enumerate(projects)}
    found = sorted(quota.balances(session, slugs), key=lambda grant: place[ProjectId(grant.project_id)])
    return [GrantOut.of(grant, slugs) for grant in found]
