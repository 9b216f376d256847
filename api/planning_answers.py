"""What the API answers about planning: explanations, operators' acts, windows, previews of policies."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import Final
from uuid import UUID

from pydantic import BaseModel

from api.job_answers import ReasonOut
from scheduler.acts import ActView, WindowView
from scheduler.causes import MoveCause
from scheduler.fields import ActKind
from scheduler.interval import STATED_PERCENT, Interval
from scheduler.preview import Change, Preview, QueueChange
from scheduler.recurring import Every, Repeats
from scheduler.windows import WindowKind
from store.clock import from_ms


class AheadOut(BaseModel):
    """A job of the queue that goes before, and by which rule."""

    job_id: int
    rule: str
    text: str


class ChangeOut(BaseModel):
    """The smallest change that starts the job now; one unit less does not.

    `what` is `gpus`, `walltime_s`, `nodes` (`new` null: any number of nodes) or `flavor`. Where `is_now` is false the
    job can never start as asked, and the change makes it possible.
    """

    what: str
    old: int | str
    new: int | str | None
    is_now: bool


class ExpectedStartOut(BaseModel):
    """When the job is expected to start: `stated_percent` of such starts come within the interval.

    It is learned from the last starts of this cluster that were planned (`learned_from`); `is_learned` is false while
    there are too few: then it reaches from now to the planned start and states no share (`stated_percent` is null).
    """

    from_at: datetime
    to_at: datetime
    is_learned: bool
    learned_from: int
    stated_percent: int | None

    @classmethod
    def of(cls, found: Interval) -> ExpectedStartOut:
        """The wire form."""
        is_learned = found.learned_from > 0
        return cls(
            from_at=from_ms(found.from_ms),
            to_at=from_ms(found.to_ms),
            is_learned=is_learned,
            learned_from=found.learned_from,
            stated_percent=STATED_PERCENT if is_learned else None,
        )


class StartToldOut(BaseModel):
    """A start as it was planned, moved or given up at an instant, and that as a sentence in the language asked for.

    `starts_at` is null where it was given up; `later_s` is by how much later than planned before, negative for sooner,
    0 for the first one or another place, null where it was given up; `cause` tells why it comes later or was given up.
    """

    told_at: datetime
    starts_at: datetime | None
    later_s: int | None
    cause: MoveCause | None
    text: str


class ExplanationOut(BaseModel):
    """Why a job waits: its reason, its place in its queue (from 1), who is ahead, when it starts at the latest.

    `is_waiting` is false when the job runs, has ended, or starts in the next cycle; then all else is null or empty,
    but for `starts_told`: the starts it was told, moved or given up, the newest first, at most 20.
    `starts_by` is counted with full walltimes of all that run, `expected` is learned; both are null while no start is
    planned. `place` is null for a job that can never start as asked. `changes` are each enough on their own.
    """

    job_id: int
    is_waiting: bool
    reason: ReasonOut | None
    place: int | None
    ahead: list[AheadOut]
    starts_by: datetime | None
    expected: ExpectedStartOut | None
    changes: list[ChangeOut]
    starts_told: list[StartToldOut]


class MovedStartOut(BaseModel):
    """A planned start that was put off or given up: the job's, when, by how much, and why; see `StartToldOut`."""

    job_id: int
    told_at: datetime
    starts_at: datetime | None
    later_s: int | None
    cause: MoveCause
    text: str


class MovedStartsOut(BaseModel):
    """Planned starts that moved of late, the newest first; `by_cause` counts all that were looked at."""

    items: list[MovedStartOut]
    by_cause: dict[MoveCause, int]


class ActOut(BaseModel):
    """An operator's act above the machine."""

    id: int
    kind: ActKind
    job_id: int | None
    queue: str | None
    reason: str
    user_id: UUID
    created_at: datetime
    expires_at: datetime
    ended_at: datetime | None

    @classmethod
    def of(cls, found: ActView) -> ActOut:
        """The wire form."""
        return cls(**{name: getattr(found, name) for name in cls.model_fields})


class ActsOut(BaseModel):
    """The acts that stand, by number."""

    items: list[ActOut]


class RepeatsOut(BaseModel):
    """How a window recurs: every `interval` days or weeks at the same time of day in `zone`, until an instant."""

    every: Every
    interval: int
    zone: str
    until: datetime

    @classmethod
    def of(cls, found: Repeats) -> RepeatsOut:
        """The wire form."""
        return cls(every=found.every, interval=found.interval, zone=found.zone, until=from_ms(found.until_ms))


class WindowOut(BaseModel):
    """Nodes set apart for a time. `reason` is null for a caller who does not oversee the platform.

    Where it recurs, `from_at` and `to_at` are of the first occurrence.
    """

    id: int
    kind: WindowKind
    nodes: list[str]
    projects: list[UUID]
    from_at: datetime
    to_at: datetime
    reason: str | None
    repeats: RepeatsOut | None

    @classmethod
    def of(cls, found: WindowView, *, is_whole: bool) -> WindowOut:
        """The wire form; projects and reason only where `is_whole`."""
        return cls(
            id=found.id,
            kind=found.kind,
            nodes=list(found.nodes),
            projects=list(found.projects) if is_whole else [],
            from_at=found.from_at,
            to_at=found.to_at,
            reason=found.reason if is_whole else None,
            repeats=None if found.repeats is None else RepeatsOut.of(found.repeats),
        )


class WindowsOut(BaseModel):
    """The windows that have not ended, by number."""

    items: list[WindowOut]


class SliceChangeOut(BaseModel):
    """A queue and one flavor of slices (MIG) under both policies, in slices."""

    flavor: str
    nominal_before: int
    nominal_after: int
    held: int
    borrowed_before: int
    borrowed_after: int


class QueueChangeOut(BaseModel):
    """A queue under the policy in force and under the other one: whole GPUs, and each flavor of slices in service."""

    path: str
    nominal_before: int
    nominal_after: int
    held: int
    borrowed_before: int
    borrowed_after: int
    slices: list[SliceChangeOut]

    @classmethod
    def of(cls, found: QueueChange) -> QueueChangeOut:
        """The wire form."""
        figures = [field.name for field in fields(Change)]
        return cls(
            path=found.path,
            **{name: getattr(found, name) for name in figures},
            slices=[
                SliceChangeOut(flavor=flavor, **{name: getattr(change, name) for name in figures})
                for flavor, change in found.slices
            ],
        )


class PreviewOut(BaseModel):
    """What another policy would do to the machine as it stands; nothing is changed.

    `preempting` are attempts that would get notice in the first cycle, `admitted` jobs that would start in it.
    """

    version: str
    queues: list[QueueChangeOut]
    preempting: list[str]
    admitted: list[int]

    @classmethod
    def of(cls, version: str, found: Preview) -> PreviewOut:
        """The wire form."""
        return cls(
            version=version,
            queues=[QueueChangeOut.of(one) for one in found.queues],
            preempting=list(found.preempting),
            admitted=list(found.admitted),
        )


_CHANGE: Final = {"what": "gpus", "old": 8, "new": 4, "is_now": True}
_EXPECTED: Final = {
    "from_at": "2026-03-02T09:20:00Z",
    "to_at": "2026-03-02T09:55:00Z",
    "is_learned": True,
    "learned_from": 312,
    "stated_percent": 80,
}
_AHEAD: Final = {"job_id": 16, "rule": "submitted", "text": "it was submitted earlier"}
_ACT: Final = {
    "id": 3,
    "kind": "pin",
    "job_id": 17,
    "queue": None,
    "reason": "A demonstration for the council runs on it.",
    "user_id": "0f0a4f1e-6a0e-4c6e-9d4c-3a1c5e1b7a03",
    "created_at": "2026-03-02T09:00:00Z",
    "expires_at": "2026-03-03T09:00:00Z",
    "ended_at": None,
}
_REPEATS: Final = {
    "every": "week",
    "interval": 2,
    "zone": "Asia/Almaty",
    "until": "2026-12-31T00:00:00Z",
}
_WINDOW: Final = {
    "id": 2,
    "kind": "maintenance",
    "nodes": ["n0"],
    "projects": [],
    "from_at": "2026-03-07T20:00:00Z",
    "to_at": "2026-03-07T23:00:00Z",
    "reason": "Firmware of the switch.",
    "repeats": _REPEATS,
}
_TOLD: Final = {
    "told_at": "2026-03-02T09:10:00Z",
    "starts_at": "2026-03-02T10:00:00Z",
    "later_s": 1800,
    "cause": "node_lost",
    "text": "put off by 30 min, to 2 March 2026, 15:00 (+0500): a node it was to run on is down or gone",
}
_MOVED: Final = {"job_id": 18, **_TOLD}
_DRAINED: Final = {
    "name": "n0",
    "state": "DRAINED",
    "reason": "A fan is broken.",
    "drained_at": "2026-03-02T09:00:00Z",
}
_SLICES: Final = {
    "flavor": "a100-mig-1g.10gb",
    "nominal_before": 7,
    "nominal_after": 14,
    "held": 9,
    "borrowed_before": 2,
    "borrowed_after": 0,
}
_QUEUE: Final = {
    "path": "science/universities",
    "nominal_before": 8,
    "nominal_after": 6,
    "held": 8,
    "borrowed_before": 0,
    "borrowed_after": 2,
    "slices": [_SLICES],
}
_PLANNED: Final = {
    "starts_at": "2026-03-02T10:00:00Z",
    "flavor": "h200",
    "share_class": "entitled",
    "nodes": {"n0": 8},
    "is_reclaim": False,
}
PLANNING: Final = {
    "ActIn": {
        "kind": "pin",
        "job_id": 17,
        "reason": "A demonstration for the council runs on it.",
        "expires_at": "2026-03-03T09:00:00Z",
    },
    "ActOut": _ACT,
    "ActsOut": {"items": [_ACT]},
    "AheadOut": _AHEAD,
    "ArrayIn": {"count": 10, "cap": 2},
    "ArrayOut": {"id": 17, "index": 0, "cap": 2},
    "ChangeOut": _CHANGE,
    "DependencyIn": {"job_id": 16, "kind": "afterok"},
    "DependencyOut": {"job_id": 16, "kind": "afterok"},
    "ExplanationOut": {
        "job_id": 18,
        "is_waiting": True,
        "reason": {
            "code": "NO_CAPACITY",
            "numbers": {"free": 4, "gpus": 8, "flavor": "h200"},
            "text": "GPUs of h200 the job needs: 8, free: 4.",
        },
        "place": 2,
        "ahead": [_AHEAD],
        "starts_by": "2026-03-02T10:00:00Z",
        "expected": _EXPECTED,
        "changes": [_CHANGE],
        "starts_told": [_TOLD],
    },
    "ExpectedStartOut": _EXPECTED,
    "MovedStartOut": _MOVED,
    "MovedStartsOut": {"items": [_MOVED], "by_cause": {"node_lost": 1}},
    "StartToldOut": _TOLD,
    "DrainIn": {"reason": "A fan is broken."},
    "NodeServiceOut": _DRAINED,
    "NodeServicesOut": {"items": [_DRAINED]},
    "PlannedStartOut": _PLANNED,
    "PreviewOut": {"version": "2026-2", "queues": [_QUEUE], "preempting": ["17-1"], "admitted": [18]},
    "QueueChangeOut": _QUEUE,
    "SliceChangeOut": _SLICES,
    "WindowIn": {
        "kind": "maintenance",
        "nodes": ["n0"],
        "from_at": "2026-03-07T20:00:00Z",
        "to_at": "2026-03-07T23:00:00Z",
        "reason": "Firmware of the switch.",
        "repeats": _REPEATS,
    },
    "RepeatsIn": _REPEATS,
    "RepeatsOut": _REPEATS,
    "WindowOut": _WINDOW,
    "WindowsOut": {"items": [_WINDOW]},
}
"""An example of each object schema of this page and of its bodies; `api.examples` takes them up."""
