"""A document as DOCX."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from typing import Final

import docx
from docx.document import Document as WordDocument
from docx.enum.section import WD_ORIENT
from docx.enum.text import WD_ALIGN_PARAGRAPH
from docx.oxml import OxmlElement
from docx.oxml.ns import qn
from docx.shared import Emu, Mm, Pt
from docx.table import _Cell
from docx.text.paragraph import Paragraph as WordParagraph

from products.reports.document import Cell, Chart, Document, Heading, Paragraph, Signatures, Table
from products.reports.package import seal

FONT: Final = "Times New Roman"
"""On every office machine, with every Kazakh letter."""

_A4_MM: Final = (210, 297)
_MARGIN_MM: Final = 18
_LANGUAGE: Final = {"kk": "kk-KZ", "ru": "ru-RU", "en": "en-GB"}
_WIDE_COLUMNS: Final = 6


def render_docx(
    document: Document, envelope: bytes, as_of: datetime, draw: Callable[[Chart], bytes]
) -> bytes:
    """The document as DOCX; equal input gives equal bytes.

    Args:
        document: what to write.
        envelope: JSON that the file carries.
        as_of: aware instant, the date of everything inside.
        draw: gives a chart as PNG.
    """
    word = docx.Document()
    width = _page(word, document)
    _styles(word, document.language)
    word.add_heading(document.title, level=1)
    for line in document.subtitle:
        word.add_paragraph(line)
    for block in document.blocks:
        match block:
            case Heading():
                word.add_heading(block.text, level=2)
            case Paragraph():
                run = word.add_paragraph().add_run(block.text)
                run.bold = block.style == "warning"
                run.font.size = Pt(9) if block.style == "small" else None
            case Table():
                _table(word, block, width)
            case Chart():
                word.add_paragraph(block.title).paragraph_format.keep_with_next = True
                picture = word.add_picture(BytesIO(draw(block)), width=Emu(width))
                picture._inline.docPr.set("descr", block.description)  # noqa: SLF001 - no public way to the alt text
            case Signatures():
                for label in block.labels:
                    word.add_paragraph(f"{label}: " + "_" * 40)
    footer = word.sections[0].footer.paragraphs[0]
    footer.text = document.footer
    for run in footer.runs:
        run.font.size = Pt(7)
    _properties(word, document, as_of)
    made = BytesIO()
    word.save(made)
    return seal(made.getvalue(), envelope, as_of)


def _page(word: WordDocument, document: Document) -> int:
    """Set the page; return the width of its text [EMU]."""
    section = word.sections[0]
    short, long = _A4_MM
    wide, high = (long, short) if document.is_landscape else (short, long)
    section.orientation = WD_ORIENT.LANDSCAPE if document.is_landscape else WD_ORIENT.PORTRAIT
    section.page_width, section.page_height = Mm(wide), Mm(high)
    section.left_margin = section.right_margin = Mm(_MARGIN_MM)
    section.top_margin = section.bottom_margin = Mm(_MARGIN_MM)
    return int(Mm(wide - 2 * _MARGIN_MM))


def _styles(word: WordDocument, language: str) -> None:
    for name in ("Normal", "Heading 1", "Heading 2"):
        style = word.styles[name]
        properties = style.element.get_or_add_rPr()
        fonts = properties.get_or_add_rFonts()
        for attribute in list(fonts.attrib):
            del fonts.attrib[attribute]
        for attribute in ("ascii", "hAnsi", "cs", "eastAsia"):
            fonts.set(qn(f"w:{attribute}"), FONT)
        spoken = OxmlElement("w:lang")
        spoken.set(qn("w:val"), _LANGUAGE[language])
        for old in properties.findall(qn("w:lang")):
            properties.remove(old)
        properties.append(spoken)
    word.styles["Normal"].element.get_or_add_rPr().get_or_add_sz().set(qn("w:val"), "21")


def _table(word: WordDocument, block: Table, width: int) -> None:
    made = word.add_table(rows=1, cols=len(block.columns), style="Table Grid")
    made.autofit = False
    shares = sum(column.width for column in block.columns)
    size = Pt(8) if len(block.columns) > _WIDE_COLUMNS else Pt(10)
    header = made.rows[0]
    mark = OxmlElement("w:tblHeader")
    header._tr.get_or_add_trPr().append(mark)  # noqa: SLF001 - python-docx has no public way to repeat a header row
    for place, column in enumerate(block.columns):
        _fill(header.cells[place], Cell(column.title), is_bold=True, is_number=column.is_number, size=size)
    for number, row in enumerate(block.rows, start=1):
        cells = made.add_row().cells
        is_bold = block.has_total and number == len(block.rows)
        for place, cell in enumerate(row):
            _fill(cells[place], cell, is_bold=is_bold, is_number=block.columns[place].is_number, size=size)
    for place, column in enumerate(block.columns):
        made.columns[place].width = Emu(width * column.width // shares)
        for cell in made.columns[place].cells:
            cell.width = Emu(width * column.width // shares)
    word.add_paragraph()


def _fill(cell: _Cell, value: Cell, *, is_bold: bool, is_number: bool, size: Pt) -> None:
    paragraph: WordParagraph = cell.paragraphs[0]
    run = paragraph.add_run(value.text)
    run.bold = is_bold
    run.font.size = size
    if is_number:
        paragraph.alignment = WD_ALIGN_PARAGRAPH.RIGHT


def _properties(word: WordDocument, document: Document, as_of: datetime) -> None:
    properties = word.core_properties
    stamp = as_of.astimezone(UTC).replace(microsecond=0, tzinfo=None)
    properties.created = properties.modified = properties.last_printed = stamp
    properties.author = properties.last_modified_by = "Kezek"
    properties.title = document.title[:255]
    properties.language = _LANGUAGE[document.language]
    properties.comments = ""
    properties.revision = 1
