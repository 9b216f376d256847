"""What a scheduler knows from one cycle to the next: the fold of the journal, less all that has ended. Pure.

It begins with the tables (`scheduler.warm`) and takes every record that came since; `snapshot` then gives what
`scheduler.snapshot.load` would read, the same object for all that did not change.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final, cast

from quota.fold import grant_of
from quota.model import GrantId, Policy
from scheduler.fields import (
    Fields,
    Standing,
    capacity_of,
    grant_view,
    integer,
    live_attempt,
    pending_job,
    reservation_of,
    usage_of,
    windows_at,
)
from scheduler.fold import FoldedState, JournalRecord
from scheduler.lifecycle import attempt_id
from scheduler.model import (
    FINAL_STATES,
    LIVE_STATES,
    AttemptId,
    GrantView,
    JobId,
    JobState,
    LiveAttempt,
    Node,
    PendingJob,
    Request,
    Reservation,
    Snapshot,
)
from scheduler.telling import Asked, Round, to_tell

_FINAL: Final = frozenset(state.value for state in FINAL_STATES)
_LIVE: Final = frozenset(state.value for state in LIVE_STATES)
_OF_JOBS: Final = frozenset({"job", "attempt"})
_OF_BOOKS: Final = frozenset({"grant", "ledger"})


@dataclass(frozen=True, slots=True)
class Told:
    """The part of a record that is about what is still known."""

    kind: str
    subject: str
    data: Mapping[str, object]


@dataclass(slots=True)
class _Changed:
    """What records touched since the last snapshot was made."""

    jobs: set[int] = field(default_factory=set)
    attempts: set[str] = field(default_factory=set)
    grants: set[GrantId] = field(default_factory=set)
    has_nodes: bool = True
    is_all: bool = True


class Known:
    """Jobs that have not ended, attempts that hold GPUs, nodes, grants, acts, windows, use.

    Args:
        state: the fold, holding unfinished jobs and live attempts only; it is this object's from now on.
        ended: states of ended jobs that unfinished ones depend on.
        admissions: GPUs admitted since the last sample of use, by instant [ms], queue and flavor.
    """

    def __init__(
        self, state: FoldedState, ended: dict[int, str], admissions: dict[tuple[int, str, str], int]
    ) -> None:
        self._state: Final = state
        self._ended: Final = ended
        self._admissions = admissions
        self._admitted = _by_queue(admissions)
        self._changed = _Changed(jobs=set(state.jobs), attempts=set(state.attempts))
        self._dependents: Final[dict[int, set[int]]] = {}
        self._pending: dict[JobId, PendingJob] = {}
        self._untold: Final[dict[JobId, None]] = {}
        self.round = Round()
        """How far the telling of reasons has come; whoever has told some sets it."""
        self._highest = 0
        self._is_sorted = True
        self._reservations: Final[dict[JobId, Reservation]] = {}
        self._live: Final[dict[AttemptId, LiveAttempt]] = {}
        self._live_ids: list[AttemptId] = []
        self._requests: Final[dict[int, Request]] = {}
        """Of jobs that wait no more since the last snapshot: their attempts ask for the same."""
        self._undispatched: Final[set[AttemptId]] = set()
        self._noticed: Final[dict[AttemptId, LiveAttempt]] = {}
        self._grants: Final[dict[GrantId, GrantView]] = {}
        self._nodes: tuple[Node, ...] = ()
        self._capacity: dict[str, int] = {}
        self._standing = Standing()
        self._tuples: tuple[tuple[PendingJob, ...], tuple[LiveAttempt, ...]] = ((), ())
        for job_id, fields in state.jobs.items():
            self._depend(job_id, fields)

    def fields(self, job_id: JobId) -> Fields | None:
        """Fields of an unfinished job as its records say; not to be changed."""
        return self._state.jobs.get(job_id)

    def pending(self, job_id: JobId) -> PendingJob | None:
        """A waiting job as the last snapshot has it."""
        return self._pending.get(job_id)

    def reason(self, job_id: JobId) -> str | None:
        """The reason that was told last of a waiting job."""
        fields = self._state.jobs.get(job_id)
        found = None if fields is None else fields.get("reason")
        return None if found is None else str(found)

    def to_tell(self, most: int, at_ms: int) -> Asked:
        """Waiting jobs whose reasons have their turn at an instant, `most` at most; see `scheduler.telling`."""
        return to_tell(self._tuples[0], self._untold, self.round, most=most, at_ms=at_ms)

    @property
    def reserved(self) -> AbstractSet[JobId]:
        """Waiting jobs that have a planned start, as of `snapshot`."""
        return self._reservations.keys()

    @property
    def noticed(self) -> Mapping[AttemptId, LiveAttempt]:
        """Attempts under notice that nobody wants stopped yet, as of `snapshot`."""
        return self._noticed

    @property
    def sampled_ms(self) -> int:
        """When use was sampled last, 0 = never."""
        return self._state.sampled_ms

    def undispatched(self) -> list[AttemptId]:
        """Live attempts that no agent is known to have and that nobody wants stopped, by name, as of `snapshot`."""
        return sorted(self._undispatched)

    def take(self, records: Iterable[JournalRecord]) -> None:
        """Take records, each subject's in the order of their ids.

        Raises:
            LookupError, TypeError, ValueError: a record does not follow those before it; begin anew.
        """
        for record in records:
            room, _, _ = record.kind.partition(".")
            if room in _OF_JOBS:
                self._take_job(record)
                continue
            self._state.take(record)
            if room == "node":
                self._changed.has_nodes = True
            elif room == "project":
                self._changed.is_all = True
            elif room in _OF_BOOKS:
                self._changed.grants.add(grant_of(record.subject))
            elif record.kind == "usage.sampled":
                since = self._state.sampled_ms
                self._admissions = {key: gpus for key, gpus in self._admissions.items() if key[0] >= since}
                self._admitted = _by_queue(self._admissions)

    def missing(self) -> set[int]:
        """Jobs that others depend on and of which nothing is known: they ended before; `tell_ended` says how."""
        return {
            job_id
            for job_id in self._dependents
            if job_id not in self._state.jobs and job_id not in self._ended
        }

    def tell_ended(self, states: Mapping[int, str]) -> None:
        """Final states of jobs that others depend on."""
        self._ended.update(states)

    def _take_job(self, record: JournalRecord) -> None:
        job_id = int(record.subject.partition(":")[2])
        is_new = record.kind == "job.submitted"
        if not is_new and job_id not in self._state.jobs:
            return  # it ended: what is told of it later changes nothing a plan reads
        data = record.data
        name = data.get("attempt_id")
        if name is not None and name not in self._state.attempts and record.kind != "job.admitted":
            data = {"job": data["job"]} if "job" in data else {}
            name = None
        self._state.take(Told(record.kind, record.subject, data))
        self._changed.jobs.add(job_id)
        fields = self._state.jobs[job_id]
        if name is not None:
            self._changed.attempts.add(str(name))
        if is_new:
            self._depend(job_id, fields)
        elif record.kind == "job.admitted":
            attempt = self._state.attempts[str(name)]
            flavor = self._state.books.flavor(str(attempt["grant_id"]))
            key = (integer(attempt["admitted_ms"]), str(fields["queue"]), flavor)
            self._admissions[key] = self._admissions.get(key, 0) + integer(fields["gpus"])
            self._admitted[key[1:]] += integer(fields["gpus"])

    def _depend(self, job_id: int, fields: Fields) -> None:
        for dependency in cast("list[Fields]", fields["depends_on"]):
            self._dependents.setdefault(integer(dependency["job_id"]), set()).add(job_id)

    def snapshot(self, at_ms: int, version: str, policy: Policy) -> Snapshot:
        """The snapshot of what is known at an instant: equal to the one read from the tables.

        O(changes), apart from copying references to all that is known.
        """
        state, changed = self._state, self._changed
        standing = Standing.at(state.acts.values(), at_ms)
        if standing != self._standing or changed.is_all:
            changed.jobs.update(state.jobs)
            changed.attempts.update(state.attempts)
        self._standing = standing
        if changed.has_nodes:
            self._nodes = tuple(state.nodes[name] for name in sorted(state.nodes))
            self._capacity = capacity_of(self._nodes)
        for grant_id in changed.grants if self._grants else (*state.books.grants,):
            self._grants[grant_id] = grant_view(state.books.grants[grant_id])
        self._follow_jobs(changed)
        self._changed = _Changed(has_nodes=False, is_all=False)
        self._requests.clear()
        admitted = ((queue, flavor, gpus) for (queue, flavor), gpus in self._admitted.items())
        usage = usage_of(state.usage, admitted, policy)
        return Snapshot(
            at_ms=at_ms,
            version=version,
            nodes=self._nodes,
            live=self._tuples[1],
            pending=self._tuples[0],
            grants=tuple(self._grants[grant_id] for grant_id in sorted(self._grants)),
            capacity=self._capacity,
            usage=usage,
            reservations=tuple(self._reservations[job_id] for job_id in sorted(self._reservations)),
            windows=windows_at(state.windows, at_ms),
        )

    def _follow_jobs(self, changed: _Changed) -> None:
        """Make the values of jobs and attempts that changed anew, and drop those that ended."""
        pending, live = self._tuples
        waiting = [*changed.jobs]
        is_changed = False
        for job_id in waiting:  # grows: jobs that depend on one that ended are looked at again
            is_other, others = self._follow_job(job_id)
            is_changed |= is_other
            waiting.extend(others)
        if is_changed:
            pending = self._in_order()
        before = {*changed.attempts}.intersection(self._live)
        came = [name for name in map(AttemptId, changed.attempts) if self._follow_attempt(name)]
        is_gone = not before <= self._live.keys()
        new = sorted(name for name in came if name not in before)
        if is_gone or len(new) < len(came):
            self._live_ids = sorted([*(name for name in self._live_ids if name in self._live), *new])
            live = tuple(map(self._live.__getitem__, self._live_ids))
        elif new:
            live = self._with_new(live, new)
        self._tuples = (pending, live)

    def _with_new(self, live: tuple[LiveAttempt, ...], new: list[AttemptId]) -> tuple[LiveAttempt, ...]:
        """Live attempts with new ones at their place: mostly one, as neighbouring jobs are admitted together."""
        place = bisect_left(self._live_ids, new[0])
        if place != bisect_left(self._live_ids, new[-1]):
            self._live_ids = sorted([*self._live_ids, *new])
            return tuple(map(self._live.__getitem__, self._live_ids))
        self._live_ids[place:place] = new
        return (*live[:place], *map(self._live.__getitem__, new), *live[place:])

    def _in_order(self) -> tuple[PendingJob, ...]:
        """Waiting jobs by id. New ones have the highest, so that sorting is rarely needed."""
        if not self._is_sorted:
            self._pending = {job_id: self._pending[job_id] for job_id in sorted(self._pending)}
            self._is_sorted = True
        return tuple(self._pending.values())

    def _follow_job(self, job_id: int) -> tuple[bool, Iterable[int]]:
        """Take a job over as it stands; whether those that wait changed, and jobs to be looked at after it."""
        name = JobId(job_id)
        fields = self._state.jobs.get(job_id)
        if fields is None:
            return False, ()
        state = str(fields["state"])
        if state == JobState.PENDING.value:
            return self._follow_waiting(name, fields), ()
        waited = self._pending.pop(name, None)
        is_changed = waited is not None
        if waited is not None and not waited.request.is_entitled_only:
            self._requests[job_id] = waited.request
        self._reservations.pop(name, None)
        self._untold.pop(name, None)
        if state not in _FINAL:
            return is_changed, ()
        del self._state.jobs[job_id]
        self._changed.attempts.add(attempt_id(name, integer(fields["attempts"])))
        return is_changed, self._end(job_id, state, fields)

    def _follow_waiting(self, name: JobId, fields: Fields) -> bool:
        """Take a waiting job over; whether anything of it changed but its planned start."""
        kept = reservation_of(name, fields)
        if kept is None:
            self._reservations.pop(name, None)
        else:
            self._reservations[name] = kept
        if fields.get("reason") is None:
            self._untold[name] = None
        else:
            self._untold.pop(name, None)
        job = self._pending_job(name, fields)
        before = self._pending.get(name)
        if before == job:
            return False
        if before is None:
            self._is_sorted = self._is_sorted and (not self._pending or name > self._highest)
            self._highest = max(self._highest, name)
        self._pending[name] = job
        return True

    def _end(self, job_id: int, state: str, fields: Fields) -> Iterable[int]:
        """A job ended: it depends on nobody any more, and its dependents may start or never will."""
        for dependency in cast("list[Fields]", fields["depends_on"]):
            other = integer(dependency["job_id"])
            left = self._dependents.get(other, set())
            left.discard(job_id)
            if not left:
                self._dependents.pop(other, None)
                self._ended.pop(other, None)
        if job_id not in self._dependents:
            return ()
        self._ended[job_id] = state
        return tuple(self._dependents[job_id])

    def _pending_job(self, job_id: int, fields: Fields) -> PendingJob:
        states = {
            other: self._ended[other] if other in self._ended else str(self._state.jobs[other]["state"])
            for dependency in cast("list[Fields]", fields["depends_on"])
            for other in (integer(dependency["job_id"]),)
        }
        return pending_job(
            job_id,
            fields,
            is_suspended=self._state.suspended.get(str(fields["project_id"]), False),
            standing=self._standing,
            states=states,
        )

    def _follow_attempt(self, name: AttemptId) -> bool:
        """Take an attempt over as it stands; whether it holds GPUs and is another value than before."""
        attempt = self._state.attempts.get(name)
        job = None if attempt is None else self._state.jobs.get(integer(attempt["job_id"]))
        if attempt is None or job is None or str(attempt["state"]) not in _LIVE:
            self._state.attempts.pop(name, None)
            self._live.pop(name, None)
            self._noticed.pop(name, None)
            self._undispatched.discard(name)
            return False
        if attempt.get("dispatched_ms") is None and attempt.get("stop_why") is None:
            self._undispatched.add(name)
        else:
            self._undispatched.discard(name)
        ranks = cast("list[Fields]", attempt["ranks"])
        before = self._live.get(name)
        asked = self._requests.get(integer(attempt["job_id"])) if before is None else before.request
        found = live_attempt(name, job, attempt, ranks, self._standing, asked)
        if before == found:
            return False
        self._live[name] = found
        if found.reclaimed_by is not None and not found.is_stopping:
            self._noticed[name] = found
        else:
            self._noticed.pop(name, None)
        return True


def _by_queue(admissions: Mapping[tuple[int, str, str], int]) -> Counter[tuple[str, str]]:
    """GPUs by queue and flavor; what an admission counts as use grows with its GPUs, so that sums will do."""
    found: Counter[tuple[str, str]] = Counter()
    for (_, queue, flavor), gpus in admissions.items():
        found[queue, flavor] += gpus
    return found
