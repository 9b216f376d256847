"""Commands about jobs: submit, jobs, job, logs, cancel."""

from __future__ import annotations

from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated, Final, cast

import typer
from typer.core import TyperCommand

from kezek import show
from kezek.client import Client
from kezek.context import JobNumber, Output, connect, terminal
from kezek.exits import Exit
from kezek.logs import LogPlace
from kezek.model import Job
from kezek.submission import Typed, prepare
from kezek.terminal import Format, Terminal
from kezek.watch import watch

DEFAULT_JOBS: Final = 20
"""Jobs listed when no limit is given: a screenful."""
MAX_JOBS: Final = 10_000
"""Most jobs of one listing: fifty pages of the platform."""
_ARGUMENTS: Final = "kezek.arguments"


class Placement(StrEnum):
    """Which of the nodes that hold a job it gets."""

    PACK = "pack"
    SPREAD = "spread"


class ArgumentsCommand(TyperCommand):
    """A command that keeps what follows "--" apart from its own arguments."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Split at the first "--"; what follows belongs to the user's program."""
        own, rest = args, []
        if "--" in args:
            place = args.index("--")
            own, rest = args[:place], args[place + 1 :]
        ctx.meta[_ARGUMENTS] = rest
        return super().parse_args(ctx, own)


def submit(  # noqa: PLR0913 - every argument is an option of the command line
    ctx: typer.Context,
    *,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[SCRIPT.py] [FILES]...", help="Script to run, then files and folders it needs."
        ),
    ] = None,
    project: Annotated[
        str, typer.Option("--project", "-p", envvar="KEZEK_PROJECT", help="Short name of the project.")
    ],
    gpus: Annotated[int, typer.Option("--gpus", "-g", min=1, help="GPUs in all, over all nodes.")],
    nodes: Annotated[
        int | None, typer.Option(min=1, help="Exactly so many nodes, GPUs shared out evenly.")
    ] = None,
    walltime: Annotated[
        str | None, typer.Option("--walltime", "-t", help="Longest run: 30m, 2h, 1d12h.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name in lists; else the script's.")] = None,
    flavor: Annotated[
        list[str] | None, typer.Option(help="Acceptable kind of GPU; repeat, best first.")
    ] = None,
    memory: Annotated[str | None, typer.Option(help="Most memory of a rank: 512MiB, 4GiB.")] = None,
    node_label: Annotated[
        list[str] | None, typer.Option(metavar="K=V", help="Only nodes with this label; repeat.")
    ] = None,
    topology_required: Annotated[
        str | None, typer.Option(metavar="LEVEL", help="All nodes in one domain of this level.")
    ] = None,
    topology_preferred: Annotated[
        str | None, typer.Option(metavar="LEVEL", help="One domain of this level if it can be.")
    ] = None,
    placement: Annotated[
        Placement, typer.Option(help="pack: the fullest nodes that hold it; spread: the emptiest.")
    ] = Placement.PACK,
    cpus_per_gpu: Annotated[
        int | None, typer.Option(min=1, help="CPUs for each GPU; else the node's share.")
    ] = None,
    mem_per_gpu: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory for each GPU: 64GiB; else the node's share.")
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option("--env", "-e", metavar="K=V", help="Variable; repeat.")
    ] = None,
    output_file: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Files to keep when the job ends; repeat.")
    ] = None,
    command: Annotated[
        str | None, typer.Option(help="Program and arguments instead of a .py script.")
    ] = None,
    interactive: Annotated[
        bool, typer.Option("--interactive", help="It waits for a person: idle GPUs are no fault.")
    ] = False,
    begin: Annotated[
        str | None, typer.Option("--begin", help="Start no earlier: YYYY-MM-DDTHH:MM in Almaty.")
    ] = None,
    after: Annotated[
        list[str] | None, typer.Option(metavar="[KIND:]JOB", help="Wait for a job: 17, afterany:17; repeat.")
    ] = None,
    array: Annotated[str | None, typer.Option(metavar="N[%M]", help="N jobs alike, M at a time.")] = None,
    priority: Annotated[int, typer.Option(help="Order among your queue's jobs; above 0: operators.")] = 0,
    hold: Annotated[bool, typer.Option("--hold", help="Wait until released.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", "-w", help="Wait for the end; exit 1 if it did not complete.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Submit a job; what follows -- goes to your program.

    kezek submit train.py data.csv --project digits --gpus 2 --walltime 1h -- --epochs 20
    """
    typed = Typed(
        project=project,
        gpus=gpus,
        files=files or (),
        arguments=cast("list[str]", ctx.meta[_ARGUMENTS]),
        command=command,
        name=name,
        nodes=nodes,
        walltime=walltime,
        flavors=flavor or (),
        memory=memory,
        env=env or (),
        outputs=output_file or (),
        is_interactive=interactive,
        begin=begin,
        after=after or (),
        array=array,
        priority=priority,
        is_held=hold,
        node_labels=node_label or (),
        topology_required=topology_required,
        topology_preferred=topology_preferred,
        placement=placement.value,
        cpus_per_gpu=cpus_per_gpu,
        memory_per_gpu=mem_per_gpu,
    )
    screen = terminal(output)
    request, bundle = prepare(typed, Path.cwd())
    with connect() as client:
        job = client.submit(request, bundle)
        if not screen.is_json:
            screen.line(screen.messages.say("job.submitted", id=job.id, queue=job.queue))
        if wait:
            _wait(client, job, screen)
        elif screen.is_json:
            screen.json(job.raw)
        else:
            screen.note(screen.messages.say("job.wait_hint", id=job.id))


def jobs(
    *,
    project: Annotated[str | None, typer.Option("--project", "-p", help="Only of this project.")] = None,
    state: Annotated[str | None, typer.Option(help="Only in this state, such as RUNNING.")] = None,
    queue: Annotated[str | None, typer.Option(help="Only of this queue.")] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=MAX_JOBS, help="At most so many, the newest first.")
    ] = DEFAULT_JOBS,
    output: Output = Format.TABLE,
) -> None:
    """List jobs, the newest first."""
    screen = terminal(output)
    with connect() as client:
        wanted = None if state is None else state.upper()
        found = list(islice(client.jobs(project=project, state=wanted, queue=queue), limit + 1))
    listed = found[:limit]
    if screen.is_json:
        screen.json([job.raw for job in listed])
        return
    if not listed:
        screen.note(screen.messages.say("job.none"))
        return
    screen.table(show.JOB_HEADS, show.job_rows(listed, screen.messages))
    if len(found) > limit:
        screen.note(screen.messages.say("job.more"))


def job(
    job_id: JobNumber,
    *,
    wait: Annotated[
        bool, typer.Option("--watch", "-w", help="Follow it to its end; exit 1 if it did not complete.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Show a job: its state, and while it waits, why."""
    screen = terminal(output)
    with connect() as client:
        found = client.job(job_id)
        if wait:
            _wait(client, found, screen)
        elif screen.is_json:
            screen.json(found.raw)
        else:
            screen.record(show.job_pairs(found, screen.messages))
            if found.is_placed:
                standing = [one for one in client.notices(job_id) if one.cleared_at is None]
                for notice in standing[:1]:
                    screen.note(notice.text)


def logs(
    job_id: JobNumber,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    rank: Annotated[int, typer.Option(min=0, help="Rank of a gang, from 0.")] = 0,
    attempt: Annotated[int | None, typer.Option(min=1, help="Attempt, from 1; else the latest.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Print what a job's rank wrote, byte for byte; as JSON, one object with its text."""
    screen = terminal(output)
    place = LogPlace(job_id, rank, 0, attempt)
    said = bytearray()
    write = said.extend if screen.is_json else screen.raw

    def note_break(offset: int) -> None:
        screen.note(screen.messages.say("job.reconnecting", offset=offset))

    with connect() as client:
        if follow:
            for data in client.follow(place, on_break=note_break):
                write(data)
        else:
            for data in client.read_log(place):
                write(data)
    if screen.is_json:
        screen.json({"job_id": job_id, "rank": rank, "text": said.decode(errors="replace")})


def cancel(
    job_ids: Annotated[list[int], typer.Argument(min=1, metavar="JOB...", help="Numbers of jobs.")],
    *,
    output: Output = Format.TABLE,
) -> None:
    """Cancel jobs; those that run are stopped."""
    screen = terminal(output)
    cancelled: list[Job] = []
    with connect() as client:
        for job_id in job_ids:
            found = client.cancel(job_id)
            cancelled.append(found)
            if screen.is_json:
                continue
            if found.is_cancel_requested and not found.is_final:
                screen.line(screen.messages.say("job.stopping", id=found.id))
            else:
                state, _ = show.state(found, screen.messages)
                screen.line(screen.messages.say("job.cancelled", id=found.id, state=state))
    if screen.is_json:
        screen.json([found.raw for found in cancelled])


def _wait(client: Client, job: Job, screen: Terminal) -> None:
    """Follow a job to its end and tell it.

    Raises:
        typer.Exit: it did not complete.
    """
    try:
        ended = watch(client, job.id, screen)
    except KeyboardInterrupt:
        screen.note(screen.messages.say("job.goes_on", id=job.id))
        raise
    if screen.is_json:
        screen.json(ended.raw)
    else:
        messages = screen.messages
        state, _ = show.state(ended, messages)
        exit_text = show.exit_text(ended, messages)
        charged = show.gpu_time(ended, messages) or messages.say("unit.gpu_seconds", value="0")
        named = f"{state} ({exit_text})" if exit_text and not ended.is_completed else state
        screen.line(messages.say("job.ended", id=ended.id, state=named, gpu_hours=charged))
    if not ended.is_completed:
        raise typer.Exit(Exit.JOB_FAILED)
