from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.api.conftest import NAMES, World

PRODUCT = {
    "slug": "reader",
    "project": "uni-project",
    "name": NAMES,
    "sector": "education",
    "stage": "pilot",
    "ai_kind": "vision",
    "started_on": "2026-02-01",
}


def figures(year: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(year[name] for name in ("year", "target", "added", "cumulative"))


def test_a_product_counts_once_verified_with_a_completed_job(world: World) -> None:
    job = world.job().json()["id"]
    world.run(job, gpu_seconds=3600)
    made = world.ok("uni-researcher", "POST", "/v1/products", {**PRODUCT, "jobs": [job]})
    assert made["status"] == "submitted"
    before = world.ok("auditor", "GET", "/v1/kpi/indicators/2?year=2026")
    assert (figures(before["years"][0]), before["unverified"]) == ((2026, 10, 0, 0), 1)
    assert (before["years"][0]["forecast_low"], before["years"][0]["forecast_high"]) == (0, 1)
    assert world.ok("reviewer", "POST", "/v1/products/reader/verify")["status"] == "verified"
    after = world.ok("firm-researcher", "GET", "/v1/kpi/indicators/2")
    assert figures(after["years"][1]) == (2026, 10, 1, 1)
    assert (after["years"][1]["added_percent"], after["years"][1]["imported_added"]) == (10, 0)
    assert figures(after["years"][2]) == (2027, 15, None, None)
    assert (after["rule"]["version"], after["rule"]["min_job_gpu_hours"]) == ("1", 1)
    assert (after["is_simulated"], after["coverage"]["products_judged"]) == (True, 1)
    assert [(each["product_id"], each["slug"]) for each in after["counted"]] == [(made["id"], None)]
    assert world.ok("uni-manager", "GET", "/v1/kpi/indicators/2")["counted"][0]["slug"] == "reader"
    detail = world.ok("uni-researcher", "GET", "/v1/products/reader")
    assert [(e["job_id"], e["is_counted"], e["files"][0]["path"]) for e in detail["evidence"]] == [
        (job, True, "out/model.npz")
    ]
    assert world.call("reviewer", "POST", "/v1/products/reader/verify").json()["code"] == "CONFLICT"


def test_a_product_without_a_job_that_ran_does_not_count(world: World) -> None:
    world.ok("uni-researcher", "POST", "/v1/products", {**PRODUCT, "jobs": [world.job().json()["id"]]})
    world.ok("reviewer", "POST", "/v1/products/reader/verify")
    found = world.ok("operator", "GET", "/v1/kpi/indicators/2?year=2026")
    assert (found["years"][0]["added"], found["without_evidence"]) == (0, 1)


def test_the_year_is_almatys(world: World) -> None:
    job = world.job().json()["id"]
    world.run(job, gpu_seconds=7200)
    world.ok("uni-researcher", "POST", "/v1/products", {**PRODUCT, "jobs": [job]})
    body = {"user_id": world.users["reviewer"], "scopes": ["write"], "lifetime_s": 366 * 86_400}
    world.tokens["reviewer"] = world.ok("operator", "POST", "/v1/tokens", body)["secret"]
    world.clock.at = world.clock.at.replace(month=12, day=31, hour=19)  # 0:00 of 1 January in Almaty
    world.ok("reviewer", "POST", "/v1/products/reader/verify")
    years = {
        y["year"]: (y["added"], y["cumulative"])
        for y in world.ok("reviewer", "GET", "/v1/kpi/indicators/2")["years"]
    }
    assert (years[2026], years[2027]) == ((0, 0), (1, 1))


def test_a_returned_product_keeps_the_note_for_those_concerned(world: World) -> None:
    world.ok("uni-researcher", "POST", "/v1/products", PRODUCT)
    assert world.call("reviewer", "POST", "/v1/products/reader/return", json={"note": ""}).status_code == 422
    assert (
        world.ok("reviewer", "POST", "/v1/products/reader/return", {"note": "No evidence."})["status"]
        == "returned"
    )
    notes = {
        who: world.ok(who, "GET", "/v1/products/reader")["return_note"]
        for who in ("uni-researcher", "reviewer", "council-viewer")
    }
    assert notes == {"uni-researcher": "No evidence.", "reviewer": "No evidence.", "council-viewer": None}


def test_a_slug_is_used_once(world: World) -> None:
    world.ok("uni-researcher", "POST", "/v1/products", PRODUCT)
    assert world.call("uni-researcher", "POST", "/v1/products", json=PRODUCT).json()["code"] == "CONFLICT"


@pytest.mark.parametrize(("organisation", "project"), [("uni", None), (None, "uni-project")])
def test_a_reviewer_is_of_neither_organisation_nor_project(
    world: World, organisation: str | None, project: str | None
) -> None:
    world.ok("uni-researcher", "POST", "/v1/products", PRODUCT)
    world.add_user("near", organisation, "reviewer", None)
    if project is not None:
        world.ok(
            "operator",
            "POST",
            f"/v1/users/{world.users['near']}/roles",
            {"role": "researcher", "project": project},
        )
    assert world.call("near", "POST", "/v1/products/reader/verify").json()["code"] == "NOT_INDEPENDENT"
    world.clock.at += timedelta(seconds=1)
    assert world.ok("reviewer", "POST", "/v1/products/reader/verify")["status"] == "verified"
