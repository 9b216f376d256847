"""Examples of the OpenAPI document about dossiers, localisation, reports and open data: the same invented story."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_PROJECT_ID: Final = "0f0a4f1e-6a0e-4c6e-9d4c-3a1c5e1b7a02"
_DOSSIER_ID: Final = "0f0a4f1e-6a0e-4c6e-9d4c-3a1c5e1b7a09"
_AT: Final = "2027-01-20T06:30:00Z"
_SHA256: Final = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_NAME: Final = {"kk": "Цифр танығыш", "ru": "Распознаватель цифр", "en": "Digit reader"}

_DOSSIER: Final = {
    "id": _DOSSIER_ID,
    "slug": "digit-reader",
    "project_id": _PROJECT_ID,
    "kind": "software",
    "name": _NAME,
    "opened_at": "2026-03-02T09:00:00Z",
}
_DOCUMENT_IN: Final = {
    "code": "test-protocols",
    "number": "EXAMPLE-7",
    "issued_on": "2026-03-01",
    "expires_on": "2027-03-01",
    "level": None,
    "share_percent": None,
    "sha256": _SHA256,
}
_DOCUMENT: Final = {**_DOCUMENT_IN, "id": 3, "entered_at": "2026-03-02T09:05:00Z"}
_CRITERION: Final = {"criterion": "assurance-or-protocols", "holds": True}
_STEP: Final = {"step": "localisation-share", "is_done": True, "is_next": False}
_EXPIRY: Final = {
    "dossier": "digit-reader",
    "code": "test-protocols",
    "number": "EXAMPLE-7",
    "expires_on": "2027-03-01",
    "days_left": 40,
    "state": "reminder",
    "renew_by": "2027-01-30",
    "is_renewal_late": False,
}
_ELIGIBILITY: Final = {
    "is_eligible": False,
    "is_produced_here": False,
    "is_trusted": True,
    "missing": ["order-into-operation"],
}
_STANDING: Final = {
    "on": "2027-01-20",
    "meets_criteria": False,
    "criteria": [_CRITERION, {"criterion": "exclusive-rights", "holds": False}],
    "eligibility": _ELIGIBILITY,
    "steps": [_STEP],
    "expiries": [_EXPIRY],
    "share_percent": "81.39",
}
_PARTY_IN: Final = {"id": "gpu-cloud", "is_foreign": True, "controlled_by": None, "acts_for": None}
_CONTRACT_IN: Final = {"number": "C-1", "party": "gpu-cloud"}
_PAYMENT_IN: Final = {
    "contract": "C-1",
    "number": "P-17",
    "paid_on": "2026-04-10",
    "amount": "100.00",
    "currency": "USD",
    "purpose": "licence",
}
_RATE_IN: Final = {"currency": "USD", "on": "2026-04-10", "tenge": "512.340000"}
_PAYMENT: Final = {**_PAYMENT_IN, "party": "gpu-cloud", "counts_as_foreign": True}
_SHARE: Final = {
    "foreign_tenge": "160050.00",
    "total_tenge": "860050.00",
    "share_percent": "81.39",
    "is_reached": True,
}
_PAST_YEAR: Final = {
    "year": 2026,
    "foreign_tenge": "160050.00",
    "total_tenge": "860050.00",
    "foreign_percent": "18.60",
    "is_kept": True,
}
_CALCULATION: Final = {
    "id": 2,
    "starts_on": "2026-01-01",
    "ends_on": "2026-12-31",
    "share": _SHARE,
    "number": "940240005121",
    "responsible": "A. Example",
    "contact": "+7 700 000 00 00",
    "books_sha256": _SHA256,
    "calculated_at": _AT,
}
_REPORT: Final = {
    "sha256": _SHA256,
    "kind": "yearly",
    "starts_on": "2026-01-01",
    "ends_on": "2026-12-31",
    "as_of": _AT,
    "issued_at": _AT,
}
_ROW: Final = {
    "dimension": "sector",
    "key": "education",
    "organisations": 4,
    "jobs_running": 1,
    "jobs_waiting": 3,
    "gpus_busy": 2,
    "gpu_seconds": 7_140,
    "wait_seconds_sum": 600,
    "jobs_started": 12,
    "products": 1,
    "busy_seconds": 4_800,
    "covered_seconds": 6_900,
}
_USE: Final = {"utilisation_ratio": 0.6957, "coverage_ratio": 0.9664}

REGISTER_EXAMPLES: Final[Mapping[str, object]] = {
    "BooksIn": {
        "starts_on": "2026-01-01",
        "ends_on": "2026-12-31",
        "parties": [_PARTY_IN],
        "contracts": [_CONTRACT_IN],
        "payments": [_PAYMENT_IN],
        "rates": [_RATE_IN],
        "is_correction": False,
    },
    "CalculationIn": {
        "starts_on": "2026-01-01",
        "ends_on": "2026-12-31",
        "responsible": "A. Example",
        "contact": "+7 700 000 00 00",
        "iin": None,
    },
    "CalculationOut": _CALCULATION,
    "CalculationsOut": {"items": [_CALCULATION]},
    "CheckIn": {"checked_on": "2027-01-20", "is_kept": True},
    "CheckItemOut": {
        "dossier": "digit-reader",
        "eligibility": _ELIGIBILITY,
        "expiries": [_EXPIRY],
        "checked_on": None,
        "is_due": True,
    },
    "CheckListOut": {
        "on": "2027-01-20",
        "quarter_starts_on": "2027-01-01",
        "quarter_ends_on": "2027-03-31",
        "items": [],
    },
    "ContractIn": _CONTRACT_IN,
    "CriterionOut": _CRITERION,
    "DocumentIn": _DOCUMENT_IN,
    "DocumentOut": _DOCUMENT,
    "DossierDetailOut": {**_DOSSIER, "documents": [_DOCUMENT], "standing": _STANDING},
    "DossierIn": {"slug": "digit-reader", "project": "digit-reading", "kind": "software", "name": _NAME},
    "DossierOut": _DOSSIER,
    "EligibilityOut": _ELIGIBILITY,
    "EnteredOut": {"added": 4, "unchanged": 0, "corrected": 0},
    "EntryIn": {"state_register": "trusted", "entered_on": "2026-06-01"},
    "ExpiryOut": _EXPIRY,
    "ForeignYearOut": _PAST_YEAR,
    "LeavingIn": {"state_register": "trusted", "left_on": "2027-06-01"},
    "LocalisationOut": {
        "starts_on": "2026-01-01",
        "ends_on": "2026-12-31",
        "share": _SHARE,
        "payments": 2,
        "payments_outside": 0,
        "past_year": _PAST_YEAR,
    },
    "OpenDataOut": {
        "as_of": _AT,
        "starts_at": "2026-12-21T06:30:00Z",
        "is_simulated": True,
        "schema_url": "/v1/public/open-data/schema",
        "utilisation": _USE,
        "rows": [_ROW],
    },
    "OpenDataRowOut": _ROW,
    "PageOut_DossierOut_": {"items": [_DOSSIER], "next_cursor": None},
    "PageOut_PaymentOut_": {"items": [_PAYMENT], "next_cursor": None},
    "PageOut_ReportOut_": {"items": [_REPORT], "next_cursor": None},
    "PartyIn": _PARTY_IN,
    "PaymentIn": _PAYMENT_IN,
    "PaymentOut": _PAYMENT,
    "RateIn": _RATE_IN,
    "RemindersOut": {"on": "2027-01-20", "items": [_EXPIRY]},
    "ReportIn": {"kind": "yearly", "period": "2026", "as_of": None},
    "ReportOut": _REPORT,
    "ShareOut": _SHARE,
    "StandingOut": _STANDING,
    "StepOut": _STEP,
    "UtilisationOut": _USE,
}
"""An example of each object schema of the registers, the reports and the open data."""
