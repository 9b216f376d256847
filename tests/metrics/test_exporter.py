"""The exporter as Prometheus sees it: real process, real HTTP, scripted driver."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from scheduler.agent import procfs
from tests.metrics.conftest import until

ROOT = Path(__file__).resolve().parents[2]
GPU = "GPU-00000000-0000-0000-0000-{:012d}".format
FULL_GPU = ("gpu 0 util 50", "gpu 0 proc 7 1000")
# A GPU in MIG mode with one instance, and an Xid: with FULL_GPU, every family has a value.
SPLIT_GPU = (
    *("gpu 1 mig 1", "gpu 1 instance 3 0 1g.10gb 10200547328 500000 16", "gpu 1 xid 1 94", "gpu 1 gpm 1"),
    *("gpu 1 gpm 3 1 80", "gpu 1 gpm 3 2 60", "gpu 1 gpm 3 5 30", "gpu 1 gpm 3 10 20"),
)


def test_scrape_of_healthy_node(make_driver: Any, serve: Any) -> None:
    served = serve("--node", "n1", "--gpus", "2", driver=make_driver("count 2", *FULL_GPU))
    scrape = served.scrape()
    assert scrape.value("kezek_exporter_simulated") == 0
    assert scrape.value("kezek_gpu_collect_success", node="n1") == 1
    assert scrape.value("kezek_gpus_expected", node="n1") == 2
    assert scrape.value("kezek_gpus_live", node="n1") == 2
    assert scrape.value("kezek_gpu_info", uuid=GPU(0), node="n1", index="0", simulated="false") == 1
    assert scrape.value("kezek_gpu_utilization_ratio", uuid=GPU(0)) == 0.5
    assert scrape.value("kezek_gpu_compute_processes", uuid=GPU(0)) == 1
    assert abs(scrape.value("kezek_gpu_collect_last_success_timestamp_seconds", node="n1") - time.time()) < 60


def test_series_per_gpu_are_as_documented(make_driver: Any, serve: Any) -> None:
    served = serve("--node", "n1", driver=make_driver("count 8"))
    samples = served.scrape().samples
    per_gpu = [labels for rows in samples.values() for labels, _ in rows if labels.get("uuid") == GPU(3)]
    of_node = [labels for rows in samples.values() for labels, _ in rows if "uuid" not in labels]
    assert (len(per_gpu), len(of_node)) == (58, 6)
    text = (ROOT / "docs" / "telemetry.md").read_text()
    assert "58 series per GPU, one more per attempt on it, and 6 per node" in text


def test_no_label_belongs_to_prometheus_itself(make_driver: Any, serve: Any) -> None:
    samples = serve("--node", "n1", driver=make_driver("count 1", *FULL_GPU)).scrape().samples
    names = {name for rows in samples.values() for labels, _ in rows for name in labels}
    assert not names & {"job", "instance", "pod", "namespace", "service"}


def test_unsupported_is_absent_not_zero(make_driver: Any, serve: Any) -> None:
    driver = make_driver("count 1", "gpu 0 err nvmlDeviceGetUtilizationRates 3", "gpu 0 field 82 3")
    scrape = serve("--node", "n1", driver=driver).scrape()
    assert scrape.value("kezek_gpu_collect_success", node="n1") == 1
    assert "kezek_gpu_utilization_ratio" not in scrape.text
    assert scrape.value("kezek_gpu_temperature_celsius", sensor="memory") is None
    assert scrape.value("kezek_gpu_temperature_celsius", sensor="gpu") == 30


def test_lost_gpu_is_down_and_the_others_are_served(make_driver: Any, serve: Any) -> None:
    driver = make_driver("count 3")
    served = serve("--node", "n1", driver=driver)
    assert served.scrape().value("kezek_gpu_up", uuid=GPU(1)) == 1
    driver.script("count 3", "gpu 1 lost 15", "gpu 2 util 80")
    scrape = served.scrape()
    assert scrape.value("kezek_gpu_up", uuid=GPU(1)) == 0
    assert scrape.value("kezek_gpu_power_watts", uuid=GPU(1)) is None
    assert scrape.value("kezek_gpu_info", uuid=GPU(1)) == 1
    assert scrape.value("kezek_gpu_utilization_ratio", uuid=GPU(2)) == 0.8
    assert scrape.value("kezek_gpus_live", node="n1") == 2
    assert scrape.value("kezek_gpu_collect_success", node="n1") == 1, "that it is lost was learnt"


def test_gpu_gone_from_the_enumeration_is_still_expected(make_driver: Any, serve: Any) -> None:
    driver = make_driver("count 2")
    served = serve("--node", "n1", driver=driver)
    served.scrape()
    driver.script("count 1", "gpu 1 lost 28")
    scrape = served.scrape()
    assert scrape.value("kezek_gpus_expected", node="n1") == 2
    assert scrape.value("kezek_gpu_up", uuid=GPU(1)) == 0


def test_gpu_missing_from_the_start(make_driver: Any, serve: Any) -> None:
    served = serve("--node", "n1", "--gpus", "8", driver=make_driver("count 7", "gpu 2 lost 15"))
    scrape = served.scrape()
    assert scrape.value("kezek_gpus_expected", node="n1") == 8
    assert scrape.value("kezek_gpus_live", node="n1") == 6
    assert scrape.value("kezek_gpu_up", uuid=GPU(2)) is None, "its UUID was never known"


def test_hanging_gpu_is_left_behind_and_comes_back(make_driver: Any, serve: Any) -> None:
    driver = make_driver("count 3")
    served = serve("--node", "n1", driver=driver)
    served.scrape()
    driver.script("count 3", "gpu 1 hang nvmlDeviceGetUtilizationRates", "gpu 2 util 80")
    started_s = time.monotonic()
    scrape = served.scrape(timeout_s=1.5)
    took_s = time.monotonic() - started_s
    assert 0.9 < took_s < 1.5, "the scrape ended before the scraper would have given up"
    assert scrape.value("kezek_gpu_collect_success", node="n1") == 0
    assert scrape.value("kezek_gpu_up", uuid=GPU(1)) == 0
    assert scrape.value("kezek_gpu_power_watts", uuid=GPU(1)) is None
    assert scrape.value("kezek_gpu_info", uuid=GPU(1)) == 1
    assert scrape.value("kezek_gpu_utilization_ratio", uuid=GPU(2)) == 0.8
    assert scrape.value("kezek_gpus_live", node="n1") == 2

    threads = len(list(Path(f"/proc/{served.process.pid}/task").iterdir()))
    started_s = time.monotonic()
    for _ in range(5):
        assert served.scrape().value("kezek_gpu_collect_success", node="n1") == 0
    assert time.monotonic() - started_s < 3, "a GPU known to hang costs no second wait"
    assert len(list(Path(f"/proc/{served.process.pid}/task").iterdir())) <= threads, "nor a second thread"

    driver.script("count 3")
    until(lambda: served.scrape().value("kezek_gpu_collect_success", node="n1") == 1)
    assert served.scrape().value("kezek_gpu_up", uuid=GPU(1)) == 1


def test_gpu_that_hangs_from_the_start(make_driver: Any, serve: Any) -> None:
    served = serve("--node", "n1", driver=make_driver("count 2", "gpu 0 hang nvmlDeviceGetHandleByIndex_v2"))
    scrape = served.scrape(timeout_s=1.5)
    assert scrape.value("kezek_gpu_collect_success", node="n1") == 0
    assert scrape.value("kezek_gpu_up", uuid=GPU(1)) == 1


def test_hang_of_the_whole_driver_leaves_health_and_known_gpus(make_driver: Any, serve: Any) -> None:
    driver = make_driver("count 1")
    served = serve("--node", "n1", driver=driver)
    served.scrape()
    driver.script("count 1", "hang nvmlDeviceGetCount_v2", "gpu 0 util 40")
    scrape = served.scrape(timeout_s=1.5)
    assert scrape.value("kezek_gpu_collect_success", node="n1") == 0
    assert scrape.value("kezek_gpu_utilization_ratio", uuid=GPU(0)) == 0.4
    assert served.get("/-/healthy") == "ok\n"


def test_failed_call_is_no_success(make_driver: Any, serve: Any) -> None:
    driver = make_driver("count 2", "gpu 0 err nvmlDeviceGetComputeRunningProcesses_v3 999", "gpu 0 util 30")
    scrape = serve("--node", "n1", driver=driver).scrape()
    assert scrape.value("kezek_gpu_collect_success", node="n1") == 0
    assert scrape.value("kezek_gpu_compute_processes", uuid=GPU(0)) is None
    assert scrape.value("kezek_gpu_utilization_ratio", uuid=GPU(0)) == 0.3, "what was read is served"


def test_query_of_processes_tells_whether_it_worked(make_driver: Any, serve: Any) -> None:
    driver = make_driver("count 2", "gpu 0 err nvmlDeviceGetComputeRunningProcesses_v3 3")
    scrape = serve("--node", "n1", driver=driver).scrape()
    assert scrape.value("kezek_gpu_process_query_success", uuid=GPU(0)) == 0
    assert scrape.value("kezek_gpu_compute_processes", uuid=GPU(0)) is None
    assert scrape.value("kezek_gpu_process_query_success", uuid=GPU(1)) == 1
    assert scrape.value("kezek_gpu_compute_processes", uuid=GPU(1)) == 0


def test_xids_are_counted_while_the_collection_hangs(make_driver: Any, serve: Any) -> None:
    driver = make_driver("count 2", "gpu 1 xid 1 13")
    served = serve("--node", "n1", driver=driver)
    until(lambda: served.scrape().value("kezek_gpu_xid_errors_total", uuid=GPU(1), xid="13") == 1)
    driver.script(
        "count 2",
        "gpu 1 hang nvmlDeviceGetUtilizationRates",
        "gpu 1 xid 2 79",
        "gpu 1 xid 3 79",
        "gpu 0 xid 4 48",
    )
    until(lambda: served.scrape(1.2).value("kezek_gpu_xid_errors_total", uuid=GPU(0), xid="48") == 1)
    scrape = served.scrape()
    assert scrape.value("kezek_gpu_up", uuid=GPU(1)) == 0
    assert scrape.value("kezek_gpu_xid_errors_total", uuid=GPU(1), xid="79") == 2
    assert scrape.value("kezek_gpu_xid_errors_total", uuid=GPU(1), xid="13") == 1, "no code hides another"
    assert abs(scrape.value("kezek_gpu_xid_last_timestamp_seconds", uuid=GPU(1), xid="79") - time.time()) < 60
    assert scrape.value("kezek_gpu_xid_watched", uuid=GPU(1)) == 1


def test_gpu_whose_xids_cannot_be_seen_says_so(make_driver: Any, serve: Any) -> None:
    driver = make_driver(
        "count 2", "gpu 1 err nvmlDeviceRegisterEvents 3", "gpu 0 xid 1 31", "gpu 1 xid 2 31"
    )
    served = serve("--node", "n1", driver=driver)
    until(lambda: served.scrape().value("kezek_gpu_xid_errors_total", uuid=GPU(0), xid="31") == 1)
    scrape = served.scrape()
    assert scrape.value("kezek_gpu_xid_watched", uuid=GPU(0)) == 1
    assert scrape.value("kezek_gpu_xid_watched", uuid=GPU(1)) == 0
    assert scrape.value("kezek_gpu_xid_errors_total", uuid=GPU(1)) is None


def test_mig_instances_are_families_of_their_own(make_driver: Any, serve: Any) -> None:
    driver = make_driver(
        "count 1",
        "gpu 0 mig 1",
        "gpu 0 instance 1 0 3g.40gb 40000000000 7000000000 60",
        "gpu 0 instance 5 0 1g.10gb 10200547328 500000 16",
        "gpu 0 proc 71 1000 5",
        "gpu 0 proc 72 1000 5",
    )
    scrape = serve("--node", "n1", driver=driver).scrape()
    small = "MIG-00000000-0000-0000-0000-000000000005"
    assert (
        scrape.value(
            "kezek_mig_info", uuid=small, gpu_uuid=GPU(0), node="n1", gpu_instance="5", profile="1g.10gb"
        )
        == 1
    )
    assert scrape.value("kezek_mig_memory_total_bytes", uuid=small) == 10200547328
    assert scrape.value("kezek_mig_memory_used_bytes", uuid=small) == 500000
    assert scrape.value("kezek_mig_multiprocessors", uuid=small) == 16
    assert scrape.value("kezek_mig_compute_processes", uuid=small) == 2
    assert len(scrape.samples["kezek_mig_info"]) == 2
    power = scrape.samples["kezek_gpu_power_watts"]
    assert power == [({"uuid": GPU(0)}, 71.5)], "the board's power stands once, not once a slice"
    assert not any(name.startswith("kezek_mig") and "power" in name for name in scrape.samples)
    assert scrape.value("kezek_gpu_utilization_ratio", uuid=GPU(0)) is None
    assert scrape.value("kezek_gpu_collect_success", node="n1") == 1


def test_driver_that_comes_later_is_found(make_driver: Any, serve: Any) -> None:
    driver = make_driver("err nvmlInitWithFlags 9")
    served = serve("--node", "n1", driver=driver)
    before = served.scrape()
    assert before.value("kezek_gpu_collect_success", node="n1") == 0
    assert before.value("kezek_gpus_expected", node="n1") is None, "nobody said and nothing was counted"
    driver.script("count 1")
    assert served.scrape().value("kezek_gpu_collect_success", node="n1") == 1


def test_once_without_a_library_fails(no_driver: Any, once: Any, parse: Any) -> None:
    run = once("--node", "n1", "--gpus", "8", driver=no_driver)
    assert run.returncode == 1
    assert parse(run.stdout).value("kezek_gpu_collect_success", node="n1") == 0
    assert parse(run.stdout).value("kezek_gpus_expected", node="n1") == 8
    assert "no NVML library" in run.stderr


def test_once_with_a_hanging_gpu_ends_and_fails(make_driver: Any, once: Any) -> None:
    run = once("--node", "n1", driver=make_driver("count 2", "gpu 0 hang nvmlDeviceGetName"))
    assert run.returncode == 1
    assert f'kezek_gpu_up{{uuid="{GPU(1)}"}} 1.0' in run.stdout


def test_once_on_a_healthy_node(make_driver: Any, once: Any) -> None:
    assert once("--node", "n1", driver=make_driver("count 1")).returncode == 0


def test_promtool_accepts_names_and_help(make_driver: Any, once: Any) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    run = once("--node", "n1", driver=make_driver("count 2", *FULL_GPU, *SPLIT_GPU))
    check = subprocess.run(
        [promtool, "check", "metrics"], input=run.stdout, text=True, capture_output=True, check=False
    )
    assert (check.returncode, check.stdout + check.stderr) == (0, "")


def test_loads_nothing_of_the_platform_and_stays_small(no_driver: Any, serve: Any) -> None:
    code = (
        "import json, sys\n"
        "from metrics.exporter_cli import main\n"
        "main(['--simulated', '--node', 'n1', '--once'])\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env=no_driver.env(),
    )
    loaded = set(json.loads(run.stdout.splitlines()[-1]))
    assert "metrics" in loaded
    assert not loaded & {
        *("api", "products", "scheduler", "quota", "tenants", "store", "kezek"),
        *("ray", "sqlalchemy", "psycopg", "fastapi", "pydantic", "numpy", "typer", "rich", "httpx"),
    }
    served = serve("--simulated", "--node", "n1", "--gpus", "16", driver=no_driver)
    for _ in range(20):
        served.scrape()
    status = Path(f"/proc/{served.process.pid}/status").read_text()
    resident = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    assert resident is not None
    assert int(resident[1]) < 60 * 1024


@pytest.fixture
def rank() -> Iterator[Callable[..., int]]:
    """A process as the platform starts ranks, with these variables."""
    with ExitStack() as stack:

        def start(**variables: str) -> int:
            process = subprocess.Popen(
                [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=variables
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            # The variables are visible from the exec on, which Popen waits for.
            return process.pid

        yield start


def test_processes_are_told_by_attempt(make_driver: Any, serve: Any, rank: Any) -> None:
    ranks = [
        rank(KEZEK_ATTEMPT="17-1"),
        rank(KEZEK_ATTEMPT="17-1"),
        rank(KEZEK_ATTEMPT="x" * 65),
        rank(HOME="/"),
    ]
    nobody = 2**22 + 5  # above every pid that Linux gives out
    lines = [f"gpu 0 proc {pid} 1000" for pid in (*ranks, nobody)]
    scrape = serve("--node", "n1", driver=make_driver("count 2", *lines)).scrape()
    assert (
        scrape.value("kezek_gpu_attempt_processes", uuid=GPU(0), attempt="17-1", evidence="environment") == 2
    )
    assert len(scrape.samples["kezek_gpu_attempt_processes"]) == 1, "an absurd id is no label"
    assert scrape.value("kezek_gpu_unattributed_processes", uuid=GPU(0)) == 2
    assert scrape.value("kezek_gpu_unexamined_processes", uuid=GPU(0)) == 1
    assert scrape.value("kezek_gpu_unattributed_processes", uuid=GPU(1)) == 0


def test_documented_metrics_are_those_exposed(
    make_driver: Any, serve: Any, rank: Any, kubelet_socket: Path, tmp_path: Path
) -> None:
    pid = rank()
    kubelet = ("--pod-resources", str(kubelet_socket))
    (tmp_path / "agent/attempts").mkdir(parents=True)
    (tmp_path / "agent/attempts/17-1").mkdir()
    (tmp_path / "agent/attempts/17-1/start-0.json").write_text(
        json.dumps({"pid": pid, "start_ticks": procfs.start_ticks(pid), "boot_id": procfs.boot_id()})
    )
    agent = ("--agent-state", str(tmp_path / "agent"))
    driver = make_driver("count 2", f"gpu 0 proc {pid} 1000", *FULL_GPU, *SPLIT_GPU)
    served = serve("--node", "n1", *kubelet, *agent, driver=driver)
    until(
        lambda: {"kezek_gpu_xid_errors_total", "kezek_mig_utilization_ratio"} <= set(served.scrape().samples)
    )
    scrape = served.scrape()
    assert scrape.value("kezek_mig_utilization_ratio") == 0.8
    assert scrape.value("kezek_mig_memory_bandwidth_utilization_ratio") == 0.2
    exposed = {
        (name, scrape.kinds[name], frozenset(label for labels, _ in rows for label in labels))
        for name, rows in scrape.samples.items()
    }
    assert not {"job", "instance", "pod", "namespace", "service"} & {
        each for row in exposed for each in row[2]
    }
    documented = set()
    for line in (ROOT / "docs" / "telemetry.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `kezek_"):
            name, kind, unit, labels = cells[0].strip("`"), cells[1], cells[2], cells[3]
            documented.add((name, kind, frozenset(re.findall(r"`(\w+)`", labels))))
            suffix = name.removesuffix("_total").rsplit("_", 1)[-1]
            units = {"seconds", "ratio", "bytes", "watts", "joules", "celsius", "hertz"}
            assert unit == (suffix if suffix in units else "none"), f"{name}: the unit ends the name"
    assert documented == exposed
