"""A page of metrics: ``/``, ``/metrics``, ``/-/healthy``, of the node exporter and of processes with no other page.

On a loopback address everybody may read. On any other one ``/metrics`` asks for a bearer token. The server speaks no
TLS: where the network between the nodes is not trusted, a mesh or a proxy in the same network namespace encrypts.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import socket
import socketserver
import threading
from abc import ABC, abstractmethod
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

#: Connections served at once: a few scrapers and a person; more are turned away with 503.
MAX_CONNECTIONS: Final = 40
#: Seconds a client may take to send its request: a silent connection must not hold a slot.
REQUEST_TIMEOUT_S: Final = 5.0

_BUSY: Final = b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
_PLAIN: Final = "text/plain; charset=utf-8"
_PAGE: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<h1>{title}</h1>
<p>{about}</p>
<p><a href="/metrics">Metrics</a> · <a href="/-/healthy">Health of this process</a></p>
</html>
"""

_log = logging.getLogger(__name__)


class ScrapeBusyError(Exception):
    """The metrics cannot be had right now; the next scrape may succeed."""


def listen_address(listen: str, token: str | None, setting: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``; any but a loopback address only with a token.

    Args:
        listen: An IPv4 address and a port, 0 for a free one.
        token: What the page asks for, None for nothing.
        setting: Name of the token's setting, for the refusal.

    Raises:
        ValueError: Anything else.
    """
    host, _, port = listen.rpartition(":")
    try:
        is_loopback = ipaddress.IPv4Address(host).is_loopback
        number = int(port)
    except ValueError as error:
        raise ValueError(
            f"cannot listen on {listen!r}: give an IPv4 address and a port, 127.0.0.1:0 say"
        ) from error
    if not is_loopback and token is None:
        raise ValueError(
            f"cannot listen on {listen!r}: without a token only loopback addresses are served; set {setting}"
        )
    if not 0 <= number <= 65535:  # noqa: PLR2004 (the range of ports)
        raise ValueError(f"cannot listen on {listen!r}: a port is 0 to 65535")
    return host, number


class MetricsServer(ThreadingHTTPServer, ABC):
    """Serves one page of metrics; a subclass says which.

    Args:
        address: Host and port, port 0 for a free one; ``server_port`` tells which.
        title: What the landing page is called.
        about: What it says.
        token: What ``/metrics`` asks for, None for nothing.
    """

    daemon_threads = True
    request_queue_size = MAX_CONNECTIONS  # the base class's 5 makes a burst of clients wait for a retransmit

    def __init__(self, address: tuple[str, int], *, title: str, about: str, token: str | None = None) -> None:
        self.landing = _PAGE.format(title=title, about=about).encode()
        self._expected = None if token is None else f"Bearer {token}".encode()
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(address, _Handler)

    @abstractmethod
    def metrics(self, scrape_timeout: str | None) -> bytes:
        """The metrics in Prometheus' text format.

        Args:
            scrape_timeout: The scraper's ``X-Prometheus-Scrape-Timeout-Seconds`` header.

        Raises:
            ScrapeBusyError: They cannot be had in that time.
        """

    def may_read(self, authorization: str) -> bool:
        """Whether a request with this ``Authorization`` header may read the metrics."""
        return self._expected is None or hmac.compare_digest(authorization.encode(), self._expected)

    def server_bind(self) -> None:
        """Bind without the base class's reverse look-up of the host's name, which may ask the network."""
        socketserver.TCPServer.server_bind(self)
        self.server_name = str(self.server_address[0])
        self.server_port = int(self.server_address[1])

    def process_request(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        """Serve a connection in a thread of its own, or turn it away when all slots are taken."""
        if not isinstance(request, socket.socket):
            raise TypeError("a TCP server accepts sockets")
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        try:
            request.settimeout(REQUEST_TIMEOUT_S)
            request.sendall(_BUSY)
        except OSError:
            _log.debug("a connection that was to be turned away went first")
        self.shutdown_request(request)

    def process_request_thread(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        """Serve one connection and free its slot."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()


class RegistryServer(MetricsServer):
    """Serves what a process measures of itself, in a thread beside it.

    Args:
        address: Host and port, port 0 for a free one.
        registry: What is served.
        token: What ``/metrics`` asks for, None for nothing.
    """

    def __init__(self, address: tuple[str, int], registry: CollectorRegistry, token: str | None) -> None:
        super().__init__(address, title="Kezek", about="What this process measures of itself.", token=token)
        self._registry = registry
        self._thread = threading.Thread(target=self.serve_forever, args=(0.1,), name="metrics", daemon=True)

    def metrics(self, scrape_timeout: str | None) -> bytes:  # noqa: ARG002 (answered from memory)
        """The registry's metrics."""
        return generate_latest(self._registry)

    def start(self) -> None:
        """Serve from now on."""
        self._thread.start()

    def stop(self) -> None:
        """End the page."""
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_TIMEOUT_S
    server_version = "kezek"
    sys_version = ""

    server: MetricsServer

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics" and not self.server.may_read(self.headers.get("Authorization", "")):
            self._answer(HTTPStatus.UNAUTHORIZED, _PLAIN, b"the token is missing or wrong\n")
        elif path == "/metrics":
            self._metrics()
        elif path == "/-/healthy":
            self._answer(HTTPStatus.OK, _PLAIN, b"ok\n")
        elif path == "/":
            self._answer(HTTPStatus.OK, "text/html; charset=utf-8", self.server.landing)
        else:
            self._answer(HTTPStatus.NOT_FOUND, _PLAIN, b"not here; try /metrics\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
        _log.debug(format, *args)

    def _metrics(self) -> None:
        try:
            body = self.server.metrics(self.headers.get("X-Prometheus-Scrape-Timeout-Seconds"))
        except ScrapeBusyError as error:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, _PLAIN, f"{error}\n".encode())
        except Exception:  # noqa: BLE001 (the edge of a request)
            _log.exception("a scrape failed")
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, _PLAIN, b"the scrape failed; see the log\n")
        else:
            self._answer(HTTPStatus.OK, CONTENT_TYPE_PLAIN_0_0_4, body)

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            if status is HTTPStatus.UNAUTHORIZED:
                self.send_header("WWW-Authenticate", "Bearer")
            self.end_headers()
            self.wfile.write(body)
        except ConnectionError:
            _log.debug("a client left before its answer")
