"""The chart renders what it should, with both versions of Helm, and refuses what it should."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.helm.conftest import CHART, HELMS, NEEDED, ROOT, helm, of_case, template, things

GOLDENS = Path(__file__).parent / "goldens"
KUBERNETES = ("1.33", "1.35")
OTHERS = {
    "RayCluster",
    "PrometheusRule",
    "ServiceMonitor",
    "HTTPRoute",
}  # kinds that Kubernetes itself does not have
UPDATE = "KEZEK_UPDATE_GOLDENS"


def golden(rendered: tuple[dict, ...]) -> str:
    """As rendered, without what other tests compare whole: settings, rules, dashboards, and the digest of settings."""
    kept = []
    for thing in yaml.safe_load_all(yaml.safe_dump_all(rendered)):
        if thing["kind"] == "PrometheusRule":
            thing["spec"] = "see metrics/prometheus"
        if thing["kind"] == "ConfigMap":
            thing["data"] = (
                sorted(thing["data"]) if "dashboard" in thing["metadata"]["name"] else "see test_settings"
            )
        annotations = thing.get("spec", {})
        annotations = annotations.get("template", {}) if isinstance(annotations, dict) else {}
        annotations.get("metadata", {}).get("annotations", {}).pop("checksum/settings", None)
        kept.append(thing)
    return yaml.safe_dump_all(kept, sort_keys=True, width=120)


@pytest.mark.parametrize("version", HELMS)
def test_the_chart_passes_strict_lint(case, version):
    done = helm("lint", "--strict", str(CHART), *of_case(case), version=version)
    assert done.returncode == 0, done.stdout + done.stderr


def test_both_versions_of_helm_render_the_same(case):
    assert template(*of_case(case), version="helm3") == template(*of_case(case))


def test_each_values_file_renders_its_golden(case, rendered):
    path = GOLDENS / f"{case}.yaml"
    if os.environ.get(UPDATE):
        path.write_text(golden(rendered))
    assert golden(rendered) == path.read_text(), f"if that is meant: {UPDATE}=1 make test ARGS=tests/helm"


@pytest.mark.parametrize("version", KUBERNETES)
def test_objects_fit_the_schemas_of_kubernetes(rendered, version):
    for thing in rendered:
        if thing["kind"] not in OTHERS:
            kubernetes_validate.validate(thing, version, strict=True)


def test_a_pod_of_ray_fits_the_schema_too():
    (cluster,) = [thing for thing in things(*of_case("one-machine")) if thing["kind"] == "RayCluster"]
    made = cluster["spec"]["headGroupSpec"]["template"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "x", **made["metadata"]},
        "spec": made["spec"],
    }
    for version in KUBERNETES:
        kubernetes_validate.validate(pod, version, strict=True)
    assert all(
        isinstance(value, str) for value in cluster["spec"]["headGroupSpec"]["rayStartParams"].values()
    )


def test_the_schema_check_finds_a_fault():
    (api,) = [thing for thing in things(*of_case("one-machine")) if thing["kind"] == "Deployment"]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**api, "spec": {**api["spec"], "replicass": 2}}, "1.35", strict=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "database.existingSecret"),
        (NEEDED[:2], "secrets.existingSecret"),
        ((*NEEDED, "--set", "apii.replicas=2"), "apii"),
        ((*NEEDED, "--set", "api.replica=2"), "replica"),
        ((*NEEDED, "--set", "settings.lease_ttl=2"), "lease_ttl"),
        ((*NEEDED, "--set", "settings.lease_ttl_s=1"), "lease_ttl_s"),
        ((*NEEDED, "--set", "settings.listen_port=80"), "listen_port"),
        ((*NEEDED, "--set", "image.tag=latest"), "tag"),
        ((*NEEDED, "--set", "image.digest=sha256:12"), "digest"),
        ((*NEEDED, "--set", "nodes.gpus=0"), "gpus"),
        ((*NEEDED, "--set", "ray.mode=other"), "mode"),
        ((*NEEDED, "--set", "ray.mode=external"), "ray.external.address"),
        ((*NEEDED, "--set", "ray.mode=external,ray.external.address=ray:6379"), "ray.external.cidrs"),
        ((*NEEDED, "--set", "exporter.processes=true"), "exporter.processes"),
        ((*NEEDED, "--set", "ingress.enabled=true,ingress.host=a.kz"), "ingress.tlsSecret"),
        ((*NEEDED, "--set", "gateway.enabled=true"), "gateway.name"),
        ((*NEEDED, "--set", "api.resources.limits.gpu=1"), "gpu"),
    ],
)
def test_what_is_missing_or_misspelt_is_refused_by_name(arguments, said):
    done = helm("template", "kezek", str(CHART), *arguments)
    assert done.returncode != 0
    assert said in done.stderr


def test_every_object_of_the_schema_is_closed():
    def walk(schema: object, path: str) -> list[str]:
        if not isinstance(schema, dict):
            return []
        faults = [f for key, value in schema.items() for f in walk(value, f"{path}.{key}")]
        if (
            "properties" in schema
            and schema.get("type") == "object"
            and schema.get("additionalProperties") is not False
        ):
            faults.append(path)
        return faults

    assert walk(yaml.safe_load((CHART / "values.schema.json").read_text()), "") == []


def test_every_value_is_in_the_schema_and_used():
    """What no template reads is no value."""
    text = "".join(path.read_text() for path in (CHART / "templates").rglob("*") if path.is_file())
    used = set(re.findall(r"\.([A-Za-z]+)", text))
    unread = []

    def walk(value: object, path: tuple[str, ...]) -> None:
        if isinstance(value, dict) and path[-1:] not in {("resources",), ("nodeSelector",)}:
            for key, inner in value.items():
                walk(inner, (*path, key))
        elif path[-1] not in used:
            unread.append(".".join(path))

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    values.pop("settings")
    walk(values, ())
    assert unread == []


def test_what_is_made_from_elsewhere_is_fresh():
    done = subprocess.run(
        [sys.executable, "helm/generate.py", "--check"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_rules_and_dashboards_are_those_that_metrics_ships():
    made = things(*of_case("supercomputer"))
    rules = {thing["metadata"]["name"]: thing["spec"] for thing in made if thing["kind"] == "PrometheusRule"}
    shipped = {
        f"kezek-{path.stem}": yaml.safe_load(path.read_text())
        for path in (ROOT / "metrics/prometheus").glob("*.yaml")
    }
    assert rules == shipped
    pages = {
        key: text
        for thing in made
        if thing["metadata"].get("labels", {}).get("grafana_dashboard")
        for key, text in thing["data"].items()
    }
    assert {name: text.strip() for name, text in pages.items()} == {
        path.name: path.read_text().strip() for path in (ROOT / "metrics/grafana").glob("*.json")
    }


def test_rendered_rules_pass_promtool_and_fire(tmp_path):
    files = []
    for thing in things(*of_case("supercomputer")):
        if thing["kind"] == "PrometheusRule":
            files.append(tmp_path / f"{thing['metadata']['name']}.yaml")
            files[-1].write_text(yaml.safe_dump(thing["spec"]))
    subprocess.run(["promtool", "check", "rules", *map(str, files)], check=True, capture_output=True)
    (job,) = {
        relabel["replacement"]
        for thing in things(*of_case("supercomputer"))
        if thing["kind"] == "ServiceMonitor" and thing["metadata"]["name"] == "kezek-exporter"
        for relabel in thing["spec"]["endpoints"][0]["relabelings"]
    }
    alerts = [
        rule
        for file in files
        for group in yaml.safe_load(file.read_text())["groups"]
        for rule in group["rules"]
    ]
    (down,) = [rule for rule in alerts if rule.get("alert") == "KezekExporterDown"]
    annotations = {
        name: text.replace("{{ $labels.instance }}", "node-7") for name, text in down["annotations"].items()
    }
    series = f'up{{job="{job}",instance="node-7"}}'
    fired = {
        "exp_labels": {"job": job, "instance": "node-7", **down["labels"]},
        "exp_annotations": annotations,
    }
    test = tmp_path / "test.yaml"
    test.write_text(
        yaml.safe_dump(
            {
                "rule_files": list(map(str, files)),
                "evaluation_interval": "1m",
                "tests": [
                    {
                        "interval": "1m",
                        "input_series": [{"series": series, "values": "1x5 0x20"}],
                        "alert_rule_test": [
                            {"eval_time": "5m", "alertname": "KezekExporterDown", "exp_alerts": []},
                            {"eval_time": "20m", "alertname": "KezekExporterDown", "exp_alerts": [fired]},
                        ],
                    }
                ],
            }
        )
    )
    done = subprocess.run(
        ["promtool", "test", "rules", str(test)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_kubectl_reads_every_manifest(case):
    """Without a server it can only parse and sort; that much it must."""
    program = ROOT / ".stamps/helm/helm4/kubectl/kubectl"
    done = subprocess.run([str(program), "kustomize", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    folder = ROOT / ".stamps" / "kustomize" / case
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "all.yaml").write_text(template(*of_case(case)))
    (folder / "kustomization.yaml").write_text("resources: [all.yaml]\n")
    done = subprocess.run(
        [str(program), "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(list(yaml.safe_load_all(done.stdout))) == len(things(*of_case(case)))
