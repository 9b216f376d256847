"""Who gives way: as little lost work as can be, and never more than needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from scheduler.profile import Run


def by_loss(runs: Iterable[Run], at_ms: int) -> list[Run]:
    """Candidates, the first to give way first; lost work counts up to `at_ms`.

    Lower priority, then least lost work (GPU-seconds since the last checkpoint), then youngest, then id.
    Source: Kueue's candidate order (lowest priority, newest admission), with lost work between the two.
    """
    return sorted(runs, key=lambda run: (run.priority, run.lost(at_ms), -run.order[0], -run.order[1], run.id))


def fewest_victims(
    candidates: Sequence[Run], is_enough: Callable[[Sequence[Run]], bool], at_ms: int
) -> tuple[Run, ...] | None:
    """Victims of whom none can be spared, or None when all the candidates together are not enough.

    The shortest run of candidates from the first on that is enough, by doubling and halving; then fill-back: from
    the most lost work to the least, each that can be spared is, until no single one can be.
    Source: Kueue's classical preemption (greedy, then fill back in reverse). O(log victims) calls of `is_enough`,
    and one for each victim per round.

    Args:
        candidates: first to give way first.
        is_enough: whether the job fits if these are gone.
        at_ms: the instant up to which lost work counts.
    """
    if not is_enough(candidates):
        return None
    if is_enough(()):
        return ()
    low, high = 0, 1
    while high < len(candidates) and not is_enough(candidates[:high]):
        low, high = high + 1, min(2 * high, len(candidates))
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(candidates[:middle]) else (middle + 1, high)
    # More victims may mean a longer grace and a later start, so that "enough" may stop holding on the way.
    victims = list(candidates[:low] if is_enough(candidates[:low]) else candidates)
    is_spared = True
    while is_spared:
        is_spared = False
        for run in sorted(victims, key=lambda run: (-run.lost(at_ms), run.id)):
            others = [other for other in victims if other is not run]
            if is_enough(others):
                victims, is_spared = others, True
    return tuple(victims)
