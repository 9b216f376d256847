"""`kezek-server simulate`: replay a trace and print its figures. Everything it shows is *simulated*."""

from __future__ import annotations

import argparse
import heapq
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Final

import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from quota.model import Policy, QuotaNode
from quota.policy import PolicyError, load_policy_text, policy_queue
from scheduler.baselines import Asked, Baseline
from scheduler.machines import READERS as MACHINES
from scheduler.measures import Disruption, Ended, measure
from scheduler.model import Node
from scheduler.simulate import MS, Replayer
from scheduler.traces import READERS, TraceError, TraceJob, within_limit

SCHEDULERS: Final = ("kezek", "fifo", "easy", "conservative", "multifactor")
"""What can be asked for by `--scheduler`."""
WHERE: Final = (
    "Traces: Parallel Workloads Archive (swf); alibaba/clusterdata, cluster-trace-gpu-v2023 (openb); "
    "msr-fiddle/philly-traces, converted to the columns job_id,submit_s,duration_s,gpus,tenant,sector,est_s (csv)."
)
"""Where a user gets traces."""


class UsageError(ValueError):
    """What was asked for cannot be replayed; the message says what to change."""


Load = tuple[Sequence[TraceJob], Sequence[str], Policy, tuple[Node, ...] | None]
"""Jobs, the queue of each, the policy that these are queues of, and the nodes; None = uniform ones."""


def simulate_main(
    argv: Sequence[str] | None = None, read_journal: Callable[[int], Load] | None = None
) -> int:
    """Replay a trace; prints one JSON object (`--json`) or lines of figures.

    Args:
        argv: the command line without the command; None = this process's.
        read_journal: gives the platform's own load of so many days, for `--from-journal`.

    Returns:
        0, or 2 when the trace, the policy or the map cannot be used.
    """
    args = _parser().parse_args(argv)
    try:
        runs = [_run(args, policy, read_journal) for policy in args.policy or [None]]
    except (UsageError, TraceError, PolicyError, OSError) as error:
        sys.stderr.write(f"kezek-server simulate: {error}\n")
        return 2
    found = (
        runs[0] if len(runs) == 1 else {str(path): run for path, run in zip(args.policy, runs, strict=True)}
    )
    if args.json:
        sys.stdout.write(json.dumps(found, sort_keys=True) + "\n")
    else:
        sys.stdout.write("simulated\n" + "\n".join(_lines(found)) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kezek-server simulate", description=__doc__, epilog=WHERE)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--trace", type=Path)
    source.add_argument(
        "--from-journal", action="store_true", help="the platform's own load; needs its database"
    )
    parser.add_argument("--days", type=int, default=30, help="of the journal, back from now")
    parser.add_argument("--format", choices=sorted(READERS), default="csv")
    parser.add_argument("--map", type=Path, help="YAML: tenants and sectors to queues, and a default queue")
    machine = parser.add_mutually_exclusive_group()
    machine.add_argument("--nodes", type=int, help="uniform nodes, on which jobs ask for GPUs alone")
    machine.add_argument(
        "--machine", type=Path, help="nodes with flavor, CPUs, memory and labels, in the trace's format"
    )
    parser.add_argument("--gpus-per-node", type=int, default=8, help="of uniform nodes")
    parser.add_argument(
        "--policy", type=Path, action="append", help="twice compares two policies side by side"
    )
    parser.add_argument("--scheduler", choices=SCHEDULERS, default="kezek")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the walltimes of jobs for which the trace names none"
    )
    parser.add_argument("--json", action="store_true")
    return parser


def _load(
    args: argparse.Namespace, policy_path: Path | None, read_journal: Callable[[int], Load] | None
) -> Load:
    """What is replayed, and under which policy."""
    if args.trace is not None:
        with args.trace.open(encoding="utf-8") as lines:
            jobs = READERS[args.format](lines, args.seed)
        policy, queues = _queues(jobs, policy_path, args.map)
        jobs = _within_limits(jobs, queues, policy)
        return jobs, queues, policy, _machine(args.machine, args.format)
    if read_journal is None or args.days < 1:
        raise UsageError("--from-journal needs the platform's database, and --days 1 or more")
    if args.machine is not None:
        raise UsageError(
            "--machine is for a trace; --from-journal without --nodes has the platform's own nodes"
        )
    own, waited_in, policy, nodes = read_journal(args.days)
    if policy_path is not None:
        policy = load_policy_text(policy_path.read_text(encoding="utf-8"))[1]
    queues = [policy_queue(policy, queue) for queue in waited_in]
    _check_queues("the journal", queues, policy)
    return own, queues, policy, nodes if args.nodes is None else None


def _machine(path: Path | None, trace_format: str) -> tuple[Node, ...] | None:
    """The nodes of a file; None without one."""
    if path is None:
        return None
    if trace_format not in MACHINES:
        raise UsageError(
            f"--machine is read as {' or '.join(sorted(MACHINES))}; give --nodes with {trace_format}"
        )
    with path.open(encoding="utf-8") as lines:
        return MACHINES[trace_format](lines)


def _within_limits(jobs: Sequence[TraceJob], queues: Sequence[str], policy: Policy) -> list[TraceJob]:
    """The jobs, drawn walltimes no longer than their queues take where the runs fit that."""
    longest_s = {node.path: node.max_walltime_s for node in policy.tree}
    return [within_limit(job, longest_s[queue]) for job, queue in zip(jobs, queues, strict=True)]


def _check_queues(source: str, queues: Sequence[str], policy: Policy) -> None:
    """Every queue is one of the policy.

    Raises:
        UsageError: one is not.
    """
    inner = {node.parent for node in policy.tree}
    unknown = sorted(set(queues) - {node.path for node in policy.tree if node.path not in inner})
    if unknown:
        raise UsageError(f"{source}: {', '.join(unknown)} is no queue of policy {policy.version}")


def _run(
    args: argparse.Namespace, policy_path: Path | None, read_journal: Callable[[int], Load] | None
) -> dict[str, object]:
    jobs, queues, policy, machine = _load(args, policy_path, read_journal)
    if machine is None and ((args.nodes or 0) < 1 or args.gpus_per_node < 1):
        raise UsageError("--nodes (or --machine) is needed; --nodes and --gpus-per-node must be 1 or more")
    capacity = (
        args.nodes * args.gpus_per_node if machine is None else sum(len(node.gpu_uuids) for node in machine)
    )
    largest = max((job.gpus for job in jobs), default=0)
    if largest > capacity:
        raise UsageError(f"the trace has a job of {largest} GPUs, the cluster {capacity}; add nodes")
    if args.scheduler != "kezek":
        if machine is not None:
            raise UsageError(f"{args.scheduler} knows uniform nodes only; give --nodes")
        baseline = Baseline(args.scheduler, args.nodes, args.gpus_per_node)
        with _progress(len(jobs)) as show:
            ended = replay_baseline(jobs, queues, baseline, show)
        return measure(ended, capacity, Disruption())
    replayer = Replayer(
        jobs,
        queues,
        policy,
        nodes=args.nodes if machine is None else machine,
        gpus_per_node=args.gpus_per_node,
    )
    with _progress(len(jobs)) as show:
        replay = replayer.run(show)
    if len(replay.ended) < len(jobs):
        raise UsageError(f"{len(jobs) - len(replay.ended)} jobs can never start under this policy; change it")
    return measure(replay.ended, capacity, replay.disruption)


def replay_baseline(
    jobs: Sequence[TraceJob],
    queues: Sequence[str],
    baseline: Baseline,
    show: Callable[[int], None] = lambda _: None,
) -> list[Ended]:
    """Replay a trace with a baseline; it plans at every submission and every end.

    Args:
        jobs: by submission.
        queues: of each job.
        baseline: the scheduler.
        show: told how many jobs have started, as these are decided.
    """
    events = [(job.submit_s * MS, 1, number) for number, job in enumerate(jobs)]
    heapq.heapify(events)
    ended: list[Ended] = []
    while events:
        at_ms = events[0][0]
        while events and events[0][0] == at_ms:
            _, is_submit, number = heapq.heappop(events)
            job = jobs[number]
            if is_submit:
                baseline.submit(Asked(number, job.gpus, job.walltime_s * MS, at_ms, job.tenant))
            else:
                baseline.end(number)
        for begun in baseline.plan(at_ms):
            number = begun.job.number
            job = jobs[number]
            end_ms = at_ms + job.duration_s * MS
            heapq.heappush(events, (end_ms, 0, number))
            span = (at_ms / MS, end_ms / MS)
            ended.append(
                Ended(
                    queue=queues[number],
                    tenant=job.tenant,
                    gpus=job.gpus,
                    submit_s=job.submit_s,
                    end_s=span[1],
                    run_s=job.duration_s,
                    spans=(span,),
                    id=job.id,
                )
            )
        show(len(ended))
    return ended


def _queues(
    jobs: Sequence[TraceJob], policy_path: Path | None, map_path: Path | None
) -> tuple[Policy, list[str]]:
    """The policy and each job's queue; without a map one queue per tenant, with equal shares."""
    policy = None if policy_path is None else load_policy_text(policy_path.read_text(encoding="utf-8"))[1]
    if map_path is None:
        return equal_shares(policy, jobs), [queue_name(job.tenant) for job in jobs]
    if policy is None:
        raise UsageError("--map names queues of a policy; give --policy too")
    routes = yaml.safe_load(map_path.read_text(encoding="utf-8"))
    if not isinstance(routes, dict) or not routes.keys() <= {"tenants", "sectors", "default"}:
        raise UsageError(f"{map_path}: must be a mapping with the keys tenants, sectors, default")
    queues = [_routed(job, routes) for job in jobs]
    _check_queues(str(map_path), queues, policy)
    return policy, queues


def _routed(job: TraceJob, routes: Mapping[str, object]) -> str:
    for key, name in (("tenants", job.tenant), ("sectors", job.sector)):
        known = routes.get(key)
        if isinstance(known, dict) and name in known:
            return str(known[name])
    if "default" not in routes:
        raise UsageError(f"the map has no queue for tenant {job.tenant}, and no default")
    return str(routes["default"])


def queue_name(tenant: str) -> str:
    """The tenant as the name of a queue: lower case, `-` for what is no letter or digit."""
    return "".join(letter if letter.isalnum() else "-" for letter in tenant.lower()).strip("-") or "all"


def equal_shares(policy: Policy | None, jobs: Sequence[TraceJob]) -> Policy:
    """One queue per tenant; the settings are the policy's where one is given."""
    tree = tuple(QuotaNode(name, grace_s=120) for name in sorted({queue_name(job.tenant) for job in jobs}))
    if policy is None:
        return Policy("equal-shares", date(2026, 1, 1), (), tree, ())
    return replace(policy, tree=tree, routes=(), moves={})


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar with the rate and what is left, while it lasts; only where the errors go to a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    begun = time.monotonic()
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.0f}/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task("", total=total, rate=0.0)

        def show(ended: int) -> None:
            bar.update(task, completed=ended, rate=ended / max(time.monotonic() - begun, 1e-3))

        yield show


def _lines(found: object, prefix: str = "") -> list[str]:
    """Figures as lines `a.b value`."""
    if isinstance(found, Mapping):
        return [line for key, value in found.items() for line in _lines(value, f"{prefix}{key}.")]
    return [f"{prefix.rstrip('.')} {found}"]
