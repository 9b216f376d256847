"""Leases with a fencing epoch: one holder at a time, and a write of an old holder is refused.

Source: M. Kleppmann, "How to do distributed locking" (2016), for the fencing token; the epoch is that token.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store import journal
from store.tables import LeaseRow


class StaleEpochError(RuntimeError):
    """The caller's epoch is not the lease's any more: another process took over."""

    def __init__(self, name: str, epoch: int) -> None:
        super().__init__(
            f"lease {name!r}: epoch {epoch} has been replaced; this process must stop writing and take it anew"
        )
        self.name = name
        self.epoch = epoch


@dataclass(frozen=True, slots=True)
class Held:
    """A lease this process holds until `expires_at`."""

    name: str
    holder: str
    epoch: int
    expires_at: datetime


def acquire(session: Session, name: str, holder: str, *, at: datetime, ttl_s: int) -> Held | None:
    """Take the lease if it is free, expired or already ours; None while another process holds it.

    Taking it from nobody or from an expired holder raises the epoch and journals it; renewing does not.
    """
    locked = select(LeaseRow).where(LeaseRow.name == name).with_for_update()
    row = session.scalar(locked)
    expires_at = at + timedelta(seconds=ttl_s)
    if row is None:
        # Nobody ever held it. Of several that find it so at once, one enters it and the others wait for its lock.
        free = {"name": name, "holder": "", "epoch": 0, "expires_at": at}
        session.execute(insert(LeaseRow).values(free).on_conflict_do_nothing())
        row = session.scalars(locked).one()
    if row.holder == holder:
        row.expires_at = expires_at
        return Held(name, holder, row.epoch, expires_at)
    if row.expires_at > at:
        return None
    row.holder, row.epoch, row.expires_at = holder, row.epoch + 1, expires_at
    journal.append(
        session, "lease.taken", f"lease:{name}", actor=journal.SYSTEM, at=at, data={"epoch": row.epoch}
    )
    return Held(name, holder, row.epoch, expires_at)


def release(session: Session, held: Held, *, at: datetime) -> None:
    """Let the lease expire now, if it is still ours; the epoch stays for the next holder to raise."""
    row = session.scalar(select(LeaseRow).where(LeaseRow.name == held.name).with_for_update())
    if row is not None and row.holder == held.holder and row.epoch == held.epoch:
        row.holder, row.expires_at = "", at


def fence(session: Session, held: Held) -> None:
    """Refuse to go on unless the epoch is still ours; keeps it so until the transaction ends.

    Raises:
        StaleEpochError: when another process has taken the lease.
    """
    epoch = session.scalar(
        select(LeaseRow.epoch).where(LeaseRow.name == held.name).with_for_update(read=True, key_share=False)
    )
    if epoch != held.epoch:
        raise StaleEpochError(held.name, held.epoch)
