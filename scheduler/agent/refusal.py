"""How the agent says no."""

from __future__ import annotations

from collections.abc import Mapping

from scheduler.dispatch.wire import AgentCode

_STATUS = {
    AgentCode.BAD_REQUEST: 400,
    AgentCode.BUNDLE_INVALID: 400,
    AgentCode.DIGEST_MISMATCH: 400,
    AgentCode.UNAUTHORIZED: 401,
    AgentCode.NOT_FOUND: 404,
    AgentCode.STALE_EPOCH: 409,
    AgentCode.LEASE_MISMATCH: 409,
    AgentCode.GPU_UNKNOWN: 409,
    AgentCode.GPU_BUSY: 409,
    AgentCode.ATTEMPT_ALIVE: 409,
    AgentCode.DRAINING: 409,
    AgentCode.BODY_TOO_LARGE: 413,
    AgentCode.BUNDLE_MISSING: 424,
    AgentCode.NO_PORT: 503,
    AgentCode.INTERNAL: 500,
}


class RefusalError(Exception):
    """A command that is not carried out.

    Attributes:
        code: stable code.
        detail: what happened, to what, and what to do next.
        extra: further members of the problem document.
    """

    def __init__(self, code: AgentCode, detail: str, extra: Mapping[str, object] | None = None) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.extra = dict(extra or {})

    @property
    def status(self) -> int:
        """The HTTP status of the answer."""
        return _STATUS[self.code]
