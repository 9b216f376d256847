"""The table of what is free: rows come in where something changes, and it ends where it gets too large."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler import timeline
from scheduler.model import AttemptId, JobId, ShareClass
from scheduler.place import Rooms, Sizes, pick
from scheduler.profile import FEW_INSTANTS, Hold, Profile, Run
from scheduler.timeline import FOREVER_MS, SPARE_ROWS, Timeline, distinct, may_hold


def run(name, end_ms, picks):
    return Run(
        AttemptId(name), JobId(1), "q", "h200", sum(gpus for _, gpus in picks), picks, (0, 0), end_ms=end_ms
    )


def hold(number, start_ms, end_ms, picks, victims=()):
    gpus = sum(count for _, count in picks)
    return Hold(JobId(number), "q", "h200", gpus, start_ms, end_ms, picks, ShareClass.ENTITLED, victims)


def profile(runs):
    free = [8, 8]
    for each in runs:
        for node, gpus in each.picks:
            free[node] -= gpus
    rooms = Rooms([(f"n{node}", 8, left) for node, left in enumerate(free)])
    return Profile("h200", rooms, 1_000, runs={each.id: each for each in runs}, windows=())


def table(ends=()):
    times, nodes, gpus = (np.array(found, dtype=np.int64) for found in zip(*ends, strict=True))
    return Timeline(1_000, np.array([2, 0], dtype=np.int64), times, nodes, gpus)


ENDS = [(2_000, 0, 6), (2_000, 1, 4), (3_000, 1, 4)]


def test_rows_are_what_is_free_from_one_end_to_the_next():
    found = table(ENDS)
    assert found.until_ms == FOREVER_MS
    assert [found.at(at_ms).tolist() for at_ms in (1_000, 1_999, 2_000, 3_000, 10**9)] == [
        [2, 0],
        [2, 0],
        [8, 4],
        [8, 8],
        [8, 8],
    ]
    assert found.of([2_500, 1_000]).tolist() == [[8, 4], [2, 0]]
    assert found.least([3_000, 2_000]).tolist() == [8, 4]


def test_what_is_added_counts_from_its_begin_to_its_end():
    found = table(ENDS)
    found.add(((0, 2), (1, 1)), 2_500, 4_000, -1)
    at = {at_ms: found.at(at_ms).tolist() for at_ms in (2_499, 2_500, 3_000, 3_999, 4_000)}
    assert at == {2_499: [8, 4], 2_500: [6, 3], 3_000: [6, 7], 3_999: [6, 7], 4_000: [8, 8]}
    found.add(((0, 2), (1, 1)), 2_500, 4_000, 1)
    assert found.of([1_000, 2_500, 3_999]).tolist() == [[2, 0], [8, 4], [8, 8]]
    found.add(((0, 1),), 500, 1_500, -1)  # from before now
    assert [found.at(at_ms)[0] for at_ms in (1_000, 1_500)] == [1, 2]


def test_a_table_has_room_for_any_number_of_rows():
    found = table(ENDS)
    for number in range(SPARE_ROWS + 3):
        found.add(((1, 1),), 5_000 + 10 * number, 10**9, -1)
    assert found.at(10**8)[1] == 8 - SPARE_ROWS - 3
    assert found.at(5_010)[1] == 6


@pytest.mark.parametrize(
    ("cells", "until_ms"), [(6, FOREVER_MS), (5, 3_000), (4, 3_000), (2, 2_000), (0, 2_000)]
)
def test_a_table_ends_where_it_would_get_too_large(monkeypatch, cells, until_ms):
    monkeypatch.setattr(timeline, "MAX_CELLS", cells)
    found = table(ENDS)
    assert found.until_ms == until_ms
    found.add(((0, 1),), 1_500, 10**9, -1)
    assert [found.at(at_ms)[0] for at_ms in (1_000, 1_500)] == [2, 1]


@given(
    st.lists(st.integers(-2, 8), min_size=1, max_size=5),
    st.lists(st.integers(1, 8), min_size=5, max_size=5),
    st.integers(1, 24),
    st.sampled_from([None, 1, 2, 3]),
)
def test_where_there_may_be_no_room_nothing_is_placed(free, sizes, gpus, nodes):
    sizes = sizes[: len(free)]
    gpus = gpus if nodes is None else gpus * nodes
    room = np.minimum(np.array(free, dtype=np.int64), sizes)
    (may,) = may_hold(room[None, :], Sizes(sizes), gpus, nodes)
    assert may or pick(room, Sizes(sizes), gpus, nodes) is None


@given(st.lists(st.integers(-5, 5)))
def test_each_number_is_told_once(numbers):
    assert distinct(np.array(sorted(numbers), dtype=np.int64)).tolist() == sorted(set(numbers))


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["hold", "hold", "release", "start"]),
        st.integers(0, 6),
        st.integers(1, 6),
        st.integers(0, 1),
        st.booleans(),
    ),
    max_size=12,
)


@given(CHANGES, st.sampled_from([1, 6, 10, 262_144]))
def test_a_table_of_any_size_tells_the_same(changes, cells):
    """Whatever is planned, released or started: short tables and none answer as the long one does.

    Also one that is made for the first instant, and one that is made for none.
    """
    with pytest.MonkeyPatch.context() as patch:
        found = []
        for limit, few in ((cells, FEW_INSTANTS), (262_144, FEW_INSTANTS), (262_144, 0), (262_144, 10**9)):
            patch.setattr(timeline, "MAX_CELLS", limit)
            patch.setattr("scheduler.profile.FEW_INSTANTS", few)
            found.append(told(changes))
    assert found == [found[0]] * len(found)


def told(changes):
    """What a profile says after each change."""
    runs = [run("1-1", 3_000, ((0, 3),)), run("2-1", 5_000, ((0, 1), (1, 4)))]
    own = profile(runs)
    found = []
    for number, (kind, begin, length, node, is_victim) in enumerate(changes):
        start_ms = 1_000 + 1_000 * begin
        end_ms = start_ms + 1_000 * length
        if kind == "release" and own.holds:
            own.release(min(own.holds))
        elif kind == "hold":
            victims = (AttemptId("2-1"),) if is_victim and own.runs["2-1"].is_reclaimable and begin else ()
            own.hold(hold(number, start_ms, end_ms, ((node, 2),), victims))
        elif kind == "start" and own.rooms.free[node] > 0:
            own.rooms.take(f"n{node}", 1)
            own.start(run(f"s{number}", end_ms, ((node, 1),)))
        spans = [own.throughout(at, at + 2_500).tolist() for at in range(1_000, 12_000, 1_500)]
        past = [own.throughout(at, at + 2_500, past=list(own.holds)[:1]).tolist() for at in (1_000, 4_000)]
        bases = [own.base(at).tolist() for at in range(1_000, 12_000, 1_500)]
        found.append((own.instants(), own.instants(4_000), spans, past, bases, own.is_sound()))
    return found
