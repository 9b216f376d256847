"""Examples of the OpenAPI document for idle jobs and use: the university's story of `api.examples` goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_POLICY: Final = {
    "enabled": True,
    "dry_run": False,
    "notice_after_s": 1800,
    "second_notice_after_s": 3600,
    "cancel_after_s": 7200,
    "min_busy_share": 0.5,
    "min_coverage": 0.9,
    "exempt_interactive": True,
}
_POLICY_OUT: Final = {
    "id": 3,
    "digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "set_at": "2026-03-01T04:00:00Z",
    "set_by": "system",
    **_POLICY,
}
_NOTICE: Final = {
    "id": 5,
    "job_id": 17,
    "attempt_id": "17-1",
    "project": "digit-reading",
    "step": "notice",
    "at": "2026-03-02T09:30:02Z",
    "idle_s": 1800,
    "idle_gpus": 2,
    "gpus": 2,
    "next_step": "second_notice",
    "next_at": "2026-03-02T10:00:02Z",
    "returned_gpu_seconds": None,
    "cleared_at": None,
    "text": "GPUs that have stood idle for 30 min: 2 of 2. If they stay so, the second notice follows "
    "on 2 March 2026, 15:00 (+05:00). Use them, or cancel the job.",
}
_IDLE_JOB: Final = {
    "job_id": 17,
    "attempt_id": "17-1",
    "project": "digit-reading",
    "gpus": 2,
    "idle_gpus": 2,
    "idle_since": "2026-03-02T09:00:02Z",
    "is_interactive": False,
    "taken": ["notice"],
    "exemption": None,
    "next_step": "second_notice",
    "due_at": "2026-03-02T10:00:02Z",
}
_USE_ROW: Final = {
    "name": "digit-reading",
    "attempts": 3,
    "is_simulated": True,
    "held_gpu_seconds": 480.0,
    "charged_gpu_seconds": 460,
    "observed_gpu_seconds": 456.0,
    "coverage_ratio": 0.95,
    "busy_gpu_seconds": 444.0,
    "useful_gpu_seconds": 369.4,
    "idle_gpu_seconds": 12.0,
    "mean_utilisation_ratio": 0.81,
    "energy_kwh": 0.071,
    "energy_coverage_ratio": 0.95,
    "throttled_gpu_seconds": 0.0,
    "xids": {"31": 1},
}


USE_EXAMPLES: Final[Mapping[str, object]] = {
    "IdleJobOut": _IDLE_JOB,
    "IdleJobsOut": {"policy": _POLICY_OUT, "items": [_IDLE_JOB]},
    "IdlePolicyIn": _POLICY,
    "IdlePolicyOut": _POLICY_OUT,
    "NoticeOut": _NOTICE,
    "NoticesOut": {"items": [_NOTICE], "next_cursor": None},
    "UseOut": {
        "by": "project",
        "from": "2026-02-01T00:00:00Z",
        "to": "2026-03-03T00:00:00Z",
        "items": [_USE_ROW],
    },
    "UseRowOut": _USE_ROW,
}
"""Examples by name of schema."""
