"""A scheduler's process for crash tests: the real service, with an executor that can stop short at one point.

Usage: scheduler_process.py DATABASE_URL AGENTS_JSON SECRET_FILE POINT
POINT is "none", "before-launch" (after T2), "before-record" (launched, T3 not written) or "deaf" (after T3).
It writes the name of the point to standard output when it stops there, and then waits for its end.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

from scheduler.dispatch.executor import AgentExecutor
from scheduler.nodes import AgentsFile
from scheduler.service import SchedulerService, SchedulerSettings
from store import engine


class ShortExecutor(AgentExecutor):
    def __init__(self, urls: Any, secret: str, point: str) -> None:
        super().__init__(urls, secret)
        self.point = point

    def _halt(self) -> None:
        sys.stdout.write(self.point + "\n")
        sys.stdout.flush()
        threading.Event().wait()

    def prepare(self, *arguments: Any) -> Any:
        if self.point == "before-launch":
            self._halt()
        return super().prepare(*arguments)

    def launch(self, *arguments: Any) -> Any:
        receipt = super().launch(*arguments)
        if self.point == "before-record":
            self._halt()
        return receipt

    def observe(self, *arguments: Any) -> Any:
        if self.point == "deaf":
            threading.Event().wait()
        return super().observe(*arguments)


def main() -> int:
    url, agents_json, secret_file, point = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    opened = engine.open_engine(url)
    secret = Path(secret_file).read_text().strip()
    service = SchedulerService(
        opened,
        AgentsFile(Path(agents_json)),
        lambda urls: ShortExecutor(urls, secret, point),
        SchedulerSettings(
            holder=uuid.uuid4().hex,
            database_url=url,
            release="test",
            cycle_interval_ms=200,
            lease_ttl_s=2,
            node_down_after_s=10,
        ),
    )
    signal.signal(signal.SIGTERM, lambda *_: service.stop())
    service.run()
    sys.stdout.write(json.dumps("stopped") + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
