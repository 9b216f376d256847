"""What differs between two sorted tuples that are mostly alike, at the price of what differs."""

from __future__ import annotations

from itertools import compress, count
from operator import is_not
from typing import Final, Protocol, TypeVar

BLOCK: Final = 4_096
"""Items that are compared at once where nothing differs."""
FIRST: Final = 16
"""Items that are compared at once right behind a difference; twice as many at each step."""


SCANNED: Final = 64
"""Items of a block that differs, at most, in which the first other object is looked for."""


class _Named(Protocol):
    @property
    def id(self) -> object: ...


Item = TypeVar("Item", bound=_Named)


def changes(before: tuple[Item, ...], after: tuple[Item, ...]) -> tuple[list[Item], list[Item]]:
    """Items that came and items that went, by id; one that changed is in both.

    Tuples are compared in blocks, the same object being equal to itself without a look inside.
    O(n / block + changes x log block) for items by id; in any other order it is right but slower.
    """
    if before is after:
        return [], []
    came: dict[object, Item] = {}
    gone: dict[object, Item] = {}
    old = new = 0
    block = FIRST
    while old < len(before) and new < len(after):
        if before[old : old + block] == after[new : new + block]:
            old, new = min(old + block, len(before)), min(new + block, len(after))
            block = min(2 * block, BLOCK)
            continue
        if block > SCANNED:
            block //= 2
            continue
        others = map(is_not, before[old : old + block], after[new : new + block])
        same = next(compress(count(), others), min(len(before) - old, len(after) - new, block))
        old, new, block = old + same, new + same, FIRST
        if old == len(before) or new == len(after):
            break
        mine, its = before[old], after[new]
        if mine == its:
            old, new = old + 1, new + 1
        elif mine.id <= its.id:  # type: ignore[operator]  # ids are integers or text
            gone[mine.id] = mine
            old += 1
        else:
            came[its.id] = its
            new += 1
    gone.update({item.id: item for item in before[old:]})
    came.update({item.id: item for item in after[new:]})
    kept = {name for name, item in gone.items() if came.get(name) == item}
    return (
        [item for name, item in came.items() if name not in kept],
        [item for name, item in gone.items() if name not in kept],
    )
