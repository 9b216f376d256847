"""A document as PDF/A-3 with its data attached, and charts as PNG, through Typst and the fonts inside its wheel."""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Final

import typst

from products.reports.document import Block, Chart, Document, Heading, Paragraph, Signatures, Table
from products.reports.hyphens import breakable

MAX_STREAM_BYTES: Final = 64 << 20
"""Most that one stream of a PDF may unpack to when its data are looked for [bytes]: a report's are far below 1 MiB."""

CHART_PPI: Final = 150
"""Resolution of a chart in a text document [pixels per inch]: sharp when printed."""

_TEMPLATE: Final = Path(__file__).with_name("template.typ")
_PIECE: Final = re.compile(rb"/Type\s*/EmbeddedFile\b[^\n]*\n?stream\r?\n")
_KINDS: Final = {
    Heading: "heading",
    Paragraph: "paragraph",
    Table: "table",
    Chart: "chart",
    Signatures: "signatures",
}


class TypesettingError(RuntimeError):
    """Typst refused the document: a defect of the template, with Typst's own words."""


def render_pdf(document: Document, envelope: bytes, as_of: datetime) -> bytes:
    """The document as PDF. Dates inside are `as_of`, so equal input gives equal bytes.

    Raises:
        TypesettingError: the template failed.
    """
    made = _typeset(document, {"envelope": envelope.decode()}, as_of, is_pdf=True)
    return made[0]


def render_pages(document: Document, envelope: bytes, as_of: datetime, *, ppi: int = 80) -> list[bytes]:
    """Each page of the PDF as PNG, to be looked at.

    Raises:
        TypesettingError: the template failed.
    """
    return _typeset(document, {"envelope": envelope.decode()}, as_of, is_pdf=False, ppi=ppi)


def render_chart(document: Document, chart: Chart, as_of: datetime) -> bytes:
    """One chart as PNG, in the document's language.

    Raises:
        TypesettingError: the template failed.
    """
    alone = Document(document.language, chart.title, (), (chart,), "", "", is_landscape=False)
    return _typeset(alone, {"only": "chart"}, as_of, is_pdf=False, ppi=CHART_PPI)[0]


def attached(content: bytes) -> bytes | None:
    """The data attached to a PDF of ours; None when it has none. O(size)."""
    found = _PIECE.search(content)
    if found is None:
        return None
    end = content.find(b"endstream", found.end())
    packed = content[found.end() : end]
    if b"/FlateDecode" not in found.group():
        return packed.rstrip(b"\r\n")
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(packed, MAX_STREAM_BYTES)
    except zlib.error:
        return None
    return unpacked if unpacker.eof else None


def _typeset(
    document: Document, inputs: dict[str, str], as_of: datetime, *, is_pdf: bool, ppi: int = CHART_PPI
) -> list[bytes]:
    values = {
        "language": document.language,
        "title": document.title,
        "subtitle": document.subtitle,
        "blocks": [_block(block) for block in document.blocks],
        "footer": document.footer,
        "page": document.page,
        "is_landscape": document.is_landscape,
    }
    compiler = typst.Compiler(
        _TEMPLATE.read_bytes(),
        font_paths=typst.Fonts(include_system_fonts=False),
        ignore_system_fonts=True,
        sys_inputs={"document": json.dumps(values, ensure_ascii=False, default=str), **inputs},
    )
    stamp = int(as_of.timestamp())
    try:
        if is_pdf:
            made = compiler.compile(format="pdf", timestamp=stamp, pdf_standards="a-3b")
        else:
            made = compiler.compile(format="png", ppi=ppi, timestamp=stamp)
    except typst.TypstError as error:
        raise TypesettingError(
            f"the report could not be typeset: {error.message} {error.diagnostic}"
        ) from error
    pages = made if isinstance(made, list) else [made]
    return [page for page in pages if page is not None]


def _block(block: Block) -> dict[str, object]:
    return {"kind": _KINDS[type(block)], **_softened(asdict(block))}


def _softened(values: dict[str, object]) -> dict[str, object]:
    """The values with every text made breakable."""
    return {key: _soften(value) for key, value in values.items()}


def _soften(value: object) -> object:
    match value:
        case str():
            return breakable(value)
        case dict():
            return _softened(value)
        case list() | tuple():
            return [_soften(item) for item in value]
        case _:
            return value
