"""Fair share by decayed use: what each queue used of late, and how the past fades.

Use is counted in integer GPU-milliseconds, so that a long fade never rounds a small use away while it counts.
A flavor counts at its rate: what one of its GPUs, or one of its slices, is worth in GPUs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache
from math import lcm
from typing import Final

from quota.model import Policy
from quota.tree import SLICE_MARK, WHOLE, Tree

MS: Final = 1_000
"""Milliseconds of a second."""
ONE: Final = Fraction(1)
"""Rate of a whole GPU for which the policy states none."""
COMPUTE_SLICES: Final = 7
"""Compute slices of a GPU that MIG divides. Source: NVIDIA Multi-Instance GPU user guide, "GPU instance profiles"."""
MAX_FLAVORS: Final = 4_096
"""Flavors whose rate is remembered: far more than any machine has."""

_PROFILE: Final = re.compile(SLICE_MARK + r"([1-7])[cg](?![a-z0-9])")


@lru_cache(maxsize=MAX_FLAVORS)
def rate_of_name(flavor: str) -> Fraction:
    """What one of a flavor counts in GPUs by its name alone: its compute slices ÷ 7, a whole GPU 1.

    A profile names its compute slices first (`1g.10gb`, or `1c.3g.40gb` for one compute slice of an instance of
    three). A name without such a profile counts as a whole GPU, so that nothing is charged too little.
    """
    found = _PROFILE.search(flavor)
    return ONE if found is None else Fraction(int(found[1]), COMPUTE_SLICES)


def rate_of(policy: Policy, flavor: str) -> Fraction:
    """What one of a flavor counts in GPUs: as the policy states (`fair_share_weights`), else by its name."""
    stated = policy.fair_share_weights.get(flavor)
    return rate_of_name(flavor) if stated is None else stated


def charged(gpu_ms: int, rate: Fraction) -> int:
    """Use of a flavor in GPU-milliseconds of whole GPUs, rounded down."""
    return gpu_ms * rate.numerator // rate.denominator


def fair_tree(policy: Policy, trees: Mapping[str, Tree]) -> Tree | None:
    """The tree that fair share walks: one for all pools, as use is one figure for all of them.

    A node's weight is what it states, else what it is guaranteed in all pools together, each at its rate, at
    least 1. Weights are made whole numbers by one factor, which changes no ratio. Stated weights of slices
    divide slices and do not count here. None where nothing is in service.

    Args:
        policy: the policy in force.
        trees: by pool.
    """
    if not trees:
        return None
    rates = {pool: ONE if pool == WHOLE else rate_of(policy, pool) for pool in trees}
    worth = {
        node.path: Fraction(node.weight)
        if node.weight
        else max(
            ONE, sum((tree.nominal[node.path] * rates[pool] for pool, tree in trees.items()), Fraction(0))
        )
        for node in policy.tree
    }
    factor = lcm(*(weight.denominator for weight in worth.values()))
    weights = {path: int(weight * factor) for path, weight in worth.items()}
    some = next(iter(trees.values()))
    return replace(some, weight={**some.weight, **weights})


def faded(usage: int, elapsed_s: int, half_life_s: int) -> int:
    """What is left of a use after `elapsed_s`; half of it after `half_life_s`.

    Source: Slurm's PriorityDecayHalfLife (multifactor priority plugin), as in Kueue's Admission Fair Sharing:
    usage x 0.5^(elapsed / half-life).
    """
    return round(usage * math.pow(0.5, elapsed_s / half_life_s))


def entry_charge(gpus: int, sampling_s: int, rate: Fraction = ONE) -> int:
    """What an admission counts at once, in GPU-milliseconds: one sampling interval of all its GPUs at their rate.

    Without it a burst of jobs wins every turn until the next sample sees them.
    Source: the entry penalty of Kueue's Admission Fair Sharing (KEP 4136).
    """
    return charged(gpus * sampling_s * MS, rate)


@dataclass(frozen=True, slots=True)
class UsageBook:
    """Use by queue as of the last sample, and what was admitted since."""

    sampled: Mapping[str, int] = field(default_factory=dict)
    entries: Mapping[str, int] = field(default_factory=dict)

    def admitted(self, queue: str, charge: int) -> UsageBook:
        """The book after an admission and its entry charge."""
        return UsageBook(self.sampled, {**self.entries, queue: self.entries.get(queue, 0) + charge})

    def sample(self, held_ms: Mapping[str, int], elapsed_s: int, half_life_s: int) -> UsageBook:
        """The book after a sample: the past faded, real use since the last sample instead of entry charges.

        Args:
            held_ms: GPU-milliseconds that each queue held since the last sample, every flavor at its rate.
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
