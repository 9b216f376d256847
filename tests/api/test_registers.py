"""Dossiers of the registers and localisation shares through the API: the whole way, and what is refused."""

from __future__ import annotations

import base64
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from products import localisation_books
from products.registers_collector import CACHE_S, DocumentsDue
from products.reports.build import verify
from store import journal
from store.engine import snapshot
from tenants.identifiers import control_digit
from tests.api.conftest import NAMES, World

PERIOD = {"starts_on": "2026-01-01", "ends_on": "2026-05-31"}
DOSSIER = {"slug": "reader", "project": "uni-project", "name": NAMES}
BOOKS: dict[str, Any] = {
    **PERIOD,
    "parties": [
        {"id": "team", "is_foreign": False},
        {"id": "cloud", "is_foreign": True},
        {"id": "agent", "is_foreign": False, "acts_for": "cloud"},
    ],
    "contracts": [
        {"number": "1", "party": "team"},
        {"number": "2", "party": "cloud"},
        {"number": "3/ә", "party": "agent"},
    ],
    "payments": [
        {"contract": "1", "number": "p1", "paid_on": "2026-02-01", "amount": "860000.00"},
        {
            "contract": "2",
            "number": "p2",
            "paid_on": "2026-03-01",
            "amount": "100.00",
            "currency": "USD",
            "purpose": "licence",
        },
        {"contract": "3/ә", "number": "p3", "paid_on": "2026-03-02", "amount": "88765.50"},
    ],
    "rates": [{"currency": "USD", "on": "2026-03-01", "tenge": "512.345000"}],
}


@pytest.fixture
def dossier(world: World) -> World:
    world.ok("uni-researcher", "POST", "/v1/dossiers", DOSSIER)
    return world


@pytest.fixture
def filled(dossier: World) -> World:
    dossier.ok("uni-researcher", "POST", "/v1/dossiers/reader/books", BOOKS)
    return dossier


def code(answer: Any) -> str:
    return str(answer.json()["code"])


def share_of(w: World, **query: str) -> Any:
    return w.call("uni-researcher", "GET", "/v1/dossiers/reader/localisation", params={**PERIOD, **query})


def enter(w: World, **changes: Any) -> Any:
    return w.call("uni-researcher", "POST", "/v1/dossiers/reader/books", json={**PERIOD, **changes})


def calculate(w: World, **changes: Any) -> Any:
    body = {**PERIOD, "responsible": "Ә. Үлгі", "contact": "+7 700", **changes}
    return w.call("uni-researcher", "POST", "/v1/dossiers/reader/calculations", json=body)


def document(w: World, code: str, number: str = "1", **changes: Any) -> Any:
    body = {"code": code, "number": number, "issued_on": "2026-01-10", **changes}
    return w.call("uni-researcher", "POST", "/v1/dossiers/reader/documents", json=body)


def standing(w: World, **query: str) -> Any:
    answer = w.call("uni-researcher", "GET", "/v1/dossiers/reader", params=query)
    assert answer.is_success, answer.text
    return answer.json()["standing"]


def test_a_share_is_that_of_the_formula_with_agents_of_foreign_parties(filled: World) -> None:
    found = share_of(filled).json()
    foreign, total = 51_234.50 + 88_765.50, 860_000 + 51_234.50 + 88_765.50
    assert float(found["share"]["foreign_tenge"]) == foreign == 140_000
    assert float(found["share"]["total_tenge"]) == total
    assert (found["share"]["share_percent"], found["share"]["is_reached"]) == ("86.00", True)
    assert (found["payments"], found["payments_outside"], found["past_year"]) == (3, 0, None)
    page = filled.ok("uni-researcher", "GET", "/v1/dossiers/reader/payments?limit=2")
    rest = filled.ok("uni-researcher", "GET", f"/v1/dossiers/reader/payments?cursor={page['next_cursor']}")
    listed = [(each["number"], each["counts_as_foreign"]) for each in page["items"] + rest["items"]]
    assert listed == [("p1", False), ("p2", True), ("p3", True)]
    assert rest["next_cursor"] is None


def test_the_rule_for_the_past_year_stands_beside_it(filled: World) -> None:
    found = share_of(filled, applied_on="2027-02-01").json()["past_year"]
    assert (found["year"], found["foreign_percent"], found["is_kept"]) == (2026, "14.00", True)
    assert code(share_of(filled, applied_on="2026-02-01")) == "NO_PAYMENTS"
    assert code(share_of(filled, applied_on="2025-12-31")) == "BAD_PERIOD"


def test_a_file_entered_twice_counts_once_and_a_change_is_a_correction(filled: World) -> None:
    again = filled.ok("uni-researcher", "POST", "/v1/dossiers/reader/books", BOOKS)
    assert again == {"added": 0, "unchanged": 10, "corrected": 0}
    changed = [{**BOOKS["payments"][0], "amount": "1.00"}]
    refused = enter(filled, payments=changed)
    assert (refused.status_code, code(refused)) == (409, "CONFLICT")
    assert enter(filled, payments=changed, is_correction=True).json()["corrected"] == 1
    assert share_of(filled).json()["share"]["is_reached"] is False
    gone = {"contract": "1", "number": "p1"}
    for status in (204, 404):
        answer = filled.call("uni-researcher", "DELETE", "/v1/dossiers/reader/payments", params=gone)
        assert answer.status_code == status
    assert share_of(filled).json()["share"]["share_percent"] == "0.00"
    twice = [{**BOOKS["payments"][0]}, {**BOOKS["payments"][0]}]
    assert enter(filled, payments=twice).json() == {"added": 1, "unchanged": 1, "corrected": 0}


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"payments": [{**BOOKS["payments"][0], "paid_on": "2025-12-31"}]}, "BAD_PERIOD"),
        ({"payments": [{**BOOKS["payments"][0], "paid_on": "2026-06-02"}], "ends_on": "2026-12-31"}, "BAD_PERIOD"),
        ({"starts_on": "2026-06-01"}, "BAD_PERIOD"),
        ({"payments": [{**BOOKS["payments"][0], "number": "new", "amount": "0"}]}, "BAD_BOOKS"),
        ({"payments": [{**BOOKS["payments"][0], "number": "new", "amount": "-5.00"}]}, "BAD_BOOKS"),
        ({"payments": [{**BOOKS["payments"][0], "contract": "9"}]}, "BAD_BOOKS"),
        ({"contracts": [{"number": "9", "party": "nobody"}]}, "BAD_BOOKS"),
        ({"parties": [{"id": "a", "is_foreign": False, "controlled_by": "a"}]}, "BAD_BOOKS"),
        ({"rates": [{"currency": "EUR", "on": "2026-03-01", "tenge": "-1"}]}, "BAD_BOOKS"),
        ({"rates": [{"currency": "euro", "on": "2026-03-01", "tenge": "1"}]}, "VALIDATION"),
        ({"payments": [{**BOOKS["payments"][0], "amount": "1,5"}]}, "VALIDATION"),
        ({"payments": [BOOKS["payments"][0]] * 1_001}, "VALIDATION"),
    ],
)  # fmt: skip
def test_bad_entries_are_refused_whole(filled: World, changes: dict[str, Any], wanted: str) -> None:
    before = filled.journal_length()
    assert code(enter(filled, **changes)) == wanted
    assert filled.journal_length() == before
    assert share_of(filled).json()["share"]["share_percent"] == "86.00"


def test_the_number_of_payments_is_limited(filled: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(localisation_books, "MAX_PAYMENTS", 3)
    assert enter(filled, payments=[BOOKS["payments"][0]]).is_success
    one_more = [{**BOOKS["payments"][0], "number": "p9"}]
    assert code(enter(filled, payments=one_more)) == "BAD_BOOKS"


def test_without_payments_or_rates_there_is_no_share(dossier: World) -> None:
    assert code(share_of(dossier)) == "NO_PAYMENTS"
    assert enter(dossier, **{key: BOOKS[key] for key in ("parties", "contracts", "payments")}).is_success
    answer = share_of(dossier)
    assert code(answer) == "RATE_MISSING"
    assert "USD on 2026-03-01" in answer.json()["detail"]
    assert code(calculate(dossier)) == "RATE_MISSING"


@pytest.mark.parametrize("language", ["kk", "ru"])
@pytest.mark.parametrize("file_format", ["pdf", "docx"])
def test_the_form_is_made_from_a_kept_calculation(filled: World, file_format: str, language: str) -> None:
    made = calculate(filled).json()
    assert (made["number"], made["responsible"]) == ("940240005121", "Ә. Үлгі")
    address = f"/v1/dossiers/reader/calculations/{made['id']}/form"
    query = {"format": file_format, "language": language}
    answer = filled.call("uni-researcher", "GET", address, params=query)
    assert answer.is_success
    assert answer.headers["content-disposition"].endswith(f'-{language}.{file_format}"')
    found = verify(answer.content)
    assert (found.kind, found.problem) == ("localisation", None)
    filled.clock.at += timedelta(hours=5)
    filled.ok("uni-researcher", "POST", "/v1/dossiers/reader/books", {**BOOKS, "is_correction": True})
    assert filled.call("uni-researcher", "GET", address, params=query).content == answer.content
    for refused in ({"format": "xlsx"}, {"language": "en"}):
        assert code(filled.call("uni-researcher", "GET", address, params=refused)) == "REPORT_NOT_OFFERED"


def test_a_calculation_of_a_period_that_goes_on_or_with_a_wrong_iin_is_refused(filled: World) -> None:
    assert code(calculate(filled, ends_on="2026-06-30")) == "IN_FUTURE"
    assert code(calculate(filled, iin="850101300001")) == "BAD_BIN"
    made = calculate(filled, iin=_iin()).json()
    assert made["number"].startswith("**********")


def _iin() -> str:
    digits = next(d for d in (f"8501013000{n}" for n in range(10)) if control_digit(d + "0") is not None)
    return f"{digits}{control_digit(digits + '0')}"


def test_names_and_sums_stay_out_of_the_journal(filled: World) -> None:
    calculate(filled)
    document(filled, "test-protocols", "ҚҰПИЯ-7")
    with snapshot(filled.engine) as session:
        records = [record for record in journal.read(session) if record.subject.startswith("dossier:")]
    kinds = [record.kind for record in records]
    assert kinds == [
        "dossier.opened",
        "localisation.entered",
        "localisation.calculated",
        "dossier.documented",
    ]
    told = str([record.data for record in records])
    assert not [word for word in ("Үлгі", "+7 700", "860000", "cloud", "ҚҰПИЯ") if word in told]


def test_the_order_of_steps_from_the_share_to_the_register_of_producers(filled: World) -> None:
    def steps() -> list[tuple[str, bool, bool]]:
        return [(each["step"], each["is_done"], each["is_next"]) for each in standing(filled)["steps"]]

    assert steps() == [
        ("localisation-share", False, True),
        ("trusted-register", False, False),
        ("producers-register", False, False),
    ]
    calculate(filled)
    assert steps()[0] == ("localisation-share", True, False)
    for needed in ("test-protocols", "exclusive-rights", "support-form"):
        document(filled, needed)
    found = standing(filled)
    assert found["meets_criteria"], found
    assert found["share_percent"] == "86.00"
    entry = {"state_register": "trusted", "entered_on": "2026-05-20"}
    assert filled.call("reviewer", "POST", "/v1/dossiers/reader/entries", json=entry).status_code == 204
    assert code(filled.call("reviewer", "POST", "/v1/dossiers/reader/entries", json=entry)) == "CONFLICT"
    producers = {"state_register": "producers", "entered_on": "2026-05-25"}
    early = filled.call("reviewer", "POST", "/v1/dossiers/reader/entries", json=producers)
    assert "produced on the territory: False" in early.json()["detail"]
    for proof in ("order-to-start", "terms-of-reference", "order-into-operation"):
        document(filled, proof)
    assert standing(filled)["eligibility"] == {
        "is_eligible": True,
        "is_produced_here": True,
        "is_trusted": True,
        "missing": ["contracts", "employees"],
    }
    check = {"checked_on": "2026-06-01", "is_kept": True}
    assert code(filled.call("reviewer", "POST", "/v1/dossiers/reader/checks", json=check)) == "CONFLICT"
    assert filled.call("reviewer", "POST", "/v1/dossiers/reader/entries", json=producers).status_code == 204
    assert [step[1] for step in steps()] == [True, True, True]
    listed = filled.ok("auditor", "GET", "/v1/registers/check-list")
    assert (listed["quarter_starts_on"], listed["quarter_ends_on"]) == ("2026-04-01", "2026-06-30")
    assert [(each["dossier"], each["is_due"]) for each in listed["items"]] == [("reader", True)]
    assert filled.call("reviewer", "POST", "/v1/dossiers/reader/checks", json=check).status_code == 204
    assert code(filled.call("reviewer", "POST", "/v1/dossiers/reader/checks", json=check)) == "CONFLICT"
    listed = filled.ok("auditor", "GET", "/v1/registers/check-list")["items"][0]
    assert (listed["is_due"], listed["checked_on"]) == (False, "2026-06-01")
    later = filled.ok("auditor", "GET", "/v1/registers/check-list?on=2026-07-01")["items"][0]
    assert later["is_due"]
    left = {"state_register": "trusted", "left_on": "2026-05-30"}
    assert filled.call("reviewer", "POST", "/v1/dossiers/reader/leavings", json=left).status_code == 204
    assert code(filled.call("reviewer", "POST", "/v1/dossiers/reader/leavings", json=left)) == "CONFLICT"
    assert not filled.ok("auditor", "GET", "/v1/registers/check-list")["items"][0]["eligibility"][
        "is_trusted"
    ]
    assert [step[1:] for step in steps()] == [(True, False), (False, True), (True, False)]


def test_criteria_are_those_of_the_day(dossier: World) -> None:
    before = standing(dossier, on="2025-12-31")["criteria"]
    after = standing(dossier, on="2026-01-01")["criteria"]
    assert [each["criterion"] for each in before if each not in after] == ["industrial-certificate"]
    assert [each["criterion"] for each in after if each not in before] == ["localisation-share"]


@pytest.mark.parametrize(
    ("days", "state"), [(61, None), (60, "reminder"), (31, "reminder"), (30, "alarm"), (0, "alarm"), (-1, "expired")]
)  # fmt: skip
def test_expiring_documents_remind_and_alarm(dossier: World, days: int, state: str | None) -> None:
    last = date(2026, 6, 1) + timedelta(days=days)
    document(dossier, "test-protocols", expires_on=last.isoformat())
    document(dossier, "support-form")
    for who in ("uni-researcher", "operator"):
        found = dossier.ok(who, "GET", "/v1/registers/reminders")
        assert found["on"] == "2026-06-01"
        assert [(each["state"], each["days_left"]) for each in found["items"]] == (
            [(state, days)] if state else []
        )
    assert dossier.ok("firm-researcher", "GET", "/v1/registers/reminders")["items"] == []
    assert [each["state"] for each in standing(dossier)["expiries"]] == ([state] if state else [])


def test_operators_are_noticed_by_a_metric_read_once_a_minute(dossier: World) -> None:
    elapsed = [0.0]
    collector = DocumentsDue(dossier.engine, dossier.clock, elapsed_s=lambda: elapsed[0])

    def told() -> dict[str, float]:
        (family,) = collector.collect()
        return {sample.labels["state"]: sample.value for sample in family.samples}

    document(dossier, "test-protocols", expires_on="2026-07-20")
    document(dossier, "support-form", expires_on="2026-06-10")
    assert told() == {"reminder": 1, "alarm": 1, "expired": 0}
    dossier.clock.at += timedelta(days=20)
    assert told()["expired"] == 0
    elapsed[0] += CACHE_S
    assert told() == {"reminder": 0, "alarm": 1, "expired": 1}
    assert [family.samples for family in collector.describe()] == [[]]


def test_a_withdrawn_document_counts_no_more_and_may_be_entered_again(dossier: World) -> None:
    made = document(dossier, "test-protocols", expires_on="2026-06-10").json()
    assert code(document(dossier, "test-protocols")) == "CONFLICT"
    for _ in range(2):
        address = f"/v1/dossiers/reader/documents/{made['id']}"
        assert dossier.call("uni-researcher", "DELETE", address).status_code == 204
    assert dossier.ok("operator", "GET", "/v1/registers/reminders")["items"] == []
    assert document(dossier, "test-protocols", expires_on="2027-06-10").status_code == 201
    missing = dossier.call("uni-researcher", "DELETE", "/v1/dossiers/reader/documents/999999")
    assert missing.status_code == 404


@pytest.mark.parametrize(
    "changes",
    [
        {"expires_on": "2026-01-09"},
        {"level": 4},
        {"share_percent": "30"},
        {"code": "assurance-certificate"},
        {"code": "industrial-certificate", "share_percent": None},
    ],
)
def test_a_document_that_contradicts_itself_is_refused(dossier: World, changes: dict[str, Any]) -> None:
    body = {"code": "test-protocols", "number": "1", "issued_on": "2026-01-10", **changes}
    answer = dossier.call("uni-researcher", "POST", "/v1/dossiers/reader/documents", json=body)
    assert (answer.status_code, code(answer)) == (422, "BAD_DOCUMENT")


def test_documents_of_certificates_carry_level_and_share(dossier: World) -> None:
    assert document(dossier, "assurance-certificate", level=4).json()["level"] == 4
    assert (
        document(dossier, "industrial-certificate", share_percent="30.5").json()["share_percent"] == "30.50"
    )
    met = {each["criterion"]: each["holds"] for each in standing(dossier, on="2026-01-10")["criteria"]}
    assert met["assurance-or-protocols"]


def test_dossiers_are_listed_page_by_page_and_only_to_those_who_see_the_project(dossier: World) -> None:
    dossier.ok("uni-manager", "POST", "/v1/dossiers", {**DOSSIER, "slug": "second", "kind": "electronics"})
    assert code(dossier.call("uni-manager", "POST", "/v1/dossiers", json=DOSSIER)) == "CONFLICT"
    page = dossier.ok("auditor", "GET", "/v1/dossiers?limit=1")
    assert [each["slug"] for each in page["items"]] == ["reader"]
    cursor = base64.urlsafe_b64encode(b"reader").decode().rstrip("=")
    assert page["next_cursor"] == cursor
    rest = dossier.ok("auditor", "GET", f"/v1/dossiers?cursor={cursor}")
    assert [each["slug"] for each in rest["items"]] == ["second"]
    assert dossier.ok("firm-manager", "GET", "/v1/dossiers")["items"] == []


READS = ("", "/payments", "/localisation?starts_on=2026-01-01&ends_on=2026-05-31", "/calculations")


@pytest.mark.parametrize("who", ["firm-researcher", "firm-manager"])
def test_another_organisation_learns_nothing(filled: World, who: str) -> None:
    made = calculate(filled).json()
    for part in (*READS, f"/calculations/{made['id']}/form"):
        assert filled.call(who, "GET", f"/v1/dossiers/reader{part}").status_code == 404, part
    for part, body in (
        ("books", BOOKS),
        ("documents", {"code": "support-form", "number": "1", "issued_on": "2026-01-01"}),
        ("calculations", {**PERIOD, "responsible": "x", "contact": "y"}),
    ):
        assert filled.call(who, "POST", f"/v1/dossiers/reader/{part}", json=body).status_code == 404, part
    assert filled.call(who, "POST", "/v1/dossiers", json={**DOSSIER, "slug": "other"}).status_code == 404
    entry = {"state_register": "trusted", "entered_on": "2026-05-20"}
    assert filled.call(who, "POST", "/v1/dossiers/reader/entries", json=entry).status_code == 403


def test_overseers_read_figures_not_content(filled: World) -> None:
    made = calculate(filled).json()
    for who in ("auditor", "council-viewer", "reviewer"):
        assert share_of(filled).is_success
        found = filled.ok(who, "GET", "/v1/dossiers/reader/calculations")["items"][0]
        assert (found["responsible"], found["contact"]) == (None, None)
        assert filled.call(who, "GET", "/v1/dossiers/reader/payments").status_code == 403
        form = f"/v1/dossiers/reader/calculations/{made['id']}/form"
        assert filled.call(who, "GET", form).status_code == 403
        assert filled.call(who, "POST", "/v1/dossiers/reader/books", json=BOOKS).status_code == 403
    assert (
        filled.call("uni-researcher", "GET", "/v1/dossiers/reader/calculations/999/form").status_code == 404
    )


def test_the_day_is_that_of_almaty(dossier: World) -> None:
    dossier.clock.at = datetime(2026, 6, 1, 19, 30, tzinfo=UTC)
    assert dossier.ok("operator", "GET", "/v1/registers/reminders")["on"] == "2026-06-02"
