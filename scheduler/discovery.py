"""Where the node agents are, when no file says so: addresses are looked up and each is asked which node it is."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from urllib.parse import urlsplit

from scheduler.dispatch.executor import AgentExecutor, ExecutorError

DNS_SCHEME: Final = "dns+http"
"""`dns+http://name:port` stands for `http://address:port` of every IPv4 address of the name."""

MAX_ADDRESSES: Final = 2500
"""Addresses looked at: twice the machine that is planned for."""

LOOK_EVERY_S: Final = 5.0
"""Pause between two looks [s]: well within the silence after which a node counts as down."""

PROBES: Final = 16
"""Agents asked side by side."""

_logger = logging.getLogger(__name__)


def expand(setting: str) -> list[str]:
    """Return the base addresses that a setting names, without an end slash, in order and once each.

    Args:
        setting: addresses by commas; names under `dns+http` are looked up, and stand for nothing while the name
            service does not answer.
    """
    found: dict[str, None] = {}
    for given in filter(None, (part.strip().rstrip("/") for part in setting.split(","))):
        if not given.startswith(f"{DNS_SCHEME}://"):
            found[given] = None
            continue
        parts = urlsplit(given)
        try:
            answers = socket.getaddrinfo(parts.hostname, parts.port, socket.AF_INET, socket.SOCK_STREAM)
        except OSError as error:
            _logger.warning("%s: the name cannot be looked up now: %s", given, error)
            continue
        for address in sorted({str(answer[4][0]) for answer in answers}):
            found[f"http://{address}:{parts.port}"] = None
    return list(found)[:MAX_ADDRESSES]


def check_addresses(setting: str) -> None:
    """Refuse a setting whose addresses cannot be meant.

    Raises:
        ValueError: an address that is not http, https or dns+http with a host, and for the last a port.
    """
    for given in filter(None, (part.strip() for part in setting.split(","))):
        parts = urlsplit(given)
        is_dns = parts.scheme == DNS_SCHEME
        if (
            parts.scheme not in {"http", "https", DNS_SCHEME}
            or not parts.hostname
            or (is_dns and not parts.port)
        ):
            raise ValueError(f"{given!r} is no address; give http://host:port or {DNS_SCHEME}://name:port")


class Discovery:
    """The agents' addresses by node; `scheduler.nodes.AgentsFile` is the same for one machine.

    A node keeps its address while the setting still names it, or names nothing at all: a name service or an agent that
    is away for a moment moves nothing.

    Args:
        setting: see `expand`.
        secret: what the agents ask for.
        clock_s: monotonic seconds.
    """

    def __init__(self, setting: str, secret: str, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._setting = setting
        self._secret = secret
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._next_s = 0.0
        self._nodes: dict[str, str] = {}

    def __call__(self) -> Mapping[str, str]:
        """Return what is known, never waiting; a look is begun when one is due. The first call waits for it."""
        with self._lock:
            is_due = self._clock_s() >= self._next_s
            is_first = self._next_s == 0.0
            if is_due:
                self._next_s = self._clock_s() + LOOK_EVERY_S
        if is_first:
            self.look()
        elif is_due:
            threading.Thread(target=self.look, name="discovery", daemon=True).start()
        with self._lock:
            return {node: url for url, node in self._nodes.items()}

    def look(self) -> None:
        """Look the addresses up and ask those that are new."""
        urls = expand(self._setting)
        with self._lock:
            known = dict(self._nodes)
        fresh = [url for url in urls if url not in known]
        gone = {url for url in known if urls and url not in urls}
        answers = self._ask(fresh)
        with self._lock:
            replaced = set(answers.values())
            kept = {
                url: node for url, node in self._nodes.items() if url not in gone and node not in replaced
            }
            self._nodes = {**kept, **answers}

    def _ask(self, urls: Sequence[str]) -> dict[str, str]:
        """The node of each address that answers."""
        if not urls:
            return {}
        with (
            AgentExecutor({url: url for url in urls}, self._secret) as asked,
            ThreadPoolExecutor(PROBES, "discovery") as pool,
        ):

            def name(url: str) -> str | None:
                try:
                    return asked.probe(url).node
                except ExecutorError as error:
                    _logger.info("no agent at %s yet: %s", url, error)
                    return None

            found = dict(zip(urls, pool.map(name, urls), strict=True))
        return {url: node for url, node in found.items() if node is not None}
