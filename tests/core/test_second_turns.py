"""Second turns: who gets one, and in which order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.fit import NoFit, fits_eligible
from scheduler.index import Index
from scheduler.lines import Stood, Waits
from scheduler.model import Admit, Array, JobId, ReasonCode, Reserve, ShareClass, Wait
from scheduler.plan import make_plan
from scheduler.profile import Hold
from scheduler.second_turns import _second_turn, _untell
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


def test_who_had_a_turn_of_his_own_keeps_his_reason(build):
    turns = Turns(build.snapshot(pending=[build.job(1, 1), build.job(2, 1)]), build.policy())
    (line,) = turns.lines.values()
    line.walk_all()
    (walk,) = line.walks
    gone = replace(walk.job, id=JobId(9))
    turns.started.add(gone.id)
    own = Waits(walk.jobs[0], NoFit(ReasonCode.NO_CAPACITY))
    turns.waits[JobId(1)] = own
    walk.tell(2, Waits(walk.job, NoFit(ReasonCode.WAITING_TURN), shield=gone))
    _untell(turns, line)
    assert [waits.refusal.reason for waits in turns.waits.values()] == ["NO_CAPACITY", "WAITING_TURN"]
    assert turns.waits[JobId(1)] is own


@pytest.mark.parametrize("is_same_world", [True, False])
def test_who_is_like_one_that_could_only_wait_waits_too_while_nothing_changes(build, is_same_world):
    policy = build.policy(start_reservations=0)
    turns = Turns(build.snapshot(pending=[build.job(1, 1), build.job(2, 1)]), policy)
    one, two = (turns.jobs[JobId(number)] for number in (1, 2))
    known = Waits(one, NoFit(ReasonCode.NO_CAPACITY))
    version = turns.world.version if is_same_world else turns.world.version - 1
    _second_turn(turns, two, {turns.group(one): (version, known)})
    assert [start.job.id for start in turns.starts] == ([] if is_same_world else [2])
    assert turns.waits == ({JobId(2): replace(known, job=two)} if is_same_world else {})


def test_a_second_turn_starts_nobody_whose_array_is_full_meanwhile(build):
    array = Array(JobId(1), 1)
    pending = [build.job(number, 1, array=array) for number in (1, 2)]
    turns = Turns(build.snapshot(pending=pending), build.policy())
    one, two = pending
    turns.start(one, fits_eligible(one, turns.world))
    _second_turn(turns, two, {})
    assert [start.job for start in turns.starts] == [one]
    assert turns.waits[two.id].refusal.reason is ReasonCode.ARRAY_CAP


def test_whom_a_start_left_no_budget_waits_for_budget(build):
    """An expedited gang of the whole machine waits; the aged job behind it starts and uses up the grant."""
    gang = build.job(2, 8, age_s=60, is_expedited=True)
    old = build.job(1, 1, age_s=8 * 86_400)
    grant = build.grant(remaining_s=8 * 3_600)
    policy = build.policy({"q": {"nominal": 4}})
    live = [build.live(9, "n0:0", wall_s=600)]
    plan = make_plan(build.snapshot(pending=[old, gang], live=live, grants=[grant]), policy)
    reasons = {entry.job_id: entry.reason for entry in plan.entries if isinstance(entry, Wait)}
    assert [entry.job_id for entry in plan.entries if isinstance(entry, Admit)] == [1]
    assert reasons == {2: ReasonCode.BUDGET_EXHAUSTED}
    assert not any(isinstance(entry, Reserve) for entry in plan.entries)
