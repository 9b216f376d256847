"""Who asks without a token asks in moderation: the dependency of every public address."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from api.context import Ctx
from api.errors import ApiError, ErrorCode


def admit(ctx: Ctx, request: Request) -> None:
    """Refuse a client address that asks too often.

    Raises:
        ApiError: RATE_LIMITED.
    """
    address = "-" if request.client is None else request.client.host
    wait_s = ctx.visitors.admit(address, ctx.now())
    if wait_s is not None:
        raise ApiError(
            ErrorCode.RATE_LIMITED,
            f"this address made more than {ctx.visitors.most} requests in a minute; wait {wait_s} s, and keep what you "
            "fetched: the figures change once a minute",
            numbers={"limit": ctx.visitors.most, "retry_after_s": wait_s},
        )


Admitted = Annotated[None, Depends(admit)]
"""Dependency of every public address."""
