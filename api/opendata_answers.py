"""What the public addresses answer of the open data: wire types, made of the cells after merging."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from pydantic import BaseModel

from products.opendata import OpenData, to_rows


class OpenDataRowOut(BaseModel):
    """The figures of a sector or category. `schema` of the data tells each column; null is no data, never 0."""

    dimension: str
    key: str
    organisations: int
    jobs_running: int
    jobs_waiting: int
    gpus_busy: int
    gpu_seconds: int
    wait_seconds_sum: int
    jobs_started: int
    products: int
    busy_seconds: int | None
    covered_seconds: int


class UtilisationOut(BaseModel):
    """How well the GPUs held were used, over the period: both ratios are 0..1, null where there are no data."""

    utilisation_ratio: float | None
    coverage_ratio: float | None


class OpenDataOut(BaseModel):
    """The public figures: what the supercomputer is busy with, by sector and category."""

    as_of: datetime
    starts_at: datetime
    is_simulated: bool
    schema_url: str
    utilisation: UtilisationOut
    rows: list[OpenDataRowOut]


def open_data_of(data: OpenData) -> OpenDataOut:
    """The wire form."""
    rows = [OpenDataRowOut.model_validate(row) for row in to_rows(data)]
    return OpenDataOut(
        as_of=data.as_of,
        starts_at=data.starts_at,
        is_simulated=data.is_simulated,
        schema_url=SCHEMA_PATH,
        utilisation=utilisation_of(to_rows(data)),
        rows=rows,
    )


SCHEMA_PATH = "/v1/public/open-data/schema"
"""Where the JSON Schema of a row stands."""


def utilisation_of(rows: Iterable[Mapping[str, str | int | None]]) -> UtilisationOut:
    """Utilisation over the published cells of one dimension, with the coverage it rests on."""
    of_sectors = [row for row in rows if row["dimension"] == "sector"]
    busy = [int(row["busy_seconds"]) for row in of_sectors if row["busy_seconds"] is not None]
    covered = sum(int(row["covered_seconds"] or 0) for row in of_sectors)
    charged = sum(int(row["gpu_seconds"] or 0) for row in of_sectors)
    return UtilisationOut(
        utilisation_ratio=round(sum(busy) / covered, 4) if busy and covered else None,
        coverage_ratio=round(min(1.0, covered / charged), 4) if charged else None,
    )
