"""Idle jobs through the API: the policy, notices in three languages, who sees what, and use with its energy."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from metrics.efficiency import Fold
from metrics.folds import to_json
from metrics.idle_watch import IdleWatch
from metrics.stretches import tracked
from metrics.tables import AttemptTelemetryRow
from scheduler.model import JobState
from scheduler.tables import AllocationRow, AttemptRow, JobRow
from store import journal
from store.engine import snapshot, transaction
from tests.api.conftest import AT, NODES, World

GPU = NODES["n0"][0].uuid
EARNEST = {"dry_run": False, "notice_after_s": 600, "second_notice_after_s": 1200, "cancel_after_s": 1800}


def start(world: World, who: str = "uni-researcher", **changes: Any) -> int:
    """A running job whose one GPU has stood idle since its start."""
    job_id = int(world.job(who, walltime_s=36_000, **changes).json()["id"])
    attempt_id = world.run(job_id, state=JobState.RUNNING)
    with transaction(world.engine) as session:
        attempt = session.get_one(AttemptRow, attempt_id)
        attempt.started_at = attempt.committed_at = AT
        attempt.ended_at = None
        attempt.claim_s = 36_000
        job = session.get_one(JobRow, job_id)
        job.finished_at = None
        session.add(AllocationRow(attempt_id=attempt_id, gpu_uuid=GPU, node="n0", rank=0, allocated_at=AT))
        session.add(AttemptTelemetryRow(attempt_id=attempt_id, observed_until=AT, fold={}, idle={}))
    return job_id


def pass_by(world: World, job_id: int, minutes: float) -> None:
    """So long after the start nothing has used the GPU, and the watch looks."""
    at = AT + timedelta(minutes=minutes)
    with transaction(world.engine) as session:
        row = session.get_one(AttemptTelemetryRow, f"{job_id}-1")
        row.idle = tracked(row.idle, {GPU: (0.0, (at - row.observed_until).total_seconds())}, at)
        row.observed_until = at
    world.clock.at = at
    IdleWatch(world.engine, world.clock, "test").tick()


def notices(world: World, who: str, job_id: int, language: str = "en") -> Any:
    answer = world.call(who, "GET", f"/v1/jobs/{job_id}/notices", headers={"Accept-Language": language})
    assert answer.is_success, answer.text
    return answer.json()["items"]


def test_the_policy_is_a_dry_run_until_an_operator_sets_one(world: World) -> None:
    before = world.ok("uni-researcher", "GET", "/v1/idle-policy")
    assert (before["id"], before["dry_run"], before["cancel_after_s"]) == (None, True, 7200)
    made = world.ok("operator", "PUT", "/v1/idle-policy", EARNEST)
    assert made | EARNEST == made
    assert made["set_by"].startswith("user:")
    assert world.ok("auditor", "GET", "/v1/idle-policy") == made
    with snapshot(world.engine) as session:
        (record,) = journal.of_kind(session, "idle.policy_set")
    assert (record.actor, record.data["digest"]) == (made["set_by"], made["digest"])


@pytest.mark.parametrize("who", ["uni-manager", "reviewer", "council-viewer", "auditor"])
def test_only_operators_set_the_policy(world: World, who: str) -> None:
    assert world.call(who, "PUT", "/v1/idle-policy", json={}).json()["code"] == "FORBIDDEN"


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ({"cancel_after_s": 60}, "BAD_POLICY", "cancel_after must be longer than second_notice_after"),
        ({"cancel_after_s": 31 * 86_400}, "VALIDATION", "2592000"),
        ({"min_busy_share": 0}, "VALIDATION", "min_busy_share"),
        ({"dryrun": True}, "VALIDATION", "dryrun"),
    ],
)
def test_a_policy_that_cannot_be_is_refused(world: World, body: Any, code: str, said: str) -> None:
    answer = world.call("operator", "PUT", "/v1/idle-policy", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert said in answer.text


def test_notices_and_the_end_are_told_in_three_languages(world: World) -> None:
    world.ok("operator", "PUT", "/v1/idle-policy", EARNEST)
    job_id = start(world)
    for minutes in (10, 20, 30):
        pass_by(world, job_id, minutes)
    for language, words in {
        "en": ("stood idle for 10 min", "Second notice", "went back to the grant"),
        "ru": ("простаивают уже 10 мин", "Второе уведомление", "В грант возвращено"),
        "kk": ("10 мин бойы бос тұр", "Екінші ескертпе", "Грантқа қайтарылғаны"),
    }.items():
        found = notices(world, "uni-researcher", job_id, language)
        assert [one["step"] for one in found] == ["cancel", "second_notice", "notice"]
        for one, word in zip(reversed(found), words, strict=True):
            assert word in one["text"]
            assert "{" not in one["text"]
    cancel, second, first = notices(world, "uni-researcher", job_id)
    assert (first["next_step"], first["next_at"]) == ("second_notice", "2026-06-01T12:20:00Z")
    assert second["next_step"] == "cancel"
    assert (cancel["next_step"], cancel["returned_gpu_seconds"]) == (None, 36_000 - 30 * 60)
    job = world.ok("uni-researcher", "GET", f"/v1/jobs/{job_id}")
    assert (job["state"], job["attempt"]["stop_why"]) == ("COMPLETING", "idle")
    kinds = [one["kind"] for one in world.ok("uni-researcher", "GET", f"/v1/jobs/{job_id}/events")["items"]]
    assert kinds[-4:] == ["idle.notice", "idle.second_notice", "idle.cancelled", "attempt.stopping"]


@pytest.mark.parametrize(
    ("language", "said"), [("kk", "бос тұрды"), ("ru", "простаивали"), ("en", "stood idle")]
)
def test_the_reason_of_the_end_is_told(world: World, language: str, said: str) -> None:
    job_id = start(world)
    with transaction(world.engine) as session:
        job = session.get_one(JobRow, job_id)
        job.state, job.exit_error = JobState.CANCELLED.value, "IDLE"
    headers = {"Accept-Language": language}
    found = world.call("uni-researcher", "GET", f"/v1/jobs/{job_id}", headers=headers).json()
    assert (found["exit_error"], said in found["exit_error_text"]) == ("IDLE", True)


def test_notices_are_the_projects_own(world: World) -> None:
    world.ok("operator", "PUT", "/v1/idle-policy", EARNEST)
    job_id = start(world)
    pass_by(world, job_id, 10)
    assert world.call("firm-researcher", "GET", f"/v1/jobs/{job_id}/notices").status_code == 404
    assert world.ok("firm-researcher", "GET", "/v1/notices")["items"] == []
    assert world.ok("firm-researcher", "GET", "/v1/idle-jobs")["items"] == []
    assert world.call("firm-researcher", "GET", "/v1/notices?project=uni-project").status_code == 404
    for who in ("uni-researcher", "operator", "auditor"):
        assert [one["job_id"] for one in world.ok(who, "GET", "/v1/notices")["items"]] == [job_id]
        assert world.ok(who, "GET", "/v1/notices?project=uni-project")["items"]
    assert [one["job_id"] for one in world.ok("operator", "GET", "/v1/idle-jobs")["items"]] == [job_id]


def test_notices_come_by_the_page(world: World) -> None:
    world.ok("operator", "PUT", "/v1/idle-policy", EARNEST)
    job_id = start(world)
    pass_by(world, job_id, 10)
    pass_by(world, job_id, 20)
    first = world.ok("uni-researcher", "GET", "/v1/notices?limit=1")
    second = world.ok("uni-researcher", "GET", f"/v1/notices?limit=1&cursor={first['next_cursor']}")
    steps = [page["items"][0]["step"] for page in (first, second)]
    assert steps == ["second_notice", "notice"]


def test_a_dry_run_is_shown_to_operators_and_told_to_nobody(world: World) -> None:
    job_id = start(world)
    pass_by(world, job_id, 30)
    assert notices(world, "uni-researcher", job_id) == []
    found = world.ok("operator", "GET", "/v1/idle-jobs")
    assert found["policy"]["dry_run"] is True
    (idle,) = found["items"]
    assert (idle["taken"], idle["next_step"], idle["idle_gpus"]) == (["notice"], "second_notice", 1)
    assert idle["due_at"] == "2026-06-01T13:00:00Z"


def test_interactive_jobs_are_listed_with_their_exemption(world: World) -> None:
    job_id = start(world, is_interactive=True)
    assert world.ok("uni-researcher", "GET", f"/v1/jobs/{job_id}")["is_interactive"] is True
    pass_by(world, job_id, 600)
    (idle,) = world.ok("operator", "GET", "/v1/idle-jobs")["items"]
    assert (idle["exemption"], idle["is_interactive"], idle["next_step"]) == ("interactive", True, None)


def end(world: World, job_id: int, fold: Fold | None) -> None:
    at = AT + timedelta(hours=1)
    world.clock.at = at + timedelta(minutes=1)
    with transaction(world.engine) as session:
        attempt = session.get_one(AttemptRow, f"{job_id}-1")
        attempt.ended_at, attempt.state, attempt.used_s = at, "COMPLETED", 3600
        session.get_one(JobRow, job_id).state = "COMPLETED"
        session.get_one(AllocationRow, (f"{job_id}-1", GPU)).released_at = at
        row = session.get_one(AttemptTelemetryRow, f"{job_id}-1")
        if fold is None:
            session.delete(row)
        else:
            row.fold = to_json(fold)


HALF = Fold(
    observed_s=1800,
    utilisation_s=(900.0, *[0.0] * 49, 900.0, *[0.0] * 50),
    energy_j=720_000,
    energy_observed_s=1800,
    xids={79: 1},
)


def test_use_and_energy_by_project_sector_category_and_product(world: World) -> None:
    job_id = start(world)
    end(world, job_id, HALF)
    product = {
        "slug": "reader",
        "project": "uni-project",
        "name": {"kk": "Атауы", "ru": "Название", "en": "Name"},
        "sector": "education",
        "stage": "idea",
        "started_on": "2026-02-01",
        "jobs": [job_id],
    }
    world.ok("uni-researcher", "POST", "/v1/products", product)
    for by, name in {
        "project": "uni-project",
        "sector": "education",
        "category": "university",
        "product": "reader",
    }.items():
        (found,) = world.ok("uni-researcher", "GET", f"/v1/telemetry/use?by={by}")["items"]
        assert (found["name"], found["attempts"], found["is_simulated"]) == (name, 1, True)
        assert (found["held_gpu_seconds"], found["charged_gpu_seconds"]) == (3600, 3600)
        assert (found["busy_gpu_seconds"], found["useful_gpu_seconds"], found["idle_gpu_seconds"]) == (
            900,
            450,
            900,
        )
        assert found["coverage_ratio"] == 0.5
        assert (found["energy_kwh"], found["energy_coverage_ratio"]) == (0.2, 0.5)
        assert (found["xids"], found["throttled_gpu_seconds"]) == ({"79": 1}, None)
        assert world.ok("operator", "GET", f"/v1/telemetry/use?by={by}")["items"] == [found]
        assert world.ok("firm-researcher", "GET", f"/v1/telemetry/use?by={by}")["items"] == []


def test_what_was_not_observed_is_no_data(world: World) -> None:
    end(world, start(world), None)
    (found,) = world.ok("auditor", "GET", "/v1/telemetry/use")["items"]
    assert (found["held_gpu_seconds"], found["coverage_ratio"]) == (3600, 0)
    for figure in ("busy_gpu_seconds", "useful_gpu_seconds", "energy_kwh", "mean_utilisation_ratio"):
        assert found[figure] is None, figure


def test_the_period_is_that_of_the_attempts_end(world: World) -> None:
    end(world, start(world), HALF)
    use = "/v1/telemetry/use?from={}&to={}".format
    assert world.ok("auditor", "GET", use("2026-06-01T13:00:00Z", "2026-06-02T00:00:00Z"))["items"]
    empty = world.ok("auditor", "GET", use("2026-06-01T00:00:00Z", "2026-06-01T13:00:00Z"))
    assert (empty["items"], empty["from"], empty["to"]) == (
        [],
        "2026-06-01T00:00:00Z",
        "2026-06-01T13:00:00Z",
    )


@pytest.mark.parametrize(
    "query",
    [
        "from=2026-06-02T00:00:00Z&to=2026-06-01T00:00:00Z",
        "from=2026-06-01T00:00:00Z&to=2026-06-01T00:00:00Z",
        "from=2025-05-30T00:00:00Z&to=2026-06-01T00:00:00Z",
        "from=2027-01-01T00:00:00Z",
        "by=user",
    ],
)
def test_a_period_that_cannot_be_is_refused(world: World, query: str) -> None:
    answer = world.call("auditor", "GET", f"/v1/telemetry/use?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "VALIDATION")


def test_the_longest_period_is_told(world: World) -> None:
    query = "from=2025-05-31T00:00:00Z&to=2026-06-01T00:00:00Z"
    assert world.call("auditor", "GET", f"/v1/telemetry/use?{query}").is_success
