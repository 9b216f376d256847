"""Walltimes for traces that name none: one model, stated and seeded, that every scheduler of a comparison sees.

A replay that gave a scheduler the run times would compare what no scheduler can do. The model: the run time times
10^u, u even between 0 and 1 and drawn from the seed and the job's id, rounded up to a walltime that people ask for.
Users overestimate by a factor and ask for few round values: Mu'alem and Feitelson 2001 (IEEE TPDS 12(6)); Tsafrir,
Etsion and Feitelson 2005 (JSSPP). The walltimes that people ask for are this module's own choice.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from hashlib import blake2b
from typing import Final

MINUTE_S: Final = 60
HOUR_S: Final = 3_600
DAY_S: Final = 86_400
USUAL_S: Final = (
    *(minutes * MINUTE_S for minutes in (5, 10, 15, 30)),
    *(hours * HOUR_S for hours in (1, 2, 3, 4, 6, 8, 12, 18)),
    *(days * DAY_S for days in (1, 2, 3, 4, 5, 7, 10, 14)),
)
"""Walltimes that people ask for, seconds; longer ones are whole days."""
FACTOR: Final = 10.0
"""Most that a run time is overestimated by before it is rounded up."""


def estimate_s(job_id: str, duration_s: int, seed: int) -> int:
    """The walltime that the job would have asked for, seconds; never below its run time.

    It depends on the job and the seed alone, so that neither the trace's order nor the scheduler moves it.
    """
    drawn = blake2b(f"{seed}:{job_id}".encode(), digest_size=8).digest()
    even = int.from_bytes(drawn, "big") / 2**64
    wished_s = math.ceil(duration_s * FACTOR**even)
    place = bisect_left(USUAL_S, wished_s)
    return USUAL_S[place] if place < len(USUAL_S) else -(-wished_s // DAY_S) * DAY_S
