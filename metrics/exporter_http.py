"""The exporter's HTTP server: ``/``, ``/metrics``, ``/-/healthy``.

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
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from metrics.exporter import CollectionBusyError, Exporter, GpuCollector, collection_limit_s

#: Connections served at once: a few scrapers and a person; more are turned away with 503.
MAX_CONNECTIONS: Final = 40
#: Seconds a client may take to send its request: a silent connection must not hold a slot.
REQUEST_TIMEOUT_S: Final = 5.0

_BUSY: Final = b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
_PLAIN: Final = "text/plain; charset=utf-8"
_PAGE: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Kezek node exporter</title>
<h1>Kezek node exporter</h1>
<p>{source}</p>
<p><a href="/metrics">Metrics</a> · <a href="/-/healthy">Health of this process</a></p>
</html>
"""

_log = logging.getLogger(__name__)


def loopback_address(listen: str, *, is_any_allowed: bool = False) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``.

    Args:
        listen: An IPv4 loopback address and a port, 0 for a free one.
        is_any_allowed: Any IPv4 address will do: a token is asked for.

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
    if not is_loopback and not is_any_allowed:
        raise ValueError(
            f"cannot listen on {listen!r}: without a token only loopback addresses are served; set "
            "KEZEK_EXPORTER_TOKEN_FILE"
        )
    if not 0 <= number <= 65535:  # noqa: PLR2004 (the range of ports)
        raise ValueError(f"cannot listen on {listen!r}: a port is 0 to 65535")
    return host, number


class ExporterServer(ThreadingHTTPServer):
    """Serves one exporter.

    Args:
        address: Host and port, port 0 for a free one; ``server_port`` tells which.
        exporter: What collects.
        is_simulated: The landing page says so.
        token: What ``/metrics`` asks for, None for nothing.
    """

    daemon_threads = True
    request_queue_size = MAX_CONNECTIONS  # the base class's 5 makes a burst of clients wait for a retransmit

    def __init__(
        self, address: tuple[str, int], exporter: Exporter, *, is_simulated: bool, token: str | None = None
    ) -> None:
        self.exporter = exporter
        self._expected = None if token is None else f"Bearer {token}".encode()
        self.is_simulated = is_simulated
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(address, _Handler)

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


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_TIMEOUT_S
    server_version = "kezek-exporter"
    sys_version = ""

    server: ExporterServer

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics" and not self.server.may_read(self.headers.get("Authorization", "")):
            self._answer(HTTPStatus.UNAUTHORIZED, _PLAIN, b"the token is missing or wrong\n")
        elif path == "/metrics":
            self._metrics()
        elif path == "/-/healthy":
            self._answer(HTTPStatus.OK, _PLAIN, b"ok\n")
        elif path == "/":
            source = "Source: simulated GPUs." if self.server.is_simulated else "Source: NVML."
            self._answer(HTTPStatus.OK, "text/html; charset=utf-8", _PAGE.format(source=source).encode())
        else:
            self._answer(HTTPStatus.NOT_FOUND, _PLAIN, b"not here; try /metrics\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
        _log.debug(format, *args)

    def _metrics(self) -> None:
        limit_s = collection_limit_s(self.headers.get("X-Prometheus-Scrape-Timeout-Seconds"))
        try:
            body = generate_latest(GpuCollector(self.server.exporter, limit_s))
        except CollectionBusyError as error:
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
