"""Replays: readers of traces, figures, baselines, and Kezek's own plan on tiny traces."""

from __future__ import annotations

import io
import json
import re
import sys
from dataclasses import replace
from uuid import UUID

import pytest

from quota import ledger
from quota.model import GrantId
from scheduler.baselines import Baseline
from scheduler.estimates import estimate_s
from scheduler.measures import Disruption, Ended, measure, percentile
from scheduler.model import Admit, JobId, Request, ShareClass, Slot
from scheduler.simulate import Replayer
from scheduler.simulate_cli import SCHEDULERS, replay_baseline, simulate_main
from scheduler.traces import (
    MAX_FIGURE,
    READERS,
    TraceError,
    TraceJob,
    figure,
    read_csv,
    read_openb,
    read_swf,
    within_limit,
)

HEAD = "job_id,submit_s,duration_s,gpus,tenant,sector,est_s"
# One node of 8: a runs 100 s on 6; b wants all 8; c and d are small, c short and d long.
TINY = f"""{HEAD}
a,10,100,6,t1,s0,100
b,11,50,8,t1,s0,60
c,12,60,2,t2,s1,80
d,13,300,2,t2,s1,300
"""


def job(name, submit_s, duration_s, gpus, tenant="t1", walltime_s=None):
    return TraceJob(name, submit_s, duration_s, gpus, tenant, "", walltime_s or duration_s)


def test_csv_is_moved_to_its_first_submission_and_sorted():
    jobs = read_csv(TINY.splitlines())
    assert jobs[0] == TraceJob("a", 0, 100, 6, "t1", "s0", 100)
    assert [found.submit_s for found in jobs] == [0, 1, 2, 3]
    drawn = TraceJob("line-2", 0, 7, 1, "all", "", 300, is_walltime_drawn=True)
    assert read_csv([HEAD, ",5,7,1,,,"]) == [drawn]


def test_swf_takes_what_was_asked_for_before_what_was_used():
    lines = [
        "; a comment",
        "",
        "1 100 5 60 4 -1 -1 8 120 -1 1 7 3 -1 1 -1 -1 -1",
        "2 90 5 60 4 -1 -1 -1 -1 -1 1 7 3 -1 1 -1 -1 -1",
        "3 90 5 60 -1 -1 -1 -1 -1 -1 1 7 3 -1 1 -1 -1 -1",
    ]
    assert read_swf(lines) == [
        TraceJob("2", 0, 60, 4, "user-7", "group-3", 600, is_walltime_drawn=True),
        TraceJob("1", 10, 60, 8, "user-7", "group-3", 120),
    ]
    with pytest.raises(TraceError, match="line 1: has 2 fields"):
        read_swf(["1 2"])


def test_openb_leaves_out_pods_without_gpus_or_a_start():
    head = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time"
    lines = [
        head,
        "p0,1,1,1,460,,LS,Running,10,70,20",
        "p1,1,1,0,0,,LS,Running,0,9,1",
        "p2,1,1,1,1000,,,Pending,0,9,",
    ]
    asks = Request(1, 300, (), 1, cpus_per_gpu=1, memory_bytes_per_gpu=2**20)
    assert read_openb(lines) == [TraceJob("p0", 0, 50, 1, "LS", "", 300, asks, is_walltime_drawn=True)]
    assert read_openb([head, ",1,1,2,1000,,,Running,0,9,1"])[0].tenant == "all"


@pytest.mark.parametrize("figure", ["", "x", "inf", "nan", "1e17", "-1e300"])
def test_a_figure_that_is_none_is_told_with_its_line(figure):
    with pytest.raises(TraceError, match='line 2: "submit_s" is'):
        read_csv([HEAD, f"a,{figure},1,1,t,s,1"])
    assert set(READERS) == {"csv", "swf", "openb"}


def test_a_walltime_that_no_trace_names_is_drawn_by_the_seed_and_the_job_alone():
    """Even in the logarithm between the run time and ten times that, rounded up to what people ask for."""
    drawn = [estimate_s(str(number), 7_000, 1) for number in range(4_000)]
    assert drawn == [estimate_s(str(number), 7_000, 1) for number in range(4_000)]
    assert drawn != [estimate_s(str(number), 7_000, 2) for number in range(4_000)]
    assert set(drawn) == {7_200, 10_800, 14_400, 21_600, 28_800, 43_200, 64_800, 86_400}
    # 10^u <= 86,400 / 7,000 always; P(10^u <= 14,400 / 7,000) = log10(2.057) = 0.313
    assert sum(wall <= 14_400 for wall in drawn) / 4_000 == pytest.approx(0.313, abs=0.03)
    assert estimate_s("a", 0, 1) == 300
    month_s = 30 * 86_400
    beyond = [estimate_s(str(number), month_s, 1) for number in range(100)]
    assert all(wall % 86_400 == 0 and month_s <= wall <= 10 * month_s + 86_400 for wall in beyond)


@pytest.mark.parametrize("sign", ["", "-"])
def test_the_largest_figure_is_the_last_that_a_float_says_exactly(sign):
    """2**53, and the next float after it."""
    assert figure(f"{sign}9007199254740992", "submit_s", 2) == int(f"{sign}1") * MAX_FIGURE
    with pytest.raises(TraceError, match="must be a number within 9007199254740992 of 0"):
        figure(f"{sign}9007199254740994", "submit_s", 2)


DAY_S = 86_400


@pytest.mark.parametrize(
    ("duration_s", "walltime_s", "is_drawn", "longest_s", "expected_s"),
    [
        (72_000, 604_800, True, DAY_S, DAY_S),
        (DAY_S, 604_800, True, DAY_S, DAY_S),
        (DAY_S + 1, 604_800, True, DAY_S, 604_800),  # it ran longer than the queue allows
        (72_000, 604_800, False, DAY_S, 604_800),  # its user asked for that
        (72_000, 604_800, True, None, 604_800),
        (7_000, 7_200, True, DAY_S, 7_200),
    ],
)
def test_a_drawn_walltime_is_no_longer_than_the_queue_takes(
    duration_s, walltime_s, is_drawn, longest_s, expected_s
):
    alone = TraceJob("a", 0, duration_s, 1, "t", "", walltime_s, is_walltime_drawn=is_drawn)
    assert within_limit(alone, longest_s) == replace(alone, walltime_s=expected_s)
    asking = replace(alone, asks=Request(1, walltime_s, ("a",), 1))
    found = within_limit(asking, longest_s)
    assert (found.walltime_s, found.asks) == (expected_s, Request(1, expected_s, ("a",), 1))


def test_jobs_without_walltimes_are_replayed_in_a_queue_that_limits_them(tmp_path, capsys):
    """Jobs of 20 h in a queue that takes a day: nearly every walltime that is drawn alone would be longer."""
    rows = [f"{number},{number},72000,8,t1,s0," for number in range(20)]
    drawn = read_csv([HEAD, *rows])
    assert sum(found.walltime_s > DAY_S for found in drawn) > 10
    (tmp_path / "trace.csv").write_text("\n".join([HEAD, *rows]), encoding="utf-8")
    policy = POLICY.format(version="1", share="100%, max_walltime: 1d")
    (tmp_path / "p.yaml").write_text(policy, encoding="utf-8")
    (tmp_path / "map.yaml").write_text("default: one", encoding="utf-8")
    argv = ["--trace", str(tmp_path / "trace.csv"), "--nodes", "1", "--json"]
    argv += ["--policy", str(tmp_path / "p.yaml"), "--map", str(tmp_path / "map.yaml")]
    assert simulate_main(argv) == 0
    assert json.loads(capsys.readouterr().out)["jobs"] == 20
    (tmp_path / "trace.csv").write_text("\n".join([HEAD, *rows, "x,30,90000,8,t1,s0,"]), encoding="utf-8")
    assert simulate_main(argv) == 2
    assert "1 jobs can never start under this policy" in capsys.readouterr().err


def test_too_long_a_trace_is_refused(monkeypatch):
    monkeypatch.setattr("scheduler.traces.MAX_TRACE_JOBS", 3)
    with pytest.raises(TraceError, match="more than 3 jobs"):
        read_csv(TINY.splitlines())
    assert len(read_csv(TINY.splitlines()[:4])) == 3


def starts(kind, text=TINY):
    jobs = read_csv(text.splitlines())
    ended = replay_baseline(jobs, ["q"] * len(jobs), Baseline(kind, 1, 8))
    by_gpus = {(found.submit_s, found.gpus): found.spans[0][0] for found in ended}
    return [by_gpus[found.submit_s, found.gpus] for found in jobs]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("fifo", [0, 100, 150, 150]),
        ("easy", [0, 100, 2, 150]),
        ("conservative", [0, 100, 2, 150]),
        ("multifactor", [0, 100, 2, 150]),
    ],
)
def test_baselines_start_when_their_rule_says(kind, expected):
    assert starts(kind) == expected


@pytest.mark.parametrize(("is_apart", "expected"), [(False, [0, 1, 61]), (True, [0, 100, 100])])
def test_the_remainder_of_a_gang_goes_to_the_fullest_node_or_to_a_free_one(is_apart, expected):
    """Two nodes of 8: a holds 2; b is 8 + 6, c 2; apart, b waits for a, and c starts beside b's remainder."""
    text = f"{HEAD}\na,0,100,2,t,s,100\nb,1,60,14,t,s,60\nc,2,60,2,t,s,60\n"
    jobs = read_csv(text.splitlines())
    baseline = Baseline("fifo", 2, 8, is_remainder_apart=is_apart)
    ended = replay_baseline(jobs, ["q"] * 3, baseline)
    begun = {found.submit_s: found.spans[0][0] for found in ended}
    assert [begun[found.submit_s] for found in jobs] == expected


def test_multifactor_prefers_who_used_less():
    text = f"""{HEAD}
a,0,100,8,t1,s,100
b,1,100,8,t1,s,100
c,2,100,8,t2,s,100
"""
    assert starts("multifactor", text) == [0, 200, 100]
    assert starts("easy", text) == [0, 100, 200]


def test_easy_and_conservative_differ_in_who_holds_a_start():
    # b holds 100; c would hold 160 only under conservative, which d (2 GPUs, 200 s) must not move.
    text = f"""{HEAD}
a,0,100,6,t,s,100
b,1,60,6,t,s,60
c,2,60,8,t,s,60
d,3,200,2,t,s,200
"""
    assert starts("easy", text) == [0, 100, 203, 3]
    assert starts("conservative", text) == [0, 100, 160, 220]


def test_every_figure_is_what_it_says():
    jobs = [
        Ended("q", "t1", 4, 0, 110, 100, ((10, 110),)),
        Ended("q", "t2", 4, 50, 255, 5, ((250, 255),)),
    ]
    found = measure(jobs, 8, Disruption(2, 1, 30, 4))
    assert found["jobs"] == 2
    assert found["makespan_s"] == 255
    assert found["wait_s"] == {"mean": 105.0, "p50": 105.0, "p95": 190.5, "p99": 198.1, "max": 200}
    assert found["bounded_slowdown"]["mean"] == pytest.approx((1.1 + 20.5) / 2)
    assert found["gpu_utilization_ratio"] == pytest.approx(4 * 40 / (8 * 50))
    x, y = 1 / 1.1, 1 / 20.5
    assert found["jain_index"] == pytest.approx((x + y) ** 2 / (2 * (x * x + y * y)), abs=1e-6)
    assert [
        found[key]
        for key in ("preemptions", "useless_preemptions", "lost_gpu_seconds", "guarantee_violation_s")
    ] == [2, 1, 30, 4]
    assert found["by_queue"]["q"]["gpu_seconds"] == 420
    nothing = measure([], 8, Disruption())
    assert (nothing["jobs"], nothing["jain_index"], nothing["gpu_utilization_ratio"]) == (0, 1.0, 0.0)
    assert percentile([1.0, 2.0], 0.5) == 1.5


def lending(build, grace="1m"):
    return build.policy(
        {
            "a": {"nominal": 8, "preemption": {"grace": grace}},
            "b": {"nominal": 8, "preemption": {"grace": grace}},
        }
    )


def test_a_borrower_gives_way_runs_again_and_the_books_balance(build):
    jobs = [job("1", 0, 7_200, 8), job("2", 0, 3_600, 8), job("3", 600, 60, 8)]
    told = []
    replay = Replayer(jobs, ["a", "a", "b"], lending(build), nodes=2, gpus_per_node=8).run(told.append)
    by_start = {(found.queue, found.run_s): found for found in replay.ended}
    assert by_start["b", 60].spans == ((660.0, 720.0),)
    assert by_start["a", 3_600].spans == ((0.0, 660.0), (720.0, 4_320.0))
    assert replay.disruption == Disruption(1, 0, 8 * 660, 0)
    assert ledger.check(replay.balance)
    assert (replay.balance.pending_s, replay.balance.used_s) == (0, 8 * (7_200 + 3_600 + 660 + 60))
    assert told[-1] == 3


@pytest.mark.parametrize(("cycle_s", "start_s"), [(1, 5.0), (30, 30.0)])
def test_a_job_starts_at_the_cycle_after_its_submission(build, cycle_s, start_s):
    jobs = [job("1", 0, 100, 8), job("2", 5, 100, 8)]
    policy = lending(build)
    replay = Replayer(jobs, ["a", "b"], policy, nodes=2, gpus_per_node=8, cycle_s=cycle_s).run()
    assert [found.spans[0][0] for found in replay.ended] == [0.0, start_s]


def test_work_that_was_lost_counts_as_delay():
    """20 s of work, ten of them run in vain before: 30 s from submission to end is a slowdown of 1.5, and no wait."""
    found = measure([Ended("q", "t", 8, 0, 30, 20, ((0, 10), (10, 30)))], 8, Disruption(1, 0, 80))
    assert found["bounded_slowdown"]["mean"] == 1.5
    assert found["wait_s"]["max"] == 0


def test_what_runs_past_its_walltime_runs_to_its_end(build):
    """A trace may say so; the plan asks to stop it, and a replay does what the trace did."""
    jobs = [job("1", 0, 300, 8, walltime_s=60), job("2", 200, 100, 16)]
    replay = Replayer(jobs, ["a", "b"], lending(build), nodes=2, gpus_per_node=8).run()
    assert {found.id: found.spans for found in replay.ended} == {"1": ((0.0, 300.0),), "2": ((300.0, 400.0),)}
    assert replay.disruption == Disruption()


def test_notices_whose_job_starts_elsewhere_are_counted_as_useless(build):
    """Job 3 has its start, job 4 started 1 s late, and for job 5 two attempts were stopped in vain."""
    replayer = Replayer([], [], lending(build), nodes=2, gpus_per_node=8)
    promised = {JobId(3): (60_000, 1), JobId(4): (60_000, 1), JobId(5): (60_000, 2)}
    replayer._promised.update(promised)
    replayer._keep_promises({JobId(4)}, {JobId(3)}, 61_000)
    assert replayer._promised == {JobId(3): (60_000, 1)}
    assert replayer.run().disruption == Disruption(0, 2, 0, 1)


def test_a_start_that_the_books_do_not_cover_is_an_error(build):
    replayer = Replayer([job("1", 0, 100, 8)], ["a"], lending(build), nodes=1, gpus_per_node=8)
    replayer._submit(0, 0)
    start = Admit(JobId(0), (Slot("n0", ("g",) * 8),), GrantId(UUID(int=1)), 10**16, ShareClass.ENTITLED)
    with pytest.raises(ledger.LedgerError, match="job 0 was planned on a grant that does not cover it"):
        replayer._start(start, 1, 0)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_no_decision_before_the_ends_looks_at_a_run_time(build, scheduler):
    """Run times are exchanged among jobs; until the first end nothing starts elsewhere or at another time."""
    jobs = [
        job(str(number), 30 * number, 1_000 + 50 * number, 1 + number % 5, walltime_s=4_000)
        for number in range(12)
    ]
    runs = [found.duration_s for found in reversed(jobs)]
    other = [replace(found, duration_s=run) for found, run in zip(jobs, runs, strict=True)]

    def replayed(trace):
        if scheduler == "kezek":
            return Replayer(trace, ["a"] * 12, lending(build), nodes=2, gpus_per_node=8).run().ended
        return replay_baseline(trace, ["a"] * 12, Baseline(scheduler, 2, 8))

    def decided(trace):
        begins = [(ended.submit_s, ended.spans[0][0]) for ended in replayed(trace)]
        return sorted(begin for begin in begins if begin[1] < min(runs))

    assert decided(jobs) == decided(other)
    assert len(decided(jobs)) > 3


@pytest.fixture
def tiny(tmp_path):
    (tmp_path / "tiny.csv").write_text(TINY, encoding="utf-8")
    return str(tmp_path / "tiny.csv")


KEYS = "jobs makespan_s gpu_utilization_ratio wait_s bounded_slowdown preemptions useless_preemptions lost_gpu_seconds guarantee_violation_s jain_index by_queue"


def test_the_command_prints_the_same_bytes_for_the_same_input(tiny, capsys):
    for scheduler in SCHEDULERS:
        argv = ["--trace", tiny, "--nodes", "1", "--scheduler", scheduler, "--json"]
        assert simulate_main(argv) == 0
        first = capsys.readouterr().out
        assert simulate_main(argv) == 0
        assert capsys.readouterr().out == first
        assert set(json.loads(first)) == set(KEYS.split())
        assert json.loads(first)["jobs"] == 4


class Terminal(io.StringIO):
    """What is written to a terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize("scheduler", ["kezek", "easy"])
def test_a_bar_with_the_rate_and_what_is_left_goes_to_the_terminal_alone(
    tiny, capsys, monkeypatch, scheduler
):
    argv = ["--trace", tiny, "--nodes", "1", "--scheduler", scheduler, "--json"]
    assert simulate_main(argv) == 0
    plain = capsys.readouterr()
    assert plain.err == ""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert simulate_main(argv) == 0
    assert capsys.readouterr().out == plain.out
    assert re.search(r"4/4.*\d+/s.*0:00:00", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue()))


POLICY = """policy:
  version: "{version}"
  effective_from: 2026-01-01
  grounds: [{{kind: order, body: b, number: "1", date: 2026-01-01}}]
  tree: {{one: {{nominal: {share}}}, two: {{}}}}
  routes: [{{queue: one}}]
"""


def test_two_policies_side_by_side_with_a_map(tiny, tmp_path, capsys):
    paths = [tmp_path / "p1.yaml", tmp_path / "p2.yaml"]
    for path, share in zip(paths, ("75%", "25%"), strict=True):
        path.write_text(POLICY.format(version=path.stem, share=share), encoding="utf-8")
    routes = tmp_path / "map.yaml"
    routes.write_text("tenants: {t1: one}\nsectors: {s1: two}\n", encoding="utf-8")
    argv = [
        "--trace",
        tiny,
        "--nodes",
        "1",
        "--map",
        str(routes),
        "--policy",
        str(paths[0]),
        "--policy",
        str(paths[1]),
    ]
    assert simulate_main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [found[str(path)]["by_queue"].keys() for path in paths] == [{"one", "two"}] * 2
    assert simulate_main(["--trace", tiny, "--nodes", "1", "--policy", str(paths[0])]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "simulated"
    assert "by_queue.t1.jobs 2" in lines


@pytest.mark.parametrize(
    ("routes", "why"),
    [
        ("tenants: {t1: gone}\ndefault: one", "gone is no queue of policy 1"),
        ("tenants: {t1: one}", "no queue for tenant t2"),
        ("colours: {}", "must be a mapping with the keys"),
    ],
)
def test_a_map_that_cannot_be_is_refused(tiny, tmp_path, capsys, routes, why):
    (tmp_path / "p.yaml").write_text(POLICY.format(version="1", share="50%"), encoding="utf-8")
    (tmp_path / "map.yaml").write_text(routes, encoding="utf-8")
    argv = [
        "--trace",
        tiny,
        "--nodes",
        "1",
        "--policy",
        str(tmp_path / "p.yaml"),
        "--map",
        str(tmp_path / "map.yaml"),
    ]
    assert simulate_main(argv) == 2
    assert why in capsys.readouterr().err


def test_what_cannot_be_replayed_says_what_to_change(tiny, tmp_path, capsys):
    for argv, why in [
        (["--trace", tiny, "--nodes", "0"], "must be 1 or more"),
        (["--trace", tiny, "--nodes", "1", "--gpus-per-node", "4"], "add nodes"),
        (["--trace", str(tmp_path / "none"), "--nodes", "1"], "No such file"),
        (["--trace", tiny, "--nodes", "1", "--map", tiny], "give --policy too"),
    ]:
        assert simulate_main(argv) == 2
        assert why in capsys.readouterr().err
    (tmp_path / "p.yaml").write_text(
        POLICY.format(version="1", share="50%, borrowing_limit: 0"), encoding="utf-8"
    )
    (tmp_path / "map.yaml").write_text("default: one", encoding="utf-8")
    argv = [
        "--trace",
        tiny,
        "--nodes",
        "1",
        "--policy",
        str(tmp_path / "p.yaml"),
        "--map",
        str(tmp_path / "map.yaml"),
    ]
    assert simulate_main(argv) == 2
    assert "2 jobs can never start under this policy" in capsys.readouterr().err
