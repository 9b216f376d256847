"""Issued reports: their data are kept, so that a file is made again in any format and language, byte for byte."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

from sqlalchemy import select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from products import gather
from products.evidence_tables import IssuedReportRow
from products.registers_tables import ReportDocumentRow
from products.reports.data import KpiReport, Report, from_document, to_document

MAX_PAGE: Final = 200
"""Reports of one page."""


class ReportNotFoundError(Exception):
    """No report with this digest was issued here, or its data are not kept."""

    def __init__(self, digest: str) -> None:
        super().__init__(f"no report with the data digest {digest} was issued here; list the issued reports")
        self.digest = digest


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedReport:
    """A report that was issued. `digest` is the SHA-256 of its data, and its name."""

    digest: str
    kind: str
    starts_on: date
    ends_on: date
    as_of: datetime
    issued_at: datetime


def issue(session: Session, report: KpiReport, *, actor: str, at: datetime) -> str:
    """Issue a report and keep its data; one issued before stays as it was. Return its digest."""
    made = gather.issue(session, report, actor=actor, at=at)
    session.execute(
        insert(ReportDocumentRow).values(digest=made, document=to_document(report)).on_conflict_do_nothing()
    )
    return made


def listing(
    session: Session, *, after: str | None = None, limit: int = MAX_PAGE
) -> tuple[tuple[IssuedReport, ...], str | None]:
    """A page of issued reports, the newest first, and the digest to go on after."""
    size = max(1, min(limit, MAX_PAGE))
    statement = select(IssuedReportRow)
    if after is not None:
        last = session.get(IssuedReportRow, after)
        if last is not None:
            place = tuple_(IssuedReportRow.issued_at, IssuedReportRow.digest)
            statement = statement.where(place < tuple_(last.issued_at, last.digest))
    order = (IssuedReportRow.issued_at.desc(), IssuedReportRow.digest.desc())
    rows = session.scalars(statement.order_by(*order).limit(size + 1)).all()
    more = rows[size - 1].digest if len(rows) > size else None
    return tuple(_issued(row) for row in rows[:size]), more


def issued(session: Session, digest: str) -> IssuedReport:
    """An issued report by its digest.

    Raises:
        ReportNotFoundError: none was issued.
    """
    row = session.get(IssuedReportRow, digest)
    if row is None:
        raise ReportNotFoundError(digest)
    return _issued(row)


def report_of(session: Session, digest: str) -> Report:
    """The data of an issued report.

    Raises:
        ReportNotFoundError: none was issued, or it was before its data were kept.
    """
    row = session.get(ReportDocumentRow, digest)
    if row is None:
        raise ReportNotFoundError(digest)
    return from_document(row.document)


def _issued(row: IssuedReportRow) -> IssuedReport:
    names = ("digest", "kind", "starts_on", "ends_on", "as_of", "issued_at")
    return IssuedReport(**{name: getattr(row, name) for name in names})
