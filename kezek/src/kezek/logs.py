"""What a rank wrote: pieces of it, and following it over broken connections and further attempts of its job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final, Protocol, Self

from kezek import retry
from kezek.errors import ApiError, NetworkError, ProtocolError
from kezek.model import FINAL_STATES, Job
from kezek.transport import Answer, Call

FOLLOW_WAIT_S: Final = 20
"""Longest wait for a new byte in one call [s]: the most the platform takes."""
MAX_BREAKS: Final = 20
"""Calls in a row that may fail, each after its own retries: some minutes of an absent platform or node."""
IDLE_PAUSE_S: Final = 0.5
"""Pause after a piece without bytes [s]: a crowded platform answers at once instead of waiting."""
BREAK_PAUSE_S: Final = 2.0
"""Pause after a call that failed [s]."""
ATTEMPT_POLL_S: Final = 1.0
"""Pause between two looks at a job whose attempt has ended [s]: it ends, or gets another one."""
_SERVER_ERROR: Final = 500


@dataclass(frozen=True, slots=True)
class LogPlace:
    """A byte of a rank's output.

    Args:
        job_id: the job.
        rank: the rank, from 0.
        offset: the first byte wanted, from 0.
        attempt: number of the attempt, from 1; None = the latest.
    """

    job_id: int
    rank: int = 0
    offset: int = 0
    attempt: int | None = None

    def call(self, wait_s: int) -> Call:
        """The request for the bytes from here on."""
        query: dict[str, str | int] = {"rank": self.rank, "offset": self.offset, "wait_s": wait_s}
        if self.attempt is not None:
            query["attempt"] = self.attempt
        return Call.get(f"/v1/jobs/{self.job_id}/logs", query)


@dataclass(frozen=True, slots=True)
class LogPage:
    """A piece of a rank's output.

    Attributes:
        data: the bytes, possibly none.
        next_offset: where the next piece begins.
        attempt: number of the attempt they are of; None before the first.
        is_complete: whether that attempt writes no more.
        job_state: state of the job.
    """

    data: bytes
    next_offset: int
    attempt: int | None
    is_complete: bool
    job_state: str

    @classmethod
    def of(cls, answer: Answer) -> Self:
        """Read the platform's answer.

        Raises:
            ProtocolError: a header is missing or of another form.
        """
        try:
            number = answer.headers["X-Kezek-Attempt"].rpartition("-")[2]
            return cls(
                answer.data,
                int(answer.headers["X-Kezek-Next-Offset"]),
                int(number) if number else None,
                answer.headers["X-Kezek-Complete"] == "true",
                answer.headers["X-Kezek-Job-State"],
            )
        except (KeyError, ValueError) as error:
            raise ProtocolError(f"headers of a log: {error}") from error


class ReadLog(Protocol):
    """Reads one piece of a log."""

    def __call__(self, place: LogPlace, *, wait_s: int) -> LogPage:
        """The bytes from a place on."""
        ...


class Follower:
    """Reads a log to its end."""

    def __init__(
        self,
        read: ReadLog,
        look: Callable[[int], Job],
        *,
        pause: retry.Pause,
        on_break: Callable[[int], None] | None,
    ) -> None:
        """Prepare; nothing is sent.

        Args:
            read: reads one piece.
            look: gives a job as it is now.
            pause: waits so many seconds.
            on_break: told the byte from which it goes on after a break.
        """
        self._read: Final = read
        self._look: Final = look
        self._pause: Final = pause
        self._on_break: Final = on_break

    def follow(self, place: LogPlace) -> Iterator[bytes]:
        """Yield what is written from a place on, until the job has ended or the attempt asked for has.

        Raises:
            ApiError: the platform refused, or the node did not answer for a long time.
            NetworkError: no answer for a long time.
        """
        is_one_attempt = place.attempt is not None
        while True:
            page = self._patiently(place)
            if page.data:
                yield page.data
                place = replace(place, offset=page.next_offset)
            # Once it is known whose bytes these are, a further attempt must not be read from this offset.
            place = replace(place, attempt=place.attempt or page.attempt)
            if not page.is_complete:
                if not page.data:
                    self._pause(IDLE_PAUSE_S)
                continue
            if is_one_attempt or page.attempt is None or page.job_state in FINAL_STATES:
                return
            if not self._gets_attempt_after(place.job_id, page.attempt):
                return
            place = replace(place, offset=0, attempt=page.attempt + 1)

    def _gets_attempt_after(self, job_id: int, attempt: int) -> bool:
        """Wait until the job has a further attempt (true) or has ended (false)."""
        while True:
            job = self._look(job_id)
            if job.attempts > attempt:
                return True
            if job.is_final:
                return False
            self._pause(ATTEMPT_POLL_S)

    def _patiently(self, place: LogPlace) -> LogPage:
        """Read a piece; go on after breaks, but not for ever."""
        for _ in range(MAX_BREAKS - 1):
            try:
                return self._read(place, wait_s=FOLLOW_WAIT_S)
            except NetworkError:
                self._broke(place)
            except ApiError as error:
                if error.status < _SERVER_ERROR:
                    raise
                self._broke(place)
        return self._read(place, wait_s=FOLLOW_WAIT_S)

    def _broke(self, place: LogPlace) -> None:
        if self._on_break is not None:
            self._on_break(place.offset)
        self._pause(BREAK_PAUSE_S)
