"""What was kept for a job that then went elsewhere is there for those it kept waiting: they get another turn."""

from __future__ import annotations

from quota.policy import policy_queue
from scheduler.fit import not_eligible
from scheduler.lines import Line, Told, Waits
from scheduler.model import PendingJob
from scheduler.order import Key, key_of
from scheduler.turns import Turns


def second_turns(turns: Turns) -> None:
    """Jobs that waited for a planned start that moved, or for an aged job that started, get another turn."""
    starts = -1
    while len(turns.starts) > starts:
        starts = len(turns.starts)
        _drop_void(turns)
        for line in turns.lines.values():
            _untell(turns, line)
        alike: dict[int, tuple[int, Waits]] = {}
        for waits in _in_order(turns):
            if waits.job.id in turns.waits and _is_freed(turns, waits):
                _second_turn(turns, waits.job, alike)


def _in_order(turns: Turns) -> list[Waits]:
    """What a second turn may mend, as it was told, but the jobs of each queue in its order: kinds were told as one."""
    told = turns.waits.values()
    found = [waits for waits in told if waits.shield is not None or waits.beside is not None]
    queues = [policy_queue(turns.policy, waits.job.queue) for waits in found]
    lines: dict[str, list[tuple[Key, Waits]]] = {}
    for queue, waits in zip(queues, found, strict=True):
        key = key_of(waits.job, is_aged=turns.aging.is_aged(waits.job, queue))
        lines.setdefault(queue, []).append((key, waits))
    ordered = {queue: iter(sorted(line, key=lambda entry: entry[0])) for queue, line in lines.items()}
    return [next(ordered[queue])[1] for queue in queues]


def _drop_void(turns: Turns) -> None:
    """Planned starts of jobs that others' starts left without budget or a place in their array stand no more.

    But for those that attempts were given notice for in an earlier cycle.
    """
    for hold in turns.world.holds():
        if hold.is_reclaim and hold.job_id not in turns.reclaims:
            continue
        refusal = not_eligible(turns.jobs[hold.job_id], turns.world)
        if refusal is not None:
            turns.world.release(hold.job_id)
            turns.holders.discard(hold.job_id)
            turns.wait(turns.jobs[hold.job_id], refusal)


def _untell(turns: Turns, line: Line) -> None:
    """Jobs that were told the same, and that a second turn may help, are told one by one, in their order."""
    found: list[tuple[Key, PendingJob, Waits]] = []
    for walk in line.walks:
        kept: list[Told] = []
        for told in walk.told:
            if _is_freed(turns, told.waits):
                found += [(key, job, told.waits) for key, job in walk.span(told.begin, told.end)]
            else:
                kept.append(told)
        walk.told[:] = kept
    for _, job, waits in sorted(found, key=lambda entry: entry[0]):
        if job.id not in turns.waits:
            turns.wait_alike(job, waits)


def _second_turn(turns: Turns, job: PendingJob, alike: dict[int, tuple[int, Waits]]) -> None:
    """One more turn.

    Args:
        turns: the cycle's.
        job: one that may fare better now.
        alike: by group, in which world the last of its kind could only wait, and why: so do those behind it.
    """
    line = turns.lines[policy_queue(turns.policy, job.queue)]
    if line.shield is not None and _is_gone(turns, line.shield):
        line.shield = None
    is_bound = job.id in turns.world.held or turns.may_reserve(job)
    is_bound = is_bound or line.shield is not None or turns.aging.is_aged(job, line.queue)
    group = turns.group(job)
    known = alike.get(group)
    if known is not None and known[0] == turns.world.version and not is_bound:
        turns.wait_alike(job, known[1])
        return
    refusal = not_eligible(job, turns.world)
    if refusal is not None:
        turns.wait(job, refusal)
        return
    turns.take(job, line, is_entitled=turns.is_entitled(job))
    if not is_bound and job.id in turns.waits:
        alike[group] = (turns.world.version, turns.waits[job.id])


def _is_freed(turns: Turns, waits: Waits) -> bool:
    """Whether what kept the job from starting is there no more, or not as it was."""
    if waits.shield is not None:
        return _is_gone(turns, waits.shield)
    if waits.beside is None:
        return False
    stood, count = waits.beside
    return stood.is_moved(count, turns.world.held, turns.world.version)


def _is_gone(turns: Turns, shield: PendingJob) -> bool:
    """Whether an aged job shields its queue no more: it started, or a start left it no budget or place in its array."""
    return shield.id in turns.started or not_eligible(shield, turns.world) is not None
