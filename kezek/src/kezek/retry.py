"""Bounded, jittered retries, and which answers deserve one. Only idempotent calls come here more than once."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator

MAX_TRIES = 6
"""Tries of one idempotent call: with the pauses below 8 s on average, longer than a restart of the API."""
FIRST_PAUSE_S = 0.5
"""Upper bound of the first pause [s]; it doubles with each try."""
MAX_PAUSE_S = 8.0
"""Longest pause [s], the platform's own `Retry-After` included: a person is waiting."""
RETRIED_STATUSES = frozenset({429, 502, 503, 504})
"""Answers of something on the way, or of a platform that asks for patience."""
RETRIED_CODES = frozenset({"IDEMPOTENCY_IN_FLIGHT"})
"""Refusals that end by themselves: the first of two equal requests is still being served."""

Pause = Callable[[float], None]
"""Waits for a number of seconds; tests and notebooks may give their own."""

sleep: Pause = time.sleep


def pauses() -> Iterator[float]:
    """Yield the pause before each further try [s]: exponential with full jitter, `MAX_TRIES` - 1 of them.

    Source: M. Brooker, Exponential Backoff and Jitter, AWS Architecture Blog, 2015 ("full jitter").
    """
    chance = secrets.SystemRandom()
    bound = FIRST_PAUSE_S
    for _ in range(MAX_TRIES - 1):
        yield chance.uniform(0, min(bound, MAX_PAUSE_S))
        bound *= 2


def is_worth_retrying(status: int, code: str) -> bool:
    """Whether the same request may well succeed a little later."""
    return status in RETRIED_STATUSES or code in RETRIED_CODES


def asked_pause_s(retry_after: str | None) -> float:
    """Seconds that a `Retry-After` header asks for, at most `MAX_PAUSE_S`; 0 without one in seconds."""
    if retry_after is None or not retry_after.isascii() or not retry_after.isdigit():
        return 0.0
    return min(float(retry_after), MAX_PAUSE_S)
