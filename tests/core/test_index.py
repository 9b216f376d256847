"""What is kept from cycle to cycle: differences, kinds, lines; and that a plan never sees how long a job will run."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quota.tree import WHOLE
from scheduler import lines
from scheduler.baselines import Stock
from scheduler.changed import changes
from scheduler.entries import Entries
from scheduler.fit import NoFit
from scheduler.index import Asked, Index, Kind
from scheduler.interval import REMEMBERED, Interval, StartRecord, Told, coverage
from scheduler.lines import Line, Waits, Walk, line_of
from scheduler.model import Admit, JobId, Plan, ReasonCode, Request, Wait
from scheduler.order import Aging, key_of
from scheduler.place import Rooms, pick
from scheduler.plan import make_plan, plan_digest
from scheduler.profile import OVERDUE_MS, Run
from scheduler.running import FEW, MOST_GONE, Due, Ends, Running
from scheduler.shares import Shares
from scheduler.simulate import Replayer
from scheduler.simulate_cli import equal_shares
from scheduler.traces import TraceJob

ASKED = Asked(Request(1, 3_600, ("h200",)))


@dataclass(frozen=True)
class Item:
    id: int
    value: int


@given(
    st.dictionaries(st.integers(0, 60), st.integers(0, 2)),
    st.dictionaries(st.integers(0, 60), st.integers(0, 2)),
)
def test_changes_are_what_differs(before, after):
    old = tuple(Item(*pair) for pair in sorted(before.items()))
    new = tuple(Item(*pair) for pair in sorted(after.items()))
    came, gone = changes(old, new)
    assert {item.id: item for item in came} == {item.id: item for item in set(new) - set(old)}
    assert {item.id: item for item in gone} == {item.id: item for item in set(old) - set(new)}


@given(st.permutations(range(30)), st.permutations(range(30)))
def test_changes_do_not_rely_on_the_order(before, after):
    old, new = [tuple(Item(number, 0) for number in numbers) for numbers in (before[:25], after[:25])]
    came, gone = changes(old, new)
    assert {*came} == {*new} - {*old}
    assert {*gone} == {*old} - {*new}


def test_few_differences_are_found_among_many_items():
    old = tuple(Item(number, 0) for number in range(0, 40_000, 2))
    new = list(old)
    new[9_000] = Item(18_000, 1)  # changed
    new[9_001] = Item(18_002, 0)  # the same, read anew
    del new[12_000:12_003]
    new += [Item(5, 0), Item(99_999, 0)]
    came, gone = changes(old, tuple(sorted(new, key=lambda item: item.id)))
    assert {item.id for item in came} == {5, 18_000, 99_999}
    assert {item.id for item in gone} == {18_000, 24_000, 24_002, 24_004}


def test_items_in_another_order_are_the_same_items():
    """Where one stands in the place of another, neither came nor went."""
    one, two, three = (Item(number, 0) for number in (1, 2, 3))
    changed = Item(2, 9)
    assert changes((one, two), (two, one)) == ([], [])
    assert changes((one, two, three), (one, changed, three)) == ([changed], [two])
    assert changes((one, three), (one, Item(3, 0), two)) == (
        [two],
        [],
    )  # an equal one, and who comes behind it


def test_rows_of_ends_that_are_made_later_are_of_the_runs_of_then():
    one, two = (Run(f"{n}-1", JobId(n), "q", "h200", 1, ((0, n),), (0, n), end_ms=n) for n in (1, 5))
    ends = Ends()
    ends.change((), [one])
    later = ends.as_of(2)
    ends.change([one.id], [two])
    assert later().tolist() == [[2 + OVERDUE_MS, 0, 1]]
    assert ends.at(2).tolist() == [[5, 0, 5]]


def test_many_jobs_of_a_kind_are_sorted_in_and_earlier_lists_stay(build):
    jobs = [build.job(number, 1) for number in range(1, 40)]
    keyed = [(key_of(job, is_aged=False), job) for job in jobs]
    kind = Kind(0, ASKED, can_age=False)
    kind.add(keyed[20:])
    seen = kind.now.jobs
    kind.add(keyed[:3])
    kind.add(keyed[3:20])
    assert [job.id for job in kind.now.jobs] == list(range(1, 40))
    kind.remove([key for key, job in keyed if job.id % 2])
    assert [job.id for job in kind.now.jobs] == list(range(2, 40, 2))
    assert [job.id for job in seen] == list(range(21, 40))


def test_jobs_age_where_they_stand(build):
    policy = build.policy(aging={"full_after": "1h"})
    index = Index()
    old = build.job(1, 1, priority=0, age_s=3_000)
    young = build.job(2, 1, priority=5, age_s=10)
    aging = {hour: Aging(build.now_ms + hour * 3_600_000, 3_600, {WHOLE: {"q": 8}}) for hour in (0, 1)}
    snapshot = build.snapshot(pending=[old, young])
    index.follow(snapshot, policy, aging[0])
    (kind,) = index.queues["q"].values()
    assert [job.id for job in kind.now.jobs] == [2, 1]
    later = replace(snapshot, at_ms=build.now_ms + 3_600_000, pending=(old,))
    index.follow(replace(later, pending=(old, young)), policy, aging[1])
    (kind,) = index.queues["q"].values()
    assert [job.id for job in kind.now.jobs] == [1, 2]
    assert index.place(JobId(2)) == (kind, 1)
    index.follow(replace(later, pending=()), policy, aging[1])
    assert index.queues["q"] == {}
    assert index.jobs == {}


def test_a_job_that_is_gone_ages_no_more(build):
    index, policy, nominals = Index(), build.policy(), {WHOLE: {"q": 8}}
    for hour, pending in enumerate(([build.job(1), build.job(2, 2)], [build.job(2, 2)], [build.job(2, 2)])):
        snapshot = replace(build.snapshot(pending=pending), at_ms=build.now_ms + hour * 3_600_000)
        index.follow(snapshot, policy, Aging(snapshot.at_ms, 7_200, nominals))
    (kinds,) = index.alike["q"].values()
    assert [job.id for kind in kinds for job in kind.jobs] == [2]
    assert index.jobs.keys() == {2}


def test_an_equal_job_read_anew_is_the_same(build):
    policy, aging = build.policy(), Aging(build.now_ms, 3_600, {WHOLE: {"q": 8}})
    index = Index()
    index.follow(build.snapshot(pending=[build.job(1, 1)]), policy, aging)
    first = index.jobs[JobId(1)]
    index.follow(build.snapshot(pending=[build.job(1, 1)]), policy, aging)
    assert index.jobs[JobId(1)] is first
    index.follow(build.snapshot(pending=[build.job(1, 2)]), policy, aging)
    assert index.jobs[JobId(1)].request.gpus == 2
    index.follow(build.snapshot(pending=[build.job(1, 2)]), build.policy(start_reservations=3), aging)
    assert index.place(JobId(1))[1] == 0


def line(build, *names):
    """A line of kinds whose jobs are told by id, in order."""
    walks = []
    for number, ids in enumerate(names):
        jobs = [build.job(job_id, 1) for job_id in ids]
        walks.append(Walk(number, ASKED, [key_of(job, is_aged=False) for job in jobs], jobs))
    return Line("q", walks, {})


def test_sleepers_are_told_when_the_walk_goes_past_them_and_woken_by_changes(build):
    found = line(build, [1, 4, 6], [2, 5], [3])
    found.begin()
    waits = Waits(build.job(1, 1), NoFit(ReasonCode.NO_CAPACITY))
    assert found.head(1, is_full=True).job.id == 1
    found.sleep(waits, is_sound=False)
    assert found.head(1, is_full=True).job.id == 2
    found.sleep(waits, is_sound=True)
    assert found.head(1, is_full=True).job.id == 3
    found.advance()
    assert found.head(2, is_full=True).job.id == 4  # another version: the first kind is awake again
    found.advance()
    assert found.head(2, is_full=False).job.id == 5  # a place among the planned starts wakes the others
    found.finish(waits)
    assert found.head(2, is_full=True).job.id == 6
    found.sleep(waits, is_sound=False)
    assert found.head(2, is_full=True) is None
    assert [walk.told for walk in found.walks] == [[], [], []]


def test_who_sleeps_to_the_end_is_told(build):
    found = line(build, [1, 2, 3], [4])
    found.begin()
    waits = Waits(build.job(1, 1), NoFit(ReasonCode.NO_CAPACITY))
    found.sleep(waits, is_sound=False)
    found.advance()
    assert found.head(0, is_full=True) is None
    assert found.walks[0].told == [lines.Told(1, 3, waits)]


def test_who_holds_a_planned_start_stands_alone(build):
    jobs = [build.job(number, 1) for number in (1, 2, 3)]
    kind = Kind(7, ASKED, can_age=True)
    kind.add([(key_of(job, is_aged=False), job) for job in jobs])
    alike = {kind.now.shape: [kind.now]}
    walks = line_of("q", alike, {id(kind.now): [1]}).walks
    assert [[job.id for job in walk.jobs] for walk in walks] == [[2], [1, 3]]
    only = line_of("q", alike, {id(kind.now): [0, 1, 2]}).walks
    assert [len(walk.jobs) for walk in only] == [1, 1, 1]


def test_reasons_are_worked_out_when_they_are_read_and_once():
    asked = []
    wait = Wait(JobId(2), ReasonCode.NO_CAPACITY)
    entries = Entries([], lambda _jobs: asked.append(1) or [wait], [])
    plan = Plan(0, "v", "1", entries)
    assert plan.effects == ()
    assert asked == []
    assert entries == (wait,)
    assert entries != [Wait(JobId(3), ReasonCode.HELD)]
    assert entries != 3
    assert (len(entries), entries[0], entries[:1], asked) == (1, wait, (wait,), [1])
    assert repr(entries) == repr((wait,))
    assert hash(Entries([], list, [])) == hash(Entries([], lambda: [wait], []))
    admit = Admit(JobId(1), (), None, 1, None)
    assert Plan(0, "v", "1", (admit, wait)).effects == (admit,)


@given(st.lists(st.integers(0, 8), min_size=1, max_size=6), st.integers(1, 30))
def test_the_stock_picks_as_placement_does(free, gpus):
    stock = Stock(len(free), 8)
    stock.move(tuple((node, 8 - left) for node, left in enumerate(free) if left < 8), -1)
    rooms = Rooms([(f"n{node}", 8, left) for node, left in enumerate(free)])
    assert stock.total == sum(free)
    assert stock.pick(gpus) == pick(rooms.free, rooms.sizes, gpus, 1 if gpus <= 8 else None)


def test_an_interval_is_learned_from_the_last_starts():
    record = StartRecord()
    assert record.interval(1_000, 101_000) == Interval(1_000, 101_000, 0)
    record.add(Told(5, 5, 9))  # was to start at once: says nothing
    for share in range(100):
        record.add(Told(0, 100, share))
    assert record.interval(1_000, 101_000) == Interval(1_000 + 9_000, 1_000 + 89_000, 100)
    assert record.interval(1_000, 500) == Interval(1_000, 1_000, 0)


def test_who_still_waits_is_compared_with_those_who_waited_as_long():
    record = StartRecord()
    for share in range(100):
        record.add(Told(0, 100, share))
    assert record.interval(0, 100_000, 50_000) == Interval(55_000, 94_000, 49)
    assert record.interval(0, 100_000, 90_000) == Interval(90_000, 100_000, 0)  # nine waited so long
    assert record.interval(0, 100_000, 200_000) == Interval(200_000, 200_000, 0)


def test_only_the_last_starts_are_remembered():
    record = StartRecord()
    for _ in range(REMEMBERED):
        record.add(Told(0, 100, 10))
    for _ in range(REMEMBERED):
        record.add(Told(0, 100, 90))
    assert record.interval(0, 100_000) == Interval(90_000, 90_000, REMEMBERED)


def test_coverage_learns_only_from_starts_that_had_begun():
    told = [Told(number * 10, number * 10 + 100, number * 10 + 50) for number in range(60)]
    assert coverage(told) == (60, 60)
    late = [Told(10_000, 10_100, 10_100)]
    assert coverage(told + late) == (60, 61)
    assert coverage([]) == (0, 0)
    assert coverage(told + late, 0.4) == (60, 61)
    assert coverage(told + late, 0.9) == (1, 1)  # the others had begun when it was read


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_decision_before_the_first_end_sees_how_long_jobs_run(seed):
    """Run times are permuted; until the first end of either replay every start is the same."""
    chance = random.Random(seed)  # noqa: S311 - a reproducible trace, no secret
    jobs = [
        TraceJob(f"j{number}", number * 40, chance.randrange(600, 4_000), chance.choice([1, 2, 4, 8, 16]), chance.choice("abc"), "", 4_000)
        for number in range(60)
    ]  # fmt: skip
    durations = [job.duration_s for job in jobs]
    chance.shuffle(durations)
    others = [replace(job, duration_s=run_s) for job, run_s in zip(jobs, durations, strict=True)]

    def starts(trace):
        policy = equal_shares(None, trace)
        replay = Replayer(trace, [job.tenant for job in trace], policy, nodes=4, gpus_per_node=8).run()
        spans = sorted((ended.submit_s, ended.spans[0][0]) for ended in replay.ended)
        return spans, min(ended.spans[0][1] for ended in replay.ended)

    (first, first_end), (second, second_end) = starts(jobs), starts(others)
    until = min(first_end, second_end)
    assert [pair for pair in first if pair[1] <= until] == [pair for pair in second if pair[1] <= until]
    assert any(pair[1] <= until for pair in first)


def test_a_long_queue_of_like_jobs_is_told_as_one_by_one(build):
    """Three kinds, many jobs each: starts go by the order, and everyone has a reason."""
    pending = [build.job(number, 1 + number % 3 * 3, wall_s=600) for number in range(1, 60)]
    snapshot = build.snapshot(pending=pending)
    index = Index()
    plan = make_plan(snapshot, build.policy(), index)
    named = [entry.job_id for entry in plan.entries if isinstance(entry, Admit | Wait)]
    assert sorted(named) == list(range(1, 60))
    again = make_plan(snapshot, build.policy(), index)
    assert plan_digest(plan) == plan_digest(again)


def test_runs_that_end_leave_no_end_behind_however_many():
    """One by one or many at once: the ends are those of the runs that are left."""
    runs = [
        Run(f"{n}-1", JobId(n), "q", "h200", 1, ((n % 3, 1),), (0, n), end_ms=1_000 * n) for n in range(1, 40)
    ]
    for count in (1, 3, FEW, FEW + 1, 30):
        ends = Ends()
        ends.change((), runs)
        gone = runs[5 : 5 + count]
        ends.change([run.id for run in gone], ())
        left = [run for run in runs if run not in gone]
        rows = sorted(tuple(row) for row in ends.at(3_500).tolist())
        late = [(max(run.end_ms, 3_500 + OVERDUE_MS) if run.end_ms <= 3_500 else run.end_ms) for run in left]
        assert rows == sorted((end, *run.picks[0]) for end, run in zip(late, left, strict=True))


def test_a_kind_that_nobody_is_of_any_more_is_forgotten(build):
    policy, aging = build.policy(), Aging(build.now_ms, 3_600, {WHOLE: {"q": 8}})
    index = Index()
    index.follow(build.snapshot(pending=[build.job(1, 1), build.job(2, 4)]), policy, aging)
    assert len(index.alike["q"]) == 2
    index.follow(build.snapshot(pending=[build.job(2, 4)]), policy, aging)
    (kinds,) = index.alike["q"].values()
    assert [[job.id for job in kind.jobs] for kind in kinds] == [[2]]
    assert index.group(JobId(2)) == kinds[0].group


def test_nothing_changes_between_a_snapshot_and_itself():
    items = (Item(1, 2),)
    assert changes(items, items) == ([], [])


def test_where_nobody_waits_a_plan_does_nothing(build):
    """So the simulator makes none."""
    plan = make_plan(build.snapshot(live=[build.live(9, "n0:0")]), build.policy())
    assert (tuple(plan.entries), plan.next_ms) == ((), None)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.sampled_from("abc"), st.integers(0, 9)),
            st.tuples(st.just("remove"), st.sampled_from("abc"), st.none()),
            st.tuples(st.just("ask"), st.none(), st.integers(0, 9)),
        )
    )
)
def test_what_is_due_is_what_a_look_at_all_would_find(steps):
    due, known = Due(), {}
    for what, name, at_ms in steps:
        if what == "ask":
            assert {*due.by(at_ms)} == {one for one, its_ms in known.items() if its_ms <= at_ms}
            continue
        due.remove(name)
        known.pop(name, None)
        if what == "add":
            due.add(name, at_ms)
            known[name] = at_ms


def test_what_is_due_is_due_no_more_at_an_earlier_instant():
    due = Due()
    due.add("early", 5)
    due.add("late", 9)
    assert {*due.by(9)} == {"early", "late"}
    assert {*due.by(6)} == {"early"}
    assert {*due.by(9)} == {"early", "late"}


def test_instants_of_what_is_gone_do_not_pile_up():
    due = Due()
    for number in range(1_000):
        due.add(str(number), 10**9 + number)
        due.remove(str(number - 1))
    assert due.kept <= MOST_GONE * 2
    assert due.by(10**10) == {"999"}


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 11), st.integers(1, 3)), max_size=30), st.integers(0, 12)
)
def test_charges_that_are_carried_on_are_those_counted_anew(build, steps, nominal):
    """Whether runs come behind all others or between them, and whatever goes."""
    policy = build.policy({"q": {"nominal": nominal}})
    nodes, live, kept = build.nodes(*[3] * 12), {}, Running()
    tree = build.bounds(build.snapshot(nodes), policy).tree("h200")
    for comes, number, gpus in steps:
        if comes:
            held = " ".join(f"n{number}:{place}" for place in range(gpus))
            live[number] = build.live(number, held, admitted_seq=number)
        else:
            live.pop(number, None)
        snapshot = build.snapshot(nodes, live=sorted(live.values(), key=lambda one: one.id))
        found = []
        for running in (kept, Running()):
            running.follow(snapshot, policy)
            shares = Shares(
                tree,
                snapshot.at_ms,
                running.by_queue("h200", snapshot.at_ms),
                running.charged("h200"),
            )
            found.append(shares.charged("q", snapshot.at_ms))
        assert found[0] == found[1]
