"""Recording and alerting rules, evaluated by promtool: each alert is raised by its cause and by nothing less."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
RULES = sorted((ROOT / "metrics" / "prometheus").glob("*.yaml"))


@dataclass(frozen=True)
class Case:
    """Series that raise an alert, the minute by which they have, and the minute before which they have not."""

    series: dict[str, str]
    fires_m: int
    quiet_m: int | None = None


def allocated(uuid: str, attempt: str = "17-1", job_id: str = "17", sector: str = "energy") -> str:
    return (
        f'kezek_gpu_allocation_info{{uuid="{uuid}",node="n1",attempt="{attempt}",job_id="{job_id}",project="p",'
        f'queue="q",sector="{sector}",category="startup"}}'
    )


# Values: 'A+BxN' is A, A+B, … over N further minutes; '_' is no sample.
HEALTHY = {
    'up{job="kezek-exporter",instance="x"}': "1x120",
    'kezek_gpu_collect_success{node="n1"}': "1x120",
    'kezek_gpu_collect_last_success_timestamp_seconds{node="n1"}': "0+60x120",
    'kezek_gpu_collect_duration_seconds{node="n1"}': "0.1x120",
    'kezek_gpus_live{node="n1"}': "8x120",
    'kezek_gpus_expected{node="n1"}': "8x120",
    'kezek_gpu_up{uuid="a"}': "1x120",
    'kezek_gpu_utilization_ratio{uuid="a"}': "0.5x120",
    'kezek_gpu_xid_watched{uuid="a"}': "1x120",
    'kezek_gpu_xid_last_timestamp_seconds{uuid="a",xid="13"}': "0+60x120",
    'kezek_gpu_process_query_success{uuid="a"}': "1x120",
    'kezek_gpu_recovery_action{uuid="a"}': "0x120",
    'kezek_gpu_ecc_errors_total{uuid="a",severity="uncorrected",scope="volatile"}': "2x120",
    'kezek_gpu_ecc_errors_total{uuid="a",severity="corrected",scope="volatile"}': "0+1x120",
    'kezek_gpu_remapped_rows_failure{uuid="a"}': "0x120",
    'kezek_gpu_remapped_rows_pending{uuid="a"}': "0x120",
    'kezek_gpu_retired_pages_pending{uuid="a"}': "0x120",
    'kezek_gpu_clock_event_active{uuid="a",reason="sw_power_cap"}': "1x120",
    'kezek_gpu_temperature_celsius{uuid="a",sensor="gpu"}': "70x120",
    'kezek_gpu_temperature_celsius{uuid="a",sensor="memory"}': "95x120",
    'kezek_gpu_nvlink_errors_total{uuid="a",kind="replay"}': "0x120",
    'kezek_gpu_pcie_errors_total{uuid="a",kind="correctable"}': "0+5x120",
    'kezek_gpu_unattributed_processes{uuid="a"}': "0x120",
    'kezek_gpu_attempt_processes{uuid="a",attempt="17-1",evidence="descent"}': "1x120",
    'kezek_gpu_unexamined_processes{uuid="a"}': "0x120",
    'kezek_agent_state_success{node="n1"}': "1x120",
    'kezek_agent_state_skipped{node="n1"}': "0x120",
    allocated("a"): "1x120",
    'kezek_project_remaining_device_seconds{project="p",flavor="h200"}': "1000000-1x120",
    "kezek_journal_unsealed_records": "3x120",
    'kezek_cycle_duration_seconds{quantile="0.99"}': "0.2x120",
    'kezek_queue_wait_seconds_bucket{queue="q",le="60"}': "0+1x120",
    'kezek_queue_wait_seconds_bucket{queue="q",le="+Inf"}': "0+1x120",
    'kezek_queue_nominal_gpus{queue="q"}': "8x120",
    'kezek_queue_held_gpus{queue="q",flavor="h200"}': "10x120",
    # Borrowed GPUs are taken back: a violation that ends with the notice.
    'kezek_queue_entitlement_violated_gpus{queue="q"}': "0x60 4x5 0x55",
    'kezek_cycle_phase_seconds_count{phase="apply"}': "0+60x120",
    'kezek_register_documents_due{state="reminder"}': "5x120",
    'kezek_register_documents_due{state="alarm"}': "0x120",
    'kezek_executor_calls_total{kind="launch",outcome="ok"}': "0+60x120",
    'kezek_executor_calls_total{kind="launch",outcome="unreachable"}': "0x60 3x60",
    'kezek_api_request_seconds_count{route="/v1/jobs",method="GET",status="2xx"}': "0+600x120",
    'kezek_api_request_seconds_count{route="/v1/jobs",method="GET",status="5xx"}': "0+1x120",
    'kezek_api_request_seconds_bucket{route="/v1/jobs",method="GET",status="2xx",le="0.1"}': "0+600x120",
    'kezek_api_request_seconds_bucket{route="/v1/jobs",method="GET",status="2xx",le="+Inf"}': "0+600x120",
}
SLOW_QUEUE = {
    f'kezek_queue_wait_seconds_bucket{{queue="q",le="{bound}"}}': "0+1x240" if count else "0x240"
    for bound, count in (("60", 0), ("86400", 0), ("259200", 1), ("+Inf", 1))
}
ALERTS = {
    "KezekExporterDown": Case({'up{job="kezek-exporter",instance="x"}': "1x10 0x20"}, 17, 15),
    "KezekGpuCollectionFailing": Case({'kezek_gpu_collect_success{node="n1"}': "1x10 0x20"}, 22, 20),
    "KezekGpuCollectionStale": Case(
        {'kezek_gpu_collect_last_success_timestamp_seconds{node="n1"}': "0x30"}, 12, 10
    ),
    "KezekGpuCollectionSlow": Case({'kezek_gpu_collect_duration_seconds{node="n1"}': "6x30"}, 11, 9),
    "KezekGpuXidUnwatched": Case({'kezek_gpu_xid_watched{uuid="a"}': "0x30"}, 16, 14),
    "KezekGpuProcessQueryFailing": Case({'kezek_gpu_process_query_success{uuid="a"}': "0x60"}, 31, 29),
    "KezekGpuProcessesUnexamined": Case({'kezek_gpu_unexamined_processes{uuid="a"}': "1x60"}, 31, 29),
    "KezekAgentStateUnread": Case({'kezek_agent_state_success{node="n1"}': "0x30"}, 16, 14),
    "KezekGpuMissing": Case(
        {'kezek_gpus_live{node="n1"}': "8x10 7x20", 'kezek_gpus_expected{node="n1"}': "8x30"}, 17, 15
    ),
    "KezekGpuDown": Case({'kezek_gpu_up{uuid="a"}': "1x10 0x20"}, 17, 15),
    "KezekGpuRecoveryActionNeeded": Case({'kezek_gpu_recovery_action{uuid="a"}': "0x10 2x20"}, 12, 10),
    "KezekGpuXidCritical": Case(
        {'kezek_gpu_xid_last_timestamp_seconds{uuid="a",xid="79"}': "_x10 600x40"}, 12, 9
    ),
    "KezekGpuXidWarning": Case(
        {'kezek_gpu_xid_last_timestamp_seconds{uuid="a",xid="94"}': "_x10 600x40"}, 12, 9
    ),
    "KezekGpuUncorrectableEcc": Case(
        {'kezek_gpu_ecc_errors_total{uuid="a",severity="uncorrected",scope="volatile"}': "2x10 3x20"}, 12, 10
    ),
    "KezekGpuRowRemapFailure": Case({'kezek_gpu_remapped_rows_failure{uuid="a"}': "0x10 1x20"}, 12, 10),
    "KezekGpuRowRemapPending": Case({'kezek_gpu_remapped_rows_pending{uuid="a"}': "1x90"}, 61, 59),
    "KezekGpuRetiredPagesPending": Case({'kezek_gpu_retired_pages_pending{uuid="a"}': "1x90"}, 61, 59),
    "KezekGpuHwThermalSlowdown": Case(
        {'kezek_gpu_clock_event_active{uuid="a",reason="hw_thermal_slowdown"}': "1x20"}, 6, 4
    ),
    "KezekGpuSwThermalSlowdown": Case(
        {'kezek_gpu_clock_event_active{uuid="a",reason="sw_thermal_slowdown"}': "1x60"}, 31, 29
    ),
    "KezekGpuPowerBrake": Case(
        {'kezek_gpu_clock_event_active{uuid="a",reason="hw_power_brake_slowdown"}': "1x20"}, 6, 4
    ),
    "KezekGpuTemperatureHigh": Case({'kezek_gpu_temperature_celsius{uuid="a",sensor="gpu"}': "86x30"}, 11, 9),
    "KezekGpuNvlinkErrors": Case(
        {'kezek_gpu_nvlink_errors_total{uuid="a",kind="replay"}': "0x20 0+5x20"}, 26, 20
    ),
    "KezekGpuPcieErrors": Case({'kezek_gpu_pcie_errors_total{uuid="a",kind="fatal"}': "0x10 1x20"}, 12, 10),
    "KezekGpuAllocatedIdle": Case(
        {'kezek_gpu_utilization_ratio{uuid="a"}': "0x90", allocated("a"): "1x90"}, 37, 34
    ),
    "KezekTelemetryCoverageLow": Case({'kezek_gpu_up{uuid="a"}': "0x60", allocated("a"): "1x60"}, 17, 14),
    "KezekGpuUnattributedProcess": Case({'kezek_gpu_unattributed_processes{uuid="a"}': "1x30"}, 11, 9),
    "KezekGpuUsedByAnother": Case(
        {
            'kezek_gpu_attempt_processes{uuid="a",attempt="18-1",evidence="descent"}': "1x30",
            allocated("a"): "1x30",
            "kezek_journal_unsealed_records": "0x30",
        },
        6,
        4,
    ),
    "KezekProjectBudgetRunsOut": Case(
        {'kezek_project_remaining_device_seconds{project="p",flavor="h200"}': "1000000-200x200"}, 70, 55
    ),
    "KezekJournalUnsealed": Case({"kezek_journal_unsealed_records": "2000x30"}, 6, 4),
    "KezekCycleSlow": Case({'kezek_cycle_duration_seconds{quantile="0.99"}': "6x30"}, 16, 14),
    "KezekQueueWaitLong": Case(SLOW_QUEUE, 70, 50),
    "KezekEntitlementViolated": Case(
        {'kezek_queue_entitlement_violated_gpus{queue="q"}': "0x10 4x50"}, 43, 35
    ),
    "KezekSchedulerStalled": Case(
        {'kezek_cycle_phase_seconds_count{phase="apply"}': "0+60x10 600x30"}, 22, 18
    ),
    "KezekRegisterDocumentsDue": Case({'kezek_register_documents_due{state="expired"}': "1x90"}, 61, 59),
    "KezekExecutorFailing": Case(
        {'kezek_executor_calls_total{kind="launch",outcome="unreachable"}': "0x10 0+60x40"}, 25, 18
    ),
    "KezekApiFailing": Case(
        {
            'kezek_api_request_seconds_count{route="/v1/jobs",method="GET",status="2xx"}': "0+60x40",
            'kezek_api_request_seconds_count{route="/v1/jobs",method="GET",status="5xx"}': "0x10 0+6x30",
        },
        25,
        18,
    ),
    "KezekApiSlow": Case(
        {
            f'kezek_api_request_seconds_bucket{{route="/v1/jobs",le="{bound}"}}': f"0+{step}x40"
            for bound, step in (("1", 10), ("2.5", 20), ("5", 60), ("+Inf", 60))
        },
        13,
        9,
    ),
    "KezekControlPlaneDown": Case({"kezek_journal_unsealed_records": "3x10 _x40"}, 21, 14),
}


DEEDS = {
    "ask",
    "call",
    "cancel",
    "check",
    "compare",
    "drain",
    "find",
    "look",
    "read",
    "reset",
    "see",
    "take",
    "tell",
}


def rules() -> list[dict[str, Any]]:
    return [
        rule
        for path in RULES
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    ]


def promtool_test(tmp_path: Path, *tests: dict[str, Any]) -> None:
    """Run promtool over scenarios; its own message says what differs."""
    path = tmp_path / "test.yaml"
    document = {
        "rule_files": [str(path) for path in RULES],
        "evaluation_interval": "1m",
        "tests": list(tests),
    }
    path.write_text(yaml.safe_dump(document))
    run = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def scenario(
    series: dict[str, str], *expectations: tuple[str, int, list[tuple[str, float]]]
) -> dict[str, Any]:
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": expr,
                "eval_time": f"{minute}m",
                "exp_samples": [{"labels": labels, "value": value} for labels, value in samples],
            }
            for expr, minute, samples in expectations
        ],
    }


def firing(alert: str) -> str:
    return f'max(ALERTS{{alertname="{alert}",alertstate="firing"}})'


def test_rules_are_well_formed() -> None:
    subprocess.run(["promtool", "check", "rules", *RULES], check=True, capture_output=True)


def test_every_alert_has_a_case() -> None:
    assert {rule["alert"] for rule in rules() if "alert" in rule} == set(ALERTS)


def test_each_alert_is_raised_by_its_cause_and_not_before(tmp_path: Path) -> None:
    tests = []
    for alert, case in ALERTS.items():
        expectations = [(firing(alert), case.fires_m, [("{}", 1.0)])]
        if case.quiet_m is not None:
            expectations.append((firing(alert), case.quiet_m, []))
        tests.append(scenario(case.series, *expectations))
    promtool_test(tmp_path, *tests)


def test_a_healthy_platform_raises_none(tmp_path: Path) -> None:
    everything = 'count by (alertname) (ALERTS{alertstate=~"firing|pending"})'
    promtool_test(tmp_path, scenario(HEALTHY, *((everything, minute, []) for minute in (1, 30, 60, 100))))


def test_a_scheduler_that_is_gone_is_as_bad_as_one_that_stands_still(tmp_path: Path) -> None:
    series = {'kezek_cycle_phase_seconds_count{phase="apply",instance="x"}': "0+60x10"}
    alert, fired = "KezekSchedulerStalled", [("{}", 1.0)]
    promtool_test(tmp_path, scenario(series, (firing(alert), 12, []), (firing(alert), 22, fired)))


def test_expired_xid_raises_nothing(tmp_path: Path) -> None:
    series = {'kezek_gpu_xid_last_timestamp_seconds{uuid="a",xid="79"}': "60x60"}
    alert = "KezekGpuXidCritical"
    promtool_test(tmp_path, scenario(series, (firing(alert), 10, [("{}", 1.0)]), (firing(alert), 12, [])))


def test_fresh_job_on_a_gpu_that_idled_is_not_idle_yet(tmp_path: Path) -> None:
    series = {
        'kezek_gpu_utilization_ratio{uuid="a"}': "0x90",
        allocated("a", "17-1"): "1x30 _x60",
        allocated("a", "18-1"): "_x31 1x60",
    }
    promtool_test(tmp_path, scenario(series, (firing("KezekGpuAllocatedIdle"), 45, [])))


def test_telemetry_joined_with_allocations(tmp_path: Path) -> None:
    series = {
        'kezek_gpu_utilization_ratio{uuid="a",instance="x"}': "0.9x10",
        'kezek_gpu_utilization_ratio{uuid="b",instance="x"}': "0.5x10",
        'kezek_gpu_utilization_ratio{uuid="free",instance="x"}': "0x10",
        'kezek_gpu_power_watts{uuid="a"}': "600x10",
        'kezek_gpu_power_watts{uuid="b"}': "400x10",
        'kezek_gpu_up{uuid="a"}': "1x10",
        'kezek_gpu_up{uuid="b"}': "1x10",
        'kezek_gpu_up{uuid="c"}': "0x10",
        **{allocated(uuid): "1x10" for uuid in "abc"},
        # A second replica of the API says the same: nothing is counted twice.
        allocated("a").replace("{", '{instance="replica2",'): "1x10",
        allocated("silent", "18-1", "18", "mining"): "1x10",
    }
    job = '{job_id="17",project="p",sector="energy",category="startup"}'
    promtool_test(
        tmp_path,
        scenario(
            series,
            ('job_id:kezek_gpus:count{job_id="17"}', 5, [(f"job_id:kezek_gpus:count{job}", 3)]),
            ("job_id:kezek_gpu_utilization:avg", 5, [(f"job_id:kezek_gpu_utilization:avg{job}", 0.7)]),
            ("job_id:kezek_gpu_utilization:min", 5, [(f"job_id:kezek_gpu_utilization:min{job}", 0.5)]),
            ("job_id:kezek_gpu_power_watts:sum", 5, [(f"job_id:kezek_gpu_power_watts:sum{job}", 1000)]),
            (
                'sector:kezek_gpu_telemetry_coverage:ratio{sector="mining"}',
                5,
                [('sector:kezek_gpu_telemetry_coverage:ratio{sector="mining"}', 0)],
            ),
            (
                "sector:kezek_gpu_utilization:avg",
                5,
                [('sector:kezek_gpu_utilization:avg{sector="energy"}', 0.7)],
            ),
            ("cluster:kezek_gpus_allocated:count", 5, [("cluster:kezek_gpus_allocated:count", 4)]),
            (
                "cluster:kezek_gpu_telemetry_coverage:ratio",
                5,
                [("cluster:kezek_gpu_telemetry_coverage:ratio", 0.5)],
            ),
        ),
    )


def test_queues_are_compared_with_their_quota(tmp_path: Path) -> None:
    series = {
        'kezek_queue_nominal_gpus{queue="q",instance="one"}': "8x70",
        'kezek_queue_nominal_gpus{queue="q",instance="two"}': "8x70",
        'kezek_queue_nominal_gpus{queue="idle"}': "4x70",
        'kezek_queue_nominal_gpus{queue="surplus"}': "0x70",
        'kezek_queue_held_gpus{queue="q",flavor="h200",instance="one"}': "6x70",
        'kezek_queue_held_gpus{queue="q",flavor="h200",instance="two"}': "6x70",
        'kezek_queue_held_gpus{queue="q",flavor="h100"}': "4x70",
        'kezek_queue_held_gpus{queue="surplus",flavor="h200"}': "1x70",
        'kezek_queue_entitlement_violated_gpus{queue="idle"}': "0x30 2x40",
    }
    ratio, seconds = "queue:kezek_quota_use:ratio", "queue:kezek_entitlement_violated_gpu_seconds:1h"
    promtool_test(
        tmp_path,
        scenario(
            series,
            (ratio, 5, [(f'{ratio}{{queue="q"}}', 1.25), (f'{ratio}{{queue="idle"}}', 0)]),
            (f"round({seconds} / 3600)", 60, [('{queue="idle"}', 1)]),
        ),
    )


def test_every_alert_says_what_to_do() -> None:
    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in {"info", "warning", "critical"}
            description = rule["annotations"]["description"]
            words = set(re.findall(r"[a-z]+", description.lower()))
            assert words & DEEDS, f"{rule['alert']} says what is, not what to do"
            assert rule["annotations"]["summary"]


def test_no_xid_is_in_two_tiers() -> None:
    tiers = [
        set(found[1].split("|"))
        for rule in rules()
        if (found := re.search(r'xid=~?"([0-9|]+)"', rule["expr"]))
    ]
    assert len(tiers) == 2
    assert not tiers[0] & tiers[1]
    assert not (tiers[0] | tiers[1]) & {"13", "31", "43", "63", "92"}, "these are mostly the program's own"


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_rules_use_documented_metrics_only(path: Path, documented: dict[str, frozenset[str]]) -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for group in yaml.safe_load(path.read_text())["groups"]:
        for rule in group["rules"]:
            names = set(re.findall(r"(?<![\w:])(?:\w+:)?kezek_[a-z0-9_]+(?::\w+)?", rule["expr"]))
            assert not names - recorded - set(documented), rule
