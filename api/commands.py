"""The commands of `kezek-server` that work on the database, and the long-running processes."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from api import production
from store import clock, embedded, engine, migrate, seal
from store.settings import Settings

EXIT_USAGE = 2
"""Exit code of a wrong command line or setting."""

EXIT_FAILED = 1
"""Exit code when a check did not hold, or a process could not start."""


class NoDatabaseError(RuntimeError):
    """No database is given and none runs in the state folder."""


def database_url(settings: Settings) -> str:
    """Return the URL of the database: the setting, or the running embedded server's.

    Raises:
        NoDatabaseError: when there is neither.
    """
    if settings.database_url:
        return settings.database_url
    url_file = settings.secrets_dir / "database.url"
    if not url_file.exists():
        raise NoDatabaseError(
            f"no database: set KEZEK_DATABASE_URL, or start the platform in {settings.state_dir} with `kezek-server up`"
        )
    return url_file.read_text().strip()


def head_file(settings: Settings) -> Path:
    """Return the file outside the database that holds the journal's published heads."""
    return settings.state_dir / "journal-heads.jsonl"


def _open(settings: Settings) -> Engine:
    opened = engine.open_engine(database_url(settings))
    migrate.check(opened)
    return opened


def _print(document: object) -> None:
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, sort_keys=True, default=str) + "\n")


def _up(options: argparse.Namespace, settings: Settings) -> int:
    from api.up import up

    return up(settings, is_once=options.once, workload=None if options.idle else options.workload)


def _api(_options: argparse.Namespace, settings: Settings) -> int:
    from api.serve import serve

    return serve(_open(settings), settings)


def _scheduler(_options: argparse.Namespace, settings: Settings) -> int:
    from api.serve import schedule

    return schedule(_open(settings), settings, database_url(settings), head_file(settings))


def _agents(options: argparse.Namespace, settings: Settings) -> int:
    from api.node_agents import main as keep

    return keep(settings, is_once=options.once)


def _migrate(_options: argparse.Namespace, settings: Settings) -> int:
    opened = engine.open_engine(database_url(settings))
    before = migrate.current(opened)
    migrate.upgrade(opened)
    sys.stdout.write(f"database: {before or 'empty'} -> {migrate.current(opened)}\n")
    return 0


def _policy(options: argparse.Namespace, settings: Settings) -> int:
    from quota.policy import PolicyError, load_policy_text

    if options.action == "diff":
        return _policy_diff(options, settings)
    try:
        text = options.file.read_text(encoding="utf-8")  # once: it may be a pipe
        _, policy = load_policy_text(text)
        if options.action == "check":
            sys.stdout.write(
                f"policy {policy.version}: valid, {len(policy.tree)} nodes, {len(policy.routes)} routes\n"
            )
            return 0
        from quota.service import enact

        with engine.transaction(_open(settings)) as session:
            enacted = enact(session, text, at=clock.now(), actor="system")
    except PolicyError as error:
        sys.stderr.write(f"{options.file}: {error}\n")
        return EXIT_FAILED
    sys.stdout.write(f"policy {enacted.version}: in force from {enacted.effective_from}\n")
    return 0


def _idle_policy(options: argparse.Namespace, settings: Settings) -> int:
    from metrics import idle_policy
    from quota.policy import PolicyError

    if (options.action == "show") is (options.file is not None):
        wants = "takes no file" if options.action == "show" else "needs a file"
        sys.stderr.write(f"kezek-server idle-policy {options.action}: {wants}\n")
        return EXIT_USAGE
    if options.action == "show":
        with engine.snapshot(_open(settings)) as session:
            found = idle_policy.in_force(session)
        known = {"id": found.id, "digest": found.digest, "set_at": found.set_at, "set_by": found.set_by}
        _print(known | idle_policy.to_document(found.policy))
        return 0
    try:
        policy = idle_policy.load_text(options.file.read_text(encoding="utf-8"))
    except PolicyError as error:
        sys.stderr.write(f"{options.file}: {error}\n")
        return EXIT_FAILED
    if options.action == "set":
        with engine.transaction(_open(settings)) as session:
            made = idle_policy.put(session, policy, at=clock.now(), actor="system")
        sys.stdout.write(f"idle policy {made.id}: in force{' (dry run)' if policy.is_dry_run else ''}\n")
    else:
        sys.stdout.write("idle policy: valid\n")
    return 0


def _policy_diff(options: argparse.Namespace, settings: Settings) -> int:
    """What a policy would do to the machine as it stands."""
    from dataclasses import asdict

    from quota.policy import PolicyError, load_policy_text
    from quota.service import NoPolicyError
    from scheduler.explaining import preview_policy

    try:
        _, policy = load_policy_text(options.file.read_text(encoding="utf-8"))
        with engine.snapshot(_open(settings)) as session:
            found = preview_policy(session, policy, clock.now())
    except (PolicyError, NoPolicyError) as error:
        sys.stderr.write(f"{options.file}: {error}\n")
        return EXIT_FAILED
    if options.json:
        _print(asdict(found))
        return 0
    for queue in found.queues:
        sys.stdout.write(
            f"{queue.path}: nominal {queue.nominal_before} -> {queue.nominal_after} GPUs, holds {queue.held}, "
            f"borrowed {queue.borrowed_before} -> {queue.borrowed_after}\n"
        )
        for flavor, change in queue.slices:
            sys.stdout.write(
                f"{queue.path}: nominal {change.nominal_before} -> {change.nominal_after} slices of {flavor}, "
                f"holds {change.held}, borrowed {change.borrowed_before} -> {change.borrowed_after}\n"
            )
    sys.stdout.write(f"would get notice: {', '.join(found.preempting) or 'nobody'}\n")
    sys.stdout.write(f"would start: {', '.join(map(str, found.admitted)) or 'none'}\n")
    return 0


def simulate_journal(arguments: Sequence[str]) -> int:
    """Replay the platform's own load; returns the exit code."""
    from quota.service import NoPolicyError
    from scheduler.journal_trace import read_journal
    from scheduler.simulate_cli import Load, simulate_main

    def load(days: int) -> Load:
        return read_journal(_open(Settings()), days=days, at=clock.now())

    try:
        return simulate_main(arguments, load)
    except (NoDatabaseError, NoPolicyError, migrate.SchemaMismatchError, OperationalError) as error:
        sys.stderr.write(f"kezek-server simulate: {error}\n")
        return EXIT_FAILED


def _token(_options: argparse.Namespace, settings: Settings) -> int:
    from api.operator import NoOperatorError, operator_token

    try:
        sys.stdout.write(operator_token(_open(settings), settings) + "\n")
    except NoOperatorError as error:
        sys.stderr.write(f"kezek-server token: {error}\n")
        return EXIT_FAILED
    return 0


def _audit(options: argparse.Namespace, settings: Settings) -> int:
    verdict = seal.verify(_open(settings), head_file(settings))
    if options.json:
        _print({name: getattr(verdict, name) for name in verdict.__slots__})
    elif verdict.problem:
        sys.stderr.write(f"journal: NOT verified: {verdict.problem}\n")
    else:
        sys.stdout.write(
            f"journal: verified, {verdict.records_sealed} records in {verdict.segments} segments, "
            f"{verdict.records_unsealed} not sealed yet, head {verdict.head}\n"
        )
    return EXIT_FAILED if verdict.problem else 0


def _ledger(_options: argparse.Namespace, settings: Settings) -> int:
    from quota.service import verify

    verdict = verify(_open(settings))
    for problem in verdict.problems:
        sys.stderr.write(f"ledger: {problem}\n")
    if not verdict.problems:
        sys.stdout.write(f"ledger: balanced, {verdict.entries} entries of {verdict.grants} grants\n")
    return EXIT_FAILED if verdict.problems else 0


def _replay(_options: argparse.Namespace, settings: Settings) -> int:
    from scheduler.replay import replay_all

    outcomes = replay_all(_open(settings))
    differing = [outcome for outcome in outcomes if outcome.differences]
    for outcome in differing:
        sys.stderr.write(f"cycle {outcome.record_id}: {'; '.join(outcome.differences)}\n")
    if not differing:
        sys.stdout.write(f"replay: {len(outcomes)} cycles planned again, all equal\n")
    return EXIT_FAILED if differing else 0


def _kpi(options: argparse.Namespace, settings: Settings) -> int:
    from api.register_commands import run_kpi

    return run_kpi(options, settings, None if options.offline else _open(settings))


def _product(options: argparse.Namespace, settings: Settings) -> int:
    from api.register_commands import run_product

    return run_product(options, _open(settings))


def _parser() -> argparse.ArgumentParser:
    from api.register_commands import add_kpi_arguments, add_product_arguments

    parser = argparse.ArgumentParser(prog="kezek-server")
    commands = parser.add_subparsers(dest="command", required=True)

    def add(
        name: str, run: Callable[[argparse.Namespace, Settings], int], text: str
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        return made

    up = add("up", _up, "Run the whole platform on this machine and play a small workload.")
    up.add_argument(
        "--once", action="store_true", help="end when the workload is done; exit 0 if every check held"
    )
    up.add_argument("--idle", action="store_true", help="play no workload")
    up.add_argument("--workload", type=Path, default=Path("examples/workload.yaml"), help="workload to play")
    add("api", _api, "Serve the HTTP API.")
    add("scheduler", _scheduler, "Run the scheduler and the journal's sealer.")
    agents = add("agents", _agents, "Keep an agent on every GPU node of a Ray cluster.")
    agents.add_argument("--once", action="store_true", help="end once an agent answers")
    add("migrate", _migrate, "Bring the database to this release.")
    policy = add("policy", _policy, "Check a quota policy, see what it would do, or enact it.")
    policy.add_argument("action", choices=["check", "diff", "enact"])
    policy.add_argument("file", type=Path)
    idle = add("idle-policy", _idle_policy, "Check, set or show the policy for idle jobs.")
    idle.add_argument("action", choices=["check", "set", "show"])
    idle.add_argument("file", type=Path, nargs="?", help="the policy in YAML, for check and set")
    policy.add_argument("--json", action="store_true", help="of diff: one JSON object")
    add("token", _token, "Print this machine's operator token, issuing one if need be.")
    audit = add("audit", _audit, "Verify the journal's chain.")
    audit.add_argument("action", choices=["verify"])
    audit.add_argument("--json", action="store_true")
    ledger = add("ledger", _ledger, "Verify every balance of the ledger.")
    ledger.add_argument("action", choices=["verify"])
    add("replay", _replay, "Plan every journaled cycle again and compare.")
    kpi = add("kpi", _kpi, "Print an indicator from the database.")
    add_kpi_arguments(kpi)
    add_product_arguments(add("product", _product, "Import products of before the platform."))
    return parser


def run(arguments: Sequence[str]) -> int:
    """Run one command; return its exit code (0 done, 1 failed, 2 wrong command line or setting)."""
    options = _parser().parse_args(arguments)
    try:
        settings = Settings()
        logging.basicConfig(
            level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
        production.check(options.command, settings)
    except production.ProductionError as error:
        sys.stderr.write(f"kezek-server {options.command}: {error}; docs/settings.md lists the settings\n")
        return EXIT_USAGE
    except (ValidationError, ValueError) as error:
        sys.stderr.write(f"kezek-server {options.command}: {_settings_fault(error)}\n")
        return EXIT_USAGE
    for chatty in ("httpx", "alembic"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))
    try:
        return int(options.run(options, settings))
    except (
        NoDatabaseError,
        embedded.EmbeddedPostgresError,
        engine.DatabaseUrlError,
        migrate.SchemaMismatchError,
        OSError,
    ) as error:
        sys.stderr.write(f"kezek-server {options.command}: {error}\n")
    except OperationalError as error:
        sys.stderr.write(
            f"kezek-server {options.command}: the database cannot be reached; check KEZEK_DATABASE_URL and that "
            f"PostgreSQL runs: {str(error.orig).strip()}\n"
        )
    return EXIT_FAILED


def _settings_fault(error: ValueError) -> str:
    """Say which environment variable is wrong, and how."""
    if not isinstance(error, ValidationError):
        return f"a setting is wrong: {error}; docs/settings.md lists them"
    faults = [f"KEZEK_{'_'.join(map(str, fault['loc'])).upper()}: {fault['msg']}" for fault in error.errors()]
    return "; ".join(faults) + "; docs/settings.md lists the settings"
