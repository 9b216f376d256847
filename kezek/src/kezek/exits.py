"""Exit codes of the command line; docs/cli.md describes each."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from kezek.errors import ApiError, ConfigError, KezekError, UsageFaultError


class Exit(IntEnum):
    """How a command ended, for scripts."""

    OK = 0
    """Done."""
    JOB_FAILED = 1
    """The job that was waited for did not complete."""
    USAGE = 2
    """The command cannot be carried out as written; nothing was sent, or it was not understood."""
    NOT_FOUND = 3
    """There is no such thing that you may see."""
    REFUSED = 4
    """The platform understood and refused: budget, quota, state."""
    NOT_ALLOWED = 5
    """No token, not a valid one, or one that may not do this."""
    UNAVAILABLE = 6
    """The network or the platform failed; what was read may be damaged."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C."""
    PIPE_CLOSED = 141
    """Whoever read the output stopped reading, such as `head`."""


_NOT_ALLOWED_STATUSES: Final = frozenset({401, 403})
_USAGE_STATUSES: Final = frozenset({400, 405, 413, 415})
_USAGE_CODES: Final = frozenset({"VALIDATION", "YEAR_WITHOUT_TARGET", "IN_FUTURE", "REPORT_NOT_OFFERED"})
_NOT_FOUND_STATUS: Final = 404
_FIRST_REFUSAL_STATUS: Final = 400
_FIRST_SERVER_STATUS: Final = 500
_BUSY_STATUS: Final = 429


def exit_of(error: KezekError) -> Exit:
    """The exit code of an error."""
    if isinstance(error, ConfigError):
        return Exit.NOT_ALLOWED if error.key == "config.no_token" else Exit.USAGE
    if isinstance(error, UsageFaultError):
        return Exit.USAGE
    if isinstance(error, ApiError):
        return _of_refusal(error)
    return Exit.UNAVAILABLE


def _of_refusal(error: ApiError) -> Exit:
    if error.status in _NOT_ALLOWED_STATUSES:
        return Exit.NOT_ALLOWED
    if error.status == _NOT_FOUND_STATUS:
        return Exit.NOT_FOUND
    if error.status in _USAGE_STATUSES or error.code in _USAGE_CODES:
        return Exit.USAGE
    is_refusal = _FIRST_REFUSAL_STATUS <= error.status < _FIRST_SERVER_STATUS and error.status != _BUSY_STATUS
    return Exit.REFUSED if is_refusal else Exit.UNAVAILABLE
