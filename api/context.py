"""What every route of one application shares, and how a route asks for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, cast

from fastapi import Depends, Request
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine

from api import i18n
from api.limits import PUBLIC_CACHE_S
from api.visitors import Kept, RateLimit
from products.opendata import OpenData
from scheduler.dispatch.executor import Executor
from scheduler.explaining import Explanations
from store import clock


@dataclass(slots=True)
class Followers:
    """Long polls that wait at this moment; once the server stops (`is_ending`) they are answered at once."""

    waiting: int = 0
    is_ending: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The application's outside world.

    Args:
        engine: the database.
        executor: gives the executor through which logs and outputs are read; asked anew by each request, because
            the agents may come up after the API.
        registry: what `/metrics` shows to everybody.
        projects_registry: what `/metrics/projects` shows to those who oversee the platform.
        now: the clock.
        metrics_token: what `/metrics` asks for; None for nothing.
        visitors: requests of those without a token, by address.
        open_data: the public figures, computed once a minute at most.
        explanations: what the last one knew of the waiting jobs.
    """

    engine: Engine
    executor: Callable[[], Executor]
    registry: CollectorRegistry
    projects_registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    now: Callable[[], datetime] = clock.now
    metrics_token: str | None = field(default=None, repr=False)
    followers: Followers = field(default_factory=Followers)
    visitors: RateLimit = field(default_factory=RateLimit)
    open_data: Kept[OpenData] = field(default_factory=lambda: Kept(PUBLIC_CACHE_S))
    explanations: Explanations = field(default_factory=Explanations)


def context_of(request: Request) -> Context:
    """The context the application was made with."""
    return cast("Context", request.app.state.context)


def language_of(request: Request) -> str:
    """Language of an API answer: Accept-Language, else English, which the details are written in."""
    return i18n.choose(request.headers.get("accept-language"), "en")


Ctx = Annotated[Context, Depends(context_of)]
Language = Annotated[str, Depends(language_of)]
