"""What an agent reports of attempts: starts, ends, logs. Exported through `wire`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from scheduler.dispatch.fields import Fields, WireError
from scheduler.dispatch.limits import (
    ATTEMPT_ID,
    GPU_UUID,
    MAX_EVENTS_PER_PAGE,
    MAX_GPUS_PER_NODE,
    MAX_INT,
    MAX_OUTPUT_FILES,
    MAX_RANKS_PER_NODE,
    MAX_WORLD_SIZE,
    SHA256_HEX,
)


class EventKind(StrEnum):
    """What happened to a rank."""

    STARTED = "started"
    CHECKPOINTED = "checkpointed"
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file a rank left and the platform keeps; its digest is evidence.

    Attributes:
        path: relative to the rank's outputs, with ``/``.
        size_bytes: its size.
        sha256: digest (hex) computed by the shepherd after the last process had ended.
    """

    path: str
    size_bytes: int
    sha256: str

    def to_json(self) -> dict[str, object]:
        """The wire form."""
        return {"path": self.path, "size_bytes": self.size_bytes, "sha256": self.sha256}

    @classmethod
    def from_json(cls, value: object, where: str = "") -> OutputFile:
        """Read the wire form.

        Raises:
            WireError: not that form.
        """
        f = Fields(value, where)
        return cls(f.text("path"), f.integer("size_bytes", 0, MAX_INT), f.text("sha256", SHA256_HEX))


@dataclass(frozen=True, slots=True, kw_only=True)
class RankExit:
    """How a rank ended.

    Attributes:
        exit_code: its exit status, None when a signal ended it or it never ran.
        signal: the signal that ended it, None otherwise.
        timeout: whether the walltime's end stopped it.
        oom: whether it was killed for its memory.
        started_at: when the rank's process began, None when it never ran.
        ended_at: when the absence of all its processes was proven.
        max_rss_bytes: largest resident memory seen over all its processes together.
        outputs: the files kept.
        error: stable code of a failure that is not the program's own, None otherwise
            (``EXEC_NOT_FOUND``, ``EXEC_NOT_EXECUTABLE``, ``EXEC_FAILED``, ``SHEPHERD_FAILED``,
            ``SHEPHERD_LOST``, ``OUTPUTS_TRUNCATED``).
        detail: a few words with that code.
    """

    exit_code: int | None
    signal: int | None
    timeout: bool
    oom: bool
    started_at: datetime | None
    ended_at: datetime
    max_rss_bytes: int
    outputs: tuple[OutputFile, ...] = ()
    error: str | None = None
    detail: str | None = None

    def to_json(self) -> dict[str, object]:
        """The wire form; also the shepherd's ``exit-<rank>.json``."""
        return {
            "exit_code": self.exit_code,
            "signal": self.signal,
            "timeout": self.timeout,
            "oom": self.oom,
            "started_at": None if self.started_at is None else self.started_at.timestamp(),
            "ended_at": self.ended_at.timestamp(),
            "max_rss_bytes": self.max_rss_bytes,
            "outputs": [o.to_json() for o in self.outputs],
            "error": self.error,
            "detail": self.detail,
        }

    @classmethod
    def from_json(cls, value: object, where: str = "") -> RankExit:
        """Read the wire form.

        Raises:
            WireError: not that form.
        """
        f = Fields(value, where)
        return cls(
            exit_code=f.optional_integer("exit_code", 0, 255),
            signal=f.optional_integer("signal", 1, 64),
            timeout=f.flag("timeout"),
            oom=f.flag("oom"),
            started_at=None if f.raw("started_at") is None else f.instant("started_at"),
            ended_at=f.instant("ended_at"),
            max_rss_bytes=f.integer("max_rss_bytes", 0, MAX_INT),
            outputs=tuple(OutputFile.from_json(v, p) for p, v in f.items("outputs", MAX_OUTPUT_FILES)),
            error=f.optional_text("error"),
            detail=f.optional_text("detail"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEvent:
    """Something that happened to a rank, in the agent's order.

    Attributes:
        seq: number of the event at this agent, from 1, growing, kept over restarts.
        attempt_id: the attempt.
        rank: the rank.
        kind: what happened.
        at: the agent's clock; of a checkpoint when the agent saw it.
        exit: how the rank ended, for ``exited``.
    """

    seq: int
    attempt_id: str
    rank: int
    kind: EventKind
    at: datetime
    exit: RankExit | None = None

    def to_json(self) -> dict[str, object]:
        """The wire form."""
        return {
            "seq": self.seq,
            "attempt_id": self.attempt_id,
            "rank": self.rank,
            "kind": str(self.kind),
            "at": self.at.timestamp(),
            "exit": None if self.exit is None else self.exit.to_json(),
        }

    @classmethod
    def from_json(cls, value: object, where: str = "") -> AttemptEvent:
        """Read the wire form.

        Raises:
            WireError: not that form.
        """
        f = Fields(value, where)
        kind = f.text("kind")
        if kind not in {str(k) for k in EventKind}:
            raise WireError(f"{where}.kind", f"unknown kind {kind[:40]!r}")
        found = cls(
            seq=f.integer("seq", 1, MAX_INT),
            attempt_id=f.text("attempt_id", ATTEMPT_ID),
            rank=f.integer("rank", 0, MAX_WORLD_SIZE - 1),
            kind=EventKind(kind),
            at=f.instant("at"),
            exit=None if f.raw("exit") is None else RankExit.from_json(f.raw("exit"), f"{where}.exit"),
        )
        if (found.kind is EventKind.EXITED) != (found.exit is not None):
            raise WireError(f"{where}.exit", "stands with 'exited' and only with it")
        return found


@dataclass(frozen=True, slots=True)
class EventPage:
    """A page of events.

    Attributes:
        boot_id: changes when the agent lost its record (new machine boot or state directory);
            then ``seq`` starts anew and the caller must list the attempts again.
        next_after: pass it as `after` to get the next page.
        events: in order of ``seq``.
    """

    boot_id: str
    next_after: int
    events: tuple[AttemptEvent, ...]

    def to_json(self) -> dict[str, object]:
        """The wire form."""
        return {
            "boot_id": self.boot_id,
            "next_after": self.next_after,
            "events": [e.to_json() for e in self.events],
        }

    @classmethod
    def from_json(cls, value: object) -> EventPage:
        """Read the wire form.

        Raises:
            WireError: not that form.
        """
        f = Fields(value)
        return cls(
            f.text("boot_id"),
            f.integer("next_after", 0, MAX_INT),
            tuple(AttemptEvent.from_json(v, p) for p, v in f.items("events", MAX_EVENTS_PER_PAGE)),
        )


@dataclass(frozen=True, slots=True)
class RankStatus:
    """A rank as the agent knows it now: `exit` None means it is alive; `checkpoint_at` is its last one reported."""

    rank: int
    started_at: datetime | None
    exit: RankExit | None
    checkpoint_at: datetime | None = None

    def to_json(self) -> dict[str, object]:
        """The wire form."""
        return {
            "rank": self.rank,
            "started_at": None if self.started_at is None else self.started_at.timestamp(),
            "exit": None if self.exit is None else self.exit.to_json(),
            "checkpoint_at": None if self.checkpoint_at is None else self.checkpoint_at.timestamp(),
        }

    @classmethod
    def from_json(cls, value: object, where: str = "") -> RankStatus:
        """Read the wire form.

        Raises:
            WireError: not that form.
        """
        f = Fields(value, where)
        return cls(
            f.integer("rank", 0, MAX_WORLD_SIZE - 1),
            None if f.raw("started_at") is None else f.instant("started_at"),
            None if f.raw("exit") is None else RankExit.from_json(f.raw("exit"), f"{where}.exit"),
            None if f.raw("checkpoint_at") is None else f.instant("checkpoint_at"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptStatus:
    """An attempt as one agent knows it now.

    Attributes:
        attempt_id: name of the attempt.
        job_id: its job.
        epoch: epoch of the lease it runs under.
        committed_at: when the agent committed to it.
        gpu_uuids: GPUs of this node it holds or held.
        ranks: its ranks on this node, by number.
    """

    attempt_id: str
    job_id: int
    epoch: int
    committed_at: datetime
    gpu_uuids: tuple[str, ...]
    ranks: tuple[RankStatus, ...]

    @property
    def is_alive(self) -> bool:
        """Whether a rank of it still runs, so that its GPUs are held."""
        return any(r.exit is None for r in self.ranks)

    def to_json(self) -> dict[str, object]:
        """The wire form."""
        return {
            "attempt_id": self.attempt_id,
            "job_id": self.job_id,
            "epoch": self.epoch,
            "committed_at": self.committed_at.timestamp(),
            "gpu_uuids": list(self.gpu_uuids),
            "ranks": [r.to_json() for r in self.ranks],
        }

    @classmethod
    def from_json(cls, value: object, where: str = "") -> AttemptStatus:
        """Read the wire form.

        Raises:
            WireError: not that form.
        """
        f = Fields(value, where)
        return cls(
            attempt_id=f.text("attempt_id", ATTEMPT_ID),
            job_id=f.integer("job_id", 0, MAX_INT),
            epoch=f.integer("epoch", 0, MAX_INT),
            committed_at=f.instant("committed_at"),
            gpu_uuids=f.texts("gpu_uuids", MAX_GPUS_PER_NODE, GPU_UUID),
            ranks=tuple(RankStatus.from_json(v, p) for p, v in f.items("ranks", MAX_RANKS_PER_NODE)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchReceipt:
    """The agent's word that an attempt's ranks of its node are started, once.

    Attributes:
        attempt_id: name of the attempt.
        ranks: the ranks started.
        committed_at: the agent's clock when it committed; charging begins here.
    """

    attempt_id: str
    ranks: tuple[int, ...]
    committed_at: datetime

    def to_json(self) -> dict[str, object]:
        """The wire form."""
        return {
            "attempt_id": self.attempt_id,
            "ranks": list(self.ranks),
            "committed_at": self.committed_at.timestamp(),
        }

    @classmethod
    def from_json(cls, value: object) -> LaunchReceipt:
        """Read the wire form.

        Raises:
            WireError: not that form.
        """
        f = Fields(value)
        return cls(
            attempt_id=f.text("attempt_id", ATTEMPT_ID),
            ranks=f.integers("ranks", MAX_RANKS_PER_NODE),
            committed_at=f.instant("committed_at"),
        )


@dataclass(frozen=True, slots=True)
class LogPage:
    """A piece of a rank's log.

    Attributes:
        data: raw bytes; a character may be cut at either end.
        next_offset: where the next page begins [bytes].
        is_complete: whether the rank has ended and nothing follows `next_offset`.
    """

    data: bytes
    next_offset: int
    is_complete: bool
