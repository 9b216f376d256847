"""The NVML reader against a real shared library, through pynvml and ctypes as in production."""

import ctypes
import importlib.metadata
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pynvml
import pytest

from metrics.nvml.events import MAX_XIDS_PER_GPU, XidCount, XidLog

GPU0 = "GPU-00000000-0000-0000-0000-000000000000"
GPU1 = "GPU-00000000-0000-0000-0000-000000000001"


def opened(probe: Any, driver: Any) -> Any:
    session = probe(driver)
    assert session.ask("open") is True
    session.ask("inventory")
    return session


def test_inventory(make_driver: Any, probe: Any) -> None:
    session = probe(make_driver("count 2"))
    assert session.ask("open") is True
    assert session.ask("inventory") == [
        {
            "uuid": uuid,
            "index": index,
            "model": "NVIDIA H100 80GB HBM3",
            "memory_total_bytes": 85520809984,
            "pci_bus_id": f"00000000:{0x18 + index:02X}:00.0",
            "driver_version": "580.95.05",
        }
        for index, uuid in enumerate((GPU0, GPU1))
    ]


def test_values_are_in_base_units(make_driver: Any, probe: Any) -> None:
    driver = make_driver(
        *(
            "count 1",
            "gpu 0 util 97",
            "gpu 0 memutil 41",
            "gpu 0 mem_used 1000000000",
            "gpu 0 instant_mw 512345",
        ),
        *("gpu 0 limit_mw 650000", "gpu 0 energy_mj 123456789012345", "gpu 0 temp 61", "gpu 0 mem_temp 88"),
        *(
            "gpu 0 sm_mhz 1755",
            "gpu 0 mem_mhz 2619",
            "gpu 0 events 72",
            "gpu 0 ecc_sbe_vol 1",
            "gpu 0 ecc_dbe_vol 2",
        ),
        *("gpu 0 ecc_sbe_agg 3", "gpu 0 ecc_dbe_agg 5000000000", "gpu 0 remap_cor 4", "gpu 0 remap_unc 6"),
        *("gpu 0 remap_pending 1", "gpu 0 recovery 2", "gpu 0 proc 4321 1073741824", "gpu 0 proc 4322 -1"),
        *(
            "gpu 0 power_cap_ns 3500000000",
            "gpu 0 sw_thermal_ns 1",
            "gpu 0 hw_thermal_ns 5000000000000000000",
        ),
        *("gpu 0 power_brake_ns 2000000000", "gpu 0 retired_sbe 11", "gpu 0 retired_dbe 12"),
        *("gpu 0 retired_pending 1", "gpu 0 pcie_tx 123456789012", "gpu 0 pcie_rx 98765432109"),
        *(
            "gpu 0 pcie_correctable 21",
            "gpu 0 pcie_non_fatal 22",
            "gpu 0 pcie_fatal 23",
            "gpu 0 pcie_replay 24",
        ),
        *("gpu 0 nvlink_tx_kib 5000000000", "gpu 0 nvlink_rx_kib 6000000000", "gpu 0 crc_flit 31"),
        *("gpu 0 crc_data 32", "gpu 0 link_replay 33", "gpu 0 link_recovery 34"),
    )
    assert opened(probe, driver).ask(f"sample {GPU0}") == {
        "uuid": GPU0,
        "is_up": True,
        "utilisation_ratio": 0.97,
        "memory_used_bytes": 1000000000,
        "memory_total_bytes": 85520809984,
        "memory_bandwidth_utilisation_ratio": 0.41,
        "power_w": 512.345,
        "power_limit_w": 650.0,
        "energy_j": 123456789012.345,
        "temperatures_celsius": {"gpu": 61.0, "memory": 88.0},
        "clocks_hz": {
            "graphics": 1755000000,
            "sm": 1755000000,
            "memory": 2619000000,
            "video": 1755000000,
        },
        "clock_event_reasons": ["hw_slowdown", "hw_thermal_slowdown"],
        "clock_event_s": {
            "sw_power_cap": 3.5,
            "sync_boost": 0.0,
            "sw_thermal_slowdown": 1e-09,
            "hw_thermal_slowdown": 5000000000.0,
            "hw_power_brake_slowdown": 2.0,
        },
        "ecc_errors": {
            "corrected/volatile": 1,
            "uncorrected/volatile": 2,
            "corrected/aggregate": 3,
            "uncorrected/aggregate": 5000000000,
        },
        "remapped_rows": {"correctable": 4, "uncorrectable": 6, "is_pending": True, "has_failed": False},
        "retired_pages": {"single_bit": 11, "double_bit": 12},
        "is_page_retirement_pending": True,
        "pcie": {"transmit_bytes": 123456789012, "receive_bytes": 98765432109},
        "pcie_errors": {"correctable": 21, "non_fatal": 22, "fatal": 23, "replay": 24},
        "nvlink": {"transmit_bytes": 5000000000 * 1024, "receive_bytes": 6000000000 * 1024},
        "nvlink_errors": {"crc_flit": 31, "crc_data": 32, "replay": 33, "recovery": 34},
        "recovery_action": 2,
        "is_mig_enabled": False,
        "mig_instances": [],
        "processes": [
            {"pid": 4321, "used_memory_bytes": 1073741824},
            {"pid": 4322, "used_memory_bytes": None},
        ],
        "failures": [],
    }


UNSUPPORTED = {
    "nvmlDeviceGetUtilizationRates": {
        "utilisation_ratio": None,
        "memory_bandwidth_utilisation_ratio": None,
    },
    "nvmlDeviceGetEnforcedPowerLimit": {"power_limit_w": None},
    "nvmlDeviceGetClockInfo": {"clocks_hz": {}},
    "nvmlDeviceGetMigMode": {"is_mig_enabled": None},
    "nvmlDeviceGetComputeRunningProcesses_v3": {"processes": None},
    "nvmlDeviceGetCurrentClocksEventReasons": {"clock_event_reasons": []},  # the older name still answers
    "nvmlDeviceGetMemoryInfo_v2": {"memory_used_bytes": 600000000},  # version 1 counts the reserve
    "nvmlDeviceGetFieldValues": {"nvlink": None, "pcie": None, "ecc_errors": {}, "clock_event_s": {}},
    "nvmlDeviceGetTemperatureV": {"temperatures_celsius": {"gpu": 29.0, "memory": 35.0}},
}


@pytest.mark.parametrize("code", [3, 4, 13])
@pytest.mark.parametrize("function", UNSUPPORTED)
def test_what_the_device_lacks_is_absent(make_driver: Any, probe: Any, function: Any, code: Any) -> None:
    driver = make_driver("count 1", "gpu 0 old_temp 29", f"gpu 0 err {function} {code}")
    sample = opened(probe, driver).ask(f"sample {GPU0}")
    assert sample["is_up"] is True
    assert sample["failures"] == []
    assert {key: sample[key] for key in UNSUPPORTED[function]} == UNSUPPORTED[function]


def test_field_values_have_a_return_code_each(make_driver: Any, probe: Any) -> None:
    driver = make_driver(
        *("count 1", "gpu 0 field 82 3", "gpu 0 field 4 2", "gpu 0 field 143 3", "gpu 0 field 230 999"),
        *("gpu 0 field 186 3", "gpu 0 field 83 3", "gpu 0 power_mw 69000", "gpu 0 energy_mj 5000"),
    )
    sample = opened(probe, driver).ask(f"sample {GPU0}")
    assert sample["temperatures_celsius"] == {"gpu": 30.0}
    assert set(sample["ecc_errors"]) == {"corrected/volatile", "corrected/aggregate", "uncorrected/aggregate"}
    assert sample["remapped_rows"] is None
    assert sample["recovery_action"] is None
    assert sample["power_w"] == 69.0, "older drivers answer the function, not the field"
    assert sample["energy_j"] == 5.0
    assert sample["failures"] == [{"function": "nvmlDeviceGetFieldValues[230]", "code": 999}]


def test_failure_is_told_from_lack_of_support(make_driver: Any, probe: Any) -> None:
    driver = make_driver("count 1", "gpu 0 err nvmlDeviceGetComputeRunningProcesses_v3 999")
    sample = opened(probe, driver).ask(f"sample {GPU0}")
    assert sample["processes"] is None, "a failed query must not look like an idle GPU"
    assert sample["failures"] == [{"function": "nvmlDeviceGetComputeRunningProcesses_v3", "code": 999}]


@pytest.mark.parametrize("variant", ["FAKENVML_OLD", "FAKENVML_NEW"])
def test_drivers_before_and_after_cuda_14_removals(make_driver: Any, probe: Any, variant: Any) -> None:
    driver = make_driver("count 1", "gpu 0 temp 55", "gpu 0 old_temp 55", "gpu 0 events 4", variant=variant)
    sample = opened(probe, driver).ask(f"sample {GPU0}")
    assert sample["temperatures_celsius"]["gpu"] == 55.0
    assert sample["clock_event_reasons"] == ["sw_power_cap"]
    assert sample["failures"] == []


@pytest.mark.parametrize("code", [15, 16, 28])
def test_gpu_lost_after_it_was_known(make_driver: Any, probe: Any, code: Any) -> None:
    driver = make_driver("count 2")
    session = opened(probe, driver)
    driver.script("count 2", f"gpu 1 lost {code}", "gpu 0 util 50")
    lost = session.ask(f"sample {GPU1}")
    assert lost["is_up"] is False
    assert lost["power_w"] is None
    assert session.ask(f"sample {GPU0}")["utilisation_ratio"] == 0.5
    assert [gpu["uuid"] for gpu in session.ask("inventory")] == [GPU0, GPU1], "it keeps its name"


def test_gpu_lost_in_one_field(make_driver: Any, probe: Any) -> None:
    driver = make_driver("count 1")
    session = opened(probe, driver)
    driver.script("count 1", "gpu 0 field 186 15")
    assert session.ask(f"sample {GPU0}")["is_up"] is False


def test_gpu_lost_before_it_was_known(make_driver: Any, probe: Any) -> None:
    session = probe(make_driver("count 2", "gpu 0 lost 15"))
    session.ask("open")
    assert [gpu["uuid"] for gpu in session.ask("inventory")] == [GPU1]


@pytest.mark.parametrize("change", ["gpu 0 renamed 7", "gpu 0 lost 2"])
def test_handle_that_no_longer_means_the_gpu_is_a_lost_gpu(make_driver: Any, probe: Any, change: Any) -> None:
    driver = make_driver("count 1")
    session = opened(probe, driver)
    driver.script("count 1", change)
    assert session.ask(f"sample {GPU0}")["is_up"] is False


def test_mig_hides_utilisation(make_driver: Any, probe: Any) -> None:
    sample = opened(probe, make_driver("count 1", "gpu 0 mig 1")).ask(f"sample {GPU0}")
    assert sample["is_mig_enabled"] is True
    assert sample["utilisation_ratio"] is None
    assert sample["power_w"] == 71.5


def test_unknown_uuid(make_driver: Any, probe: Any) -> None:
    answer = opened(probe, make_driver("count 1")).ask("sample GPU-nobody")
    assert answer["error"] == "UnknownGpuError"
    assert "GPU-nobody" in answer["text"]


def test_no_library(no_driver: Any, probe: Any) -> None:
    assert probe(no_driver).ask("open") is False


@pytest.mark.parametrize("lines", [("err nvmlInitWithFlags 9",), ("count 0",)])
def test_no_driver_or_no_gpu(make_driver: Any, probe: Any, lines: Any) -> None:
    assert probe(make_driver(*lines)).ask("open") is False


def test_broken_driver_is_an_error_and_can_be_opened_later(make_driver: Any, probe: Any) -> None:
    driver = make_driver("count 1", "err nvmlInitWithFlags 18")
    session = probe(driver)
    assert session.ask("open") == {"error": "NvmlError", "function": "nvmlInit", "code": 18}
    driver.script("count 1", "err nvmlDeviceGetCount_v2 999")
    assert session.ask("open") == {"error": "NvmlError", "function": "nvmlDeviceGetCount", "code": 999}
    driver.script("count 1")
    assert session.ask("open") is True


def test_count_is_limited(make_driver: Any, probe: Any) -> None:
    session = probe(make_driver("count 100000"))
    session.ask("open")
    # The library has 16 devices; index 16 is refused before the limit of 64 is reached, which is an error.
    assert session.ask("inventory") == {
        "error": "NvmlError",
        "function": "nvmlDeviceGetHandleByIndex",
        "code": 2,
    }


def field_calls(calls: list[tuple[int, str]], function: str) -> int:
    return sum(name == function for _, name in calls)


def test_all_counters_come_in_one_call(make_driver: Any, probe: Any) -> None:
    driver = make_driver("count 1", is_recording=True)
    session = opened(probe, driver)
    session.ask(f"sample {GPU0}")
    driver.calls()
    session.ask(f"sample {GPU0}")
    calls = driver.calls()
    assert field_calls(calls, "nvmlDeviceGetFieldValues") == 1
    assert len(calls) <= 14, calls


def test_what_is_not_supported_is_asked_for_again_after_an_hour(make_driver: Any, probe: Any) -> None:
    refused = (
        "gpu 0 err nvmlDeviceGetEnforcedPowerLimit 3",
        "gpu 0 field 82 3",
        "gpu 0 err nvmlDeviceGetClockInfo 3",
    )
    driver = make_driver("count 1", *refused, is_recording=True)
    session = opened(probe, driver)
    session.ask(f"sample {GPU0}")
    driver.script("count 1")
    driver.calls()
    sample = session.ask(f"sample {GPU0}")
    assert (sample["power_limit_w"], sample["clocks_hz"]) == (None, {})
    assert sample["temperatures_celsius"] == {"gpu": 30.0}
    assert field_calls(driver.calls(), "nvmlDeviceGetEnforcedPowerLimit") == 0
    session.ask("age 3590")
    assert session.ask(f"sample {GPU0}")["power_limit_w"] is None
    session.ask("age 20")
    sample = session.ask(f"sample {GPU0}")
    assert (sample["power_limit_w"], len(sample["clocks_hz"])) == (700.0, 4)
    assert sample["temperatures_celsius"] == {"gpu": 30.0, "memory": 35.0}


@pytest.mark.parametrize("code", [4, 999])
def test_what_may_change_is_asked_for_each_time(make_driver: Any, probe: Any, code: Any) -> None:
    driver = make_driver("count 1", f"gpu 0 err nvmlDeviceGetEnforcedPowerLimit {code}")
    session = opened(probe, driver)
    assert session.ask(f"sample {GPU0}")["power_limit_w"] is None
    driver.script("count 1")
    assert session.ask(f"sample {GPU0}")["power_limit_w"] == 700.0


TWO_SLICES = (
    *("count 1", "gpu 0 mig 1", "gpu 0 gpm 1"),
    "gpu 0 instance 1 0 3g.40gb 40000000000 0 60",
    "gpu 0 instance 5 0 1g.10gb 10200547328 0 16",
    *("gpu 0 gpm 1 1 55.5", "gpu 0 gpm 1 2 40", "gpu 0 gpm 1 5 12.5", "gpu 0 gpm 1 10 100.0001"),
    "gpu 0 gpm 5 1 0",
)


def ratios_of(session: Any) -> list[dict[str, float]]:
    sample = session.ask(f"sample {GPU0}")
    assert sample["failures"] == []
    return [instance["utilisation_ratios"] for instance in sample["mig_instances"]]


def test_slices_have_a_utilisation_of_their_own(make_driver: Any, probe: Any) -> None:
    session = opened(probe, make_driver(*TWO_SLICES))
    assert ratios_of(session) == [{}, {}], "a figure is of the time between two passes"
    session.ask("age 15")
    large = {"graphics": 0.555, "sm": 0.4, "tensor": 0.125, "memory_bandwidth": 1.0}
    assert ratios_of(session) == [large, {"graphics": 0.0}], "what is not supported is not 0"
    assert ratios_of(session) == [large, {"graphics": 0.0}], "two scrapes at once are told the same"
    session.ask("age 601")
    assert ratios_of(session) == [{}, {}], "nobody asked about the last ten minutes"
    session.ask("age 2")
    assert ratios_of(session)[0] == large


def test_samples_of_slices_are_given_back(make_driver: Any, probe: Any) -> None:
    """The scripted driver ends the process when too many are held."""
    driver = make_driver(*TWO_SLICES)
    session = opened(probe, driver)
    for _ in range(30):
        driver.script(*TWO_SLICES[:-1])
        session.ask("age 2")
        assert len(ratios_of(session)) == 2
        driver.script(*(line for line in TWO_SLICES if "instance 5" not in line))
        session.ask("age 2")
        assert len(ratios_of(session)) == 1
        driver.script("count 1", "gpu 0 gpm 1")
        assert ratios_of(session) == []


@pytest.mark.parametrize(
    ("lines", "variant"),
    [(("gpu 0 gpm 0",), ""), ((), "FAKENVML_OLD"), (("gpu 0 err nvmlGpmQueryDeviceSupport 3",), "")],
    ids=["board without it", "driver without it", "not supported"],
)
def test_slices_of_boards_without_monitoring_have_none(
    make_driver: Any, probe: Any, lines: Any, variant: Any
) -> None:
    session = opened(probe, make_driver(*TWO_SLICES, *lines, variant=variant))
    for _ in range(2):
        assert ratios_of(session) == [{}, {}]
        session.ask("age 2")


@pytest.mark.parametrize("function", ["nvmlGpmMigSampleGet", "nvmlGpmMetricsGet"])
def test_monitoring_that_fails_is_told_and_stops_nothing_else(
    make_driver: Any, probe: Any, function: Any
) -> None:
    driver = make_driver(*TWO_SLICES, f"gpu 0 err {function} 999")
    session = opened(probe, driver)
    session.ask(f"sample {GPU0}")
    for _ in range(40):  # more than the driver may hold, if what failed were not given back
        session.ask("age 2")
        sample = session.ask(f"sample {GPU0}")
    assert {failure["function"] for failure in sample["failures"]} == {function}
    assert [instance["memory_total_bytes"] for instance in sample["mig_instances"]] == [
        40000000000,
        10200547328,
    ]
    driver.script(*TWO_SLICES)
    session.ask("age 2")
    session.ask(f"sample {GPU0}")
    session.ask("age 2")
    assert ratios_of(session)[0]["graphics"] == 0.555


def test_leaving_mig_mode_brings_utilisation_back_at_once(make_driver: Any, probe: Any) -> None:
    driver = make_driver("count 1", "gpu 0 mig 1", "gpu 0 instance 1 0 7g.80gb 80000000000 0 132")
    session = opened(probe, driver)
    sample = session.ask(f"sample {GPU0}")
    assert sample["utilisation_ratio"] is None
    assert [instance["profile"] for instance in sample["mig_instances"]] == ["7g.80gb"]
    driver.script("count 1", "gpu 0 util 30")
    sample = session.ask(f"sample {GPU0}")
    assert sample["utilisation_ratio"] == 0.3
    assert sample["mig_instances"] == []


def test_nvlink_5_is_summed_over_its_links(make_driver: Any, probe: Any) -> None:
    links = [f"gpu 0 link {field} {link} {10 * field + link}" for field in (202, 204) for link in range(3)]
    old = ("gpu 0 field 138 3", "gpu 0 field 139 3")
    driver = make_driver("count 1", *old, "gpu 0 nvlinks 3", *links)
    session = opened(probe, driver)
    assert session.ask(f"sample {GPU0}")["nvlink"] == {"transmit_bytes": 6063, "receive_bytes": 6123}
    driver.script("count 1", *old, "gpu 0 nvlinks 3", *links[1:])
    assert session.ask(f"sample {GPU0}")["nvlink"] is None, "a sum over fewer links would look like a reset"


@pytest.mark.parametrize(
    "line",
    ["gpu 0 field 197 3", "gpu 0 field 31 3", "gpu 0 field 38 3", "gpu 0 field 270 3", "gpu 0 field 94 3"],
)
def test_single_fields_may_be_missing(make_driver: Any, probe: Any, line: Any) -> None:
    full = opened(probe, make_driver("count 1")).ask(f"sample {GPU0}")
    sample = opened(probe, make_driver("count 1", line)).ask(f"sample {GPU0}")
    assert sample["failures"] == []
    assert sample != full


def test_wait_for_xids_goes_on_without_a_lost_gpu(make_driver: Any, probe: Any) -> None:
    driver = make_driver("count 2", "err nvmlEventSetWait_v2 15")
    session = opened(probe, driver)

    def histories() -> dict[str, Any]:
        return {history["uuid"]: history for history in session.ask("xids")}

    assert set(histories()) == {GPU0, GPU1}
    driver.script("count 2", "gpu 0 lost 15", "gpu 1 xid 1 94")
    deadline_s = time.monotonic() + 30
    while not histories()[GPU1]["counts"]:
        assert time.monotonic() < deadline_s, histories()
        threading.Event().wait(0.05)
    assert histories()[GPU1]["counts"][0]["xid"] == 94
    assert histories()[GPU0]["is_watched"] is False


def test_xid_codes_are_limited() -> None:
    log = XidLog(lambda: 5.0)
    for xid in range(MAX_XIDS_PER_GPU):
        log.add("GPU-a", xid)
    assert len(log.of("GPU-a")) == MAX_XIDS_PER_GPU
    for xid in (MAX_XIDS_PER_GPU, MAX_XIDS_PER_GPU + 1):
        log.add("GPU-a", xid)
    log.add("GPU-a", 7)
    counts = {count.xid: count for count in log.of("GPU-a")}
    assert len(counts) == MAX_XIDS_PER_GPU + 1
    assert counts[None] == XidCount(None, 2, 5.0)
    assert counts[7].count == 2
    assert log.of("GPU-b") == ()


STRUCTURES = {
    "nvmlUtilization_t": pynvml.c_nvmlUtilization_t,
    "nvmlMemory_t": pynvml.c_nvmlMemory_t,
    "nvmlMemory_v2_t": pynvml.c_nvmlMemory_v2_t,
    "nvmlPciInfo_t": pynvml.nvmlPciInfo_t,
    "nvmlProcessInfo_t": pynvml.c_nvmlProcessInfo_v3_t,
    "nvmlFieldValue_t": pynvml.c_nvmlFieldValue_t,
    "nvmlValue_t": pynvml.c_nvmlValue_t,
    "nvmlEventData_t": pynvml.c_nvmlEventData_t,
    "nvmlDeviceAttributes_t": pynvml.c_nvmlDeviceAttributes,
    "nvmlTemperature_t": pynvml.c_nvmlTemperature_v1_t,
    "nvmlGpmMetricsGet_t": pynvml.c_nvmlGpmMetricsGet_t,
    "nvmlGpmSupport_t": pynvml.c_nvmlGpmSupport_t,
}
FIELD_NAMES = {269: "SW_THERM_SLOWDOWN", 270: "HW_THERM_SLOWDOWN", 271: "HW_POWER_BRAKE_SLOWDOWN"}


def test_ctypes_structures_are_those_of_the_header(tmp_path: Path, nvml_include: Path) -> None:
    """What pynvml declares by hand has the size that NVIDIA's compiler input has."""
    rows = [f'printf("{name} %zu\\n", sizeof({name}));' for name in STRUCTURES]
    rows += [
        f'printf("{number} %d\\n", NVML_FI_DEV_CLOCKS_EVENT_REASON_{name});'
        for number, name in FIELD_NAMES.items()
    ]
    source, program = tmp_path / "sizes.c", tmp_path / "sizes"
    source.write_text("#include <nvml.h>\n#include <stdio.h>\nint main(void) {\n" + "\n".join(rows) + "\n}\n")
    subprocess.run(["cc", "-isystem", nvml_include, "-o", program, source], check=True)
    output = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    sizes = dict(line.split() for line in output.splitlines())
    expected = {name: str(ctypes.sizeof(structure)) for name, structure in STRUCTURES.items()}
    assert sizes == expected | {str(number): str(number) for number in FIELD_NAMES}


def test_the_inactive_shim_is_not_installed() -> None:
    """The distribution called pynvml only redirects, with a warning; nvidia-ml-py is the real one."""
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("pynvml")
    assert importlib.metadata.version("nvidia-ml-py")
