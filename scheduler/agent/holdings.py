"""Who holds which GPU and port of the node: living attempts, and those prepared for a launch."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scheduler.agent.attempts import Attempt
from scheduler.agent.ports import free_port
from scheduler.agent.refusal import RefusalError
from scheduler.dispatch.wire import AgentCode, PrepareRequest

RESERVATION_S = 60.0
"""Time a prepared attempt keeps its GPUs and port without a launch [s]: a gang's launch takes < 1 s."""
MAX_RESERVATIONS = 1_024
"""Prepared attempts at a time: above the GPUs of a node, below what a mistake could pile up."""


@dataclass(frozen=True, slots=True)
class _Reservation:
    gpu_uuids: tuple[str, ...]
    port: int | None
    expires_at_s: float


class Holdings:
    """The node's GPUs and meeting ports. Called with the agent's lock held."""

    def __init__(
        self, node: str, address: str, gpu_uuids: Iterable[str], attempts: Mapping[str, Attempt]
    ) -> None:
        """Watch over `gpu_uuids`; `attempts` is the agent's own, living mapping."""
        self._node = node
        self._address = address
        self._known = frozenset(gpu_uuids)
        self._attempts = attempts
        self._reservations: dict[str, _Reservation] = {}

    def reserve(self, request: PrepareRequest) -> int | None:
        """Hold what is asked for; again renews it with the same port.

        Returns:
            The port, None when none was asked for.

        Raises:
            RefusalError: a GPU is unknown or busy, no port, or too much is prepared.
        """
        self.check(request.attempt_id, request.gpu_uuids)
        known = self._reservations.get(request.attempt_id)
        if known is None and len(self._reservations) >= MAX_RESERVATIONS:
            raise RefusalError(
                AgentCode.GPU_BUSY, f"{MAX_RESERVATIONS} attempts are prepared; launch or drop some"
            )
        port = known.port if known else None
        if request.wants_endpoint and port is None:
            port = free_port(self._address, self._ports())
        until = time.monotonic() + RESERVATION_S
        self._reservations[request.attempt_id] = _Reservation(request.gpu_uuids, port, until)
        return port if request.wants_endpoint else None

    def release(self, attempt_id: str) -> bool:
        """Drop a reservation; False if there was none."""
        return self._reservations.pop(attempt_id, None) is not None

    def check(self, attempt_id: str, gpu_uuids: tuple[str, ...]) -> None:
        """Make sure that these GPUs are the node's own and nobody else holds them.

        Raises:
            RefusalError: they are not, or somebody does.
        """
        unknown = sorted(set(gpu_uuids) - self._known)
        if unknown:
            raise RefusalError(AgentCode.GPU_UNKNOWN, f"GPU {unknown[0]} is not of node {self._node}")
        now = time.monotonic()
        self._reservations = {k: r for k, r in self._reservations.items() if r.expires_at_s > now}
        held = {uuid: k for k, r in self._reservations.items() for uuid in r.gpu_uuids}
        held |= {uuid: k for k, a in self._attempts.items() if a.is_alive for uuid in a.gpu_uuids}
        for uuid in gpu_uuids:
            if held.get(uuid, attempt_id) != attempt_id:
                raise RefusalError(AgentCode.GPU_BUSY, f"GPU {uuid} is held by attempt {held[uuid]}")

    def _ports(self) -> set[int]:
        ports = {a.lease.master_port for a in self._attempts.values() if a.is_alive}
        return ports | {r.port for r in self._reservations.values() if r.port is not None}
