"""From what was typed to what is submitted: the command, the files, the figures."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kezek.bundle import Bundle, name_in_bundle, pack
from kezek.errors import UsageFaultError
from kezek.model import JobRequest
from kezek.planning import parse_array, parse_dependencies, parse_instant
from kezek.units import parse_duration_s, parse_size_bytes

PYTHON = "python"
"""Program that runs a `.py` file: the one of the environment that the job gets."""
SCRIPT_SUFFIX = ".py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Typed:
    """A submit as it was typed.

    Args:
        project: short name of the project.
        gpus: GPUs in all.
        files: script first, then further files and folders; without a script all are just files.
        arguments: what followed "--".
        command: program and arguments as one shell-quoted text; None = run the script.
        name: shown in lists; None = the script's or program's name.
        nodes: exactly so many nodes.
        walltime: duration, such as "2h".
        flavors: acceptable kinds of GPU.
        memory: size, such as "4GiB".
        env: variables as "NAME=value".
        outputs: patterns of files to keep.
        is_interactive: it waits for a person by nature.
        begin: instant before which it is not to start.
        after: jobs to wait for, as "17" or "afterany:17".
        array: as "100" or "100%8".
        priority: order among the queue's own jobs.
        is_held: wait until released.
        node_labels: labels its nodes must have, as "KEY=VALUE".
        topology_required: level of which one domain must hold it.
        topology_preferred: level of which one domain should hold it.
        placement: "pack" or "spread".
        cpus_per_gpu: CPUs for each GPU.
        memory_per_gpu: size, such as "64GiB".
    """

    project: str
    gpus: int
    files: Sequence[Path]
    arguments: Sequence[str]
    command: str | None
    name: str | None
    nodes: int | None
    walltime: str | None
    flavors: Sequence[str]
    memory: str | None
    env: Sequence[str]
    outputs: Sequence[str]
    is_interactive: bool = False
    begin: str | None = None
    after: Sequence[str] = ()
    array: str | None = None
    priority: int = 0
    is_held: bool = False
    node_labels: Sequence[str] = ()
    topology_required: str | None = None
    topology_preferred: str | None = None
    placement: str = "pack"
    cpus_per_gpu: int | None = None
    memory_per_gpu: str | None = None


def prepare(typed: Typed, base: Path) -> tuple[JobRequest, Bundle | None]:
    """Return the request and the packed files; names are taken against the absolute folder `base`.

    Raises:
        UsageFaultError: something cannot be as it was typed.
    """
    command = _command(typed, base)
    request = JobRequest(
        project=typed.project,
        command=command,
        gpus=typed.gpus,
        name=typed.name or Path(command[1] if _is_script(typed) else command[0]).name,
        nodes=typed.nodes,
        walltime_s=None if typed.walltime is None else parse_duration_s(typed.walltime),
        flavors=tuple(typed.flavors),
        memory_bytes_per_rank=None if typed.memory is None else parse_size_bytes(typed.memory),
        env=_pairs(typed.env, "usage.env", "usage.env_twice"),
        outputs=tuple(typed.outputs),
        is_interactive=typed.is_interactive,
        begin_at=None if typed.begin is None else parse_instant(typed.begin),
        depends_on=tuple(parse_dependencies(typed.after)),
        array=None if typed.array is None else parse_array(typed.array),
        priority=typed.priority,
        is_held=typed.is_held,
        node_labels=_pairs(typed.node_labels, "usage.node_label", "usage.node_label_twice"),
        topology_required=typed.topology_required,
        topology_preferred=typed.topology_preferred,
        placement=typed.placement,
        cpus_per_gpu=typed.cpus_per_gpu,
        memory_bytes_per_gpu=None if typed.memory_per_gpu is None else parse_size_bytes(typed.memory_per_gpu),
    )
    return request, pack(typed.files, base) if typed.files else None


def _is_script(typed: Typed) -> bool:
    return typed.command is None


def _command(typed: Typed, base: Path) -> tuple[str, ...]:
    if typed.command is not None:
        try:
            words = shlex.split(typed.command)
        except ValueError as error:
            raise UsageFaultError("usage.command_quotes", why=str(error)) from error
        if not words:
            raise UsageFaultError("usage.nothing_to_run")
        return (*words, *typed.arguments)
    if not typed.files:
        raise UsageFaultError("usage.nothing_to_run")
    script = typed.files[0]
    if script.suffix != SCRIPT_SUFFIX:
        raise UsageFaultError("usage.no_command", first=str(script))
    if not script.is_file():
        raise UsageFaultError("usage.script_not_a_file", path=str(script))
    return (PYTHON, name_in_bundle(script, base), *typed.arguments)


def _pairs(texts: Iterable[str], bad: str, twice: str) -> dict[str, str]:
    """Texts "NAME=value" by name; `bad` and `twice` are the messages of what is refused."""
    found: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise UsageFaultError(bad, value=text)
        if name in found:
            raise UsageFaultError(twice, name=name)
        found[name] = value
    return found
