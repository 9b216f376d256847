"""The platform as the player of a workload sees it: one HTTP connection, and what it must answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

Document = dict[str, Any]  # a JSON object of the API or of the workload file


class PlayError(RuntimeError):
    """The platform answered something the workload cannot go on from."""


@dataclass(slots=True)
class Stage:
    """The platform as the player sees it: one HTTP connection, one token per organisation."""

    client: httpx.Client
    operator: str
    tokens: dict[str, str] = field(default_factory=dict)

    def call(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Document]:
        """Send one request; a body of bytes goes as it is, any other as JSON."""
        answer = self.client.request(
            method,
            path,
            headers={"Authorization": f"Bearer {token or self.operator}", **(headers or {})},
            content=body if isinstance(body, bytes) else None,
            json=None if isinstance(body, bytes) else body,
        )
        return answer.status_code, answer.json() if answer.content else {}

    def must(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Document:
        """Send one request that has to succeed.

        Raises:
            PlayError: when it does not.
        """
        status, document = self.call(method, path, token=token, body=body, headers=headers)
        if status >= httpx.codes.BAD_REQUEST:
            raise PlayError(f"{method} {path}: {status} {document.get('code')}: {document.get('detail')}")
        return document

    def ensure(self, path: str, body: Document) -> None:
        """Make something that an earlier run may have made already."""
        status, document = self.call("POST", path, body=body)
        if status >= httpx.codes.BAD_REQUEST and status != httpx.codes.CONFLICT:
            raise PlayError(f"POST {path}: {status} {document.get('code')}: {document.get('detail')}")
