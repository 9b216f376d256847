"""Registers: criteria by the date of the application, expiring documents, eligibility, check list, steps."""

from dataclasses import replace
from datetime import date, timedelta
from fractions import Fraction

import pytest

from products.registers import (
    CHANGE_ON,
    Criterion,
    DocumentState,
    Dossier,
    ExpiringDocument,
    Kind,
    Producer,
    Proof,
    Registered,
    Step,
    check_list,
    due,
    eligibility,
    expiry,
    quarter,
    steps,
    trusted_findings,
)

BEFORE = CHANGE_ON - timedelta(days=1)
FULL = Dossier(
    kind=Kind.SOFTWARE,
    assurance_level=4,
    has_exclusive_rights=True,
    localisation_ratio=Fraction(4, 5),
    certificate_ratio=Fraction(1, 10),
    has_support_form=True,
)


def failing(dossier: Dossier, on: date = CHANGE_ON) -> set[Criterion]:
    return {finding.criterion for finding in trusted_findings(dossier, on) if not finding.holds}


def test_the_day_of_the_application_chooses_between_certificate_and_share() -> None:
    before = [finding.criterion for finding in trusted_findings(FULL, BEFORE)]
    after = [finding.criterion for finding in trusted_findings(FULL, CHANGE_ON)]
    assert Criterion.INDUSTRIAL_CERTIFICATE in before
    assert Criterion.LOCALISATION_SHARE not in before
    assert Criterion.LOCALISATION_SHARE in after
    assert Criterion.INDUSTRIAL_CERTIFICATE not in after
    assert failing(FULL, BEFORE) == failing(FULL) == set()


@pytest.mark.parametrize(
    ("change", "fails"),
    [
        ({"assurance_level": 3}, Criterion.ASSURANCE_OR_PROTOCOLS),
        ({"assurance_level": None}, Criterion.ASSURANCE_OR_PROTOCOLS),
        ({"has_exclusive_rights": False}, Criterion.EXCLUSIVE_RIGHTS),
        ({"localisation_ratio": Fraction(799, 1000)}, Criterion.LOCALISATION_SHARE),
        ({"localisation_ratio": None}, Criterion.LOCALISATION_SHARE),
        ({"has_support_form": False}, Criterion.SUPPORT_IN_KAZAKHSTAN),
    ],
)
def test_each_criterion_can_fail_alone(change: dict[str, object], fails: Criterion) -> None:
    assert failing(replace(FULL, **change)) == {fails}


def test_protocols_replace_the_assurance_level() -> None:
    assert failing(replace(FULL, assurance_level=None, has_protocols=True)) == set()


def test_software_needs_a_certificate_until_the_change() -> None:
    assert failing(replace(FULL, certificate_ratio=None), BEFORE) == {Criterion.INDUSTRIAL_CERTIFICATE}


@pytest.mark.parametrize(
    ("ratio", "fails"), [(Fraction(3, 10), False), (Fraction(29, 100), True), (None, True)]
)
def test_electronics_need_thirty_percent_until_the_change(ratio: Fraction | None, fails: bool) -> None:
    dossier = Dossier(kind=Kind.ELECTRONICS, certificate_ratio=ratio)
    assert (failing(dossier, BEFORE) == {Criterion.INDUSTRIAL_CERTIFICATE}) is fails


def test_electronics_need_an_extract_from_the_change_on() -> None:
    assert failing(Dossier(kind=Kind.ELECTRONICS, certificate_ratio=Fraction(1))) == {
        Criterion.PRODUCERS_EXTRACT
    }
    assert failing(Dossier(kind=Kind.ELECTRONICS, has_producers_extract=True)) == set()


LAST_DAY = date(2026, 12, 31)
CERTIFICATE = ExpiringDocument("qazvision", "certificate", "A-1", LAST_DAY)


@pytest.mark.parametrize(
    ("days_left", "state", "is_late"),
    [
        (61, DocumentState.VALID, False),
        (60, DocumentState.REMINDER, False),
        (31, DocumentState.REMINDER, False),
        (30, DocumentState.ALARM, False),
        (29, DocumentState.ALARM, True),
        (0, DocumentState.ALARM, True),
        (-1, DocumentState.EXPIRED, True),
    ],
)
def test_a_document_reminds_from_sixty_days_and_alarms_from_thirty(
    days_left: int, state: DocumentState, is_late: bool
) -> None:
    found = expiry(CERTIFICATE, LAST_DAY - timedelta(days=days_left))
    assert (found.state, found.days_left, found.is_renewal_late) == (state, days_left, is_late)
    assert found.renew_by == date(2026, 12, 1)


def test_what_is_due_comes_most_urgent_first_and_valid_ones_do_not_come() -> None:
    later = replace(CERTIFICATE, number="A-2", expires_on=LAST_DAY + timedelta(days=20))
    far = replace(CERTIFICATE, number="A-3", expires_on=LAST_DAY + timedelta(days=200))
    found = due([far, later, CERTIFICATE], LAST_DAY - timedelta(days=10))
    assert [item.document.number for item in found] == ["A-1", "A-2"]


PROOFS = frozenset(Proof)
PRODUCER = Producer("qazvision", PROOFS, trusted_since=date(2026, 3, 1))


def test_both_conditions_are_asked() -> None:
    on = date(2026, 3, 1)
    assert eligibility(PRODUCER, on).is_eligible
    assert not eligibility(PRODUCER, on - timedelta(days=1)).is_trusted
    assert not eligibility(replace(PRODUCER, trusted_since=None), on).is_eligible
    left = replace(PRODUCER, trusted_until=on)
    assert not eligibility(left, on).is_trusted
    unproved = eligibility(replace(PRODUCER, proofs=PROOFS - {Proof.ORDER_TO_START, Proof.EMPLOYEES}), on)
    assert not unproved.is_produced_here
    assert not unproved.is_eligible
    assert unproved.missing == (Proof.ORDER_TO_START, Proof.EMPLOYEES)


@pytest.mark.parametrize(
    ("on", "first", "last"),
    [
        (date(2026, 1, 1), date(2026, 1, 1), date(2026, 3, 31)),
        (date(2026, 6, 30), date(2026, 4, 1), date(2026, 6, 30)),
        (date(2026, 8, 15), date(2026, 7, 1), date(2026, 9, 30)),
        (date(2026, 12, 31), date(2026, 10, 1), date(2026, 12, 31)),
    ],
)
def test_quarters_begin_and_end_where_the_calendar_has_them(on: date, first: date, last: date) -> None:
    assert quarter(on) == (first, last)


def test_the_check_list_shows_every_entry_and_what_was_checked_this_quarter() -> None:
    other = replace(PRODUCER, product="tilshi", trusted_until=date(2026, 11, 1))
    registered = Registered(
        producers=(PRODUCER, other),
        documents=(CERTIFICATE,),
        checked_on={"qazvision": date(2026, 10, 1), "tilshi": date(2026, 9, 30)},
    )
    first, second = check_list(registered, date(2026, 12, 10))
    assert (first.eligibility.product, first.is_due, first.eligibility.is_trusted) == ("tilshi", True, False)
    assert (second.eligibility.product, second.is_due) == ("qazvision", False)
    assert [item.document for item in second.expiries] == [CERTIFICATE]


def test_the_first_step_that_is_not_done_is_next() -> None:
    on = date(2026, 5, 1)
    nothing = steps(replace(FULL, localisation_ratio=None), eligibility(PRODUCER, on), is_registered=False)
    assert [(step.step, step.is_done, step.is_next) for step in nothing] == [
        (Step.LOCALISATION_SHARE, False, True),
        (Step.TRUSTED_REGISTER, True, False),
        (Step.PRODUCERS_REGISTER, False, False),
    ]
    assert steps(FULL, eligibility(PRODUCER, on), is_registered=False)[2].is_next
    assert not any(step.is_next for step in steps(FULL, eligibility(PRODUCER, on), is_registered=True))
