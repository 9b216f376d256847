"""Windows that recur: by the clock of their place, to their end, and no farther ahead than is planned around."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.fields import windows_at
from scheduler.model import Admit, ReasonCode, Wait
from scheduler.plan import make_plan
from scheduler.recurring import HORIZON_DAYS, MAX_INTERVAL, Every, Repeats, occurrences
from scheduler.windows import Window, WindowKind

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
FAR_MS = 10**15


def ms(*parts):
    return int(datetime(*parts, tzinfo=UTC).timestamp() * 1_000)


def test_every_second_week_until_its_end():
    first = ms(2026, 3, 7, 20)
    repeats = Repeats(Every.WEEK, 2, "Asia/Almaty", first + 28 * DAY_MS)
    found = list(occurrences(first, first + 3 * HOUR_MS, repeats, first - DAY_MS))
    assert [number for number, _, _ in found] == [0, 1, 2]
    assert [begins for _, begins, _ in found] == [first, first + 14 * DAY_MS, first + 28 * DAY_MS]
    assert {ends - begins for _, begins, ends in found} == {3 * HOUR_MS}
    assert list(occurrences(first, first + 3 * HOUR_MS, repeats, first + 29 * DAY_MS)) == []


def test_the_time_of_day_stays_where_clocks_change():
    """In Berlin clocks go forward on 29 March 2026: 02:00 UTC+1 becomes 02:00 UTC+2, an hour earlier in UTC."""
    first = ms(2026, 3, 27, 9)
    repeats = Repeats(Every.DAY, 1, "Europe/Berlin", FAR_MS)
    begins = [begin for _, begin, _ in occurrences(first, first + HOUR_MS, repeats, first)][:4]
    assert begins == [first, first + DAY_MS, first + 2 * DAY_MS - HOUR_MS, first + 3 * DAY_MS - HOUR_MS]


def test_what_has_ended_is_left_out_and_the_one_that_runs_is_not():
    repeats = Repeats(Every.DAY, 1, "Asia/Almaty", FAR_MS)
    found = list(occurrences(0, HOUR_MS, repeats, 1_000 * DAY_MS + HOUR_MS - 1))
    assert found[0] == (1_000, 1_000 * DAY_MS, 1_000 * DAY_MS + HOUR_MS)
    found = list(occurrences(0, HOUR_MS, repeats, 1_000 * DAY_MS + HOUR_MS))
    assert found[0][0] == 1_001


@given(
    from_ms=st.integers(0, 10**13),
    length_ms=st.integers(1, DAY_MS - 1),
    every=st.sampled_from(Every),
    interval=st.integers(1, MAX_INTERVAL),
    zone=st.sampled_from(["Asia/Almaty", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
    passed_ms=st.integers(-400 * DAY_MS, 400 * DAY_MS),
)
def test_occurrences_are_in_order_and_bounded(from_ms, length_ms, every, interval, zone, passed_ms):
    repeats = Repeats(every, interval, zone, from_ms + 366 * DAY_MS)
    at_ms = max(0, from_ms + passed_ms)
    found = list(occurrences(from_ms, from_ms + length_ms, repeats, at_ms))
    begins = [begin for _, begin, _ in found]
    assert begins == sorted(set(begins))
    assert len(found) <= HORIZON_DAYS + 2
    assert all(end > at_ms for _, _, end in found)
    assert all(begin <= min(repeats.until_ms, at_ms + HORIZON_DAYS * DAY_MS) for begin in begins)
    numbers = [number for number, _, _ in found]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
    if at_ms < from_ms <= at_ms + HORIZON_DAYS * DAY_MS:
        assert found[0][:2] == (0, from_ms)


def fields(**changes):
    return {"kind": "maintenance", "nodes": ["n0"], "projects": [], "from_ms": 0, "to_ms": HOUR_MS} | changes


def test_rows_and_records_give_each_occurrence_and_old_records_one():
    repeats = {"every": "day", "interval": 1, "zone": "Asia/Almaty", "until_ms": 2 * DAY_MS}
    found = windows_at({1: fields(), 2: fields(repeats=None), 3: fields(repeats=repeats)}, 0)
    assert [window.id for window in found] == ["w1", "w2", "w3/0", "w3/1", "w3/2"]
    assert found[4] == Window(
        "w3/2", WindowKind.MAINTENANCE, frozenset({"n0"}), 2 * DAY_MS, 2 * DAY_MS + HOUR_MS
    )


@pytest.mark.parametrize(("hours", "starts"), [(3, True), (5, False)])
def test_drain_begins_by_not_starting_what_would_run_into_an_occurrence(build, hours, starts):
    """Every night maintenance; four hours from now it is the third time."""
    begins = build.now_ms + 4 * HOUR_MS - 2 * DAY_MS
    until_ms = build.now_ms + int(timedelta(days=9).total_seconds() * 1_000)
    repeats = {"every": "day", "interval": 1, "zone": "Asia/Almaty", "until_ms": until_ms}
    windows = windows_at({7: fields(from_ms=begins, to_ms=begins + HOUR_MS, repeats=repeats)}, build.now_ms)
    snapshot = build.snapshot(pending=[build.job(1, wall_s=hours * 3_600)], windows=windows)
    plan = make_plan(snapshot, build.policy())
    assert bool([one for one in plan.entries if isinstance(one, Admit)]) is starts
    waits = [one for one in plan.entries if isinstance(one, Wait)]
    if not starts:
        assert (waits[0].reason, waits[0].numbers["window"]) == (ReasonCode.MAINTENANCE, "w7/2")
