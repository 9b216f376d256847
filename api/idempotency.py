"""Idempotency-Key: a request that is sent again is answered again, not carried out again.

The row of the key and what the request makes commit in one transaction, so there is never one without the other; a
refused request leaves no row and may be repeated. Source: the header field as in the IETF draft
"The Idempotency-Key HTTP Header Field" (draft-ietf-httpapi-idempotency-key-header).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from api.errors import ApiError, ErrorCode
from api.limits import IDEMPOTENCY_PURGE_ROWS, IDEMPOTENCY_TTL_S
from api.tables import IdempotencyRow


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a user's request, and the digest of what was asked."""

    user_id: UUID
    key: str
    digest: bytes

    @classmethod
    def of(cls, user_id: UUID, key: str, document: object) -> Key:
        """The key of a request with this body (JSON values)."""
        canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return cls(user_id, key, hashlib.sha256(canonical.encode()).digest())


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered; `is_replayed` when it had been answered before."""

    status: int
    body: dict[str, object]
    is_replayed: bool


def once(
    session: Session, key: Key, at: datetime, act: Callable[[], tuple[int, dict[str, object]]]
) -> Answer:
    """Carry out `act` in the caller's transaction unless its key was answered before.

    Args:
        session: the open unit of work; the remembered answer is written in it.
        key: the key and the request's digest.
        at: the instant, aware UTC.
        act: carries the request out in the same unit of work; gives status and body to remember.

    Raises:
        ApiError: IDEMPOTENCY_IN_FLIGHT while another request with the key is being served, IDEMPOTENCY_MISMATCH
            when the key was used for another body.
    """
    mark = hashlib.sha256(f"{key.user_id}:{key.key}".encode()).digest()
    lock = int.from_bytes(mark[:8], signed=True)
    if not session.scalar(select(func.pg_try_advisory_xact_lock(lock))):
        raise ApiError(
            ErrorCode.IDEMPOTENCY_IN_FLIGHT,
            "a request with this Idempotency-Key is being served; wait a second and send the same request again",
        )
    oldest = at - timedelta(seconds=IDEMPOTENCY_TTL_S)
    row = session.get(IdempotencyRow, (key.user_id, key.key))
    if row is not None and row.created_at > oldest and row.status is not None:
        if row.request_digest != key.digest:
            raise ApiError(
                ErrorCode.IDEMPOTENCY_MISMATCH,
                "this Idempotency-Key was used for another request; use a new key for a new request",
            )
        return Answer(row.status, dict(row.response or {}), is_replayed=True)
    _purge(session, oldest)
    status, body = act()
    session.merge(
        IdempotencyRow(
            user_id=key.user_id,
            key=key.key,
            request_digest=key.digest,
            status=status,
            response=body,
            created_at=at,
        )
    )
    return Answer(status, body, is_replayed=False)


def _purge(session: Session, oldest: datetime) -> None:
    """Remove a few forgotten answers; those another request is removing are left to it."""
    old = (
        select(IdempotencyRow.user_id, IdempotencyRow.key)
        .where(IdempotencyRow.created_at <= oldest)
        .order_by(IdempotencyRow.created_at)
        .limit(IDEMPOTENCY_PURGE_ROWS)
        .with_for_update(skip_locked=True)
    )
    for user_id, key in session.execute(old).all():
        session.execute(
            delete(IdempotencyRow).where(IdempotencyRow.user_id == user_id, IdempotencyRow.key == key)
        )
    session.expire_all()
