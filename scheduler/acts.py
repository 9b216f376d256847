"""A human above the machine: pause, expedite, pin (no reclaim), windows; each with reason, expiry and journal.

The reason's text stands in an erasable table, the journal has its SHA-256.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID
from zoneinfo import available_timezones

from sqlalchemy import BigInteger, ColumnElement, func, or_, select
from sqlalchemy.orm import Session

from scheduler.fields import ActKind, Fields, repeats_of
from scheduler.recurring import MAX_INTERVAL, MAX_REPEAT_DAYS, Repeats
from scheduler.snapshot import window_fields
from scheduler.tables import ActRow, JobRow, NodeRow, WindowRow
from scheduler.windows import WindowKind
from store import clock, journal
from store.engine import wake

MAX_STANDING: Final = 1_000
"""Acts, and windows, that stand at once: every cycle reads them all."""

MAX_REASON_CHARS: Final = 500
"""Characters of a reason: a sentence or two."""


class ActRefusedError(ValueError):
    """An act or a window that cannot be set as asked."""

    code: Final = "ACT_REFUSED"


class ActNotFoundError(LookupError):
    """There is no such act or window, or it stands no more."""

    code: Final = "ACT_NOT_FOUND"


@dataclass(frozen=True, slots=True)
class NewAct:
    """An act to be set on a job or, for a pause, on a queue and all below it."""

    kind: ActKind
    job_id: int | None
    queue: str | None
    reason: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class ActView:
    """An act as it is shown."""

    id: int
    kind: ActKind
    job_id: int | None
    queue: str | None
    reason: str
    user_id: UUID
    created_at: datetime
    expires_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewWindow:
    """A window to be added: nodes by name, and projects that may use them all the same."""

    kind: WindowKind
    nodes: tuple[str, ...]
    projects: tuple[UUID, ...]
    from_at: datetime
    to_at: datetime
    reason: str
    repeats: Repeats | None = None


@dataclass(frozen=True, slots=True)
class WindowView:
    """A window as it is shown."""

    id: int
    kind: WindowKind
    nodes: tuple[str, ...]
    projects: tuple[UUID, ...]
    from_at: datetime
    to_at: datetime
    reason: str
    user_id: UUID
    created_at: datetime
    repeats: Repeats | None


def _digest(reason: str) -> str:
    return hashlib.sha256(reason.encode()).hexdigest()


def _check(reason: str, ends_at: datetime, at: datetime, standing: int) -> None:
    if not 1 <= len(reason.strip()) <= MAX_REASON_CHARS:
        raise ActRefusedError(
            f"the reason must have 1 to {MAX_REASON_CHARS} characters; say why in a sentence"
        )
    if ends_at <= at:
        raise ActRefusedError(f"it would end {ends_at.isoformat()}, which is past; give it a later end")
    if standing >= MAX_STANDING:
        raise ActRefusedError(
            f"{standing} stand already, which is the most; end some that are needed no more"
        )


def set_act(session: Session, asked: NewAct, *, user_id: UUID, at: datetime) -> ActView:
    """Set an act above the machine; it stands until it expires or is ended.

    Raises:
        ActRefusedError: no reason, an end in the past, a target that does not suit the kind, or too many stand.
    """
    at = clock.from_ms(clock.to_ms(at))
    standing = (
        select(func.count()).select_from(ActRow).where(ActRow.ended_at.is_(None), ActRow.expires_at > at)
    )
    _check(asked.reason, asked.expires_at, at, session.scalar(standing) or 0)
    if (asked.job_id is None) is (asked.queue is None):
        raise ActRefusedError("name a job or a queue, one of the two")
    if asked.queue is not None and asked.kind is not ActKind.PAUSE:
        raise ActRefusedError(f"{asked.kind.value} is of a job; only a pause may be of a queue")
    if asked.job_id is not None and session.get(JobRow, asked.job_id) is None:
        raise ActRefusedError(f"there is no job {asked.job_id}; list the jobs to find its number")
    row = ActRow(
        kind=asked.kind.value,
        job_id=asked.job_id,
        queue=asked.queue,
        reason=asked.reason.strip(),
        user_id=user_id,
        created_at=at,
        expires_at=clock.from_ms(clock.to_ms(asked.expires_at)),
    )
    session.add(row)
    session.flush()
    data: dict[str, object] = {
        "kind": row.kind,
        "job_id": row.job_id,
        "queue": row.queue,
        "expires_ms": clock.to_ms(row.expires_at),
        "reason_digest": _digest(row.reason),
    }
    journal.append(session, "act.set", f"act:{row.id}", actor=f"user:{user_id}", at=at, data=data)
    wake(session)
    return _act_view(row)


def end_act(session: Session, act_id: int, *, user_id: UUID, at: datetime) -> ActView:
    """Take an act back before it expires.

    Raises:
        ActNotFoundError: there is no such act, or it was ended.
    """
    statement = select(ActRow).where(ActRow.id == act_id, ActRow.ended_at.is_(None)).with_for_update()
    row = session.scalars(statement).one_or_none()
    if row is None:
        raise ActNotFoundError(f"there is no act {act_id} that stands; list them to find its number")
    row.ended_at = at
    journal.append(session, "act.ended", f"act:{act_id}", actor=f"user:{user_id}", at=at, data={})
    wake(session)
    session.flush()
    return _act_view(row)


def list_acts(session: Session, at: datetime) -> list[ActView]:
    """Acts that stand, by id, at most MAX_STANDING."""
    statement = (
        select(ActRow)
        .where(ActRow.ended_at.is_(None), ActRow.expires_at > at)
        .order_by(ActRow.id)
        .limit(MAX_STANDING)
    )
    return [_act_view(row) for row in session.scalars(statement)]


def _act_view(row: ActRow) -> ActView:
    return ActView(
        row.id,
        ActKind(row.kind),
        row.job_id,
        row.queue,
        row.reason,
        row.user_id,
        row.created_at,
        row.expires_at,
        row.ended_at,
    )


def add_window(session: Session, asked: NewWindow, *, user_id: UUID, at: datetime) -> WindowView:
    """Set nodes apart for a time; what would run into the window is not started on them.

    Raises:
        ActRefusedError: no reason, no such node, a period that is empty or past, or too many stand.
    """
    at = clock.from_ms(clock.to_ms(at))
    standing = select(func.count()).select_from(WindowRow).where(*_standing(at))
    last_at = asked.to_at if asked.repeats is None else clock.from_ms(asked.repeats.until_ms)
    _check(asked.reason, last_at, at, session.scalar(standing) or 0)
    if asked.to_at <= asked.from_at:
        raise ActRefusedError("the window would end before it begins; swap the two instants")
    if asked.repeats is not None:
        _check_repeats(asked, asked.repeats)
    known = set(session.scalars(select(NodeRow.name).where(NodeRow.name.in_(asked.nodes))))
    missing = sorted(set(asked.nodes) - known)
    if missing or not asked.nodes:
        raise ActRefusedError(
            f"there is no node {', '.join(missing) or 'named'}; list the nodes to find their names"
        )
    row = WindowRow(
        kind=asked.kind.value,
        nodes=sorted(known),
        projects=sorted(asked.projects),
        from_at=clock.from_ms(clock.to_ms(asked.from_at)),
        to_at=clock.from_ms(clock.to_ms(asked.to_at)),
        repeats=None if asked.repeats is None else asdict(asked.repeats),
        reason=asked.reason.strip(),
        user_id=user_id,
        created_at=at,
    )
    session.add(row)
    session.flush()
    data: Fields = window_fields(row) | {"reason_digest": _digest(row.reason)}
    journal.append(session, "window.added", f"window:{row.id}", actor=f"user:{user_id}", at=at, data=data)
    wake(session)
    return _window_view(row)


def _check_repeats(asked: NewWindow, repeats: Repeats) -> None:
    """Refuse a recurrence that has no place, no end, or would run into itself."""
    last_at = clock.from_ms(repeats.until_ms)
    if repeats.zone not in available_timezones():
        raise ActRefusedError(f"{repeats.zone} is no time zone; name one as Asia/Almaty")
    if not 1 <= repeats.interval <= MAX_INTERVAL:
        raise ActRefusedError(f"it may recur every 1 to {MAX_INTERVAL} days or weeks")
    if not asked.from_at < last_at <= asked.from_at + timedelta(days=MAX_REPEAT_DAYS):
        raise ActRefusedError(
            f"it may recur for {MAX_REPEAT_DAYS} days after its first begin; name an end in them"
        )
    if asked.to_at - asked.from_at >= repeats.step:
        raise ActRefusedError("it would begin anew before it has ended; make it shorter or rarer")


def _standing(at: datetime) -> tuple[ColumnElement[bool], ...]:
    """Windows that were not removed and have not ended; those that recur end with their last occurrence."""
    until_ms = WindowRow.repeats["until_ms"].astext.cast(BigInteger)
    return (
        WindowRow.removed_at.is_(None),
        or_(WindowRow.to_at > at, until_ms >= clock.to_ms(at)),
    )


def remove_window(session: Session, window_id: int, *, user_id: UUID, at: datetime) -> WindowView:
    """Take a window back.

    Raises:
        ActNotFoundError: there is no such window, or it was removed.
    """
    statement = select(WindowRow).where(WindowRow.id == window_id, WindowRow.removed_at.is_(None))
    row = session.scalars(statement.with_for_update()).one_or_none()
    if row is None:
        raise ActNotFoundError(f"there is no window {window_id} that stands; list them to find its number")
    row.removed_at = at
    journal.append(session, "window.removed", f"window:{window_id}", actor=f"user:{user_id}", at=at, data={})
    wake(session)
    session.flush()
    return _window_view(row)


def list_windows(session: Session, at: datetime) -> list[WindowView]:
    """Windows that have not ended, by id, at most MAX_STANDING."""
    statement = select(WindowRow).where(*_standing(at)).order_by(WindowRow.id).limit(MAX_STANDING)
    return [_window_view(row) for row in session.scalars(statement)]


def _window_view(row: WindowRow) -> WindowView:
    return WindowView(
        row.id,
        WindowKind(row.kind),
        tuple(row.nodes),
        tuple(row.projects),
        row.from_at,
        row.to_at,
        row.reason,
        row.user_id,
        row.created_at,
        repeats_of({"repeats": row.repeats}),
    )
