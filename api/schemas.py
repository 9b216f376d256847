"""What the API reads: bodies and queries. Unknown fields are refused, every text and figure has its limit.

What it answers stands in `api.answers`.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated, Final
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from api.limits import DEFAULT_PAGE, MAX_ID, MAX_PAGE, MAX_WAIT_S
from quota.model import GroundKind
from quota.service import MAX_GRANTED_S
from scheduler.acts import MAX_REASON_CHARS
from scheduler.dispatch.limits import ENV_NAME, LABEL_NAME, MAX_WORLD_SIZE
from scheduler.fields import ActKind, DependencyKind
from scheduler.jobs import (
    MAX_ARRAY,
    MAX_COMMAND_ARGS,
    MAX_CPUS_PER_GPU,
    MAX_DEPENDENCIES,
    MAX_ENV_ENTRIES,
    MAX_GPUS,
    MAX_MEMORY_BYTES,
    MAX_NAME_CHARS,
    MAX_NODE_LABELS,
    MAX_OUTPUT_CHARS,
    MAX_OUTPUTS,
    MAX_PRIORITY,
    MAX_WALLTIME_S,
)
from scheduler.model import JobState, Placement
from scheduler.recurring import MAX_INTERVAL, Every
from scheduler.windows import WindowKind
from tenants.access import MAX_LIFETIME_S, MIN_LIFETIME_S
from tenants.model import Category, ProjectStatus, Role, Scope, Sector

MAX_TEXT_CHARS: Final = 2_000
"""Longest text a person writes: a description or a reviewer's note."""
MAX_WORD_CHARS: Final = 32_768
"""Longest argument of a command or value of a variable; their sum has its own limit."""
MAX_WINDOW_NODES: Final = 2_000
"""Nodes of one window: a whole machine of them."""
MAX_WINDOW_PROJECTS: Final = 50
"""Projects that one reservation is for."""
MAX_FLAVORS: Final = 16
"""Kinds of GPU in one list."""
MAX_GROUNDS: Final = 20
"""Acts one decision rests on."""
MAX_LABEL_CHARS: Final = 200
"""Longest value of a node's label."""
FIRST_YEAR, LAST_YEAR = 2000, 2200
"""Years of the instants that are read: within what every database and calendar holds."""

SLUG: Final = r"^[a-z0-9][a-z0-9-]{0,62}$"
"""Short names: small Latin letters, digits, hyphens."""

Slug = Annotated[str, StringConstraints(pattern=SLUG, max_length=63)]
Line = Annotated[
    str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]*[^\x00-\x20\x7f][^\x00-\x1f\x7f]*$", max_length=200)
]
Prose = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=MAX_TEXT_CHARS)]
LabelKey = Annotated[str, StringConstraints(pattern=rf"^{LABEL_NAME.pattern}$")]
LabelValue = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=MAX_LABEL_CHARS)]
Word = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=MAX_WORD_CHARS)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Flavor = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")]
Reason = Annotated[Prose, StringConstraints(min_length=1, max_length=MAX_REASON_CHARS)]
JobNumber = Annotated[int, Field(ge=1, le=MAX_ID)]


def _in_calendar(at: datetime) -> datetime:
    if not FIRST_YEAR <= at.year <= LAST_YEAR:
        raise ValueError(f"the year must be {FIRST_YEAR} to {LAST_YEAR}")
    return at.astimezone(UTC)


InstantIn = Annotated[AwareDatetime, AfterValidator(_in_calendar)]


class Body(BaseModel):
    """A request's body: a field that is not known is refused, so that no misspelt one is passed over."""

    model_config = ConfigDict(extra="forbid")


class Names(Body):
    """A name in the three languages."""

    kk: Line
    ru: Line
    en: Line


class PageQuery(Body):
    """Which page of a list."""

    cursor: str | None = Field(
        default=None,
        max_length=400,
        description="`next_cursor` of the page before; absent for the first page.",
    )
    limit: int = Field(default=DEFAULT_PAGE, ge=1, le=MAX_PAGE, description="Items of the page.")


class GrantsQuery(PageQuery):
    """Which grants."""

    project: Slug | None = Field(default=None, description="Slug of a project; absent for all you see.")


class LogQuery(Body):
    """Which piece of which log."""

    rank: int = Field(default=0, ge=0, lt=MAX_WORLD_SIZE)
    offset: int = Field(default=0, ge=0, le=MAX_ID, description="First byte wanted.")
    attempt: int | None = Field(
        default=None, ge=1, le=MAX_ID, description="Number of the attempt; absent: the latest."
    )
    wait_s: float = Field(
        default=0,
        ge=0,
        le=MAX_WAIT_S,
        allow_inf_nan=False,
        description="Wait so long for a first new byte.",
    )


class JobsQuery(PageQuery):
    """Which jobs."""

    project: Slug | None = Field(default=None, description="Slug of a project; absent for all you see.")
    state: JobState | None = Field(default=None, description="Only jobs in this state.")
    queue: str | None = Field(
        default=None, max_length=600, pattern=r"^[a-z0-9/-]*$", description="Only jobs of this queue."
    )


class OrganisationIn(Body):
    """An organisation to be entered."""

    slug: Slug
    name: Names
    category: Category
    sector: Sector
    region: Line = Field(description="ISO 3166-2 code of the region, as KZ-75.")
    bin: str | None = Field(
        default=None, max_length=20, description="BIN, 12 digits; none for citizens and foreign bodies."
    )


class ProjectIn(Body):
    """A project to be made; the routes of the policy in force give it its queue."""

    organisation: Slug
    slug: Slug
    programme: Slug | None = None


class ProjectStatusIn(Body):
    """Whether a project may start jobs."""

    status: ProjectStatus


class UserIn(Body):
    """A person or a service to be entered."""

    name: Line = Field(description="How the user is known here, such as a login; unique.")
    organisation: Slug | None = None


class RoleIn(Body):
    """A role to be given: a project role with its project, a platform role without one."""

    role: Role
    project: Slug | None = None


class TokenIn(Body):
    """A token to be issued: for oneself, or, by an operator, for any user."""

    user_id: UUID | None = Field(default=None, description="Absent: yourself.")
    scopes: list[Scope] = Field(default=[Scope.WRITE], min_length=1, max_length=len(Scope))
    lifetime_s: int = Field(default=30 * 86_400, ge=MIN_LIFETIME_S, le=MAX_LIFETIME_S)


class GroundIn(Body):
    """An act that a grant rests on."""

    kind: GroundKind
    body: Line
    number: Line
    date: date
    digest: Sha256 | None = None


class GrantIn(Body):
    """Device-seconds of a flavor for a project and a period; at least one ground must be an enacting act."""

    project: Slug
    flavor: Flavor
    gpu_seconds: int = Field(ge=1, le=MAX_GRANTED_S)
    starts_at: InstantIn
    ends_at: InstantIn
    grounds: list[GroundIn] = Field(min_length=1, max_length=MAX_GROUNDS)


class DependencyIn(Body):
    """Another job of the project, and how it has to end before this one may start."""

    job_id: JobNumber
    kind: DependencyKind = DependencyKind.AFTER_OK


class ArrayIn(Body):
    """So many jobs alike, each told its number in KEZEK_ARRAY_INDEX; at most `cap` run at a time."""

    count: int = Field(ge=1, le=MAX_ARRAY)
    cap: int = Field(ge=1, le=MAX_ARRAY)


class JobIn(Body):
    """A job to be submitted."""

    project: Slug
    name: str = Field(
        default="job",
        pattern=r"^[^\x00-\x1f\x7f]*[^\x00-\x20\x7f][^\x00-\x1f\x7f]*$",
        max_length=MAX_NAME_CHARS,
    )
    command: list[Word] = Field(
        min_length=1,
        max_length=MAX_COMMAND_ARGS,
        description="Program and arguments; no shell is in between.",
    )
    gpus: int = Field(ge=1, le=MAX_GPUS, description="GPUs in all.")
    nodes: int | None = Field(
        default=None, ge=1, le=MAX_GPUS, description="Exactly so many nodes, with gpus ÷ nodes on each."
    )
    walltime_s: int | None = Field(
        default=None, ge=1, le=MAX_WALLTIME_S, description="Longest run; absent: the queue's default."
    )
    flavors: list[Flavor] = Field(
        default=[],
        max_length=MAX_FLAVORS,
        description="Acceptable kinds of GPU; empty: those you have grants of.",
    )
    memory_bytes_per_rank: int | None = Field(
        default=None,
        ge=1,
        le=MAX_MEMORY_BYTES,
        description="A rank above it is stopped, and above what `memory_bytes_per_gpu` comes to. Sets nothing aside.",
    )
    node_labels: dict[LabelKey, LabelValue] = Field(
        default={}, max_length=MAX_NODE_LABELS, description="Labels that every node of the job has."
    )
    topology_required: LabelKey | None = Field(
        default=None, description="Level of the topology: all nodes in one domain of it."
    )
    topology_preferred: LabelKey | None = Field(
        default=None,
        description="Level of the topology: one domain of it, else of the next wider one, else any nodes.",
    )
    placement: Placement = Field(
        default=Placement.PACK,
        description="`pack`: the fullest nodes that hold the job; `spread`: the emptiest.",
    )
    cpus_per_gpu: int | None = Field(
        default=None, ge=1, le=MAX_CPUS_PER_GPU, description="CPUs for each GPU; absent: the node's share."
    )
    memory_bytes_per_gpu: int | None = Field(
        default=None, ge=1, le=MAX_MEMORY_BYTES, description="Memory for each GPU; absent: the node's share."
    )
    env: dict[Annotated[str, StringConstraints(pattern=rf"^{ENV_NAME.pattern}$")], Word] = Field(
        default={}, max_length=MAX_ENV_ENTRIES
    )
    outputs: list[Annotated[Word, StringConstraints(min_length=1, max_length=MAX_OUTPUT_CHARS)]] = Field(
        default=[],
        max_length=MAX_OUTPUTS,
        description="Patterns of files to keep, relative to the working folder.",
    )
    bundle: Sha256 | None = Field(default=None, description="Digest of the uploaded code.")
    priority: int = Field(
        default=0,
        ge=-MAX_PRIORITY,
        le=MAX_PRIORITY,
        description="Order among your queue's jobs; above 0 needs an operator.",
    )
    is_held: bool = Field(default=False, description="Wait until released.")
    is_interactive: bool = Field(
        default=False,
        description="It waits for a person by nature: the idle policy leaves it alone.",
    )
    begin_at: InstantIn | None = Field(default=None, description="Start no earlier.")
    depends_on: list[DependencyIn] = Field(default=[], max_length=MAX_DEPENDENCIES)
    array: ArrayIn | None = None


class ActIn(Body):
    """An act of an operator: pause a job or a queue, put a job first, or forbid to take its GPUs back (pin)."""

    kind: ActKind
    job_id: JobNumber | None = None
    queue: str | None = Field(default=None, max_length=600, pattern=r"^[a-z0-9/-]+$")
    reason: Reason
    expires_at: InstantIn


class DrainIn(Body):
    """Why a node is taken out of service."""

    reason: Annotated[Reason, StringConstraints(pattern=r"\S")]


class RepeatsIn(Body):
    """How a window recurs: every `interval` days or weeks at the same time of day in `zone`, until an instant."""

    every: Every
    interval: int = Field(default=1, ge=1, le=MAX_INTERVAL)
    zone: Annotated[str, StringConstraints(max_length=64, pattern=r"^[A-Za-z0-9_+/-]+$")] = "Asia/Almaty"
    until: InstantIn


class WindowIn(Body):
    """Nodes to be set apart for [from_at, to_at): maintenance, or a reservation for projects.

    With `repeats` this is the first occurrence.
    """

    kind: WindowKind
    nodes: list[Line] = Field(min_length=1, max_length=MAX_WINDOW_NODES)
    projects: list[Slug] = Field(default=[], max_length=MAX_WINDOW_PROJECTS)
    from_at: InstantIn
    to_at: InstantIn
    reason: Reason
    repeats: RepeatsIn | None = None


class ReturnIn(Body):
    """Why a product goes back to its author."""

    note: Annotated[Prose, StringConstraints(min_length=1)]
