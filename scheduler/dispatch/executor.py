"""The executor's protocol, its tree of errors, and the client that speaks to the node agents.

Every command is idempotent by attempt id and carries the caller's fencing epoch, so that a retry
after a lost answer, or a scheduler that lost its lease, can do no harm.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, cast
from urllib.parse import quote

import httpx

from scheduler.dispatch.fields import Fields, WireError
from scheduler.dispatch.labels import NodeLabels
from scheduler.dispatch.limits import MAX_ATTEMPTS, MAX_LOG_PAGE_BYTES, MAX_WAIT_S
from scheduler.dispatch.wire import (
    AgentCode,
    AttemptStatus,
    EventPage,
    LaunchReceipt,
    Lease,
    LogPage,
    NodeProbe,
    Prepared,
    PrepareRequest,
    Signal,
)

CONNECT_TIMEOUT_S = 2.0
"""Time to reach an agent [s]: it is on the same machine or fabric."""
CALL_TIMEOUT_S = 10.0
"""Time for an ordinary answer [s]: a launch takes milliseconds; above this the agent is stuck."""
MAX_CONNECTIONS = 256
"""Connections of one client: one long poll and one command for each of a hundred nodes."""
MAX_KEEPALIVE_CONNECTIONS = 64
"""Idle connections kept: those of the long polls are never idle."""
DOWNLOAD_CHUNK_BYTES = 64 * 1024
"""Piece of a streamed output [bytes]."""


class ExecutorError(Exception):
    """A command to a node did not succeed.

    Attributes:
        node: the node it was for.
    """

    def __init__(self, node: str, message: str) -> None:
        super().__init__(f"node {node}: {message}")
        self.node = node


class UnreachableError(ExecutorError):
    """No usable answer came; the command may or may not have been carried out. Retry it as it is."""


class StaleEpochError(ExecutorError):
    """Another scheduler leads; the caller must stop commanding at once.

    Attributes:
        highest_epoch: the epoch the agent follows, None when it did not say.
    """

    def __init__(self, node: str, message: str, highest_epoch: int | None = None) -> None:
        super().__init__(node, message)
        self.highest_epoch = highest_epoch


class RefusedError(ExecutorError):
    """The agent understood and refused; the same command will be refused again.

    Attributes:
        code: stable code, see `AgentCode`.
    """

    def __init__(self, node: str, code: str, message: str) -> None:
        super().__init__(node, f"{code}: {message}")
        self.code = code


class BundleMissingError(RefusedError):
    """The lease names a bundle the node does not have: `put_bundle`, then launch again."""

    def __init__(self, node: str, message: str) -> None:
        super().__init__(node, AgentCode.BUNDLE_MISSING, message)


class Executor(Protocol):
    """Runs leases on nodes and tells what became of them.

    Each method raises `UnreachableError` when no answer came, `RefusedError` when the node refused;
    those with an epoch also raise `StaleEpochError`. A node not in `nodes` raises
    `RefusedError` with code ``NOT_FOUND``. All are safe to call from several threads.
    """

    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes, sorted."""
        ...

    def probe(self, node: str) -> NodeProbe:
        """What the node has and what runs there."""
        ...

    def put_bundle(self, node: str, sha256: str, data: bytes, epoch: int) -> None:
        """Bring a bundle (``tar.gz`` of at most `MAX_BUNDLE_BYTES`) to the node; again is fine."""
        ...

    def prepare(self, node: str, request: PrepareRequest, epoch: int) -> Prepared:
        """Hold GPUs and, if asked, a port for an attempt; again gives the same answer."""
        ...

    def launch(self, node: str, lease: Lease) -> LaunchReceipt:
        """Start the lease's ranks, once however often it is called.

        Raises:
            BundleMissingError: the node lacks the bundle.
        """
        ...

    def signal(self, node: str, attempt_id: str, signal: Signal, kill_after_s: int, epoch: int) -> None:
        """Tell the attempt's ranks to checkpoint or stop; one that has ended hears nothing.

        For `Signal.TERM`, what is left is killed after `kill_after_s` seconds. An attempt that
        was only prepared is released by TERM and KILL.
        """
        ...

    def observe(self, node: str, after: int, wait_s: float) -> EventPage:
        """Events numbered above `after`; waits up to `wait_s` (at most `MAX_WAIT_S`) for one."""
        ...

    def list_attempts(self, node: str) -> tuple[AttemptStatus, ...]:
        """Every attempt on the node's record, alive or ended, by name."""
        ...

    def attempt(self, node: str, attempt_id: str) -> AttemptStatus:
        """One attempt; unknown is `RefusedError` with code ``NOT_FOUND``."""
        ...

    def logs(self, node: str, attempt_id: str, rank: int, offset: int, limit: int) -> LogPage:
        """At most `limit` (≤ `MAX_LOG_PAGE_BYTES`) bytes of a rank's log from `offset` on."""
        ...

    def output(self, node: str, attempt_id: str, rank: int, path: str) -> Iterator[bytes]:
        """The bytes of a kept output, in pieces."""
        ...

    def remove(self, node: str, attempt_id: str, epoch: int) -> None:
        """Forget an ended attempt and its files; one already unknown is fine.

        Raises:
            RefusedError: it is alive (``ATTEMPT_ALIVE``).
        """
        ...

    def drain(self, node: str, *, is_draining: bool, epoch: int) -> None:
        """Refuse new launches on the node, or accept them again; running ranks are left alone."""
        ...


class AgentExecutor:
    """`Executor` over the HTTP agents of the nodes; thread safe, connections pooled."""

    def __init__(self, urls: Mapping[str, str], secret: str, labels: NodeLabels | None = None) -> None:
        """Connect lazily.

        Args:
            urls: base URL of the agent of each node, as ``http://127.0.0.2:41233``.
            secret: the agents' shared secret.
            labels: that the operator gives the nodes; they win over those that the agents state.
        """
        self._labels = NodeLabels() if labels is None else labels
        self._urls = {node: url.rstrip("/") for node, url in sorted(urls.items())}
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {secret}"},
            timeout=httpx.Timeout(CALL_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            limits=httpx.Limits(
                max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_KEEPALIVE_CONNECTIONS
            ),
            trust_env=False,  # a proxy of the environment must never see the secret
        )

    @classmethod
    def from_files(cls, agents_file: Path, secret_file: Path) -> AgentExecutor:
        """From the ``agents.json`` of the bootstrap and the file of the secret.

        Raises:
            OSError: a file cannot be read.
            WireError: ``agents.json`` is not an object of strings.
        """
        urls: object = json.loads(agents_file.read_text("utf-8"))
        if not isinstance(urls, dict) or not all(isinstance(u, str) for u in urls.values()):
            raise WireError(str(agents_file), "expected an object of node names and URLs")
        return cls(cast("dict[str, str]", urls), secret_file.read_text("utf-8").strip())

    def close(self) -> None:
        """Close the pooled connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def nodes(self) -> tuple[str, ...]:
        """See `Executor.nodes`."""
        return tuple(self._urls)

    def probe(self, node: str) -> NodeProbe:
        """See `Executor.probe`."""
        with _reading(node):
            probe = NodeProbe.from_json(self._json(node, "GET", "/v1/probe"))
        return replace(probe, labels={**probe.labels, **self._labels.of(node)})

    def put_bundle(self, node: str, sha256: str, data: bytes, epoch: int) -> None:
        """See `Executor.put_bundle`."""
        self._call(node, "PUT", f"/v1/bundles/{quote(sha256, safe='')}", epoch=epoch, content=data)

    def prepare(self, node: str, request: PrepareRequest, epoch: int) -> Prepared:
        """See `Executor.prepare`."""
        with _reading(node):
            return Prepared.from_json(self._json(node, "POST", "/v1/prepare", epoch, request.to_json()))

    def launch(self, node: str, lease: Lease) -> LaunchReceipt:
        """See `Executor.launch`."""
        with _reading(node):
            return LaunchReceipt.from_json(
                self._json(node, "POST", "/v1/launch", lease.epoch, lease.to_json())
            )

    def signal(self, node: str, attempt_id: str, signal: Signal, kill_after_s: int, epoch: int) -> None:
        """See `Executor.signal`."""
        body = {"signal": str(signal), "kill_after_s": kill_after_s}
        self._json(node, "POST", f"{_attempt(attempt_id)}/signal", epoch, body)

    def observe(self, node: str, after: int, wait_s: float) -> EventPage:
        """See `Executor.observe`."""
        wait_s = min(max(wait_s, 0.0), MAX_WAIT_S)
        response = self._call(
            node,
            "GET",
            f"/v1/events?after={after}&wait_s={wait_s}",
            timeout=httpx.Timeout(CALL_TIMEOUT_S + wait_s, connect=CONNECT_TIMEOUT_S),
        )
        with _reading(node):
            return EventPage.from_json(_decoded(node, response))

    def list_attempts(self, node: str) -> tuple[AttemptStatus, ...]:
        """See `Executor.list_attempts`."""
        with _reading(node):
            f = Fields(self._json(node, "GET", "/v1/attempts"))
            return tuple(AttemptStatus.from_json(v, p) for p, v in f.items("attempts", MAX_ATTEMPTS))

    def attempt(self, node: str, attempt_id: str) -> AttemptStatus:
        """See `Executor.attempt`."""
        with _reading(node):
            return AttemptStatus.from_json(self._json(node, "GET", _attempt(attempt_id)))

    def logs(self, node: str, attempt_id: str, rank: int, offset: int, limit: int) -> LogPage:
        """See `Executor.logs`."""
        limit = min(limit, MAX_LOG_PAGE_BYTES)
        query = f"rank={rank}&offset={offset}&limit={limit}"
        response = self._call(node, "GET", f"{_attempt(attempt_id)}/logs?{query}")
        try:
            next_offset = int(response.headers["X-Kezek-Next-Offset"])
            is_complete = response.headers["X-Kezek-Complete"] == "true"
        except (KeyError, ValueError) as error:
            raise UnreachableError(node, "its log answer lacks the offset headers") from error
        return LogPage(response.content, next_offset, is_complete)

    def output(self, node: str, attempt_id: str, rank: int, path: str) -> Iterator[bytes]:
        """See `Executor.output`."""
        url = self._url(node) + f"{_attempt(attempt_id)}/outputs/{rank}/{quote(path)}"
        with _translating(node), self._client.stream("GET", url) as response:
            if response.is_error:
                response.read()
                _refuse(node, response)
            yield from response.iter_bytes(DOWNLOAD_CHUNK_BYTES)

    def remove(self, node: str, attempt_id: str, epoch: int) -> None:
        """See `Executor.remove`."""
        self._call(node, "DELETE", _attempt(attempt_id), epoch=epoch)

    def drain(self, node: str, *, is_draining: bool, epoch: int) -> None:
        """See `Executor.drain`."""
        self._json(node, "POST", "/v1/drain", epoch, {"draining": is_draining})

    def _url(self, node: str) -> str:
        url = self._urls.get(node)
        if url is None:
            raise RefusedError(node, AgentCode.NOT_FOUND, "this executor knows no such node")
        return url

    def _json(
        self, node: str, method: str, path: str, epoch: int | None = None, body: object = None
    ) -> object:
        content = None if body is None else json.dumps(body).encode()
        return _decoded(node, self._call(node, method, path, epoch=epoch, content=content))

    def _call(
        self,
        node: str,
        method: str,
        path: str,
        *,
        epoch: int | None = None,
        content: bytes | None = None,
        timeout: httpx.Timeout | None = None,
    ) -> httpx.Response:
        headers = {} if epoch is None else {"X-Kezek-Epoch": str(epoch)}
        with _translating(node):
            response = self._client.request(
                method,
                self._url(node) + path,
                headers=headers,
                content=content,
                timeout=self._client.timeout if timeout is None else timeout,
            )
        if response.is_error:
            _refuse(node, response)
        return response


def _attempt(attempt_id: str) -> str:
    return f"/v1/attempts/{quote(attempt_id, safe='')}"


def _decoded(node: str, response: httpx.Response) -> object:
    try:
        return cast("object", response.json())
    except ValueError as error:
        raise UnreachableError(node, "its answer is not JSON") from error


@contextmanager
def _translating(node: str) -> Iterator[None]:
    try:
        yield
    except (httpx.HTTPError, httpx.StreamError) as error:
        reason = f"its agent did not answer ({type(error).__name__}: {error}); retry, then check the node"
        raise UnreachableError(node, reason) from error


@contextmanager
def _reading(node: str) -> Iterator[None]:
    try:
        yield
    except WireError as error:
        raise UnreachableError(node, f"its answer has an unknown shape: {error}") from error


def _refuse(node: str, response: httpx.Response) -> None:
    """Raise what the agent's problem document says.

    Raises:
        StaleEpochError: another scheduler leads.
        BundleMissingError: the bundle must be brought first.
        RefusedError: any other refusal.
        UnreachableError: the agent itself failed, so that a retry may help.
    """
    try:
        problem = response.json()
    except ValueError:
        problem = {}
    fields = problem if isinstance(problem, dict) else {}
    code = str(fields.get("code", f"HTTP_{response.status_code}"))
    detail = str(fields.get("detail", "no detail"))
    if code == AgentCode.STALE_EPOCH:
        highest = fields.get("highest_epoch")
        raise StaleEpochError(node, detail, highest if isinstance(highest, int) else None)
    if code == AgentCode.BUNDLE_MISSING:
        raise BundleMissingError(node, detail)
    if response.is_server_error:
        raise UnreachableError(node, f"its agent failed with {response.status_code} {code}: {detail}")
    raise RefusedError(node, code, detail)
