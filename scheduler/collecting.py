"""Python's garbage collection for a process that keeps much from cycle to cycle.

What is kept refers to nothing in a ring, and yet a full collection walks over all of it: 180 ms at 100,000 waiting
jobs. So it is frozen, and what came since is collected once, with what it left behind, and frozen too.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

YOUNG_OBJECTS: Final = 50_000
"""Objects that come before any are collected, 25 MB at most: a cycle of 1,000 admissions makes no more that stay."""

COLLECT_ALL_EVERY_S: Final = 300.0
"""Pause between two collections of everything [s]: what was frozen and is garbage since is found then."""


class Collecting:
    """Collects between cycles instead of within them; `settled` sets it up for a time."""

    def __init__(self) -> None:
        self._all_at = 0.0

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Let objects grow to `YOUNG_OBJECTS` by themselves; as it was before at the end."""
        before = gc.get_threshold()
        gc.set_threshold(YOUNG_OBJECTS, *before[1:])
        try:
            yield
        finally:
            gc.set_threshold(*before)
            gc.unfreeze()

    def after_cycle(self, *, is_rebuilt: bool = False) -> None:
        """Collect and freeze what came, if it is much. O(objects that came), of all O(objects) now and then.

        Args:
            is_rebuilt: what was kept is garbage now, and all was read anew.
        """
        now_s = time.monotonic()
        if is_rebuilt or now_s >= self._all_at:
            self._all_at = now_s + COLLECT_ALL_EVERY_S
            gc.unfreeze()
        elif sum(gc.get_count()[1:]) == 0 and gc.get_count()[0] < YOUNG_OBJECTS // 2:
            return
        gc.collect()
        gc.freeze()
