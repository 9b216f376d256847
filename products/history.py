"""The shell of the evidence rule: facts from the database, and the acts that add to them."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from io import StringIO
from pathlib import Path
from typing import Final
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from products.evidence import (
    Described,
    EvidenceLost,
    Fact,
    History,
    Review,
    Reviewed,
    Trained,
    Verdict,
    judge_all,
)
from products.evidence_tables import (
    ImportedProductRow,
    InitiativeMeasurementRow,
    InitiativeRow,
    ProductFactRow,
)
from products.kpi import Imported, Indicator2, Initiative, Measurement, indicator_2
from products.model import Direction, Product, ProductId, Stage
from products.rules import EvidenceRule, parse_rules
from products.tables import ProductJobRow, ProductRow
from quota.model import Ground, GroundKind
from scheduler.model import JobState
from scheduler.tables import JobRow
from store import journal
from store.clock import ALMATY
from store.tables import JournalRow
from tenants.model import Category, Sector
from tenants.tables import OrganisationRow

MAX_IMPORT_ROWS: Final = 500
"""Products of one import [count]: two years' targets are 15."""

MAX_IMPORT_CHARS: Final = 1_000_000
"""Length of an import [characters]: two thousand of each row."""

IMPORT_COLUMNS: Final = (
    "slug",
    "name_kk",
    "name_ru",
    "name_en",
    "counted_on",
    "decision_kind",
    "decision_body",
    "decision_number",
    "decision_date",
)
"""Header of the CSV that products of 2025-2026 are imported from."""

_RULES: Final = Path(__file__).with_name("evidence_rules.yaml")
_SLUG: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_REVIEWS: Final = {"product.verified": Review.VERIFIED, "product.returned": Review.RETURNED}


class BadImportError(ValueError):
    """A row of the import cannot be taken; nothing was imported."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(f"line {line}: {why}; nothing was imported")
        self.line = line
        self.why = why


@dataclass(frozen=True, slots=True)
class Statement:
    """What is said of a product from now on."""

    stage: Stage
    uses_ai: bool
    programme: str | None = None


def published_rules() -> tuple[EvidenceRule, ...]:
    """The versions of the evidence rule of this release."""
    return parse_rules(_RULES.read_text(encoding="utf-8"))


def describe(session: Session, product: Product, said: Statement, *, actor: str, at: datetime) -> None:
    """Add what is said of a product. The caller has found the product for its principal."""
    session.add(
        ProductFactRow(
            product_id=product.id,
            at=at,
            kind="described",
            stage=said.stage.value,
            uses_ai=said.uses_ai,
            programme=said.programme,
        )
    )
    data: dict[str, object] = {"stage": said.stage.value, "uses_ai": said.uses_ai}
    journal.append(session, "product.described", f"product:{product.id}", actor=actor, at=at, data=data)


def withdraw(session: Session, product: Product, *, actor: str, at: datetime) -> None:
    """Withdraw a product: it ceases to count from now on, earlier figures stand."""
    session.add(ProductFactRow(product_id=product.id, at=at, kind="withdrawn"))
    journal.append(session, "product.withdrawn", f"product:{product.id}", actor=actor, at=at, data={})


def import_products(session: Session, text: str, *, actor: str, at: datetime) -> int:
    """Import products of 2025-2026 from CSV with their decisions; return how many. All or none.

    Raises:
        BadImportError: a header or a row that cannot be taken, or one that is there already.
    """
    if len(text) > MAX_IMPORT_CHARS:
        raise BadImportError(1, f"the file has more than {MAX_IMPORT_CHARS} characters; split it")
    # A name of the register stands for one product, whether it was imported or built here.
    known = set(session.scalars(select(ImportedProductRow.slug))) | set(
        session.scalars(select(ProductRow.slug))
    )
    rows: list[ImportedProductRow] = []
    for line, row in _lines(text):
        if len(rows) == MAX_IMPORT_ROWS:
            raise BadImportError(line, f"more than {MAX_IMPORT_ROWS} products; split the file")
        rows.append(_imported(line, row, at))
        if rows[-1].slug in known:
            raise BadImportError(line, f"product {rows[-1].slug} is there already; remove the line")
        known.add(rows[-1].slug)
    if not rows:
        raise BadImportError(2, "there is no product in the file")
    session.add_all(rows)
    for made in rows:
        data: dict[str, object] = {"counted_on": made.counted_on.isoformat()}
        subject = f"imported-product:{made.slug}"
        journal.append(session, "product.imported", subject, actor=actor, at=at, data=data)
    return len(rows)


def histories(session: Session, as_of: datetime) -> tuple[History, ...]:
    """Every product with what happened to it up to `as_of`: a national figure, so over every project.

    Cost: one row for each product, link to a finished job, review and statement.
    """
    facts: dict[UUID, list[Fact]] = {}
    programmes: dict[UUID, str | None] = {}
    products = session.execute(
        select(ProductRow, OrganisationRow.category)
        .join(OrganisationRow, OrganisationRow.id == ProductRow.organisation_id)
        .where(ProductRow.registered_at <= as_of)
    ).all()
    reviews = session.scalars(select(JournalRow).where(JournalRow.kind.in_(_REVIEWS)).order_by(JournalRow.id))
    reviewed: dict[UUID, list[Reviewed]] = {}
    for record in reviews:
        product_id = UUID(record.subject.removeprefix("product:"))
        reviewed.setdefault(product_id, []).append(Reviewed(record.at, _REVIEWS[record.kind]))
    links = session.execute(
        select(
            ProductJobRow.product_id,
            ProductJobRow.linked_at,
            JobRow.id,
            JobRow.finished_at,
            JobRow.gpu_seconds,
        )
        .join(JobRow, JobRow.id == ProductJobRow.job_id)
        .where(JobRow.state == JobState.COMPLETED.value)
    )
    for product_id, linked_at, job_id, finished_at, gpu_seconds in links:
        seen_at = _seen_at(linked_at, reviewed.get(product_id, ()))
        if finished_at is not None and seen_at is not None:
            trained = Trained(max(seen_at, finished_at), job_id, gpu_seconds)
            facts.setdefault(product_id, []).append(trained)
    for fact in session.scalars(
        select(ProductFactRow).where(ProductFactRow.at <= as_of).order_by(ProductFactRow.id)
    ):
        if fact.job_id is not None:
            facts.setdefault(fact.product_id, []).append(EvidenceLost(fact.at, fact.job_id))
        elif fact.stage is None or fact.uses_ai is None:
            reviewed.setdefault(fact.product_id, []).append(Reviewed(fact.at, Review.WITHDRAWN))
        else:
            facts.setdefault(fact.product_id, []).append(Described(fact.at, Stage(fact.stage), fact.uses_ai))
            programmes[fact.product_id] = fact.programme
    return tuple(
        History(
            product_id=ProductId(row.id),
            slug=row.slug,
            sector=Sector(row.sector),
            category=Category(category),
            programme=programmes.get(row.id),
            facts=tuple(
                fact for fact in (*facts.get(row.id, ()), *reviewed.get(row.id, ())) if fact.at <= as_of
            ),
        )
        for row, category in products
    )


def verdicts(session: Session, as_of: datetime) -> tuple[Verdict, ...]:
    """Every product judged by this release's rules as of an instant, by slug."""
    return judge_all(histories(session, as_of), published_rules(), as_of)


def imported(session: Session) -> tuple[Imported, ...]:
    """Products without job evidence, by slug."""
    rows = session.scalars(select(ImportedProductRow).order_by(ImportedProductRow.slug))
    return tuple(Imported(row.slug, row.counted_on, _ground(row.decision), row.imported_at) for row in rows)


def indicator_years(session: Session, years: Iterable[int], as_of: datetime) -> tuple[Indicator2, ...]:
    """Indicator 2 in each of the years, from the same facts.

    Raises:
        YearWithoutTargetError: a year without target.
        FutureError: a year that has not begun.
    """
    judged, others = verdicts(session, as_of), imported(session)
    return tuple(indicator_2(judged, others, year, as_of) for year in years)


def initiatives(session: Session, as_of: datetime) -> tuple[Initiative, ...]:
    """Initiatives with what was measured and entered up to `as_of`, by slug."""
    measured: dict[str, list[Measurement]] = {}
    rows = session.scalars(
        select(InitiativeMeasurementRow).where(InitiativeMeasurementRow.entered_at <= as_of)
    )
    for row in rows:
        measured.setdefault(row.initiative, []).append(Measurement(row.on, row.value, row.source))
    found = session.scalars(
        select(InitiativeRow).where(InitiativeRow.registered_at <= as_of).order_by(InitiativeRow.slug)
    )
    return tuple(
        Initiative(
            slug=row.slug,
            direction=Direction(row.direction),
            kpi=tuple(sorted(row.kpi.items())),
            unit=row.unit,
            baseline=row.baseline,
            target=row.target,
            deadline=row.deadline,
            measurements=tuple(sorted(measured.get(row.slug, ()), key=lambda item: item.on)),
        )
        for row in found
    )


def _seen_at(linked_at: datetime, reviewed: Iterable[Reviewed]) -> datetime | None:
    """When a link began to be evidence: at once, or, added to a verified product, with its next review."""
    is_verified = False
    for each in sorted(reviewed, key=lambda review: review.at):
        if each.at < linked_at:
            is_verified = each.review is Review.VERIFIED
        elif is_verified:
            return each.at
    return None if is_verified else linked_at


def _lines(text: str) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(StringIO(text), strict=True)
    try:
        if tuple(reader.fieldnames or ()) != IMPORT_COLUMNS:
            raise BadImportError(1, f"the header must be {','.join(IMPORT_COLUMNS)}")
        for row in reader:
            if len(row) != len(IMPORT_COLUMNS) or None in row.values():
                raise BadImportError(reader.line_num, f"a row has {len(IMPORT_COLUMNS)} values")
            yield reader.line_num, row
    except csv.Error as error:
        raise BadImportError(reader.line_num, f"is no CSV: {error}") from error


def _imported(line: int, row: dict[str, str], at: datetime) -> ImportedProductRow:
    try:
        decision = Ground(
            GroundKind(row["decision_kind"]),
            row["decision_body"].strip(),
            row["decision_number"].strip(),
            date.fromisoformat(row["decision_date"]),
        )
        made = Imported(row["slug"].strip(), date.fromisoformat(row["counted_on"]), decision, at)
    except (ValueError, TypeError, AttributeError) as error:
        raise BadImportError(line, str(error)) from error
    if _SLUG.fullmatch(made.slug) is None:
        raise BadImportError(line, f"{made.slug!r} is no slug; write small Latin letters, digits and hyphens")
    if made.counted_on > at.astimezone(ALMATY).date():
        raise BadImportError(line, f"{made.counted_on} lies in the future; import what was decided to count")
    name = {language: row[f"name_{language}"].strip() for language in ("kk", "ru", "en")}
    if not (made.slug and decision.body and decision.number and all(name.values())):
        raise BadImportError(
            line, "slug, names in three languages, body and number of the decision must be filled in"
        )
    stored: dict[str, object] = {
        "kind": decision.kind.value,
        "body": decision.body,
        "number": decision.number,
        "date": decision.date.isoformat(),
    }
    return ImportedProductRow(
        slug=made.slug, name=name, counted_on=made.counted_on, decision=stored, imported_at=at
    )


def _ground(stored: dict[str, object]) -> Ground:
    return Ground(
        GroundKind(str(stored["kind"])),
        str(stored["body"]),
        str(stored["number"]),
        date.fromisoformat(str(stored["date"])),
    )
