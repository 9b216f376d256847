"""Role x route: what each caller may do on a project of its own, and what it learns of others' (nothing)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.conftest import GROUND, NAMES, POLICY, World

ALL = frozenset(
    {
        "firm-researcher",
        "firm-manager",
        "operator",
        "reviewer",
        "council-viewer",
        "auditor",
        "uni-researcher",
        "uni-manager",
        "nobody",
    }
)
MEMBERS = frozenset({"uni-researcher", "uni-manager"})
OVERSEERS = frozenset({"reviewer", "council-viewer", "auditor"})
STRANGERS = frozenset({"firm-researcher", "firm-manager"})
OUTSIDERS = STRANGERS | {"nobody"}

PRODUCT = {
    "slug": "reader",
    "project": "uni-project",
    "name": NAMES,
    "sector": "education",
    "stage": "idea",
    "started_on": "2026-02-01",
}
GRANT = {
    "project": "uni-project",
    "flavor": "h200",
    "gpu_seconds": 10,
    "grounds": [GROUND],
    "starts_at": "2026-01-01T00:00:00Z",
    "ends_at": "2026-12-31T00:00:00Z",
}
NEXT_POLICY = {"policy": {**POLICY["policy"], "version": "2026.2", "effective_from": "2026-07-01"}}

# route -> (method, path, body, who may, status for whoever else sees the project, status for strangers)
ROUTES: dict[str, tuple[str, str, Any, frozenset[str], int, int]] = {
    "getProject": ("GET", "/v1/projects/uni-project", None, MEMBERS | OVERSEERS | {"operator"}, 0, 404),
    "getOrganisation": ("GET", "/v1/organisations/uni", None, MEMBERS | OVERSEERS | {"operator"}, 0, 404),
    "getJob": ("GET", "/v1/jobs/{job}", None, MEMBERS | OVERSEERS | {"operator"}, 0, 404),
    "listAttempts": ("GET", "/v1/jobs/{job}/attempts", None, MEMBERS | OVERSEERS | {"operator"}, 0, 404),
    "listJobEvents": ("GET", "/v1/jobs/{job}/events", None, MEMBERS | OVERSEERS | {"operator"}, 0, 404),
    "listJobs": ("GET", "/v1/jobs?project=uni-project", None, MEMBERS | OVERSEERS | {"operator"}, 0, 404),
    "listGrants": ("GET", "/v1/grants?project=uni-project", None, MEMBERS | OVERSEERS | {"operator"}, 0, 404),
    "readLog": ("GET", "/v1/jobs/{job}/logs", None, MEMBERS | {"operator"}, 403, 404),
    "listOutputs": ("GET", "/v1/jobs/{job}/outputs", None, MEMBERS | {"operator"}, 403, 404),
    "downloadOutput": (
        "GET",
        "/v1/jobs/{job}/outputs/0/out/model.npz",
        None,
        MEMBERS | {"operator"},
        403,
        404,
    ),
    "submitJob": (
        "POST",
        "/v1/jobs",
        {"project": "uni-project", "command": ["true"], "gpus": 1, "walltime_s": 1},
        MEMBERS | {"operator"},
        403,
        404,
    ),
    "holdJob": ("POST", "/v1/jobs/{waiting}/hold", None, MEMBERS | {"operator"}, 403, 404),
    "releaseJob": ("POST", "/v1/jobs/{waiting}/release", None, MEMBERS | {"operator"}, 403, 404),
    "cancelJob": ("POST", "/v1/jobs/{waiting}/cancel", None, MEMBERS | {"operator"}, 403, 404),
    "registerProduct": ("POST", "/v1/products", PRODUCT, MEMBERS, 403, 404),
    "getProduct": ("GET", "/v1/products/built", None, MEMBERS | OVERSEERS | {"operator"}, 0, 404),
    "verifyProduct": ("POST", "/v1/products/built/verify", None, frozenset({"reviewer"}), 403, 403),
    "grantRole": (
        "POST",
        "/v1/users/{user}/roles",
        {"role": "researcher", "project": "uni-project"},
        frozenset({"uni-manager", "operator"}),
        403,
        404,
    ),
    "setProjectStatus": (
        "PUT",
        "/v1/projects/uni-project/status",
        {"status": "active"},
        frozenset({"operator"}),
        403,
        403,
    ),
    "awardGrant": ("POST", "/v1/grants", GRANT, frozenset({"operator"}), 403, 403),
    "enactPolicy": ("POST", "/v1/policies", NEXT_POLICY, frozenset({"operator"}), 403, 403),
    "listNodes": ("GET", "/v1/nodes", None, OVERSEERS | {"operator"}, 403, 403),
    "drainNode": ("POST", "/v1/nodes/n1/drain", {"reason": "a fan"}, frozenset({"operator"}), 403, 403),
    "resumeNode": ("POST", "/v1/nodes/n1/resume", None, frozenset({"operator"}), 403, 403),
    "createUser": ("POST", "/v1/users", {"name": "somebody"}, frozenset({"operator"}), 403, 403),
    "listJobNotices": ("GET", "/v1/jobs/{job}/notices", None, MEMBERS | OVERSEERS | {"operator"}, 0, 404),
    "listNotices": (
        "GET",
        "/v1/notices?project=uni-project",
        None,
        MEMBERS | OVERSEERS | {"operator"},
        0,
        404,
    ),
    "setIdlePolicy": ("PUT", "/v1/idle-policy", {}, frozenset({"operator"}), 403, 403),
    "getIdlePolicy": ("GET", "/v1/idle-policy", None, ALL - {"nobody"}, 0, 0),
    "listIdleJobs": ("GET", "/v1/idle-jobs", None, ALL - {"nobody"}, 0, 0),
    "getUse": ("GET", "/v1/telemetry/use", None, ALL - {"nobody"}, 0, 0),
    "listPolicies": ("GET", "/v1/policies", None, ALL - {"nobody"}, 0, 0),
    "getPolicyInForce": ("GET", "/v1/policies/in-force", None, ALL - {"nobody"}, 0, 0),
    "getCluster": ("GET", "/v1/cluster", None, ALL - {"nobody"}, 0, 0),
    "getIndicator2": ("GET", "/v1/kpi/indicators/2", None, ALL - {"nobody"}, 0, 0),
    "getOverview": ("GET", "/v1/public/overview", None, ALL, 0, 0),
    "getOpenData": ("GET", "/v1/public/open-data", None, ALL, 0, 0),
    "getDossier": ("GET", "/v1/dossiers/shown", None, MEMBERS | OVERSEERS | {"operator"}, 0, 404),
    "listPayments": ("GET", "/v1/dossiers/shown/payments", None, MEMBERS | {"operator"}, 403, 404),
    "listCalculations": (
        "GET",
        "/v1/dossiers/shown/calculations",
        None,
        MEMBERS | OVERSEERS | {"operator"},
        0,
        404,
    ),
    "enterBooks": (
        "POST",
        "/v1/dossiers/shown/books",
        {"starts_on": "2026-01-01", "ends_on": "2026-05-31"},
        MEMBERS,
        403,
        404,
    ),
    "recordEntry": (
        "POST",
        "/v1/dossiers/shown/entries",
        {"state_register": "trusted", "entered_on": "2026-05-01"},
        frozenset({"reviewer"}),
        403,
        403,
    ),
    "listReports": ("GET", "/v1/reports", None, OVERSEERS | {"operator"}, 403, 403),
    "issueReport": (
        "POST",
        "/v1/reports",
        {"kind": "yearly", "period": "2026"},
        frozenset({"operator"}),
        403,
        403,
    ),
}


@pytest.fixture
def places(world: World) -> dict[str, Any]:
    job = world.job().json()["id"]
    world.run(job)
    waiting = world.job(is_held=True).json()["id"]
    world.ok("uni-researcher", "POST", "/v1/products", {**PRODUCT, "slug": "built", "jobs": [job]})
    dossier = {"slug": "shown", "project": "uni-project", "name": NAMES}
    world.ok("uni-researcher", "POST", "/v1/dossiers", dossier)
    return {"job": job, "waiting": waiting, "user": world.users["uni-manager"]}


@pytest.mark.parametrize("who", sorted(ALL))
def test_every_role_on_every_route(world: World, places: dict[str, Any], who: str) -> None:
    found = {}
    expected = {}
    for name, (method, path, body, allowed, for_seers, for_strangers) in ROUTES.items():
        answer = world.call(None if who == "nobody" else who, method, path.format(**places), json=body)
        found[name] = "ok" if answer.is_success else answer.status_code
        if who in allowed:
            expected[name] = "ok"
        elif who == "nobody":
            expected[name] = 401
        else:
            expected[name] = for_strangers if who in STRANGERS else for_seers
    assert found == expected


@pytest.mark.usefixtures("places")
@pytest.mark.parametrize("who", sorted(STRANGERS))
def test_lists_hold_nothing_of_others(world: World, who: str) -> None:
    seen = (
        "organisations",
        "projects",
        "users",
        "tokens",
        "jobs",
        "grants",
        "products",
        "dossiers",
        "notices",
        "idle-jobs",
        "quota",
        "me",
    )
    for path in seen:
        text = world.call(who, "GET", f"/v1/{path}").text
        assert "uni" not in text.replace("unit", ""), path


@pytest.mark.parametrize("who", sorted(OVERSEERS))
def test_overseers_read_figures_not_content(world: World, places: dict[str, Any], who: str) -> None:
    job = world.ok(who, "GET", f"/v1/jobs/{places['job']}")
    assert job["gpu_seconds"] == 60
    assert (job["name"], job["command"], job["env"], job["outputs"]) == (None, None, None, None)
    evidence = world.ok(who, "GET", "/v1/products/built")["evidence"]
    assert [(f["path"], f["sha256"]) for f in evidence[0]["files"]] == [(None, "ab" * 32)]


def test_a_read_token_of_a_member_changes_nothing(world: World) -> None:
    world.tokens["reader"] = world.ok("uni-researcher", "POST", "/v1/tokens", {"scopes": ["read"]})["secret"]
    assert world.call("reader", "GET", "/v1/jobs").is_success
    body = {"project": "uni-project", "command": ["true"], "gpus": 1, "walltime_s": 60}
    assert world.call("reader", "POST", "/v1/jobs", json=body).json()["code"] == "FORBIDDEN"
    assert (
        world.call("reader", "POST", "/v1/tokens", json={"scopes": ["write"]}).json()["code"] == "FORBIDDEN"
    )
    assert world.call("reader", "POST", "/v1/tokens", json={"scopes": ["read"]}).json()["code"] == "FORBIDDEN"


def test_no_token_is_wider_than_its_maker(world: World) -> None:
    assert (
        world.call("uni-manager", "POST", "/v1/tokens", json={"scopes": ["admin"]}).json()["code"]
        == "FORBIDDEN"
    )
    other = {"user_id": world.users["firm-manager"], "scopes": ["write"]}
    assert world.call("uni-manager", "POST", "/v1/tokens", json=other).json()["code"] == "FORBIDDEN"


def test_nobody_revokes_anothers_token(world: World) -> None:
    theirs = world.ok("firm-manager", "GET", "/v1/tokens")["items"][0]["id"]
    assert world.call("uni-manager", "DELETE", f"/v1/tokens/{theirs}").status_code == 404
    assert world.call("firm-manager", "GET", "/v1/me").is_success
    assert world.call("operator", "DELETE", f"/v1/tokens/{theirs}").status_code == 204
    assert world.call("firm-manager", "GET", "/v1/me").json()["code"] == "TOKEN_REVOKED"


def test_a_manager_gives_no_role_beyond_its_project(world: World) -> None:
    path = f"/v1/users/{world.users['uni-researcher']}/roles"
    assert world.call("uni-manager", "POST", path, json={"role": "operator"}).json()["code"] == "FORBIDDEN"
    assert (
        world.call(
            "uni-manager", "POST", path, json={"role": "researcher", "project": "firm-project"}
        ).json()["code"]
        == "UNKNOWN_PROJECT"
    )
    assert world.call(
        "uni-manager", "POST", path, json={"role": "project-manager", "project": "uni-project"}
    ).is_success
