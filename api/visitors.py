"""Visitors without a token: how many requests each client address may make, and answers kept for all of them."""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Lock
from typing import Generic, TypeVar

from api.limits import MAX_PUBLIC_ADDRESSES, MAX_PUBLIC_PER_MINUTE

WINDOW_S = 60
"""Length of a window in which requests are counted [s]."""
_IPV6_NETWORK_BITS = 64

V = TypeVar("V")


@dataclass(slots=True)
class RateLimit:
    """Requests per client address in windows of a minute. Of each address only a count is held, and only so long.

    Args:
        most: requests of one address in a window.
        addresses: addresses counted at a time.
    """

    most: int = MAX_PUBLIC_PER_MINUTE
    addresses: int = MAX_PUBLIC_ADDRESSES
    _counts: OrderedDict[str, tuple[datetime, int]] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    def admit(self, address: str, at: datetime) -> int | None:
        """Count a request; None when it may be served, else the seconds after which one will be."""
        key = network_of(address)
        with self._lock:
            began_at, count = self._counts.pop(key, (at, 0))
            if at - began_at >= timedelta(seconds=WINDOW_S):
                began_at, count = at, 0
            self._counts[key] = (began_at, min(count + 1, self.most + 1))
            if len(self._counts) > self.addresses:
                self._counts.popitem(last=False)
        if count < self.most:
            return None
        return max(1, math.ceil(WINDOW_S - (at - began_at).total_seconds()))


@dataclass(slots=True)
class Kept(Generic[V]):
    """A value that is computed at most once in a while; those who ask meanwhile wait for it.

    Args:
        life_s: how long it is told as it was computed [s].
    """

    life_s: int
    _found: tuple[datetime, V] | None = None
    _lock: Lock = field(default_factory=Lock)

    def get(self, at: datetime, compute: Callable[[], V]) -> V:
        """The value, computed anew when it is older than its life."""
        with self._lock:
            if self._found is None or not timedelta() <= at - self._found[0] < timedelta(seconds=self.life_s):
                self._found = (at, compute())
            return self._found[1]


def network_of(address: str) -> str:
    """What is counted as one client: an IPv4 address, or the /64 network that one IPv6 customer has.

    Source: RFC 6177 (a site gets at least a /64). What is no address is counted together.
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return "-"
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((found, _IPV6_NETWORK_BITS), strict=False))
    return str(found)
