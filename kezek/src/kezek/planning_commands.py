"""Commands about planning: why, hold, release, acts, windows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from kezek import show_planning
from kezek.context import JobNumber, Output, connect, terminal
from kezek.errors import UsageFaultError
from kezek.fields import Fields
from kezek.planning import parse_every, parse_instant
from kezek.terminal import Format, Terminal
from kezek.units import parse_duration_s

acts = typer.Typer(no_args_is_help=True, help="What operators set above the machine: pause, expedite, pin.")
windows = typer.Typer(no_args_is_help=True, help="Nodes set apart for a time: maintenance, reservations.")
nodes = typer.Typer(no_args_is_help=True, help="Nodes taken out of service and put back.")

Number = Annotated[int, typer.Argument(min=1, metavar="NUMBER", help="Number in the list.")]
NodeName = Annotated[str, typer.Argument(metavar="NODE", help="Name of the node.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; the journal keeps its digest.")]


def why(job_id: JobNumber, *, output: Output = Format.TABLE) -> None:
    """Tell why a job waits, who is ahead by which rule, its latest start, and what would start it now."""
    screen = terminal(output)
    with connect() as client:
        found = client.explanation(job_id)
    if screen.is_json:
        screen.json(found.raw)
    else:
        screen.record(show_planning.why_pairs(found, screen.messages))


def moved(
    *,
    cause: Annotated[str | None, typer.Option("--cause", help="Only those that moved for it.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """List planned starts that were put off or given up of late; for those who oversee the platform."""
    screen = terminal(output)
    with connect() as client:
        found = client.moved_starts(cause)
    if screen.is_json:
        screen.json(found.raw)
    else:
        rows = show_planning.moved_rows(found.objects("items"), screen.messages)
        screen.table(show_planning.MOVED_HEADS, rows)


def hold(job_id: JobNumber, *, output: Output = Format.TABLE) -> None:
    """Keep a waiting job from starting until it is released; its place is kept."""
    _keep(job_id, output, is_held=True)


def release(job_id: JobNumber, *, output: Output = Format.TABLE) -> None:
    """Let a held job start again."""
    _keep(job_id, output, is_held=False)


def _keep(job_id: int, output: Format, *, is_held: bool) -> None:
    screen = terminal(output)
    with connect() as client:
        found = client.hold(job_id) if is_held else client.release(job_id)
    if screen.is_json:
        screen.json(found.raw)
    else:
        screen.line(screen.messages.say("job.held" if is_held else "job.released", id=found.id))


@acts.command("list")
def list_acts(*, output: Output = Format.TABLE) -> None:
    """List the acts that stand; for those who oversee the platform."""
    screen = terminal(output)
    with connect() as client:
        found = client.acts()
    if screen.is_json:
        screen.json([one.raw for one in found])
    else:
        screen.table(show_planning.ACT_HEADS, show_planning.act_rows(found, screen.messages))


@acts.command("set")
def set_act(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="pause, expedite or pin.")],
    *,
    reason: Reason,
    lasts: Annotated[str, typer.Option("--for", help="How long it stands: 2h, 1d.")],
    job: Annotated[int | None, typer.Option("--job", min=1, help="The job it is about.")] = None,
    queue: Annotated[
        str | None, typer.Option("--queue", help="The queue to pause, with all below it.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Pause a job or a queue, put a job first in its queue, or forbid to take its GPUs back; operators only."""
    screen = terminal(output)
    expires_at = datetime.now(UTC) + timedelta(seconds=parse_duration_s(lasts))
    asked = {
        "kind": kind,
        "job_id": job,
        "queue": queue,
        "reason": reason,
        "expires_at": expires_at.isoformat(),
    }
    with connect() as client:
        found = client.set_act(asked)
    if screen.is_json:
        screen.json(found.raw)
    else:
        screen.table(show_planning.ACT_HEADS, show_planning.act_rows([found], screen.messages))


@acts.command("end")
def end_act(number: Number, *, output: Output = Format.TABLE) -> None:
    """Take an act back before it expires; operators only."""
    screen = terminal(output)
    with connect() as client:
        found = client.end_act(number)
    if screen.is_json:
        screen.json(found.raw)
    else:
        screen.line(screen.messages.say("planning.ended", number=number))


@windows.command("list")
def list_windows(*, output: Output = Format.TABLE) -> None:
    """List the windows that have not ended."""
    screen = terminal(output)
    with connect() as client:
        found = client.windows()
    if screen.is_json:
        screen.json([one.raw for one in found])
    else:
        screen.table(show_planning.WINDOW_HEADS, show_planning.window_rows(found, screen.messages))


@windows.command("add")
def add_window(  # noqa: PLR0913 - every argument is an option of the command line
    kind: Annotated[str, typer.Argument(metavar="KIND", help="maintenance or reservation.")],
    *,
    node: Annotated[list[str], typer.Option("--node", help="A node; repeat.")],
    begins: Annotated[str, typer.Option("--from", help="YYYY-MM-DDTHH:MM in Almaty, or with a zone.")],
    ends: Annotated[str, typer.Option("--to", help="YYYY-MM-DDTHH:MM in Almaty, or with a zone.")],
    reason: Reason,
    project: Annotated[
        list[str] | None, typer.Option("--project", help="May use it all the same; repeat.")
    ] = None,
    every: Annotated[
        str | None, typer.Option("--every", help="It recurs: 1d, 2w; at the same time of day.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", help="No occurrence begins after it.")] = None,
    zone: Annotated[str, typer.Option("--zone", help="By whose clock it recurs.")] = "Asia/Almaty",
    output: Output = Format.TABLE,
) -> None:
    """Set nodes apart; what would run into the window is not started on them; operators only."""
    screen = terminal(output)
    if (every is None) is not (until is None):
        raise UsageFaultError("usage.every_until")
    asked: dict[str, object] = {
        "kind": kind,
        "nodes": node,
        "projects": project or [],
        "from_at": parse_instant(begins).isoformat(),
        "to_at": parse_instant(ends).isoformat(),
        "reason": reason,
    }
    if every is not None and until is not None:
        asked["repeats"] = parse_every(every) | {"zone": zone, "until": parse_instant(until).isoformat()}
    with connect() as client:
        found = client.add_window(asked)
    if screen.is_json:
        screen.json(found.raw)
    else:
        screen.table(show_planning.WINDOW_HEADS, show_planning.window_rows([found], screen.messages))


@windows.command("remove")
def remove_window(number: Number, *, output: Output = Format.TABLE) -> None:
    """Put the nodes of a window back into the common use; operators only."""
    screen = terminal(output)
    with connect() as client:
        found = client.remove_window(number)
    if screen.is_json:
        screen.json(found.raw)
    else:
        screen.line(screen.messages.say("planning.ended", number=number))


@nodes.command("list")
def list_nodes(*, output: Output = Format.TABLE) -> None:
    """List which nodes take work, and why others do not; for those who oversee the platform."""
    screen = terminal(output)
    with connect() as client:
        found = client.nodes()
    if screen.is_json:
        screen.json([one.raw for one in found])
    else:
        screen.table(show_planning.SERVICE_HEADS, show_planning.service_rows(found, screen.messages))


@nodes.command("drain")
def drain_node(node: NodeName, *, reason: Reason, output: Output = Format.TABLE) -> None:
    """Take a node out of service: no new work starts on it, what runs goes on; operators only."""
    screen = terminal(output)
    with connect() as client:
        _tell_service(screen, client.drain(node, reason))


@nodes.command("resume")
def resume_node(node: NodeName, *, output: Output = Format.TABLE) -> None:
    """Put a drained node back into service; operators only."""
    screen = terminal(output)
    with connect() as client:
        _tell_service(screen, client.resume(node))


def _tell_service(screen: Terminal, found: Fields) -> None:
    if screen.is_json:
        screen.json(found.raw)
    else:
        screen.table(show_planning.SERVICE_HEADS, show_planning.service_rows([found], screen.messages))
