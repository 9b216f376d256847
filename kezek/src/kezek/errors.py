"""The client's tree of errors; each says what happened, to what, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


class KezekError(Exception):
    """Anything the client could not do."""


class ConfigError(KezekError):
    """The address or the token is missing or cannot be used.

    Attributes:
        key: key of the message catalogue, such as "config.no_token".
        values: what the message is filled in with.
    """

    def __init__(self, key: str, **values: str) -> None:
        said = ", ".join(f"{name}={value}" for name, value in values.items())
        super().__init__(f"{key} ({said})" if said else key)
        self.key = key
        self.values = values


class UsageFaultError(KezekError):
    """What the user asked for cannot be done as written; nothing was sent.

    Attributes:
        key: key of the message catalogue, such as "bundle.too_large".
        values: what the message is filled in with.
    """

    def __init__(self, key: str, **values: str | int) -> None:
        said = ", ".join(f"{name}={value}" for name, value in values.items())
        super().__init__(f"{key} ({said})" if said else key)
        self.key = key
        self.values = values


class NetworkError(KezekError):
    """No usable answer came from the platform; whether a write was carried out is not known.

    Attributes:
        url: address that was called, without a query.
        why: what the network said.
    """

    def __init__(self, url: str, why: str) -> None:
        super().__init__(f"no answer from {url}: {why}")
        self.url = url
        self.why = why


class ProtocolError(KezekError):
    """The platform answered with something this client does not understand: mostly another version.

    Attributes:
        what: the place and what was wrong there.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"the answer cannot be read: {what}; update the client")
        self.what = what


class DigestMismatchError(KezekError):
    """A downloaded file is not the one its job kept; it was thrown away.

    Attributes:
        path: path of the output.
        expected: SHA-256 (hex) that the node computed when the file was kept.
        found: SHA-256 (hex) of what came.
    """

    def __init__(self, path: str, expected: str, found: str) -> None:
        super().__init__(f"{path}: digest {found}, expected {expected}; download it again")
        self.path = path
        self.expected = expected
        self.found = found


@dataclass(frozen=True, slots=True)
class FieldError:
    """One invalid field of a request: where it stands and what is wrong with it."""

    where: str
    detail: str


class ApiError(KezekError):
    """The platform understood and refused (problem details, RFC 9457).

    Attributes:
        code: stable code, such as "BUDGET_EXHAUSTED".
        status: HTTP status.
        title: short text in the caller's language.
        detail: what happened, to what, and what to do next.
        numbers: named figures of the refusal.
        errors: fields that are invalid.
    """

    def __init__(
        self,
        *,
        code: str,
        status: int,
        title: str = "",
        detail: str = "",
        numbers: Mapping[str, int | str] | None = None,
        errors: tuple[FieldError, ...] = (),
    ) -> None:
        super().__init__(f"{code} ({status}): {detail or title}")
        self.code = code
        self.status = status
        self.title = title
        self.detail = detail
        self.numbers: Mapping[str, int | str] = numbers or {}
        self.errors = errors
