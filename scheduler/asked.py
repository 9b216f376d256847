"""What a submission says, and the limits of what it may say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from scheduler.dispatch.limits import ENV_NAME
from scheduler.fields import DependencyKind
from scheduler.model import Request
from tenants.model import Project

MAX_NAME_CHARS: Final = 100
"""Characters of a job's name: it stands in one line of a list."""


MAX_COMMAND_ARGS: Final = 256
"""Arguments of a command: a launcher's; longer lists belong in a file of the bundle."""


MAX_COMMAND_BYTES: Final = 32_768
"""Bytes of a command's arguments together: a quarter of what Linux gives one argument."""


MAX_ENV_ENTRIES: Final = 64
"""Environment variables of a job: settings, not data."""


MAX_ENV_BYTES: Final = 32_768
"""Bytes of names and values of the environment together."""


MAX_OUTPUTS: Final = 32
"""Patterns of files to keep: each is a walk over the scratch folder."""


MAX_OUTPUT_CHARS: Final = 256
"""Characters of one pattern of files to keep."""


MAX_PRIORITY: Final = 1_000
"""Priority of a job lies between -MAX_PRIORITY and MAX_PRIORITY; it orders jobs of one queue only."""


MAX_GPUS: Final = 1_000_000
"""GPUs of one request: beyond any machine, and gpus x walltime stays far below 2**63."""


MAX_WALLTIME_S: Final = 366 * 86_400
"""Longest walltime of any queue [s]: a year, the agents' own limit."""


MAX_DEPENDENCIES: Final = 32
"""Jobs that one job may wait for: the branches of a workflow that meet in it."""


MAX_ARRAY: Final = 1_000
"""Jobs of one array: they are entered in one transaction."""


MAX_MEMORY_BYTES: Final = 2**50
"""Memory of a rank [bytes]: a pebibyte, beyond any node."""


MAX_NODE_LABELS: Final = 16
"""Labels that one job may ask of its nodes: topology and hardware, with room."""


MAX_CPUS_PER_GPU: Final = 4_096
"""CPUs for each GPU: beyond any node."""


_MOST: Final = {
    "memory_bytes_per_rank": MAX_MEMORY_BYTES,
    "cpus_per_gpu": MAX_CPUS_PER_GPU,
    "memory_bytes_per_gpu": MAX_MEMORY_BYTES,
}
"""Amounts that a request may leave out, and the most of each."""


class JobRefusedError(ValueError):
    """A job that is not accepted.

    Args:
        code: a `ReasonCode`, or QUEUE_UNKNOWN, QUEUE_FULL, BUNDLE_UNKNOWN, WALLTIME_MISSING, BAD_JOB.
        numbers: the figures of the refusal and what would be accepted.
        message: what happened and what to do, in English, for a log.
    """

    def __init__(self, code: str, numbers: Mapping[str, int | str], message: str) -> None:
        super().__init__(message)
        self.code = str(code)
        self.numbers = dict(numbers)


@dataclass(frozen=True, slots=True)
class Dependency:
    """Another job, and how it has to end before this one may start."""

    job_id: int
    kind: DependencyKind


@dataclass(frozen=True, slots=True)
class ArrayAsked:
    """So many jobs alike, each with its number in KEZEK_ARRAY_INDEX; at most `cap` of them run at a time."""

    count: int
    cap: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A job to be submitted. `request.walltime_s` 0 takes the queue's default walltime.

    `is_interactive` says that the job waits for a person by nature: the idle policy leaves it alone.
    Empty `request.flavors` take every flavor the project has a grant of, in the order in which the grants end.
    """

    project: Project
    user_id: UUID
    name: str
    command: tuple[str, ...]
    request: Request
    env: Mapping[str, str] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    bundle_digest: str | None = None
    priority: int = 0
    is_held: bool = False
    is_interactive: bool = False
    begin_at: datetime | None = None
    depends_on: tuple[Dependency, ...] = ()
    array: ArrayAsked | None = None


def _refuse_text(what: str, limit: int, found: int) -> JobRefusedError:
    numbers: dict[str, int | str] = {"field": what, "limit": limit, "found": found}
    return JobRefusedError("BAD_JOB", numbers, f"{what} is {found}, the limit is {limit}; shorten it")


def check_texts(submission: Submission) -> None:
    """Names, command, environment and outputs within their limits, and figures that are no slip."""
    command, env, request = submission.command, submission.env, submission.request
    array = submission.array or ArrayAsked(1, 1)
    amounts = {name: getattr(request, name) for name in _MOST}
    sizes = (
        ("name", MAX_NAME_CHARS, len(submission.name)),
        ("command", MAX_COMMAND_ARGS, len(command)),
        ("command_bytes", MAX_COMMAND_BYTES, sum(len(part.encode()) + 1 for part in command)),
        ("env", MAX_ENV_ENTRIES, len(env)),
        ("env_bytes", MAX_ENV_BYTES, sum(len(k.encode()) + len(v.encode()) + 2 for k, v in env.items())),
        ("outputs", MAX_OUTPUTS, len(submission.outputs)),
        ("output_chars", MAX_OUTPUT_CHARS, max(map(len, submission.outputs), default=0)),
        ("priority", MAX_PRIORITY, abs(submission.priority)),
        ("gpus", MAX_GPUS, request.gpus),
        ("nodes", MAX_GPUS, request.nodes or 1),
        ("walltime_s", MAX_WALLTIME_S, request.walltime_s),
        *((name, _MOST[name], 1 if amount is None else amount) for name, amount in amounts.items()),
        ("node_labels", MAX_NODE_LABELS, len(request.node_labels)),
        ("depends_on", MAX_DEPENDENCIES, len(submission.depends_on)),
        ("array.count", MAX_ARRAY, array.count),
    )
    for what, limit, found in sizes:
        if found > limit:
            raise _refuse_text(what, limit, found)
    least = (
        ("name", len(submission.name.strip())),
        ("command", len(command[0]) if command else 0),
        ("gpus", request.gpus),
        ("nodes", 1 if request.nodes is None else request.nodes),
        *((name, 1 if amount is None else amount) for name, amount in amounts.items()),
        ("walltime_s", request.walltime_s + 1),
        ("array.count", array.count),
        ("array.cap", array.cap),
    )
    for what, found in least:
        if found < 1:
            numbers: dict[str, int | str] = {"field": what, "least": 1}
            raise JobRefusedError("BAD_JOB", numbers, f"{what} is missing or below 1; give it")
    texts = (submission.name, *command, *env.values(), *submission.outputs)
    bad_names = [name for name in env if not ENV_NAME.fullmatch(name)]
    if bad_names or any("\0" in part for part in texts):
        message = "an environment name or a text holds a character that no program can be given; remove it"
        raise JobRefusedError("BAD_JOB", {"field": "env" if bad_names else "text"}, message)
