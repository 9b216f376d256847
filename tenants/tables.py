"""Rows of the tenants room. Names and e-mail live here, where they can be erased; ids live everywhere."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, LargeBinary, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from store.base import Base, type_instant


class OrganisationRow(Base):
    """Who pays."""

    __tablename__ = "organisations"
    __table_args__ = (CheckConstraint("slug ~ '^[a-z0-9][a-z0-9-]{0,62}$'", name="slug"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    slug: Mapped[str] = mapped_column(Text, unique=True)
    name: Mapped[dict[str, str]] = mapped_column(JSONB)
    category: Mapped[str] = mapped_column(Text)
    sector: Mapped[str] = mapped_column(Text)
    region: Mapped[str] = mapped_column(Text)
    bin: Mapped[str | None] = mapped_column(Text, unique=True)
    created_at: Mapped[datetime] = mapped_column(type_instant)


class ProjectRow(Base):
    """A project of an organisation; `queue` was given by the policy's route when it was made."""

    __tablename__ = "projects"
    __table_args__ = (CheckConstraint("slug ~ '^[a-z0-9][a-z0-9-]{0,62}$'", name="slug"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organisation_id: Mapped[UUID] = mapped_column(ForeignKey("organisations.id"), index=True)
    slug: Mapped[str] = mapped_column(Text, unique=True)
    queue: Mapped[str] = mapped_column(Text)
    programme: Mapped[str | None] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(type_instant)


class UserRow(Base):
    """A person or a service that holds tokens."""

    __tablename__ = "users"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Text, unique=True)
    organisation_id: Mapped[UUID | None] = mapped_column(ForeignKey("organisations.id"))
    is_active: Mapped[bool]
    created_at: Mapped[datetime] = mapped_column(type_instant)


class RoleRow(Base):
    """A role a user holds: on a project, or, where `project_id` is absent, on the whole platform."""

    __tablename__ = "roles"
    __table_args__ = (
        Index(
            "uq_roles_user_project_role",
            "user_id",
            "project_id",
            "role",
            unique=True,
            postgresql_nulls_not_distinct=True,
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"), index=True)
    project_id: Mapped[UUID | None] = mapped_column(ForeignKey("projects.id"), index=True)
    role: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(type_instant)


class TokenRow(Base):
    """A bearer token: only its SHA-256 is stored; `prefix` lets a person recognise it."""

    __tablename__ = "tokens"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"), index=True)
    prefix: Mapped[str] = mapped_column(Text)
    digest: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    created_at: Mapped[datetime] = mapped_column(type_instant)
    expires_at: Mapped[datetime] = mapped_column(type_instant)
    revoked_at: Mapped[datetime | None] = mapped_column(type_instant)
