"""What production mode refuses to start with; each fault is said by the name of the setting that mends it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Final

from scheduler.discovery import check_addresses
from store.settings import Settings

MIN_SECRET_CHARS: Final = 32
"""Fewest characters of a secret: 128 random bits in hexadecimal digits."""

NEEDS: Final = {
    "api": ("database_url", "agent_secret", "agents"),
    "scheduler": ("database_url", "agent_secret", "agents"),
    "agents": ("agent_secret", "ray_token", "ray_address"),
    "policy": (),  # `policy check` reads a file only; `policy enact` says by itself that there is no database
}
"""Settings without which a process of a cluster cannot do its work; every other command needs the database only."""

ONE_MACHINE: Final = frozenset({"up"})
"""Commands that run a whole platform on one machine."""


class ProductionError(RuntimeError):
    """Production mode refuses to start."""

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__("KEZEK_MODE is production, which refuses to start: " + "; ".join(faults))
        self.faults = faults


def check(process: str, settings: Settings) -> None:
    """Refuse what a cluster must not run with; in development mode only what can never be meant.

    Raises:
        ProductionError: naming every fault.
        ValueError: an address that is none.
    """
    for name in ("agents", "exporters"):
        try:
            check_addresses(getattr(settings, name))
        except ValueError as error:
            raise ValueError(f"KEZEK_{name.upper()}: {error}") from error
    if settings.is_production:
        found = tuple(faults(process, settings))
        if found:
            raise ProductionError(found)


def faults(process: str, settings: Settings) -> Iterator[str]:
    """Yield what is wrong, each with the setting to set."""
    if process in ONE_MACHINE:
        yield f"`{process}` is for one machine; start `api`, `scheduler` and `agents` by themselves"
        return
    for name in NEEDS.get(process, ("database_url",)):
        if not getattr(settings, name):
            yield f"KEZEK_{name.upper()} is missing"
    if process == "api":
        yield from _listener(settings)
    if process == "scheduler" and settings.exporters and not settings.exporter_token:
        yield "KEZEK_EXPORTER_TOKEN is missing, and the exporters ask for it"
    if process == "scheduler" and _is_open(settings.scheduler_metrics) and not settings.metrics_token:
        yield (
            f"KEZEK_METRICS_TOKEN is missing, and others reach the scheduler's metrics at {settings.scheduler_metrics}"
        )
    for name in ("agent_secret", "ray_token", "metrics_token", "exporter_token"):
        secret = getattr(settings, name)
        if secret and len(secret) < MIN_SECRET_CHARS:
            yield f"KEZEK_{name.upper()} has fewer than {MIN_SECRET_CHARS} characters"


def _listener(settings: Settings) -> Iterator[str]:
    if settings.listen_port == 0:
        yield "KEZEK_LISTEN_PORT is missing"
    if not _is_loopback(settings.listen_host) and not settings.metrics_token:
        yield (
            f"KEZEK_METRICS_TOKEN is missing, and others reach the API at {settings.listen_host}: its /metrics would "
            "be open"
        )


def _is_open(listen: str) -> bool:
    return bool(listen) and not _is_loopback(listen.rpartition(":")[0])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
