"""`kezek-server`: one command for every process of the platform; each room is loaded only when asked for.

This module imports the standard library only, so that the node exporter, which must stay small, can be started
through it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

USAGE = """usage: kezek-server COMMAND [options]

  up          run the whole platform on this machine and play a small workload
  api         serve the HTTP API
  scheduler   run the scheduler and the journal's sealer
  exporter    export a node's GPU telemetry to Prometheus
  ray-local   run a local Ray cluster in the foreground
  agents      start the node agents in a Ray cluster
  agent       run one node agent without Ray
  migrate     bring the database to this release
  policy      check a quota policy, see what it would do, or enact it
  idle-policy check, set or show the policy for idle jobs
  token       issue an operator's token
  audit       verify the journal's chain
  ledger      verify the ledger's balances
  simulate    replay a trace of another cluster and print its figures
  replay      plan the journaled cycles again and compare
  kpi         print an indicator from the database
  product     import products of before the platform with their decisions
  report      make a report from the database, or verify a report's file
  alive       say whether a process without a listener still works

`kezek-server COMMAND --help` describes a command; docs/operations.md describes them all.
"""

EXIT_USAGE = 2
"""Exit code of a wrong command line."""


def _exporter(arguments: Sequence[str]) -> int:
    from metrics.exporter_cli import main as run

    return run(arguments)


def _agent(arguments: Sequence[str]) -> int:
    from scheduler.agent.__main__ import main as run

    return run(arguments)


def _ray_local(arguments: Sequence[str]) -> int:
    from scheduler.dispatch.raylocal import main as run

    return run(arguments)


def _agents(arguments: Sequence[str]) -> int:
    from scheduler.dispatch.agents import main as run

    is_local = any(word.split("=")[0] in {"--ready-file", "-h", "--help"} for word in arguments)
    return run(arguments) if is_local else _commands(["agents", *arguments])


def _alive(arguments: Sequence[str]) -> int:
    from api.alive import main as run

    return run(arguments)


def _simulate(arguments: Sequence[str]) -> int:
    from scheduler.simulate_cli import simulate_main as run

    if "--from-journal" not in arguments:
        return run(arguments)
    from api.commands import simulate_journal

    return simulate_journal(arguments)


def _report(arguments: Sequence[str]) -> int:
    from api.reports import main as run

    return run(arguments)


def _commands(arguments: Sequence[str]) -> int:
    from api.commands import run

    return run(arguments)


_LIGHT: dict[str, Callable[[Sequence[str]], int]] = {
    "exporter": _exporter,
    "agent": _agent,
    "ray-local": _ray_local,
    "agents": _agents,
    "simulate": _simulate,
    "report": _report,
    "alive": _alive,
}
"""Commands with their own entry, which need nothing of the database or much that no other command needs."""


def main() -> int:
    """Run the command of this process's command line; return its exit code."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        sys.stdout.write(USAGE)
        return 0 if arguments else EXIT_USAGE
    light = _LIGHT.get(arguments[0])
    return light(arguments[1:]) if light else _commands(arguments)


if __name__ == "__main__":
    sys.exit(main())
