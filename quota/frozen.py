"""A frozen value with some of its fields changed, where that is done ten times for every job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Value = TypeVar("Value", bound="DataclassInstance")


@cache
def _parts(kind: type[DataclassInstance]) -> tuple[dict[str, int], Callable[[object], tuple[object, ...]]]:
    """Where each field of a class stands, and what reads them all."""
    names = [field.name for field in fields(kind)]
    return {name: place for place, name in enumerate(names)}, attrgetter(*names)


def replace(value: Value, **changes: object) -> Value:
    """`dataclasses.replace` at a third of its price, for classes of two fields or more that all are arguments.

    Raises:
        KeyError: the class has no such field.
    """
    places, read = _parts(type(value))
    values = list(read(value))
    for name, changed in changes.items():
        values[places[name]] = changed
    return type(value)(*values)
