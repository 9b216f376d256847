"""Carries the idle policy out: decides over running attempts' telemetry, gives notices, ends what stays idle.

One tick: under a lease of its own, read the policy in force and every running attempt, let ``metrics.idle`` decide,
and take each step that is due in a transaction of its own: the notice's row, its record in the journal and, at the
end, the same change of state as a user's cancel. A step is decided again under the job's lock, and an index makes
the same step of the same stretch impossible twice; so a restart, or two schedulers at once, tell nobody anything
twice. If it dies, jobs run on.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Engine, Row, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from metrics import idle_policy
from metrics.idle import BUSY, Decision, IdlePolicy, JobUse, Step, Take, Watch, decide, idle_since
from metrics.idle_policy import SetPolicy
from metrics.stretches import of_json
from metrics.tables import AttemptTelemetryRow, IdleNoticeRow
from quota.ledger import used_device_seconds
from scheduler.changes import take
from scheduler.facts import IdleFound
from scheduler.model import AttemptId, JobId, JobState
from scheduler.tables import AllocationRow, AttemptRow, JobRow
from store import clock, journal, lease
from store.engine import transaction

LEASE: Final = "idle"
"""Name of the lease under which idle jobs are looked after."""

LEASE_TTL_S: Final = 90
"""How long a watch that fell silent keeps the lease [s]: three ticks, and nothing here is urgent."""

INTERVAL_S: Final = 30.0
"""Seconds between ticks: telemetry is no fresher."""

MAX_STEPS: Final = 500
"""Steps of one tick; the rest waits for the next one, so that a tick ends well within its lease."""

_logger = logging.getLogger(__name__)

_KINDS: Final = {
    Step.NOTICE: "idle.notice",
    Step.SECOND_NOTICE: "idle.second_notice",
    Step.CANCEL: "idle.cancelled",
}
_WOULD_CANCEL: Final = "idle.would_cancel"


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A running attempt and what the policy decides of it.

    Attributes:
        gpus: How many it holds.
        use: The facts decided over; `taken` holds the steps of the present stretch, told if the policy is in
            earnest, else those of the dry run.
        idle_since: Start of the present stretch; None if it is not idle.
        has_void: Steps of an earlier stretch are not cleared yet.
        decision: The decision.
    """

    attempt_id: str
    job_id: int
    gpus: int
    use: JobUse
    idle_since: datetime | None
    has_void: bool
    decision: Decision

    @property
    def is_due(self) -> bool:
        """Whether something has to be written."""
        return self.has_void or isinstance(self.decision, Take)


class IdleWatch:
    """Looks after idle jobs. One thread calls ``tick``.

    Args:
        engine: The platform's database.
        now: Now, aware UTC.
        holder: Name of this process in the lease, unlike any other's: a random id.
    """

    def __init__(self, engine: Engine, now: Callable[[], datetime], holder: str) -> None:
        self._engine = engine
        self._now = now
        self._holder = holder
        self._held: lease.Held | None = None

    def tick(self) -> int:
        """Look at every running attempt once.

        Returns:
            Attempts of which something was written; 0 while another process holds the lease.
        """
        at = clock.from_ms(clock.to_ms(self._now()))
        with transaction(self._engine) as session:
            held = lease.acquire(session, LEASE, self._holder, at=at, ttl_s=LEASE_TTL_S)
            self._held = held
            if held is None:
                return 0
            policy = idle_policy.in_force(session)
            due = [one for one in running(session, policy, at) if one.is_due]
        if len(due) > MAX_STEPS:
            _logger.warning("%d idle steps are due, %d are taken now", len(due), MAX_STEPS)
        done = 0
        for one in due[:MAX_STEPS]:
            with transaction(self._engine) as session:
                lease.fence(session, held)
                done += settle(session, one.job_id, one.attempt_id, at)
        return done

    def run(self, stop: threading.Event, interval_s: float = INTERVAL_S) -> None:
        """Tick until told to stop, then give the lease back; a database that is away delays notices, nothing else.

        Args:
            stop: Ends the loop.
            interval_s: Seconds between ticks.
        """
        while not stop.wait(interval_s):
            try:
                self.tick()
            except OperationalError as error:
                _logger.warning("idle jobs were not looked after: %s", error.orig)
            except lease.StaleEpochError as error:
                _logger.warning("%s", error)
        try:
            self.release()
        except OperationalError as error:
            _logger.warning("the idle watch's lease runs out by itself: %s", error.orig)

    def release(self) -> None:
        """Give the lease back, so that the next process need not wait for it to run out."""
        if self._held is not None:
            with transaction(self._engine) as session:
                lease.release(session, self._held, at=self._now())
            self._held = None


def running(
    session: Session, policy: SetPolicy, at: datetime, attempt_ids: Sequence[str] | None = None
) -> list[Running]:
    """Running attempts in the order of their jobs, with what the policy decides of each now.

    Args:
        session: A session.
        policy: The policy.
        at: Now, aware UTC.
        attempt_ids: Only these; None for all.
    """
    statement = (
        select(
            AttemptRow.id,
            AttemptRow.job_id,
            AttemptRow.started_at,
            AttemptRow.admitted_at,
            JobRow.is_interactive,
            AttemptTelemetryRow.idle,
        )
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .outerjoin(AttemptTelemetryRow, AttemptTelemetryRow.attempt_id == AttemptRow.id)
        .where(AttemptRow.state == JobState.RUNNING.value, AttemptRow.stop_why.is_(None))
        .order_by(AttemptRow.job_id)
    )
    if attempt_ids is not None:
        statement = statement.where(AttemptRow.id.in_(attempt_ids))
    rows = session.execute(statement).all()
    ids = [row.id for row in rows]
    held, noted = _held(session, ids), _open_notices(session, ids)
    return [_running(row, held[row.id], noted[row.id], policy.policy, at) for row in rows]


def _running(
    row: Row[str, int, datetime | None, datetime, bool, dict[str, object]],
    gpus: Sequence[str],
    noted: Sequence[IdleNoticeRow],
    policy: IdlePolicy,
    at: datetime,
) -> Running:
    attempt_id, job_id, started_at, admitted_at, is_interactive, idle = row
    stretches = of_json(idle or {})
    use = JobUse(
        started_at=started_at or admitted_at,
        is_interactive=is_interactive,
        gpus=[stretches.get(uuid, BUSY) for uuid in gpus],
    )
    since = idle_since(use, policy)
    valid = [notice for notice in noted if since is not None and notice.at >= since]
    # What a dry run noted was told to nobody, so in earnest it counts for nothing.
    taken = {Step(notice.step): notice.at for notice in valid if notice.is_dry_run is policy.is_dry_run}
    use = replace(use, taken=taken)
    return Running(
        attempt_id=attempt_id,
        job_id=job_id,
        gpus=len(gpus),
        use=use,
        idle_since=since,
        has_void=len(valid) < len(noted),
        decision=decide(use, policy, at),
    )


def settle(session: Session, job_id: int, attempt_id: str, at: datetime) -> int:
    """Take the step that is due for an attempt, in the caller's transaction.

    Args:
        session: The open unit of work; the caller has fenced it.
        job_id: Its job, which is locked here.
        attempt_id: The attempt; one that runs no more is left alone.
        at: Now, in whole milliseconds.

    Returns:
        1 if something was written, else 0.
    """
    session.execute(select(JobRow.id).where(JobRow.id == job_id).with_for_update())
    policy = idle_policy.in_force(session)
    done = 0
    for found in running(session, policy, at, [attempt_id]):
        if found.has_void:
            _clear(session, found, at)
            done = 1
        if isinstance(found.decision, Take):
            _take_step(session, found, found.decision, policy, at)
            done = 1
    return done


def _take_step(session: Session, found: Running, due: Take, policy: SetPolicy, at: datetime) -> None:
    following = decide(replace(found.use, taken={**found.use.taken, due.step: at}), policy.policy, at)
    next_step, next_at = (
        (following.next_step, following.due_at) if isinstance(following, Watch) else (None, None)
    )
    is_cancel = due.step is Step.CANCEL
    row = IdleNoticeRow(
        job_id=found.job_id,
        attempt_id=found.attempt_id,
        step=due.step.value,
        is_dry_run=due.is_dry_run,
        at=at,
        policy_id=policy.id,
        idle_s=due.idle_for // timedelta(seconds=1),
        idle_gpus=due.idle_gpus,
        gpus=found.gpus,
        next_step=None if next_step is None else next_step.value,
        next_at=next_at,
        returned_s=_returned_s(session, found.attempt_id, at) if is_cancel else None,
    )
    session.add(row)
    session.flush()
    data: dict[str, object] = {
        "attempt_id": row.attempt_id,
        "is_dry_run": row.is_dry_run,
        "policy": row.policy_id,
        "idle_s": row.idle_s,
        "idle_gpus": row.idle_gpus,
        "gpus": row.gpus,
        "next_step": row.next_step,
        "next_ms": None if next_at is None else clock.to_ms(next_at),
    }
    if is_cancel:
        data["returned_s"] = row.returned_s
    kind = _WOULD_CANCEL if is_cancel and due.is_dry_run else _KINDS[due.step]
    journal.append(session, kind, f"job:{found.job_id}", actor=journal.SYSTEM, at=at, data=data)
    if is_cancel and not due.is_dry_run:
        fact = IdleFound(AttemptId(found.attempt_id), clock.to_ms(at))
        take(session, JobId(found.job_id), fact, at=at, actor=journal.SYSTEM)


def _returned_s(session: Session, attempt_id: str, at: datetime) -> int:
    """Device-seconds of the claim that are not charged if the attempt is stopped now: the ledger's own figure."""
    attempt = session.get_one(AttemptRow, attempt_id)
    job = session.get_one(JobRow, attempt.job_id)
    if attempt.committed_at is None:
        return attempt.claim_s
    committed_ms = clock.to_ms(attempt.committed_at)
    return attempt.claim_s - used_device_seconds(job.gpus, committed_ms, clock.to_ms(at), job.walltime_s)


def _clear(session: Session, found: Running, at: datetime) -> None:
    """The GPUs were used since: what was said of the stretch before is void, in a dry run as well."""
    is_void = [IdleNoticeRow.attempt_id == found.attempt_id, IdleNoticeRow.cleared_at.is_(None)]
    if found.idle_since is not None:
        is_void.append(IdleNoticeRow.at < found.idle_since)
    cleared = session.scalars(
        update(IdleNoticeRow).where(*is_void).values(cleared_at=at).returning(IdleNoticeRow.id)
    )
    data = {"attempt_id": found.attempt_id, "notices": sorted(cleared)}
    journal.append(session, "idle.cleared", f"job:{found.job_id}", actor=journal.SYSTEM, at=at, data=data)


def _held(session: Session, attempt_ids: Iterable[str]) -> dict[str, list[str]]:
    """UUIDs of the GPUs that each attempt holds."""
    held: dict[str, list[str]] = defaultdict(list)
    for attempt_id, uuid in session.execute(
        select(AllocationRow.attempt_id, AllocationRow.gpu_uuid)
        .where(AllocationRow.attempt_id.in_(attempt_ids), AllocationRow.released_at.is_(None))
        .order_by(AllocationRow.gpu_uuid)
    ):
        held[attempt_id].append(uuid)
    return held


def _open_notices(session: Session, attempt_ids: Iterable[str]) -> dict[str, list[IdleNoticeRow]]:
    """Notices of each attempt that no use has cleared yet."""
    found: dict[str, list[IdleNoticeRow]] = defaultdict(list)
    for row in session.scalars(
        select(IdleNoticeRow).where(
            IdleNoticeRow.attempt_id.in_(attempt_ids), IdleNoticeRow.cleared_at.is_(None)
        )
    ):
        found[row.attempt_id].append(row)
    return found
