"""Rows of a platform at work, for what reads the tables."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from quota.tables import BalanceRow, GrantRow
from scheduler.tables import AllocationRow, AttemptRow, GpuRow, JobRow, NodeRow
from tenants.tables import OrganisationRow, ProjectRow, UserRow

NOW = datetime(2026, 3, 1, 9, tzinfo=UTC)


def project(session: Session, slug: str) -> ProjectRow:
    organisation = OrganisationRow(
        id=uuid.uuid4(), slug=f"o-{slug}", name={"en": slug}, category="startup", sector="energy", region="r",
        bin=None, created_at=NOW,
    )  # fmt: skip
    row = ProjectRow(
        id=uuid.uuid4(), organisation_id=organisation.id, slug=slug, queue="q", programme=None, status="active",
        created_at=NOW,
    )  # fmt: skip
    session.add(organisation)
    session.flush()
    session.add(row)
    session.flush()
    return row


def grant(session: Session, of: ProjectRow, used_s: int, *, days: int = 30) -> GrantRow:
    row = GrantRow(
        id=uuid.uuid4(), project_id=of.id, flavor="h200", granted_s=1000, starts_at=NOW - timedelta(days=60),
        ends_at=NOW + timedelta(days=days), decision={}, created_at=NOW,
    )  # fmt: skip
    session.add(row)
    session.flush()
    zero = dict.fromkeys(
        ("expired_s", "returned_s", "clawed_back_s", "adjusted_s", "transferred_in_s", "transferred_out_s"), 0
    )
    session.add(
        BalanceRow(
            grant_id=row.id, granted_s=1000, pending_s=100, used_s=used_s, remaining_s=900 - used_s, **zero
        )
    )
    session.flush()
    return row


def columns(model: Any, **given: Any) -> Any:
    """A row with what is given, and something harmless in every other column that must not be empty."""
    harmless = {
        int: 0,
        str: "x",
        bool: False,
        list: [],
        object: {},  # JSONB
        datetime: NOW,
    }
    values = {
        column.name: harmless[column.type.python_type]
        for column in model.__table__.columns
        if not column.nullable and column.default is None and not column.identity and column.name not in given
    }
    return model(**values, **given)


def allocate(session: Session, of: ProjectRow, award: GrantRow, uuids: Sequence[str]) -> int:
    """A running job that holds these GPUs but the last, which it has released."""
    user = columns(UserRow, id=uuid.uuid4(), organisation_id=of.organisation_id, name="u")
    session.add_all([user, columns(NodeRow, name="n1", state="UP")])
    session.flush()
    session.add_all(columns(GpuRow, uuid=uuid_, node="n1", index=index) for index, uuid_ in enumerate(uuids))
    job = columns(
        JobRow,
        state="RUNNING",
        first_started_at=NOW,
        project_id=of.id,
        user_id=user.id,
        queue="q",
        gpus=len(uuids) - 1,
        walltime_s=60,
    )
    session.add(job)
    session.flush()
    session.add(columns(AttemptRow, id="17-1", job_id=job.id, grant_id=award.id, state="RUNNING"))
    session.flush()
    for uuid_ in uuids:
        session.add(
            AllocationRow(
                attempt_id="17-1", gpu_uuid=uuid_, node="n1", rank=0, allocated_at=NOW,
                released_at=NOW if uuid_ == uuids[-1] else None,
            )
        )  # fmt: skip
    return int(job.id)
