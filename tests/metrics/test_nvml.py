"""The NVML reader against a real shared library, through pynvml and ctypes as in production."""

from typing import Any

import pytest

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
        "ecc_errors": {
            "corrected/volatile": 1,
            "uncorrected/volatile": 2,
            "corrected/aggregate": 3,
            "uncorrected/aggregate": 5000000000,
        },
        "remapped_rows": {"correctable": 4, "uncorrectable": 6, "is_pending": True, "has_failed": False},
        "recovery_action": 2,
        "is_mig_enabled": False,
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
