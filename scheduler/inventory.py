"""What could ever fit, kept for submissions: the inventory is read again when a node's record says that it changed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from weakref import WeakKeyDictionary

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from quota.model import Policy
from scheduler import fit
from scheduler.snapshot import load_inventory

KEEP_S: Final = 10.0
"""Age up to which the inventory is kept without a look at the tables [s].

Records may become visible in another order than that of their ids, so that the latest id alone does not prove that
nothing changed; a submission judged by an inventory of seconds ago is judged again by every plan.
"""

_LATEST: Final = text("""
SELECT greatest(
  (SELECT id FROM journal WHERE kind = 'node.registered' ORDER BY id DESC LIMIT 1),
  (SELECT id FROM journal WHERE kind = 'node.drained' ORDER BY id DESC LIMIT 1),
  (SELECT id FROM journal WHERE kind = 'node.resumed' ORDER BY id DESC LIMIT 1))
""")


@dataclass(frozen=True, slots=True)
class _Kept:
    latest: int
    version: str
    read_s: float
    bounds: fit.Bounds


_kept: Final[WeakKeyDictionary[Engine, _Kept]] = WeakKeyDictionary()


def bounds_of(session: Session, at: datetime, policy: Policy) -> fit.Bounds:
    """What could ever fit under a policy. O(1) while no node came or went, else O(nodes)."""
    engine = session.get_bind().engine
    latest = int(session.scalar(_LATEST) or 0)
    kept = _kept.get(engine)
    now_s = time.monotonic()
    if (
        kept is None
        or (kept.latest, kept.version) != (latest, policy.version)
        or now_s - kept.read_s > KEEP_S
    ):
        kept = _Kept(latest, policy.version, now_s, fit.Bounds(load_inventory(session, at), policy))
        _kept[engine] = kept
    return kept.bounds
