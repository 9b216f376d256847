from __future__ import annotations

import functools
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm"
CASES = ("one-machine", "supercomputer", "ray-outside")
HELMS = ("helm4", "helm3")
DIGEST = "sha256:" + "ab" * 32
NEEDED = ("--set", "database.existingSecret=kezek-database", "--set", "secrets.existingSecret=kezek-secrets")

Thing = dict[str, Any]


def helm(*arguments: str, version: str = "helm4") -> subprocess.CompletedProcess[str]:
    program = ROOT / ".stamps" / "helm" / version / "helm" / "helm"
    assert program.exists(), "run tests/setup.sh first: it fetches helm"
    return subprocess.run([str(program), *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


@functools.cache
def template(*arguments: str, version: str = "helm4") -> str:
    done = helm("template", "kezek", str(CHART), "--namespace", "kezek", *arguments, version=version)
    assert done.returncode == 0, done.stderr
    return done.stdout


@functools.cache
def things(*arguments: str) -> tuple[Thing, ...]:
    return tuple(thing for thing in yaml.safe_load_all(template(*arguments)) if thing)


def of_case(case: str) -> tuple[str, ...]:
    digest = () if case == "one-machine" else ("--set", f"image.digest={DIGEST}")
    return ("--values", str(CHART / "values" / f"{case}.yaml"), *digest)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def rendered(case: str) -> tuple[Thing, ...]:
    return things(*of_case(case))


def pods(rendered: tuple[Thing, ...]) -> list[tuple[str, Thing, Thing]]:
    """Name, metadata and spec of every pod that the objects make."""
    found = []
    for thing in rendered:
        spec = thing.get("spec", {})
        name = f"{thing['kind']}/{thing['metadata']['name']}"
        if thing["kind"] == "Pod":
            found.append((name, thing["metadata"], spec))
        elif thing["kind"] == "RayCluster":
            made = spec["headGroupSpec"]["template"]
            found.append((name, made["metadata"], made["spec"]))
        elif "template" in spec:
            found.append((name, spec["template"]["metadata"], spec["template"]["spec"]))
    return found


def containers(rendered: tuple[Thing, ...]) -> list[tuple[str, Thing, Thing]]:
    return [
        (f"{name}:{container['name']}", spec, container)
        for name, _, spec in pods(rendered)
        for container in [*spec.get("initContainers", []), *spec["containers"]]
    ]
