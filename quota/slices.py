"""What a policy's document states for flavors of slices, node by node."""

from __future__ import annotations

from typing import Final

from quota import document as read
from quota.document import bad
from quota.model import SliceQuota
from quota.tree import SLICE_MARK

SLICE_KEYS: Final = frozenset({"nominal", "borrowing_limit", "lending_limit", "weight"})
"""What a node may state, for whole GPUs and for each flavor of slices."""


def parse_slices(value: object, path: str) -> tuple[tuple[str, SliceQuota], ...]:
    """What a node states for flavors of slices, by flavor.

    Raises:
        PolicyError: a flavor of whole GPUs, a value that cannot be, or nothing stated.
    """
    found: list[tuple[str, SliceQuota]] = []
    for flavor, item in sorted(read.mapping(value, path).items()):
        here = f"{path}.{flavor}"
        if SLICE_MARK not in flavor:
            raise bad(
                here,
                f'is no flavor of slices, whose name holds "{SLICE_MARK}"; whole GPUs are counted together',
            )
        own = read.section(item, here, SLICE_KEYS)
        quota = SliceQuota(
            nominal=read.optional(own, "nominal", here, read.amount, None),
            borrowing_limit=read.optional(own, "borrowing_limit", here, read.amount, None),
            lending_limit=read.optional(own, "lending_limit", here, read.amount, None),
            weight=read.optional(own, "weight", here, read.count, None),
        )
        if quota == SliceQuota():
            raise bad(here, "states nothing; name a nominal, a limit or a weight, or remove it")
        found.append((flavor, quota))
    return tuple(found)
