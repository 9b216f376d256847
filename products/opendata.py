"""Public figures as open data: no names, no cell that stands for fewer than three organisations. Pure.

A cell of one or two organisations would tell what one of them did. Such cells are merged into one, and while that one
is still too small the next smallest joins it: neither a cell nor the difference between the total and the cells shown
tells about fewer than three. Where even all together are fewer, nothing but the schema is published.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from io import StringIO
from typing import Final

LEAST_ORGANISATIONS: Final = 3
"""Organisations that a published cell stands for, at least [count]."""

MERGED: Final = "merged"
"""Key of the cell that small cells were merged into."""

FIELDS: Final = (
    ("dimension", "string", "what the row is a part of: sector or category"),
    (
        "key",
        "string",
        "code of the sector or category; 'merged' holds those of fewer than three organisations",
    ),
    ("organisations", "integer", "organisations with at least one job in the period"),
    ("jobs_running", "integer", "jobs running at the as-of time"),
    ("jobs_waiting", "integer", "jobs waiting at the as-of time"),
    ("gpus_busy", "integer", "GPUs held at the as-of time"),
    ("gpu_seconds", "integer", "raw device-seconds charged in the period"),
    (
        "wait_seconds_sum",
        "integer",
        "seconds from submit to first start, summed over the jobs started in the period",
    ),
    ("jobs_started", "integer", "jobs first started in the period"),
    ("products", "integer", "products that count at the as-of time"),
    ("busy_seconds", "integer", "device-seconds in which compute units worked; empty without telemetry"),
    (
        "covered_seconds",
        "integer",
        "device-seconds with telemetry: the coverage of busy_seconds is this / gpu_seconds",
    ),
)
"""Columns in their order: name, type, meaning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """The figures of one sector or category; raw seconds and counts that add up.

    `organisations` are ids, for counting without repetition; they are never published.
    """

    key: str
    organisations: frozenset[str]
    jobs_running: int
    jobs_waiting: int
    gpus_busy: int
    gpu_seconds: int
    wait_seconds_sum: int
    jobs_started: int
    products: int
    busy_seconds: int | None
    covered_seconds: int


@dataclass(frozen=True, slots=True)
class OpenData:
    """What is published: the cells of each dimension after merging.

    Args:
        as_of: the figures' instant.
        starts_at: beginning of the period the sums are over.
        is_simulated: whether the GPUs are simulated.
        dimensions: name of the dimension and its cells.
    """

    as_of: datetime
    starts_at: datetime
    is_simulated: bool
    dimensions: tuple[tuple[str, tuple[Cell, ...]], ...]


def merge_small(cells: Iterable[Cell]) -> tuple[Cell, ...]:
    """The cells with small ones merged, by key, the merged one last. O(n log n).

    Cells that say nothing (no organisation, no figure) are left out.
    """
    told = [cell for cell in cells if cell.organisations or _says_something(cell)]
    small = [cell for cell in told if len(cell.organisations) < LEAST_ORGANISATIONS]
    large = sorted(
        (cell for cell in told if len(cell.organisations) >= LEAST_ORGANISATIONS),
        key=lambda cell: (len(cell.organisations), cell.key),
    )
    if not small:
        return tuple(sorted(large, key=lambda cell: cell.key))
    merged = _merge(small)
    while len(merged.organisations) < LEAST_ORGANISATIONS and large:
        merged = _merge([merged, large.pop(0)])
    if len(merged.organisations) < LEAST_ORGANISATIONS:
        return ()
    return (*sorted(large, key=lambda cell: cell.key), merged)


def to_rows(data: OpenData) -> list[dict[str, str | int | None]]:
    """The rows of the open data, with the columns of `FIELDS`."""
    names = [name for name, _, _ in FIELDS]
    rows: list[dict[str, str | int | None]] = []
    for dimension, cells in data.dimensions:
        for cell in merge_small(cells):
            row: dict[str, str | int | None] = {"dimension": dimension, "key": cell.key}
            row["organisations"] = len(cell.organisations)
            row.update({name: getattr(cell, name) for name in names[len(row) :]})
            rows.append(row)
    return rows


def to_json(data: OpenData) -> str:
    """The rows with their schema and times, as JSON."""
    document = {
        "schema": schema(),
        "as_of": data.as_of.isoformat(),
        "starts_at": data.starts_at.isoformat(),
        "is_simulated": data.is_simulated,
        "rows": to_rows(data),
    }
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"


def to_csv(data: OpenData) -> str:
    """The rows as CSV (RFC 4180); an empty cell is no data, never 0."""
    made = StringIO()
    writer = csv.DictWriter(made, [name for name, _, _ in FIELDS])
    writer.writeheader()
    writer.writerows(to_rows(data))
    return made.getvalue()


def schema() -> dict[str, object]:
    """The columns as a JSON Schema of one row (draft 2020-12)."""
    properties: dict[str, object] = {}
    for name, kind, meaning in FIELDS:
        properties[name] = {
            "type": [kind, "null"] if name == "busy_seconds" else kind,
            "description": meaning,
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _says_something(cell: Cell) -> bool:
    return any((cell.jobs_running, cell.jobs_waiting, cell.gpus_busy, cell.gpu_seconds, cell.products))


def _merge(cells: Sequence[Cell]) -> Cell:
    known = [cell.busy_seconds for cell in cells if cell.busy_seconds is not None]
    return Cell(
        key=MERGED,
        organisations=frozenset().union(*(cell.organisations for cell in cells)),
        jobs_running=sum(cell.jobs_running for cell in cells),
        jobs_waiting=sum(cell.jobs_waiting for cell in cells),
        gpus_busy=sum(cell.gpus_busy for cell in cells),
        gpu_seconds=sum(cell.gpu_seconds for cell in cells),
        wait_seconds_sum=sum(cell.wait_seconds_sum for cell in cells),
        jobs_started=sum(cell.jobs_started for cell in cells),
        products=sum(cell.products for cell in cells),
        busy_seconds=sum(known) if known else None,
        covered_seconds=sum(cell.covered_seconds for cell in cells),
    )
