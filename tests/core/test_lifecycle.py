"""The life of a job: every state with every fact, and what each path leaves in the books."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.ending import BACK_OFF_MAX_S, LAUNCH_RETRY_LIMIT, NODE_FAIL_RETRY_LIMIT, back_off_s
from scheduler.facts import (
    AbsenceProven,
    Admitted,
    CancelRequested,
    CheckpointSeen,
    ExpireRequested,
    Finish,
    IdleFound,
    JobView,
    LaunchCommitted,
    LaunchRefused,
    NodeLost,
    PlatformStopping,
    RankExited,
    RankStarted,
    ReleaseSlots,
    Requeue,
    Settle,
    StopAttempt,
    StopSignal,
    StopWhy,
    Verdict,
)
from scheduler.lifecycle import KILL_AFTER_S, InvalidTransition, attempt_id, step
from scheduler.model import FINAL_STATES, JobId, JobState

S = JobState
JOB = JobView(JobId(7), S.PENDING)


def admit(number=1, nodes=("n0", "n1")):
    return Admitted(attempt_id(JobId(7), number), gpus=4, walltime_s=60, nodes=nodes, at_ms=1_000)


def committed(at_ms=10_000, number=1):
    return LaunchCommitted(f"7-{number}", at_ms)


def refused(code="GPU_BUSY", *, is_absent=True, at_ms=12_000, number=1):
    return LaunchRefused(f"7-{number}", code, is_absent, at_ms)


def rank_started(rank, at_ms=11_000, number=1):
    return RankStarted(f"7-{number}", rank, at_ms)


def saved(rank, at_ms=15_000, number=1):
    return CheckpointSeen(f"7-{number}", rank, at_ms)


def rank_exited(rank, at_ms=20_000, *, number=1, **how):
    how = how or {"exit_code": 0}
    return RankExited(f"7-{number}", rank, at_ms, started_ms=11_000, **how)


CANCEL = CancelRequested("u1", 15_000)
EXPIRE = ExpireRequested("7-1", 80_000)
LOST = NodeLost("n1", 16_000)
ABSENT = AbsenceProven("7-1", 90_000)


def run(*facts, job=JOB):
    """The job after the facts, and the effects of the last."""
    outcome = None
    for fact in facts:
        outcome = step(job, fact)
        job = outcome.job
    return outcome


def stop(why):
    return StopAttempt("7-1", StopSignal.TERM, KILL_AFTER_S, why)


RUNNING = (admit(), committed(), rank_started(0), rank_started(1))
ADMITTED_JOB = run(admit()).job
RUNNING_JOB = run(*RUNNING).job


def test_a_job_that_ends_well():
    assert ADMITTED_JOB.state is S.ADMITTED
    assert ADMITTED_JOB.attempts == 1
    assert [rank.node for rank in ADMITTED_JOB.attempt.ranks] == ["n0", "n1"]
    assert run(admit(), committed()).job.state is S.ADMITTED
    assert run(*RUNNING[:3]).job.state is S.RUNNING
    first = run(*RUNNING, rank_exited(1, 18_000))
    assert (first.job.state, first.effects) == (S.RUNNING, ())
    last = run(*RUNNING, rank_exited(1, 18_000), rank_exited(0, 20_001))
    assert last.job.state is last.job.attempt.state is S.COMPLETED
    # 4 GPUs from the commit at 10.0 s to the last exit at 20.001 s: 11 begun seconds
    assert last.effects == (
        Settle("7-1", 44, 20_001),
        ReleaseSlots("7-1"),
        Finish(Verdict(S.COMPLETED, exit_code=0)),
    )


FAILURES = {
    "exit code": ({"exit_code": 3}, StopWhy.RANK_FAILED, Verdict(S.FAILED, exit_code=3)),
    "signal": ({"signal": 11}, StopWhy.RANK_FAILED, Verdict(S.FAILED, signal=11)),
    "out of memory": ({"signal": 9, "is_oom": True}, StopWhy.RANK_FAILED, Verdict(S.OUT_OF_MEMORY, signal=9)),
    "walltime": ({"signal": 15, "is_timeout": True}, StopWhy.WALLTIME, Verdict(S.TIMEOUT, signal=15)),
    "no such program": ({"error": "EXEC_NOT_FOUND"}, StopWhy.RANK_FAILED, Verdict(S.FAILED, error="EXEC_NOT_FOUND")),
    "failed, and its outputs too": ({"exit_code": 1, "error": "OUTPUTS_FAILED"}, StopWhy.RANK_FAILED, Verdict(S.FAILED, 1, error="OUTPUTS_FAILED")),
    "nothing known": ({"exit_code": None}, StopWhy.RANK_FAILED, Verdict(S.FAILED)),
}  # fmt: skip


@pytest.mark.parametrize(("how", "why", "verdict"), FAILURES.values(), ids=FAILURES)
def test_the_first_failing_rank_stops_the_others_and_decides(how, why, verdict):
    failing = run(*RUNNING, rank_exited(1, 18_000, **how))
    assert failing.job.state is failing.job.attempt.state is S.COMPLETING
    assert failing.effects == (stop(why),)
    last = run(rank_exited(0, 30_000, signal=15), job=failing.job)
    assert last.job.state is verdict.state
    # charged to the failure at 18 s, not to the clean-up
    assert last.effects == (Settle("7-1", 32, 18_000), ReleaseSlots("7-1"), Finish(verdict))


@pytest.mark.parametrize(("how", "why", "verdict"), FAILURES.values(), ids=FAILURES)
def test_when_the_last_rank_fails_there_is_nothing_to_stop(how, why, verdict):
    last = run(*RUNNING, rank_exited(0, 17_000), rank_exited(1, 18_000, **how))
    assert last.effects == (Settle("7-1", 32, 18_000), ReleaseSlots("7-1"), Finish(verdict))
    assert last.job.attempt.stop_why is why


def test_outputs_that_could_not_be_kept_are_told_but_do_not_fail_the_job():
    last = run(*RUNNING, rank_exited(0), rank_exited(1, exit_code=0, error="OUTPUTS_TRUNCATED"))
    assert last.effects[-1] == Finish(Verdict(S.COMPLETED, exit_code=0, error="OUTPUTS_TRUNCATED"))


def test_cancelled_before_it_ran():
    found = run(CANCEL)
    assert found.job.state is S.CANCELLED
    assert found.effects == (Finish(Verdict(S.CANCELLED)),)


def test_cancelled_while_running():
    stopping = run(*RUNNING, CANCEL)
    assert (stopping.job.state, stopping.effects) == (S.COMPLETING, (stop(StopWhy.CANCELLED),))
    last = run(rank_exited(0, 17_000), rank_exited(1, 45_000, signal=9), job=stopping.job)
    assert last.effects == (Settle("7-1", 20, 15_000), ReleaseSlots("7-1"), Finish(Verdict(S.CANCELLED)))


def test_cancelled_before_the_lease_arrived_is_stopped_again_when_it_does():
    stopping = run(admit(), CANCEL)
    assert stopping.effects == (stop(StopWhy.CANCELLED),)
    late = run(committed(), job=stopping.job)
    assert late.effects == (stop(StopWhy.CANCELLED),)
    assert run(rank_started(0), job=stopping.job).effects == (stop(StopWhy.CANCELLED),)
    assert run(rank_started(0), job=stopping.job).job.state is S.COMPLETING
    gone = run(ABSENT, job=stopping.job)
    assert gone.effects == (Settle("7-1", 0, 15_000), ReleaseSlots("7-1"), Finish(Verdict(S.CANCELLED)))


def test_cancelled_and_then_refused_is_cancelled():
    stopping = run(admit(), CANCEL).job
    assert run(refused(), job=stopping).effects[-1] == Finish(Verdict(S.CANCELLED))
    assert run(refused(is_absent=False), job=stopping).ignored == "already_stopping"


def test_expired_by_the_scheduler():
    stopping = run(*RUNNING, EXPIRE)
    assert stopping.effects == (stop(StopWhy.WALLTIME),)
    last = run(rank_exited(0, 81_000, signal=15), rank_exited(1, 81_000, signal=15), job=stopping.job)
    # never more than the walltime of 60 s
    assert last.effects == (Settle("7-1", 240, 80_000), ReleaseSlots("7-1"), Finish(Verdict(S.TIMEOUT)))


def test_a_lost_node_sends_the_job_back_once_absence_is_proven():
    stopping = run(*RUNNING, LOST)
    assert (stopping.job.state, stopping.effects) == (S.COMPLETING, (stop(StopWhy.NODE_LOST),))
    assert run(rank_exited(0, signal=15), job=stopping.job).effects == ()
    gone = run(rank_exited(0, signal=15), ABSENT, job=stopping.job)
    assert gone.effects == (Settle("7-1", 24, 16_000), ReleaseSlots("7-1"), Requeue(0, StopWhy.NODE_LOST))
    assert (gone.job.state, gone.job.attempt.state, gone.job.node_failures) == (S.PENDING, S.NODE_FAIL, 1)
    assert run(admit(2), job=gone.job).job.attempts == 2


def test_a_node_that_comes_back_with_all_ranks_ended_well_completes_the_job():
    last = run(*RUNNING, rank_exited(0, 14_000), LOST, rank_exited(1, 18_000))
    assert last.effects == (
        Settle("7-1", 32, 18_000),
        ReleaseSlots("7-1"),
        Finish(Verdict(S.COMPLETED, exit_code=0)),
    )


@pytest.mark.parametrize("code", ["SHEPHERD_LOST", "SHEPHERD_FAILED"])
def test_a_fault_of_the_node_is_not_the_programs(code):
    last = run(*RUNNING, rank_exited(0, 14_000), rank_exited(1, 18_000, error=code))
    assert last.job.state is S.PENDING
    assert last.job.attempt.verdict == Verdict(S.NODE_FAIL, error=code)
    assert last.effects[-1] == Requeue(0, StopWhy.NODE_LOST)


def test_ranks_that_vanished_without_a_word_are_their_nodes_doing():
    for before, used_s in (((admit(),), 0), (RUNNING, 240)):
        gone = run(*before, ABSENT)
        assert gone.effects == (
            Settle("7-1", used_s, 90_000),
            ReleaseSlots("7-1"),
            Requeue(0, StopWhy.NODE_LOST),
        )


def test_node_failures_have_a_limit():
    job = JOB
    for number in range(1, NODE_FAIL_RETRY_LIMIT + 2):
        outcome = run(admit(number), AbsenceProven(f"7-{number}", 2_000), job=job)
        job = outcome.job
        assert (job.state is S.PENDING) == (number <= NODE_FAIL_RETRY_LIMIT)
    assert outcome.effects[-1] == Finish(Verdict(S.NODE_FAIL))
    assert job.state is S.NODE_FAIL


def test_a_platform_that_stops_sends_its_jobs_back_and_counts_no_failure():
    stopping = run(*RUNNING, PlatformStopping("7-1", 16_000))
    assert (stopping.job.state, stopping.effects) == (S.COMPLETING, (stop(StopWhy.PLATFORM_STOPPED),))
    gone = run(rank_exited(0, signal=9), rank_exited(1, signal=9), job=stopping.job)
    assert gone.effects == (
        Settle("7-1", 24, 16_000),
        ReleaseSlots("7-1"),
        Requeue(0, StopWhy.PLATFORM_STOPPED),
    )
    assert (gone.job.state, gone.job.node_failures) == (S.PENDING, 0)


def test_an_idle_job_is_cancelled_with_the_reason_and_not_tried_again():
    idle = IdleFound("7-1", 16_000)
    stopping = run(*RUNNING, idle)
    assert (stopping.job.state, stopping.effects) == (S.COMPLETING, (stop(StopWhy.IDLE),))
    assert stopping.job.is_cancel_requested
    assert run(idle, job=stopping.job).ignored == "already_stopping"
    gone = run(rank_exited(0, signal=15), rank_exited(1, signal=15), job=stopping.job)
    verdict = Verdict(S.CANCELLED, error="IDLE")
    assert gone.effects == (Settle("7-1", 24, 16_000), ReleaseSlots("7-1"), Finish(verdict))
    assert run(idle, job=gone.job).ignored == "already_ended"
    assert run(IdleFound("7-1", 16_000), job=run(admit(), ABSENT).job).ignored == "stale_attempt"


def test_a_refused_launch_backs_off_and_has_a_limit():
    job = JOB
    waited_s = []
    for number in range(1, LAUNCH_RETRY_LIMIT + 2):
        outcome = run(admit(number), refused(number=number), job=job)
        job = outcome.job
        assert outcome.effects[:2] == (Settle(f"7-{number}", 0, 12_000), ReleaseSlots(f"7-{number}"))
        if number <= LAUNCH_RETRY_LIMIT:
            assert (job.state, job.attempt.state) == (S.PENDING, S.FAILED)
            waited_s.append((outcome.effects[-1].back_off_until_ms - 12_000) // 1_000)
            assert outcome.effects[-1].why is StopWhy.LAUNCH_REFUSED
    assert waited_s == [5, 10, 20, 40, 80]
    assert outcome.effects[-1] == Finish(Verdict(S.FAILED, error="GPU_BUSY"))


def test_back_off_doubles_to_its_limit():
    assert [back_off_s(n) for n in (1, 2, 6, 7, 8, 10**9)] == [
        5,
        10,
        160,
        BACK_OFF_MAX_S,
        BACK_OFF_MAX_S,
        BACK_OFF_MAX_S,
    ]


def test_a_launch_that_succeeds_forgets_the_refusals():
    twice = run(admit(), refused(), admit(2), refused(number=2)).job
    assert twice.launch_refusals == 2
    assert run(admit(3), committed(number=3), job=twice).job.launch_refusals == 0
    assert run(admit(3), rank_started(0, number=3), job=twice).job.launch_refusals == 0
    assert run(admit(3), rank_exited(0, number=3), job=twice).job.launch_refusals == 0


@pytest.mark.parametrize("code", ["BUNDLE_INVALID", "EXEC_NOT_FOUND"])
def test_a_refusal_that_would_come_again_fails_the_job_at_once(code):
    assert run(admit(), refused(code)).effects[-1] == Finish(Verdict(S.FAILED, error=code))


def test_half_a_gang_refused_is_stopped_before_the_job_waits_again():
    stopping = run(admit(), rank_started(0), refused(is_absent=False))
    assert (stopping.job.state, stopping.effects) == (S.COMPLETING, (stop(StopWhy.LAUNCH_REFUSED),))
    gone = run(rank_exited(0, signal=15), ABSENT, job=stopping.job)
    assert gone.effects[0] == Settle("7-1", 4, 12_000)
    assert gone.effects[-1] == Requeue(95_000, StopWhy.LAUNCH_REFUSED)


@pytest.mark.parametrize("cause", [LOST, refused(is_absent=False)])
def test_cancelled_while_it_would_have_been_tried_again(cause):
    cancelled = run(*RUNNING, cause, CANCEL)
    assert (cancelled.job.state, cancelled.effects, cancelled.ignored) == (S.COMPLETING, (), None)
    assert run(CANCEL, job=cancelled.job).ignored == "already_stopping"
    gone = run(ABSENT, job=cancelled.job)
    assert gone.effects[-1] == Finish(Verdict(S.CANCELLED))
    assert gone.job.state is S.CANCELLED


def test_a_cancel_never_hides_a_failure_that_came_first():
    last = run(*RUNNING, rank_exited(0, exit_code=2), CANCEL, rank_exited(1, signal=15))
    assert last.effects[-1] == Finish(Verdict(S.FAILED, exit_code=2))


def test_facts_in_the_wrong_order_lead_to_the_same_end():
    job = run(admit(), rank_exited(0, 20_000)).job
    assert job.state is S.RUNNING
    assert job.attempt.committed_ms == 11_000  # a rank that ran proves a commit, at its start at the latest
    assert run(rank_started(0), job=job).ignored == "out_of_order"
    job = run(committed(10_000), job=job).job
    assert job.attempt.committed_ms == 10_000
    last = run(rank_exited(1, 20_000), job=job)
    assert last.effects[0] == Settle("7-1", 40, 20_000)
    unstarted = RankExited("7-1", 0, 20_000, error="EXEC_NOT_FOUND")
    single = run(admit(nodes=("n0",)), unstarted)
    assert single.effects[0] == Settle("7-1", 0, 20_000)
    assert not single.job.attempt.ranks[0].is_started
    assert run(admit(), rank_started(1), unstarted).job.attempt.committed_ms == 11_000


@pytest.mark.parametrize("before", [(admit(),), RUNNING, (*RUNNING, CANCEL)])
def test_a_checkpoint_is_kept_with_its_rank_and_changes_nothing_else(before):
    job = run(*before).job
    found = run(saved(1), saved(1, 16_000), job=job)
    assert found.effects == ()
    assert [rank.checkpoint_ms for rank in found.job.attempt.ranks] == [None, 16_000]
    assert replace(found.job, attempt=job.attempt) == job
    assert found.job.attempt.committed_ms == job.attempt.committed_ms


IGNORED = [
    ("duplicate", RUNNING, admit()),
    ("duplicate", RUNNING, committed(10_000)),
    ("duplicate", RUNNING, committed(10_001)),
    ("duplicate", RUNNING, rank_started(1)),
    ("duplicate", (*RUNNING, rank_exited(0)), rank_exited(0)),
    ("duplicate", (*RUNNING, saved(0)), saved(0)),
    ("duplicate", (*RUNNING, saved(0)), saved(0, 14_999)),
    ("out_of_order", (*RUNNING, rank_exited(0)), saved(0)),
    ("not_running", (), LOST),
    ("not_on_node", RUNNING, NodeLost("n9", 1)),
    ("already_ended", (*RUNNING, rank_exited(1)), LOST),
    ("already_stopping", (*RUNNING, CANCEL), CANCEL),
    ("already_stopping", (*RUNNING, CANCEL), EXPIRE),
    ("already_stopping", (*RUNNING, CANCEL), LOST),
    ("stale_attempt", (*RUNNING, ABSENT), rank_exited(0)),
    ("stale_attempt", (*RUNNING, ABSENT), ABSENT),
    ("stale_attempt", (*RUNNING, ABSENT, admit(2)), rank_exited(9)),
    ("stale_attempt", (*RUNNING, ABSENT, admit(2)), EXPIRE),
    ("duplicate", (*RUNNING, ABSENT), admit()),
    ("already_ended", (CANCEL,), CANCEL),
    ("already_ended", (CANCEL,), LOST),
]


@pytest.mark.parametrize(("why", "before", "fact"), IGNORED)
def test_late_and_repeated_facts_change_nothing_and_say_why(why, before, fact):
    job = run(*before).job if before else JOB
    outcome = step(job, fact)
    assert (outcome.ignored, outcome.effects, outcome.job) == (why, (), job)


OF_THE_ATTEMPT = [
    committed(),
    refused(),
    rank_started(0),
    saved(0),
    rank_exited(0),
    EXPIRE,
    ABSENT,
    IdleFound("7-1", 21_000),
]


@pytest.mark.parametrize("state", sorted(FINAL_STATES))
@pytest.mark.parametrize("fact", [*OF_THE_ATTEMPT, CANCEL, LOST], ids=lambda fact: type(fact).__name__)
def test_a_job_that_ended_takes_nothing_more(state, fact):
    ended = replace(RUNNING_JOB, state=state)
    assert step(ended, fact).ignored == "already_ended"


IMPOSSIBLE = [
    ("no such transition", (*RUNNING,), admit(2)),
    ("no such transition", (CANCEL,), admit(1)),
    ("the next attempt is 7-1", (), admit(2)),
    ("never admitted", (), ABSENT),
    ("never admitted", RUNNING, rank_started(0, number=2)),
    ("another job's", RUNNING, RankStarted("8-1", 0, 1)),
    ("another job's", RUNNING, RankStarted("7-x", 0, 1)),
    ("no such rank", RUNNING, rank_started(2)),
    ("no such rank", RUNNING, rank_exited(2)),
    ("no such rank", RUNNING, saved(2)),
    ("not committed", (admit(),), EXPIRE),
]


@pytest.mark.parametrize(("why", "before", "fact"), IMPOSSIBLE)
def test_an_impossible_fact_raises_with_the_story(why, before, fact):
    job = run(*before).job if before else JOB
    with pytest.raises(InvalidTransition, match=why) as caught:
        step(job, fact)
    assert (caught.value.job, caught.value.fact) == (job, fact)
    assert "its story" in str(caught.value)


def test_a_state_no_job_is_ever_in_takes_nothing():
    with pytest.raises(InvalidTransition, match="no such transition"):
        step(replace(JOB, state=S.PREEMPTED), CANCEL)


FACTS = st.sampled_from(
    [
        *OF_THE_ATTEMPT,
        CANCEL,
        LOST,
        NodeLost("n0", 13_000),
        refused(is_absent=False),
        rank_started(1),
        rank_exited(1),
        rank_exited(1, signal=9),
        rank_exited(0, exit_code=1),
        rank_exited(0, error="SHEPHERD_LOST"),
    ]
)


@given(st.lists(FACTS, max_size=12))
def test_whatever_happens_an_attempt_is_settled_and_released_exactly_once_at_its_end(facts):
    job = run(admit()).job
    done = []
    for fact in facts:
        try:
            outcome = step(job, fact)
        except InvalidTransition:
            assert fact == EXPIRE
            continue
        assert (outcome.job == job and not outcome.effects) or outcome.ignored is None
        job = outcome.job
        done += outcome.effects
        is_live = job.state in {S.ADMITTED, S.RUNNING, S.COMPLETING}
        kinds = [type(effect) for effect in done if not isinstance(effect, StopAttempt)]
        assert kinds in (
            [[]]
            if is_live
            else [
                [Settle, ReleaseSlots, Requeue],
                [Settle, ReleaseSlots, Finish],
                [Settle, ReleaseSlots, Requeue, Finish],
            ]
        )
        assert (job.state is S.COMPLETING) == (is_live and job.attempt.stop_why is not None)
        assert all(0 <= effect.used_s <= 240 for effect in done if isinstance(effect, Settle))
