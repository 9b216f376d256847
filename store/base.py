"""The one MetaData: declarative base, naming conventions and column helpers for every room's tables."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from sqlalchemy import BigInteger, DateTime, MetaData
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, mapped_column

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
"""Constraint names are part of the schema: migrations and error mapping name them."""

type_instant = DateTime(timezone=True)
Instant = Annotated[datetime, mapped_column(type_instant)]
"""Column of an aware UTC instant."""

Json = Annotated[dict[str, object], mapped_column(JSONB)]
"""Column of a JSON object."""

Seconds = Annotated[int, mapped_column(BigInteger)]
"""Column of whole (device-)seconds."""


class Base(DeclarativeBase):
    """Base of every row class; rows never leave the shell of their room."""

    metadata = MetaData(naming_convention=NAMING)
