"""Second turns: who gets one, and in which order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.fit import NoFit
from scheduler.index import Index
from scheduler.lines import Stood, Waits
from scheduler.model import JobId, ReasonCode, ShareClass
from scheduler.profile import Hold
from scheduler.second_turns import _untell
from scheduler.turns import Turns

HOLD = Hold(JobId(99), "q", "h200", 8, 5, 6, ((0, 8),), ShareClass.ENTITLED)
"""A planned start that does not stand."""


@pytest.mark.parametrize("is_known", [False, True])
def test_like_jobs_are_told_one_by_one_in_the_order_of_their_queue(build, is_known):
    """Whichever kind was seen first, and so with an index that has seen others as without."""
    pending = tuple(build.job(number, 1 + number % 2) for number in range(1, 7))
    index = Index()
    if is_known:
        Turns(build.snapshot(pending=[pending[1]]), build.policy(), index)
    turns = Turns(build.snapshot(pending=pending), build.policy(), index)
    (line,) = turns.lines.values()
    line.walk_all()
    gone = NoFit(ReasonCode.RESERVED_FOR, {"job": 99, "start_ms": 5})
    stood = Stood(0)
    count = stood.follow({HOLD.job_id: HOLD})
    for walk in line.walks:
        walk.tell(len(walk.jobs), Waits(walk.job, gone, beside=(stood, count)))
    _untell(turns, line)
    assert list(turns.waits) == [JobId(number) for number in range(1, 7)]
    assert [waits.job.id for waits in turns.waits.values()] == list(range(1, 7))
    assert all(walk.told == [] for walk in line.walks)


def test_what_stood_at_a_turn_is_moved_where_one_of_it_is():
    stood, others = Stood(0), [replace(HOLD, job_id=JobId(number)) for number in range(3)]
    held = {hold.job_id: hold for hold in others[:1]}
    assert stood.follow(held) == stood.follow(held) == 1
    held |= {hold.job_id: hold for hold in others[1:]}
    assert stood.follow(held) == 3
    assert not stood.is_moved(3, held, 1)
    later = held | {JobId(1): replace(others[1], start_ms=7)}
    assert [stood.is_moved(count, later, 2) for count in range(4)] == [False, False, True, True]
    again = later | {JobId(1): replace(others[1])}
    assert not stood.is_moved(3, again, 3)
    del again[JobId(0)]
    assert [stood.is_moved(count, again, 4) for count in range(4)] == [False, True, True, True]


def test_what_is_not_freed_stays_told(build):
    turns = Turns(build.snapshot(pending=[build.job(1, 1), build.job(2, 1)]), build.policy())
    (line,) = turns.lines.values()
    line.walk_all()
    (walk,) = line.walks
    refusal = NoFit(ReasonCode.NO_CAPACITY)
    shield = replace(walk.job, id=JobId(9))
    walk.tell(1, Waits(walk.job, refusal))
    walk.tell(2, Waits(walk.job, refusal, shield=shield))
    _untell(turns, line)
    assert (len(walk.told), turns.waits) == (2, {})
    turns.started.add(shield.id)
    _untell(turns, line)
    assert (len(walk.told), list(turns.waits)) == (1, [JobId(2)])
