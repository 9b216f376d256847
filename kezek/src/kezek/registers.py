"""Dossiers of the state's registers, localisation shares and issued reports, as one user sees them."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

from kezek.client import Client
from kezek.errors import UsageFaultError
from kezek.fields import Fields
from kezek.transport import Call, Query

MAX_ROWS: Final = 1_000
"""Rows of one file [count]: as many as the platform takes at once."""
MAX_FILE_BYTES: Final = 256 * 1024
"""Size of one file of rows [bytes]: the platform's bodies are no larger."""
MAX_DOCUMENT_BYTES: Final = 1 << 30
"""Size of a document whose digest is computed [bytes]."""

COLUMNS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "parties": (("id", "is_foreign"), ("controlled_by", "acts_for")),
    "contracts": (("number", "party"), ()),
    "payments": (("contract", "number", "paid_on", "amount"), ("currency", "purpose")),
    "rates": (("currency", "on", "tenge"), ()),
}
"""Columns of each file of rows: those it must have, and those it may have."""

_FLAGS: Final = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
_CHUNK_BYTES: Final = 1 << 20


class Registers:
    """The part of a platform's API about registers and reports. Errors are those of `Client`."""

    def __init__(self, client: Client) -> None:
        """Use the connection of `client`."""
        self._client: Final = client

    def dossiers(self) -> Iterator[Fields]:
        """The dossiers you may see."""
        return self._client.pages("/v1/dossiers", {})

    def dossier(self, slug: str, on: str | None = None) -> Fields:
        """One dossier with its documents and how it stands on a day."""
        return self._get(f"/v1/dossiers/{_safe(slug)}", {} if on is None else {"on": on})

    def open(self, body: Mapping[str, object]) -> Fields:
        """Open a dossier."""
        return self._post("/v1/dossiers", body)

    def add_document(self, slug: str, body: Mapping[str, object]) -> Fields:
        """Enter a document of a dossier."""
        return self._post(f"/v1/dossiers/{_safe(slug)}/documents", body)

    def withdraw_document(self, slug: str, document_id: int) -> None:
        """Take a document out of account."""
        self._delete(f"/v1/dossiers/{_safe(slug)}/documents/{document_id}", {})

    def record(self, slug: str, what: str, body: Mapping[str, object]) -> None:
        """Record an entry ("entries"), a leaving ("leavings") or a check ("checks") of a register."""
        self._client.transport.whole(Call.post(f"/v1/dossiers/{_safe(slug)}/{what}", body))

    def reminders(self, on: str | None = None) -> Fields:
        """Documents that run out."""
        return self._get("/v1/registers/reminders", {} if on is None else {"on": on})

    def check_list(self, on: str | None = None) -> Fields:
        """The quarter's check list."""
        return self._get("/v1/registers/check-list", {} if on is None else {"on": on})

    def enter_books(self, slug: str, body: Mapping[str, object]) -> Fields:
        """Enter parties, contracts, payments and rates, all or none."""
        return self._post(f"/v1/dossiers/{_safe(slug)}/books", body)

    def payments(self, slug: str) -> Iterator[Fields]:
        """The payments of a dossier."""
        return self._client.pages(f"/v1/dossiers/{_safe(slug)}/payments", {})

    def remove_payment(self, slug: str, contract: str, number: str) -> None:
        """Remove a payment that was entered by mistake."""
        self._delete(f"/v1/dossiers/{_safe(slug)}/payments", {"contract": contract, "number": number})

    def share(self, slug: str, query: Query) -> Fields:
        """The localisation share of a period."""
        return self._get(f"/v1/dossiers/{_safe(slug)}/localisation", query)

    def calculate(self, slug: str, body: Mapping[str, object]) -> Fields:
        """Calculate the share of a period and keep it."""
        return self._post(f"/v1/dossiers/{_safe(slug)}/calculations", body)

    def form(self, slug: str, calculation_id: int, query: Query) -> bytes:
        """The report in the form of the order's annex."""
        address = f"/v1/dossiers/{_safe(slug)}/calculations/{calculation_id}/form"
        return self._client.transport.whole(Call.get(address, query)).data

    def reports(self) -> Iterator[Fields]:
        """Reports that were issued, the newest first."""
        return self._client.pages("/v1/reports", {})

    def issue_report(self, body: Mapping[str, object]) -> Fields:
        """Issue a report."""
        return self._post("/v1/reports", body)

    def report(self, digest: str, query: Query) -> bytes:
        """The file of an issued report."""
        return self._client.transport.whole(Call.get(f"/v1/reports/{_safe(digest)}", query)).data

    def _get(self, path: str, query: Query) -> Fields:
        return self._client.transport.json(Call.get(path, query))

    def _post(self, path: str, body: Mapping[str, object]) -> Fields:
        return self._client.transport.json(Call.post(path, body))

    def _delete(self, path: str, query: Query) -> None:
        self._client.transport.whole(Call("DELETE", path, query))


def read_rows(path: Path, kind: str) -> list[dict[str, object]]:
    """Rows of a CSV file as the platform takes them; empty cells are left out.

    Args:
        path: UTF-8, with a header.
        kind: one of `COLUMNS`.

    Raises:
        UsageFaultError: it cannot be read, is too large, or its columns or a flag are not as they must be.
    """
    needed, optional = COLUMNS[kind]
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UsageFaultError("usage.csv_too_large", path=str(path), limit=MAX_ROWS)
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            heads = tuple(reader.fieldnames or ())
            if not set(needed) <= set(heads) <= {*needed, *optional} or len(set(heads)) != len(heads):
                wanted = ",".join((*needed, *optional))
                raise UsageFaultError("usage.csv_columns", path=str(path), columns=wanted)
            rows = [_row(path, line, row) for line, row in enumerate(reader, start=2)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageFaultError("usage.csv_unreadable", path=str(path), why=str(error)) from error
    if len(rows) > MAX_ROWS:
        raise UsageFaultError("usage.csv_too_large", path=str(path), limit=MAX_ROWS)
    return rows


def _row(path: Path, line: int, row: Mapping[str | None, str | list[str] | None]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in row.items():
        if name is None or not isinstance(value, str):
            raise UsageFaultError("usage.csv_row", path=str(path), line=line)
        text = value.strip()
        if name == "is_foreign":
            if text.lower() not in _FLAGS:
                raise UsageFaultError("usage.csv_flag", path=str(path), line=line, value=text)
            found[name] = _FLAGS[text.lower()]
        elif text:
            found[name] = text
    return found


def digest_of(path: Path) -> str:
    """SHA-256 (hex) of a file, read a piece at a time.

    Raises:
        UsageFaultError: it cannot be read, or is too large.
    """
    digest = hashlib.sha256()
    try:
        if path.stat().st_size > MAX_DOCUMENT_BYTES:
            raise UsageFaultError("bundle.unreadable", path=str(path), why=f"> {MAX_DOCUMENT_BYTES} B")
        with path.open("rb") as file:
            while piece := file.read(_CHUNK_BYTES):
                digest.update(piece)
    except OSError as error:
        raise UsageFaultError("bundle.unreadable", path=str(path), why=error.strerror or "") from error
    return digest.hexdigest()


def save(content: bytes, path: Path) -> None:
    """Write a file that is not there yet.

    Raises:
        UsageFaultError: it is there already, or cannot be written.
    """
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError as error:
        raise UsageFaultError("usage.file_exists", path=str(path)) from error
    except OSError as error:
        raise UsageFaultError("usage.not_saved", path=str(path), why=error.strerror or "") from error


def _safe(text: str) -> str:
    return quote(text, safe="")
