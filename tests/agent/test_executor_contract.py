"""The same promises, asked of the fake and of a real agent."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from scheduler.agent.inventory import GpuInventory
from scheduler.dispatch.executor import (
    BundleMissingError,
    Executor,
    RefusedError,
    StaleEpochError,
    UnreachableError,
)
from scheduler.dispatch.fake import FakeExecutor, Lies, Script
from scheduler.dispatch.wire import AgentCode, EventKind, Lease, PrepareRequest, RankLease, Signal

GPUS = GpuInventory.simulate("n0", 8, "h200").gpus
SLEEPS = ("sleep", "60")
FAILS = ("sh", "-c", "printf hello; exit 3")


def script(lease: Lease) -> Script:
    return Script(runs=True) if lease.command == SLEEPS else Script(exit_code=3, log=b"hello")


@dataclass
class Case:
    executor: Executor

    def lease(
        self, attempt_id: str = "17-1", command: tuple[str, ...] = FAILS, gpu: int = 0, **more: object
    ) -> Lease:
        base = Lease(
            attempt_id=attempt_id, job_id=17, epoch=1, command=command, ranks=(RankLease(0, (GPUS[gpu].uuid,)),),
            world_size=1, master_addr="127.0.0.2", master_port=20_000, walltime_s=60, kill_wait_s=1,
            flavor="h200", simulated=True,
        )  # fmt: skip
        return replace(base, **more)  # type: ignore[arg-type]

    def await_end(self, attempt_id: str) -> None:
        deadline = time.monotonic() + 20
        while self.executor.attempt("n0", attempt_id).is_alive:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture(params=["fake", "agent"])
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    if request.param == "fake":
        yield Case(FakeExecutor({"n0": GPUS}, script))
    else:
        yield Case(request.getfixturevalue("agent_node").executor)


def code_of(error: pytest.ExceptionInfo[RefusedError]) -> str:
    return error.value.code


def test_probe_shows_the_gpus_and_that_they_are_simulated(case: Case) -> None:
    probe = case.executor.probe("n0")
    assert (probe.node, probe.gpus, probe.simulated, probe.attempts) == ("n0", GPUS, True, ())
    assert case.executor.nodes() == ("n0",)


def test_an_unknown_node_is_refused(case: Case) -> None:
    with pytest.raises(RefusedError) as error:
        case.executor.probe("n9")
    assert code_of(error) == AgentCode.NOT_FOUND


def test_a_rank_starts_and_ends_and_both_are_told_in_order(case: Case) -> None:
    receipt = case.executor.launch("n0", case.lease())
    case.await_end("17-1")
    page = case.executor.observe("n0", 0, 0)
    assert [(e.attempt_id, e.rank, e.kind) for e in page.events] == [
        ("17-1", 0, EventKind.STARTED),
        ("17-1", 0, EventKind.EXITED),
    ]
    end = page.events[-1].exit
    assert end is not None
    assert (end.exit_code, end.signal, end.timeout, end.oom, end.error) == (3, None, False, False, None)
    assert receipt.committed_at <= end.ended_at
    assert case.executor.observe("n0", page.next_after, 0).events == ()
    assert page.next_after == case.executor.probe("n0").latest_seq


def test_launching_twice_runs_once_also_under_a_later_epoch(case: Case) -> None:
    first = case.executor.launch("n0", case.lease())
    assert case.executor.launch("n0", case.lease()) == first
    assert case.executor.launch("n0", case.lease(epoch=2)) == first
    case.await_end("17-1")
    assert case.executor.launch("n0", case.lease(epoch=2)) == first
    assert len(case.executor.observe("n0", 0, 0).events) == 2


def test_another_lease_under_the_same_name_is_refused(case: Case) -> None:
    case.executor.launch("n0", case.lease())
    with pytest.raises(RefusedError) as error:
        case.executor.launch("n0", case.lease(walltime_s=61))
    assert code_of(error) == AgentCode.LEASE_MISMATCH


def test_a_stale_epoch_is_refused_for_every_command(case: Case) -> None:
    case.executor.drain("n0", is_draining=False, epoch=5)
    commands = (
        lambda: case.executor.launch("n0", case.lease(epoch=4)),
        lambda: case.executor.prepare("n0", PrepareRequest(attempt_id="17-1"), 4),
        lambda: case.executor.signal("n0", "17-1", Signal.KILL, 0, 4),
        lambda: case.executor.remove("n0", "17-1", 4),
        lambda: case.executor.put_bundle("n0", hashlib.sha256(b"").hexdigest(), b"", 4),
        lambda: case.executor.drain("n0", is_draining=True, epoch=4),
    )
    for command in commands:
        with pytest.raises(StaleEpochError) as error:
            command()
        assert error.value.highest_epoch == 5
    assert case.executor.list_attempts("n0") == ()


def test_a_gpu_is_given_once_until_its_holder_is_gone(case: Case) -> None:
    case.executor.launch("n0", case.lease(command=SLEEPS))
    with pytest.raises(RefusedError) as error:
        case.executor.launch("n0", case.lease("18-1"))
    assert code_of(error) == AgentCode.GPU_BUSY
    case.executor.signal("n0", "17-1", Signal.KILL, 0, 1)
    case.await_end("17-1")
    case.executor.launch("n0", case.lease("18-1"))


def test_a_gpu_of_no_node_is_refused(case: Case) -> None:
    with pytest.raises(RefusedError) as error:
        case.executor.launch("n0", case.lease(ranks=(RankLease(0, ("GPU-unknown",)),)))
    assert code_of(error) == AgentCode.GPU_UNKNOWN


def test_prepare_holds_gpus_and_a_port_and_repeats_itself(case: Case) -> None:
    request = PrepareRequest(attempt_id="17-1", gpu_uuids=(GPUS[0].uuid,), wants_endpoint=True)
    first = case.executor.prepare("n0", request, 1)
    assert first.master_port is not None
    assert first.has_bundle
    assert case.executor.prepare("n0", request, 1) == first
    with pytest.raises(RefusedError) as error:
        case.executor.launch("n0", case.lease("18-1"))
    assert code_of(error) == AgentCode.GPU_BUSY
    other = PrepareRequest(attempt_id="19-1", gpu_uuids=(GPUS[1].uuid,), wants_endpoint=True)
    assert case.executor.prepare("n0", other, 1).master_port != first.master_port
    case.executor.signal("n0", "17-1", Signal.TERM, 0, 1)
    case.executor.launch("n0", case.lease("18-1"))


def test_a_missing_bundle_is_named_and_nothing_is_started(case: Case) -> None:
    bundle = hashlib.sha256(b"never sent").hexdigest()
    with pytest.raises(BundleMissingError):
        case.executor.launch("n0", case.lease(bundle=bundle))
    assert case.executor.list_attempts("n0") == ()
    assert not case.executor.prepare("n0", PrepareRequest(attempt_id="17-1", bundle=bundle), 1).has_bundle


@pytest.mark.parametrize(("signal", "number"), [(Signal.TERM, 15), (Signal.KILL, 9)])
def test_signals_end_a_rank(case: Case, signal: Signal, number: int) -> None:
    case.executor.launch("n0", case.lease(command=SLEEPS))
    case.executor.signal("n0", "17-1", signal, 5, 1)
    case.await_end("17-1")
    end = case.executor.attempt("n0", "17-1").ranks[0].exit
    assert end is not None
    assert (end.exit_code, end.signal) == (None, number)


def test_a_checkpoint_notice_kills_nobody(case: Case) -> None:
    case.executor.launch("n0", case.lease(command=SLEEPS))
    case.executor.signal("n0", "17-1", Signal.CHECKPOINT, 0, 1)
    case.executor.signal("n0", "17-1", Signal.TERM, 5, 1)
    case.await_end("17-1")
    end = case.executor.attempt("n0", "17-1").ranks[0].exit
    assert end is not None
    assert end.signal == 15


def test_logs_are_paged_to_their_end(case: Case) -> None:
    case.executor.launch("n0", case.lease())
    case.await_end("17-1")
    first = case.executor.logs("n0", "17-1", 0, 0, 2)
    assert (first.data, first.next_offset, first.is_complete) == (b"he", 2, False)
    rest = case.executor.logs("n0", "17-1", 0, first.next_offset, 100)
    assert (rest.data, rest.next_offset, rest.is_complete) == (b"llo", 5, True)
    with pytest.raises(RefusedError):
        case.executor.logs("n0", "17-1", 7, 0, 10)


def test_remove_waits_for_the_end_and_then_forgets(case: Case) -> None:
    case.executor.launch("n0", case.lease(command=SLEEPS))
    with pytest.raises(RefusedError) as error:
        case.executor.remove("n0", "17-1", 1)
    assert code_of(error) == AgentCode.ATTEMPT_ALIVE
    case.executor.signal("n0", "17-1", Signal.KILL, 0, 1)
    case.await_end("17-1")
    case.executor.remove("n0", "17-1", 1)
    case.executor.remove("n0", "17-1", 1)
    assert case.executor.list_attempts("n0") == ()
    with pytest.raises(RefusedError) as error:
        case.executor.attempt("n0", "17-1")
    assert code_of(error) == AgentCode.NOT_FOUND


def test_a_draining_node_takes_no_launch_and_keeps_what_runs(case: Case) -> None:
    case.executor.launch("n0", case.lease(command=SLEEPS))
    case.executor.drain("n0", is_draining=True, epoch=1)
    with pytest.raises(RefusedError) as error:
        case.executor.launch("n0", case.lease("18-1", gpu=1))
    assert code_of(error) == AgentCode.DRAINING
    assert case.executor.attempt("n0", "17-1").is_alive
    assert case.executor.probe("n0").draining
    case.executor.drain("n0", is_draining=False, epoch=1)
    case.executor.launch("n0", case.lease("18-1", gpu=1))


def test_the_fake_lies_as_told() -> None:
    fake = FakeExecutor({"n0": GPUS}, script, Lies(repeats=True, reverses=True, withholds=1, loses_answers=1))
    lease = Case(fake).lease()
    with pytest.raises(UnreachableError):
        fake.launch("n0", lease)
    assert fake.launch("n0", lease).ranks == (0,)
    assert fake.observe("n0", 0, 0).events == ()
    assert [e.seq for e in fake.observe("n0", 0, 0).events] == [2, 1]
    assert [e.seq for e in fake.observe("n0", 2, 0).events] == [2, 1]
    refusing = FakeExecutor({"n0": GPUS}, script, Lies(refuses=AgentCode.GPU_BUSY))
    with pytest.raises(RefusedError):
        refusing.launch("n0", lease)
