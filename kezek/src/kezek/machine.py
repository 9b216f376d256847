"""What the platform says of the machine and of quotas, as frozen values; `raw` is the platform's own object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

from kezek.fields import Fields, Json
from kezek.slices import SliceUse


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the machine and its GPUs: `busy` are held, `free` could be, `down` are neither; and its labels."""

    name: str
    flavor: str
    state: str
    is_simulated: bool
    gpus: int
    busy: int
    free: int
    down: int
    labels: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Read the platform's object.

        Raises:
            ProtocolError: a field is missing or of another type.
        """
        return cls(
            fields.text("name"),
            fields.text("flavor"),
            fields.text("state"),
            fields.flag("is_simulated"),
            fields.integer("gpus"),
            fields.integer("busy"),
            fields.integer("free"),
            fields.integer("down"),
            fields.names("labels") if "labels" in fields.raw else {},
        )


@dataclass(frozen=True, slots=True)
class Cluster:
    """The machine; `is_simulated` when any of its GPUs is simulated."""

    is_simulated: bool
    gpus: int
    busy: int
    free: int
    down: int
    nodes: tuple[Node, ...]
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Read the platform's object.

        Raises:
            ProtocolError: a field is missing or of another type.
        """
        return cls(
            fields.flag("is_simulated"),
            fields.integer("gpus"),
            fields.integer("busy"),
            fields.integer("free"),
            fields.integer("down"),
            tuple(map(Node.of, fields.objects("nodes"))),
            fields.raw,
        )


@dataclass(frozen=True, slots=True)
class Grant:
    """GPU time of one flavor for a project and a period, in device-seconds."""

    id: str
    project: str | None
    flavor: str
    starts_at: datetime
    ends_at: datetime
    granted_s: int
    used_s: int
    pending_s: int
    remaining_s: int

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Read the platform's object.

        Raises:
            ProtocolError: a field is missing or of another type.
        """
        balance = fields.inner("balance")
        return cls(
            fields.text("id"),
            fields.optional_text("project"),
            fields.text("flavor"),
            fields.instant("starts_at"),
            fields.instant("ends_at"),
            balance.integer("granted_s"),
            balance.integer("used_s"),
            balance.integer("pending_s"),
            balance.integer("remaining_s"),
        )


@dataclass(frozen=True, slots=True)
class Queue:
    """A node of the quota tree; GPUs and jobs are those below it. `path` is empty for the whole machine."""

    path: str
    nominal_gpus: int
    used_gpus: int
    running: int
    pending: int
    slices: tuple[SliceUse, ...] = ()

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Read the platform's object.

        Raises:
            ProtocolError: a field is missing or of another type.
        """
        return cls(
            fields.text("path"),
            fields.integer("nominal"),
            fields.integer("used_gpus"),
            fields.integer("running"),
            fields.integer("pending"),
            tuple(map(SliceUse.of, fields.objects("slices"))),
        )


@dataclass(frozen=True, slots=True)
class Quota:
    """What the caller's projects have: their grants, and the queues they are in."""

    grants: tuple[Grant, ...]
    queues: tuple[Queue, ...]
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Read the platform's object.

        Raises:
            ProtocolError: a field is missing or of another type.
        """
        return cls(
            tuple(map(Grant.of, fields.objects("grants"))),
            tuple(map(Queue.of, fields.objects("queues"))),
            fields.raw,
        )


@dataclass(frozen=True, slots=True)
class Me:
    """The caller, as the platform sees it; `roles` are platform roles, `projects` their short names."""

    name: str
    roles: tuple[str, ...]
    projects: tuple[str, ...]
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Read the platform's object.

        Raises:
            ProtocolError: a field is missing or of another type.
        """
        slugs = (project.optional_text("slug") for project in fields.objects("projects"))
        return cls(
            fields.text("name"),
            fields.texts("platform_roles"),
            tuple(slug for slug in slugs if slug is not None),
            fields.raw,
        )
