"""The examples of the OpenAPI document: one invented, consistent story, by name of schema.

A university trains a reader of digits, and the product is verified. A test holds each example to its schema and
wants one for every object of the document.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from api.planning_answers import PLANNING
from api.queue_answers import QUEUE, SLICES
from api.use_examples import USE_EXAMPLES

_ORGANISATION_ID: Final = "0f0a4f1e-6a0e-4c6e-9d4c-3a1c5e1b7a01"
_PROJECT_ID: Final = "0f0a4f1e-6a0e-4c6e-9d4c-3a1c5e1b7a02"
_USER_ID: Final = "0f0a4f1e-6a0e-4c6e-9d4c-3a1c5e1b7a03"
_GRANT_ID: Final = "0f0a4f1e-6a0e-4c6e-9d4c-3a1c5e1b7a04"
_CREDENTIAL_ID: Final = "0f0a4f1e-6a0e-4c6e-9d4c-3a1c5e1b7a05"
_BUNDLE: Final = "5d41402abc4b2a76b9719d911017c592ae2f1b7c0d3e4f5a6b7c8d9e0f1a2b3c"
_FILE: Final = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_GPUS: Final = ["GPU-6b1f0c52-0000-4000-8000-000000000000", "GPU-6b1f0c52-0000-4000-8000-000000000001"]
_QUEUE: Final = "science/universities"
_SUBMITTED, _STARTED, _ENDED = "2026-03-02T09:00:00Z", "2026-03-02T09:00:02Z", "2026-03-02T09:01:30Z"

_NAME: Final = {
    "kk": "Жетіген техникалық университеті",
    "ru": "Технический университет «Жетіген»",
    "en": "Zhetigen Technical University",
}
_GROUND: Final = {"kind": "order", "body": "authorised body", "number": "EXAMPLE-12", "date": "2025-12-26"}
_POLICY: Final = {
    "policy": {
        "version": "2026-1",
        "effective_from": "2026-01-01",
        "grounds": [_GROUND],
        "tree": {"science": {"nominal": "100%"}},
        "routes": [{"queue": "science"}],
    }
}

_ORGANISATION_IN: Final = {
    "slug": "zhetigen-university",
    "name": _NAME,
    "category": "university",
    "sector": "education",
    "region": "KZ-75",
    "bin": "940240005121",
}
_ORGANISATION: Final = {"id": _ORGANISATION_ID, **_ORGANISATION_IN}
_PROJECT: Final = {
    "id": _PROJECT_ID,
    "slug": "digit-reading",
    "organisation_id": _ORGANISATION_ID,
    "queue": _QUEUE,
    "programme": None,
    "status": "active",
}
_ROLE: Final = {"role": "researcher", "project_id": _PROJECT_ID}
_USER: Final = {
    "id": _USER_ID,
    "name": "a.example",
    "organisation_id": _ORGANISATION_ID,
    "is_active": True,
    "roles": [_ROLE],
}
_TOKEN: Final = {
    "id": _CREDENTIAL_ID,
    "user_id": _USER_ID,
    "prefix": "kzk_example",
    "scopes": ["write"],
    "created_at": "2026-03-01T08:00:00Z",
    "expires_at": "2026-03-31T08:00:00Z",
    "revoked_at": None,
}
_MY_PROJECT: Final = {"id": _PROJECT_ID, "slug": "digit-reading", "roles": ["researcher"]}

_BALANCE: Final = {
    "granted_s": 144_000,
    "pending_s": 1_200,
    "used_s": 176,
    "expired_s": 0,
    "returned_s": 0,
    "clawed_back_s": 0,
    "adjusted_s": 0,
    "transferred_in_s": 0,
    "transferred_out_s": 0,
    "remaining_s": 142_624,
}
_PERIOD: Final = {"starts_at": "2026-01-01T00:00:00Z", "ends_at": "2027-01-01T00:00:00Z"}
_GRANT: Final = {
    "id": _GRANT_ID,
    "project_id": _PROJECT_ID,
    "project": "digit-reading",
    "flavor": "h200",
    **_PERIOD,
    "balance": _BALANCE,
    "granted_gpu_hours": 40.0,
    "used_gpu_hours": 0.05,
    "remaining_gpu_hours": 39.62,
}
_POLICY_OUT: Final = {
    "version": "2026-1",
    "effective_from": "2026-01-01",
    "enacted_at": "2025-12-28T10:00:00Z",
    "digest": _BUNDLE,
    "document": _POLICY,
}

_RANK: Final = {
    "rank": 0,
    "node": "n0",
    "gpu_uuids": _GPUS,
    "started_at": _STARTED,
    "ended_at": _ENDED,
    "exit_code": 0,
    "signal": None,
    "error": None,
}
_ATTEMPT: Final = {
    "id": "17-1",
    "number": 1,
    "state": "COMPLETED",
    "share_class": "nominal",
    "grant_id": _GRANT_ID,
    "claim_s": 1_200,
    "used_s": 176,
    "ranks": [_RANK],
    "admitted_at": "2026-03-02T09:00:01Z",
    "dispatched_at": _STARTED,
    "committed_at": _STARTED,
    "started_at": _STARTED,
    "ended_at": _ENDED,
    "stop_why": None,
    "grace_s": 120,
    "reclaimed_by": None,
    "notice_ends_at": None,
    "refunded_s": 0,
}
_SLOT: Final = {"node": "n0", "gpu_uuids": _GPUS}
_REASON: Final = {
    "code": "QUEUE_LIMIT",
    "numbers": {"queue": _QUEUE, "nominal": 8, "used": 8, "gpus": 2},
    "text": "The queue science/universities uses 8 of its 8 GPUs; the job asks for 2.",
}
_JOB_IN: Final = {
    "project": "digit-reading",
    "name": "digits",
    "command": ["python", "train_digits.py", "--epochs", "20"],
    "gpus": 2,
    "walltime_s": 600,
    "outputs": ["model.npz", "metrics.json"],
}
_JOB: Final = {
    "id": 17,
    "project": "digit-reading",
    "organisation": "zhetigen-university",
    "user": "a.example",
    "queue": _QUEUE,
    "state": "COMPLETED",
    "name": _JOB_IN["name"],
    "command": _JOB_IN["command"],
    "env": {},
    "outputs": _JOB_IN["outputs"],
    "reason": None,
    "place": None,
    "priority": 0,
    "gpus": 2,
    "nodes": None,
    "walltime_s": 600,
    "flavors": ["h200"],
    "memory_bytes_per_rank": None,
    "node_labels": {},
    "topology_required": None,
    "topology_preferred": None,
    "placement": "pack",
    "cpus_per_gpu": None,
    "memory_bytes_per_gpu": None,
    "bundle": _BUNDLE,
    "is_held": False,
    "is_interactive": False,
    "begin_at": None,
    "depends_on": [],
    "array": None,
    "planned_start": None,
    "preemptions": 0,
    "is_cancel_requested": False,
    "is_simulated": True,
    "attempts": 1,
    "attempt": _ATTEMPT,
    "slots": [_SLOT],
    "exit_code": 0,
    "exit_signal": None,
    "exit_error": None,
    "exit_error_text": None,
    "gpu_seconds": 176,
    "submitted_at": _SUBMITTED,
    "back_off_until": None,
    "first_started_at": _STARTED,
    "finished_at": _ENDED,
}
_EVENT: Final = {
    "id": 240,
    "at": _STARTED,
    "kind": "attempt.started",
    "actor": "scheduler:3",
    "data": {"attempt_id": "17-1", "rank": 0},
}
_OUTPUT: Final = {
    "attempt_id": "17-1",
    "rank": 0,
    "path": "model.npz",
    "size_bytes": 91_204,
    "sha256": _FILE,
    "created_at": _ENDED,
}

_IN_USE: Final = {"gpus": 8, "busy": 2, "free": 6, "down": 0}
_NODE: Final = {
    "name": "n0",
    "flavor": "h200",
    "state": "UP",
    "is_simulated": True,
    **_IN_USE,
    "cpus": 2,
    "memory_bytes": 25_769_803_776,
    "labels": {},
    "isolation": ["landlock:5", "rlimits"],
    "last_seen_at": _STARTED,
}
_CELL: Final = {"name": "education", "busy": 2, "running": 1, "pending": 3}

_FINDING: Final = {"place": "body.gpus", "message": "Input should be greater than or equal to 1"}
_CHECK: Final = {"is_ready": True, "reason": "epoch 3"}


def _page(item: object) -> dict[str, object]:
    return {"items": [item], "next_cursor": None}


EXAMPLES: Final[Mapping[str, object]] = {
    "AttemptOut": _ATTEMPT,
    "BalanceOut": _BALANCE,
    "BundleOut": {"digest": _BUNDLE, "size_bytes": 4_096},
    "CellOut": _CELL,
    "CheckOut": _CHECK,
    "ClusterOut": {"is_simulated": True, **_IN_USE, "nodes": [_NODE]},
    **PLANNING,
    "EventOut": _EVENT,
    "EventsOut": {"items": [_EVENT], "next_after": None},
    "FindingOut": _FINDING,
    "GrantIn": {
        "project": "digit-reading",
        "flavor": "h200",
        "gpu_seconds": 144_000,
        **_PERIOD,
        "grounds": [_GROUND],
    },
    "GrantOut": _GRANT,
    "GroundIn": _GROUND,
    "HealthOut": {"status": "ok"},
    "InForceOut": {
        "version": "2026-1",
        "effective_from": "2026-01-01",
        "digest": _BUNDLE,
        "queues": [QUEUE],
    },
    "IssuedTokenOut": {
        "id": _CREDENTIAL_ID,
        "secret": "kzk_example_shown_once",
        "prefix": "kzk_example",
        "expires_at": "2026-03-31T08:00:00Z",
    },
    "JobIn": _JOB_IN,
    "JobOut": _JOB,
    "MeOut": {
        "user_id": _USER_ID,
        "name": "a.example",
        "organisation_id": _ORGANISATION_ID,
        "scopes": ["write"],
        "platform_roles": [],
        "projects": [_MY_PROJECT],
    },
    "MyProjectOut": _MY_PROJECT,
    "Names": _NAME,
    "NamesOut": _NAME,
    "NodeOut": _NODE,
    "OrganisationIn": _ORGANISATION_IN,
    "OrganisationOut": _ORGANISATION,
    "OutputOut": _OUTPUT,
    "OverviewOut": {
        "as_of": _STARTED,
        "is_simulated": True,
        **_IN_USE,
        "running": 1,
        "pending": 3,
        "organisations": 6,
        "by_sector": [_CELL],
        "by_category": [{**_CELL, "name": "university"}],
        "wait_median_s": 2,
        "wait_p95_s": 40,
        "started_24h": 12,
        "products": {"submitted": 0, "verified": 1, "returned": 0, "withdrawn": 0},
    },
    "PageOut_AttemptOut_": _page(_ATTEMPT),
    "PageOut_GrantOut_": _page(_GRANT),
    "PageOut_JobOut_": _page(_JOB),
    "PageOut_OrganisationOut_": _page(_ORGANISATION),
    "PageOut_OutputOut_": _page(_OUTPUT),
    "PageOut_ProjectOut_": _page(_PROJECT),
    "PageOut_TokenOut_": _page(_TOKEN),
    "PageOut_UserOut_": _page(_USER),
    "PoliciesOut": {"items": [_POLICY_OUT]},
    "PolicyOut": _POLICY_OUT,
    "Problem": {
        "type": "urn:kezek:problem:INVALID_REQUEST",
        "title": "The request is not valid",
        "status": 422,
        "detail": "1 field is wrong; see errors",
        "instance": "urn:uuid:0f0a4f1e-6a0e-4c6e-9d4c-3a1c5e1b7a08",
        "code": "INVALID_REQUEST",
        "errors": [_FINDING],
        "numbers": {},
    },
    "ProjectIn": {"organisation": "zhetigen-university", "slug": "digit-reading", "programme": None},
    "ProjectOut": _PROJECT,
    "ProjectStatusIn": {"status": "suspended"},
    "QueueOut": QUEUE,
    "QuotaOut": {"grants": [_GRANT], "queues": [QUEUE]},
    "RankOut": _RANK,
    "ReadyOut": {"is_ready": True, "checks": {"scheduler": _CHECK}},
    "ReasonOut": _REASON,
    "ReturnIn": {"note": "Say which job trained the model that is in use."},
    "RoleIn": {"role": "researcher", "project": "digit-reading"},
    "RoleOut": _ROLE,
    "SliceUseOut": SLICES,
    "SlotOut": _SLOT,
    "TokenIn": {"user_id": _USER_ID, "scopes": ["write"], "lifetime_s": 2_592_000},
    "TokenOut": _TOKEN,
    "UserIn": {"name": "a.example", "organisation": "zhetigen-university"},
    "UserOut": _USER,
    **USE_EXAMPLES,
}
"""An example of each object schema."""

POLICY_EXAMPLE: Final = _POLICY
"""Body of `POST /v1/policies`, whose schema stands in the operation itself."""
