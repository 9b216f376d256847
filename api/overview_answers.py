"""What the API tells everybody of the machine: the open overview's wire types."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from pydantic import BaseModel

from scheduler.jobs import BusyWith


class CellOut(BaseModel):
    """GPUs and jobs of at least three organisations together."""

    name: str
    busy: int
    running: int
    pending: int


class OverviewOut(BaseModel):
    """What the supercomputer is busy with, for everybody; a figure is null where there are no data."""

    as_of: datetime
    is_simulated: bool
    gpus: int
    busy: int
    free: int
    down: int
    running: int
    pending: int
    organisations: int
    by_sector: list[CellOut]
    by_category: list[CellOut]
    wait_median_s: int | None
    wait_p95_s: int | None
    started_24h: int
    products: dict[str, int]

    @classmethod
    def of(cls, found: BusyWith, products: Mapping[str, int]) -> OverviewOut:
        """The wire form."""
        same = ("is_simulated", "gpus", "busy", "free", "down", "running", "pending", "organisations")
        return cls(
            **{name: getattr(found, name) for name in same},
            as_of=found.at,
            by_sector=_cells(found, "by_sector"),
            by_category=_cells(found, "by_category"),
            wait_median_s=found.wait_median_s,
            wait_p95_s=found.wait_p95_s,
            started_24h=found.started,
            products=dict(products),
        )


def _cells(found: BusyWith, name: str) -> list[CellOut]:
    cells = found.by_sector if name == "by_sector" else found.by_category
    return [
        CellOut(name=cell.name, busy=cell.busy, running=cell.running, pending=cell.pending) for cell in cells
    ]
