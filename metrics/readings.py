"""From an exporter's page to readings by GPU. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from metrics.efficiency import Reading

#: Reasons that slow a job below what it was granted. A board at its power limit is at full load, not slowed.
THROTTLING: Final = frozenset(("sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown"))

_VALUES: Final[Mapping[str, str]] = {
    "kezek_gpu_utilization_ratio": "utilisation_ratio",
    "kezek_gpu_memory_used_bytes": "memory_used_bytes",
    "kezek_gpu_energy_joules_total": "energy_j",
    "kezek_gpu_power_watts": "power_w",
}


@dataclass(slots=True)
class _Gathered:
    values: dict[str, float] = field(default_factory=dict)
    throttled_s: float | None = None
    xids: dict[int, int] = field(default_factory=dict)


class PageError(ValueError):
    """The page is not in Prometheus' text format."""


def parse_page(page: str, at_s: float) -> dict[str, Reading]:
    """Readings of the GPUs on a page, by UUID.

    Args:
        page: What the exporter answered.
        at_s: Unix time of the scrape.

    Raises:
        PageError: It is not what an exporter answers.
    """
    gathered: dict[str, _Gathered] = {}
    try:
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                uuid = sample.labels.get("uuid")
                if uuid is not None and sample.name.startswith("kezek_gpu_"):
                    _add(gathered.setdefault(uuid, _Gathered()), sample.name, sample.labels, sample.value)
    except (ValueError, KeyError, IndexError) as error:
        raise PageError(
            f"not a page of metrics ({error}); is this the address of a node exporter?"
        ) from error
    return {uuid: _reading(values, at_s) for uuid, values in gathered.items()}


def _add(gathered: _Gathered, name: str, labels: Mapping[str, str], value: float) -> None:
    if name in _VALUES:
        gathered.values[_VALUES[name]] = value
    elif name == "kezek_gpu_clock_event_seconds_total" and labels["reason"] in THROTTLING:
        gathered.throttled_s = (gathered.throttled_s or 0.0) + value
    elif name == "kezek_gpu_xid_errors_total" and labels["xid"].isdecimal():
        gathered.xids[int(labels["xid"])] = int(value)


def _reading(gathered: _Gathered, at_s: float) -> Reading:
    memory = gathered.values.get("memory_used_bytes")
    return Reading(
        at_s=at_s,
        utilisation_ratio=gathered.values.get("utilisation_ratio"),
        memory_used_bytes=None if memory is None else int(memory),
        energy_j=gathered.values.get("energy_j"),
        power_w=gathered.values.get("power_w"),
        throttled_s=gathered.throttled_s,
        xids=gathered.xids,
    )
