"""From a job to a line of the yearly report and of the open data, through the API; issued reports and their files."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from jsonschema import Draft202012Validator

from api import reports as command
from api.limits import MAX_PUBLIC_PER_MINUTE, PUBLIC_CACHE_S
from api.visitors import Kept, RateLimit, network_of
from metrics import efficiency, folds
from metrics.tables import AttemptTelemetryRow
from products.reports.build import verify
from products.reports.data import FIGURES
from quota.model import GrantId
from quota.service import Settlement, Till
from scheduler.tables import AllocationRow, JobRow
from store.engine import snapshot, transaction
from tests.api.conftest import AT, NAMES, NODES, World
from tests.api.serving import serving

HELD_S = 7_200
OBSERVED_S = 5_400.0
USEFUL_S = 2_700


def observe(w: World, attempt_id: str) -> None:
    """What the sampler leaves of an attempt: three quarters observed, at half load, 400 W."""
    at_half = tuple(OBSERVED_S if percent == 50 else 0.0 for percent in range(efficiency.BINS))
    fold = replace(
        efficiency.EMPTY,
        observed_s=OBSERVED_S,
        utilisation_s=at_half,
        energy_j=OBSERVED_S * 400,
        energy_observed_s=OBSERVED_S,
    )
    with transaction(w.engine) as session:
        session.add(
            AttemptTelemetryRow(attempt_id=attempt_id, observed_until=w.clock.at, fold=folds.to_json(fold))
        )


def trained(w: World, *, is_observed: bool = True) -> int:
    """A job of the university that held one GPU for two hours, charged by the ledger's own rules."""
    made = w.job(walltime_s=HELD_S).json()["id"]
    w.clock.at += timedelta(seconds=300)
    started_at = w.clock.at
    w.clock.at += timedelta(seconds=HELD_S)
    attempt_id = w.run(made, gpu_seconds=HELD_S)
    grant = GrantId(UUID(w.ok("operator", "GET", "/v1/grants?project=uni-project")["items"][0]["id"]))
    gpu = NODES["n0"][0].uuid
    with transaction(w.engine) as session:
        session.add(
            AllocationRow(
                attempt_id=attempt_id,
                gpu_uuid=gpu,
                node="n0",
                rank=0,
                allocated_at=started_at,
                released_at=w.clock.at,
            )
        )
        session.get_one(JobRow, made).first_started_at = started_at
        begun = Till(session, [grant], at=started_at, actor="scheduler:1")
        begun.claim(grant, attempt_id, HELD_S)
        begun.close()
        ended = Till(session, [grant], at=w.clock.at, actor="scheduler:1")
        ended.settle(Settlement(grant_id=grant, attempt_id=attempt_id, claim_s=HELD_S, used_s=HELD_S))
        ended.close()
    if is_observed:
        observe(w, attempt_id)
    return int(made)


def built(w: World, job: int) -> None:
    """A product of that job: registered, described, verified by an independent reviewer."""
    body = {
        "slug": "reader",
        "project": "uni-project",
        "name": NAMES,
        "sector": "education",
        "stage": "pilot",
        "ai_kind": "speech",
        "started_on": "2026-02-01",
        "jobs": [job],
    }
    w.ok("uni-researcher", "POST", "/v1/products", body)
    w.clock.at += timedelta(hours=1)
    w.ok("reviewer", "POST", "/v1/products/reader/verify")


def issue(w: World, **changes: Any) -> Any:
    return w.call("operator", "POST", "/v1/reports", json={"kind": "yearly", "period": "2026", **changes})


def download(w: World, digest: str, who: str = "auditor", **query: str) -> Any:
    return w.call(who, "GET", f"/v1/reports/{digest}", params=query)


def figures(data: Any, dimension: str, key: str) -> dict[str, Any]:
    groups = [data["total"]] if dimension == "total" else data[dimension]
    (group,) = [each for each in groups if each["key"] == key]
    return dict(zip(FIGURES, group["figures"], strict=True))


def test_from_a_job_to_a_line_of_the_yearly_report(world: World) -> None:
    built(world, trained(world))
    made = issue(world).json()
    answer = download(world, made["sha256"], format="json", language="en")
    data = answer.json()["data"]
    (line,) = data["products"]
    assert (line["slug"], line["jobs"], line["used_s"], line["rule"]) == ("reader", 1, HELD_S, "1")
    assert [(each["year"], each["added"], each["cumulative"]) for each in data["indicator"]] == [
        (2025, 0, 0),
        (2026, 1, 1),
    ]
    for dimension, key in (("sectors", "education"), ("categories", "university"), ("total", "total")):
        found = figures(data, dimension, key)
        assert found["used_s"]["value"] == HELD_S
        assert found["wait_median_s"]["value"] == 300
        assert found["useful_s"] == {"value": USEFUL_S, "known": 5_400, "total": HELD_S}
        assert found["energy_j"] == {"value": 2_160_000, "known": 5_400, "total": HELD_S}
        assert found["products"]["value"] == 1
    assert (data["universities"], data["startups"]) == (1, 0)
    assert verify(answer.content).problem is None


def test_without_telemetry_the_cell_says_so_and_is_never_0(world: World) -> None:
    trained(world, is_observed=False)
    digest = issue(world).json()["sha256"]
    data = download(world, digest, format="json").json()["data"]
    for figure in ("useful_s", "energy_j"):
        assert figures(data, "sectors", "education")[figure] == {"value": None, "known": 0, "total": HELD_S}
        assert figures(data, "sectors", "mining")[figure] == {"value": None, "known": 0, "total": 0}


def test_a_figure_of_two_jobs_has_the_coverage_of_both(world: World) -> None:
    trained(world)
    trained(world, is_observed=False)
    data = download(world, issue(world).json()["sha256"], format="json").json()["data"]
    assert figures(data, "total", "total")["useful_s"] == {
        "value": USEFUL_S,
        "known": 5_400,
        "total": 2 * HELD_S,
    }


@pytest.mark.parametrize("file_format", ["pdf", "xlsx", "docx", "json"])
def test_the_same_bytes_on_another_day_in_another_folder(
    world: World, tmp_path: Path, file_format: str
) -> None:
    built(world, trained(world))
    made = issue(world, kind="monthly", period="2026-06").json()
    first = {
        language: download(world, made["sha256"], format=file_format, language=language).content
        for language in ("kk", "ru", "en")
    }
    as_of, written = made["as_of"], {}
    world.clock.at += timedelta(days=2)
    for number, language in enumerate(first):
        folder = tmp_path / f"folder-{number}"
        folder.mkdir()
        target = folder / f"report.{file_format}"
        options = command.parse(
            f"monthly --period 2026-06 --as-of {as_of} --format {file_format} --language {language} --output {target}".split()
        )
        assert command.run_report(options, lambda: world.engine, world.clock.at) == 0
        written[language] = target.read_bytes()
    assert {name: hashlib.sha256(each).hexdigest() for name, each in written.items()} == {
        name: hashlib.sha256(each).hexdigest() for name, each in first.items()
    }
    assert len({*first.values()}) == 3


def test_issued_reports_are_listed_for_officials_and_operators(world: World) -> None:
    trained(world)
    digests = []
    for month in ("2026-06", "2026-05"):
        world.clock.at += timedelta(minutes=1)
        digests.append(issue(world, kind="monthly", period=month).json()["sha256"])
    for who in ("operator", "auditor", "council-viewer", "reviewer"):
        page = world.ok(who, "GET", "/v1/reports?limit=1")
        assert [each["sha256"] for each in page["items"]] == digests[1:]
        rest = world.ok(who, "GET", f"/v1/reports?cursor={page['next_cursor']}")
        assert [each["sha256"] for each in rest["items"]] == digests[:1]
    for who in ("uni-researcher", "uni-manager", "firm-manager"):
        assert world.call(who, "GET", "/v1/reports").status_code == 403
        assert download(world, digests[0], who).status_code == 403
        assert (
            world.call(who, "POST", "/v1/reports", json={"kind": "yearly", "period": "2026"}).status_code
            == 403
        )
    assert (
        world.call("auditor", "POST", "/v1/reports", json={"kind": "yearly", "period": "2026"}).status_code
        == 403
    )
    assert download(world, "0" * 64).status_code == 404


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"kind": "yearly", "period": "2027"}, "IN_FUTURE"),
        ({"kind": "monthly", "period": "2026-07"}, "IN_FUTURE"),
        ({"kind": "monthly", "period": "2026-05", "as_of": "2026-12-01T00:00:00Z"}, "IN_FUTURE"),
        ({"kind": "monthly", "period": "2026-13"}, "VALIDATION"),
        ({"kind": "monthly", "period": "2026"}, "VALIDATION"),
        ({"kind": "yearly", "period": "2026-05"}, "VALIDATION"),
        ({"kind": "yearly", "period": "0000"}, "VALIDATION"),
        ({"kind": "weekly", "period": "2026"}, "VALIDATION"),
    ],
)
def test_a_report_that_cannot_be_made_is_refused(world: World, body: dict[str, str], code: str) -> None:
    answer = world.call("operator", "POST", "/v1/reports", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
    assert world.ok("operator", "GET", "/v1/reports")["items"] == []


def third(w: World, slug: str, bin_: str) -> None:
    """A further university with a waiting job."""
    body = {
        "slug": slug,
        "name": NAMES,
        "category": "university",
        "sector": "education",
        "region": "KZ-75",
        "bin": bin_,
    }
    w.ok("operator", "POST", "/v1/organisations", body)
    w.ok("operator", "POST", "/v1/projects", {"organisation": slug, "slug": f"{slug}-project"})
    grant = {
        "project": f"{slug}-project",
        "flavor": "h200",
        "gpu_seconds": 36_000,
        "grounds": [{"kind": "order", "body": "b", "number": "1", "date": "2026-01-01"}],
        "starts_at": "2026-01-01T00:00:00Z",
        "ends_at": "2026-12-31T00:00:00Z",
    }
    w.ok("operator", "POST", "/v1/grants", grant)
    job = {"project": f"{slug}-project", "command": ["true"], "gpus": 1, "walltime_s": 60}
    w.ok("operator", "POST", "/v1/jobs", job)


def test_open_data_tell_nothing_of_fewer_than_three_organisations(world: World) -> None:
    trained(world)
    world.job("firm-researcher")
    found = world.client.get("/v1/public/open-data").json()
    assert (found["rows"], found["utilisation"]) == ([], {"utilisation_ratio": None, "coverage_ratio": None})
    assert world.client.get("/v1/public/open-data.csv").text.count("\n") == 1
    world.clock.at += timedelta(seconds=PUBLIC_CACHE_S - 1)
    third(world, "third", "070940008436")
    assert world.client.get("/v1/public/open-data").json() == found
    world.clock.at += timedelta(seconds=1)
    rows = world.client.get("/v1/public/open-data").json()["rows"]
    assert {(row["dimension"], row["key"], row["organisations"]) for row in rows} == {
        ("sector", "education", 3),
        ("category", "merged", 3),
    }


def test_open_data_are_what_the_tables_say_in_json_and_csv_with_a_schema(world: World) -> None:
    built(world, trained(world))
    world.job("firm-researcher")
    third(world, "third", "070940008436")
    answer = world.client.get("/v1/public/open-data")
    assert answer.headers["cache-control"] == f"public, max-age={PUBLIC_CACHE_S}"
    found = answer.json()
    assert found["utilisation"] == {"utilisation_ratio": 0.5, "coverage_ratio": 0.75}
    assert found["is_simulated"] is True
    (sector,) = [row for row in found["rows"] if row["dimension"] == "sector"]
    wanted = {
        "gpu_seconds": HELD_S,
        "jobs_waiting": 2,
        "jobs_started": 1,
        "wait_seconds_sum": 300,
        "products": 1,
    }
    wanted |= {"busy_seconds": USEFUL_S, "covered_seconds": 5_400, "jobs_running": 0, "gpus_busy": 0}
    assert {name: sector[name] for name in wanted} == wanted
    schema = world.client.get(found["schema_url"]).json()
    for row in found["rows"]:
        Draft202012Validator(schema).validate(row)
    table = world.client.get("/v1/public/open-data.csv")
    assert table.headers["content-type"] == "text/csv; charset=utf-8"
    read = list(csv.DictReader(io.StringIO(table.text)))
    assert [{name: str(value) for name, value in row.items()} for row in found["rows"]] == read
    told = json.dumps(found) + table.text
    assert not [word for word in ("uni", "firm-", "third", *world.users.values()) if f'"{word}' in told]


def test_the_page_leads_to_the_open_data_and_tells_utilisation(world: World) -> None:
    trained(world)
    world.job("firm-researcher")
    third(world, "third", "070940008436")
    pages = {language: world.client.get(f"/?lang={language}").text for language in ("kk", "ru", "en")}
    for page in pages.values():
        assert 'href="/v1/public/open-data.csv"' in page
        assert 'href="/v1/public/open-data"' in page
    assert "50.0%" in pages["en"]
    assert "75.0%" in pages["en"]
    assert "50,0\N{NO-BREAK SPACE}%" in pages["ru"].replace(" %", "\N{NO-BREAK SPACE}%")


def test_the_platform_answers_an_address_only_so_often(world: World) -> None:
    from api.app import create_app

    app = create_app(world.engine, world.executor, now=world.clock)
    app.state.context.visitors.most = 3
    with serving(app) as client:
        assert [client.get("/v1/public/open-data/schema").status_code for _ in range(3)] == [200] * 3
        for address in ("/v1/public/open-data", "/v1/public/open-data.csv", "/v1/public/overview", "/"):
            answer = client.get(address)
            assert (answer.status_code, answer.json()["code"]) == (429, "RATE_LIMITED")
            assert answer.headers["retry-after"] == "60"
            assert answer.headers["content-type"] == "application/problem+json"
        headers = {"Authorization": f"Bearer {world.tokens['operator']}"}
        assert client.get("/v1/me", headers=headers).status_code == 200
        world.clock.at += timedelta(seconds=59)
        assert client.get("/v1/public/overview").headers["retry-after"] == "1"
        world.clock.at += timedelta(seconds=1)
        assert client.get("/v1/public/overview").status_code == 200


def test_requests_are_counted_by_address_and_few_addresses_are_held() -> None:
    limit = RateLimit(most=2, addresses=2)
    assert [limit.admit("203.0.113.1", AT) for _ in range(3)] == [None, None, 60]
    assert limit.admit("203.0.113.2", AT) is None
    assert limit.admit("203.0.113.1", AT) == 60
    assert limit.admit("203.0.113.3", AT) is None
    assert limit.admit("203.0.113.1", AT + timedelta(seconds=30)) == 30
    assert limit.admit("203.0.113.2", AT) is None, "the address heard of longest ago was forgotten"
    assert len(limit._counts) == 2
    whole = RateLimit()
    assert [whole.admit("198.51.100.1", AT) for _ in range(MAX_PUBLIC_PER_MINUTE)] == [
        None
    ] * MAX_PUBLIC_PER_MINUTE
    assert whole.admit("198.51.100.1", AT) == 60


def test_one_network_of_a_customer_is_one_client() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1") != network_of("2001:db8:0:1::1")
    assert network_of("203.0.113.1") == "203.0.113.1"
    assert network_of("testclient") == network_of("") == "-"


def test_a_kept_value_is_computed_once_in_its_life() -> None:
    made: list[int] = []

    def compute() -> int:
        made.append(1)
        return len(made)

    kept = Kept[int](10)
    assert [kept.get(AT + timedelta(seconds=s), compute) for s in (0, 9, 10, 5)] == [1, 1, 2, 3]


def test_the_archive_holds_what_was_issued_and_no_more(world: World) -> None:
    from products.reports import archive

    trained(world)
    made = issue(world).json()
    assert issue(world).json() == made
    with snapshot(world.engine) as session:
        found = archive.report_of(session, made["sha256"])
        assert archive.issued(session, made["sha256"]).as_of == found.as_of
        assert archive.listing(session, after="f" * 64)[0][0].digest == made["sha256"]
        with pytest.raises(archive.ReportNotFoundError):
            archive.issued(session, "1" * 64)
