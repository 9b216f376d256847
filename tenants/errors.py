"""What the tenants room refuses, and why."""

from __future__ import annotations

from enum import StrEnum


class AuthFailure(StrEnum):
    """Why a token was not accepted."""

    UNAUTHENTICATED = "UNAUTHENTICATED"
    TOKEN_EXPIRED = "TOKEN_EXPIRED"  # noqa: S105 - a code, no secret
    TOKEN_REVOKED = "TOKEN_REVOKED"  # noqa: S105 - a code, no secret


class TenantsError(Exception):
    """Base of what this room refuses."""


class AuthenticationError(TenantsError):
    """The token was not accepted.

    Args:
        code: why.
        message: what to do.
    """

    def __init__(self, code: AuthFailure, message: str) -> None:
        super().__init__(message)
        self.code = code


class NotFoundError(TenantsError):
    """There is no such thing, or the caller may not know that there is.

    Args:
        what: "organisation", "project", "user" or "token".
        key: how it was asked for.
    """

    def __init__(self, what: str, key: object) -> None:
        super().__init__(f"there is no {what} {key} that you can see; check the spelling")
        self.what = what
        self.key = str(key)


class TakenError(TenantsError):
    """A name that must be unique is in use.

    Args:
        what: what was to be made.
        field: the field whose value is taken.
    """

    def __init__(self, what: str, field: str) -> None:
        super().__init__(f"the {field} of this {what} is already in use; choose another or use what exists")
        self.what = what
        self.field = field


class UnsuitableError(TenantsError):
    """The values contradict each other.

    Args:
        field: the field to correct.
        message: what is wrong and what to do.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
