"""The image's steps: linted, and its install part run into an empty folder and started there."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.helm.conftest import CHART, ROOT

CONTAINERFILE = CHART / "image" / "Containerfile"


def steps() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", CONTAINERFILE.read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1].strip()) for line in lines]


def test_the_containerfile_passes_its_linter():
    program = ROOT / ".venv" / "bin" / "hadolint"
    done = subprocess.run([str(program), str(CONTAINERFILE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_image_is_what_the_chart_expects():
    made = steps()
    bases = [rest for word, rest in made if word == "FROM"]
    assert bases == ["${BASE} AS install", "${BASE}"]
    assert ("ARG", "BASE") in made  # no default: whoever builds names an image whose digest was checked
    last = made[max(place for place, (word, _) in enumerate(made) if word == "FROM") :]
    assert [rest for word, rest in last if word == "COPY"] == ["--from=install /opt/kezek /opt/kezek"]
    assert not [rest for word, rest in last if word == "RUN"]
    assert ("USER", "10001:10001") in last
    assert ("WORKDIR", "/var/empty/kezek") in last
    (entry,) = [json.loads(rest) for word, rest in last if word == "ENTRYPOINT"]
    helpers = (CHART / "templates" / "_helpers.tpl").read_text()
    assert f"command: [{', '.join(entry)}]" in helpers
    assert "PYTHONPATH" not in CONTAINERFILE.read_text()
    assert f"runAsUser: {dict(last)['USER'].split(':')[0]}" in helpers


@pytest.mark.system
def test_its_install_part_makes_a_platform_that_starts(tmp_path: Path):
    """As the first stage does it: what it copies, to a folder of its own; then its one command."""
    source, dest, empty = tmp_path / "src", tmp_path / "opt", tmp_path / "empty"
    first = steps()[: [word for word, _ in steps()].index("RUN") + 1]
    for folder in (source, empty):
        folder.mkdir()
    for word, rest in first:
        if word == "COPY":
            *origins, target = rest.split()
            for origin in origins:
                whole = (source / target) if target != "./" else source / origin
                whole.parent.mkdir(parents=True, exist_ok=True)
                subprocess.run(
                    ["cp", "-r", str(ROOT / origin.rstrip("/")), str(whole).rstrip("/")], check=True
                )
    (command,) = [rest for word, rest in first if word == "RUN"]
    command = command.replace("/src", str(source)).replace("/opt/kezek", str(dest))
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "UV_CACHE_DIR") if name in os.environ}
    env = {**kept, "COMPILE": "0", "UV_SYSTEM_CERTS": "1"}
    done = subprocess.run(command.split(), cwd=source, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        python = str(dest / "venv/bin/python")
        return subprocess.run(
            [python, "-I", *words],
            cwd=empty,
            env={"PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )

    where = (
        "import api, store, kezek, sys; print(api.__file__, store.__file__, kezek.__file__); print(sys.path)"
    )
    said = run("-c", where).stdout
    assert said.count(str(dest)) >= 4
    assert str(ROOT) not in said
    assert "usage: kezek-server" in run("-m", "api.cli", "--help").stdout
    refused = run("-m", "api.cli", "scheduler")
    assert refused.returncode == 1
    assert "set KEZEK_DATABASE_URL" in refused.stderr
    assert "usage" in run("-m", "api.cli", "exporter", "--help").stdout
    for file in (
        "api/locale/kk",
        "api/pages/templates",
        "store/migrations/versions",
        "metrics/prometheus/alerts.yaml",
    ):
        assert (dest / "venv/lib/python3.11/site-packages" / file).exists()
    assert (dest / "jobenv/bin/python").exists()
    assert not list(empty.iterdir())
