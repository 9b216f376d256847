"""What was observed, in a user's shell: efficiency, use, notices, idle jobs; in three languages, with coverage."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from kezek.errors import ProtocolError
from kezek.fields import Fields
from kezek.telemetry import Efficiency
from sqlalchemy import select

from metrics import idle_policy
from metrics.efficiency import Fold
from metrics.folds import to_json
from metrics.idle import IdlePolicy
from metrics.idle_watch import IdleWatch
from metrics.stretches import tracked
from metrics.tables import AttemptTelemetryRow
from scheduler.tables import AllocationRow, AttemptRow
from store import clock
from store.engine import transaction

HALF = Fold(
    observed_s=1800,
    utilisation_s=(900.0, *[0.0] * 49, 900.0, *[0.0] * 50),
    memory_peak_bytes=2**30,
    energy_j=720_000,
    energy_observed_s=1800,
    xids={79: 1},
)


def observe(database: Any, attempt_id: str) -> None:
    """An attempt that held a GPU for an hour, half of it observed."""
    with transaction(database.engine) as session:
        held = session.scalars(select(AllocationRow).where(AllocationRow.attempt_id == attempt_id)).one()
        released = held.released_at
        assert released is not None
        held.allocated_at = released - timedelta(hours=1)
        session.add(
            AttemptTelemetryRow(attempt_id=attempt_id, observed_until=released, fold=to_json(HALF), idle={})
        )


def stand_idle(database: Any, attempt_id: str, after: timedelta) -> None:
    """Nothing has used the attempt's GPU for so long, and the watch looks."""
    with transaction(database.engine) as session:
        start = session.get_one(AttemptRow, attempt_id).started_at or clock.now()
        uuids = session.scalars(
            select(AllocationRow.gpu_uuid).where(AllocationRow.attempt_id == attempt_id)
        ).all()
        at: datetime = start + after
        row = session.get(AttemptTelemetryRow, attempt_id)
        if row is None:
            row = AttemptTelemetryRow(
                attempt_id=attempt_id, observed_until=start, fold=to_json(Fold()), idle={}
            )
            session.add(row)
        seconds = (at - row.observed_until).total_seconds()
        row.idle = tracked(row.idle, dict.fromkeys(uuids, (0.0, seconds)), at)
        row.observed_until = at
    IdleWatch(database.engine, lambda: at, "test").tick()


def test_how_a_job_used_its_gpus_is_told_with_its_coverage(platform: Any, database: Any) -> None:
    platform.write("train.py", "print('done')")
    submit = ("submit", "train.py", "-p", "aurora", "--gpus", "1", "-t", "5m", "--interactive", "--wait")
    assert platform.kezek(*submit).code == 0
    assert "Interactive\tyes" in platform.kezek("job", "1").out
    unseen = platform.kezek("efficiency", "1")
    assert unseen.code == 0
    assert "GPU utilisation, mean\tno data\t" in unseen.out
    assert "Energy, kWh\tno data\t" in unseen.out
    assert "Xid errors\tno data\t" in unseen.out

    observe(database, "1-1")
    found = platform.kezek("efficiency", "1")
    for line in (
        "Allocated, GPU-hours\t1.00\t–",
        "GPU utilisation, mean\t25.0%\t50.0%",
        "Most memory in use on one GPU\t1.0 GiB\t50.0%",
        "Used, GPU-hours\t0.25\t50.0%",
        "Xid errors\t79: 1\t50.0%",
        "Energy, kWh\t0.200\t50.0%",
        "Slowed down, GPU-hours\tno data\t",
    ):
        assert line in found.out
    assert "Simulated" in found.err
    assert "Энергия, кВт·ч\t0,200\t50,0 %" in platform.kezek("efficiency", "1", KEZEK_LANG="ru").out
    kazakh = platform.kezek("efficiency", "1", KEZEK_LANG="kk")
    assert "Баяулаған, GPU-сағат\tдерек жоқ" in kazakh.out
    assert "Имитация" in kazakh.err
    assert json.loads(platform.kezek("efficiency", "1", "-o", "json").out)["energy_kwh"] == 0.2
    assert platform.kezek("efficiency", "1", KEZEK_TOKEN=platform.stranger).code == 3

    used = platform.kezek("use", "--by", "sector", KEZEK_LANG="kk")
    assert "білім беру\t1\t1,00\t" in used.out
    assert "жоғарғы шек" in used.err
    assert "\t0.25\t0.12\t50.0%\t0.200\t50.0%\tno data\t79: 1" in platform.kezek("use").out
    assert "foreign user\t1\t" in platform.kezek("use", "--by", "category").out
    nothing = platform.kezek("use", "--by", "product")
    assert (nothing.out, nothing.err) == ("", "No attempt ended in this period.\n")
    assert json.loads(platform.kezek("use", "-o", "json").out)["items"][0]["attempts"] == 1
    assert platform.kezek("use", KEZEK_TOKEN=platform.stranger).out == ""
    past = platform.kezek("use", "--from", "2026-01-02", "--to", "2026-01-03", "-o", "json")
    assert json.loads(past.out)["from"] == "2026-01-01T19:00:00Z", "a day in Almaty"
    assert platform.kezek("use", "--from", "2026-01-03", "--to", "2026-01-02").code == 2


def test_an_idle_job_is_told_in_the_users_shell(platform: Any, database: Any, soon: Any) -> None:
    with transaction(database.engine) as session:
        idle_policy.put(session, IdlePolicy(is_dry_run=False), at=clock.now(), actor="system")
    platform.write("endless.py", "import time\nwhile True: time.sleep(0.1)")
    assert platform.kezek("submit", "endless.py", "-p", "aurora", "--gpus", "1", "-t", "3h").code == 0
    soon(lambda: json.loads(platform.kezek("job", "1", "-o", "json").out)["state"] == "RUNNING")
    assert platform.kezek("notices").err == "No notices.\n"
    assert platform.kezek("idle").err == "No job stands idle.\n"

    stand_idle(database, "1-1", timedelta(minutes=30))
    assert "stood idle for 30 min" in platform.kezek("job", "1").err
    listed = platform.kezek("notices", "1", KEZEK_LANG="ru")
    assert "\tуведомление\t–\tGPU простаивают уже 30 мин: 1 из 1." in listed.out
    assert "\tескертпе\t–\t" in platform.kezek("notices", "-p", "aurora", KEZEK_LANG="kk").out
    assert json.loads(platform.kezek("notices", "-o", "json").out)[0]["step"] == "notice"
    assert "1\taurora\t1\t1\t" in platform.kezek("idle").out
    assert json.loads(platform.kezek("idle", "-o", "json").out)["policy"]["dry_run"] is False
    assert platform.kezek("notices", KEZEK_TOKEN=platform.stranger).out == ""
    assert platform.kezek("notices", "1", KEZEK_TOKEN=platform.stranger).code == 3

    stand_idle(database, "1-1", timedelta(minutes=60))
    stand_idle(database, "1-1", timedelta(minutes=120))
    soon(lambda: json.loads(platform.kezek("job", "1", "-o", "json").out)["state"] == "CANCELLED")
    ended = platform.kezek("job", "1", KEZEK_LANG="kk")
    assert "екі ескертпеден кейін де бос тұрды" in ended.out
    assert "[IDLE]" in ended.out


@pytest.mark.parametrize(
    "changed", [{"coverage_ratio": "much"}, {"held_gpu_seconds": None}, {"is_simulated": 1}]
)
def test_an_answer_that_is_none_is_refused(changed: dict[str, object]) -> None:

    whole = {"job_id": 1, "is_simulated": True, "held_gpu_seconds": 1, "xids": {}}
    assert Efficiency.of(Fields(whole, "answer")).observed.coverage_ratio is None
    with pytest.raises(ProtocolError, match=next(iter(changed))):
        Efficiency.of(Fields(whole | changed, "answer"))
