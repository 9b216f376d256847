"""How long the API takes to begin its answers, by route, method and class of status.

The label `route` is the template of a route (`/v1/jobs/{job_id}`), never a path that a caller made up: what no route
takes is `unmatched`. A request that asks to wait for news (`wait_s`) is not counted: its length is its own wish.
"""

from __future__ import annotations

import time
from typing import Final

from prometheus_client import CollectorRegistry, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Upper bounds of an answer's beginning [s]: from a look-up to what a client gives up on."""

UNMATCHED: Final = "unmatched"
"""Label value of requests that no route takes."""

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Latency:
    """Middleware that times each request until its answer begins.

    Args:
        app: what answers.
        registry: where the histogram is registered.
    """

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self._app = app
        self._seconds = Histogram(
            "kezek_api_request_seconds",
            "Time until the answer began, by route, method and class of status.",
            ["route", "method", "status"],
            buckets=BUCKETS_S,
            registry=registry,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or b"wait_s=" in scope.get("query_string", b""):
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        is_told = False

        def tell(status: int) -> None:
            nonlocal is_told
            is_told = True
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._seconds.labels(_route(scope), method, f"{status // 100}xx").observe(
                time.monotonic() - began
            )

        async def timed(message: Message) -> None:
            if message["type"] == "http.response.start":
                tell(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, timed)
        except Exception:
            if not is_told:
                tell(500)  # what the server answers once the fault has reached it
            raise


def _route(scope: Scope) -> str:
    """The template of the route that took the request."""
    path = getattr(scope.get("route"), "path", None)
    if path is None and "endpoint" in scope:
        path = scope.get("root_path") or None  # files below a mount have no route of their own
    return str(path) if path else UNMATCHED
