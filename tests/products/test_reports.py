"""Reports: the same bytes from the same data anywhere, verifiable files, every language, no data is never 0."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
import zipfile
import zlib
from datetime import UTC, date, datetime
from decimal import Decimal
from io import BytesIO
from pathlib import Path

import docx
import pytest

import products
from products.kpi import FutureError
from products.reports import build as building
from products.reports import data, package
from products.reports.build import (
    FORM_FORMATS,
    FORM_LANGUAGES,
    FORMATS,
    NotOfferedError,
    UnreadableReportError,
    build,
    lay_out,
    verify,
)
from products.reports.data import (
    BadReportError,
    Group,
    KpiReport,
    LocalisationForm,
    Measure,
    TooManyRowsError,
    digest,
    from_document,
    to_document,
)
from products.reports.document import Chart, Document, Heading, Paragraph, Table
from products.reports.figures import measure
from products.reports.package import BadPackageError, data_of
from products.reports.pdf import attached, render_pages
from products.reports.texts import LANGUAGES, instant, text

ROOT = Path(products.__file__).resolve().parents[1]
KAZAKH = "әғқңөұүһі"

MAKER = """
import sys
from products.reports.build import build
from products.reports.data import from_document
import json
report = from_document(json.load(open(sys.argv[1], encoding="utf-8")))
for pair in sys.argv[2:]:
    file_format, language = pair.split(":")
    open(f"{language}.{file_format}", "wb").write(build(report, file_format, language))
"""


def all_text(document: Document) -> str:
    found = [document.title, *document.subtitle, document.footer]
    for block in document.blocks:
        match block:
            case Heading() | Paragraph():
                found.append(block.text)
            case Table():
                found += [column.title for column in block.columns]
                found += [cell.text for row in block.rows for cell in row]
            case Chart():
                found.append(block.description)
            case _:
                found += block.labels
    return "\n".join(found)


@pytest.mark.parametrize("which", ["kpi_report", "form"])
def test_two_folders_two_dates_two_time_zones_give_the_same_bytes(which, request, tmp_path) -> None:
    report = request.getfixturevalue(which)
    is_form = which == "form"
    pairs = [
        (f, lang)
        for f in (FORM_FORMATS if is_form else FORMATS)
        for lang in (FORM_LANGUAGES if is_form else LANGUAGES)
    ]
    source = tmp_path / "report.json"
    source.write_text(json.dumps(to_document(report)), encoding="utf-8")
    clock = tmp_path / "sitecustomize.py"
    clock.write_text(
        "import time, os\n_real = time.time\ntime.time = lambda: _real() + float(os.environ['SHIFT_S'])\n"
    )
    for folder, shift_s, zone in (("a", 0, "UTC"), ("b/deep", 40_000_000, "Asia/Tokyo")):
        where = tmp_path / folder
        where.mkdir(parents=True)
        environment = {
            **os.environ,
            "PYTHONPATH": f"{tmp_path}:{ROOT}",
            "SHIFT_S": str(shift_s),
            "TZ": zone,
            "PYTHONHASHSEED": str(shift_s % 97),
        }
        subprocess.run(
            [sys.executable, "-c", MAKER, str(source), *[f"{f}:{lang}" for f, lang in pairs]],
            cwd=where,
            env=environment,
            check=True,
        )
    for file_format, language in pairs:
        first = (tmp_path / "a" / f"{language}.{file_format}").read_bytes()
        assert first == (tmp_path / "b/deep" / f"{language}.{file_format}").read_bytes()
        assert first == build(report, file_format, language)
        verdict = verify(first)
        assert verdict.problem is None
        assert (verdict.digest, verdict.language, verdict.file_format) == (
            digest(report),
            language,
            file_format,
        )


def test_the_shifted_clock_of_that_test_is_really_shifted(tmp_path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import time, os\n_real = time.time\ntime.time = lambda: _real() + float(os.environ['SHIFT_S'])\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time())"],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "SHIFT_S": "40000000"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert float(found.stdout) > time.time() + 30_000_000


def test_the_digest_is_of_the_data_and_changes_with_them(kpi_report: KpiReport) -> None:
    assert digest(kpi_report) == digest(from_document(to_document(kpi_report)))
    assert from_document(to_document(kpi_report)) == kpi_report
    assert digest(dataclasses.replace(kpi_report, startups=23)) != digest(kpi_report)
    assert {verify(build(kpi_report, "json", language)).digest for language in LANGUAGES} == {
        digest(kpi_report)
    }


def test_edited_figures_are_found_out(kpi_report: KpiReport) -> None:
    edited = build(kpi_report, "json", "en").replace(b'"startups": 22', b'"startups": 23')
    assert "were changed" in str(verify(edited).problem)
    retitled = build(kpi_report, "json", "en").replace(b'"title": "The', b'"title": "A')
    assert "edited after" in str(verify(retitled).problem)


@pytest.mark.parametrize("file_format", ["pdf", "xlsx", "docx"])
def test_a_file_edited_beside_its_data_is_found_out(kpi_report: KpiReport, file_format) -> None:
    content = build(kpi_report, file_format, "kk")
    if file_format == "pdf":
        edited = content + b"\n% more\n"
    else:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        made = BytesIO()
        with zipfile.ZipFile(made, "w") as archive:
            for name, part in parts.items():
                archive.writestr(name, part.replace("Барлығы".encode(), "Бәрі".encode()))
        edited = made.getvalue()
    assert "edited after" in str(verify(edited).problem)


def test_a_file_of_other_programs_says_so_and_its_data_are_still_checked(kpi_report: KpiReport) -> None:
    document = json.loads(build(kpi_report, "json", "ru"))
    document["made_with"]["typst"] = "0.1"
    verdict = verify(json.dumps(document).encode())
    assert "typst 0.1" in str(verdict.problem)
    assert "sound" in str(verdict.problem)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"%PDF-1.7 nothing",
        b"PK\x03\x04 broken",
        b"{}",
        b"[1]",
        b'{"schema": "kezek-report/9"}',
        b'{"schema": "kezek-report/1"}',
        b"hello",
    ],
)
def test_what_is_no_report_is_refused(content: bytes) -> None:
    with pytest.raises(UnreadableReportError):
        verify(content)


def test_limits_of_what_is_verified(kpi_report: KpiReport, monkeypatch: pytest.MonkeyPatch) -> None:
    content = build(kpi_report, "xlsx", "en")
    monkeypatch.setattr(building, "MAX_FILE_BYTES", len(content))
    assert verify(content).problem is None
    monkeypatch.setattr(building, "MAX_FILE_BYTES", len(content) - 1)
    with pytest.raises(UnreadableReportError, match="at most"):
        verify(content)
    with zipfile.ZipFile(BytesIO(content)) as archive:
        parts, size = len(archive.namelist()), archive.getinfo(package.DATA_PART).file_size
    for name, value in (("MAX_PARTS", parts), ("MAX_PART_BYTES", size)):
        monkeypatch.setattr(package, name, value)
        assert data_of(content)[1] == "xlsx"
        monkeypatch.setattr(package, name, value - 1)
        with pytest.raises(BadPackageError):
            data_of(content)
        monkeypatch.undo()


def test_unknown_language_in_a_files_data_is_refused(kpi_report: KpiReport) -> None:
    document = json.loads(build(kpi_report, "json", "ru"))
    with pytest.raises(UnreadableReportError, match="neither is known"):
        verify(json.dumps({**document, "language": "de"}).encode())
    with pytest.raises(UnreadableReportError, match="data"):
        verify(json.dumps({**document, "data": {**document["data"], "startups": "many"}}).encode())


def test_the_pdf_carries_its_fonts_with_every_kazakh_letter(kpi_report: KpiReport) -> None:
    content = build(kpi_report, "pdf", "kk")
    streams = []
    for found in re.finditer(rb"stream\r?\n(.*?)endstream", content, re.DOTALL):
        try:
            streams.append(zlib.decompress(found.group(1)))
        except zlib.error:
            streams.append(found.group(1))
    maps = b"".join(
        stream for stream in streams if b"beginbfchar" in stream or b"beginbfrange" in stream
    ).upper()
    assert maps
    for letter in KAZAKH:
        assert f"<{ord(letter):04X}>".encode() in maps, letter
    assert b"FontFile" in content
    assert content.startswith(b"%PDF-1.7")
    envelope = attached(content)
    assert envelope is not None
    assert json.loads(envelope)["digest"] == digest(kpi_report)


def test_no_page_is_empty_and_no_text_reaches_its_edge(kpi_report: KpiReport, form: LocalisationForm) -> None:
    for report, languages in ((kpi_report, LANGUAGES), (form, FORM_LANGUAGES)):
        for language in languages:
            for page in render_pages(lay_out(report, language), b"{}", report.as_of, ppi=40):
                width, rows = pixels(page)
                inked = [row for row in rows if any(value < 200 for value in row)]
                assert inked
                margin = width // 30
                assert not any(value < 200 for row in rows for value in row[-margin:])


def pixels(png: bytes) -> tuple[int, list[list[int]]]:
    """Width and rows of brightness of an 8-bit PNG without interlacing (RFC 2083)."""
    place, packed, header = 8, b"", b""
    while place < len(png):
        size, kind = int.from_bytes(png[place : place + 4]), png[place + 4 : place + 8]
        body = png[place + 8 : place + 8 + size]
        header = body if kind == b"IHDR" else header
        packed += body if kind == b"IDAT" else b""
        place += size + 12
    width, height = int.from_bytes(header[:4]), int.from_bytes(header[4:8])
    assert header[8] == 8
    step = {0: 1, 2: 3, 4: 2, 6: 4}[header[9]]
    raw, length = zlib.decompress(packed), width * step
    before, rows = bytearray(length), []
    for number in range(height):
        start = number * (length + 1)
        kind, line = raw[start], bytearray(raw[start + 1 : start + 1 + length])
        for i in range(length):
            a = line[i - step] if i >= step else 0
            b, c = before[i], before[i - step] if i >= step else 0
            if kind == 1:
                line[i] = (line[i] + a) & 255
            elif kind == 2:
                line[i] = (line[i] + b) & 255
            elif kind == 3:
                line[i] = (line[i] + (a + b) // 2) & 255
            elif kind == 4:
                guess = a + b - c
                nearest = min((abs(guess - a), 0, a), (abs(guess - b), 1, b), (abs(guess - c), 2, c))[2]
                line[i] = (line[i] + nearest) & 255
        rows.append([min(line[i : i + min(3, step)]) for i in range(0, length, step)])
        before = line
    return width, rows


def test_the_spreadsheet_holds_numbers_and_leaves_no_data_as_words(kpi_report: KpiReport) -> None:
    with zipfile.ZipFile(BytesIO(build(kpi_report, "xlsx", "en"))) as archive:
        names = archive.namelist()
        shared = archive.read("xl/sharedStrings.xml").decode()
        sheets = [archive.read(name).decode() for name in names if name.startswith("xl/worksheets/sheet")]
        assert all(info.date_time == (2027, 1, 20, 6, 30, 0) for info in archive.infolist())
    assert "no data (coverage 0%)" in shared
    assert any(re.search(r"<v>67870\.34\d*</v>", sheet) for sheet in sheets)
    assert sum(name.startswith("xl/charts/chart") for name in names) == 3


def test_the_text_document_has_the_tables_and_charts_with_their_words(kpi_report: KpiReport) -> None:
    document = docx.Document(BytesIO(build(kpi_report, "docx", "ru")))
    assert len(document.inline_shapes) == 3
    assert "нет данных" in document.inline_shapes[2]._inline.docPr.get("descr")
    cells = [cell.text for table in document.tables for row in table.rows for cell in row.cells]
    assert "Реестр" not in cells
    assert "Водоснабжение" in cells
    assert document.core_properties.modified == datetime(2027, 1, 20, 6, 30, tzinfo=UTC)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_report_says_what_it_must(kpi_report: KpiReport, language) -> None:
    shown = all_text(lay_out(kpi_report, language))
    assert digest(kpi_report) in shown
    for key in (
        "report.simulated",
        "report.yearly.note",
        "contribution.note",
        "contribution.ambiguity",
        "definition.indicator_2",
    ):
        assert text(language, key) in shown
    assert instant(language, kpi_report.as_of) in shown
    assert text(language, "report.open") not in shown
    opened = dataclasses.replace(kpi_report, as_of=datetime(2026, 6, 1, tzinfo=UTC), is_simulated=False)
    assert text(language, "report.open") in all_text(lay_out(opened, language))
    assert text(language, "report.simulated") not in all_text(lay_out(opened, language))


def test_the_form_keeps_its_numbers_1_2_6_and_its_terms(form: LocalisationForm) -> None:
    document = lay_out(form, "kk")
    assert [block.text[:2] for block in document.blocks if isinstance(block, Heading)] == ["1.", "2.", "6."]
    shown = all_text(document)
    for term in (
        "БҚОҮ",
        "∑СВᵢ",
        "∑ОСВᵢ",
        "БСН/ЖСН",
        form.number,
        form.responsible,
        "81,39",
        "Шекті мәнге жетті",
    ):
        assert term in shown
    missed = dataclasses.replace(form, is_reached=False, share_percent=Decimal("79.99"))
    assert text("ru", "form.missed") in all_text(lay_out(missed, "ru"))


def test_the_form_is_made_only_as_the_order_has_it(form: LocalisationForm) -> None:
    for file_format, language in (("xlsx", "kk"), ("json", "kk"), ("pdf", "en")):
        with pytest.raises(NotOfferedError, match="choose from pdf, docx and kk, ru"):
            build(form, file_format, language)


def test_a_figure_without_data_is_never_zero() -> None:
    with pytest.raises(BadReportError):
        Measure(0, 0, 10)
    with pytest.raises(BadReportError):
        Measure(5, 11, 10)
    assert measure("en", "energy_j", Measure(None, 0, 10)).text == "no data (coverage 0%)"
    assert measure("en", "energy_j", Measure(None, 0, 0)).text == "no data"
    assert measure("en", "energy_j", Measure(3_600_000, 999, 1000)).text == "1.0 (coverage 99%)"
    assert measure("ru", "used_s", Measure(4_500_000, 31, 31)).text == "1\xa0250,0"
    assert measure("kk", "products", Measure(0, 1, 1)).text == "0"
    assert measure("kk", "useful_s", Measure(None, 0, 10)).number is None


def test_a_report_for_the_future_or_upside_down_is_refused(kpi_report: KpiReport) -> None:
    with pytest.raises(FutureError):
        dataclasses.replace(kpi_report, as_of=datetime(2025, 12, 31, 18, 59, tzinfo=UTC))
    dataclasses.replace(kpi_report, as_of=datetime(2025, 12, 31, 19, tzinfo=UTC))
    with pytest.raises(BadReportError, match="swap"):
        dataclasses.replace(kpi_report, ends_on=date(2025, 12, 31))
    with pytest.raises(BadReportError, match="time zone"):
        dataclasses.replace(kpi_report, as_of=datetime(2027, 1, 1))  # noqa: DTZ001 - a naive time is the case
    with pytest.raises(BadReportError, match="figures"):
        Group("mining", 3, (Measure(1, 1, 1),))


def test_the_form_needs_sums_that_give_a_share(form: LocalisationForm) -> None:
    for foreign, total in (("0", "0"), ("2", "1"), ("-1", "1")):
        with pytest.raises(BadReportError):
            dataclasses.replace(form, foreign_tenge=Decimal(foreign), total_tenge=Decimal(total))


def test_rows_are_limited(kpi_report: KpiReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "MAX_ROWS", len(kpi_report.sectors))
    assert dataclasses.replace(kpi_report).sectors
    monkeypatch.setattr(data, "MAX_ROWS", len(kpi_report.sectors) - 1)
    with pytest.raises(TooManyRowsError, match="sectors"):
        dataclasses.replace(kpi_report)


def test_empty_tables_are_said_in_words(kpi_report: KpiReport) -> None:
    bare = dataclasses.replace(
        kpi_report, products=(), initiatives=(), contributions=(), indicator=(), sectors=(), categories=()
    )
    for language in LANGUAGES:
        assert text(language, "products.none") in all_text(lay_out(bare, language))
        for file_format in FORMATS:
            assert verify(build(bare, file_format, language)).problem is None


def test_a_word_longer_than_its_column_stays_inside_the_page(kpi_report: KpiReport) -> None:
    line = dataclasses.replace(
        kpi_report.products[0],
        name={"kk": "қанағаттандырылмағандықтарыңыздан" * 3},
        organisation={"kk": "Q" * 90},
    )
    report = dataclasses.replace(kpi_report, products=(line,) * 3)
    for page in render_pages(lay_out(report, "kk"), b"{}", report.as_of, ppi=40):
        width, rows = pixels(page)
        assert not any(value < 200 for row in rows for value in row[-(width // 30) :])
