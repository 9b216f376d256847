"""The agent's HTTP server: authentication, fencing, and the routes."""

from __future__ import annotations

import hmac
import json
import logging
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast
from urllib.parse import parse_qs, unquote, urlsplit

from scheduler.agent.agent import NodeAgent
from scheduler.agent.refusal import RefusalError
from scheduler.dispatch.fields import Fields, WireError
from scheduler.dispatch.limits import (
    ATTEMPT_ID,
    MAX_BUNDLE_BYTES,
    MAX_INT,
    MAX_KILL_WAIT_S,
    MAX_LOG_PAGE_BYTES,
    MAX_WAIT_S,
    MAX_WORLD_SIZE,
    SHA256_HEX,
)
from scheduler.dispatch.wire import AgentCode, Lease, PrepareRequest, Signal

MAX_JSON_BYTES = 4 * 1024 * 1024
"""Largest JSON body [bytes]: a lease with every list at its limit in ordinary use."""
MAX_CONNECTIONS = 128
"""Connections served at a time, each a thread: a few schedulers' pools, and no more."""
IDLE_TIMEOUT_S = 75.0
"""Silence after which a connection is closed [s]: above the longest poll."""
CHUNK_BYTES = 256 * 1024
"""Piece of a streamed output [bytes]."""

_logger = logging.getLogger(__name__)


class AgentServer(ThreadingHTTPServer):
    """Serves one `NodeAgent` on its node's address."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    allow_reuse_address = True

    def __init__(self, agent: NodeAgent, address: str, secret: str, port: int = 0) -> None:
        """Bind to the port given, else where the agent was bound before, else to a free one, which is kept.

        Raises:
            OSError: the address or the former port cannot be bound.
            ValueError: the secret is empty.
        """
        if not secret:
            raise ValueError("the agents' secret is empty; write one into its file")
        self.agent = agent
        self.secret = f"Bearer {secret}".encode()
        self._room = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__((address, port or agent.port), _Handler)
        self.url = f"http://{address}:{self.server_address[1]}"
        if agent.port == 0 and port == 0:
            agent.keep_port(self.server_address[1])

    def server_bind(self) -> None:
        """Bind without asking DNS for the host's name."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request_thread(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        """Serve one connection if there is room for it."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - the base's signature
        """A client that goes away is no error of ours; anything else is logged."""
        _logger.debug("a connection broke", exc_info=True)  # noqa: LOG014 - called inside one


@dataclass(frozen=True, slots=True)
class _Request:
    agent: NodeAgent
    parts: tuple[str, ...]
    query: dict[str, str]
    body: bytes

    def json(self) -> object:
        try:
            return cast("object", json.loads(self.body))
        except ValueError as error:
            raise WireError("(body)", f"not JSON: {error}") from error

    def number(self, name: str, default: int, high: int) -> int:
        text = self.query.get(name)
        if text is None:
            return default
        if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) > high:
            raise WireError(name, f"expected 0..{high}")
        return int(text)

    def attempt_id(self) -> str:
        if not ATTEMPT_ID.fullmatch(self.parts[0]):
            raise WireError("attempt_id", f"does not match {ATTEMPT_ID.pattern}")
        return self.parts[0]


@dataclass(frozen=True, slots=True)
class _Answer:
    body: bytes
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)
    status: int = HTTPStatus.OK
    file: str | None = None


def _json(value: object) -> _Answer:
    return _Answer(json.dumps(value).encode())


def _probe(r: _Request) -> _Answer:
    return _json(r.agent.probe().to_json())


def _put_bundle(r: _Request) -> _Answer:
    if not SHA256_HEX.fullmatch(r.parts[0]):
        raise WireError("sha256", "expected 64 hexadecimal digits")
    r.agent.put_bundle(r.parts[0], r.body)
    return _json({"sha256": r.parts[0]})


def _prepare(r: _Request) -> _Answer:
    return _json(r.agent.prepare(PrepareRequest.from_json(r.json())).to_json())


def _launch(r: _Request) -> _Answer:
    return _json(r.agent.launch(Lease.from_json(r.json())).to_json())


def _drain(r: _Request) -> _Answer:
    f = Fields(r.json())
    is_draining = f.flag("draining")
    f.done()
    r.agent.drain(is_draining=is_draining)
    return _json({"draining": is_draining})


def _signal(r: _Request) -> _Answer:
    f = Fields(r.json())
    name = f.text("signal")
    kill_after_s = f.integer("kill_after_s", 0, MAX_KILL_WAIT_S)
    f.done()
    if name not in {str(s) for s in Signal}:
        raise WireError("signal", f"unknown signal {name[:40]!r}")
    r.agent.signal(r.attempt_id(), Signal(name), kill_after_s)
    return _json({})


def _events(r: _Request) -> _Answer:
    try:
        wait_s = float(r.query.get("wait_s", "0"))
    except ValueError as error:
        raise WireError("wait_s", "expected a number") from error
    if not 0 <= wait_s <= MAX_WAIT_S:
        raise WireError("wait_s", f"expected 0..{MAX_WAIT_S}")
    return _json(r.agent.events(r.number("after", 0, MAX_INT), wait_s).to_json())


def _attempts(r: _Request) -> _Answer:
    return _json({"attempts": [a.to_json() for a in r.agent.attempts()]})


def _attempt(r: _Request) -> _Answer:
    return _json(r.agent.attempt(r.attempt_id()).to_json())


def _remove(r: _Request) -> _Answer:
    r.agent.remove(r.attempt_id())
    return _json({})


def _logs(r: _Request) -> _Answer:
    page = r.agent.logs(
        r.attempt_id(),
        r.number("rank", 0, MAX_WORLD_SIZE),
        r.number("offset", 0, 2**53),
        r.number("limit", MAX_LOG_PAGE_BYTES, MAX_LOG_PAGE_BYTES),
    )
    headers = (
        ("Content-Type", "application/octet-stream"),
        ("X-Kezek-Next-Offset", str(page.next_offset)),
        ("X-Kezek-Complete", "true" if page.is_complete else "false"),
    )
    return _Answer(page.data, headers)


def _output(r: _Request) -> _Answer:
    rank = int(r.parts[1])
    path = r.agent.output(r.attempt_id(), rank, r.parts[2])
    return _Answer(b"", (("Content-Type", "application/octet-stream"),), file=str(path))


_Route = Callable[[_Request], _Answer]
_ID = r"([^/]+)"
_ROUTES: tuple[tuple[str, re.Pattern[str], bool, _Route], ...] = tuple(
    (method, re.compile(pattern), is_command, route)
    for method, pattern, is_command, route in (
        ("GET", r"/v1/probe", False, _probe),
        ("PUT", rf"/v1/bundles/{_ID}", True, _put_bundle),
        ("POST", r"/v1/prepare", True, _prepare),
        ("POST", r"/v1/launch", True, _launch),
        ("POST", r"/v1/drain", True, _drain),
        ("POST", rf"/v1/attempts/{_ID}/signal", True, _signal),
        ("GET", r"/v1/events", False, _events),
        ("GET", r"/v1/attempts", False, _attempts),
        ("GET", rf"/v1/attempts/{_ID}", False, _attempt),
        ("DELETE", rf"/v1/attempts/{_ID}", True, _remove),
        ("GET", rf"/v1/attempts/{_ID}/logs", False, _logs),
        ("GET", rf"/v1/attempts/{_ID}/outputs/([0-9]{{1,6}})/(.+)", False, _output),
    )
)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version = "kezek-agent"
    sys_version = ""
    timeout = IDLE_TIMEOUT_S
    wbufsize = 64 * 1024  # head and body leave in one segment, so that no delayed ACK is waited for
    disable_nagle_algorithm = True
    server: AgentServer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's signature
        """Requests go to the debug log, never to standard error."""
        _logger.debug(format, *args)

    def _serve(self) -> None:
        try:
            self._send(self._answer())
        except RefusalError as error:
            self._problem(error)
        except WireError as error:
            self._problem(RefusalError(AgentCode.BAD_REQUEST, f"the request is refused: {error}"))
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception as error:  # the edge of a request: the agent must answer and live on
            _logger.exception("%s %s failed", self.command, self.path)
            self._problem(
                RefusalError(AgentCode.INTERNAL, f"the agent failed ({type(error).__name__}); see its log")
            )

    do_GET = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815 - the names http.server asks for

    def _answer(self) -> _Answer:
        if not hmac.compare_digest(self.headers.get("Authorization", "").encode(), self.server.secret):
            self.close_connection = True  # its body is not read
            raise RefusalError(AgentCode.UNAUTHORIZED, "the agents' secret is missing or wrong")
        split = urlsplit(self.path)
        route, is_command, parts = self._route(split.path)
        body = self._body(MAX_BUNDLE_BYTES if route is _put_bundle else MAX_JSON_BYTES)
        if is_command:
            self.server.agent.follow(self._epoch())
        query = {name: values[-1] for name, values in parse_qs(split.query).items()}
        return route(_Request(self.server.agent, parts, query, body))

    def _route(self, path: str) -> tuple[_Route, bool, tuple[str, ...]]:
        for method, pattern, is_command, route in _ROUTES:
            match = pattern.fullmatch(path)
            if match and method == self.command:
                return route, is_command, tuple(unquote(part) for part in match.groups())
        self.close_connection = True
        raise RefusalError(AgentCode.NOT_FOUND, f"there is no {self.command} {path[:200]}")

    def _body(self, limit_bytes: int) -> bytes:
        text = self.headers.get("Content-Length", "0")
        if not re.fullmatch(r"[0-9]{1,15}", text) or "Transfer-Encoding" in self.headers:
            self.close_connection = True
            raise WireError("Content-Length", "expected the body's length")
        if int(text) > limit_bytes:
            self.close_connection = True
            raise RefusalError(
                AgentCode.BODY_TOO_LARGE, f"the body has {text} bytes, at most {limit_bytes} are taken"
            )
        return self.rfile.read(int(text))

    def _epoch(self) -> int:
        text = self.headers.get("X-Kezek-Epoch", "")
        if not re.fullmatch(r"[0-9]{1,18}", text):
            raise WireError("X-Kezek-Epoch", "a command carries the scheduler's epoch, a whole number")
        return int(text)

    def _send(self, answer: _Answer) -> None:
        if answer.file is not None:
            self._send_file(answer, answer.file)
            return
        self._head(answer.status, answer.headers, len(answer.body))
        self.wfile.write(answer.body)
        self.wfile.flush()

    def _send_file(self, answer: _Answer, path: str) -> None:
        with open(path, "rb") as file:  # noqa: PTH123 - the name was checked against the kept outputs
            size = file.seek(0, 2)
            file.seek(0)
            self._head(answer.status, answer.headers, size)
            while chunk := file.read(CHUNK_BYTES):
                self.wfile.write(chunk)
            self.wfile.flush()

    def _head(self, status: int, headers: tuple[tuple[str, str], ...], length: int) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def _problem(self, error: RefusalError) -> None:
        document = {
            "type": "about:blank",
            "title": HTTPStatus(error.status).phrase,
            "status": error.status,
            "code": str(error.code),
            "detail": error.detail,
            **error.extra,
        }
        headers = (("Content-Type", "application/problem+json"),)
        try:
            self._send(_Answer(json.dumps(document).encode(), headers, error.status))
        except OSError:
            self.close_connection = True
