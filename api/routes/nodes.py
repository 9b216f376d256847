"""Nodes as operators see and take them out of service, and put them back."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel

from api.auth import Caller, require
from api.context import Ctx
from api.errors import BODY_ERRORS, ErrorCode, documented
from api.schemas import DrainIn
from scheduler import nodes
from scheduler.model import NodeState
from store.engine import snapshot, transaction
from tenants.authz import Action
from tenants.service import actor_of

router = APIRouter(prefix="/v1", tags=["machine"])

NodeName = Annotated[str, Path(min_length=1, max_length=253, description="Name of the node.")]
_SERVICE = documented(ErrorCode.FORBIDDEN, ErrorCode.NOT_FOUND, *BODY_ERRORS)


class NodeServiceOut(BaseModel):
    """Whether a node takes work; `reason` and `drained_at` are of the drain that stands, else null."""

    name: str
    state: NodeState
    reason: str | None
    drained_at: datetime | None

    @classmethod
    def of(cls, found: nodes.NodeService) -> NodeServiceOut:
        """The wire form."""
        return cls(name=found.name, state=found.state, reason=found.reason, drained_at=found.drained_at)


class NodeServicesOut(BaseModel):
    """Nodes by name."""

    items: list[NodeServiceOut]


@router.get(
    "/nodes",
    operation_id="listNodes",
    summary="Which nodes take work",
    responses=documented(ErrorCode.FORBIDDEN),
)
def list_nodes(ctx: Ctx, caller: Caller) -> NodeServicesOut:
    """Every node with its state and, where it was drained, since when and why; for those who oversee the platform."""
    require(caller, Action.READ)
    with snapshot(ctx.engine) as session:
        return NodeServicesOut(items=[NodeServiceOut.of(found) for found in nodes.in_service(session)])


@router.post(
    "/nodes/{name}/drain", operation_id="drainNode", summary="Take a node out of service", responses=_SERVICE
)
def drain_node(ctx: Ctx, caller: Caller, name: NodeName, body: DrainIn) -> NodeServiceOut:
    """The node gets no new work and leaves the capacity; what runs on it goes on. Again keeps the first reason."""
    require(caller, Action.ADMINISTER)
    with transaction(ctx.engine) as session:
        nodes.drain(session, name, at=ctx.now(), actor=actor_of(caller), reason=body.reason)
        return NodeServiceOut.of(nodes.service_of(session, name))


@router.post(
    "/nodes/{name}/resume",
    operation_id="resumeNode",
    summary="Put a node back into service",
    responses=_SERVICE,
)
def resume_node(ctx: Ctx, caller: Caller, name: NodeName) -> NodeServiceOut:
    """A drained node takes work again; one that was not drained stays as it is."""
    require(caller, Action.ADMINISTER)
    with transaction(ctx.engine) as session:
        nodes.resume(session, name, at=ctx.now(), actor=actor_of(caller))
        return NodeServiceOut.of(nodes.service_of(session, name))
