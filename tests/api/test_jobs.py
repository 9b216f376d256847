from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update

from api.app import create_app
from api.i18n import LANGUAGES, translate
from api.routes.jobs import reason_out
from api.tables import IdempotencyRow
from metrics.allocated import Allocated
from scheduler.dispatch.fake import FakeExecutor, Script
from scheduler.model import JobState
from scheduler.tables import JobRow
from store.engine import transaction
from tests.api.conftest import AT, NODES, World
from tests.api.serving import serving


def submit(world: World, key: str, **changes: Any) -> Any:
    body = {"project": "uni-project", "command": ["true"], "gpus": 1, "walltime_s": 60, **changes}
    return world.call("uni-researcher", "POST", "/v1/jobs", json=body, headers={"Idempotency-Key": key})


def jobs_in_database(world: World) -> int:
    with transaction(world.engine) as session:
        return session.scalar(select(func.count()).select_from(JobRow)) or 0


def test_a_job_is_told_whole(world: World) -> None:
    answer = world.job(name="digits", env={"A": "1"}, outputs=["*.npz"], gpus=2, nodes=1)
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    shown = {
        name: job[name]
        for name in (
            "name",
            "command",
            "env",
            "outputs",
            "gpus",
            "nodes",
            "walltime_s",
            "flavors",
            "state",
            "project",
            "queue",
            "place",
            "attempt",
            "is_simulated",
        )
    }
    assert shown == {
        "name": "digits",
        "command": ["true"],
        "env": {"A": "1"},
        "outputs": ["*.npz"],
        "gpus": 2,
        "nodes": 1,
        "walltime_s": 60,
        "flavors": ["h200"],
        "state": "PENDING",
        "project": "uni-project",
        "queue": "universities",
        "place": 0,
        "attempt": None,
        "is_simulated": None,
    }
    assert job["submitted_at"] == "2026-06-01T12:00:00Z"
    assert world.ok("uni-researcher", "GET", f"/v1/jobs/{job['id']}") == job


def test_the_queues_default_walltime_is_taken(world: World) -> None:
    assert world.job(walltime_s=None).json()["walltime_s"] == 3600
    refused = world.job("firm-researcher", walltime_s=None).json()
    assert (refused["code"], refused["errors"][0]["place"]) == ("VALIDATION", "body.walltime_s")


def test_the_same_key_and_body_give_one_job(world: World) -> None:
    first, again = submit(world, "k"), submit(world, "k")
    assert first.json() == again.json()
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert jobs_in_database(world) == 1


def test_a_key_is_its_users_own(world: World) -> None:
    first = submit(world, "k").json()["id"]
    body = {"project": "uni-project", "command": ["true"], "gpus": 1, "walltime_s": 60}
    other = world.call("uni-manager", "POST", "/v1/jobs", json=body, headers={"Idempotency-Key": "k"})
    assert other.json()["id"] != first


def test_a_refused_request_is_not_remembered(world: World) -> None:
    assert submit(world, "k", gpus=1000).status_code == 422
    assert submit(world, "k").status_code == 201


def test_a_key_is_forgotten_after_a_day_and_its_row_removed(world: World) -> None:
    first = submit(world, "k").json()["id"]
    submit(world, "old")
    with transaction(world.engine) as session:
        for row in session.scalars(select(IdempotencyRow)):
            row.created_at = AT - timedelta(hours=24)
    assert submit(world, "k").json()["id"] != first
    with transaction(world.engine) as session:
        assert [row.key for row in session.scalars(select(IdempotencyRow))] == ["k"]


def test_racing_requests_with_one_key_make_one_job(world: World) -> None:
    gate = threading.Barrier(8)

    def go(_: int) -> Any:
        gate.wait(10)
        return submit(world, "race")

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(go, range(8)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 201}) == 1
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} <= {
        "IDEMPOTENCY_IN_FLIGHT"
    }
    assert jobs_in_database(world) == 1


@pytest.mark.parametrize("key", ["", "a b", "x" * 201, "ключ"])
def test_a_key_has_its_form(world: World, key: str) -> None:
    body = {"project": "uni-project", "command": ["true"], "gpus": 1, "walltime_s": 60}
    headers = {"Idempotency-Key": key.encode()}
    assert (
        world.call("uni-researcher", "POST", "/v1/jobs", json=body, headers=headers).json()["code"]
        == "VALIDATION"
    )


def test_pages_hold_every_job_once_newest_first(world: World) -> None:
    made = [world.job().json()["id"] for _ in range(5)]
    seen, cursor = [], None
    while True:
        query = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = world.call("uni-researcher", "GET", "/v1/jobs", params=query).json()
        seen += [job["id"] for job in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == made[::-1]
    exact = world.ok("uni-researcher", "GET", "/v1/jobs?limit=5")
    assert (len(exact["items"]), exact["next_cursor"]) == (5, None)


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=201",
        "limit=-1",
        "limit=x",
        "cursor=%00",
        "cursor=!!",
        "cursor=LTE",
        "cursor=MA",
        "cursor=OTk5OTk5OTk5OTk5OTk5OTk5OTk5",
        "colour=1",
        "state=DONE",
        "project=A_B",
    ],
)
@pytest.mark.parametrize("path", ["/v1/jobs"])
def test_bad_pages_are_refused(world: World, path: str, query: str) -> None:
    assert world.call("uni-researcher", "GET", f"{path}?{query}").json()["code"] == "VALIDATION"


def test_lists_of_every_room_page_by_key(world: World) -> None:
    for path in ("organisations", "projects", "users", "tokens", "products", "grants"):
        whole = world.ok("operator", "GET", f"/v1/{path}?limit=200")["items"]
        seen, cursor = [], ""
        while cursor is not None:
            page = world.ok("operator", "GET", f"/v1/{path}?limit=1{cursor and '&cursor=' + cursor}")
            seen += page["items"]
            cursor = page["next_cursor"]
        assert seen == whole, path
        assert world.call("operator", "GET", f"/v1/{path}?cursor=%C3").status_code == 422


def test_hold_release_cancel_and_their_events(world: World) -> None:
    job = world.job().json()["id"]
    assert world.ok("uni-researcher", "POST", f"/v1/jobs/{job}/hold")["is_held"] is True
    assert world.ok("uni-manager", "POST", f"/v1/jobs/{job}/release")["is_held"] is False
    assert world.ok("operator", "POST", f"/v1/jobs/{job}/cancel")["state"] == "CANCELLED"
    assert world.ok("operator", "POST", f"/v1/jobs/{job}/cancel")["state"] == "CANCELLED"
    assert world.call("uni-researcher", "POST", f"/v1/jobs/{job}/hold").json()["code"] == "CONFLICT"
    events = world.ok("uni-researcher", "GET", f"/v1/jobs/{job}/events")
    assert [event["kind"] for event in events["items"]] == [
        "job.submitted",
        "job.held",
        "job.released",
        "job.cancelled",
    ]
    rest = world.ok(
        "uni-researcher", "GET", f"/v1/jobs/{job}/events?after={events['items'][1]['id']}&limit=1"
    )
    assert [event["kind"] for event in rest["items"]] == ["job.released"]
    assert rest["next_after"] == events["items"][2]["id"]


def test_a_priority_above_zero_needs_an_operator(world: World) -> None:
    assert world.job(priority=-5).status_code == 201
    assert world.job(priority=1).json()["code"] == "FORBIDDEN"
    body = {"project": "uni-project", "command": ["true"], "gpus": 1, "walltime_s": 60, "priority": 1}
    assert world.call("operator", "POST", "/v1/jobs", json=body).status_code == 201


def test_a_wait_is_told_in_the_readers_language(world: World) -> None:
    job = world.job().json()["id"]
    with transaction(world.engine) as session:
        row = session.get_one(JobRow, job)
        row.reason, row.reason_numbers = "WAITING_TURN", {"ahead": 7, "rule": "submitted"}
    texts = {
        language: world.call(
            "uni-researcher", "GET", f"/v1/jobs/{job}", headers={"Accept-Language": language}
        ).json()["reason"]
        for language in ("kk", "ru", "en")
    }
    assert texts["en"] == {
        "code": "WAITING_TURN",
        "numbers": {"ahead": 7, "rule": "submitted"},
        "text": "Job 7 goes first: it was submitted earlier.",
    }
    assert len({reason["text"] for reason in texts.values()}) == 3


WHERE = {
    "node_labels": {"kezek.io/pool": "big"},
    "topology_required": "kezek.kz/block",
    "topology_preferred": "kezek.kz/rack",
    "placement": "spread",
    "cpus_per_gpu": 4,
    "memory_bytes_per_gpu": 64 * 2**30,
}


def test_what_no_node_has_is_refused_in_the_readers_language(world: World) -> None:
    for asks, words in (
        ({"node_labels": {"kezek.kz/rack": "r1"}}, "has the labels kezek.kz/rack=r1"),
        ({"topology_required": "kezek.kz/rack"}, "no one domain of kezek.kz/rack"),
        ({"memory_bytes_per_gpu": 2**50}, "memory asked for each GPU: 1,048,576 GiB"),
        ({"cpus_per_gpu": 4096}, "CPUs asked for each GPU: 4096"),
    ):
        refused = world.job(**asks).json()
        assert refused["code"] == "NEVER_FITS"
        text = reason_out("NEVER_FITS", refused["numbers"], "en").text
        assert words in text
        assert "{" not in text
        assert (
            len({reason_out("NEVER_FITS", refused["numbers"], language).text for language in LANGUAGES}) == 3
        )


@pytest.mark.parametrize("place", sorted(WHERE))
def test_what_is_asked_of_nodes_has_its_form(world: World, place: str) -> None:
    for wrong in ([], "", "a b", 0, {"a b": "c"}, {"a": ""}):
        if place != "node_labels" or wrong != {}:
            refused = world.job(**{place: wrong}).json()
            assert refused["code"] == "VALIDATION"
            assert refused["errors"][0]["place"].startswith(f"body.{place}")


def test_a_job_tells_what_it_asks_of_its_nodes(world: World) -> None:
    plain = world.job().json()
    assert {name: plain[name] for name in WHERE} == {
        **dict.fromkeys(WHERE), "node_labels": {}, "placement": "pack"
    }  # fmt: skip
    with transaction(world.engine) as session:
        row = session.get_one(JobRow, plain["id"])
        for name, value in WHERE.items():
            setattr(row, name, value)
    told = world.ok("uni-researcher", "GET", f"/v1/jobs/{plain['id']}")
    assert {name: told[name] for name in WHERE} == WHERE


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"lacks": "topology", "level": "kezek.kz/rack", "largest": 14}, "in no one domain of kezek.kz/rack, the most in one: 14"),
        ({"lacks": "cpus", "cpus_per_gpu": 8, "free_cpus": 4}, "too few CPUs beside them: 4"),
        ({"lacks": "memory", "memory_bytes_per_gpu": 2**36, "free_memory_bytes": 2**35}, "memory beside them: 32 GiB"),
    ],
)  # fmt: skip
def test_what_is_missing_beside_gpus_is_named(numbers: dict[str, Any], words: str) -> None:
    figures = {"free": 16, "gpus": 8, "flavor": "h200", **numbers}
    texts = {language: reason_out("FRAGMENTED", figures, language).text for language in LANGUAGES}
    assert words in texts["en"]
    assert len(set(texts.values())) == 3
    assert not any("{" in text for text in texts.values())


def test_logs_are_read_by_offset(world: World) -> None:
    job = world.job().json()["id"]
    path = f"/v1/jobs/{job}/logs"
    empty = world.call("uni-researcher", "GET", path)
    assert (empty.content, empty.headers["x-kezek-attempt"], empty.headers["x-kezek-complete"]) == (
        b"",
        "",
        "false",
    )
    attempt = world.run(job)
    whole = world.call("uni-researcher", "GET", path)
    assert whole.content == "сәлем\n".encode()
    assert whole.headers["x-kezek-attempt"] == attempt
    assert whole.headers["x-kezek-next-offset"] == str(len(whole.content))
    assert whole.headers["x-kezek-complete"] == "true"
    assert whole.headers["x-kezek-job-state"] == "COMPLETED"
    assert world.call("uni-researcher", "GET", f"{path}?offset=4").content == whole.content[4:]
    assert world.call("uni-researcher", "GET", f"{path}?attempt=1").content == whole.content
    for query in ("rank=1", "attempt=2"):
        assert world.call("uni-researcher", "GET", f"{path}?{query}").json()["code"] == "NOT_FOUND"
    for query in ("rank=-1", "offset=-1", "wait_s=21", "wait_s=nan", "wait_s=-1"):
        assert world.call("uni-researcher", "GET", f"{path}?{query}").json()["code"] == "VALIDATION"


def test_the_next_attempt_may_be_waited_for_while_the_job_is_not_over(world: World) -> None:
    job = world.job().json()["id"]
    path = f"/v1/jobs/{job}/logs"
    assert world.call("uni-researcher", "GET", f"{path}?attempt=1").headers["x-kezek-attempt"] == ""
    assert world.call("uni-researcher", "GET", f"{path}?attempt=2").json()["code"] == "NOT_FOUND"
    world.run(job, state=JobState.RUNNING)
    following = world.call("uni-researcher", "GET", f"{path}?attempt=2")
    assert (following.content, following.headers["x-kezek-complete"]) == (b"", "false")


def test_following_waits_for_the_first_new_byte(world: World) -> None:
    log = {"bytes": b""}
    world.fake = FakeExecutor(NODES, lambda _: Script(runs=True))
    job = world.job().json()["id"]
    attempt = world.run(job, state=JobState.RUNNING)
    real = world.fake.logs

    class Growing:
        def logs(self, node: str, attempt_id: str, rank: int, offset: int, limit: int) -> Any:
            page = real(node, attempt_id, rank, offset, limit)
            return type(page)(log["bytes"][offset:], len(log["bytes"]), False)

    world.fake = Growing()  # type: ignore[assignment]
    threading.Timer(0.5, lambda: log.update(bytes=b"step 1\n")).start()
    answer = world.call("uni-researcher", "GET", f"/v1/jobs/{job}/logs?wait_s=15")
    assert answer.content == b"step 1\n"
    assert answer.headers["x-kezek-attempt"] == attempt
    late = world.call("uni-researcher", "GET", f"/v1/jobs/{job}/logs?offset=7&wait_s=0.5")
    assert (late.content, late.headers["x-kezek-next-offset"], late.headers["x-kezek-complete"]) == (
        b"",
        "7",
        "false",
    )


def test_outputs_are_listed_and_streamed_with_their_digest(world: World) -> None:
    job = world.job().json()["id"]
    world.run(job)
    listed = world.ok("uni-researcher", "GET", f"/v1/jobs/{job}/outputs")["items"]
    assert [(f["path"], f["size_bytes"], f["sha256"]) for f in listed] == [("out/model.npz", 5, "ab" * 32)]
    answer = world.call("uni-researcher", "GET", f"/v1/jobs/{job}/outputs/0/out/model.npz")
    assert answer.content == b"hello"
    assert answer.headers["repr-digest"].startswith("sha-256=:q6ur")


def test_quota_shows_what_my_projects_have(world: World) -> None:
    quota = world.ok("uni-researcher", "GET", "/v1/quota")
    assert [
        (g["project"], g["balance"]["remaining_s"], g["remaining_gpu_hours"]) for g in quota["grants"]
    ] == [("uni-project", 36_000, 10.0)]
    assert [(q["path"], q["nominal"], q["used_gpus"]) for q in quota["queues"]] == [("universities", 8, 0)]
    in_force = world.ok("firm-manager", "GET", "/v1/policies/in-force")
    assert {q["path"]: q["nominal"] for q in in_force["queues"]} == {"": 16, "universities": 8, "startups": 4}


def test_a_policy_comes_as_yaml_too_and_twice_is_fine(world: World) -> None:
    text = (
        "policy:\n  version: '2026.3'\n  effective_from: 2026-08-01\n"
        "  grounds: [{kind: order, body: b, number: n, date: 2026-07-01}]\n"
        "  tree: {universities: {nominal: 100%}}\n  routes: [{category: university, queue: universities}]\n"
        "  moves: {startups: universities}\n"
    )
    for _ in range(2):
        answer = world.call(
            "operator", "POST", "/v1/policies", content=text, headers={"Content-Type": "application/yaml"}
        )
        assert (answer.status_code, answer.json()["version"]) == (201, "2026.3")
    other = world.call(
        "operator",
        "POST",
        "/v1/policies",
        content=text.replace("100%", "90%"),
        headers={"Content-Type": "application/yaml"},
    )
    assert other.json()["code"] == "CONFLICT"


def test_readiness_names_what_is_missing(world: World) -> None:
    checks = world.call(None, "GET", "/readyz").json()["checks"]
    assert checks["database"]["is_ready"] is True
    assert "start one" in checks["scheduler"]["reason"]
    assert world.call(None, "GET", "/healthz").json() == {"status": "ok"}
    assert world.call(None, "GET", "/metrics").status_code == 200


def test_metrics_that_name_projects_are_for_those_who_oversee_the_platform(world: World) -> None:
    assert world.call(None, "GET", "/metrics/projects").json()["code"] == "UNAUTHENTICATED"
    assert world.call("uni-researcher", "GET", "/metrics/projects").json()["code"] == "FORBIDDEN"
    assert "kezek_project_granted_device_seconds" in world.call("auditor", "GET", "/metrics/projects").text
    public = world.call(None, "GET", "/metrics").text
    assert "kezek_project" not in public
    assert "uni-project" not in public
    assert " project=" not in public.replace(",", " ").replace("{", " ")


def test_the_metrics_own_token_opens_both_pages_and_nothing_else(world: World) -> None:
    registered = [Allocated(world.engine, world.clock)]
    app = create_app(
        world.engine, world.executor, project_collectors=registered, now=world.clock, metrics_token="s" * 32
    )
    with serving(app) as client:
        bearer = {"Authorization": f"Bearer {'s' * 32}"}
        for path in ("/metrics", "/metrics/projects"):
            assert client.get(path, headers=bearer).status_code == 200
            assert client.get(path).json()["code"] == "UNAUTHENTICATED"
            assert (
                client.get(path, headers={"Authorization": "Bearer no"}).json()["code"] == "UNAUTHENTICATED"
            )
        assert client.get("/v1/jobs", headers=bearer).json()["code"] == "UNAUTHENTICATED"


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(("code", "key"), [("EXEC_NOT_FOUND", "EXEC_NOT_FOUND"), ("NO_PORT", "other")])
def test_what_went_wrong_with_a_program_is_told_with_what_to_do(
    world: World, language: str, code: str, key: str
) -> None:
    number = world.job(command=["trian.py"]).json()["id"]
    world.run(number, state=JobState.FAILED)
    with transaction(world.engine) as session:
        session.execute(update(JobRow).where(JobRow.id == number).values(exit_error=code))
    headers = {"Accept-Language": language}
    job = world.call("uni-researcher", "GET", f"/v1/jobs/{number}", headers=headers).json()
    assert job["exit_error"] == code
    assert job["exit_error_text"] == translate(language, f"exit_error.{key}", program="trian.py", code=code)
    hidden = world.call("auditor", "GET", f"/v1/jobs/{number}", headers=headers).json()
    assert "trian.py" not in hidden["exit_error_text"]
