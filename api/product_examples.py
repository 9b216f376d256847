"""The examples of the OpenAPI document about products, indicators and initiatives; the same story as `api.examples`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_SHA256: Final = "7c1f3a2b9d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8"
_PRODUCT_ID: Final = "0f0a4f1e-6a0e-4c6e-9d4c-3a1c5e1b7a06"
_VERIFIED_AT: Final = "2026-03-05T11:30:00Z"
_ENDED: Final = "2026-03-02T10:00:00Z"
_NAME: Final = {"kk": "Цифр танығыш", "ru": "Распознаватель цифр", "en": "Digit reader"}
_DATA_SET: Final = {"id": "meters-2025", "digest": _SHA256, "licence": "CC-BY-4.0"}
_ENTRY: Final = {
    "name": _NAME,
    "description": "Reads digits of water meters.",
    "sector": "water-supply",
    "stage": "prototype",
    "started_on": "2026-02-01",
    "direction": "data",
    "ai_kind": "vision",
    "builds_on": ["own-model"],
    "links": ["https://digits.example.kz"],
    "users": "Two water utilities.",
    "programme": None,
    "authors": ["A. Example"],
    "data_sets": [_DATA_SET],
}
_FILE: Final = {
    "attempt_id": "0f0a4f1e-6a0e-4c6e-9d4c-3a1c5e1b7a05",
    "rank": 0,
    "path": "model.npz",
    "size_bytes": 9_120,
    "sha256": _SHA256,
}
_JOB: Final = {
    "job_id": 17,
    "state": "COMPLETED",
    "gpu_seconds": 7_200,
    "finished_at": _ENDED,
    "is_counted": True,
    "files": [_FILE],
}
_VERSION: Final = {**_FILE, "version": "1.0", "job_id": 17, "linked_at": "2026-03-03T08:00:00Z"}
_LIKENESS: Final = {"slug": "digits", "is_imported": False, "mark": "name", "value": "Digit reader"}
_PRODUCT: Final = {
    **_ENTRY,
    "id": _PRODUCT_ID,
    "slug": "digit-reader",
    "organisation_id": "0f0a4f1e-6a0e-4c6e-9d4c-3a1c5e1b7a01",
    "project_id": "0f0a4f1e-6a0e-4c6e-9d4c-3a1c5e1b7a02",
    "status": "verified",
    "author_id": "0f0a4f1e-6a0e-4c6e-9d4c-3a1c5e1b7a03",
    "registered_at": "2026-03-03T08:00:00Z",
    "changed_at": "2026-03-03T08:00:00Z",
    "verified_by": "0f0a4f1e-6a0e-4c6e-9d4c-3a1c5e1b7a07",
    "verified_at": _VERIFIED_AT,
    "has_changed_since_verification": False,
    "return_note": None,
}
_CONDITION: Final = {
    "condition": "gpu-hours",
    "holds": True,
    "needed": 1,
    "found": 2,
    "text": "A successful job on this platform, GPU-hours: needed 1.0, longest 2.0.",
}
_SPAN: Final[Mapping[str, object]] = {"since": _VERIFIED_AT, "until": None, "rule": "1", "failed": []}
_VERDICT: Final = {
    "slug": "digit-reader",
    "as_of": "2026-04-01T00:00:00Z",
    "rule": "1",
    "counts": True,
    "counted_at": _VERIFIED_AT,
    "year": 2026,
    "conditions": [_CONDITION],
    "spans": [_SPAN],
    "longest_job": 17,
    "review_due_at": "2027-03-05T11:30:00Z",
    "is_review_overdue": False,
}
_GROUND: Final = {
    "kind": "order",
    "body": "authorised body",
    "number": "EXAMPLE-11",
    "date": "2025-12-26",
    "digest": None,
}
_GRANT: Final = {
    "id": "0f0a4f1e-6a0e-4c6e-9d4c-3a1c5e1b7a04",
    "flavor": "h200",
    "granted_gpu_seconds": 144_000,
    "grounds": [_GROUND],
}
_ATTEMPT: Final = {
    "id": _FILE["attempt_id"],
    "policy": "2026-1",
    "policy_sha256": _SHA256,
    "queue": "science",
    "grant": _GRANT,
    "posted_gpu_seconds": 7_200,
}
_CHAIN_JOB: Final = {
    "job_id": 17,
    "state": "COMPLETED",
    "linked_at": "2026-03-03T08:00:00Z",
    "unlinked_at": None,
    "finished_at": _ENDED,
    "gpu_seconds": 7_200,
    "energy_kwh": 1.4,
    "energy_coverage_ratio": 0.98,
    "attempts": [_ATTEMPT],
    "model_versions": [_VERSION],
    "breaks": [],
}
_YEAR: Final = {
    "year": 2026,
    "target": 10,
    "added": 1,
    "ceased": 0,
    "cumulative": 1,
    "added_percent": 10,
    "cumulative_percent": 10,
    "imported_added": 0,
    "imported_cumulative": 1,
    "forecast_low": 1,
    "forecast_high": 3,
}
_COUNTED: Final = {
    "product_id": _PRODUCT_ID,
    "slug": "digit-reader",
    "held_at": _VERIFIED_AT,
    "year": 2026,
    "rule": "1",
}
_ACT: Final = {key: value for key, value in _GROUND.items() if key != "digest"}
_IMPORTED: Final = {
    "slug": "speech-2025",
    "counted_on": "2025-09-01",
    "decision": _ACT,
    "imported_at": "2026-02-01T06:00:00Z",
}
_RULE: Final = {
    "version": "1",
    "effective_from": "2025-01-01",
    "min_job_gpu_hours": 1,
    "min_stage": "prototype",
    "needs_ai": True,
    "reverify_days": 365,
}
_COVERAGE: Final = {"products_judged": 4, "records_since": "2026-01-01T04:00:00Z"}
_INITIATIVE_IN: Final = {
    "slug": "qaz-tutor",
    "direction": "education-and-labour",
    "kpi": {
        "kk": "ЖИ көмекшісімен жұмыс істейтін мектептер",
        "ru": "Школы, использующие помощника ИИ",
        "en": "Schools with an AI tutor",
    },
    "unit": "schools",
    "baseline": 0,
    "target": 700,
    "deadline": "2027-12-31",
}
_MEASURED: Final = {"on": "2026-03-01", "value": 301, "source": "Register of schools"}
_INITIATIVE: Final = {
    **_INITIATIVE_IN,
    "progress": "under-way",
    "value": 301,
    "measured_on": "2026-03-01",
    "source": "Register of schools",
    "done_percent": 43,
    "days_left": 640,
}

PRODUCT_EXAMPLES: Final[Mapping[str, object]] = {
    "ImportDecisionOut": _ACT,
    "ChainAttemptOut": _ATTEMPT,
    "ChainGrantOut": _GRANT,
    "ChainGroundOut": _GROUND,
    "ChainJobOut": _CHAIN_JOB,
    "ChainOut": {
        "slug": "digit-reader",
        "status": "verified",
        "is_simulated": True,
        "jobs": [_CHAIN_JOB],
        "verdict": _VERDICT,
    },
    "ConditionOut": _CONDITION,
    "ContributionOut": {
        "indicator": 7,
        "unit": "organisations",
        "definition": "Startups that completed a job on the platform in the year.",
        "ambiguity": "The Concept does not say whether the series is a number or a percentage.",
        "source": "AI Concept 2024-2029",
        "as_of": "2026-04-01T00:00:00Z",
        "is_simulated": True,
        "year": 2026,
        "national_target": 10,
        "contribution": 1,
        "counted": ["tilshi"],
    },
    "CountedOut": _COUNTED,
    "CoverageOut": _COVERAGE,
    "DataSetIn": _DATA_SET,
    "DataSetOut": _DATA_SET,
    "ProductEntryIn": _ENTRY,
    "EvidenceFileOut": _FILE,
    "EvidenceJobOut": _JOB,
    "EvidenceRuleOut": _RULE,
    "ImportedOut": _IMPORTED,
    "ImportedProductsOut": {"items": [_IMPORTED]},
    "IndicatorOut": {
        "indicator": 2,
        "unit": "products",
        "definition": "AI products developed on the supercomputer's resources.",
        "ambiguity": "The Concept does not say whether the target is per year or cumulative; both are shown.",
        "source": "AI Concept 2024-2029",
        "as_of": "2026-04-01T00:00:00Z",
        "is_simulated": True,
        "rule": _RULE,
        "coverage": _COVERAGE,
        "years": [_YEAR],
        "counted": [_COUNTED],
        "imported": [_IMPORTED],
        "unverified": 2,
        "without_evidence": 1,
        "reviews_overdue": 0,
    },
    "IndicatorYearOut": _YEAR,
    "InitiativeIn": _INITIATIVE_IN,
    "InitiativeOut": _INITIATIVE,
    "InitiativesOut": {"as_of": "2026-04-01T00:00:00Z", "items": [_INITIATIVE]},
    "LikenessOut": _LIKENESS,
    "LikenessesOut": {"items": [_LIKENESS]},
    "LinkIn": {"jobs": [17]},
    "MeasurementIn": _MEASURED,
    "ModelVersionIn": {"version": "1.0", "job": 17, "rank": 0, "path": "model.npz", "sha256": _SHA256},
    "ModelVersionOut": _VERSION,
    "PageOut_ProductOut_": {"items": [_PRODUCT], "next_cursor": None},
    "ProductDetailOut": {
        **_PRODUCT,
        "evidence": [_JOB],
        "model_versions": [_VERSION],
        "duplicates": [_LIKENESS],
    },
    "ProductIn": {
        **_ENTRY,
        "slug": "digit-reader",
        "project": "digit-reading",
        "jobs": [17],
        "is_draft": False,
    },
    "ProductOut": _PRODUCT,
    "SpanOut": _SPAN,
    "VerdictOut": _VERDICT,
}
"""An example of each object schema of these rooms."""
