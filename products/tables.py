"""Rows of the products room: the product register, the jobs and the files a product was built by."""

from __future__ import annotations

from datetime import date, datetime
from uuid import UUID

from sqlalchemy import BigInteger, Date, ForeignKey, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from store.base import Base, type_instant


class ProductRow(Base):
    """An AI product of a project. `verified_by` is never the author nor of the owner's organisation."""

    __tablename__ = "products"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    slug: Mapped[str] = mapped_column(Text, unique=True)
    organisation_id: Mapped[UUID] = mapped_column(ForeignKey("organisations.id"), index=True)
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"), index=True)
    name: Mapped[dict[str, str]] = mapped_column(JSONB)
    description: Mapped[str] = mapped_column(Text)
    sector: Mapped[str] = mapped_column(Text)
    stage: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text)
    started_on: Mapped[date] = mapped_column(Date)
    author_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    registered_at: Mapped[datetime] = mapped_column(type_instant)
    verified_by: Mapped[UUID | None] = mapped_column(ForeignKey("users.id"))
    verified_at: Mapped[datetime | None] = mapped_column(type_instant)
    return_note: Mapped[str | None] = mapped_column(Text)
    direction: Mapped[str | None] = mapped_column(Text)
    ai_kind: Mapped[str | None] = mapped_column(Text)
    programme: Mapped[str | None] = mapped_column(Text)
    users: Mapped[str] = mapped_column(Text)
    builds_on: Mapped[list[str]] = mapped_column(JSONB)
    links: Mapped[list[str]] = mapped_column(JSONB)
    authors: Mapped[list[str]] = mapped_column(JSONB)
    data_sets: Mapped[list[dict[str, str | None]]] = mapped_column(JSONB)
    changed_at: Mapped[datetime] = mapped_column(type_instant)


class ProductJobRow(Base):
    """A job a product was built by: the link of the chain of evidence."""

    __tablename__ = "product_jobs"

    product_id: Mapped[UUID] = mapped_column(ForeignKey("products.id"), primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    linked_at: Mapped[datetime] = mapped_column(type_instant)


class ProductArtefactRow(Base):
    """A version of a product's model: a file one of its jobs kept. The digest stays where the agent's report put it."""

    __tablename__ = "product_artefacts"

    product_id: Mapped[UUID] = mapped_column(ForeignKey("products.id"), primary_key=True)
    artefact_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("artefacts.id"), primary_key=True)
    version: Mapped[str] = mapped_column(Text)
    linked_at: Mapped[datetime] = mapped_column(type_instant)
