from __future__ import annotations

from scheduler.dispatch.fake import Lies, Script
from scheduler.dispatch.wire import AgentCode
from scheduler.model import JobState


def test_a_job_goes_from_submit_to_the_ledger(world):
    job_id = world.submit(2, 600, Script())
    assert world.view(job_id).place == 0
    applied = world.turn()
    assert applied.admitted == (f"{job_id}-1",)
    view = world.view(job_id)
    assert view.state is JobState.COMPLETED
    assert view.exit_code == 0
    assert view.gpu_seconds == view.attempt.used_s > 0
    assert view.is_simulated is True
    balance = world.balance()
    assert (balance.pending_s, balance.used_s) == (0, view.gpu_seconds)
    assert world.kinds(job_id) == [
        "job.submitted",
        "job.admitted",
        "attempt.dispatched",
        "attempt.started",
        "attempt.exited",
        "attempt.ended",
        "job.completed",
    ]
    world.check()


def test_a_running_job_holds_its_claim_and_its_gpus(world):
    job_id = world.submit(4, 100)
    world.turn()
    assert world.state(job_id) is JobState.RUNNING
    assert world.balance().pending_s == 400
    world.finish(job_id)
    world.hear()
    assert world.state(job_id) is JobState.COMPLETED
    assert world.balance().pending_s == 0
    world.check()


def test_a_gang_spans_nodes_and_one_failing_rank_stops_the_others(world):
    job_id = world.submit(8, 600, nodes=2)
    world.turn()
    view = world.view(job_id)
    assert [slot.node for slot in view.slots] == ["n0", "n1"]
    assert view.state is JobState.RUNNING
    world.executor.finish("n1", view.attempt.id, 3)
    world.hear()
    assert world.state(job_id) is JobState.COMPLETING
    world.turn()
    view = world.view(job_id)
    assert (view.state, view.exit_code) == (JobState.FAILED, 3)
    assert [rank.signal for rank in view.attempt.ranks] == [15, None]
    world.check()


def test_a_job_waits_with_its_reason_and_starts_when_there_is_room(world):
    first, second = world.submit(8), world.submit(4)
    world.turn()
    waiting = world.view(second)
    assert (waiting.state, waiting.reason) == (JobState.PENDING, "QUEUE_LIMIT")
    assert waiting.reason_numbers["nominal"] == 8
    world.turn()  # the first job's launch is known now, and with it when the second one starts
    assert not world.turn().has_effect  # nothing changed: nothing is written
    world.finish(first)
    world.hear()
    world.turn()
    assert world.state(second) is JobState.RUNNING
    world.check()


def test_cancelling_a_running_job_stops_it_and_charges_what_it_used(world):
    job_id = world.submit(1, 600)
    world.turn()
    assert world.cancel(job_id).state is JobState.COMPLETING
    assert world.cancel(job_id).state is JobState.COMPLETING
    world.turn()
    view = world.view(job_id)
    assert view.state is JobState.CANCELLED
    assert world.balance().used_s == view.gpu_seconds
    assert "attempt.stopping" in world.kinds(job_id)
    world.check()


def test_a_job_cancelled_between_admission_and_launch_never_runs(world):
    job_id = world.submit(1, 600)
    world.cycle()
    assert world.cancel(job_id).state is JobState.COMPLETING
    world.dispatch()
    world.stop_what_must()
    view = world.view(job_id)
    assert (view.state, view.gpu_seconds) == (JobState.CANCELLED, 0)
    assert world.executor.list_attempts("n0") == ()
    world.check()


def test_a_refused_launch_is_undone_and_tried_again_after_a_pause(world):
    world.executor._lies = Lies(refuses=AgentCode.DRAINING)
    job_id = world.submit(8, 600, nodes=2)
    world.turn()
    view = world.view(job_id)
    assert view.state is JobState.PENDING
    assert view.back_off_until > view.submitted_at
    assert "job.requeued" in world.kinds(job_id)
    world.executor._lies = Lies()
    assert not world.turn().admitted
    assert world.view(job_id).reason == "BACKOFF"
    world.turn(later_s=30)
    assert world.state(job_id) is JobState.RUNNING
    assert world.view(job_id).attempts == 2
    world.check()


def test_a_launch_whose_answer_was_lost_runs_once(world):
    world.executor._lies = Lies(loses_answers=1)
    job_id = world.submit(1, 600)
    world.turn()
    assert world.state(job_id) is JobState.RUNNING
    assert len(world.executor.list_attempts("n0")) == 1
    world.check()


def test_repeated_reversed_and_late_events_change_nothing(world):
    world.executor._lies = Lies(repeats=True, reverses=True, withholds=2)
    job_id = world.submit(8, 600, Script(), nodes=2)
    for _ in range(4):
        world.turn()
    assert world.state(job_id) is JobState.COMPLETED
    assert world.kinds(job_id).count("attempt.exited") == 2
    world.check()


def test_a_lost_node_requeues_its_job_once_absence_is_proven(world):
    job_id = world.submit(1, 600)
    world.turn()
    node = world.view(job_id).slots[0].node
    world.lose(node)
    assert world.state(job_id) is JobState.COMPLETING
    world.turn()
    assert world.state(job_id) is JobState.COMPLETING  # its ranks may run yet: it must not run twice
    world.executor.finish(node, f"{job_id}-1", 9)
    world.regain(node)
    assert world.state(job_id) is JobState.PENDING
    world.turn()
    view = world.view(job_id)
    assert (view.state, view.attempts) == (JobState.RUNNING, 2)
    world.check()


def test_a_rank_that_its_node_knows_no_more_is_lost(world):
    job_id = world.submit(1, 600)
    world.turn()
    world.executor._nodes["n0"].runs.clear()
    from scheduler import observe

    observe.relist(world.leader, "n0")
    view = world.view(job_id)
    assert view.state is JobState.PENDING
    assert view.attempts == 1
    world.check()


def test_an_attempt_nobody_knows_is_killed_and_removed(world):
    from scheduler import observe

    job_id = world.submit(1, 600)
    world.turn()
    run = world.executor._nodes["n0"].runs
    run["999-1"] = type(run[f"{job_id}-1"])(
        run[f"{job_id}-1"].lease, run[f"{job_id}-1"].committed_at, Script(runs=True)
    )
    from dataclasses import replace

    run["999-1"].lease = replace(run["999-1"].lease, attempt_id="999-1")
    observe.relist(world.leader, "n0")
    observe.relist(world.leader, "n0")
    assert [status.attempt_id for status in world.executor.list_attempts("n0")] == [f"{job_id}-1"]
    assert world.state(job_id) is JobState.RUNNING


def test_outputs_are_kept_as_evidence(world):
    from scheduler import observe
    from scheduler.dispatch.wire import AttemptEvent, EventKind, OutputFile, RankExit
    from store import clock

    job_id = world.submit(1, 600)
    world.turn()
    ended = RankExit(
        exit_code=0,
        signal=None,
        timeout=False,
        oom=False,
        started_at=clock.now(),
        ended_at=clock.now(),
        max_rss_bytes=1,
        outputs=(OutputFile("model.bin", 3, "ab" * 32),),
    )
    event = AttemptEvent(
        seq=9, attempt_id=f"{job_id}-1", rank=0, kind=EventKind.EXITED, at=clock.now(), exit=ended
    )
    observe.take_events(world.leader, [event, event])
    from scheduler import jobs
    from store.engine import snapshot

    with snapshot(world.engine) as session:
        found = jobs.artefacts_of(session, world.principal, job_id)
    assert [(file.path, file.size_bytes, file.digest) for file in found] == [("model.bin", 3, "ab" * 32)]
    world.check()
