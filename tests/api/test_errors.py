from __future__ import annotations

import hashlib
import json
import re
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from api.app import create_app
from api.errors import STATUS, ErrorCode
from api.findings import Finding, of_refusal
from api.i18n import LANGUAGES, catalogue
from api.limits import MAX_PUBLIC_PER_MINUTE
from store.engine import open_engine, transaction
from tests.api.conftest import BINS, GROUND, NAMES, POLICY, World, bundle
from tests.api.serving import serving

DOCS = Path(__file__).parents[2] / "docs" / "api.md"


def organisation(**changes: Any) -> dict[str, Any]:
    return {
        "slug": "new",
        "name": NAMES,
        "category": "university",
        "sector": "energy",
        "region": "KZ-75",
        "bin": "070940008436",
        **changes,
    }


def policy(**changes: Any) -> dict[str, Any]:
    return {"policy": {**POLICY["policy"], "version": "2026.2", "effective_from": "2026-07-01", **changes}}


def grant(**changes: Any) -> dict[str, Any]:
    return {
        "project": "uni-project",
        "flavor": "h200",
        "gpu_seconds": 10,
        "grounds": [GROUND],
        "starts_at": "2026-01-01T00:00:00Z",
        "ends_at": "2026-12-31T00:00:00Z",
        **changes,
    }


def product(**changes: Any) -> dict[str, Any]:
    return {
        "slug": "reader",
        "project": "uni-project",
        "name": NAMES,
        "sector": "education",
        "stage": "idea",
        "started_on": "2026-02-01",
        **changes,
    }


def bad_request(w: World) -> Any:
    return w.call(
        "operator", "POST", "/v1/organisations", content=b"{", headers={"Content-Type": "application/json"}
    )


def expired(w: World) -> Any:
    w.clock.at += timedelta(days=2)
    return w.call("uni-researcher", "GET", "/v1/me")


def revoked(w: World) -> Any:
    mine = w.ok("uni-researcher", "GET", "/v1/tokens")["items"][0]["id"]
    w.ok("uni-researcher", "DELETE", f"/v1/tokens/{mine}")
    return w.call("uni-researcher", "GET", "/v1/me")


def in_flight(w: World) -> Any:
    mark = hashlib.sha256(f"{w.users['uni-researcher']}:k1".encode()).digest()
    with transaction(w.engine) as session:
        session.execute(
            text("SELECT pg_advisory_xact_lock(:n)"), {"n": int.from_bytes(mark[:8], signed=True)}
        )
        return submit(w, "k1")


def submit(w: World, key: str, **changes: Any) -> Any:
    body = {"project": "uni-project", "command": ["true"], "gpus": 1, "walltime_s": 60, **changes}
    return w.call("uni-researcher", "POST", "/v1/jobs", json=body, headers={"Idempotency-Key": key})


def mismatch(w: World) -> Any:
    assert submit(w, "k2").status_code == 201
    return submit(w, "k2", gpus=2)


def no_policy(w: World) -> Any:
    w.clock.at -= timedelta(days=300)
    return w.call("operator", "GET", "/v1/policies/in-force")


def suspended(w: World) -> Any:
    w.ok("operator", "PUT", "/v1/projects/uni-project/status", {"status": "suspended"})
    return w.job()


def late_job(w: World) -> Any:
    body = {"scopes": ["write"], "lifetime_s": 60 * 86_400, "user_id": w.users["uni-researcher"]}
    w.tokens["uni-researcher"] = w.ok("operator", "POST", "/v1/tokens", body)["secret"]
    w.clock.at += timedelta(days=29, hours=23)
    return w.job(walltime_s=2 * 86_400)


def queue_full(w: World) -> Any:
    with transaction(w.engine) as session:
        session.execute(
            text(
                "INSERT INTO jobs (project_id, user_id, queue, state, priority, gpus, flavors, walltime_s, submitted_at, is_held,"
                " is_cancel_requested, attempts, launch_refusals, node_failures, gpu_seconds, depends_on, preemptions,"
                " node_labels, placement)"
                " SELECT p.id, u.id, p.queue, 'PENDING', 0, 1, '{h200}', 60, now(), false, false, 0, 0, 0, 0, '[]', 0, '{}', 'pack'"
                " FROM projects p, users u, generate_series(1, 5000)"
                " WHERE p.slug = 'uni-project' AND u.name = 'uni-researcher'"
            )
        )
    return w.job()


def queue_unknown(w: World) -> Any:
    with transaction(w.engine) as session:
        session.execute(text("UPDATE projects SET queue = 'gone' WHERE slug = 'uni-project'"))
    return w.job()


def agent_away(w: World) -> Any:
    job = w.job().json()["id"]
    w.run(job)
    w.is_agent_away = True
    return w.call("uni-researcher", "GET", f"/v1/jobs/{job}/logs")


def digest_mismatch(w: World) -> Any:
    job = w.job().json()["id"]
    w.run(job)
    w.ok("uni-researcher", "POST", "/v1/products", product(jobs=[job]))
    body = {"version": "1", "job": job, "path": "out/model.npz", "sha256": "0" * 64}
    return w.call("uni-researcher", "POST", "/v1/products/reader/model-versions", json=body)


def not_independent(w: World) -> Any:
    w.ok("uni-researcher", "POST", "/v1/products", product())
    w.ok("operator", "POST", f"/v1/users/{w.users['uni-researcher']}/roles", {"role": "reviewer"})
    return w.call("uni-researcher", "POST", "/v1/products/reader/verify")


def dossier(w: World, part: str = "", body: Any = None, **query: str) -> Any:
    opened = {"slug": "reader", "project": "uni-project", "name": NAMES}
    w.ok("uni-researcher", "POST", "/v1/dossiers", opened)
    path = f"/v1/dossiers/reader{part}"
    return w.call("uni-researcher", "POST" if body else "GET", path, json=body, params=query)


def books(**changes: Any) -> dict[str, Any]:
    payment = {"contract": "1", "number": "1", "paid_on": "2026-02-01", "amount": "5.00", "currency": "USD"}
    return {
        "starts_on": "2026-01-01",
        "ends_on": "2026-05-31",
        "parties": [{"id": "a", "is_foreign": True}],
        "contracts": [{"number": "1", "party": "a"}],
        "payments": [{**payment, **changes}],
    }


def without_rate(w: World) -> Any:
    assert dossier(w, "/books", books()).is_success
    query = {"starts_on": "2026-01-01", "ends_on": "2026-05-31"}
    return w.call("uni-researcher", "GET", "/v1/dossiers/reader/localisation", params=query)


def form_in_english(w: World) -> Any:
    assert dossier(w, "/books", books(currency="KZT")).is_success
    body = {"starts_on": "2026-01-01", "ends_on": "2026-05-31", "responsible": "x", "contact": "y"}
    made = w.ok("uni-researcher", "POST", "/v1/dossiers/reader/calculations", body)
    path = f"/v1/dossiers/reader/calculations/{made['id']}/form?language=en"
    return w.call("uni-researcher", "GET", path)


def too_often(w: World) -> Any:
    for _ in range(MAX_PUBLIC_PER_MINUTE):
        assert w.call(None, "GET", "/v1/public/open-data/schema").is_success
    return w.call(None, "GET", "/v1/public/open-data/schema")


CASES: dict[ErrorCode, Any] = {
    ErrorCode.BAD_REQUEST: bad_request,
    ErrorCode.VALIDATION: lambda w: w.job(gpus=-1),
    ErrorCode.UNAUTHENTICATED: lambda w: w.call(None, "GET", "/v1/me"),
    ErrorCode.TOKEN_EXPIRED: expired,
    ErrorCode.TOKEN_REVOKED: revoked,
    ErrorCode.FORBIDDEN: lambda w: w.call("uni-manager", "POST", "/v1/organisations", json=organisation()),
    ErrorCode.NOT_FOUND: lambda w: w.call("operator", "GET", "/v1/jobs/999"),
    ErrorCode.UNKNOWN_PROJECT: lambda w: w.job(project="nowhere"),
    ErrorCode.METHOD_NOT_ALLOWED: lambda w: w.call("operator", "DELETE", "/v1/jobs"),
    ErrorCode.CONFLICT: lambda w: w.call(
        "operator", "POST", "/v1/organisations", json=organisation(slug="uni")
    ),
    ErrorCode.IDEMPOTENCY_IN_FLIGHT: in_flight,
    ErrorCode.IDEMPOTENCY_MISMATCH: mismatch,
    ErrorCode.BODY_TOO_LARGE: lambda w: w.call("operator", "POST", "/v1/jobs", json={"x": "y" * 10_000_000}),
    ErrorCode.UNSUPPORTED_MEDIA: lambda w: w.call(
        "operator", "POST", "/v1/organisations", content=b"a=b", headers={"Content-Type": "text/plain"}
    ),
    ErrorCode.BAD_BIN: lambda w: w.call(
        "operator", "POST", "/v1/organisations", json=organisation(bin="070940008437")
    ),
    ErrorCode.NO_ROUTE: lambda w: (
        w.ok("operator", "POST", "/v1/organisations", organisation(category="business")),
        w.call("operator", "POST", "/v1/projects", json={"organisation": "new", "slug": "p"}),
    )[1],
    ErrorCode.NO_POLICY: no_policy,
    ErrorCode.BAD_POLICY: lambda w: w.call("operator", "POST", "/v1/policies", json=policy(colour="blue")),
    ErrorCode.SHARES_EXCEED: lambda w: w.call(
        "operator",
        "POST",
        "/v1/policies",
        json=policy(tree={"universities": {"nominal": "80%"}, "startups": {"nominal": "30%"}}),
    ),
    ErrorCode.NO_ENACTING_ACT: lambda w: w.call(
        "operator", "POST", "/v1/grants", json=grant(grounds=[{**GROUND, "kind": "council-protocol"}])
    ),
    ErrorCode.BAD_GRANT: lambda w: w.call(
        "operator", "POST", "/v1/grants", json=grant(ends_at="2025-12-31T00:00:00Z")
    ),
    ErrorCode.PROJECT_SUSPENDED: suspended,
    ErrorCode.NEVER_FITS: lambda w: w.job(gpus=1000),
    ErrorCode.GRANT_NOT_ACTIVE: late_job,
    ErrorCode.BUDGET_EXHAUSTED: lambda w: w.job(gpus=8, walltime_s=86_400),
    ErrorCode.QUEUE_FULL: queue_full,
    ErrorCode.QUEUE_UNKNOWN: queue_unknown,
    ErrorCode.BUNDLE_INVALID: lambda w: w.call(
        "uni-researcher",
        "POST",
        "/v1/bundles",
        content=b"no archive",
        headers={"Content-Type": "application/gzip"},
    ),
    ErrorCode.BUNDLE_MISSING: lambda w: w.job(bundle="0" * 64),
    ErrorCode.OUTPUT_NOT_FOUND: lambda w: w.call(
        "uni-researcher", "GET", f"/v1/jobs/{w.job().json()['id']}/outputs/0/none.txt"
    ),
    ErrorCode.AGENT_UNREACHABLE: agent_away,
    ErrorCode.NOT_INDEPENDENT: not_independent,
    ErrorCode.JOBS_NOT_OF_PROJECT: lambda w: w.call(
        "uni-researcher", "POST", "/v1/products", json=product(jobs=[w.job("firm-researcher").json()["id"]])
    ),
    ErrorCode.DIGEST_MISMATCH: digest_mismatch,
    ErrorCode.IN_FUTURE: lambda w: w.call(
        "operator", "GET", "/v1/kpi/indicators/2?as_of=2030-01-01T00:00:00Z"
    ),
    ErrorCode.YEAR_WITHOUT_TARGET: lambda w: w.call("operator", "GET", "/v1/kpi/indicators/2?year=2031"),
    ErrorCode.BAD_DOCUMENT: lambda w: dossier(
        w, "/documents", {"code": "support-form", "number": "1", "issued_on": "2026-01-01", "level": 4}
    ),
    ErrorCode.BAD_BOOKS: lambda w: dossier(w, "/books", books(amount="-5.00")),
    ErrorCode.BAD_PERIOD: lambda w: dossier(w, "/books", books(paid_on="2025-12-31")),
    ErrorCode.NO_PAYMENTS: lambda w: dossier(
        w, "/localisation", starts_on="2026-01-01", ends_on="2026-05-31"
    ),
    ErrorCode.RATE_MISSING: without_rate,
    ErrorCode.REPORT_NOT_OFFERED: form_in_english,
    ErrorCode.RATE_LIMITED: too_often,
}


@pytest.mark.parametrize("code", CASES, ids=str)
def test_every_code_is_reached_and_nothing_is_half_written(world: World, code: ErrorCode) -> None:
    answer = CASES[code](world)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (STATUS[code], code.value), problem
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["type"] == f"urn:kezek:problem:{code}"
    assert problem["status"] == STATUS[code]
    assert problem["title"] == catalogue("en")[f"error.{code}.title"]
    assert problem["detail"]
    assert uuid.UUID(problem["instance"].removeprefix("urn:uuid:"))
    if STATUS[code] == 401:
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "code",
    [
        ErrorCode.BAD_BIN,
        ErrorCode.BAD_POLICY,
        ErrorCode.NEVER_FITS,
        ErrorCode.BUDGET_EXHAUSTED,
        ErrorCode.BAD_GRANT,
        ErrorCode.JOBS_NOT_OF_PROJECT,
    ],
)
def test_a_refusal_writes_nothing(world: World, code: ErrorCode) -> None:
    if code is ErrorCode.JOBS_NOT_OF_PROJECT:
        body = product(jobs=[world.job("firm-researcher").json()["id"]])
        before = world.journal_length()
        assert world.call("uni-researcher", "POST", "/v1/products", json=body).status_code == 422
    else:
        before = world.journal_length()
        assert not CASES[code](world).is_success
    assert world.journal_length() == before


def test_an_unavailable_database_is_told_as_such(world: World) -> None:
    away = open_engine("postgresql://nobody@/nothing?host=%2Fnonexistent-socket-folder")
    with serving(create_app(away, world.executor)) as client:
        answer = client.get("/v1/me", headers={"Authorization": f"Bearer {world.tokens['operator']}"})
        assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")
        assert answer.headers["retry-after"] == "1"
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert not ready.json()["checks"]["database"]["is_ready"]


def test_what_nobody_expected_is_told_without_its_trace(bare: World) -> None:
    def broken() -> Any:
        raise ZeroDivisionError("secret inside")

    with serving(create_app(bare.engine, bare.executor, now=broken)) as client:
        answer = client.get("/v1/public/overview")
    assert (answer.status_code, answer.json()["code"]) == (500, "INTERNAL")
    assert "secret" not in answer.text


def test_codes_are_all_reached_documented_and_in_three_languages() -> None:
    reached = {*CASES, ErrorCode.UNAVAILABLE, ErrorCode.INTERNAL}
    assert reached == set(ErrorCode) == set(STATUS)
    documented = dict(
        re.findall(r"^\| `([A-Z_]+)` \| (\d{3}) \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert documented == {code.value: str(status) for code, status in STATUS.items()}
    for language in LANGUAGES:
        assert {f"error.{code}.title" for code in ErrorCode} <= set(catalogue(language))


@pytest.mark.parametrize(
    ("header", "language"),
    [("kk", "kk"), ("ru-RU,ru;q=0.9", "ru"), ("de, kk;q=0.5, en;q=0.4", "kk"), (None, "en"), ("de", "en")],
)
def test_titles_come_in_the_language_asked_for(world: World, header: str | None, language: str) -> None:
    headers = {} if header is None else {"Accept-Language": header}
    answer = world.call("operator", "GET", "/v1/jobs/999", headers=headers)
    assert answer.json()["title"] == catalogue(language)["error.NOT_FOUND.title"]
    assert answer.headers["content-language"] == language


def test_a_body_is_cut_off_while_it_streams(world: World) -> None:
    sent = 0

    def pieces() -> Any:
        nonlocal sent
        for _ in range(200):
            sent += 65_536
            yield b"x" * 65_536

    answer = world.call(
        "uni-researcher",
        "POST",
        "/v1/bundles",
        content=pieces(),
        headers={"Content-Type": "application/gzip"},
    )
    assert answer.json()["code"] == "BODY_TOO_LARGE"
    assert answer.json()["numbers"] == {"limit_bytes": 8 * 1024 * 1024}
    assert str(8 * 1024 * 1024) in answer.json()["detail"]


@pytest.mark.parametrize(("size", "code"), [(8 * 1024 * 1024 + 1, "BODY_TOO_LARGE"), (0, "BUNDLE_INVALID")])
def test_a_bundle_has_its_own_limits(world: World, size: int, code: str) -> None:
    answer = world.call(
        "uni-researcher",
        "POST",
        "/v1/bundles",
        content=b"x" * size,
        headers={"Content-Type": "application/gzip"},
    )
    assert answer.json()["code"] == code
    assert answer.json()["numbers"] == {"limit_bytes": 8 * 1024 * 1024, "size_bytes": size}


@pytest.mark.parametrize(
    ("changes", "place", "text"),
    [
        ({"gpus": 0}, "body.gpus", "должно быть не меньше 1"),
        ({"gpus": "x"}, "body.gpus", "должно быть целым числом"),
        ({"colour": 1}, "body.colour", "такого поля нет"),
        ({"env": {"A=B": "1"}}, "body.env.A=B.[key]", "неверная запись, образец: "),
        ({"command": ["a\0b"]}, "body.command.0", "неверная запись, образец: "),
    ],
)
def test_findings_come_in_the_language_asked_for(
    world: World, changes: dict[str, Any], place: str, text: str
) -> None:
    body = {"project": "uni-project", "command": ["true"], "gpus": 1, "walltime_s": 60, **changes}
    answer = world.call(
        "uni-researcher", "POST", "/v1/jobs", json=body, headers={"Accept-Language": "ru"}
    ).json()
    assert answer["code"] == "VALIDATION"
    assert [(one["place"], text in one["message"]) for one in answer["errors"]] == [(place, True)], answer
    assert answer["detail"].isascii()


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ({"field": "name", "limit": 3, "found": 4}, "is 4, the limit is 3; lower it"),
        ({"field": "command", "least": 1}, "must be 1 or more"),
        ({"queue": "science"}, "queue science has no default walltime; name one"),
        ({"field": "env"}, "holds a character that no program can be given; remove it"),
    ],
)
def test_what_the_scheduler_refuses_has_words(numbers: dict[str, int | str], text: str) -> None:
    found = of_refusal("body.x", "said in English", numbers)
    assert found.text("en") == text
    for language in ("kk", "ru"):
        assert not {"{", "}"} & set(found.text(language))
        assert "English" not in found.text(language)
    assert Finding("body.x", "said in English").text("en") == "said in English"
    assert "said in English" in Finding("body.x", "said in English").text("kk")


def test_a_bundle_that_leaves_its_folder_is_refused_at_upload(world: World) -> None:
    headers = {"Content-Type": "application/gzip"}
    assert (
        world.call(
            "uni-researcher", "POST", "/v1/bundles", content=bundle("../up.py"), headers=headers
        ).json()["code"]
        == "BUNDLE_INVALID"
    )
    kept = world.call("uni-researcher", "POST", "/v1/bundles", content=bundle(), headers=headers)
    assert kept.status_code == 201
    assert world.job(bundle=kept.json()["digest"]).status_code == 201


@pytest.mark.parametrize("gpus", [0, -1, 10**9, 10**30, 1.5, None, "many"])
def test_absurd_gpu_counts_are_refused_with_their_place(world: World, gpus: Any) -> None:
    answer = world.job(gpus=gpus)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["place"] == "body.gpus"


@pytest.mark.parametrize(
    "changes",
    [
        {"colour": 1},
        {"env": {"1X": "a"}},
        {"env": {"A\ud800": "a"}},
        {"command": []},
        {"name": "a\u0000b"},
        {"walltime_s": 0},
    ],
)
def test_unknown_and_malformed_fields_are_refused(world: World, changes: Any) -> None:
    body = {"project": "uni-project", "command": ["true"], "gpus": 1, "walltime_s": 60, **changes}
    answer = world.call(
        "uni-researcher",
        "POST",
        "/v1/jobs",
        content=json.dumps(body),
        headers={"Content-Type": "application/json"},
    )
    assert (answer.status_code, answer.json()["code"]) in {(422, "VALIDATION"), (400, "BAD_REQUEST")}


def test_a_bin_is_needed_or_forbidden_by_category(world: World) -> None:
    for changes in ({"bin": None}, {"category": "citizen"}):
        answer = world.call("operator", "POST", "/v1/organisations", json=organisation(**changes))
        assert answer.json()["errors"][0]["place"] == "body.bin"
    assert (
        world.call("operator", "POST", "/v1/organisations", json=organisation(bin=BINS["uni"])).json()["code"]
        == "CONFLICT"
    )
