"""Whether telemetry kept a summary of what the workload's jobs did with their GPUs, and says what is simulated."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import fmean
from typing import Any, Final

Document = dict[str, Any]  # a JSON object of the API

_FIGURES: Final = ("mean_utilisation_ratio", "p95_utilisation_ratio", "memory_peak_bytes", "energy_kwh")


def telemetry(get: Callable[[str], Document], jobs: Iterable[int], say: Callable[[str], None]) -> list[str]:
    """Look at the summaries of jobs that completed; say what they come to.

    A job that began and ended between two readings has no figures, which is no fault. At least one must have been
    observed, with every figure, and each must say whether its GPUs were simulated.

    Args:
        get: asks the API for a path.
        jobs: ids of jobs that completed.
        say: gets one line of text.

    Returns:
        What did not hold, empty if all did.
    """
    is_simulated = bool(get("/v1/cluster")["is_simulated"])
    summaries = [get(f"/v1/jobs/{job}/efficiency") for job in jobs]
    problems = [
        f"telemetry of job {summary['job_id']} says simulated={summary['is_simulated']}, "
        f"the cluster {is_simulated}"
        for summary in summaries
        if summary["is_simulated"] is not is_simulated
    ]
    observed = [summary for summary in summaries if summary["observed_gpu_seconds"] > 0]
    complete = [summary for summary in observed if all(summary[figure] is not None for figure in _FIGURES)]
    if not complete:
        return [
            *problems,
            f"telemetry: none of {len(summaries)} completed jobs was observed with every figure",
        ]
    held_s = sum(summary["held_gpu_seconds"] for summary in summaries)
    observed_s = sum(summary["observed_gpu_seconds"] for summary in observed)
    utilisation = fmean(
        [summary["mean_utilisation_ratio"] for summary in complete],
        weights=[summary["observed_gpu_seconds"] for summary in complete],
    )
    label = "simulated" if is_simulated else "measured"
    say(
        f"  telemetry ({label}): {len(observed)} of {len(summaries)} completed jobs observed, "
        f"{observed_s / held_s:.0%} of the GPU time they held; mean utilisation {utilisation:.0%}, "
        f"{sum(summary['energy_kwh'] for summary in complete) * 1000:.1f} Wh"
    )
    return problems
