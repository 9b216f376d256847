"""The bound on the queues that are told apart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

MAX_QUEUES: Final = 1_000
"""Queues told apart, the policy's own limit; jobs of further ones are counted under OTHER_QUEUE."""

OTHER_QUEUE: Final = "_other"
"""Label value of queues beyond MAX_QUEUES; no queue of a policy may have it."""


def bounded(queues: Iterable[str]) -> dict[str, str]:
    """Label value of each queue."""
    return {
        queue: queue if place < MAX_QUEUES else OTHER_QUEUE for place, queue in enumerate(sorted(set(queues)))
    }
