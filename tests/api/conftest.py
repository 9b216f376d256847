from __future__ import annotations

import gzip
import io
import tarfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest
from sqlalchemy import Engine, select

from api.app import create_app
from metrics.allocated import Allocated
from scheduler.dispatch.executor import UnreachableError
from scheduler.dispatch.fake import FakeExecutor, Script
from scheduler.dispatch.wire import GpuSlot, Lease, RankLease
from scheduler.model import JobState
from scheduler.tables import ArtefactRow, AttemptRow, GpuRow, JobRow, NodeRow
from store.embedded import SERVER_USER, EmbeddedPostgres
from store.engine import open_engine, transaction
from store.tables import JournalRow
from tenants.access import bootstrap_operator
from tests.api.serving import serving

AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
NODES = {f"n{n}": tuple(GpuSlot(f"GPU-{n}-{i}", i, "h200") for i in range(8)) for n in range(2)}
POLICY = {
    "policy": {
        "version": "2026.1",
        "effective_from": "2026-01-01",
        "grounds": [{"kind": "order", "body": "authorised body", "number": "T-1", "date": "2025-12-26"}],
        "tree": {
            "universities": {"nominal": "50%", "default_walltime": "1h", "max_walltime": "7d"},
            "startups": {"nominal": "25%"},
        },
        "routes": [
            {"category": "university", "queue": "universities"},
            {"category": "startup", "queue": "startups"},
        ],
    }
}
GROUND = {"kind": "order", "body": "authorised body", "number": "T-2", "date": "2025-12-26"}
NAMES = {"kk": "Атауы", "ru": "Название", "en": "Name"}
BINS = {"uni": "940240005121", "firm": "230340029580"}


@dataclass
class Clock:
    at: datetime = AT

    def __call__(self) -> datetime:
        return self.at


@dataclass
class World:
    """A platform with two organisations, one project each, and a user of every role."""

    client: httpx.Client
    engine: Engine
    clock: Clock
    fake: FakeExecutor
    tokens: dict[str, str]
    users: dict[str, str] = field(default_factory=dict)
    is_agent_away: bool = False

    def call(self, who: str | None, method: str, path: str, **extra: Any) -> Any:
        headers = dict(extra.pop("headers", {}))
        if who is not None:
            headers["Authorization"] = f"Bearer {self.tokens[who]}"
        return self.client.request(method, path, headers=headers, **extra)

    def ok(self, who: str, method: str, path: str, body: Any = None, **extra: Any) -> Any:
        answer = self.call(who, method, path, json=body, **extra)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def job(self, who: str = "uni-researcher", **changes: Any) -> Any:
        project = "uni-project" if who.startswith("uni") else "firm-project"
        body = {"project": project, "command": ["true"], "gpus": 1, "walltime_s": 60, **changes}
        return self.call(who, "POST", "/v1/jobs", json=body)

    def executor(self) -> FakeExecutor:
        if self.is_agent_away:
            raise UnreachableError("n0", "its agent did not answer; retry, then check the node")
        return self.fake

    def add_user(self, name: str, organisation: str | None, role: str, project: str | None) -> None:
        user = self.ok("operator", "POST", "/v1/users", {"name": name, "organisation": organisation})
        self.users[name] = user["id"]
        self.ok("operator", "POST", f"/v1/users/{user['id']}/roles", {"role": role, "project": project})
        body = {"user_id": user["id"], "scopes": ["write"], "lifetime_s": 86_400}
        self.tokens[name] = self.ok("operator", "POST", "/v1/tokens", body)["secret"]

    def run(self, job_id: int, *, state: JobState = JobState.COMPLETED, gpu_seconds: int = 60) -> str:
        """Give a job an attempt whose files the fake executor holds, and end it."""
        attempt_id = f"{job_id}-1"
        lease = Lease(
            attempt_id=attempt_id,
            job_id=job_id,
            epoch=1,
            command=("true",),
            world_size=1,
            master_addr="127.0.0.1",
            master_port=29_500,
            ranks=(RankLease(0, (NODES["n0"][0].uuid,)),),
            flavor="h200",
            simulated=True,
            walltime_s=60,
            kill_wait_s=5,
        )
        self.fake.launch("n0", lease)
        rank = {
            "node": "n0",
            "gpu_uuids": [NODES["n0"][0].uuid],
            "started_ms": None,
            "ended_ms": None,
            "exit_code": 0,
            "signal": None,
            "error": None,
        }
        with transaction(self.engine) as session:
            job = session.get_one(JobRow, job_id)
            grant = self.ok(
                "operator",
                "GET",
                f"/v1/grants?project={'uni-project' if job.queue == 'universities' else 'firm-project'}",
            )["items"][0]
            session.add(
                AttemptRow(
                    id=attempt_id,
                    job_id=job_id,
                    state=state.value,
                    share_class="entitled",
                    epoch=1,
                    grant_id=grant["id"],
                    claim_s=60,
                    ranks=[rank],
                    admitted_at=self.clock.at,
                    dispatched_at=self.clock.at,
                    ended_at=self.clock.at,
                )
            )
            session.flush()
            session.add(
                ArtefactRow(
                    job_id=job_id,
                    attempt_id=attempt_id,
                    node="n0",
                    rank=0,
                    path="out/model.npz",
                    size_bytes=5,
                    digest="ab" * 32,
                    created_at=self.clock.at,
                )
            )
            job.state, job.attempts, job.gpu_seconds = state.value, 1, gpu_seconds
            job.first_started_at = job.finished_at = self.clock.at
        return attempt_id

    def journal_length(self) -> int:
        with transaction(self.engine) as session:
            return len(session.scalars(select(JournalRow.id)).all())


def bundle(name: str = "train.py", data: bytes = b"print(1)\n") -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return gzip.compress(plain.getvalue(), mtime=0)


@contextmanager
def running(engine: Engine, tokens: dict[str, str], users: dict[str, str]) -> Iterator[World]:
    """A server of its own on this database."""
    fake = FakeExecutor(NODES, lambda _: Script(log="сәлем\n".encode(), outputs={"out/model.npz": b"hello"}))
    found = World(httpx.Client(), engine, Clock(), fake, dict(tokens), dict(users))
    allocated = [Allocated(engine, found.clock)]
    with serving(create_app(engine, found.executor, project_collectors=allocated, now=found.clock)) as client:
        found.client = client
        yield found


@pytest.fixture
def bare(database: Any) -> Iterator[World]:
    """A platform with nothing but its first operator."""
    with transaction(database.engine) as session:
        issued = bootstrap_operator(session, AT)
    assert issued is not None
    with running(database.engine, {"operator": issued.secret}, {}) as found:
        yield found


@dataclass(frozen=True)
class Template:
    """A database that holds a whole world, to be copied by each test."""

    name: str
    tokens: dict[str, str]
    users: dict[str, str]


def _url(postgres: EmbeddedPostgres, name: str) -> str:
    return postgres.url.replace(f"@/{SERVER_USER}?", f"@/{name}?")


@contextmanager
def copied(postgres: EmbeddedPostgres, template: str, name: str) -> Iterator[Engine]:
    """A copy of a database, gone at the end."""
    with psycopg.connect(_url(postgres, "postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    engine = open_engine(_url(postgres, name), pool_size=4)
    try:
        yield engine
    finally:
        engine.dispose()
        with psycopg.connect(_url(postgres, "postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def template(postgres: EmbeddedPostgres) -> Iterator[Template]:
    name = f"w_{uuid.uuid4().hex[:12]}"
    with copied(postgres, SERVER_USER, name) as engine:
        with transaction(engine) as session:
            issued = bootstrap_operator(session, AT)
        assert issued is not None
        with running(engine, {"operator": issued.secret}, {}) as found:
            _fill(found)
        engine.dispose()
        yield Template(name, found.tokens, found.users)


@pytest.fixture
def world(postgres: EmbeddedPostgres, template: Template) -> Iterator[World]:
    name = f"t_{uuid.uuid4().hex[:12]}"
    with (
        copied(postgres, template.name, name) as engine,
        running(engine, template.tokens, template.users) as found,
    ):
        yield found


def _fill(bare: World) -> None:
    with transaction(bare.engine) as session:
        for node, gpus in NODES.items():
            session.add(
                NodeRow(
                    name=node,
                    url="http://127.0.0.1:1",
                    flavor="h200",
                    state="UP",
                    is_simulated=True,
                    cpus=8,
                    memory_bytes=2**33,
                    labels={},
                    isolation=[],
                    registered_at=AT,
                    last_seen_at=AT,
                )
            )
            session.flush()
            session.add_all(
                GpuRow(uuid=gpu.uuid, node=node, index=gpu.index, flavor="h200", is_present=True)
                for gpu in gpus
            )
    bare.ok("operator", "POST", "/v1/policies", POLICY)
    for slug, category in (("uni", "university"), ("firm", "startup")):
        organisation = {
            "slug": slug,
            "name": NAMES,
            "category": category,
            "sector": "education",
            "region": "KZ-75",
            "bin": BINS[slug],
        }
        bare.ok("operator", "POST", "/v1/organisations", organisation)
        bare.ok("operator", "POST", "/v1/projects", {"organisation": slug, "slug": f"{slug}-project"})
        grant = {
            "project": f"{slug}-project",
            "flavor": "h200",
            "gpu_seconds": 36_000,
            "grounds": [GROUND],
            "starts_at": "2026-01-01T00:00:00Z",
            "ends_at": (AT + timedelta(days=30)).isoformat(),
        }
        bare.ok("operator", "POST", "/v1/grants", grant)
        bare.add_user(f"{slug}-researcher", slug, "researcher", f"{slug}-project")
        bare.add_user(f"{slug}-manager", slug, "project-manager", f"{slug}-project")
    for role in ("reviewer", "council-viewer", "auditor"):
        bare.add_user(role, None, role, None)
