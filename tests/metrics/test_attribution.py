"""Whose GPU process it is."""

import os

import pytest

from metrics.attribution import (
    MAX_ATTEMPT_CHARS,
    Evidence,
    GpuUse,
    Identity,
    Known,
    Owned,
    ProcessFacts,
    Rank,
    Stat,
    Verdict,
    gpu_use,
    is_attempt_id,
    owner,
    parse_environment,
    parse_stat,
    parse_status,
)
from metrics.procfs import read_process

LEADER, SHEPHERD = Identity(500, 42, 7), Identity(499, 41, 7)
KNOWN = Known((Rank("17-1", LEADER, SHEPHERD), Rank("9-1", Identity(300, 20))))
INIT = Identity(1, 0, 7)
OTHER = Identity(800, 60, 7)
BY_DESCENT, BY_SESSION = Owned("17-1", Evidence.DESCENT), Owned("17-1", Evidence.SESSION)


def facts(*ancestors: Identity, session: Identity = OTHER, **more: object) -> ProcessFacts:
    own = Identity(600, 99, 7)
    return ProcessFacts(ancestors=(own, *ancestors, INIT), session=session, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("process", "expected"),
    [
        (None, Verdict.UNEXAMINED),
        (facts(LEADER, SHEPHERD), BY_DESCENT),
        (facts(LEADER, SHEPHERD, attempt="18-1"), BY_DESCENT),  # a forged variable loses
        (facts(SHEPHERD), BY_DESCENT),  # an orphan, in a session of its own
        (ProcessFacts(ancestors=(LEADER,), session=LEADER), BY_DESCENT),  # the rank's first process itself
        # What a rank's process makes look like another rank stands below the rank.
        (facts(Identity(300, 20), LEADER, SHEPHERD), BY_DESCENT),
        (facts(Identity(300, 20, 8)), Owned("9-1", Evidence.DESCENT)),  # a record without a namespace
        (facts(Identity(500, 42)), BY_DESCENT),  # a namespace that may not be asked
        (facts(Identity(500, 42, 8)), Verdict.UNATTRIBUTED),  # another container's
        (facts(Identity(500, 43, 7)), Verdict.UNATTRIBUTED),  # the pid was reused
        (facts(session=LEADER), BY_SESSION),  # its shepherd was killed
        (facts(session=Identity(500, None, 7)), BY_SESSION),  # and its leader has ended
        (facts(session=Identity(500, 43, 7)), Verdict.UNATTRIBUTED),
        (facts(session=SHEPHERD), Verdict.UNATTRIBUTED),  # no rank runs in its shepherd's session
        (facts(attempt="17-1"), Verdict.UNATTRIBUTED),  # claims what the agent does not know
        (facts(is_environment_readable=False), Verdict.UNATTRIBUTED),  # nor is the environment asked
    ],
)
def test_owner_by_the_agents_word(process: ProcessFacts | None, expected: Owned | Verdict) -> None:
    assert owner(process, KNOWN) == expected


@pytest.mark.parametrize(
    ("process", "expected"),
    [
        (None, Verdict.UNEXAMINED),
        (facts(LEADER, attempt="18-1"), Owned("18-1", Evidence.ENVIRONMENT)),
        (facts(LEADER), Verdict.UNATTRIBUTED),
        (facts(is_environment_readable=False), Verdict.UNEXAMINED),  # hidden is not nobody's
    ],
)
def test_owner_where_no_agent_says_anything(process: ProcessFacts | None, expected: Owned | Verdict) -> None:
    assert owner(process, None) == expected


def test_start_times_of_what_the_agent_knows() -> None:
    assert KNOWN.start_ticks == {42, 41, 20}
    assert Known().start_ticks == frozenset()


def test_use_counts_each_kind_apart() -> None:
    whose = [
        Owned("a", Evidence.DESCENT),
        Owned("a", Evidence.DESCENT),
        Owned("a", Evidence.ENVIRONMENT),
        Owned("b", Evidence.SESSION),
        Verdict.UNATTRIBUTED,
        Verdict.UNEXAMINED,
        Verdict.UNEXAMINED,
    ]
    counted = {("a", Evidence.DESCENT): 2, ("a", Evidence.ENVIRONMENT): 1, ("b", Evidence.SESSION): 1}
    assert gpu_use(whose) == GpuUse(counted, 1, 2)
    assert gpu_use([]) == GpuUse({}, 0, 0)


def test_stat_of_a_program_with_a_wicked_name() -> None:
    rest = " ".join(["S", "1", "600", "500", *(["0"] * 15), "99", "7"])
    assert parse_stat(f"600 (a) R 1 2 3 (b)) {rest}") == Stat(1, 500, 99)


def test_status_in_and_outside_of_a_container() -> None:
    assert parse_status("Name:\tx: y\nNSpid:\t9000\t14\nNSpgid:\t9000\t14\nNSsid:\t8999\t13\n") == (14, 13)
    assert parse_status("NSpid:\t9000\nNSsid:\t8999\n") == (9000, 8999)


@pytest.mark.parametrize("text", ["", "NSpid:\t\nNSsid:\t1\n", "NSpid:\t1\n", "NSpid:\tx\nNSsid:\t1\n"])
def test_what_is_no_status(text: str) -> None:
    with pytest.raises(ValueError, match=r"NSpid|invalid literal"):
        parse_status(text)


@pytest.mark.parametrize("text", ["", "600 (x) S 1 2", "600 (x"])
def test_what_is_no_stat_line(text: str) -> None:
    with pytest.raises(ValueError, match="not a line"):
        parse_stat(text)


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


def test_attempt_ids() -> None:
    assert is_attempt_id("17-1")
    assert is_attempt_id("x" * MAX_ATTEMPT_CHARS)
    assert not is_attempt_id("x" * (MAX_ATTEMPT_CHARS + 1))
    assert not is_attempt_id("../17-1")
    assert not is_attempt_id("")


def test_facts_of_this_very_process() -> None:
    own = read_process(os.getpid())
    assert own is not None
    assert own.ancestors == (), "without the agent's word nobody asks"
    assert own.session.pid == os.getsid(0)
    assert own.is_environment_readable


def test_process_that_is_gone() -> None:
    assert read_process(2**22 + 5) is None
    assert read_process(2**22 + 5, frozenset({1})) is None
