"""The idle policy: notices, the end, and who is left alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.idle import (
    BUSY,
    Exemption,
    GpuIdle,
    IdlePolicy,
    IdlePolicyError,
    JobUse,
    Leave,
    Step,
    Take,
    Watch,
    decide,
    track,
)

START = datetime(2026, 3, 1, 9, tzinfo=UTC)
POLICY = IdlePolicy(is_dry_run=False)


def minutes(number: float) -> timedelta:
    return timedelta(minutes=number)


def after(number: float) -> datetime:
    return START + minutes(number)


def idle(since_m: float, now_m: float) -> GpuIdle:
    return GpuIdle(after(since_m), minutes(now_m - since_m))


def job(*gpus: GpuIdle, is_interactive: bool = False, **taken: float) -> JobUse:
    steps = {Step(name): after(at_m) for name, at_m in taken.items()}
    return JobUse(started_at=START, is_interactive=is_interactive, gpus=gpus, taken=steps)


@pytest.mark.parametrize(
    ("now_m", "taken", "expected"),
    [
        (29.9, {}, Watch(Step.NOTICE, after(30))),
        (30, {}, Take(Step.NOTICE, minutes(30), 1, is_dry_run=False)),
        (59.9, {"notice": 30}, Watch(Step.SECOND_NOTICE, after(60))),
        (60, {"notice": 30}, Take(Step.SECOND_NOTICE, minutes(60), 1, is_dry_run=False)),
        (119.9, {"notice": 30, "second_notice": 60}, Watch(Step.CANCEL, after(120))),
        (120, {"notice": 30, "second_notice": 60}, Take(Step.CANCEL, minutes(120), 1, is_dry_run=False)),
        (200, {"notice": 30, "second_notice": 60, "cancel": 120}, Watch(None, None)),
        # The platform was away for three hours: notices still come first, with their time between.
        (200, {}, Take(Step.NOTICE, minutes(200), 1, is_dry_run=False)),
        (201, {"notice": 200}, Watch(Step.SECOND_NOTICE, after(230))),
        (231, {"notice": 200, "second_notice": 231}, Watch(Step.CANCEL, after(291))),
    ],
)
def test_steps_in_their_order(now_m: float, taken: dict[str, float], expected: Take | Watch) -> None:
    assert decide(job(idle(0, now_m), **taken), POLICY, after(now_m)) == expected


def test_dry_run_says_so() -> None:
    assert decide(job(idle(0, 40)), IdlePolicy(), after(40)) == Take(
        Step.NOTICE, minutes(40), 1, is_dry_run=True
    )


@pytest.mark.parametrize(
    ("busy", "share", "is_idle"),
    [(4, 0.5, False), (3, 0.5, True), (0, 0.5, True), (7, 1.0, True), (8, 1.0, False), (1, 0.125, False)],
)
def test_m_of_n_gpus_busy(busy: int, share: float, is_idle: bool) -> None:
    gpus = (*[BUSY] * busy, *[idle(0, 40)] * (8 - busy))
    decision = decide(job(*gpus), IdlePolicy(min_busy_share=share), after(40))
    assert isinstance(decision, Take) is is_idle
    if is_idle:
        assert isinstance(decision, Take)
        assert decision.idle_gpus == 8 - busy
    else:
        assert decision == Leave(Exemption.ENOUGH_BUSY if busy < 8 else None, resets=False)


def test_the_stretch_begins_when_too_few_are_busy() -> None:
    gpus = (idle(0, 50), idle(10, 50), idle(25, 50), BUSY)
    assert decide(job(*gpus), POLICY, after(50)) == Watch(Step.NOTICE, after(55))


def test_use_ends_the_stretch_and_its_notices() -> None:
    assert decide(job(BUSY, notice=30), POLICY, after(40)) == Leave(None, resets=True)
    assert decide(job(BUSY), POLICY, after(40)) == Leave(None, resets=False)


def test_interactive_use_and_a_disabled_policy_are_left_alone() -> None:
    gone = idle(0, 500)
    assert decide(job(gone, is_interactive=True), POLICY, after(500)) == Leave(
        Exemption.INTERACTIVE, resets=False
    )
    assert decide(job(gone), IdlePolicy(is_enabled=False), after(500)) == Leave(
        Exemption.DISABLED, resets=False
    )


@pytest.mark.parametrize(("observed_m", "is_taken"), [(90, True), (89, False), (0, False)])
def test_what_was_not_observed_has_no_consequence(observed_m: float, is_taken: bool) -> None:
    decision = decide(job(GpuIdle(START, minutes(observed_m))), POLICY, after(100))
    if is_taken:
        assert isinstance(decision, Take)
    else:
        assert decision == Leave(Exemption.UNKNOWN, resets=False)


def test_skewed_clock_has_no_consequence() -> None:
    assert decide(job(idle(10, 10)), POLICY, after(5)) == Leave(Exemption.UNKNOWN, resets=False)


def test_idle_before_the_job_is_not_the_jobs() -> None:
    before = GpuIdle(after(-500), minutes(520))
    assert decide(job(before), POLICY, after(20)) == Watch(Step.NOTICE, after(30))


def test_job_without_gpus_is_left_alone() -> None:
    assert decide(job(), POLICY, after(500)) == Leave(None, resets=False)


def test_track_of_a_gpu() -> None:
    stretch = track(BUSY, 0.0, after(1), minutes(1))
    assert stretch == GpuIdle(START, minutes(1))
    assert track(stretch, None, after(9), minutes(8)) == stretch, "the unknown neither adds nor ends"
    stretch = track(stretch, 0.009, after(10), minutes(1))
    assert stretch == GpuIdle(START, minutes(2))
    assert track(stretch, 0.01, after(11), minutes(1)) == BUSY


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"notice_after": minutes(0)}, "notice_after"),
        ({"second_notice_after": minutes(30)}, "second_notice_after"),
        ({"cancel_after": minutes(60)}, "cancel_after"),
        ({"min_busy_share": 0.0}, "min_busy_share"),
        ({"min_busy_share": 1.01}, "min_busy_share"),
        ({"min_coverage": -1.0}, "min_coverage"),
    ],
)
def test_policy_that_contradicts_itself(changes: dict[str, timedelta | float], setting: str) -> None:
    with pytest.raises(IdlePolicyError, match=setting) as refused:
        IdlePolicy(**changes)  # type: ignore[arg-type]
    assert refused.value.setting == setting


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, None]), st.integers(1, 40)), max_size=60))
def test_nobody_is_cancelled_without_both_notices_and_their_time(
    readings: list[tuple[float | None, int]],
) -> None:
    """Play a job: whatever telemetry does, the steps come in order and apart, within one stretch of no use."""
    at, stretch, taken = START, BUSY, {}
    for ratio, step_m in readings:
        at += minutes(step_m)
        stretch = track(stretch, ratio, at, min(minutes(step_m), minutes(1)))
        decision = decide(
            JobUse(started_at=START, is_interactive=False, gpus=[stretch], taken=taken),
            IdlePolicy(min_coverage=0.1),
            at,
        )
        if isinstance(decision, Leave) and decision.resets:
            taken = {}
        if isinstance(decision, Take):
            assert decision.step not in taken
            taken[decision.step] = at
        if Step.CANCEL in taken:
            assert taken[Step.SECOND_NOTICE] - taken[Step.NOTICE] >= minutes(30)
            assert taken[Step.CANCEL] - taken[Step.SECOND_NOTICE] >= minutes(60)
            assert stretch.idle_since is not None
            break
