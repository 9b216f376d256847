from __future__ import annotations

from sqlalchemy import text

from store.engine import transaction
from tests.api.conftest import World


def test_what_left_its_nodes_is_said_to_have_left(world: World) -> None:
    job_id = world.job().json()["id"]
    world.run(job_id)
    who = "uni-researcher"
    kept = world.ok(who, "GET", f"/v1/jobs/{job_id}/outputs")["items"]
    with transaction(world.engine) as session:
        session.execute(text("UPDATE attempts SET removed_at = '2026-05-01T00:00:00Z'"))
    for address in ("logs", f"outputs/0/{kept[0]['path']}"):
        answer = world.call(who, "GET", f"/v1/jobs/{job_id}/{address}")
        assert (answer.status_code, answer.json()["code"]) == (404, "OUTPUT_NOT_FOUND")
        assert "left its nodes on 2026-05-01" in answer.json()["detail"]
    assert world.ok(who, "GET", f"/v1/jobs/{job_id}/outputs")["items"] == kept
