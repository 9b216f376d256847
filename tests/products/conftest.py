from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from products.kpi import Progress
from products.model import Direction, Stage
from products.reports.data import (
    ContributionLine,
    Group,
    IndicatorYear,
    InitiativeLine,
    KpiReport,
    LocalisationForm,
    Measure,
    ProductLine,
    RuleLine,
)
from tenants.model import Category, Sector

AS_OF = datetime(2027, 1, 20, 6, 30, tzinfo=UTC)


def figures(hours: int, *, coverage: int = 100) -> tuple[Measure, ...]:
    used_s = hours * 3600 + 1234
    useful = Measure(used_s * 7 // 10, coverage, 100) if coverage else Measure(None, 0, 100)
    energy = Measure(used_s * 412, coverage, 100) if coverage else Measure(None, 0, 100)
    wait = Measure(95 * hours, hours, hours) if hours else Measure(None, 0, 0)
    longest = Measure(1000 * hours, hours, hours) if hours else Measure(None, 0, 0)
    return (
        Measure(used_s * 2, 31, 31),
        Measure(used_s if hours else 0, 31, 31),
        useful,
        wait,
        longest,
        energy,
        Measure(hours // 9000, 1, 1),
    )


@pytest.fixture
def kpi_report() -> KpiReport:
    sectors = tuple(
        Group(sector.value, place % 4 + 3, figures(place * 1234, coverage=(100, 0, 87, 99)[place % 4]))
        for place, sector in enumerate(Sector)
    )
    categories = tuple(
        Group(
            category.value,
            place + 3,
            figures(place * 2345 if place != 5 else 0, coverage=(100, 0, 87, 99)[place % 4]),
        )
        for place, category in enumerate(Category)
    )
    return KpiReport(
        kind="yearly",
        starts_on=date(2026, 1, 1),
        ends_on=date(2026, 12, 31),
        as_of=AS_OF,
        is_simulated=True,
        startups=22,
        universities=5,
        sectors=sectors,
        categories=categories,
        total=Group("total", 41, figures(67_870, coverage=71)),
        rule=RuleLine("1", date(2025, 1, 1), 1, Stage.PROTOTYPE),
        indicator=(
            IndicatorYear(2025, 5, 0, 0, 0, 4, None, None),
            IndicatorYear(2026, 10, 8, 1, 7, 5, None, None),
            IndicatorYear(2027, 15, 1, 0, 8, 5, 8, 12),
        ),
        contributions=(ContributionLine(7, 2026, 10, 3), ContributionLine(8, 2026, 10, 2)),
        products=(
            ProductLine(
                "tilshi-speech",
                {"kk": "«Тілші» қазақ тіліндегі сөйлеуді тану жүйесі", "ru": "«Тілші», распознавание казахской речи", "en": "Tilshi, Kazakh speech recognition"},
                {"kk": "Қаһарман өңірлік зерттеулер университеті", "ru": "Университет региональных исследований", "en": "University of Regional Studies"},
                Sector.EDUCATION.value, datetime(2026, 12, 31, 20, tzinfo=UTC), "1", 12, 41_234_567,
            ),
            ProductLine(
                "su-baqylau",
                {"kk": "Сумен жабдықтау желілеріндегі ағындарды болжау"},
                {"kk": "Бақылау-өлшеуқұралдары ЖШС"},
                Sector.WATER_SUPPLY.value, datetime(2026, 5, 2, 8, tzinfo=UTC), "1", 3, 3_600,
            ),
        ),
        initiatives=(
            InitiativeLine("qaz-tutor", Direction.EDUCATION_AND_LABOUR.value, {"kk": "Жасанды интеллект көмекшісі бар мектептер саны", "ru": "Школ с помощником ИИ", "en": "Schools with an AI tutor"}, date(2027, 12, 31), Progress.UNDER_WAY, 43),
            InitiativeLine("zhol", Direction.INFRASTRUCTURE.value, {"kk": "Жол камералары", "ru": "Дорожные камеры", "en": "Road cameras"}, date(2026, 12, 31), Progress.NO_DATA, None),
        ),
    )  # fmt: skip


@pytest.fixture
def form() -> LocalisationForm:
    return LocalisationForm(
        organisation="«Бақылау-өлшеуқұралдары» жауапкершілігі шектеулі серіктестігі",
        number="050540004567",
        product="«Су бақылау» #1 *сынақ* $x$ \\ [a]",
        starts_on=date(2026, 1, 1),
        ends_on=date(2026, 12, 31),
        responsible="Әбдіғаппарова Қарлығаш Өмірбекқызы",
        contact="+7 700 000 00 00",
        foreign_tenge=Decimal("160050.00"),
        total_tenge=Decimal("860050.00"),
        share_percent=Decimal("81.39"),
        is_reached=True,
        as_of=AS_OF,
    )
