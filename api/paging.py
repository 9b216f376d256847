"""Keyset pages: the cursor is the last key of a page, opaque to the caller."""

from __future__ import annotations

import base64
import binascii
from uuid import UUID

from api.errors import ApiError, ErrorCode, Finding
from api.limits import MAX_ID


def encode(key: object) -> str:
    """A cursor that continues after `key`."""
    return base64.urlsafe_b64encode(str(key).encode()).decode().rstrip("=")


def decode(cursor: str | None) -> str | None:
    """The key in a cursor.

    Raises:
        ApiError: VALIDATION, it is none of ours.
    """
    if cursor is None:
        return None
    try:
        key = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise _refused() from None
    if not key or "\0" in key:
        raise _refused()
    return key


def decode_number(cursor: str | None) -> int | None:
    """The number in a cursor, 1 to 2**63-1.

    Raises:
        ApiError: VALIDATION, it is none of ours.
    """
    key = decode(cursor)
    if key is None:
        return None
    if not (key.isascii() and key.isdigit() and len(key) <= len(str(MAX_ID)) and 1 <= int(key) <= MAX_ID):
        raise _refused()
    return int(key)


def decode_uuid(cursor: str | None) -> str | None:
    """The UUID in a cursor.

    Raises:
        ApiError: VALIDATION, it is none of ours.
    """
    key = decode(cursor)
    try:
        return None if key is None else str(UUID(key))
    except ValueError:
        raise _refused() from None


def _refused() -> ApiError:
    message = "is not a cursor of this list; use `next_cursor` of the page before, or none"
    return ApiError(
        ErrorCode.VALIDATION, f"query.cursor {message}", errors=[Finding("query.cursor", message)]
    )
