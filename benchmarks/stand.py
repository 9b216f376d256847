"""A database, a policy, tenants, nodes and a leading scheduler for measurements through the real apply path.

PostgreSQL is the embedded one with fsync on; nodes are `FakeExecutor`'s, in memory, so that no agent and no rank is
part of what is measured. Everything lives in a temporary folder and ends with the stand.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sqlalchemy import Engine, text

from quota import service as quota
from quota.model import Ground, GroundKind, Policy
from scheduler import jobs, nodes
from scheduler.agent.inventory import GpuInventory
from scheduler.apply import LEASE
from scheduler.dispatch.fake import FakeExecutor, Script
from scheduler.launch import Leader
from scheduler.measures import percentile
from scheduler.model import Request
from store import clock, embedded, lease, migrate
from store.engine import open_engine, snapshot, transaction
from tenants.model import Category, OrganisationId, Project, Sector, UserId
from tenants.service import NewOrganisation, NewProject, create_organisation, create_project, create_user

FLAVOR = "h100"
GRANTED_S = 10**12
DAY_S = 86_400


@dataclass(frozen=True)
class Tenant:
    """A project with a grant that never ends, and its user."""

    project: Project
    user_id: UserId


class Stand:
    """What a measurement works on; `policy_tree` is the tree of a policy document.

    Args:
        url: of an empty, migrated database.
        tree: the policy's tree.
        node_count: nodes of the fake executor.
        gpus: GPUs of each.
        labels: of nodes by name; their keys are the levels of the topology where the policy knows such.
    """

    def __init__(
        self,
        url: str,
        tree: Mapping[str, object],
        node_count: int,
        gpus: int,
        labels: Mapping[str, Mapping[str, str]] = {},
    ) -> None:
        self.url = url
        self.engine: Engine = open_engine(url)
        names = [f"n{number:05}" for number in range(node_count)]
        slots = {name: GpuInventory.simulate(name, gpus, FLAVOR).gpus for name in names}
        self.executor = FakeExecutor(slots, lambda _: Script(runs=True), at=clock.now)
        levels = sorted({key for of_node in labels.values() for key in of_node})
        policy: dict[str, object] = {
            "version": "bench",
            "effective_from": "2026-01-01",
            "grounds": [{"kind": "order", "body": "benchmark", "number": "1", "date": "2025-12-25"}],
            "tree": tree,
            "routes": [{"queue": self._first_queue(tree)}],
        }
        if levels and "topology" in Policy.__dataclass_fields__:
            policy["topology"] = levels
        document = {"policy": policy}
        with transaction(self.engine) as session:
            quota.enact(session, document, at=clock.now(), actor="system")
            held = lease.acquire(session, LEASE, "bench", at=clock.now(), ttl_s=DAY_S)
        if held is None:
            raise RuntimeError("the lease of a new database is held; use another database")
        for begin in range(0, node_count, 500):
            with transaction(self.engine) as session:
                for name in names[begin : begin + 500]:
                    probe = replace(self.executor.probe(name), labels=dict(labels.get(name, {})))
                    nodes.register(session, probe, f"http://{name}", at=clock.now(), actor="system")
        self.pool = ThreadPoolExecutor(8)
        self.leader = Leader(self.engine, self.executor, held, self.pool, threading.Event())

    def _first_queue(self, tree: Mapping[str, object]) -> str:
        name = next(iter(tree))
        node = tree[name]
        children = node.get("children") if isinstance(node, dict) else None
        return f"{name}/{self._first_queue(children)}" if isinstance(children, dict) else name

    def tenant(self, slug: str, queue: str) -> Tenant:
        """A project of a queue with all the GPU time it may want."""
        at = clock.now()
        ground = Ground(GroundKind.ORDER, "benchmark", "1", date(2026, 1, 5))
        with transaction(self.engine) as session:
            made = NewOrganisation(
                slug=slug,
                name={"kk": slug, "ru": slug, "en": slug},
                category=Category.FOREIGN,
                sector=Sector.EDUCATION,
                region="Astana",
                bin=None,
            )
            organisation = create_organisation(session, made, actor="system", at=at)
            owner = OrganisationId(organisation.id)
            asked = NewProject(organisation_id=owner, slug=slug, queue=queue, programme=None)
            project = create_project(session, asked, actor="system", at=at)
            user = create_user(session, f"user-{slug}", owner, actor="system", at=at)
            award = quota.Award(
                project_id=project.id,
                flavor=FLAVOR,
                granted_s=GRANTED_S,
                starts_at=at - timedelta(days=1),
                ends_at=at + timedelta(days=300),
                grounds=(ground,),
            )
            quota.award(session, award, at=at, actor="system")
        return Tenant(project, UserId(user.id))

    def submit(self, tenant: Tenant, gpus: int, walltime_s: int, *, priority: int = 0) -> int:
        """Submit one job."""
        return submit_all(self.engine, [Asked(tenant, gpus, walltime_s, priority)])[0]

    def close(self) -> None:
        """End what the stand started."""
        self.pool.shutdown()
        self.engine.dispose()


@dataclass(frozen=True)
class Asked:
    """A job to be submitted."""

    tenant: Tenant
    gpus: int
    walltime_s: int
    priority: int = 0
    nodes: int | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


def submission_of(asked: Asked) -> jobs.Submission:
    """The job as a front door submits it."""
    return jobs.Submission(
        project=asked.tenant.project,
        user_id=asked.tenant.user_id,
        name="bench",
        command=("true",),
        request=Request(asked.gpus, asked.walltime_s, (FLAVOR,), asked.nodes, **asked.more),
        priority=asked.priority,
    )


def submit_all(engine: Engine, asked: Sequence[Asked]) -> list[int]:
    """Submit what came side by side, each a submission of its own, in one transaction (T1)."""
    at = clock.now()
    found = [submission_of(one) for one in asked]
    with transaction(engine) as session:
        policy = quota.policy_in_force(session, at)
        return [int(job_id) for job_id in jobs.submit_all(session, found, policy=policy, at=at)]


@contextmanager
def database() -> Iterator[str]:
    """An empty, migrated database with fsync on, gone at the end."""
    with tempfile.TemporaryDirectory(prefix="kezek-bench-") as folder:
        server = embedded.start(Path(folder))
        try:
            engine = open_engine(server.url, pool_size=1)
            migrate.upgrade(engine)
            with snapshot(engine) as session:
                if session.scalar(text("SHOW fsync")) != "on":
                    raise RuntimeError("fsync is off; the figures would mean nothing")
            engine.dispose()
            yield server.url
        finally:
            server.stop()


def postgres_cpu_s(url: str) -> float:
    """CPU seconds of the database's processes so far; those that ended are counted in their parent's."""
    folder = parse_qs(urlsplit(url).query)["host"][0]
    lock = next(Path(folder).glob(".s.PGSQL.*.lock"))
    server = int(lock.read_text().split()[0])
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if server in {int(path.parent.name), int(fields[1])}:
            ticks += sum(map(int, fields[11:13])) + (
                sum(map(int, fields[13:15])) if int(path.parent.name) == server else 0
            )
    return ticks / os.sysconf("SC_CLK_TCK")


def about(seed: int) -> dict[str, object]:
    """Machine, load, seed and commit: what a figure must come with."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    ).stdout.strip()
    return {
        "seed": seed,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load": round(os.getloadavg()[0], 1),
        "commit": commit or "unknown",
        "at": clock.now().isoformat(timespec="seconds"),
    }


def spread(values: list[float], digits: int = 3) -> dict[str, float]:
    """Mean and percentiles; empty for no values."""
    if not values:
        return {}
    found = {"mean": sum(values) / len(values), "max": max(values)}
    ordered = sorted(values)
    found |= {f"p{share}": percentile(ordered, share / 100) for share in (50, 99)}
    return {name: round(value, digits) for name, value in found.items()}


def show(found: Mapping[str, object], *, as_json: bool) -> None:
    """Print the figures."""
    text_of = json.dumps(found) if as_json else "\n".join(f"{key} {value}" for key, value in found.items())
    sys.stdout.write(text_of + "\n")


@dataclass
class Cpu:
    """CPU seconds of this process since it was made."""

    began: float = 0.0

    def __post_init__(self) -> None:
        self.began = time.process_time()

    @property
    def seconds(self) -> float:
        """So far."""
        return round(time.process_time() - self.began, 2)
