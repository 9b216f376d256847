"""From a job to a line of the yearly report, against a real database: the whole chain of evidence."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from api import reports as command
from products import gather, history, service
from products.evidence import Condition
from products.evidence_tables import InitiativeMeasurementRow, InitiativeRow
from products.history import IMPORT_COLUMNS, BadImportError, Statement
from products.kpi import FutureError
from products.model import Stage
from products.reports.build import build, lay_out, verify
from products.reports.data import FIGURES, digest
from products.reports.document import Table
from quota.tables import GrantRow, LedgerEntryRow
from scheduler.tables import JobRow
from store import journal
from store.engine import snapshot, transaction
from tenants.model import (
    Category,
    OrganisationId,
    Principal,
    Project,
    ProjectId,
    Role,
    Scope,
    Sector,
    TokenId,
    UserId,
)
from tenants.service import NewOrganisation, NewProject, create_organisation, create_project, create_user

T0 = datetime(2026, 10, 1, 6, tzinfo=UTC)
OCTOBER = (date(2026, 10, 1), date(2026, 10, 31))
AS_OF = datetime(2026, 11, 3, 4, tzinfo=UTC)


def day(number: float) -> datetime:
    return T0 + timedelta(days=number)


class World:
    """One startup with a grant and a finished job, and a reviewer of another organisation."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        with transaction(engine) as session:
            own, other = (
                create_organisation(
                    session,
                    NewOrganisation(slug=slug, name={"kk": slug, "ru": slug, "en": slug}, category=category, sector=Sector.EDUCATION, region="Astana", bin=None),
                    actor="system", at=T0,
                )
                for slug, category in (("tilshi-llp", Category.FOREIGN), ("ministry", Category.FOREIGN))
            )  # fmt: skip
            session.execute(text("UPDATE organisations SET category = 'startup' WHERE slug = 'tilshi-llp'"))
            self.project: Project = create_project(
                session,
                NewProject(
                    organisation_id=OrganisationId(own.id), slug="speech", queue="science", programme=None
                ),
                actor="system",
                at=T0,
            )
            author = create_user(session, "author", OrganisationId(own.id), actor="system", at=T0)
            reviewer = create_user(session, "reviewer", OrganisationId(other.id), actor="system", at=T0)
        self.author = self.principal(
            author.id,
            "author",
            own.id,
            frozenset(),
            {ProjectId(self.project.id): frozenset({Role.PROJECT_MANAGER})},
        )
        self.reviewer = self.principal(reviewer.id, "reviewer", other.id, frozenset({Role.REVIEWER}), {})

    def principal(
        self,
        user: Any,
        name: str,
        organisation: Any,
        platform: frozenset[Role],
        project: dict[ProjectId, frozenset[Role]],
    ) -> Principal:
        return Principal(
            UserId(user),
            name,
            OrganisationId(organisation),
            TokenId(uuid4()),
            frozenset({Scope.WRITE, Scope.READ}),
            platform,
            project,
        )

    def job(self, at: datetime, gpu_seconds: int, state: str = "COMPLETED") -> int:
        with transaction(self.engine) as session:
            grant = GrantRow(
                id=uuid4(),
                project_id=self.project.id,
                flavor="h200",
                granted_s=36_000,
                starts_at=T0,
                ends_at=day(90),
                decision={},
                created_at=at,
            )
            session.add(grant)
            session.flush()
            row = JobRow(
                project_id=self.project.id, user_id=self.author.user_id, queue="science", state=state, priority=0, gpus=1, flavors=["h200"], walltime_s=7200,
                submitted_at=at - timedelta(seconds=400), is_held=False, is_cancel_requested=False, attempts=1, launch_refusals=0, node_failures=0,
                first_started_at=at - timedelta(seconds=100), finished_at=at, gpu_seconds=gpu_seconds,
            )  # fmt: skip
            for column in JobRow.__table__.columns:
                if not column.nullable and column.name != "id" and getattr(row, column.name) is None:
                    setattr(row, column.name, False if str(column.type) == "BOOLEAN" else 0)
            session.add(row)
            session.add(
                LedgerEntryRow(
                    at=at,
                    grant_id=grant.id,
                    kind="posted",
                    debit="pending",
                    credit="used",
                    amount_s=gpu_seconds,
                    attempt_id=f"{uuid4()}",
                )
            )
            session.add(
                LedgerEntryRow(
                    at=at,
                    grant_id=grant.id,
                    kind="reversed",
                    debit="used",
                    credit="available",
                    amount_s=60,
                    attempt_id=f"{uuid4()}",
                )
            )
            session.flush()
            return row.id

    def register(self, slug: str, job_id: int, at: datetime) -> Any:
        with transaction(self.engine) as session:
            new = service.NewProduct(
                slug=slug, project=self.project, name={"kk": "Тілші", "ru": "Тилши", "en": "Tilshi"}, description="speech", sector=Sector.EDUCATION,
                stage=Stage.PROTOTYPE, started_on=date(2026, 9, 1), job_ids=frozenset({job_id}),
            )  # fmt: skip
            return service.register(session, self.author, new, actor="user:author", at=at)

    def verify(self, slug: str, at: datetime) -> None:
        with transaction(self.engine) as session:
            service.verify(session, self.reviewer, slug, actor="user:reviewer", at=at)

    def gather(self, as_of: datetime = AS_OF, period: tuple[date, date] = OCTOBER) -> Any:
        with snapshot(self.engine) as session:
            return gather.gather(session, "monthly", period, as_of)


@pytest.fixture
def world(database: Any) -> World:
    return World(database.engine)


def counted(world: World, slug: str, at: datetime) -> Any:
    job_id = world.job(at, 7_200)
    product = world.register(slug, job_id, at + timedelta(hours=1))
    with transaction(world.engine) as session:
        history.describe(
            session,
            product,
            Statement(Stage.PILOT, uses_ai=True, programme="accelerator"),
            actor="user:author",
            at=at + timedelta(hours=2),
        )
    world.verify(slug, at + timedelta(hours=3))
    return product


def test_from_a_job_to_a_line_of_the_report(world: World) -> None:
    counted(world, "tilshi", day(2))
    report = world.gather()
    (line,) = report.products
    assert (line.slug, line.counted_at, line.jobs, line.used_s, line.rule) == (
        "tilshi",
        day(2) + timedelta(hours=3),
        1,
        7_200,
        "1",
    )
    assert [(year.year, year.added, year.cumulative) for year in report.indicator] == [
        (2025, 0, 0),
        (2026, 1, 1),
    ]
    total = dict(zip(FIGURES, report.total.figures, strict=True))
    assert total["granted_s"].value == 36_000
    assert total["used_s"].value == 7_200 - 60
    assert (total["used_s"].known, total["used_s"].total) == (31, 31)
    assert total["wait_median_s"].value == 300
    assert (total["useful_s"].value, total["useful_s"].coverage_percent) == (None, 0)
    assert (report.startups, report.universities, report.total.organisations) == (1, 0, 1)
    by_sector = {group.key: dict(zip(FIGURES, group.figures, strict=True)) for group in report.sectors}
    assert set(by_sector) == set(Sector)
    assert by_sector["education"]["products"].value == 1
    assert by_sector["mining"]["wait_median_s"].value is None
    assert [(each.indicator, each.count) for each in report.contributions] == [(7, 1), (8, 0)]
    shown = [
        cell.text
        for block in lay_out(report, "kk").blocks
        if isinstance(block, Table) and block.name == "products"
        for row in block.rows
        for cell in row
    ]
    assert shown[0] == "Тілші"
    assert verify(build(report, "xlsx", "kk")).digest == digest(report)


def test_what_happens_later_leaves_the_reports_bytes_alone(world: World) -> None:
    product = counted(world, "tilshi", day(2))
    before = build(world.gather(), "json", "en")
    later = world.job(day(40), 9_999)
    world.register("second", later, day(41))
    with transaction(world.engine) as session:
        history.withdraw(session, product, actor="user:author", at=day(42))
    assert build(world.gather(), "json", "en") == before
    after = world.gather(day(43))
    assert after.products == ()
    assert [(year.added, year.ceased, year.cumulative) for year in after.indicator] == [(0, 0, 0), (1, 1, 0)]


def test_the_verdict_names_what_is_missing(world: World) -> None:
    world.register("raw", world.job(day(1), 3_599), day(2))
    with snapshot(world.engine) as session:
        (verdict,) = history.verdicts(session, AS_OF)
    assert {held.condition for held in verdict.conditions if not held.holds} == {
        Condition.VERIFIED,
        Condition.GPU_HOURS,
        Condition.USES_AI,
    }
    failed = world.job(day(1), 99_999, state="FAILED")
    world.register("failed", failed, day(2))
    with snapshot(world.engine) as session:
        found = {each.history.slug: each for each in history.verdicts(session, AS_OF)}
    assert Condition.GPU_HOURS in {held.condition for held in found["failed"].conditions if not held.holds}


def test_a_row_in_the_middle_of_the_chain_cannot_be_deleted(world: World) -> None:
    counted(world, "tilshi", day(2))
    for statement in (
        "DELETE FROM jobs",
        "DELETE FROM product_facts",
        "UPDATE product_facts SET uses_ai = false",
        "DELETE FROM products",
        "DELETE FROM product_jobs",
    ):
        with pytest.raises(Exception, match=r"append-only|foreign key"), transaction(world.engine) as session:
            session.execute(text(statement))
    assert len(world.gather().products) == 1


HEADER = ",".join(IMPORT_COLUMNS)
ROW = "old,Ескі,Старый,Old,2025-09-01,order,Ministry,12,2026-02-01"


def test_products_of_before_are_imported_with_their_decision_and_stand_apart(world: World) -> None:
    with transaction(world.engine) as session:
        assert history.import_products(session, f"{HEADER}\n{ROW}\n", actor="system", at=day(1)) == 1
    report = world.gather()
    assert [(year.year, year.cumulative, year.imported) for year in report.indicator] == [
        (2025, 0, 1),
        (2026, 0, 1),
    ]
    with transaction(world.engine) as session:
        assert [record.data for record in journal.read(session) if record.kind == "product.imported"] == [
            {"counted_on": "2025-09-01"}
        ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("slug\nold\n", "header"),
        (f"{HEADER}\n{ROW.replace('2025-09-01', '2027-01-01')}\n", "line 2.*2027"),
        (f"{HEADER}\n{ROW.replace('order', 'wish')}\n", "line 2.*wish"),
        (f"{HEADER}\n{ROW.replace('Ескі', '')}\n", "line 2.*filled in"),
        (f"{HEADER}\n{ROW}\n{ROW}\n", "line 3.*already"),
        (f"{HEADER}\nold\n", "line 2"),
    ],
)
def test_an_import_is_taken_whole_or_not_at_all(world: World, content: str, says: str) -> None:
    with pytest.raises(BadImportError, match=says), transaction(world.engine) as session:
        history.import_products(session, content, actor="system", at=day(1))
    with snapshot(world.engine) as session:
        assert history.imported(session) == ()


def test_the_size_of_an_import_is_limited(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_IMPORT_ROWS", 1)
    two = f"{HEADER}\n{ROW}\n{ROW.replace('old', 'older')}\n"
    with pytest.raises(BadImportError, match="more than 1"), transaction(world.engine) as session:
        history.import_products(session, two, actor="system", at=day(1))


def test_initiatives_are_tracked_with_what_was_entered_by_then(world: World) -> None:
    with transaction(world.engine) as session:
        session.add(
            InitiativeRow(
                slug="tutor",
                direction="data",
                kpi={"en": "schools"},
                unit="count",
                baseline=0,
                target=10,
                deadline=date(2026, 12, 1),
                registered_at=day(0),
            )
        )
        session.flush()
        session.add(
            InitiativeMeasurementRow(
                initiative="tutor", on=date(2026, 10, 5), value=4, source="register", entered_at=day(10)
            )
        )
    assert [(line.slug, line.done_percent) for line in world.gather(day(9)).initiatives] == [("tutor", None)]
    assert [(line.slug, line.done_percent) for line in world.gather(day(11)).initiatives] == [("tutor", 40)]


def test_a_report_of_the_future_is_refused(world: World) -> None:
    with pytest.raises(FutureError):
        world.gather(period=(date(2026, 12, 1), date(2026, 12, 31)))


def test_the_books_of_before_the_first_record_are_no_data(world: World) -> None:
    september = world.gather(period=(date(2026, 9, 1), date(2026, 9, 30)))
    used = september.total.figures[FIGURES.index("used_s")]
    assert (used.value, used.known, used.total) == (None, 0, 30)


def test_the_command_makes_issues_and_verifies_a_file(world: World, tmp_path: Path, capsys: Any) -> None:
    counted(world, "tilshi", day(2))
    made = tmp_path / "october.pdf"
    options = command.parse(
        ["monthly", "--period", "2026-10", "--as-of", AS_OF.isoformat(), "--output", str(made)]
    )
    assert command.run_report(options, lambda: world.engine, day(60)) == 0
    assert command.run_report(options, lambda: world.engine, day(61)) == 0
    said = capsys.readouterr().out
    found = verify(made.read_bytes())
    assert found.digest in said
    with transaction(world.engine) as session:
        assert gather.is_issued(session, found.digest)
        assert not gather.is_issued(session, "0" * 64)
        assert sum(record.kind == "report.issued" for record in journal.read(session)) == 1

    def never() -> Any:
        raise AssertionError("a file is verified without a database")

    assert command.run_report(command.parse(["verify", str(made)]), never, day(60)) == 0
    assert found.digest in capsys.readouterr().out
    made.write_bytes(made.read_bytes() + b"\n")
    assert command.run_report(command.parse(["verify", str(made)]), never, day(60)) == 1
    assert "NOT verified" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["monthly", "--period", "2026"], "YYYY-MM"),
        (["monthly", "--period", "2026-13"], "month"),
        (["yearly", "--period", "2026-10"], "YYYY"),
        (["monthly", "--period", "2026-10", "--as-of", "2026-11-01T00:00:00"], "time zone"),
        (["monthly", "--period", "2026-10", "--as-of", "2030-11-01T00:00:00+05:00"], "passed"),
        (["yearly", "--period", "2028"], "passed"),
    ],
)
def test_a_command_that_cannot_be_done_says_why(
    world: World, tmp_path: Path, capsys: Any, arguments: list[str], says: str
) -> None:
    options = command.parse([*arguments, "--output", str(tmp_path / "x.pdf")])
    assert command.run_report(options, lambda: world.engine, day(60)) == 1
    assert says in capsys.readouterr().err
    assert not (tmp_path / "x.pdf").exists()
