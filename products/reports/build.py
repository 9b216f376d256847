"""From a report to a file, and from a file back to what it says: build, verify."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Final, Literal

from products.kpi import FutureError
from products.reports import figures, form
from products.reports.data import (
    SCHEMA,
    BadReportError,
    KpiReport,
    LocalisationForm,
    Report,
    canonical,
    digest,
    from_document,
    to_document,
)
from products.reports.document import Document
from products.reports.package import BadPackageError, data_of
from products.reports.pdf import attached, render_chart, render_pdf
from products.reports.sheet import render_xlsx
from products.reports.texts import LANGUAGES, Language
from products.reports.word import render_docx

Format = Literal["pdf", "xlsx", "docx", "json"]

FORMATS: Final[tuple[Format, ...]] = ("pdf", "xlsx", "docx", "json")
"""Formats of the KPI reports."""

FORM_FORMATS: Final[tuple[Format, ...]] = ("pdf", "docx")
"""Formats of the form of Order No 604."""

FORM_LANGUAGES: Final[tuple[Language, ...]] = ("kk", "ru")
"""Languages of the form of Order No 604."""

MAX_FILE_BYTES: Final = 32 << 20
"""Size of a file that is verified [bytes]: a report is below 1 MiB."""


class NotOfferedError(ValueError):
    """The report is not made in this format or language."""

    def __init__(self, kind: str, file_format: str, language: str) -> None:
        is_form = kind == "localisation"
        formats = FORM_FORMATS if is_form else FORMATS
        languages = FORM_LANGUAGES if is_form else LANGUAGES
        super().__init__(
            f"report {kind} is not made as {file_format} in {language}; choose from {', '.join(formats)} and "
            f"{', '.join(languages)}"
        )
        self.kind = kind
        self.file_format = file_format
        self.language = language


class UnreadableReportError(ValueError):
    """The file is no report of this platform, or its data cannot be read."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What a file turned out to be.

    Args:
        kind: monthly, yearly or localisation.
        file_format: of the file.
        language: of the file.
        as_of: of its data.
        digest: SHA-256 of its data, to be compared with the published one.
        problem: why it is not what this release makes from its data; None when it is, byte for byte.
    """

    kind: str
    file_format: str
    language: str
    as_of: datetime
    digest: str
    problem: str | None


def made_with() -> dict[str, str]:
    """The programs whose versions decide a file's bytes."""
    return {name: version(name) for name in ("kezek-server", "typst", "xlsxwriter", "python-docx", "babel")}


def build(report: Report, file_format: Format, language: Language) -> bytes:
    """The file of a report. Equal reports give equal bytes, wherever and whenever they are made.

    Raises:
        NotOfferedError: the report is not made in this format or language.
    """
    is_form = isinstance(report, LocalisationForm)
    if file_format not in (FORM_FORMATS if is_form else FORMATS) or language not in (
        FORM_LANGUAGES if is_form else LANGUAGES
    ):
        raise NotOfferedError(report.kind, file_format, language)
    envelope = canonical(
        {
            "schema": SCHEMA,
            "format": file_format,
            "language": language,
            "made_with": made_with(),
            "digest": digest(report),
            "data": to_document(report),
        }
    )
    document = lay_out(report, language)
    match file_format:
        case "pdf":
            return render_pdf(document, envelope, report.as_of)
        case "docx":
            return render_docx(
                document, envelope, report.as_of, lambda chart: render_chart(document, chart, report.as_of)
            )
        case "xlsx":
            return render_xlsx(document, envelope, report.as_of)
        case "json":
            shown = {
                **json.loads(envelope),
                "title": document.title,
                "definitions": figures.definitions(language),
            }
            return (json.dumps(shown, ensure_ascii=False, indent=2, sort_keys=True) + "\n").encode()


def lay_out(report: Report, language: Language) -> Document:
    """A report laid out in a language."""
    match report:
        case KpiReport():
            return figures.lay_out(report, language)
        case LocalisationForm():
            return form.lay_out(report, language)


def verify(content: bytes) -> Verification:
    """Check a file against the data it carries: the data's digest, then every byte, by making the file again.

    It proves that the file says what its data say. That the data are the published ones is shown by comparing
    `digest` with the published digest.

    Raises:
        UnreadableReportError: no report of this platform, or damaged beyond reading.
    """
    envelope = _envelope(content)
    try:
        report = from_document(envelope["data"])
        stated, language, file_format = (envelope[name] for name in ("digest", "language", "format"))
        programs = envelope["made_with"]
    except (KeyError, BadReportError, FutureError) as error:
        raise UnreadableReportError(f"the file's data cannot be read: {error}") from error
    if language not in LANGUAGES or file_format not in FORMATS:
        raise UnreadableReportError(
            f"the file names format {file_format!r} and language {language!r}; neither is known"
        )
    found = digest(report)
    problem = None
    if stated != found:
        problem = f"the data were changed: their SHA-256 is {found}, the file states {stated}"
    elif programs != made_with():
        problem = (
            f"made with {_names(programs)}, here are {_names(made_with())}: the data are sound, their SHA-256 is "
            "as stated; compare the bytes with the release that made the file"
        )
    elif build(report, file_format, language) != content:
        problem = "the data are sound, but the file differs from what is made of them: it was edited after it was made"
    return Verification(report.kind, file_format, language, report.as_of, found, problem)


def _envelope(content: bytes) -> dict[str, object]:
    if len(content) > MAX_FILE_BYTES:
        raise UnreadableReportError(f"the file has {len(content)} bytes, at most {MAX_FILE_BYTES} are read")
    found: bytes | None
    if content.startswith(b"%PDF"):
        found = attached(content)
    elif content.startswith(b"PK"):
        try:
            found, _ = data_of(content)
        except BadPackageError as error:
            raise UnreadableReportError(str(error)) from error
    else:
        found = content
    try:
        document = json.loads(found or b"")
    except ValueError as error:
        raise UnreadableReportError(
            "the file carries no data of a report; give a PDF, XLSX, DOCX or JSON file made by this platform"
        ) from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise UnreadableReportError(
            f"the file's data are not of the shape {SCHEMA}; was another release meant?"
        )
    return document


def _names(programs: object) -> str:
    if not isinstance(programs, dict):
        return "unnamed programs"
    return ", ".join(f"{name} {programs[name]}" for name in sorted(programs))
