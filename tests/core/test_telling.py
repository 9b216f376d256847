"""Whose reasons have their turn: rounds that time opens, cut where a transaction is full, and first ones before."""

from __future__ import annotations

from uuid import UUID

import pytest

from scheduler.model import JobId, PendingJob, Request
from scheduler.telling import TELL_AGAIN_MS, TOLD_AT_ONCE, Asked, Round, to_tell

AT_MS = 1_767_225_600_000


def waiting(*ids):
    return tuple(PendingJob(JobId(number), UUID(int=1), "q", Request(1, 600, ("a",)), 0, 0) for number in ids)


def count(asked):
    return len(asked.job_ids)


def test_of_a_short_queue_everyone_has_a_turn_every_time():
    short = waiting(*range(1, TOLD_AT_ONCE + 1))
    begun = Round(opened_ms=AT_MS)
    assert [count(to_tell(short, (), begun, most=1_000, at_ms=AT_MS)) for _ in range(2)] == [TOLD_AT_ONCE] * 2
    longer = (*short, *waiting(TOLD_AT_ONCE + 1))
    assert count(to_tell(longer, (), begun, most=1_000, at_ms=AT_MS)) == 0
    assert count(to_tell(short, (), begun, most=TOLD_AT_ONCE - 1, at_ms=AT_MS)) == 0


def test_time_opens_the_round_to_a_part_of_a_long_queue():
    jobs, found = waiting(*range(1, 201)), Round()
    counts = []
    for later_ms in (0, 0, 4, 9, 504, 1_004, 1_005, 3_000, 0):  # at the end the clock was put back
        asked = to_tell(jobs, (), found, most=1_000, at_ms=AT_MS + later_ms)
        counts.append(count(asked))
        found = asked.after
    # 200 a second: none in 4 ms, of which 9 ms make one; the round ends at the 200th
    assert counts == [200, 0, 0, 1, 99, 100, 0, 200, 200]
    assert found == Round(JobId(200), JobId(200), AT_MS)


def test_no_more_than_so_many_have_a_turn_in_a_second():
    jobs, found, at_ms = waiting(*range(1, 2_001)), Round(), AT_MS
    told = []
    for _ in range(20):
        asked = to_tell(jobs, (), found, most=1_000, at_ms=at_ms)
        told.append(asked.again)
        at_ms, found = at_ms + TELL_AGAIN_MS // 10, asked.after
    assert [len(again) for again in told] == [1_000] + [100] * 19
    assert [job_id for again in told[:11] for job_id in again] == [job.id for job in jobs]
    assert told[11][0] == 1


def test_first_reasons_go_before_and_what_they_took_the_place_of_is_asked_for_next():
    jobs = waiting(*range(1, 201))
    new = [JobId(number) for number in range(150, 201)]
    asked = to_tell(jobs, new, Round(), most=120, at_ms=AT_MS)
    assert asked.first == tuple(new)
    assert asked.again == tuple(range(1, 70))
    rest = to_tell(jobs, (), asked.after, most=120, at_ms=AT_MS)
    assert (rest.first, rest.again) == ((), tuple(range(70, 121)))
    full = to_tell(jobs, new, Round(), most=51, at_ms=AT_MS)
    assert (full.first, full.again) == (tuple(new), ())
    assert to_tell(jobs, (), full.after, most=51, at_ms=AT_MS).again == tuple(range(1, 52))


def test_jobs_that_left_and_came_move_nobody_past_the_round():
    asked = to_tell(waiting(*range(1, 301)), (), Round(), most=120, at_ms=AT_MS)
    assert asked.again[-1] == 120
    left = waiting(*range(100, 311))
    again = to_tell(left, (), asked.after, most=120, at_ms=AT_MS + TELL_AGAIN_MS).again
    assert again == tuple(range(121, 241))


def test_ten_thousand_reasons_that_change_together_are_told_in_as_few_cycles_as_they_need():
    """1,000 are written a cycle, and a cycle that could not write all is followed at once, 150 ms later."""
    jobs, found, at_ms = waiting(*range(1, 10_001)), Round(), AT_MS
    told, counts = set(), []
    while len(told) < len(jobs):
        asked = to_tell(jobs, (), found, most=10_000, at_ms=at_ms)
        written, found = asked.cut(asked.job_ids - told, 1_000)
        told |= written
        counts.append((len(asked.again), len(written)))
        at_ms += 150
    assert counts == [(left, 1_000) for left in range(10_000, 0, -1_000)]


@pytest.mark.parametrize(
    ("changed", "most", "written", "told_up_to"),
    [
        ({3, 5, 8}, 3, {3, 5, 8}, 9),
        ({3, 5, 8}, 2, {3, 8}, 4),  # the first one's, and then by id
        ({1, 8}, 1, {8}, 0),
        ({8, 7}, 1, {8}, 9),  # what is left has no reason yet: it comes before the round
        (set(), 1, set(), 9),
    ],
)
def test_a_round_stands_before_the_first_reason_that_is_left(changed, most, written, told_up_to):
    asked = Asked((JobId(8), JobId(7)), tuple(map(JobId, (1, 2, 3, 4, 5, 6, 9))), Round(9, 20, AT_MS))
    assert asked.cut(changed, most) == (written, Round(told_up_to, 20, AT_MS))
