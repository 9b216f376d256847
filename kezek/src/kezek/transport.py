"""The only module that speaks HTTP: one call, its retries, and its errors turned into the client's own tree."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, NoReturn, Self, TypeVar

import httpx

from kezek import retry
from kezek.errors import ApiError, FieldError, NetworkError, ProtocolError
from kezek.fields import Fields
from kezek.settings import is_loopback

CONNECT_TIMEOUT_S = 5.0
"""Time to reach the platform [s]."""
READ_TIMEOUT_S = 40.0
"""Silence after which an answer is given up [s]: twice the longest long poll."""
WRITE_TIMEOUT_S = 60.0
"""Stall after which an upload is given up [s]: a bundle over a slow line."""
MAX_ANSWER_BYTES = 32 * 1024 * 1024
"""Largest answer held in memory [bytes]: far above a page of 200 jobs; downloads are streamed."""
DOWNLOAD_CHUNK_BYTES = 256 * 1024
"""Piece of a download [bytes]."""
MAX_PROBLEM_BYTES = 256 * 1024
"""Part of a refusal that is read [bytes]."""

Query = Mapping[str, str | int]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """One request.

    Args:
        method: HTTP method.
        path: path below the platform's address, with a leading slash.
        query: query parameters.
        body: body, if any.
        headers: further headers.
        is_idempotent: whether it may be sent again when no answer came.
    """

    method: str
    path: str
    query: Query = field(default_factory=dict)
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    is_idempotent: bool = False

    @classmethod
    def get(cls, path: str, query: Query | None = None) -> Self:
        """A read."""
        return cls("GET", path, query or {}, is_idempotent=True)

    @classmethod
    def put(cls, path: str, value: object) -> Self:
        """A write that replaces, so that it may be sent again."""
        body = json.dumps(value, ensure_ascii=False).encode()
        return cls("PUT", path, {}, body, {"Content-Type": "application/json"}, is_idempotent=True)

    @classmethod
    def post(cls, path: str, value: object = None, *, idempotency_key: str | None = None) -> Self:
        """A write with a JSON body; with a key it may be sent again."""
        headers = {"Content-Type": "application/json"}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        body = None if value is None else json.dumps(value, ensure_ascii=False).encode()
        return cls("POST", path, {}, body, headers, is_idempotent=idempotency_key is not None)


class Transport:
    """Sends calls to one platform with one token. Not safe to use from several threads at once."""

    def __init__(self, url: str, token: str, *, user_agent: str, language: str, pause: retry.Pause) -> None:
        """Prepare; nothing is sent.

        Args:
            url: address of the platform, without a trailing slash.
            token: bearer token.
            user_agent: this client and its version.
            language: language the platform's messages are asked in.
            pause: waits between tries.
        """
        self._url: Final = url
        self._pause: Final = pause
        timeout = httpx.Timeout(
            CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S, write=WRITE_TIMEOUT_S, pool=CONNECT_TIMEOUT_S
        )
        headers = {"User-Agent": user_agent, "Accept-Language": language, "Authorization": f"Bearer {token}"}
        # A proxy of the environment must not stand between a user and a platform on the same machine.
        self._http: Final = httpx.Client(headers=headers, timeout=timeout, trust_env=not is_loopback(url))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def json(self, call: Call) -> Fields:
        """Send a call, again if it may be; return the object of its answer.

        Raises:
            ApiError: the platform refused.
            NetworkError: no usable answer after the last try.
            ProtocolError: the answer is not a JSON object.
        """
        data = self.whole(call).data
        try:
            return Fields(json.loads(data), f"{call.method} {call.path}")
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"{call.method} {call.path} is not JSON") from error

    def whole(self, call: Call) -> Answer:
        """Send a call, again if it may be; return its answer, read to the end.

        Raises:
            ApiError: the platform refused.
            NetworkError: no usable answer after the last try.
            ProtocolError: the answer is larger than any should be.
        """

        def read() -> Answer:
            with self._opened(call) as answer:
                return Answer(answer.headers, _read(answer, MAX_ANSWER_BYTES))

        return self._retried(call, read)

    @contextmanager
    def stream(self, call: Call) -> Iterator[httpx.Response]:
        """Send a call, again if it may be, and give its good answer with the body still to be read.

        Raises:
            ApiError: the platform refused.
            NetworkError: no usable answer after the last try, or it broke off while being read.
        """
        with ExitStack() as stack:
            answer = self._retried(call, lambda: stack.enter_context(self._opened(call)))
            yield answer

    def _retried(self, call: Call, act: Callable[[], T]) -> T:
        """Act until there is a good answer, a final refusal, or no try left."""
        for pause_s in retry.pauses() if call.is_idempotent else ():
            try:
                return act()
            except NetworkError:
                self._pause(pause_s)
            except _BusyError as busy:
                self._pause(max(pause_s, busy.pause_s))
        try:
            return act()
        except _BusyError as busy:
            raise busy.refusal from None

    @contextmanager
    def _opened(self, call: Call) -> Iterator[httpx.Response]:
        """Send once; a good answer, its body still to be read."""
        url = f"{self._url}{call.path}"
        try:
            request = self._http.build_request(
                call.method,
                url,
                params=dict(call.query) or None,
                content=call.body,
                headers=dict(call.headers),
            )
            answer = self._http.send(request, stream=True)
            try:
                if not answer.is_success:
                    _refuse(answer)
                yield answer
            finally:
                answer.close()
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise NetworkError(url, str(error) or type(error).__name__) from error


@dataclass(frozen=True, slots=True)
class Answer:
    """A good answer, read to the end."""

    headers: Mapping[str, str]
    data: bytes


class _BusyError(Exception):
    """A refusal that may go away by itself."""

    def __init__(self, refusal: ApiError, pause_s: float) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal
        self.pause_s = pause_s


def _refuse(answer: httpx.Response) -> NoReturn:
    """Read and raise a refusal.

    Raises:
        ApiError: it is final.
        _BusyError: it may go away by itself.
    """
    refusal = _refusal(answer, _read(answer, MAX_PROBLEM_BYTES))
    if retry.is_worth_retrying(refusal.status, refusal.code):
        raise _BusyError(refusal, retry.asked_pause_s(answer.headers.get("Retry-After")))
    raise refusal


def _read(answer: httpx.Response, limit_bytes: int) -> bytes:
    """The body, at most so many bytes of it.

    Raises:
        ProtocolError: it is larger.
    """
    data = bytearray()
    for chunk in answer.iter_bytes():
        data += chunk
        if len(data) > limit_bytes:
            raise ProtocolError(f"{answer.request.url.path} answers with more than {limit_bytes} bytes")
    return bytes(data)


def _refusal(answer: httpx.Response, data: bytes) -> ApiError:
    """The problem details of a refusal; of anything else, what its status says."""
    fallback = ApiError(
        code=f"HTTP_{answer.status_code}", status=answer.status_code, title=answer.reason_phrase
    )
    try:
        fields = Fields(json.loads(data), "problem")
        code = fields.optional_text("code")
        if code is None:
            return fallback
        errors = fields.objects("errors") if fields.raw.get("errors") is not None else iter(())
        return ApiError(
            code=code,
            status=answer.status_code,
            title=fields.optional_text("title") or "",
            detail=fields.optional_text("detail") or "",
            numbers=fields.numbers("numbers"),
            errors=tuple(_field_error(one) for one in errors),
        )
    except (ValueError, RecursionError, ProtocolError):
        return fallback


def _field_error(fields: Fields) -> FieldError:
    return FieldError(fields.optional_text("place") or "", fields.optional_text("message") or "")
