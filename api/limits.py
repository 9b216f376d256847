"""Limits of the front door, and the middleware that enforces the size of bodies while they stream in."""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES: Final = 256 * 1024
"""Largest request body [bytes]: hundreds of times the largest job or policy we know of."""
MAX_UPLOAD_BODY_BYTES: Final = 9 * 1024 * 1024
"""Largest body of a bundle's upload [bytes]: above the bundle's own limit (8 MiB), so that its error can name it."""
UPLOAD_PATHS: Final = frozenset({"/v1/bundles"})
"""Where uploads go."""
MAX_PAGE: Final = 200
"""Items of one page of any list."""
DEFAULT_PAGE: Final = 50
"""Items of a page when the caller names no limit."""
MAX_WAIT_S: Final = 20
"""Longest wait of a long poll [s]: below the idle time-out of common proxies (30 s and more)."""
LOG_POLL_S: Final = 0.2
"""Pause between two looks at a log that has nothing new [s]: a reader notices no delay."""
MAX_FOLLOWERS: Final = 200
"""Long polls that wait at a time; one above it is answered at once with what there is."""
MAX_LOG_BYTES: Final = 256 * 1024
"""Log in one answer [bytes]: a screenful many times over."""
MAX_EVENTS: Final = 200
"""Journal records in one answer."""
IDEMPOTENCY_TTL_S: Final = 24 * 3600
"""How long the answer of an idempotent request is remembered [s]: a day of retries."""
IDEMPOTENCY_PURGE_ROWS: Final = 100
"""Forgotten answers removed by one request, so that the table stays small without a process of its own."""
MAX_KEY_CHARS: Final = 200
"""Longest Idempotency-Key: several UUIDs."""
MAX_ID: Final = 2**63 - 1
"""Largest number of a job or a record: a signed 64-bit word."""

MAX_PUBLIC_PER_MINUTE: Final = 120
"""Requests of one client address to the public addresses in a minute: an office behind one address reads freely."""
MAX_PUBLIC_ADDRESSES: Final = 10_000
"""Client addresses that are counted at a time [count]; the one heard of longest ago is forgotten first."""
PUBLIC_CACHE_S: Final = 60
"""How long the open data are told as they were computed [s]; they are sums over 30 days."""


class BodyTooLargeError(HTTPException):
    """The request's body is larger than its address takes."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            413, f"the body is larger than {limit_bytes} bytes; send less, and data sets not at all"
        )
        self.limit_bytes = limit_bytes


class BodyLimit:
    """ASGI middleware: a body above the limit of its address ends the request as soon as the excess is seen."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = MAX_UPLOAD_BODY_BYTES if scope["path"] in UPLOAD_PATHS else MAX_BODY_BYTES
        stated = Headers(scope=scope).get("content-length", "")
        is_stated_too_large = stated.isascii() and stated.isdigit() and int(stated[:20]) > limit
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            if is_stated_too_large:
                raise BodyTooLargeError(limit)
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > limit:
                    raise BodyTooLargeError(limit)
            return message

        await self._app(scope, counted, send)
