"""Ports for the meeting point of a gang's ranks."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Container

from scheduler.agent.refusal import RefusalError
from scheduler.dispatch.wire import AgentCode

FIRST_PORT, LAST_PORT = 20_000, 31_999
"""Below the kernel's range for outgoing connections (32,768), so that none of those takes it."""
MAX_TRIES = 200
"""Ports tried before giving up: with half of the range taken the odds to fail are 2 to the -200."""


def free_port(address: str, taken: Container[int]) -> int:
    """A port on `address` on which nobody listens and which is promised to nobody.

    Raises:
        RefusalError: none was found.
    """
    for _ in range(MAX_TRIES):
        port = FIRST_PORT + secrets.randbelow(LAST_PORT - FIRST_PORT + 1)
        if port in taken:
            continue
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((address, port))
            except OSError:
                continue
        return port
    raise RefusalError(AgentCode.NO_PORT, f"no free port on {address} after {MAX_TRIES} tries; retry")
