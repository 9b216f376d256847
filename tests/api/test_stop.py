from __future__ import annotations

import threading
import time
from typing import Any

import httpx
import uvicorn

from api.app import create_app
from api.serve import ApiServer
from tests.api.conftest import World

LIMIT_S = 5.0
"""What the server waits for its requests; a poll that had to be cut off would take as long."""


def test_a_stop_answers_who_follows_a_log(world: World) -> None:
    job_id = world.job().json()["id"]
    app = create_app(world.engine, world.executor, now=world.clock)
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_level="critical", timeout_graceful_shutdown=int(LIMIT_S)
    )
    server = ApiServer(config)
    serving = threading.Thread(target=server.run)
    serving.start()
    answers: list[Any] = []

    def follow() -> None:
        port = server.servers[0].sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}/v1/jobs/{job_id}/logs?wait_s=20"
        headers = {"Authorization": f"Bearer {world.tokens['uni-researcher']}"}
        answers.append(httpx.get(url, headers=headers, timeout=30, trust_env=False))

    until(lambda: server.started)
    follower = threading.Thread(target=follow)
    follower.start()
    until(lambda: app.state.context.followers.waiting == 1)
    told_at = time.monotonic()
    server.should_exit = True
    for thread in (follower, serving):
        thread.join(20)
    assert time.monotonic() - told_at < LIMIT_S
    assert answers[0].status_code == 200
    assert answers[0].headers["X-Kezek-Complete"] == "false"


def until(is_done: Any) -> None:
    deadline = time.monotonic() + 10
    while not is_done():
        assert time.monotonic() < deadline
        time.sleep(0.005)
