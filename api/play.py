"""Plays a workload through the platform's own front door: as operators, users and a reviewer would.

It knows nothing that the HTTP API does not say. What must happen to each job stands in the workload file and is
checked; so are the ledger, the journal, its fold and the replay of every cycle afterwards.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import yaml
from kezek.bundle import pack
from sqlalchemy import Engine

from api.play_stage import Document, PlayError, Stage
from api.play_telemetry import telemetry
from quota.service import verify as verify_ledger
from scheduler.compare import compare
from scheduler.fold import fold
from scheduler.model import FINAL_STATES
from scheduler.replay import replay_all
from store import clock, journal, seal
from store.engine import snapshot

DEADLINE_S: Final = 240
"""The example workload needs under a minute; a slow machine may take longer."""

POLL_S: Final = 0.25
"""Pause between two looks at the jobs: faster than a reader follows."""

SEAL_DEADLINE_S: Final = 15
"""The sealer is about a second behind; a busy machine may take longer."""

HOUR_S: Final = 3600
"""GPU-seconds that the published evidence rule asks of one job."""

REVIEWER: Final = "example-reviewer"
"""The user that verifies the example product; of no organisation, so of nobody's own."""

_DURATION = re.compile(r"(\d+)([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a workload. `problems` is empty when everything held."""

    jobs: int
    completed: int
    gpu_seconds: int
    problems: tuple[str, ...]
    is_verified: bool = False

    def last_line(self) -> str:
        """Return the line that says it all."""
        state = "verified" if self.is_verified else "NOT-verified"
        return f"kezek: OK jobs={self.jobs} completed={self.completed} gpu_seconds={self.gpu_seconds} journal={state}"

    def verified(self, engine: Engine, head_file: Path) -> Outcome:
        """Check ledger, journal, fold and replay against the database; return the outcome with what was found."""
        found = [f"ledger: {problem}" for problem in verify_ledger(engine).problems]
        with snapshot(engine) as session:
            found += [f"fold: {difference}" for difference in compare(session, fold(journal.read(session)))]
        for cycle in replay_all(engine):
            found += [f"replay of cycle {cycle.record_id}: {difference}" for difference in cycle.differences]
        deadline = time.monotonic() + SEAL_DEADLINE_S
        verdict = seal.verify(engine, head_file)
        while verdict.problem is None and verdict.records_unsealed and time.monotonic() < deadline:
            seal.seal_once(engine, head_file, at=clock.now())
            verdict = seal.verify(engine, head_file)
        if verdict.problem:
            found.append(f"journal: {verdict.problem}")
        elif verdict.records_unsealed:
            found.append(
                f"journal: {verdict.records_unsealed} records are not sealed after {SEAL_DEADLINE_S} s"
            )
        return replace(self, problems=(*self.problems, *found), is_verified=verdict.problem is None)


@dataclass(slots=True)
class _Job:
    """A job of the workload on its way."""

    name: str
    project: str
    expect: Mapping[str, Any]
    id: int | None = None
    refused: str | None = None
    seen: str = ""
    view: Document = field(default_factory=dict)

    def is_over(self) -> bool:
        return self.refused is not None or self.view.get("state") in {state.value for state in FINAL_STATES}


def duration_s(text: str) -> int:
    """Return the seconds of a duration such as "60s", "2h".

    Raises:
        PlayError: when it is not one.
    """
    found = _DURATION.fullmatch(str(text))
    if found is None:
        raise PlayError(f"{text!r} is not a duration; write a whole number and s, m, h or d, as 90s")
    return int(found[1]) * _UNIT_S[found[2]]


def play(path: Path, *, url: str, token: str, say: Say, tick: Callable[[], None]) -> Outcome:
    """Play a workload file and tell what happens to each job as it happens.

    Args:
        path: the workload (see `examples/workload.yaml`); its files are taken from the same folder.
        url: the platform's address.
        token: an operator's.
        say: gets one line of text at a time.
        tick: called between two looks; may raise to stop.

    Raises:
        PlayError: when the platform does not do what the workload needs to go on.
    """
    workload: Document = yaml.safe_load(path.read_text(encoding="utf-8"))
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
        stage = Stage(client, token)
        _enter(stage, workload)
        jobs = [_submit(stage, path.parent, job, say) for job in workload["jobs"]]
        _follow(stage, jobs, say, tick)
        problems = [problem for job in jobs for problem in _check(stage, job)]
        problems += _product(stage, workload["product"], {job.name: job for job in jobs}, say)
        completed = [job.id for job in jobs if job.id is not None and job.view["state"] == "COMPLETED"]
        problems += telemetry(partial(stage.must, "GET"), completed, say)
    done = [job for job in jobs if job.id is not None]
    return Outcome(
        jobs=len(jobs),
        completed=sum(job.view["state"] == "COMPLETED" for job in done),
        gpu_seconds=sum(int(job.view["gpu_seconds"]) for job in done),
        problems=tuple(problems),
    )


def _enter(stage: Stage, workload: Document) -> None:
    """Enter organisations, projects, users and grants, unless an earlier run did."""
    project_of = {
        organisation["project"]["slug"]: organisation["slug"] for organisation in workload["organisations"]
    }
    claims: dict[str, int] = {}
    for job in workload["jobs"]:
        if "refused" not in job["expect"]:
            claims[job["project"]] = claims.get(job["project"], 0) + job["gpus"] * duration_s(job["walltime"])
    for organisation in workload["organisations"]:
        plain = {key: organisation[key] for key in ("slug", "name", "category", "sector", "region", "bin")}
        stage.ensure("/v1/organisations", plain)
        project = organisation["project"]
        stage.ensure(
            "/v1/projects",
            {
                "organisation": organisation["slug"],
                "slug": project["slug"],
                "programme": project["programme"],
            },
        )
        stage.tokens[project["slug"]] = _user(
            stage, f"{organisation['slug']}-researcher", organisation["slug"], "researcher", project["slug"]
        )
        remaining = _remaining_s(stage, project["slug"])
        if remaining is None or remaining < claims.get(project["slug"], 0):
            _award(stage, project)
    unknown = {job["project"] for job in workload["jobs"]} - set(project_of)
    if unknown:
        raise PlayError(
            f"the workload's jobs name projects that it does not enter: {', '.join(sorted(unknown))}"
        )


def _remaining_s(stage: Stage, project: str) -> int | None:
    grants = stage.must("GET", f"/v1/grants?project={project}")["items"]
    return sum(grant["balance"]["remaining_s"] for grant in grants) if grants else None


def _award(stage: Stage, project: Document) -> None:
    for grant in project["grants"]:
        decision = {**grant["decision"], "date": str(grant["decision"]["date"])}
        stage.must(
            "POST",
            "/v1/grants",
            body={
                "project": project["slug"],
                "flavor": grant["flavor"],
                "gpu_seconds": grant["gpu_hours"] * 3600,
                "starts_at": _midnight(grant["starts"]),
                "ends_at": _midnight(grant["ends"]),
                "grounds": [decision],
            },
        )


def _midnight(day: date) -> str:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).isoformat()


def _user(stage: Stage, name: str, organisation: str | None, role: str, project: str | None) -> str:
    """Enter a user with a role unless it is there, and return a new token of its own."""
    stage.ensure("/v1/users", {"name": name, "organisation": organisation})
    users = stage.must("GET", "/v1/users?limit=200")["items"]
    user_id = next(user["id"] for user in users if user["name"] == name)
    stage.ensure(f"/v1/users/{user_id}/roles", {"role": role, "project": project})
    body = {"user_id": user_id, "scopes": ["write"], "lifetime_s": 86_400}
    return str(stage.must("POST", "/v1/tokens", body=body)["secret"])


def _submit(stage: Stage, folder: Path, job: Document, say: Say) -> _Job:
    token = stage.tokens[job["project"]]
    bundle = pack([folder / name for name in job["files"]], folder.resolve())
    stage.must(
        "POST", "/v1/bundles", token=token, body=bundle.data, headers={"Content-Type": "application/gzip"}
    )
    made = _Job(job["name"], job["project"], job["expect"])
    body = {
        "project": job["project"],
        "name": job["name"],
        "command": job["command"],
        "gpus": job["gpus"],
        "nodes": job["nodes"],
        "walltime_s": duration_s(job["walltime"]),
        "flavors": [job["flavor"]],
        "outputs": job["outputs"],
        "bundle": bundle.digest,
    }
    key = {"Idempotency-Key": uuid.uuid4().hex}
    status, document = stage.call("POST", "/v1/jobs", token=token, body=body, headers=key)
    if status >= httpx.codes.BAD_REQUEST:
        made.refused = str(document.get("code"))
        say(f"  {job['name']} ({job['project']}): refused, {made.refused}: {document.get('detail')}")
    else:
        made.id = int(document["id"])
        say(f"  {job['name']} ({job['project']}): job {made.id}, {job['gpus']} GPUs, {job['walltime']}")
    return made


def _follow(stage: Stage, jobs: list[_Job], say: Say, tick: Callable[[], None]) -> None:
    """Look until every job has ended, telling each change."""
    started = time.monotonic()
    while not all(job.is_over() for job in jobs):
        tick()
        if time.monotonic() - started > DEADLINE_S:
            late = ", ".join(f"{job.name} {job.view.get('state')}" for job in jobs if not job.is_over())
            raise PlayError(f"not ended after {DEADLINE_S} s: {late}")
        views = {view["id"]: view for view in stage.must("GET", "/v1/jobs?limit=200")["items"]}
        for job in jobs:
            if job.id is None or job.is_over():
                continue
            job.view = views.get(job.id) or stage.must("GET", f"/v1/jobs/{job.id}")
            line = _line(job.view)
            if line != job.seen:
                job.seen = line
                say(f"  {time.monotonic() - started:5.1f} s  job {job.id} {job.name}: {line}")
        time.sleep(POLL_S)


def _line(view: Document) -> str:
    state = str(view["state"])
    if state == "PENDING":
        reason = view.get("reason")
        return f"waits: {reason['code']}, {reason['text']}" if reason else "waits for its first look"
    where = ", ".join(f"{slot['node']}: {len(slot['gpu_uuids'])} GPUs" for slot in view.get("slots", ()))
    if view.get("exit_code") is not None and state not in {"COMPLETED", "RUNNING"}:
        return f"{state}, exit code {view['exit_code']}"
    if state in {"ADMITTED", "RUNNING"}:
        return f"{state} on {where}"
    return f"{state}, {view['gpu_seconds']} GPU-seconds charged"


def _check(stage: Stage, job: _Job) -> list[str]:
    """Compare what became of a job with what the workload expects."""
    expect = job.expect
    if "refused" in expect:
        return (
            [] if job.refused == expect["refused"] else [f"{job.name}: expected refusal {expect['refused']}"]
        )
    if job.refused is not None:
        return [f"{job.name}: was refused with {job.refused}"]
    problems = []
    if job.view["state"] != expect["state"]:
        problems.append(f"{job.name}: ended {job.view['state']}, expected {expect['state']}")
    if "exit_code" in expect and job.view["exit_code"] != expect["exit_code"]:
        problems.append(f"{job.name}: exit code {job.view['exit_code']}, expected {expect['exit_code']}")
    if "waits_for" in expect:
        events = stage.must("GET", f"/v1/jobs/{job.id}/events")["items"]
        reasons = {
            event["data"].get("job", {}).get("reason") for event in events if event["kind"] == "job.waits"
        }
        if expect["waits_for"] not in reasons:
            problems.append(
                f"{job.name}: waited for {sorted(map(str, reasons))}, expected {expect['waits_for']}"
            )
    return problems


def _product(stage: Stage, product: Document, jobs: Mapping[str, _Job], say: Say) -> list[str]:
    """Register the product, have it verified by a reviewer, and look at the verdict and at indicator 2.

    The rule is the published one: a job of seconds is no evidence, and the play says so instead of bending the rule.
    """
    project = product["project"]
    slug = f"{project}-{uuid.uuid4().hex[:8]}"
    stage.must(
        "POST",
        "/v1/products",
        token=stage.tokens[project],
        body={
            "slug": slug,
            "project": project,
            "name": product["name"],
            "sector": "education",
            "stage": "prototype",
            "ai_kind": "vision",
            "started_on": clock.now().astimezone(clock.ALMATY).date().isoformat(),
            "jobs": [jobs[name].id for name in product["jobs"]],
        },
    )
    reviewer = _user(stage, REVIEWER, None, "reviewer", None)
    stage.must("POST", f"/v1/products/{slug}/verify", token=reviewer)
    verdict = stage.must("GET", f"/v1/products/{slug}/verdict")
    held = {entry["condition"]: entry for entry in verdict["conditions"]}
    has_hours = max(int(jobs[name].view["gpu_seconds"]) for name in product["jobs"]) >= HOUR_S
    failing = {name for name, entry in held.items() if not entry["holds"]}
    problems = []
    if failing != (set() if has_hours else {"gpu-hours"}):
        problems.append(
            f"product {slug}: conditions that do not hold: {', '.join(sorted(failing)) or 'none'}"
        )
    say(f"  product {slug} verified (simulated); {held['gpu-hours']['text']}")
    kpi = stage.must("GET", "/v1/kpi/indicators/2")
    year = clock.now().astimezone(clock.ALMATY).year
    this_year = next((entry for entry in kpi["years"] if entry["year"] == year), None)
    is_counted = slug in {entry["slug"] for entry in kpi["counted"]}
    if this_year is None or this_year["added"] is None or is_counted != has_hours:
        return [*problems, f"indicator 2 of {year} and the verdict on product {slug} differ"]
    say(
        f"  indicator 2 of {year}: {this_year['added']} added, {this_year['cumulative']} in all, "
        f"target {this_year['target']}"
    )
    return problems
