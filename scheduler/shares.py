"""The quota tree over time, for one pool: who is entitled or borrows at an instant, and what limits refuse.

Classes follow from admissions alone, so they are told for any instant from what still runs then.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from quota.tree import QuotaRefusal, Tree, Use, entitled_of
from scheduler.model import AttemptId, JobId, ShareClass
from scheduler.profile import Hold, Run

Placed = tuple[tuple[int, int], AttemptId, Run]
"""A run with its place in the order of admissions."""
Charged = tuple[int, frozenset[AttemptId]]
"""GPUs that are entitled, and the runs that are borrowed."""
KeptCharge = tuple[Sequence[Placed], int, Charged]
"""What was found charged, of which runs and with which nominal."""
Charges = dict[str, KeptCharge]
"""What was last found charged to each queue."""


NOTHING: Final[Charged] = (0, frozenset())
"""What is charged to a queue that nothing runs in."""


class Ask(NamedTuple):
    """A start that is considered: GPUs of a queue for [start, end).

    Args:
        past: planned starts that need not be respected.
        without: runs that would be stopped for it.
    """

    queue: str
    gpus: int
    start_ms: int
    end_ms: int
    is_entitled: bool
    past: Collection[JobId] = ()
    without: Collection[AttemptId] = ()


class Shares:
    """What each queue holds and has planned; working state of one cycle.

    Args:
        tree: the pool's limits.
        at_ms: now.
        runs: what holds GPUs of the pool now, by queue, first admitted first; the sequences are not changed.
        charges: as the last cycle left them, and as this one leaves them to the next.
    """

    def __init__(
        self, tree: Tree, at_ms: int, runs: Mapping[str, Sequence[Placed]], charges: Charges | None = None
    ) -> None:
        self.tree: Final = tree
        self.at_ms: Final = at_ms
        self.holds: Final[dict[JobId, Hold]] = {}
        self._entitled: Final[dict[str, dict[JobId, Hold]]] = {}
        self._borrowed: Final[dict[str, dict[JobId, Hold]]] = {}
        self._spans: Final[dict[str, dict[tuple[int, int], dict[JobId, int]]]] = {}
        self._span_gpus: Final[dict[str, Counter[tuple[int, int]]]] = {}
        self._planned_so_far = 0
        self._runs: Final = runs
        self._by_queue: Final = dict(runs)
        self._own: Final[dict[str, list[Placed]]] = {}
        self._charges: Final = {} if charges is None else charges
        self._charged: Final[dict[str, dict[int, Charged]]] = {}
        self._left: Final[dict[str, dict[int, int]]] = {}
        self._others: Final[dict[tuple[str, int], frozenset[AttemptId]]] = {}
        self._use: Use | None = None
        self._uses: Final[dict[int, Use]] = {}
        self._by_name: dict[AttemptId, Run] | None = None

    @property
    def use(self) -> Use:
        """What counts at each node now; made when a limit is first asked about."""
        if self._use is None:
            held = {queue: sum(run.gpus for _, _, run in runs) for queue, runs in self._by_queue.items()}
            self._use = Use(self.tree, held)
        return self._use

    def hold(self, hold: Hold) -> None:
        """A planned start stands from now on."""
        self._uses.clear()
        self.holds[hold.job_id] = hold
        if hold.share_class is ShareClass.BORROWED:
            self._borrowed.setdefault(hold.queue, {})[hold.job_id] = hold
        else:
            self._entitled.setdefault(hold.queue, {})[hold.job_id] = hold
            spans = self._spans.setdefault(hold.queue, {})
            self._span_gpus.setdefault(hold.queue, Counter())[hold.start_ms, hold.end_ms] += hold.gpus
            self._planned_so_far += 1
            spans.setdefault((hold.start_ms, hold.end_ms), {})[hold.job_id] = self._planned_so_far
            self._left.pop(hold.queue, None)

    def release(self, hold: Hold) -> None:
        """A planned start stands no more."""
        self._uses.clear()
        del self.holds[hold.job_id]
        if hold.share_class is ShareClass.BORROWED:
            del self._borrowed[hold.queue][hold.job_id]
        else:
            del self._entitled[hold.queue][hold.job_id]
            spans, span = self._spans[hold.queue], (hold.start_ms, hold.end_ms)
            self._span_gpus[hold.queue][span] -= hold.gpus
            del spans[span][hold.job_id]
            if not spans[span]:
                del spans[span], self._span_gpus[hold.queue][span]
            self._left.pop(hold.queue, None)

    def start(self, run: Run) -> None:
        """A job starts now, after all that runs: `run.order` is the greatest."""
        self.charged(run.queue, self.at_ms)
        insert(self._own_runs(run.queue), (run.order, run.id, run))
        if self._use is not None:
            self._use.add(run.queue, run.gpus)
        nominal = self.tree.nominal.get(run.queue, 0)
        known = self._charged[run.queue]
        for at_ms, charged in known.items():
            if at_ms < run.end_ms:
                known[at_ms] = charged_with(charged, run, nominal)
        self._left.pop(run.queue, None)
        self._others.clear()

    def ends_anew(self, run: Run, from_ms: int) -> None:
        """A run got another end, which changes nothing before `from_ms`."""
        placed = self._own_runs(run.queue)
        place = bisect_left(placed, (run.order, run.id), key=_place)
        placed[place] = (run.order, run.id, run)
        charged = self._charged.get(run.queue, {})
        self._charged[run.queue] = {at_ms: known for at_ms, known in charged.items() if at_ms < from_ms}
        self._left.pop(run.queue, None)
        for key in [key for key in self._others if key[1] >= from_ms]:
            del self._others[key]

    def _own_runs(self, queue: str) -> list[Placed]:
        """What runs in the queue, to be changed: a copy is made of what was given, once."""
        known = self._own.get(queue)
        self._uses.clear()
        self._by_name = None
        if known is None:
            known = self._own[queue] = list(self._by_queue.get(queue, ()))
            self._by_queue[queue] = known
        return known

    def charged(self, queue: str, at_ms: int) -> Charged:
        """GPUs of the queue that are entitled at an instant, and the runs that are borrowed then. O(runs)."""
        known = self._charged.setdefault(queue, {})
        found = known.get(at_ms)
        if found is None:
            found = known[at_ms] = (
                self._charge_now(queue) if at_ms == self.at_ms else self._charge(queue, at_ms)
            )
        return found

    def _charge_now(self, queue: str) -> Charged:
        """What is charged now: all that runs ends later, so that as long as it is the same this is."""
        runs = self._by_queue.get(queue)
        if runs is None:
            return NOTHING
        nominal = self.tree.nominal.get(queue, 0)
        kept = self._charges.get(queue)
        if kept is not None and kept[0] is runs and kept[1] == nominal:
            return kept[2]
        found = self._charge(queue, self.at_ms)
        if self._runs.get(queue) is runs:
            self._charges[queue] = (runs, nominal, found)
        return found

    def _charge(self, queue: str, at_ms: int) -> Charged:
        """As `entitled_of` says, for what still runs at the instant."""
        runs = [run for _, _, run in self._by_queue.get(queue, ()) if run.end_ms > at_ms]
        nominal = self.tree.nominal.get(queue, 0)
        held = sum([run.gpus for run in runs])
        if held <= nominal:
            return (held, frozenset())
        fit = entitled_of([run.gpus for run in runs], nominal)
        borrowed = [run for run, is_fit in zip(runs, fit, strict=True) if not is_fit]
        held -= sum(run.gpus for run in borrowed)
        return (held, frozenset(run.id for run in borrowed))

    def class_now(self, queue: str, gpus: int) -> ShareClass:
        """Class of a job that would start now: what runs and has just started goes before it."""
        return ShareClass.ENTITLED if gpus <= self.left_now(queue) else ShareClass.BORROWED

    def left_now(self, queue: str) -> int:
        """GPUs of the queue's nominal that what runs and has just started leaves, 0 or more."""
        return self.tree.nominal.get(queue, 0) - self.charged(queue, self.at_ms)[0]

    def class_at(self, queue: str, gpus: int, at_ms: int) -> ShareClass:
        """Class of a job that would start at an instant, planned starts of its queue going before it.

        Also those that are borrowed at their start and run within the nominal by then, as what they wait for ends.
        """
        left = self.left_at(queue, at_ms)
        if gpus <= left:
            left -= self._promoted(queue, left, at_ms)
        return ShareClass.ENTITLED if gpus <= left else ShareClass.BORROWED

    def _promoted(self, queue: str, left: int, at_ms: int) -> int:
        """GPUs of the queue's planned starts that are borrowed when they begin and no more at an instant. O(holds)."""
        holds = self._borrowed.get(queue, {}).values()
        found = 0
        for hold in sorted(holds, key=lambda hold: (hold.start_ms, hold.job_id)):
            if hold.start_ms < at_ms < hold.end_ms and found + hold.gpus <= left:
                found += hold.gpus
        return found

    def left_at(self, queue: str, at_ms: int) -> int:
        """GPUs of the queue's nominal that what runs and is planned leaves at an instant. O(runs + holds)."""
        known = self._left.setdefault(queue, {})
        if at_ms not in known:
            nominal = self.tree.nominal.get(queue, 0)
            known[at_ms] = nominal - self.charged(queue, at_ms)[0] - self._planned(queue, at_ms)
        return known[at_ms]

    def _planned(self, queue: str, at_ms: int) -> int:
        """GPUs of the queue's planned starts that are entitled and running at an instant."""
        spans = self._span_gpus.get(queue, {}).items()
        return sum(gpus for (begin_ms, end_ms), gpus in spans if begin_ms <= at_ms < end_ms)

    def entitled_of_others(self, queue: str) -> Iterator[Hold]:
        """Planned starts of other queues that are entitled."""
        for other, holds in self._entitled.items():
            if other != queue:
                yield from holds.values()

    def demoted(self, queue: str, gpus: int, start_ms: int, end_ms: int) -> Hold | None:
        """The first planned start of the queue that would lose its entitlement to a job in [start, end).

        O(distinct spans of planned starts): many that are made room for at once begin and end together.
        """
        first: tuple[int, JobId] | None = None
        nominal = self.tree.nominal.get(queue, 0)
        for (begins_ms, ends_ms), holds in self._spans.get(queue, {}).items():
            if start_ms < ends_ms and begins_ms < end_ms:
                at_ms = max(begins_ms, start_ms)
                if self.left_at(queue, at_ms) < gpus <= nominal - self.charged(queue, at_ms)[0]:
                    job_id, order = next(iter(holds.items()))
                    first = (order, job_id) if first is None else min(first, (order, job_id))
        return None if first is None else self._entitled[queue][first[1]]

    def runs_past(self, queue: str, gpus: int, grace_ms: int, start_ms: int, end_ms: int) -> frozenset[JobId]:
        """Planned starts past which a job of the queue may run, as it can be reclaimed for them in time."""
        return frozenset(
            hold.job_id
            for hold in self.entitled_of_others(queue)
            if not hold.is_reclaim  # its victims are told already
            and start_ms + grace_ms < hold.start_ms < end_ms  # notice comes after the start
            and gpus > self.left_at(queue, hold.start_ms)
        )

    def refusal(self, ask: Ask) -> QuotaRefusal | None:
        """The limit that a start would exceed, at its begin or at a planned start while it runs.

        O(depth) now, O(runs + holds) at each planned start; nothing where the tree has no limits.
        """
        if not self.tree.is_limited:
            return None
        found = self._refusal_at(ask.start_ms, ask)
        begins = {hold.start_ms for hold in self.holds.values() if ask.start_ms < hold.start_ms < ask.end_ms}
        for at_ms in sorted(begins):
            found = found or self._refusal_at(at_ms, ask)
        return found

    def _refusal_at(self, at_ms: int, ask: Ask) -> QuotaRefusal | None:
        is_plain = at_ms == self.at_ms and not self.holds and not ask.without
        use = self.use if is_plain else self._use_at(at_ms, ask)
        return use.refusal(ask.queue, ask.gpus, is_entitled=ask.is_entitled)

    def _use_at(self, at_ms: int, ask: Ask) -> Use:
        """What counts at each node at an instant, but for what the start need not respect. O(runs) once."""
        use = self._uses.get(at_ms)
        if use is None:
            use = self._uses[at_ms] = Use(self.tree, self._held(at_ms))
        past = self.holds.keys() & ask.past
        if past or ask.without:
            use = use.copy()
            for hold in map(self.holds.__getitem__, past):
                if hold.start_ms <= at_ms < hold.end_ms:
                    use.add(hold.queue, -hold.gpus)
            for run in self._runs_named(ask.without):
                if run.end_ms > at_ms:
                    use.add(run.queue, -run.gpus)
        return use

    def _runs_named(self, names: Collection[AttemptId]) -> Iterator[Run]:
        """Those of these runs that the pool has, each once."""
        if self._by_name is None:
            self._by_name = {run.id: run for runs in self._by_queue.values() for _, _, run in runs}
        known = self._by_name
        return (known[name] for name in set(names) if name in known)

    def _held(self, at_ms: int) -> dict[str, int]:
        """GPUs of each queue at an instant, runs and planned starts."""
        held: dict[str, int] = {}
        for queue, runs in self._by_queue.items():
            held[queue] = sum([run.gpus for _, _, run in runs if run.end_ms > at_ms])
        for hold in self.holds.values():
            if hold.start_ms <= at_ms < hold.end_ms:
                held[hold.queue] = held.get(hold.queue, 0) + hold.gpus
        return held

    def ends(self) -> list[int]:
        """When the pool's runs end, whatever their flavor."""
        return [run.end_ms for runs in self._by_queue.values() for _, _, run in runs]

    def borrowed_of_others(self, queue: str, at_ms: int | None = None) -> frozenset[AttemptId]:
        """Runs of other queues that are borrowed at an instant (None = now). O(queues) when remembered."""
        at_ms = self.at_ms if at_ms is None else at_ms
        if (queue, at_ms) not in self._others:
            borrowers = [other for other in self._by_queue if self.charged(other, self.at_ms)[1]]
            borrowed = [self.charged(other, at_ms)[1] for other in borrowers if other != queue]
            self._others[queue, at_ms] = frozenset().union(*borrowed)
        return self._others[queue, at_ms]


def charged_with(charged: Charged, run: Run, nominal: int) -> Charged:
    """What is charged to a queue when a run comes behind all others: see `entitled_of`."""
    entitled, borrowed = charged
    if entitled + run.gpus <= nominal:
        return (entitled + run.gpus, borrowed)
    return (entitled, borrowed | {run.id})


def insert(runs: list[Placed], placed: Placed) -> bool:
    """Put a run into its place among others; whether that is behind them all, as it mostly is."""
    is_last = not runs or runs[-1][:2] <= placed[:2]
    if is_last:
        runs.append(placed)
    else:
        insort(runs, placed, key=_place)
    return is_last


def _place(placed: Placed) -> tuple[tuple[int, int], AttemptId]:
    """The run's place in the order of admissions."""
    return placed[:2]
