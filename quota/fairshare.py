"""Fair share by decayed use: what each queue used of late, and how the past fades.

Use is counted in integer GPU-milliseconds, so that a long fade never rounds a small use away while it counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

MS: Final = 1_000
"""Milliseconds of a second."""


def faded(usage: int, elapsed_s: int, half_life_s: int) -> int:
    """What is left of a use after `elapsed_s`; half of it after `half_life_s`.

    Source: Slurm's PriorityDecayHalfLife (multifactor priority plugin), as in Kueue's Admission Fair Sharing:
    usage x 0.5^(elapsed / half-life).
    """
    return round(usage * math.pow(0.5, elapsed_s / half_life_s))


def entry_charge(gpus: int, sampling_s: int) -> int:
    """What an admission counts at once, in GPU-milliseconds: one sampling interval of all its GPUs.

    Without it a burst of jobs wins every turn until the next sample sees them.
    Source: the entry penalty of Kueue's Admission Fair Sharing (KEP 4136).
    """
    return gpus * sampling_s * MS


@dataclass(frozen=True, slots=True)
class UsageBook:
    """Use by queue as of the last sample, and what was admitted since."""

    sampled: Mapping[str, int] = field(default_factory=dict)
    entries: Mapping[str, int] = field(default_factory=dict)

    def admitted(self, queue: str, gpus: int, sampling_s: int) -> UsageBook:
        """The book after an admission."""
        charged = self.entries.get(queue, 0) + entry_charge(gpus, sampling_s)
        return UsageBook(self.sampled, {**self.entries, queue: charged})

    def sample(self, held_ms: Mapping[str, int], elapsed_s: int, half_life_s: int) -> UsageBook:
        """The book after a sample: the past faded, real use since the last sample instead of entry charges.

        Args:
            held_ms: GPU-milliseconds that each queue held since the last sample.
            elapsed_s: seconds since then.
            half_life_s: the policy's half-life.
        """
        queues = sorted({*self.sampled, *held_ms})
        return UsageBook(
            {
                queue: faded(self.sampled.get(queue, 0), elapsed_s, half_life_s) + held_ms.get(queue, 0)
                for queue in queues
            }
        )

    def usage(self) -> dict[str, int]:
        """Use of every queue as the order reads it."""
        queues = sorted({*self.sampled, *self.entries})
        return {queue: self.sampled.get(queue, 0) + self.entries.get(queue, 0) for queue in queues}
