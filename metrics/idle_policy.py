"""The idle policy as data: the document an operator writes, its versions, and the one in force.

A document is YAML with the key ``idle_policy``; docs/telemetry-control-plane.md shows one. What is left out has the
default of ``metrics.idle.IdlePolicy``. Versions are only added: the latest is in force, and a notice names the one
it was given under.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from metrics.idle import IdlePolicy, IdlePolicyError
from metrics.tables import IdlePolicyRow
from quota import document as read
from store import journal

MAX_AFTER_S: Final = 30 * 86_400
"""Longest of the policy's times [s]: a month of idle GPUs is no policy."""

_FLAGS: Final = {
    "enabled": "is_enabled",
    "dry_run": "is_dry_run",
    "exempt_interactive": "is_interactive_exempt",
}
_TIMES: Final = ("notice_after", "second_notice_after", "cancel_after")
_SHARES: Final = ("min_busy_share", "min_coverage")
_TOP: Final = "idle_policy"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPolicy:
    """A policy and where it comes from. `id`, `set_at` and `set_by` are None for the platform's own default."""

    policy: IdlePolicy
    id: int | None = None
    digest: str | None = None
    set_at: datetime | None = None
    set_by: str | None = None


def load_text(text: str) -> IdlePolicy:
    """Read a policy from YAML text.

    Raises:
        PolicyError: it is no such document, or a value cannot be.
    """
    return parse(read.load_document(text))


def parse(document: Mapping[str, object]) -> IdlePolicy:
    """Read a policy from its document.

    Raises:
        PolicyError: an unknown key, or a value that cannot be; the message names it and says what would do.
    """
    top = read.section(document, "document", {_TOP})
    found = read.section(read.required(top, _TOP, "document"), _TOP, {*_FLAGS, *_TIMES, *_SHARES})
    flags = {_FLAGS[key]: _flag(value, f"{_TOP}.{key}") for key, value in found.items() if key in _FLAGS}
    times = {key: _time(value, f"{_TOP}.{key}") for key, value in found.items() if key in _TIMES}
    shares = {
        key: float(read.ratio(value, f"{_TOP}.{key}")) for key, value in found.items() if key in _SHARES
    }
    return made(flags, times, shares)


def made(
    flags: Mapping[str, bool], times: Mapping[str, timedelta], shares: Mapping[str, float]
) -> IdlePolicy:
    """A policy of what is given, the rest by default.

    Raises:
        PolicyError: the values contradict each other.
    """
    try:
        return IdlePolicy(**flags, **times, **shares)  # type: ignore[arg-type]  # mypy merges the three kinds
    except IdlePolicyError as error:
        raise read.bad(f"{_TOP}.{error.setting}", str(error)) from error


def to_document(policy: IdlePolicy) -> dict[str, object]:
    """The document that says a policy in full; ``parse`` gives the policy back."""
    flags: dict[str, object] = {key: getattr(policy, name) for key, name in _FLAGS.items()}
    times = {key: f"{getattr(policy, key) // timedelta(seconds=1)}s" for key in _TIMES}
    shares = {key: str(getattr(policy, key)) for key in _SHARES}
    return {_TOP: flags | times | shares}


def put(session: Session, policy: IdlePolicy, *, at: datetime, actor: str) -> SetPolicy:
    """Set the policy, in the caller's transaction; the one in force again changes nothing.

    Args:
        session: the open unit of work.
        policy: the policy.
        at: instant of the act, aware UTC.
        actor: who sets it, as the journal names actors.
    """
    before = in_force(session)
    if before.id is not None and before.policy == policy:
        return before
    document = to_document(policy)
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    row = IdlePolicyRow(
        document=document, digest=hashlib.sha256(canonical).hexdigest(), set_at=at, set_by=actor
    )
    session.add(row)
    session.flush()
    data = {"digest": row.digest, "document": document}
    journal.append(session, "idle.policy_set", f"idle_policy:{row.id}", actor=actor, at=at, data=data)
    return _of(row)


def in_force(session: Session) -> SetPolicy:
    """The policy set last; where none ever was, the default, which is a dry run."""
    row = session.scalar(select(IdlePolicyRow).order_by(IdlePolicyRow.id.desc()).limit(1))
    return SetPolicy(policy=IdlePolicy()) if row is None else _of(row)


def _of(row: IdlePolicyRow) -> SetPolicy:
    return SetPolicy(
        policy=parse(row.document), id=row.id, digest=row.digest, set_at=row.set_at, set_by=row.set_by
    )


def _flag(value: object, path: str) -> bool:
    if not isinstance(value, bool):
        raise read.bad(path, "must be true or false")
    return value


def _time(value: object, path: str) -> timedelta:
    seconds = read.duration_s(value, path)
    if seconds > MAX_AFTER_S:
        raise read.bad(path, f"is {value}, must be at most {MAX_AFTER_S // 86_400}d")
    return timedelta(seconds=seconds)
