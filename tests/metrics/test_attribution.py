"""Whose GPU process it is."""

import os

import pytest

from metrics.attribution import (
    MAX_ATTEMPT_CHARS,
    Evidence,
    GpuUse,
    Known,
    Owned,
    ProcessFacts,
    Verdict,
    gpu_use,
    owner,
    parse_cgroup,
    parse_environment,
    parse_stat,
)
from metrics.procfs import read_process

POD = "1f2e3d4c-0000-1111-2222-333344445555"
KNOWN = Known(pods={POD: "9-1"}, sessions={(500, 42): "17-1"})


def facts(**changes: object) -> ProcessFacts:
    return ProcessFacts(**{"pid": 600, "start_ticks": 99, "session": 500, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("process", "leader_start_ticks", "expected"),
    [
        (None, 42, Verdict.UNEXAMINED),
        (facts(), 42, Owned("17-1", Evidence.SESSION)),
        (facts(attempt="18-1"), 42, Owned("17-1", Evidence.SESSION)),  # a forged variable loses
        (facts(attempt="18-1"), 43, Owned("18-1", Evidence.ENVIRONMENT)),  # the leader's pid was reused
        (facts(attempt="18-1"), None, Owned("18-1", Evidence.ENVIRONMENT)),  # the leader has ended
        (facts(session=501, attempt="18-1"), 42, Owned("18-1", Evidence.ENVIRONMENT)),
        (facts(pod_uid=POD, attempt="18-1"), 42, Owned("9-1", Evidence.POD)),
        (facts(pod_uid="other"), 42, Owned("17-1", Evidence.SESSION)),
        (facts(pod_uid="other"), 43, Verdict.UNATTRIBUTED),
        (facts(is_environment_readable=False), 43, Verdict.UNEXAMINED),  # hidden is not nobody's
        (facts(is_environment_readable=False), 42, Owned("17-1", Evidence.SESSION)),
    ],
)
def test_owner(
    process: ProcessFacts | None, leader_start_ticks: int | None, expected: Owned | Verdict
) -> None:
    assert owner(process, leader_start_ticks, KNOWN) == expected


def test_use_counts_each_kind_apart() -> None:
    whose = [
        Owned("a", Evidence.POD),
        Owned("a", Evidence.ENVIRONMENT),
        Owned("b", Evidence.SESSION),
        Verdict.UNATTRIBUTED,
        Verdict.UNEXAMINED,
        Verdict.UNEXAMINED,
    ]
    assert gpu_use(whose) == GpuUse({"a": 2, "b": 1}, 1, 2)
    assert gpu_use([]) == GpuUse({}, 0, 0)


def test_stat_of_a_program_with_a_wicked_name() -> None:
    rest = " ".join(["S", "1", "600", "500", *(["0"] * 15), "99", "7"])
    assert parse_stat(f"600 (a) R 1 2 3 (b)) {rest}") == (500, 99)


@pytest.mark.parametrize("text", ["", "600 (x) S 1 2", "600 (x"])
def test_what_is_no_stat_line(text: str) -> None:
    with pytest.raises(ValueError, match="not a line"):
        parse_stat(text)


@pytest.mark.parametrize(
    ("text", "pod"),
    [
        (
            f"0::/kubepods.slice/kubepods-burstable-pod{POD.replace('-', '_')}.slice/cri-containerd-ab.scope\n",
            POD,
        ),
        (
            f"11:memory:/kubepods/burstable/pod{POD}/abcdef\n1:name=systemd:/kubepods/burstable/pod{POD}/abcdef\n",
            POD,
        ),
        ("0::/user.slice/user-0.slice/session-1.scope\n", None),
        ("0::/tripod/x\n", None),
        ("", None),
    ],
)
def test_pod_of_a_control_group(text: str, pod: str | None) -> None:
    assert parse_cgroup(text) == pod


@pytest.mark.parametrize(
    ("raw", "attempt"),
    [
        (b"HOME=/\0KEZEK_ATTEMPT=17-1\0PATH=/bin\0", "17-1"),
        (b"XKEZEK_ATTEMPT=17-1\0", None),
        (b"KEZEK_ATTEMPT=\0", None),
        (b"KEZEK_ATTEMPT=17 1\0", None),
        (b"KEZEK_ATTEMPT=" + b"x" * MAX_ATTEMPT_CHARS + b"\0", "x" * MAX_ATTEMPT_CHARS),
        (b"KEZEK_ATTEMPT=" + b"x" * (MAX_ATTEMPT_CHARS + 1) + b"\0", None),
        (b"KEZEK_ATTEMPT=\xff\xfe\0", None),
        (b"", None),
    ],
)
def test_attempt_of_an_environment(raw: bytes, attempt: str | None) -> None:
    assert parse_environment(raw) == attempt


def test_facts_of_this_very_process() -> None:
    own = read_process(os.getpid())
    assert own is not None
    assert (own.pid, own.session) == (os.getpid(), os.getsid(0))
    assert own.start_ticks > 0
    assert own.is_environment_readable


def test_process_that_is_gone() -> None:
    assert read_process(2**22 + 5) is None
