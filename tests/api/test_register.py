"""The life of an entry, its evidence and verdict, imported products and initiatives, over HTTP."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from products.history import IMPORT_COLUMNS, import_products
from store.engine import transaction
from tests.api.conftest import NAMES, World

DIGEST = "ab" * 32
ENTRY = {
    "name": NAMES,
    "description": "Reads meters.",
    "sector": "education",
    "stage": "pilot",
    "started_on": "2026-02-01",
    "direction": "data",
    "ai_kind": "vision",
    "builds_on": ["kazllm", "own-model"],
    "links": ["https://reader.example.kz/"],
    "users": "two utilities",
    "programme": "accelerator",
    "authors": ["A. Author"],
    "data_sets": [{"id": "meters", "digest": DIGEST, "licence": "CC-BY-4.0"}],
}
PRODUCT = {**ENTRY, "slug": "reader", "project": "uni-project"}
VERSION = {"version": "1.0", "path": "out/model.npz"}


def later(world: World, **delta: int) -> None:
    world.clock.at += timedelta(**delta)


def trained(world: World, gpu_seconds: int = 3600) -> int:
    job = int(world.job().json()["id"])
    world.run(job, gpu_seconds=gpu_seconds)
    return job


def registered(world: World, **changes: Any) -> int:
    job = trained(world)
    world.ok("uni-researcher", "POST", "/v1/products", {**PRODUCT, "jobs": [job], **changes})
    return job


def verified(world: World, **changes: Any) -> int:
    job = registered(world, **changes)
    later(world, seconds=1)
    world.ok("reviewer", "POST", "/v1/products/reader/verify")
    later(world, seconds=1)
    return job


def renewed_tokens(world: World, *who: str) -> None:
    for name in who:
        body = {"user_id": world.users[name], "scopes": ["write"], "lifetime_s": 366 * 86_400}
        world.tokens[name] = world.ok("operator", "POST", "/v1/tokens", body)["secret"]


def failing(verdict: Any) -> set[str]:
    return {entry["condition"] for entry in verdict["conditions"] if not entry["holds"]}


def verdict(world: World, **query: str) -> Any:
    return world.ok("uni-researcher", "GET", "/v1/products/reader/verdict", params=query)


def test_every_field_is_kept_and_authors_are_for_those_concerned(world: World) -> None:
    registered(world)
    own = world.ok("uni-manager", "GET", "/v1/products/reader")
    assert {name: own[name] for name in ENTRY} == ENTRY
    seen = {who: world.ok(who, "GET", "/v1/products/reader")["authors"] for who in ("reviewer", "auditor")}
    assert seen == {"reviewer": ["A. Author"], "auditor": None}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("links", ["ftp://a"]),
        ("links", ["javascript:alert(1)"]),
        ("data_sets", [{"id": "x", "digest": "no", "licence": "y"}]),
        ("data_sets", [{"id": "x"}]),
        ("direction", "space"),
        ("ai_kind", "magic"),
        ("builds_on", ["magic"]),
        ("authors", ["x"] * 51),
        ("programme", ""),
    ],
)
def test_a_field_that_cannot_be_is_named(world: World, field: str, value: object) -> None:
    answer = world.call("uni-researcher", "POST", "/v1/products", json={**PRODUCT, field: value})
    assert answer.json()["code"] == "VALIDATION"
    assert answer.json()["errors"][0]["place"].startswith(f"body.{field}")


def test_an_entry_goes_through_its_life(world: World) -> None:
    registered(world, is_draft=True)
    path = "/v1/products/reader"
    assert world.ok("uni-researcher", "GET", path)["status"] == "draft"
    assert "draft" not in world.ok("operator", "GET", "/v1/public/overview")["products"]
    assert world.call("reviewer", "POST", f"{path}/verify").json()["code"] == "CONFLICT"
    assert world.ok("uni-researcher", "POST", f"{path}/submit")["status"] == "submitted"
    assert world.call("uni-researcher", "POST", f"{path}/submit").json()["code"] == "CONFLICT"
    world.ok("reviewer", "POST", f"{path}/return", {"note": "Name the data."})
    later(world, minutes=1)
    changed = {**ENTRY, "users": "three utilities"}
    assert world.ok("uni-researcher", "PUT", path, changed)["users"] == "three utilities"
    again = world.ok("uni-researcher", "POST", f"{path}/submit")
    assert (again["status"], again["return_note"]) == ("submitted", None)
    later(world, minutes=1)
    assert world.ok("reviewer", "POST", f"{path}/verify")["status"] == "verified"
    assert verdict(world)["counts"]
    later(world, minutes=1)
    assert world.ok("uni-manager", "POST", f"{path}/withdraw")["status"] == "withdrawn"
    for act in ("submit", "withdraw"):
        assert world.call("uni-researcher", "POST", f"{path}/{act}").json()["code"] == "CONFLICT"
    assert world.call("uni-researcher", "PUT", path, json=ENTRY).json()["code"] == "CONFLICT"
    assert failing(verdict(world)) == {"verified"}


def test_a_withdrawal_leaves_earlier_figures_alone(world: World) -> None:
    verified(world)
    before = world.clock.at
    later(world, hours=1)
    assert world.ok("reviewer", "POST", "/v1/products/reader/withdraw")["status"] == "withdrawn"
    year = {"year": 2026, "as_of": before.isoformat()}
    then = world.ok("auditor", "GET", "/v1/kpi/indicators/2", params=year)["years"][0]
    now = world.ok("auditor", "GET", "/v1/kpi/indicators/2?year=2026")["years"][0]
    assert [(each["added"], each["ceased"], each["cumulative"]) for each in (then, now)] == [
        (1, 0, 1),
        (1, 1, 0),
    ]


def test_only_its_project_changes_a_product(world: World) -> None:
    job = registered(world)
    path = "/v1/products/reader"
    calls: list[tuple[str, str, Any]] = [
        ("PUT", path, ENTRY),
        ("POST", f"{path}/submit", None),
        ("POST", f"{path}/jobs", {"jobs": [job]}),
        ("DELETE", f"{path}/jobs/{job}", None),
        ("POST", f"{path}/model-versions", {**VERSION, "job": job}),
    ]
    for method, address, body in calls:
        assert world.call("reviewer", method, address, json=body).json()["code"] == "FORBIDDEN", address
        stranger = world.call("firm-researcher", method, address, json=body)
        assert stranger.json()["code"] == "NOT_FOUND", address
    assert world.call("auditor", "POST", f"{path}/withdraw").json()["code"] == "FORBIDDEN"
    for part in ("verdict", "chain", "duplicates"):
        assert world.call("firm-researcher", "GET", f"{path}/{part}").json()["code"] == "NOT_FOUND"


def test_a_verification_is_renewed_when_it_is_due_or_something_changed(world: World) -> None:
    verified(world)
    again = world.call("reviewer", "POST", "/v1/products/reader/verify")
    assert (again.json()["code"], "60 days" in again.json()["detail"]) == ("CONFLICT", True)
    changed = world.ok("uni-researcher", "PUT", "/v1/products/reader", ENTRY)
    assert changed["has_changed_since_verification"]
    later(world, seconds=1)
    renewed = world.ok("reviewer", "POST", "/v1/products/reader/verify")
    assert not renewed["has_changed_since_verification"]
    body = {"user_id": world.users["reviewer"], "scopes": ["write"], "lifetime_s": 366 * 86_400}
    world.tokens["reviewer"] = world.ok("operator", "POST", "/v1/tokens", body)["secret"]
    later(world, days=365)
    overdue = world.ok("reviewer", "GET", "/v1/products/reader/verdict")
    assert (overdue["is_review_overdue"], overdue["counts"]) == (True, True)
    assert world.ok("reviewer", "GET", "/v1/kpi/indicators/2")["reviews_overdue"] == 1
    world.ok("reviewer", "POST", "/v1/products/reader/verify")
    after = world.ok("reviewer", "GET", "/v1/products/reader/verdict")
    assert not after["is_review_overdue"]
    assert after["counted_at"] == overdue["counted_at"]


def test_what_a_verified_product_says_further_waits_for_its_next_verification(world: World) -> None:
    verified(world, stage="idea", ai_kind=None)
    assert failing(verdict(world)) == {"stage", "uses-ai"}
    world.ok("uni-researcher", "PUT", "/v1/products/reader", ENTRY)
    assert failing(verdict(world)) == {"stage", "uses-ai"}
    later(world, seconds=1)
    world.ok("reviewer", "POST", "/v1/products/reader/verify")
    assert verdict(world)["counts"]
    other = world.call("uni-researcher", "PUT", "/v1/products/reader", json={**ENTRY, "sector": "mining"})
    assert (other.json()["code"], "sector" in other.json()["detail"]) == ("CONFLICT", True)


def test_a_job_linked_to_a_verified_product_is_evidence_from_its_next_verification(world: World) -> None:
    job, more = trained(world, 60), trained(world)
    world.ok("uni-researcher", "POST", "/v1/products", {**PRODUCT, "jobs": [job]})
    later(world, seconds=1)
    world.ok("reviewer", "POST", "/v1/products/reader/verify")
    later(world, seconds=1)
    world.ok("uni-researcher", "POST", "/v1/products/reader/jobs", {"jobs": [job, more]})
    assert failing(verdict(world)) == {"gpu-hours"}
    later(world, seconds=1)
    world.ok("reviewer", "POST", "/v1/products/reader/verify")
    found = verdict(world)
    assert (found["counts"], found["longest_job"]) == (True, more)
    linked_at = world.clock.at
    later(world, seconds=1)
    world.ok("uni-researcher", "DELETE", f"/v1/products/reader/jobs/{more}")
    assert failing(verdict(world)) == {"gpu-hours"}
    assert failing(verdict(world, as_of=linked_at.isoformat())) == set()
    gone = world.call("uni-researcher", "DELETE", f"/v1/products/reader/jobs/{more}")
    assert gone.json()["code"] == "NOT_FOUND"
    back = world.call("uni-researcher", "POST", "/v1/products/reader/jobs", json={"jobs": [more]})
    assert back.json()["code"] == "CONFLICT"
    assert [e["job_id"] for e in world.ok("uni-researcher", "GET", "/v1/products/reader")["evidence"]] == [
        job
    ]


def test_jobs_of_another_organisation_are_no_evidence(world: World) -> None:
    registered(world)
    foreign = world.job("firm-researcher").json()["id"]
    answer = world.call("uni-researcher", "POST", "/v1/products/reader/jobs", json={"jobs": [foreign]})
    assert answer.json()["code"] == "JOBS_NOT_OF_PROJECT"
    assert str(foreign) in answer.json()["detail"]


def test_a_model_version_has_the_digest_its_agent_computed(world: World) -> None:
    job = registered(world)
    path = "/v1/products/reader/model-versions"
    wrong = world.call("uni-researcher", "POST", path, json={**VERSION, "job": job, "sha256": "0" * 64})
    assert wrong.json()["code"] == "DIGEST_MISMATCH"
    assert DIGEST in wrong.json()["detail"]
    none = world.call("uni-researcher", "POST", path, json={**VERSION, "job": job, "path": "no.bin"})
    assert none.json()["code"] == "OUTPUT_NOT_FOUND"
    unlinked = world.call("uni-researcher", "POST", path, json={**VERSION, "job": trained(world)})
    assert unlinked.json()["code"] == "NOT_FOUND"
    for _ in range(2):
        made = world.ok("uni-researcher", "POST", path, {**VERSION, "job": job, "sha256": DIGEST})
        assert (made["sha256"], made["version"]) == (DIGEST, "1.0")
    shown = {
        who: world.ok(who, "GET", "/v1/products/reader")["model_versions"]
        for who in ("uni-manager", "auditor")
    }
    assert [(each["path"], each["sha256"]) for each in shown["uni-manager"]] == [("out/model.npz", DIGEST)]
    assert [each["path"] for each in shown["auditor"]] == [None]


def test_the_verdict_says_each_condition_with_its_figures(world: World) -> None:
    job = trained(world, 1800)
    world.ok("uni-researcher", "POST", "/v1/products", {**PRODUCT, "jobs": [job]})
    found = verdict(world)
    assert {entry["condition"]: (entry["holds"], entry["needed"], entry["found"]) for entry in found["conditions"]} == {
        "rule-in-force": (True, None, "1"),
        "verified": (False, "verified", None),
        "gpu-hours": (False, 1.0, 0.5),
        "uses-ai": (True, "yes", "yes"),
        "stage": (True, "prototype", "pilot"),
    }  # fmt: skip
    kazakh = world.ok(
        "uni-researcher", "GET", "/v1/products/reader/verdict", headers={"Accept-Language": "kk"}
    )
    assert "GPU-сағат" in next(e["text"] for e in kazakh["conditions"] if e["condition"] == "gpu-hours")
    future = world.call(
        "uni-researcher", "GET", "/v1/products/reader/verdict", params={"as_of": "2030-01-01T00:00:00Z"}
    )
    assert future.json()["code"] == "IN_FUTURE"
    early = {"as_of": (world.clock.at - timedelta(days=1)).isoformat()}
    before = world.call("uni-researcher", "GET", "/v1/products/reader/verdict", params=early)
    assert before.json()["code"] == "NOT_FOUND"


def test_the_chain_leads_from_the_policy_to_the_indicator(world: World) -> None:
    job = verified(world)
    world.ok("uni-researcher", "POST", "/v1/products/reader/model-versions", {**VERSION, "job": job})
    found = world.ok("uni-manager", "GET", "/v1/products/reader/chain")
    (link,) = found["jobs"]
    (attempt,) = link["attempts"]
    assert (attempt["policy"], attempt["queue"]) == ("2026.1", "universities")
    assert [ground["number"] for ground in attempt["grant"]["grounds"]] == ["T-2"]
    assert (link["job_id"], link["gpu_seconds"]) == (job, 3600)
    assert (link["energy_kwh"], link["energy_coverage_ratio"]) == (None, None)
    assert [version["sha256"] for version in link["model_versions"]] == [DIGEST]
    # The test's job was never charged: the ledger has no entry of its attempt.
    assert link["breaks"] == ["ledger-differs"]
    assert (found["verdict"]["counts"], found["verdict"]["year"]) == (True, 2026)
    with transaction(world.engine) as session:
        grant = attempt["grant"]["id"]
        session.execute(
            text(
                "INSERT INTO ledger_entries (at, grant_id, kind, debit, credit, amount_s, attempt_id)"
                " VALUES (now(), :grant, 'posted', 'pending', 'used', 3600, :attempt)"
            ),
            {"grant": grant, "attempt": attempt["id"]},
        )
    assert world.ok("uni-manager", "GET", "/v1/products/reader/chain")["jobs"][0]["breaks"] == []


@pytest.mark.parametrize("table", ["policies", "grants", "attempts", "artefacts", "jobs", "products"])
def test_no_row_in_the_middle_of_the_chain_can_be_deleted(world: World, table: str) -> None:
    job = verified(world)
    world.ok("uni-researcher", "POST", "/v1/products/reader/model-versions", {**VERSION, "job": job})
    with (
        pytest.raises(Exception, match=r"append-only|foreign key"),
        transaction(world.engine) as session,
    ):
        session.execute(text(f"DELETE FROM {table}"))
    assert verdict(world)["counts"]


def test_products_that_look_alike_are_shown_and_left_apart(world: World) -> None:
    job = registered(world)
    world.ok("uni-researcher", "POST", "/v1/products/reader/model-versions", {**VERSION, "job": job})
    other = {
        **ENTRY,
        "slug": "copy",
        "project": "firm-project",
        "name": {**NAMES, "kk": "Басқа", "ru": "Другой", "en": "  NAME!"},
        "links": ["http://www.reader.example.kz"],
    }
    world.ok("firm-researcher", "POST", "/v1/products", other)
    with transaction(world.engine) as session:
        row = "old,Атауы,Старый,Old,2025-09-01,order,Ministry,12,2026-02-01"
        import_products(session, f"{','.join(IMPORT_COLUMNS)}\n{row}\n", actor="system", at=world.clock.at)
    seen = world.ok("reviewer", "GET", "/v1/products/reader/duplicates")["items"]
    assert [(each["slug"], each["mark"], each["value"]) for each in seen] == [
        ("copy", "link", "https://reader.example.kz/"),
        ("copy", "name", "Name"),
        ("old", "name", "Атауы"),
    ]
    own = world.ok("uni-researcher", "GET", "/v1/products/reader")["duplicates"]
    assert [(each["slug"], each["is_imported"]) for each in own] == [
        (None, False),
        (None, False),
        ("old", True),
    ]
    imported = world.ok("auditor", "GET", "/v1/imported-products")["items"]
    assert [(each["slug"], each["decision"]["number"]) for each in imported] == [("old", "12")]
    years = world.ok("auditor", "GET", "/v1/kpi/indicators/2")["years"]
    assert [(year["imported_added"], year["imported_cumulative"]) for year in years[:2]] == [(1, 1), (0, 1)]
    assert [year["cumulative"] for year in years[:2]] == [0, 0]


def test_the_contributions_are_labelled_as_such(world: World) -> None:
    world.run(world.job("firm-researcher").json()["id"])
    verified(world, stage="production")
    seven = world.ok("auditor", "GET", "/v1/kpi/indicators/7")
    assert (seven["contribution"], seven["national_target"], seven["counted"]) == (1, 10, ["firm"])
    assert "percentage" in seven["ambiguity"]
    assert "contribution" in seven["definition"]
    eight = world.ok("uni-researcher", "GET", "/v1/kpi/indicators/8?year=2026")
    assert (eight["contribution"], eight["ambiguity"], eight["counted"]) == (1, None, None)
    for number in (7, 8):
        path = f"/v1/kpi/indicators/{number}"
        assert world.call("auditor", "GET", f"{path}?year=2031").json()["code"] == "YEAR_WITHOUT_TARGET"
        assert world.call("auditor", "GET", f"{path}?year=2029").json()["code"] == "IN_FUTURE"


INITIATIVE = {
    "slug": "qaz-tutor",
    "direction": "education-and-labour",
    "kpi": NAMES,
    "unit": "schools",
    "baseline": 0,
    "target": 100,
    "deadline": "2026-12-31",
}


def test_an_initiative_is_registered_and_tracked(world: World) -> None:
    made = world.ok("operator", "POST", "/v1/initiatives", INITIATIVE)
    assert (made["progress"], made["value"], made["done_percent"]) == ("no-data", None, None)
    path = "/v1/initiatives/qaz-tutor/measurements"
    value = {"on": "2026-05-01", "value": 43, "source": "Register of schools"}
    tracked = world.ok("operator", "POST", path, value)
    assert (tracked["progress"], tracked["done_percent"]) == ("under-way", 43)
    (listed,) = world.ok("auditor", "GET", "/v1/initiatives")["items"]
    assert listed == tracked
    assert listed["days_left"] == (date(2026, 12, 31) - world.clock.at.date()).days
    early = {"as_of": (world.clock.at - timedelta(days=1)).isoformat()}
    assert world.ok("auditor", "GET", "/v1/initiatives", params=early)["items"] == []


@pytest.mark.parametrize(
    ("who", "path", "changes", "code"),
    [
        ("auditor", "", {}, "FORBIDDEN"),
        ("operator", "", {}, "CONFLICT"),
        ("operator", "", {"slug": "b", "target": 0}, "VALIDATION"),
        ("operator", "", {"slug": "b", "deadline": "soon"}, "VALIDATION"),
        ("auditor", "/qaz-tutor/measurements", {"on": "2026-05-02"}, "FORBIDDEN"),
        ("operator", "/qaz-tutor/measurements", {"on": "2026-05-01"}, "CONFLICT"),
        ("operator", "/qaz-tutor/measurements", {"on": "2026-07-01"}, "IN_FUTURE"),
        ("operator", "/none/measurements", {"on": "2026-05-01"}, "NOT_FOUND"),
    ],
)
def test_an_initiative_that_cannot_be_entered_is_refused(
    world: World, who: str, path: str, changes: dict[str, Any], code: str
) -> None:
    world.ok("operator", "POST", "/v1/initiatives", INITIATIVE)
    value = {"value": 43, "source": "Register of schools"}
    world.ok("operator", "POST", "/v1/initiatives/qaz-tutor/measurements", {**value, "on": "2026-05-01"})
    body = {**value, **changes} if path else {**INITIATIVE, **changes}
    before = world.journal_length()
    assert world.call(who, "POST", f"/v1/initiatives{path}", json=body).json()["code"] == code
    assert world.journal_length() == before
