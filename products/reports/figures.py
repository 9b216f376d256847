"""The monthly KPI report and the contribution to the yearly one, laid out in a language. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from functools import partial
from typing import Final

from products.indicator import ALMATY
from products.reports.data import FIGURES, Group, IndicatorYear, KpiReport, Measure, digest
from products.reports.document import Bar, Block, Cell, Chart, Column, Document, Heading, Paragraph, Table
from products.reports.texts import Language, count, day, decimal, instant, month, percent, text

_UNITS: Final = {
    "granted_s": (3_600, 1),
    "used_s": (3_600, 1),
    "useful_s": (3_600, 1),
    "wait_median_s": (60, 1),
    "wait_p95_s": (60, 1),
    "energy_j": (3_600_000, 1),
    "products": (1, 0),
}
"""For each figure, raw units in the unit shown (hour, minute, kilowatt-hour, product) and decimal places."""

_FULL_PERCENT: Final = 100
_DEFINED: Final = (*FIGURES, "organisations", "indicator_2", "forecast", "coverage")


def lay_out(report: KpiReport, language: Language) -> Document:
    """The report in a language."""
    say = partial(text, language)
    is_monthly = report.kind == "monthly"
    period = (
        month(language, report.starts_on) if is_monthly else say("period.year", year=report.starts_on.year)
    )
    blocks = [
        *_notes(report, language),
        Heading(say("section.summary")),
        Paragraph(
            say(
                "summary.served",
                startups=count(language, "count.startups", report.startups),
                universities=count(language, "count.universities", report.universities),
                products=count(language, "count.products", report.indicator[-1].cumulative)
                if report.indicator
                else say("value.no_data"),
            )
        ),
        _overview(report, language),
        *_indicator(report, language),
        *_contributions(report, language),
        *_groups(report.sectors, report.total, "sector", language),
        _chart(report.sectors, "sector", "used_s", "chart.used", language),
        *_groups(report.categories, report.total, "category", language),
        _chart(report.categories, "category", "wait_median_s", "chart.wait", language),
        *_products(report, language),
        *_initiatives(report, language),
        *_definitions(language),
    ]
    return Document(
        language=language,
        title=say(f"report.{report.kind}.title", period=period),
        subtitle=(
            say("report.period", start=day(language, report.starts_on), end=day(language, report.ends_on)),
            say("report.as_of", at=instant(language, report.as_of)),
        ),
        blocks=tuple(blocks),
        footer=say("report.digest", digest=digest(report)),
        page=say("report.page", page="{page}", pages="{pages}"),
        is_landscape=True,
    )


def measure(language: Language, figure: str, found: Measure) -> Cell:
    """A figure's cell: the value, with its coverage where that is not full; "no data" where there are none."""
    coverage = found.coverage_percent
    if found.value is None:
        if coverage is None:
            return Cell(text(language, "value.no_data"))
        return Cell(text(language, "value.no_data_coverage", coverage=percent(language, coverage)))
    per, places = _UNITS[figure]
    value = Decimal(found.value) / per
    shown = decimal(language, value, places=places)
    if coverage is not None and coverage < _FULL_PERCENT:
        shown = text(language, "value.coverage", value=shown, coverage=percent(language, coverage))
    return Cell(shown, value, places)


def _notes(report: KpiReport, language: Language) -> Iterable[Block]:
    if report.is_simulated:
        yield Paragraph(text(language, "report.simulated"), "warning")
    if report.is_open:
        yield Paragraph(text(language, "report.open"), "warning")
    if report.kind == "yearly":
        yield Paragraph(text(language, "report.yearly.note"))


def _overview(report: KpiReport, language: Language) -> Table:
    say = partial(text, language)
    rows = [
        (Cell(say(f"figure.{figure}")), measure(language, figure, found))
        for figure, found in zip(FIGURES, report.total.figures, strict=True)
    ]
    rows.append((Cell(say("column.organisations")), _whole(language, report.total.organisations)))
    rows.append((Cell(say("figure.startups")), _whole(language, report.startups)))
    rows.append((Cell(say("figure.universities")), _whole(language, report.universities)))
    columns = (Column(say("column.figure"), 3), Column(say("column.value"), 2, is_number=True))
    return Table("summary", columns, tuple(rows))


def _indicator(report: KpiReport, language: Language) -> Iterable[Block]:
    say = partial(text, language)
    yield Heading(say("section.indicators"))
    names = (
        "target",
        "added",
        "ceased",
        "cumulative",
        "imported",
        "added_ratio",
        "cumulative_ratio",
        "forecast",
    )
    columns = (
        Column(say("column.year"), 2),
        *(Column(say(f"column.{name}"), 3, is_number=True) for name in names),
    )
    yield Table("indicator-2", columns, tuple(_indicator_row(line, language) for line in report.indicator))
    highest = max((max(line.target, line.cumulative) for line in report.indicator), default=1)
    bars = []
    for line in report.indicator:
        for key, value, is_light in (
            ("chart.fact", line.cumulative, False),
            ("chart.target", line.target, True),
        ):
            bars.append(
                Bar(say(key, year=line.year), str(value), Decimal(value) / max(highest, 1), is_light=is_light)
            )
    yield Chart(say("chart.indicator"), tuple(bars))
    rule = report.rule
    yield Paragraph(
        say(
            "rule.text",
            version=rule.version,
            date=day(language, rule.effective_from),
            hours=rule.min_job_gpu_hours,
            stage=say(f"stage.{rule.min_stage}"),
        ),
        "small",
    )


def _indicator_row(line: IndicatorYear, language: Language) -> tuple[Cell, ...]:
    if line.forecast_low is None or line.forecast_high is None:
        forecast = text(language, "forecast.none")
    else:
        forecast = text(language, "forecast.range", low=line.forecast_low, high=line.forecast_high)
    return (
        Cell(str(line.year)),
        *(
            _whole(language, value)
            for value in (line.target, line.added, line.ceased, line.cumulative, line.imported)
        ),
        Cell(percent(language, line.added * 100 // line.target)),
        Cell(percent(language, line.cumulative * 100 // line.target)),
        Cell(forecast),
    )


def _contributions(report: KpiReport, language: Language) -> Iterable[Block]:
    say = partial(text, language)
    if not report.contributions:
        return
    yield Heading(say("section.contributions"))
    columns = (
        Column(say("column.indicator"), 6),
        Column(say("column.year"), 1),
        Column(say("column.target"), 1, is_number=True),
        Column(say("column.contribution"), 2, is_number=True),
    )
    rows = tuple(
        (
            Cell(say(f"indicator.{line.indicator}")),
            Cell(str(line.year)),
            _whole(language, line.target),
            _whole(language, line.count),
        )
        for line in report.contributions
    )
    yield Table("contributions", columns, rows)
    yield Paragraph(say("contribution.note"), "small")
    yield Paragraph(say("contribution.ambiguity"), "small")


def _groups(groups: tuple[Group, ...], total: Group, dimension: str, language: Language) -> Iterable[Block]:
    say = partial(text, language)
    yield Heading(say(f"section.{dimension}"))
    columns = (
        Column(say(f"column.{dimension}"), 5),
        Column(say("column.organisations"), 3, is_number=True),
        *(Column(say(f"figure.{figure}"), 4, is_number=True) for figure in FIGURES),
    )
    rows = [
        (
            Cell(name),
            _whole(language, group.organisations),
            *(measure(language, figure, found) for figure, found in zip(FIGURES, group.figures, strict=True)),
        )
        for name, group in [
            *((say(f"{dimension}.{group.key}"), group) for group in groups),
            (say("total"), total),
        ]
    ]
    yield Table(f"by-{dimension}", columns, tuple(rows), has_total=True)


def _chart(groups: tuple[Group, ...], dimension: str, figure: str, title: str, language: Language) -> Chart:
    place = FIGURES.index(figure)
    highest = max((group.figures[place].value or 0 for group in groups), default=0)
    bars = []
    for group in groups:
        found = group.figures[place]
        ratio = None if found.value is None else Decimal(found.value) / max(highest, 1)
        bars.append(
            Bar(
                text(language, f"{dimension}.{group.key}"),
                measure(language, figure, found).text,
                None if ratio is None else ratio.quantize(Decimal("0.0001")),
            )
        )
    return Chart(text(language, title), tuple(bars))


def _products(report: KpiReport, language: Language) -> Iterable[Block]:
    say = partial(text, language)
    yield Heading(say("section.products"))
    if not report.products:
        yield Paragraph(say("products.none"))
        return
    columns = (
        Column(say("column.product"), 5),
        Column(say("column.organisation"), 5),
        Column(say("column.sector"), 4),
        Column(say("column.counted_at"), 3),
        Column(say("column.rule"), 2),
        Column(say("column.jobs"), 2, is_number=True),
        Column(say("figure.used_s"), 3, is_number=True),
    )
    rows = tuple(
        (
            Cell(_named(line.name, language, line.slug)),
            Cell(_named(line.organisation, language, "")),
            Cell(say(f"sector.{line.sector}")),
            Cell(day(language, line.counted_at.astimezone(ALMATY).date())),
            Cell(line.rule),
            _whole(language, line.jobs),
            measure(language, "used_s", Measure(line.used_s, 1, 1)),
        )
        for line in report.products
    )
    yield Table("products", columns, rows)


def _initiatives(report: KpiReport, language: Language) -> Iterable[Block]:
    say = partial(text, language)
    if not report.initiatives:
        return
    yield Heading(say("section.initiatives"))
    columns = (
        Column(say("column.initiative"), 3),
        Column(say("column.direction"), 4),
        Column(say("column.kpi"), 6),
        Column(say("column.deadline"), 3),
        Column(say("column.progress"), 3),
    )
    rows = tuple(
        (
            Cell(line.slug),
            Cell(say(f"direction.{line.direction}")),
            Cell(_named(line.kpi, language, "")),
            Cell(day(language, line.deadline)),
            Cell(
                say(f"progress.{line.progress}")
                if line.done_percent is None
                else f"{say(f'progress.{line.progress}')}, {percent(language, line.done_percent)}"
            ),
        )
        for line in report.initiatives
    )
    yield Table("initiatives", columns, rows)


def _definitions(language: Language) -> Iterable[Block]:
    yield Heading(text(language, "section.definitions"))
    for name, meaning in definitions(language).items():
        yield Paragraph(f"{name}: {meaning}", "small")
    yield Paragraph(text(language, "report.verify"), "small")


def definitions(language: Language) -> dict[str, str]:
    """Every figure's name with its definition and source."""
    titles = {
        "organisations": "column.organisations",
        "indicator_2": "section.indicators",
        "forecast": "column.forecast",
        "coverage": "value.no_data",
    }
    return {
        text(language, titles.get(key, f"figure.{key}")): text(language, f"definition.{key}")
        for key in _DEFINED
    }


def _whole(language: Language, value: int) -> Cell:
    return Cell(decimal(language, Decimal(value), places=0), Decimal(value))


def _named(names: dict[str, str], language: Language, otherwise: str) -> str:
    return names.get(language) or names.get("kk") or otherwise
