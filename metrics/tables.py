"""Rows of the metrics room: what was observed of each attempt, beyond the retention of the metrics."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from store.base import Base, type_instant


class AttemptTelemetryRow(Base):
    """The fold of an attempt's telemetry, and the moment up to which readings are in it.

    `observed_until` is also the guard: who read the row at another moment than it stands at now must not add to it.
    """

    __tablename__ = "attempt_telemetry"
    __table_args__ = (CheckConstraint("jsonb_typeof(fold) = 'object'", name="fold_is_object"),)

    attempt_id: Mapped[str] = mapped_column(Text, ForeignKey("attempts.id"), primary_key=True)
    observed_until: Mapped[datetime] = mapped_column(type_instant)
    fold: Mapped[dict[str, object]] = mapped_column(JSONB)
