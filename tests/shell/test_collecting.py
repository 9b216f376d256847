"""What is kept from cycle to cycle is not walked over by every collection, and garbage still goes."""

from __future__ import annotations

import gc
import weakref

import pytest

from scheduler import collecting
from scheduler.collecting import YOUNG_OBJECTS, Collecting


class Ring:
    def __init__(self) -> None:
        self.own = self


@pytest.fixture
def settled():
    found = Collecting()
    before = gc.get_threshold()
    with found.settled():
        assert gc.get_threshold()[0] == YOUNG_OBJECTS
        found.after_cycle()
        yield found
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


@pytest.mark.parametrize(("objects", "is_frozen"), [(YOUNG_OBJECTS // 4, False), (YOUNG_OBJECTS, True)])
def test_what_came_is_frozen_once_it_is_much(settled, objects, is_frozen):
    before = gc.get_freeze_count()
    kept = [[] for _ in range(objects)]
    settled.after_cycle()
    assert (gc.get_freeze_count() >= before + len(kept)) is is_frozen


def test_garbage_is_collected_before_the_rest_is_frozen(settled):
    ring = weakref.ref(Ring())
    assert ring() is not None
    kept = [[] for _ in range(YOUNG_OBJECTS)]
    settled.after_cycle()
    assert kept
    assert ring() is None


@pytest.mark.parametrize("is_rebuilt", [True, False])
def test_what_was_frozen_and_is_garbage_since_goes_too(settled, monkeypatch, is_rebuilt):
    ring = Ring()
    kept = [[] for _ in range(YOUNG_OBJECTS)]
    settled.after_cycle()
    found = weakref.ref(ring)
    del ring, kept
    settled.after_cycle()
    assert found() is not None
    if not is_rebuilt:
        monkeypatch.setattr(settled, "_all_at", 0.0)
    settled.after_cycle(is_rebuilt=is_rebuilt)
    assert found() is None
    assert collecting.COLLECT_ALL_EVERY_S >= 60
