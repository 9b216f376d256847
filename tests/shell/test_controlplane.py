from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from metrics.controlplane import MAX_QUEUES, OTHER_QUEUE, ControlPlane, _bounded
from scheduler.dispatch.fake import Script

FORBIDDEN = {"job", "instance", "pod", "namespace", "service"}


def scrape(world):
    registry = CollectorRegistry()
    registry.register(ControlPlane(world.engine))
    samples = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            assert not FORBIDDEN & set(sample.labels)
            samples[(sample.name, *sorted(sample.labels.items()))] = sample.value
    return samples


def test_an_empty_platform_has_no_invented_figures(database):
    class Empty:
        engine = database.engine

    samples = scrape(Empty)
    assert samples == {("kezek_journal_unsealed_records",): 0.0}


def test_queues_gpus_waits_and_charges_are_told(world):
    done, waiting = world.submit(2, 600, Script()), world.submit(8, 600)
    world.turn()
    world.turn()
    world.submit(8, 600)
    world.turn()
    samples = scrape(world)
    queue = ("queue", "science")
    assert samples["kezek_queue_jobs", queue, ("state", "PENDING")] == 1
    assert samples["kezek_queue_jobs", queue, ("state", "RUNNING")] == 1
    assert samples["kezek_queue_wait_seconds_count", queue] == 2
    assert samples["kezek_queue_wait_seconds_bucket", ("le", "+Inf"), queue] == 2
    assert samples["kezek_queue_wait_seconds_bucket", ("le", "60"), queue] == 2
    assert samples["kezek_device_seconds_total", queue] == world.view(done).gpu_seconds > 0
    gpus = {key[3][1]: value for key, value in samples.items() if key[0] == "kezek_gpus"}
    assert gpus == {"busy": 8, "free": 8, "down": 0}
    assert all(dict(key[1:])["simulated"] == "true" for key in samples if key[0] == "kezek_gpus")
    assert samples["kezek_scheduler_epoch",] == 1
    assert samples["kezek_journal_unsealed_records",] > 10
    assert ("kezek_cycle_duration_seconds", ("quantile", "0.99")) in samples
    assert world.state(waiting).value == "RUNNING"


def test_label_values_are_bounded():
    labels = _bounded(f"q{number:05}" for number in range(MAX_QUEUES + 1))
    assert min(labels.values()) == OTHER_QUEUE
    assert len(set(labels.values())) == MAX_QUEUES + 1
    assert OTHER_QUEUE not in _bounded(f"q{number}" for number in range(MAX_QUEUES)).values()
