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


def _migrate(_options: argparse.Namespace, settings: Settings) -> int:
    opened = engine.open_engine(database_url(settings))
    before = migrate.current(opened)
    migrate.upgrade(opened)
    sys.stdout.write(f"database: {before or 'empty'} -> {migrate.current(opened)}\n")
    return 0


def _policy(options: argparse.Namespace, settings: Settings) -> int:
    from quota.policy import PolicyError, load_policy_text

    try:
        _, policy = load_policy_text(options.file.read_text(encoding="utf-8"))
        if options.action == "check":
            sys.stdout.write(
                f"policy {policy.version}: valid, {len(policy.tree)} nodes, {len(policy.routes)} routes\n"
            )
            return 0
        from quota.service import enact

        with engine.transaction(_open(settings)) as session:
            enacted = enact(session, options.file.read_text(encoding="utf-8"), at=clock.now(), actor="system")
    except PolicyError as error:
        sys.stderr.write(f"{options.file}: {error}\n")
        return EXIT_FAILED
    sys.stdout.write(f"policy {enacted.version}: in force from {enacted.effective_from}\n")
    return 0


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
    add("migrate", _migrate, "Bring the database to this release.")
    policy = add("policy", _policy, "Check a quota policy, or enact it.")
    policy.add_argument("action", choices=["check", "enact"])
    policy.add_argument("file", type=Path)
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
