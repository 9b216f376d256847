"""Slices of GPUs (MIG) that a queue is guaranteed and holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from kezek.fields import Fields


@dataclass(frozen=True, slots=True)
class SliceUse:
    """Slices of one flavor below a node of the quota tree; `borrowed` is of those in use."""

    flavor: str
    nominal: int
    used: int
    borrowed: int

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Read the platform's object.

        Raises:
            ProtocolError: a field is missing or of another type.
        """
        return cls(
            fields.text("flavor"),
            fields.integer("nominal"),
            fields.integer("used"),
            fields.integer("borrowed"),
        )
