"""Settings: code, documentation and chart agree; what production needs is refused by name when it is missing."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
import yaml

from api import cli
from metrics import exporter_settings
from store.settings import Chart, Settings, SettingsFileError, chart_role, is_secret
from tests.helm.conftest import CHART, NEEDED, ROOT, containers, things

SECRET = "s" * 32
NOWHERE = "postgresql://nobody:nothing@127.0.0.1:1/none"
WHOLE = {
    "KEZEK_MODE": "production",
    "KEZEK_DATABASE_URL": NOWHERE,
    "KEZEK_AGENT_SECRET": SECRET,
    "KEZEK_AGENTS": "http://127.0.0.1:1",
    "KEZEK_METRICS_TOKEN": SECRET,
    "KEZEK_EXPORTER_TOKEN": SECRET,
    "KEZEK_EXPORTERS": "http://127.0.0.1:1",
    "KEZEK_RAY_TOKEN": SECRET,
    "KEZEK_RAY_ADDRESS": "127.0.0.1:1",
    "KEZEK_LISTEN_HOST": "0.0.0.0",  # noqa: S104 - that is what is tested
    "KEZEK_LISTEN_PORT": "8080",
    "KEZEK_SCHEDULER_METRICS": "0.0.0.0:9401",
}


def documented() -> dict[str, list[str]]:
    found = {}
    for line in (ROOT / "docs/settings.md").read_text().splitlines():
        if line.startswith("| `KEZEK_"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            found[cells[0].strip("`")] = cells[1:]
    return found


def chart_values() -> dict[str, object]:
    return yaml.safe_load((CHART / "values.yaml").read_text())["settings"]


@dataclass
class Done:
    returncode: int
    stderr: str


@pytest.fixture
def server(monkeypatch, capsys):
    """`kezek-server` as its command line calls it, in this process: thirty of them would cost minutes."""

    def run(*arguments: str, **env: str) -> Done:
        for name in [name for name in os.environ if name.startswith("KEZEK_")]:
            monkeypatch.delenv(name)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["kezek-server", *arguments])
        monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
        return Done(cli.main(), capsys.readouterr().err)

    return run


def test_the_page_says_which_settings_are_secret_and_who_sets_them_on_kubernetes():
    rows = documented()
    roles = {Chart.VALUE: "value", Chart.MANAGED: "chart", Chart.ABSENT: "\N{EN DASH}"}
    for name, field in Settings.model_fields.items():
        row = rows[f"KEZEK_{name.upper()}"]
        assert row[-1] == roles[chart_role(field)], name
        assert row[1].startswith("*secret*") == is_secret(field), name


def test_the_charts_values_schema_and_code_have_the_same_settings_and_defaults():
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]["settings"]
    theirs = {
        name: field for name, field in Settings.model_fields.items() if chart_role(field) is Chart.VALUE
    }
    assert set(schema["properties"]) == set(theirs) == set(chart_values())
    for name, field in theirs.items():
        assert schema["properties"][name]["default"] == chart_values()[name] == field.default


def test_the_chart_sets_only_what_a_process_reads_and_all_that_it_manages():
    readers = {f"KEZEK_{name.upper()}" for name in Settings.model_fields}
    readers |= {f"KEZEK_{setting.name.upper()}" for setting in exporter_settings.SETTINGS}
    rendered = things(*NEEDED)
    given = {variable["name"] for _, _, made in containers(rendered) for variable in made.get("env", [])}
    given |= {key for t in rendered if t["kind"] == "ConfigMap" for key in t["data"]}
    given = {name.removesuffix("_FILE") for name in given if name.startswith("KEZEK_")}
    assert given <= readers
    managed = {name for name, field in Settings.model_fields.items() if chart_role(field) is Chart.MANAGED}
    assert {f"KEZEK_{name.upper()}" for name in managed} <= given


def test_the_exporter_and_the_platform_agree_on_what_they_share():
    for setting in exporter_settings.SETTINGS:
        shared = Settings.model_fields.get(setting.name)
        if shared is not None:
            assert is_secret(shared) == setting.is_secret
            assert str(shared.default or "") == setting.default
    own = {s.name for s in exporter_settings.SETTINGS} - set(Settings.model_fields)
    from store.settings import OTHERS

    assert own == OTHERS


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(tmp_path, monkeypatch):
    for name in ("settings.toml", "settings.yaml"):
        path = tmp_path / name
        path.write_text(
            'keep_days = 7\nlog_level = "DEBUG"\n'
            if name.endswith("toml")
            else "keep_days: 7\nlog_level: DEBUG\n"
        )
        monkeypatch.setenv("KEZEK_SETTINGS_FILE", str(path))
        monkeypatch.setenv("KEZEK_KEEP_DAYS", "3")
        settings = Settings()
        assert (settings.keep_days, settings.log_level, settings.lease_ttl_s) == (3, "DEBUG", 10)
        assert exporter_settings.load(os.environ).log_level == "DEBUG"


def test_a_secret_is_read_from_its_file_and_never_shown(tmp_path, monkeypatch):
    path = tmp_path / "secret"
    path.write_text(f" {SECRET}\n")
    monkeypatch.setenv("KEZEK_AGENT_SECRET_FILE", str(path))
    settings = Settings()
    assert settings.agent_secret == SECRET
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings)
    monkeypatch.setenv("KEZEK_EXPORTER_TOKEN_FILE", str(path))
    assert exporter_settings.load(os.environ).token == SECRET


@pytest.mark.parametrize(
    ("variable", "content", "said"),
    [
        ("KEZEK_SETTINGS_FILE", "keepdays = 7", "unknown keepdays"),
        ("KEZEK_SETTINGS_FILE", "keep_days = [", "is not toml"),
        ("KEZEK_SETTINGS_FILE", "", "is empty"),
        ("KEZEK_SETTINGS_FILE", "#" * 70_000, "longer than 65536 bytes"),
        ("KEZEK_AGENT_SECRET_FILE", " \n", "is empty"),
        ("KEZEK_AGENT_SECRET_FILE", None, "cannot be read"),
        ("KEZEK_EXPORTER_TOKEN_FILE", None, "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_by_name(tmp_path, monkeypatch, variable, content, said):
    path = tmp_path / "file.toml"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv(variable, str(path))
    with pytest.raises(SettingsFileError, match=said) as error:
        Settings()
    assert variable in str(error.value)
    if "EXPORTER" in variable:
        with pytest.raises(exporter_settings.SettingsFileError, match=said):
            exporter_settings.load(os.environ)


def test_a_secret_given_twice_is_refused(tmp_path, monkeypatch):
    (tmp_path / "secret").write_text(SECRET)
    monkeypatch.setenv("KEZEK_EXPORTER_TOKEN", SECRET)
    monkeypatch.setenv("KEZEK_EXPORTER_TOKEN_FILE", str(tmp_path / "secret"))
    with pytest.raises(SettingsFileError, match="both set"):
        Settings()
    with pytest.raises(exporter_settings.SettingsFileError, match="both set"):
        exporter_settings.load(os.environ)


@pytest.mark.parametrize(
    ("process", "without", "said"),
    [
        ("api", "KEZEK_DATABASE_URL", "KEZEK_DATABASE_URL is missing"),
        ("api", "KEZEK_AGENT_SECRET", "KEZEK_AGENT_SECRET is missing"),
        ("api", "KEZEK_AGENTS", "KEZEK_AGENTS is missing"),
        ("api", "KEZEK_METRICS_TOKEN", "KEZEK_METRICS_TOKEN is missing, and others reach the API at 0.0.0.0"),
        ("api", "KEZEK_LISTEN_PORT", "KEZEK_LISTEN_PORT is missing"),
        ("scheduler", "KEZEK_DATABASE_URL", "KEZEK_DATABASE_URL is missing"),
        ("scheduler", "KEZEK_AGENT_SECRET", "KEZEK_AGENT_SECRET is missing"),
        ("scheduler", "KEZEK_EXPORTER_TOKEN", "KEZEK_EXPORTER_TOKEN is missing"),
        (
            "scheduler",
            "KEZEK_METRICS_TOKEN",
            "KEZEK_METRICS_TOKEN is missing, and others reach the scheduler's metrics at 0.0.0.0:9401",
        ),
        ("agents", "KEZEK_RAY_TOKEN", "KEZEK_RAY_TOKEN is missing"),
        ("agents", "KEZEK_RAY_ADDRESS", "KEZEK_RAY_ADDRESS is missing"),
        ("agents", "KEZEK_AGENT_SECRET", "KEZEK_AGENT_SECRET is missing"),
        ("migrate", "KEZEK_DATABASE_URL", "KEZEK_DATABASE_URL is missing"),
        ("token", "KEZEK_DATABASE_URL", "KEZEK_DATABASE_URL is missing"),
    ],
)
def test_production_refuses_to_start_without_what_it_needs(server, process, without, said):
    done = server(process, **{name: value for name, value in WHOLE.items() if name != without})
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stderr


@pytest.mark.parametrize("process", ["api", "scheduler", "migrate"])
def test_with_all_it_needs_production_goes_on_to_the_database(server, process):
    done = server(process, **WHOLE)
    assert done.returncode == 1
    assert "the database cannot be reached" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "env", "said"),
    [
        (("api",), {"KEZEK_AGENT_SECRET": "short"}, "KEZEK_AGENT_SECRET has fewer than 32 characters"),
        (("up",), {}, "`up` is for one machine"),
        (("api",), {"KEZEK_AGENTS": "node7:7070"}, "KEZEK_AGENTS: 'node7:7070' is no address"),
        (("api",), {"KEZEK_EXPORTERS": "dns+http://name"}, "KEZEK_EXPORTERS"),
        (("api",), {"KEZEK_MODE": "prod"}, "KEZEK_MODE"),
        (
            ("exporter", "--simulated", "--listen", "0.0.0.0:0"),
            {"KEZEK_EXPORTER_TOKEN": ""},
            "no token is set",
        ),
        (
            ("exporter", "--simulated", "--listen", "0.0.0.0:0"),
            {"KEZEK_EXPORTER_TOKEN": "short"},
            "fewer than 32",
        ),
        (("exporter",), {"KEZEK_MODE": "prod"}, "KEZEK_MODE"),
    ],
)
def test_what_is_weak_open_or_wrong_is_refused(server, arguments, env, said):
    done = server(*arguments, **(WHOLE | env))
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stderr


def test_a_database_at_another_migration_is_refused_with_both_named(postgres):
    """A process of its own; `test_processes` does the same with the API."""
    url = postgres.url.replace("@/kezek?", "@/postgres?")
    done = subprocess.run(
        [sys.executable, "-m", "api.cli", "scheduler"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **WHOLE, "KEZEK_DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "the database is at migration none, this release needs" in done.stderr
