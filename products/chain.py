"""The chain of evidence of a product: policy and route, grant and decision, job, GPU-seconds, energy, file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import cast
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from metrics.service import job_summary
from products import artefacts, service
from products.evidence_tables import ProductFactRow
from products.model import ModelVersion
from products.tables import ProductJobRow
from quota.service import NoPolicyError, in_force
from quota.tables import GrantRow, LedgerEntryRow
from scheduler.model import JobState
from scheduler.tables import AttemptRow, JobRow
from store.clock import ALMATY
from tenants.authz import visible_to
from tenants.model import Principal


class Break(StrEnum):
    """What is missing between two links of the chain."""

    JOB_NOT_COMPLETED = "job-not-completed"
    NO_ATTEMPT = "no-attempt"
    NO_POLICY = "no-policy"
    NO_DECISION = "no-decision"
    LEDGER_DIFFERS = "ledger-differs"
    NO_MODEL_VERSION = "no-model-version"


@dataclass(frozen=True, slots=True)
class ChainGrant:
    """A grant that paid for an attempt, with the acts it rests on."""

    id: UUID
    flavor: str
    granted_s: int
    grounds: tuple[dict[str, object], ...]


@dataclass(frozen=True, slots=True)
class ChainAttempt:
    """An attempt: the policy in force when it was admitted, the grant, and what the ledger charged.

    Args:
        id: the attempt.
        policy: version in force at its admission, None where no policy was.
        policy_digest: SHA-256 (hex) of that version.
        queue: the queue that the policy's route gave the project.
        grant: that paid.
        posted_s: charged less reversed, by the ledger [device-seconds].
    """

    id: str
    policy: str | None
    policy_digest: str | None
    queue: str
    grant: ChainGrant
    posted_s: int


@dataclass(frozen=True, slots=True)
class ChainJob:
    """A job of the chain.

    Args:
        job_id: the job.
        state: of the job.
        linked_at: when it was named as evidence.
        unlinked_at: when it was taken back, None while it stands.
        finished_at: when it ended.
        gpu_seconds: charged, by the job [device-seconds].
        attempts: of the job, oldest first.
        energy_kwh: observed, None where nothing was observed.
        energy_coverage_ratio: share of the GPUs' time for which energy was observed.
        versions: of the product's model that it made.
    """

    job_id: int
    state: str
    linked_at: datetime
    unlinked_at: datetime | None
    finished_at: datetime | None
    gpu_seconds: int
    attempts: tuple[ChainAttempt, ...]
    energy_kwh: float | None
    energy_coverage_ratio: float | None
    versions: tuple[ModelVersion, ...]

    @property
    def breaks(self) -> tuple[Break, ...]:
        """What is missing between the links, empty for a whole chain of a completed job."""
        is_missing = {
            Break.JOB_NOT_COMPLETED: self.state != JobState.COMPLETED.value,
            Break.NO_ATTEMPT: not self.attempts,
            Break.NO_POLICY: any(attempt.policy is None for attempt in self.attempts),
            Break.NO_DECISION: any(not attempt.grant.grounds for attempt in self.attempts),
            Break.LEDGER_DIFFERS: sum(attempt.posted_s for attempt in self.attempts) != self.gpu_seconds,
            Break.NO_MODEL_VERSION: not self.versions,
        }
        return tuple(each for each in Break if is_missing[each])


def chain(session: Session, principal: Principal, slug: str, at: datetime) -> tuple[ChainJob, ...]:
    """Every job of a product with what stands before and after it, by job.

    Reads each job's attempts and telemetry: O(jobs).

    Raises:
        ProductNotFoundError: unknown or invisible.
    """
    product = service.row_of(session, principal, slug)
    made: dict[int, list[ModelVersion]] = {}
    for version in artefacts.versions(session, principal, slug):
        made.setdefault(version.job_id, []).append(version)
    taken_back = session.execute(
        select(ProductFactRow.job_id, ProductFactRow.at).where(
            ProductFactRow.product_id == product.id, ProductFactRow.kind == "unlinked"
        )
    )
    gone = {row.job_id: row.at for row in taken_back}
    rows = session.execute(
        select(JobRow, ProductJobRow.linked_at)
        .join(ProductJobRow, ProductJobRow.job_id == JobRow.id)
        .where(visible_to(principal, JobRow.project_id), ProductJobRow.product_id == product.id)
        .order_by(JobRow.id)
    ).all()
    attempts = _attempts(session, principal, [job.id for job, _ in rows])
    found = []
    for job, linked_at in rows:
        energy = job_summary(session, job.id, at)
        found.append(
            ChainJob(
                job_id=job.id,
                state=job.state,
                linked_at=linked_at,
                unlinked_at=gone.get(job.id),
                finished_at=job.finished_at,
                gpu_seconds=job.gpu_seconds,
                attempts=tuple(attempts.get(job.id, ())),
                energy_kwh=energy.energy_kwh,
                energy_coverage_ratio=energy.energy_coverage_ratio,
                versions=tuple(made.get(job.id, ())),
            )
        )
    return tuple(found)


def _attempts(
    session: Session, principal: Principal, job_ids: Sequence[int]
) -> dict[int, list[ChainAttempt]]:
    rows = session.execute(
        select(AttemptRow, JobRow.queue, GrantRow)
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .join(GrantRow, GrantRow.id == AttemptRow.grant_id)
        .where(visible_to(principal, JobRow.project_id), AttemptRow.job_id.in_(job_ids))
        .order_by(AttemptRow.admitted_at, AttemptRow.id)
    ).all()
    entries = session.execute(
        select(LedgerEntryRow.attempt_id, LedgerEntryRow.kind, func.sum(LedgerEntryRow.amount_s))
        .where(
            LedgerEntryRow.attempt_id.in_([attempt.id for attempt, _, _ in rows]),
            LedgerEntryRow.kind.in_(("posted", "reversed")),
        )
        .group_by(LedgerEntryRow.attempt_id, LedgerEntryRow.kind)
    )
    posted: dict[str, int] = {}
    for attempt_id, kind, amount_s in entries:
        if attempt_id is not None:
            sign = 1 if kind == "posted" else -1
            posted[attempt_id] = posted.get(attempt_id, 0) + sign * int(amount_s)
    policies: dict[str, tuple[str | None, str | None]] = {}
    found: dict[int, list[ChainAttempt]] = {}
    for attempt, queue, grant in rows:
        day = attempt.admitted_at.astimezone(ALMATY).date().isoformat()
        if day not in policies:
            policies[day] = _policy(session, attempt.admitted_at)
        made = ChainAttempt(
            id=attempt.id,
            policy=policies[day][0],
            policy_digest=policies[day][1],
            queue=queue,
            grant=ChainGrant(grant.id, grant.flavor, grant.granted_s, _grounds(grant.decision)),
            posted_s=posted.get(attempt.id, 0),
        )
        found.setdefault(attempt.job_id, []).append(made)
    return found


def _grounds(decision: dict[str, object]) -> tuple[dict[str, object], ...]:
    given = decision.get("grounds")
    return tuple(cast("list[dict[str, object]]", given)) if isinstance(given, list) else ()


def _policy(session: Session, at: datetime) -> tuple[str | None, str | None]:
    try:
        policy, digest = in_force(session, at)
    except NoPolicyError:
        return None, None
    return policy.version, digest
