"""What holds the simulated GPUs, written for the exporter's simulated source, which reads no database."""

from __future__ import annotations

import json
import os
from pathlib import Path

from sqlalchemy import Engine, select

from scheduler.tables import AllocationRow, AttemptRow, GpuRow, NodeRow
from store.engine import snapshot


def write_holders(engine: Engine, path: Path, *, last: str = "") -> str:
    """Write nodes, GPUs and their holders to `path` when they differ from `last`; return what stands there now.

    The file is replaced whole, so a reader sees the old or the new one.
    """
    with snapshot(engine) as session:
        nodes: dict[str, list[dict[str, str]]] = {}
        simulated = select(GpuRow).join(NodeRow, NodeRow.name == GpuRow.node).where(NodeRow.is_simulated)
        for gpu in session.scalars(simulated.order_by(GpuRow.node, GpuRow.index)):
            nodes.setdefault(gpu.node, []).append({"uuid": gpu.uuid, "model": f"simulated {gpu.flavor}"})
        held = session.execute(
            select(AllocationRow.gpu_uuid, AttemptRow.job_id, AllocationRow.allocated_at)
            .join(AttemptRow, AttemptRow.id == AllocationRow.attempt_id)
            .where(AllocationRow.released_at.is_(None))
            .order_by(AllocationRow.gpu_uuid)
        )
        holders = {
            uuid: {"job_id": str(job_id), "started_at": started_at.isoformat()}
            for uuid, job_id, started_at in held
        }
    text = json.dumps(
        {"nodes": [{"node": node, "gpus": gpus} for node, gpus in nodes.items()], "holders": holders},
        sort_keys=True,
    )
    if text != last:
        beside = path.with_suffix(".new")
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)  # noqa: PTH105 - the same call under its plain name
    return text
