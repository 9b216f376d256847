"""`kezek-server up`: the whole platform on one machine, with the workload it plays; what `make run` calls."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from api.confinement import confinement
from api.operator import operator_token
from api.platform import AlreadyRunningError, Platform, StoppedError, say
from api.play import Outcome, play
from api.play_stage import PlayError
from api.processes import ChildError
from scheduler.figures import cluster
from store import embedded, engine, migrate
from store.settings import Settings


def _lock(state_dir: Path) -> int:
    """Make sure that one platform at most runs in a state folder; the lock ends with the process.

    Raises:
        AlreadyRunningError: when another one holds it.
    """
    descriptor = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise AlreadyRunningError(
            f"a platform already runs in {state_dir}; stop it with Ctrl-C, or set KEZEK_STATE_DIR to another folder"
        ) from None
    return descriptor


def _announce(url: str, token: str, platform: Platform) -> None:
    with engine.snapshot(platform.open_engine()) as session:
        view = cluster(session)
    simulated = all(node.is_simulated for node in view.nodes)
    kind = "simulated GPUs (no GPU was found here)" if simulated else "GPUs"
    say(f"cluster: {len(view.nodes)} nodes, {view.gpus} {kind}")
    for line in confinement([node.isolation for node in view.nodes], is_root=os.geteuid() == 0):
        say(line)
    say(f"page:  {url}/")
    say(f"token: {token}   (operator)")
    say(f"try:   export KEZEK_URL={url} KEZEK_TOKEN={token}; .venv/bin/kezek cluster")


def up(settings: Settings, *, is_once: bool, workload: Path | None) -> int:
    """Run the platform until it is stopped, or, with `is_once`, until the workload is done.

    Args:
        settings: of this machine.
        is_once: end by itself; the exit code says whether every check held.
        workload: what to play; None plays nothing.

    Returns:
        0 when stopped by the user or every check held, 1 otherwise.
    """
    state_dir = settings.state_dir.resolve()
    state_dir.mkdir(parents=True, exist_ok=True)
    (state_dir / "secrets").mkdir(mode=0o700, exist_ok=True)
    try:
        descriptor = _lock(state_dir)
    except AlreadyRunningError as error:
        sys.stderr.write(f"kezek-server up: {error}\n")
        return 1
    platform = Platform(settings.model_copy(update={"state_dir": state_dir}), state_dir)

    def ask_to_stop(_number: int, _frame: FrameType | None) -> None:
        platform.is_stopping = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask_to_stop)
    outcome: Outcome | None = None
    is_well = False
    try:
        outcome = _run(platform, is_once=is_once, workload=workload)
        is_well = outcome is not None and not outcome.problems
    except StoppedError:
        is_well = not is_once
        say("stopping: running jobs keep their place and start again with the next `make run`")
    except (ChildError, PlayError, embedded.EmbeddedPostgresError, migrate.SchemaMismatchError) as error:
        sys.stderr.write(f"kezek-server up: {error}\n")
    finally:
        platform.stop()
        os.close(descriptor)
    if outcome is not None and is_once:
        for problem in outcome.problems:
            say(f"kezek: FAILED {problem}")
        if is_well:
            say(outcome.last_line())
    return 0 if is_well else 1


def _run(platform: Platform, *, is_once: bool, workload: Path | None) -> Outcome | None:
    started = time.monotonic()
    say(f"state: {platform.state_dir}")
    platform.launch_ray()
    database = platform.start_database()
    url = platform.start_api()
    token = operator_token(database, platform.settings)
    say(f"database and API are up after {time.monotonic() - started:.1f} s; Ray is starting")
    platform.start_agents()
    platform.start_scheduler()
    pages = platform.start_exporter()
    say(f"ready after {time.monotonic() - started:.1f} s")
    _announce(url, token, platform)
    say(f"metrics: {url}/metrics {' '.join(pages)}")

    def tick() -> None:
        platform.watch()
        platform.refresh_holders()

    outcome = None
    if workload is not None:
        outcome = play(workload, url=url, token=token, say=say, tick=tick)
        outcome = outcome.verified(database, platform.state_dir / "journal-heads.jsonl")
    if is_once:
        return outcome
    if outcome is not None:
        for problem in outcome.problems:
            say(f"workload: FAILED {problem}")
        say(outcome.last_line() if not outcome.problems else "the workload did not go as expected; see above")
    say("the platform stays up; Ctrl-C stops it")
    while True:
        tick()
        time.sleep(0.5)
