from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, select

from quota import service as quota
from quota.model import Grant, Ground, GroundKind
from scheduler import jobs, nodes, observe, stops
from scheduler.agent.inventory import GpuInventory
from scheduler.apply import LEASE, Applied
from scheduler.compare import compare
from scheduler.dispatch.fake import FakeExecutor, Script
from scheduler.dispatch.wire import Lease
from scheduler.fold import fold
from scheduler.launch import Leader, dispatch
from scheduler.model import JobState, Request
from scheduler.replay import replay_all
from scheduler.service import cycle
from scheduler.tables import AttemptRow, JobRow
from scheduler.warm import Warm
from store import clock, journal, lease
from store.engine import snapshot, transaction
from tenants.model import (
    Category,
    OrganisationId,
    Principal,
    Project,
    ProjectId,
    Role,
    Scope,
    Sector,
    TokenId,
    UserId,
)
from tenants.service import NewOrganisation, NewProject, create_organisation, create_project, create_user

FLAVOR = "h200"
POLICY: dict[str, object] = {
    "policy": {
        "version": "test-1",
        "effective_from": "2026-01-01",
        "grounds": [{"kind": "order", "body": "authorised body", "number": "1", "date": "2025-12-25"}],
        "tree": {
            "science": {"nominal": "50%", "borrowing_limit": 0, "max_walltime": "1d"},
            "business": {
                "nominal": "50%",
                "borrowing_limit": 0,
                "default_walltime": "10m",
                "max_gpus_per_job": 8,
            },
        },
        "routes": [{"category": "university", "queue": "science"}, {"queue": "business"}],
    }
}
WEEK = timedelta(days=7)


def until(is_done: Callable[[], bool], what: str, deadline_s: float = 20.0) -> None:
    end = time.monotonic() + deadline_s
    while not is_done():
        assert time.monotonic() < end, f"{what} did not happen in {deadline_s} s"
        time.sleep(0.01)


@dataclass
class World:
    """A database with a policy, organisations and nodes, and a scheduler that is driven by hand.

    With `like` the database is a copy of that one's, as it was made.
    """

    engine: Engine
    scripts: dict[int, Script] = field(default_factory=dict)
    node_names: tuple[str, ...] = ("n0", "n1")
    gpus: int = 8
    executor: Any = None
    after: dict[str, int] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    looks: int = 0
    warm: Warm = field(default_factory=Warm)
    like: World | None = None

    def __post_init__(self) -> None:
        slots = {name: GpuInventory.simulate(name, self.gpus, FLAVOR).gpus for name in self.node_names}
        self.executor = FakeExecutor(slots, self._script, at=self._agents_now)
        self.pool = ThreadPoolExecutor(4)
        if self.like is not None:
            self.project, self.principal, self.grant = self.like.project, self.like.principal, self.like.grant
            self.leader = self._led(self.like.leader.held)
            return
        at = clock.now()
        with transaction(self.engine) as session:
            quota.enact(session, POLICY, at=at, actor="system")
        self.project, self.principal = self.tenant("aurora", "science")
        self.grant = self.award(self.project)
        self.leader = self.lead("first")

    def _script(self, asked: Lease) -> Script:
        return self.scripts.get(asked.job_id, Script(runs=True))

    def _agents_now(self) -> datetime:
        """The agents' clock: each look at it is at least a millisecond later."""
        self.looks += 1
        return clock.now() + timedelta(milliseconds=self.looks)

    def tenant(self, slug: str, queue: str) -> tuple[Project, Principal]:
        at = clock.now()
        with transaction(self.engine) as session:
            organisation = create_organisation(
                session,
                NewOrganisation(
                    slug=slug,
                    name={"kk": slug, "ru": slug, "en": slug},
                    category=Category.FOREIGN,
                    sector=Sector.EDUCATION,
                    region="Astana",
                    bin=None,
                ),
                actor="system",
                at=at,
            )
            project = create_project(
                session,
                NewProject(
                    organisation_id=OrganisationId(organisation.id),
                    slug=slug,
                    queue=queue,
                    programme=None,
                ),
                actor="system",
                at=at,
            )
            user = create_user(
                session, f"user-{slug}", OrganisationId(organisation.id), actor="system", at=at
            )
        principal = Principal(
            user_id=UserId(user.id),
            user_name=user.name,
            organisation_id=OrganisationId(organisation.id),
            token_id=TokenId(uuid4()),
            scopes=frozenset({Scope.WRITE}),
            platform_roles=frozenset(),
            project_roles={ProjectId(project.id): frozenset({Role.RESEARCHER})},
        )
        return project, principal

    def award(self, project: Project, granted_s: int = 10_000_000, *, days: int = 30) -> Grant:
        at = clock.now()
        ground = Ground(GroundKind.ORDER, "authorised body", "7", date(2026, 1, 5))
        asked = quota.Award(
            project_id=project.id,
            flavor=FLAVOR,
            granted_s=granted_s,
            starts_at=at - timedelta(days=1),
            ends_at=at + timedelta(days=days),
            grounds=(ground,),
        )
        with transaction(self.engine) as session:
            return quota.award(session, asked, at=at, actor="system")

    def lead(self, holder: str) -> Leader:
        """Take the lease, from whoever has it, and register the nodes."""
        with transaction(self.engine) as session:
            later = clock.now() + timedelta(days=1)
            row = session.get(_lease_row(), LEASE)
            if row is not None:
                row.expires_at = datetime(2026, 1, 1, tzinfo=UTC)
                session.flush()
            held = lease.acquire(
                session, LEASE, holder, at=clock.now(), ttl_s=int((later - clock.now()).total_seconds())
            )
            assert held is not None
        self.warm = Warm()
        self.leader = self._led(held)
        for name in self.node_names:
            if name not in self.silent:
                self.register(name)
                observe.relist(self.leader, name)
                self.after[name] = 0
        return self.leader

    def _led(self, held: lease.Held) -> Leader:
        """Who leads by this lease; the nodes that answer know it."""
        for name in self.node_names:
            if name not in self.silent:
                self.executor.remove(name, f"epoch-{held.epoch}", held.epoch)
        return Leader(self.engine, self.executor, held, self.pool, threading.Event())

    def register(self, name: str) -> bool:
        probe = self.executor.probe(name)
        with transaction(self.engine) as session:
            return nodes.register(session, probe, f"http://{name}", at=clock.now(), actor="scheduler:1")

    def submit(self, gpus: int = 1, walltime_s: int = 600, script: Script | None = None, **more: Any) -> int:
        project = more.pop("project", self.project)
        principal = more.pop("principal", self.principal)
        request = Request(gpus, walltime_s, more.pop("flavors", (FLAVOR,)), more.pop("nodes", None))
        fields: dict[str, Any] = {
            "project": project,
            "user_id": principal.user_id,
            "name": "train",
            "command": ("python", "train.py"),
            "request": request,
        }
        with transaction(self.engine) as session:
            policy = quota.policy_in_force(session, clock.now())
            view = jobs.submit(session, jobs.Submission(**(fields | more)), policy=policy, at=clock.now())
        if script is not None:
            self.scripts[view.id] = script
        return view.id

    def cycle(self, *, later_s: float = 0) -> Applied:
        at = clock.now() + timedelta(seconds=later_s)
        applied = cycle(self.leader, "test", at=at, warm=self.warm)
        with snapshot(
            self.engine
        ) as session:  # what is kept is what the tables say, after each cycle of every test
            policy = quota.policy_in_force(session, at)
            assert self.warm.differences(session, at, policy) == ()
        return applied

    def dispatch(self, *, is_fresh: bool = True) -> None:
        with snapshot(self.engine) as session:
            at = clock.now()
            self.warm.read(session, at, quota.policy_in_force(session, at))
        waiting = self.warm.undispatched
        for attempt_id in waiting:
            dispatch(self.leader, attempt_id, is_fresh=is_fresh)

    def stop_what_must(self) -> None:
        with snapshot(self.engine) as session:
            undelivered = stops.undelivered_stops(session)
        stops.deliver_stops(self.leader, undelivered)

    def hear(self) -> None:
        for name in self.node_names:
            if name in self.silent:
                continue
            page = self.executor.observe(name, self.after.get(name, 0), 0)
            observe.take_events(self.leader, page.events)
            self.after[name] = page.next_after

    def turn(self, *, later_s: float = 0) -> Applied:
        """One whole turn of the scheduler's loop."""
        applied = self.cycle(later_s=later_s)
        self.dispatch()
        self.hear()
        self.stop_what_must()
        self.hear()
        return applied

    def view(self, job_id: int) -> jobs.JobView:
        with snapshot(self.engine) as session:
            row = session.get_one(JobRow, job_id)
            return jobs.views_of(session, [row])[0]

    def state(self, job_id: int) -> JobState:
        return self.view(job_id).state

    def finish(self, job_id: int, exit_code: int = 0) -> None:
        view = self.view(job_id)
        assert view.attempt is not None
        for slot in view.slots:
            self.executor.finish(slot.node, view.attempt.id, exit_code)

    def lose(self, name: str) -> None:
        self.silent.add(name)
        with transaction(self.engine) as session:
            assert nodes.mark_down(session, name, at=clock.now(), actor=self.leader.actor)
        observe.lose_nodes(self.leader)

    def regain(self, name: str) -> None:
        self.silent.discard(name)
        self.register(name)
        observe.relist(self.leader, name, is_back=True)

    def cancel(self, job_id: int) -> jobs.JobView:
        with transaction(self.engine) as session:
            return jobs.cancel(session, self.principal, job_id, clock.now())

    def kinds(self, job_id: int) -> list[str]:
        with snapshot(self.engine) as session:
            return [record.kind for record in journal.of_subject(session, f"job:{job_id}")]

    def balance(self) -> Any:
        with snapshot(self.engine) as session:
            return quota.balances(session, [self.project.id])[0].balance

    def check(self) -> None:
        """Invariants 6, 7, 8 (replay) and 13, from outside."""
        self.check_books()
        replayed = replay_all(self.engine)
        assert [cycle for cycle in replayed if cycle.differences] == []

    def check_books(self) -> None:
        """Invariants 6, 7 and 13."""
        verdict = quota.verify(self.engine)
        assert verdict.problems == ()
        with snapshot(self.engine) as session:
            assert compare(session, fold(journal.read(session))) == []
            live = session.execute(
                select(AttemptRow.id, AttemptRow.ranks).where(
                    AttemptRow.state.in_(["ADMITTED", "RUNNING", "COMPLETING"])
                )
            ).all()
        held = [uuid for _, ranks in live for rank in ranks for uuid in rank["gpu_uuids"]]
        assert len(held) == len(set(held))


def _lease_row() -> Any:
    from store.tables import LeaseRow

    return LeaseRow


@pytest.fixture
def world(database: Any) -> Iterator[World]:
    made = World(database.engine)
    yield made
    made.pool.shutdown()


@pytest.fixture
def make_world() -> Callable[..., World]:
    return World


@pytest.fixture
def wait_until() -> Callable[..., None]:
    return until
