"""Rows of the store: journal, seal, lease."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, FetchedValue, Identity, Index, LargeBinary, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import UserDefinedType

from store.base import Base, type_instant


class Xid8(UserDefinedType[str]):
    """PostgreSQL's 64-bit transaction id, which never wraps around."""

    cache_ok = True

    def get_col_spec(self, **_kw: object) -> str:
        """Return the type's name in DDL."""
        return "xid8"


class JournalRow(Base):
    """One record of the journal, written in the transaction of the change it records. Never updated.

    `data` holds ids, digests and figures only: no names, IIN, e-mail, command lines or environment.
    `xid` says which transaction wrote it, so that any snapshot's view of the journal can be rebuilt.
    """

    __tablename__ = "journal"
    __table_args__ = (
        Index("ix_journal_subject", "subject", "id"),
        Index("ix_journal_kind", "kind", "id"),
        Index("ix_journal_xid", "xid"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    xid: Mapped[str] = mapped_column(
        Xid8, FetchedValue(), server_default=text("pg_current_xact_id()"), nullable=False
    )
    at: Mapped[datetime] = mapped_column(type_instant)
    kind: Mapped[str] = mapped_column(Text)
    subject: Mapped[str] = mapped_column(Text)
    actor: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, object]] = mapped_column(JSONB)


class JournalSegmentRow(Base):
    """A sealed segment: `digest` chains over `previous_digest` and the canonical bytes of its records.

    `horizon`: every record of a transaction before it is sealed.
    """

    __tablename__ = "journal_segments"
    __table_args__ = (CheckConstraint("last_seq >= first_seq", name="order"),)

    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    first_seq: Mapped[int] = mapped_column(BigInteger, unique=True)
    last_seq: Mapped[int] = mapped_column(BigInteger, unique=True)
    previous_digest: Mapped[bytes] = mapped_column(LargeBinary)
    digest: Mapped[bytes] = mapped_column(LargeBinary)
    horizon: Mapped[str] = mapped_column(Xid8)
    sealed_at: Mapped[datetime] = mapped_column(type_instant)


class JournalSealRow(Base):
    """Place of a committed record in the sealed order: sequence number without gaps."""

    __tablename__ = "journal_seals"

    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    journal_id: Mapped[int] = mapped_column(BigInteger, unique=True)


class LeaseRow(Base):
    """A named lease with its fencing epoch: each new holder gets the next epoch."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    holder: Mapped[str] = mapped_column(Text)
    epoch: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[datetime] = mapped_column(type_instant)
