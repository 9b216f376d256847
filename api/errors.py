"""Every error the API answers: stable codes, their status, and the problem document they are told by.

Source: RFC 9457, Problem Details for HTTP APIs. docs/api.md describes each code.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final
from uuid import uuid4

from fastapi import Request
from fastapi.responses import JSONResponse

from api import i18n
from api.findings import Finding

log = logging.getLogger(__name__)

PROBLEM_JSON: Final = "application/problem+json"
"""Media type of every error."""

RETRY_AFTER_S: Final = 1
"""Pause before a request that found something busy or away is worth repeating [s]."""


class ErrorCode(StrEnum):
    """Stable codes of errors."""

    BAD_REQUEST = "BAD_REQUEST"
    VALIDATION = "VALIDATION"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    TOKEN_EXPIRED = "TOKEN_EXPIRED"  # noqa: S105 - a code, no secret
    TOKEN_REVOKED = "TOKEN_REVOKED"  # noqa: S105 - a code, no secret
    FORBIDDEN = "FORBIDDEN"
    NOT_FOUND = "NOT_FOUND"
    UNKNOWN_PROJECT = "UNKNOWN_PROJECT"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    CONFLICT = "CONFLICT"
    IDEMPOTENCY_IN_FLIGHT = "IDEMPOTENCY_IN_FLIGHT"
    IDEMPOTENCY_MISMATCH = "IDEMPOTENCY_MISMATCH"
    BODY_TOO_LARGE = "BODY_TOO_LARGE"
    UNSUPPORTED_MEDIA = "UNSUPPORTED_MEDIA"
    BAD_BIN = "BAD_BIN"
    NO_ROUTE = "NO_ROUTE"
    NO_POLICY = "NO_POLICY"
    BAD_POLICY = "BAD_POLICY"
    SHARES_EXCEED = "SHARES_EXCEED"
    NO_ENACTING_ACT = "NO_ENACTING_ACT"
    BAD_GRANT = "BAD_GRANT"
    PROJECT_SUSPENDED = "PROJECT_SUSPENDED"
    NEVER_FITS = "NEVER_FITS"
    GRANT_NOT_ACTIVE = "GRANT_NOT_ACTIVE"
    BUDGET_EXHAUSTED = "BUDGET_EXHAUSTED"
    QUEUE_FULL = "QUEUE_FULL"
    QUEUE_UNKNOWN = "QUEUE_UNKNOWN"
    BUNDLE_INVALID = "BUNDLE_INVALID"
    BUNDLE_MISSING = "BUNDLE_MISSING"
    OUTPUT_NOT_FOUND = "OUTPUT_NOT_FOUND"
    AGENT_UNREACHABLE = "AGENT_UNREACHABLE"
    NOT_INDEPENDENT = "NOT_INDEPENDENT"
    JOBS_NOT_OF_PROJECT = "JOBS_NOT_OF_PROJECT"
    DIGEST_MISMATCH = "DIGEST_MISMATCH"
    YEAR_WITHOUT_TARGET = "YEAR_WITHOUT_TARGET"
    BAD_DOCUMENT = "BAD_DOCUMENT"
    BAD_BOOKS = "BAD_BOOKS"
    BAD_PERIOD = "BAD_PERIOD"
    NO_PAYMENTS = "NO_PAYMENTS"
    RATE_MISSING = "RATE_MISSING"
    REPORT_NOT_OFFERED = "REPORT_NOT_OFFERED"
    RATE_LIMITED = "RATE_LIMITED"
    IN_FUTURE = "IN_FUTURE"
    UNAVAILABLE = "UNAVAILABLE"
    INTERNAL = "INTERNAL"


STATUS: Final[Mapping[ErrorCode, int]] = {
    ErrorCode.BAD_REQUEST: 400,
    ErrorCode.UNAUTHENTICATED: 401,
    ErrorCode.TOKEN_EXPIRED: 401,
    ErrorCode.TOKEN_REVOKED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.NOT_INDEPENDENT: 403,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.UNKNOWN_PROJECT: 404,
    ErrorCode.OUTPUT_NOT_FOUND: 404,
    ErrorCode.METHOD_NOT_ALLOWED: 405,
    ErrorCode.CONFLICT: 409,
    ErrorCode.QUEUE_UNKNOWN: 409,
    ErrorCode.IDEMPOTENCY_IN_FLIGHT: 409,
    ErrorCode.NO_POLICY: 409,
    ErrorCode.PROJECT_SUSPENDED: 409,
    ErrorCode.GRANT_NOT_ACTIVE: 409,
    ErrorCode.BUDGET_EXHAUSTED: 409,
    ErrorCode.QUEUE_FULL: 409,
    ErrorCode.BODY_TOO_LARGE: 413,
    ErrorCode.UNSUPPORTED_MEDIA: 415,
    ErrorCode.VALIDATION: 422,
    ErrorCode.IDEMPOTENCY_MISMATCH: 422,
    ErrorCode.BAD_BIN: 422,
    ErrorCode.NO_ROUTE: 422,
    ErrorCode.BAD_POLICY: 422,
    ErrorCode.SHARES_EXCEED: 422,
    ErrorCode.NO_ENACTING_ACT: 422,
    ErrorCode.BAD_GRANT: 422,
    ErrorCode.NEVER_FITS: 422,
    ErrorCode.BUNDLE_INVALID: 422,
    ErrorCode.BUNDLE_MISSING: 422,
    ErrorCode.JOBS_NOT_OF_PROJECT: 422,
    ErrorCode.DIGEST_MISMATCH: 422,
    ErrorCode.YEAR_WITHOUT_TARGET: 422,
    ErrorCode.BAD_DOCUMENT: 422,
    ErrorCode.BAD_BOOKS: 422,
    ErrorCode.BAD_PERIOD: 422,
    ErrorCode.NO_PAYMENTS: 422,
    ErrorCode.RATE_MISSING: 422,
    ErrorCode.REPORT_NOT_OFFERED: 422,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.IN_FUTURE: 422,
    ErrorCode.INTERNAL: 500,
    ErrorCode.AGENT_UNREACHABLE: 503,
    ErrorCode.UNAVAILABLE: 503,
}
"""HTTP status of every code: 409 where the same request may succeed later, 422 where it must be changed."""


Figures = Mapping[str, int | str | None]
"""Named figures of a problem."""


class ApiError(Exception):
    """An expected refusal.

    Args:
        code: stable code.
        detail: what happened, to what, and what to do, in English.
        numbers: named figures, for whoever renders the title's text in another language.
        errors: single findings, each with the place in the request.
    """

    def __init__(
        self,
        code: ErrorCode,
        detail: str,
        *,
        numbers: Figures | None = None,
        errors: Sequence[Finding] = (),
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.numbers = dict(numbers or {})
        self.errors = tuple(errors)


def problem(request: Request, error: ApiError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer that says what is wrong; `instance` names this very occurrence, and the log has it too."""
    status = STATUS[error.code]
    language = i18n.choose(request.headers.get("accept-language"), "en")
    extra = dict(headers or {})
    if status == STATUS[ErrorCode.UNAUTHENTICATED]:
        extra["WWW-Authenticate"] = "Bearer"
    if error.code is ErrorCode.RATE_LIMITED:
        extra["Retry-After"] = str(error.numbers["retry_after_s"])
    if error.code in {ErrorCode.UNAVAILABLE, ErrorCode.AGENT_UNREACHABLE, ErrorCode.IDEMPOTENCY_IN_FLIGHT}:
        extra["Retry-After"] = str(RETRY_AFTER_S)
    body = {
        "type": f"urn:kezek:problem:{error.code}",
        "title": i18n.translate(language, f"error.{error.code}.title"),
        "status": status,
        "detail": error.detail,
        "instance": f"urn:uuid:{uuid4()}",
        "code": error.code.value,
        "errors": [{"place": found.place, "message": found.text(language)} for found in error.errors],
        "numbers": error.numbers,
    }
    if status >= STATUS[ErrorCode.INTERNAL]:
        log.warning("answered %s (%s): %s", error.code, body["instance"], error.detail)
    extra["Content-Language"] = language
    return JSONResponse(body, status, headers=extra, media_type=PROBLEM_JSON)


def documented(*codes: ErrorCode) -> dict[int | str, dict[str, object]]:
    """What the OpenAPI document says of the errors of an address: those of every address, and these."""
    by_status: dict[int | str, list[str]] = {}
    for code in sorted({*codes, *_EVERYWHERE}, key=lambda code: (STATUS[code], code)):
        by_status.setdefault(STATUS[code], []).append(code.value)
    content = {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"description": "Problem: " + ", ".join(names), "content": content}
        for status, names in by_status.items()
    }


_EVERYWHERE: Final = (
    ErrorCode.BAD_REQUEST,
    ErrorCode.UNAUTHENTICATED,
    ErrorCode.TOKEN_EXPIRED,
    ErrorCode.TOKEN_REVOKED,
    ErrorCode.VALIDATION,
    ErrorCode.INTERNAL,
    ErrorCode.UNAVAILABLE,
)
BODY_ERRORS: Final = (ErrorCode.BODY_TOO_LARGE, ErrorCode.UNSUPPORTED_MEDIA)
"""What any address that takes a body may answer."""
