"""A document as XLSX: a sheet for each table, figures as numbers, charts as charts."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from io import BytesIO
from typing import Final

from xlsxwriter.format import Format
from xlsxwriter.workbook import Workbook
from xlsxwriter.worksheet import Worksheet

from products.reports.document import Chart, Document, Heading, Paragraph, Table
from products.reports.package import seal

MAX_SHEET_NAME: Final = 31
"""Length of a sheet's name [characters]. Source: the format's own limit."""

_WIDTH_PER_SHARE: Final = 7
_TEXT_WIDTH: Final = 110
_BAR_HEIGHT_PX: Final = 26
_CHART_HEAD_PX: Final = 90
_CHART_WIDTH_PX: Final = 760


def render_xlsx(document: Document, envelope: bytes, as_of: datetime) -> bytes:
    """The document as XLSX; equal input gives equal bytes."""
    made = BytesIO()
    workbook = Workbook(made, {"in_memory": True, "strings_to_formulas": False, "strings_to_urls": False})
    stamp = as_of.astimezone(UTC).replace(microsecond=0, tzinfo=None)
    workbook.set_properties({"title": document.title, "author": "Kezek", "created": stamp})
    _about(workbook, document)
    for block in document.blocks:
        if isinstance(block, Table):
            _table(workbook, block)
    _charts(workbook, [block for block in document.blocks if isinstance(block, Chart)])
    workbook.close()
    return seal(made.getvalue(), envelope, as_of)


def _about(workbook: Workbook, document: Document) -> None:
    sheet = workbook.add_worksheet("report")
    sheet.set_column(0, 0, _TEXT_WIDTH)
    plain = workbook.add_format({"text_wrap": True, "valign": "top"})
    strong = workbook.add_format({"bold": True, "text_wrap": True})
    lines: list[tuple[str, Format]] = [
        (document.title, workbook.add_format({"bold": True, "font_size": 14, "text_wrap": True}))
    ]
    lines += [(line, plain) for line in document.subtitle]
    headed = [
        (block, after) for block, after in zip(document.blocks, [*document.blocks[1:], None], strict=True)
    ]
    for block, after in headed:
        match block:
            case Heading() if isinstance(after, Paragraph):
                lines.append((block.text, strong))
            case Paragraph():
                lines.append((block.text, strong if block.style == "warning" else plain))
            case _:
                continue
    lines.append((document.footer, plain))
    for row, (line, style) in enumerate(lines):
        sheet.write_string(row, 0, line, style)
    _paper(sheet)


def _table(workbook: Workbook, block: Table) -> None:
    sheet = workbook.add_worksheet(block.name[:MAX_SHEET_NAME])
    head = workbook.add_format(
        {"bold": True, "text_wrap": True, "border": 1, "bg_color": "#DDECF1", "valign": "top"}
    )
    for place, column in enumerate(block.columns):
        sheet.set_column(place, place, max(12, column.width * _WIDTH_PER_SHARE))
        sheet.write_string(0, place, column.title, head)
    formats: dict[tuple[int, bool, bool], Format] = {}
    for number, row in enumerate(block.rows, start=1):
        is_total = block.has_total and number == len(block.rows)
        for place, cell in enumerate(row):
            key = (cell.places, is_total, block.columns[place].is_number)
            if key not in formats:
                formats[key] = workbook.add_format(
                    {
                        "border": 1,
                        "text_wrap": True,
                        "valign": "top",
                        "bold": is_total,
                        "align": "right" if key[2] else "left",
                        "num_format": "#,##0" + ("." + "0" * cell.places if cell.places else ""),
                    }
                )
            # A figure that does not cover everything keeps its words, so that no sum is made of half-known parts.
            if cell.number is None or "(" in cell.text:
                sheet.write_string(number, place, cell.text, formats[key])
            else:
                sheet.write_number(number, place, float(cell.number), formats[key])
    sheet.freeze_panes(1, 1)
    sheet.repeat_rows(0)
    _paper(sheet)


def _charts(workbook: Workbook, charts: Iterable[Chart]) -> None:
    found = list(charts)
    if not found:
        return
    sheet, row = workbook.add_worksheet("charts"), 0
    data = workbook.add_worksheet("chart-data")
    start = 0
    for chart in found:
        data.write_string(start, 0, chart.title)
        for place, bar in enumerate(chart.bars, start=start + 1):
            data.write_string(place, 0, bar.label)
            data.write_string(place, 1, bar.shown)
            if bar.ratio is not None:
                data.write_number(place, 2, float(bar.ratio))
        made = workbook.add_chart({"type": "bar"})
        if made is None or not chart.bars:
            continue
        last = start + len(chart.bars)
        labels = [{"value": bar.shown} for bar in chart.bars]
        made.add_series(
            {
                "name": chart.title,
                "categories": ["chart-data", start + 1, 0, last, 0],
                "values": ["chart-data", start + 1, 2, last, 2],
                "fill": {"color": "#0B6E8F"},
                "data_labels": {"value": True, "custom": labels},
            }
        )
        made.set_title({"name": chart.title, "name_font": {"size": 11}})
        made.set_legend({"none": True})
        made.set_x_axis({"visible": False, "major_gridlines": {"visible": False}})
        made.set_y_axis({"reverse": True})
        height = _CHART_HEAD_PX + _BAR_HEIGHT_PX * len(chart.bars)
        made.set_size({"width": _CHART_WIDTH_PX, "height": height})
        sheet.insert_chart(row, 0, made, {"description": chart.description})
        row += height // 20 + 2
        start = last + 2


def _paper(sheet: Worksheet) -> None:
    sheet.set_landscape()
    sheet.set_paper(9)
    sheet.fit_to_pages(1, 0)
