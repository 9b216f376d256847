"""The register of "icebreaker" initiatives: each with its own KPI and deadline, and what was measured."""

from __future__ import annotations

from datetime import date, datetime

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from products.evidence_tables import InitiativeMeasurementRow, InitiativeRow
from products.kpi import Initiative, Measurement
from store import journal


class InitiativeError(Exception):
    """Base of what the register of initiatives refuses."""


class InitiativeNotFoundError(InitiativeError):
    """There is no such initiative."""

    def __init__(self, slug: str) -> None:
        super().__init__(f"there is no initiative {slug}; see the list for its spelling")
        self.slug = slug


class InitiativeTakenError(InitiativeError):
    """The slug is in use, or a value of that day is entered already."""


class FutureMeasurementError(InitiativeError):
    """A value of a day that has not come."""

    def __init__(self, slug: str, on: date, today: date) -> None:
        super().__init__(f"initiative {slug}: {on} lies after today, {today}; enter what was measured")
        self.slug = slug


def register(session: Session, made: Initiative, *, actor: str, at: datetime) -> None:
    """Enter an initiative. The caller has checked who asks.

    Raises:
        InitiativeTakenError: the slug is in use.
    """
    row = {
        "slug": made.slug,
        "direction": made.direction.value,
        "kpi": dict(made.kpi),
        "unit": made.unit,
        "baseline": made.baseline,
        "target": made.target,
        "deadline": made.deadline,
        "registered_at": at,
    }
    added = session.execute(
        insert(InitiativeRow).values(row).on_conflict_do_nothing().returning(InitiativeRow.slug)
    ).one_or_none()
    if added is None:
        raise InitiativeTakenError(f"an initiative {made.slug} is registered already; choose another slug")
    data: dict[str, object] = {
        "direction": made.direction.value,
        "baseline": made.baseline,
        "target": made.target,
        "deadline": made.deadline.isoformat(),
    }
    journal.append(session, "initiative.registered", f"initiative:{made.slug}", actor=actor, at=at, data=data)


def measure(
    session: Session, slug: str, value: Measurement, *, today: date, actor: str, at: datetime
) -> None:
    """Enter a value of an initiative's KPI, which then stands. The caller has checked who asks.

    Raises:
        InitiativeNotFoundError: no such initiative.
        FutureMeasurementError: its day lies after `today`.
        InitiativeTakenError: a value of that day is entered already.
    """
    if session.get(InitiativeRow, slug) is None:
        raise InitiativeNotFoundError(slug)
    if value.on > today:
        raise FutureMeasurementError(slug, value.on, today)
    row = {
        "initiative": slug,
        "on": value.on,
        "value": value.value,
        "source": value.source,
        "entered_at": at,
    }
    added = session.execute(
        insert(InitiativeMeasurementRow)
        .values(row)
        .on_conflict_do_nothing()
        .returning(InitiativeMeasurementRow.on)
    ).one_or_none()
    if added is None:
        raise InitiativeTakenError(
            f"initiative {slug} has a value of {value.on} already, which stands; enter that of another day"
        )
    data: dict[str, object] = {"on": value.on.isoformat(), "value": value.value}
    journal.append(session, "initiative.measured", f"initiative:{slug}", actor=actor, at=at, data=data)
