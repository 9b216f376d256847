"""A frozen value with some fields changed."""

from __future__ import annotations

import dataclasses

import pytest

from quota.frozen import replace
from quota.model import Balance


def test_it_is_what_the_library_makes_of_it():
    before = Balance(granted_s=5, used_s=2)
    assert replace(before, used_s=3, remaining_s=1) == dataclasses.replace(before, used_s=3, remaining_s=1)
    assert replace(before) == before
    assert before.used_s == 2


def test_a_field_that_is_none_of_the_class_is_refused():
    with pytest.raises(KeyError, match="used_h"):
        replace(Balance(), used_h=1)
