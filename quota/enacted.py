"""Policies that were enacted: which one is in force, and its document as it was entered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final, cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from quota.document import bad
from quota.model import Policy
from quota.policy import load_policy_text, parse_policy, policy_digest, queues_of, validate_against
from quota.tables import PolicyRow
from store import clock, journal

MAX_POLICIES: Final = 500
"""Policies listed at once: several a year for a century."""


_PARSED_MAX: Final = 32
"""Parsed policies kept in memory, by digest: the one in force, its neighbours, and those being replayed."""


_parsed: dict[str, Policy] = {}


class PolicyExistsError(ValueError):
    """Another policy has this version or comes into force on this day."""

    code: Final = "POLICY_EXISTS"

    def __init__(self, version: str, effective_from: date) -> None:
        super().__init__(
            f"policy {version} of {effective_from.isoformat()}: a policy with this version or this first day is "
            "entered already; give it another version and another day"
        )
        self.version = version
        self.effective_from = effective_from


class NoPolicyError(RuntimeError):
    """No policy is in force, so no project has a queue and no job may start."""

    code: Final = "NO_POLICY"

    def __init__(self, day: date) -> None:
        super().__init__(
            f"no policy is in force on {day.isoformat()}; enact one whose effective_from is that day or earlier"
        )
        self.day = day


@dataclass(frozen=True, slots=True)
class EnactedPolicy:
    """A policy as it was entered: the document, its digest, and the policy it says."""

    policy: Policy
    document: Mapping[str, object]
    digest: str
    enacted_at: datetime


def enact(
    session: Session,
    document: str | Mapping[str, object],
    *,
    at: datetime,
    actor: str,
    capacity_gpus: int | None = None,
) -> Policy:
    """Enter a policy; it comes into force at its `effective_from`, a day in Asia/Almaty.

    Args:
        session: the open unit of work.
        document: YAML text, or the mapping such a text holds.
        at: instant of the act of entering, aware UTC.
        actor: who enters it, as the journal names actors.
        capacity_gpus: GPUs in service, to check absolute nominals against; None checks shares only.

    Raises:
        PolicyError: BAD_POLICY, SHARES_EXCEED or NO_ENACTING_ACT, with the place in the document.
        PolicyExistsError: version or first day are taken by another policy. The same document again is fine.
    """
    if isinstance(document, str):
        written, policy = load_policy_text(document)
    else:
        written, policy = document, parse_policy(document)
    if capacity_gpus is not None:
        validate_against(policy, capacity_gpus)
    digest = policy_digest(written)
    same = select(PolicyRow).where(
        (PolicyRow.version == policy.version) | (PolicyRow.effective_from == policy.effective_from)
    )
    for row in session.scalars(same):
        if row.digest == digest:
            return policy
        raise PolicyExistsError(policy.version, policy.effective_from)
    _check_successors(session, policy)
    session.add(
        PolicyRow(
            version=policy.version,
            effective_from=policy.effective_from,
            document=json.loads(json.dumps(written, default=date.isoformat)),
            digest=digest,
            enacted_at=at,
        )
    )
    data: dict[str, object] = {"effective_from": policy.effective_from.isoformat(), "digest": digest}
    journal.append(session, "policy.enacted", f"policy:{policy.version}", actor=actor, at=at, data=data)
    session.flush()
    return policy


def _check_successors(session: Session, policy: Policy) -> None:
    """Every queue of the policy before, and what was moved by then, has a queue under the new one.

    Raises:
        PolicyError: BAD_POLICY; projects and jobs of a removed queue would count nowhere.
    """
    before = session.execute(
        select(PolicyRow.version, PolicyRow.digest)
        .where(PolicyRow.effective_from < policy.effective_from)
        .order_by(PolicyRow.effective_from.desc())
        .limit(1)
    ).first()
    if before is None:
        return
    old = _policy(session, before.version, before.digest)
    missing = sorted({*queues_of(old), *old.moves} - queues_of(policy) - set(policy.moves))
    if missing:
        raise bad(
            f"policy.moves.{missing[0]}",
            f'queue "{missing[0]}" of policy {before.version} is gone; name the queue that takes over its work',
        )


def _parse(digest: str, document: Mapping[str, object]) -> Policy:
    found = _parsed.get(digest)
    if found is None:
        found = parse_policy(document)
        while len(_parsed) >= _PARSED_MAX:
            _parsed.pop(next(iter(_parsed)), None)
        _parsed[digest] = found
    return found


def _policy(session: Session, version: str, digest: str) -> Policy:
    found = _parsed.get(digest)
    if found is not None:
        return found
    document = session.scalar(select(PolicyRow.document).where(PolicyRow.version == version))
    return _parse(digest, cast("Mapping[str, object]", document))


def in_force(session: Session, at: datetime) -> tuple[Policy, str]:
    """Return the policy in force at an instant and its digest: the latest whose first day has come in Almaty.

    Raises:
        NoPolicyError: when there is none.
    """
    day = at.astimezone(clock.ALMATY).date()
    row = session.execute(
        select(PolicyRow.version, PolicyRow.digest)
        .where(PolicyRow.effective_from <= day)
        .order_by(PolicyRow.effective_from.desc())
        .limit(1)
    ).first()
    if row is None:
        raise NoPolicyError(day)
    return _policy(session, row.version, row.digest), row.digest


def policy_in_force(session: Session, at: datetime) -> Policy:
    """Return the policy in force at an instant.

    Raises:
        NoPolicyError: when there is none.
    """
    return in_force(session, at)[0]


def policy_of_version(session: Session, version: str) -> tuple[Policy, str] | None:
    """Return a policy by its version with its digest, or None when it was never entered."""
    digest = session.scalar(select(PolicyRow.digest).where(PolicyRow.version == version))
    return None if digest is None else (_policy(session, version, digest), digest)


def policies(session: Session) -> list[EnactedPolicy]:
    """Return the policies entered, the latest to come into force first, at most MAX_POLICIES."""
    rows = session.scalars(select(PolicyRow).order_by(PolicyRow.effective_from.desc()).limit(MAX_POLICIES))
    return [
        EnactedPolicy(_parse(row.digest, row.document), row.document, row.digest, row.enacted_at)
        for row in rows
    ]
