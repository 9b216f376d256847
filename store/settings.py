"""Typed settings of every process but the node exporter, which must not load this (`metrics.exporter_settings`).

A setting comes from the environment (`KEZEK_LOG_LEVEL`), a secret also from a file that the environment names
(`KEZEK_AGENT_SECRET_FILE`), and each of them from the settings file that `KEZEK_SETTINGS_FILE` names (TOML or YAML).
The environment wins over the file, the file over the default. docs/settings.md lists them all.
"""

from __future__ import annotations

import os
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Final, cast

import yaml
from pydantic import Field
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from store.secretfile import SettingsFileError, read_limited

PREFIX: Final = "KEZEK_"
"""What the name of every environment variable of the platform begins with."""

FILE_VARIABLE: Final = "KEZEK_SETTINGS_FILE"
"""Names the settings file."""

OTHERS: Final = frozenset({"exporter_listen", "exporter_node", "exporter_gpus", "exporter_agent_state"})
"""Names in the settings file that the node exporter alone reads."""


_LABEL: Final = r"[^\s,:=]+:[A-Za-z0-9][A-Za-z0-9._/-]{0,126}=[A-Za-z0-9][A-Za-z0-9._/-]{0,199}"
"""One item of `node_labels`."""


class Mode(StrEnum):
    """What the platform assumes of its operator."""

    DEVELOPMENT = "development"
    PRODUCTION = "production"


class Chart(StrEnum):
    """Who sets a setting on Kubernetes."""

    VALUE = "value"  # the user, below `settings` in the chart's values
    MANAGED = "managed"  # the chart itself, from other values
    ABSENT = "absent"  # nobody: it belongs to one machine


def _of(chart: Chart, *, is_secret: bool = False) -> dict[str, Any]:
    return {"chart": chart.value, "secret": is_secret}


_MANAGED: Final = _of(Chart.MANAGED)
_ABSENT: Final = _of(Chart.ABSENT)
_SECRET: Final = _of(Chart.MANAGED, is_secret=True)


class Settings(BaseSettings):
    """Settings of a process; every one is documented (docs/settings.md).

    Raises:
        pydantic.ValidationError: when a variable has a value of the wrong form; it names the variable.
        SettingsFileError: when the settings file or a secret's file cannot be used.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", hide_input_in_errors=True)

    mode: Mode = Field(
        default=Mode.DEVELOPMENT,
        description="`production` refuses to start with something missing that a cluster needs.",
        json_schema_extra=_MANAGED,
    )
    database_url: str | None = Field(
        default=None,
        repr=False,
        description="PostgreSQL 16 or newer; without it an embedded server runs in the state folder.",
        json_schema_extra=_SECRET,
    )
    state_dir: Path = Field(
        default=Path("var"),
        description="Where this machine keeps its state and secrets.",
        json_schema_extra=_MANAGED,
    )
    listen_host: str = Field(
        default="127.0.0.1", description="Address the API listens on.", json_schema_extra=_MANAGED
    )
    listen_port: int = Field(
        default=0,
        ge=0,
        le=65_535,
        description="Port of the API; 0 takes a free one.",
        json_schema_extra=_MANAGED,
    )
    nodes: int = Field(
        default=4,
        ge=1,
        le=16,
        description="Nodes of the local Ray cluster on this machine.",
        json_schema_extra=_ABSENT,
    )
    gpus_per_node: int = Field(
        default=8,
        ge=1,
        le=16,
        description="Simulated GPUs of each local node.",
        json_schema_extra=_ABSENT,
    )
    flavor: str = Field(
        default="h200", description="Flavor given to the nodes' GPUs.", json_schema_extra=_MANAGED
    )
    node_labels: str = Field(
        default="",
        max_length=65_536,
        pattern=rf"^(?:{_LABEL}(?:,{_LABEL})*)?$",
        description="Labels of nodes, `NODES:KEY=VALUE` by commas, NODES a shell pattern: `gpu-r1-*:kezek.kz/rack=r1`.",
    )
    policy_file: Path | None = Field(
        default=None, description="Policy enacted at the first start.", json_schema_extra=_ABSENT
    )
    cycle_interval_ms: int = Field(
        default=1000, ge=50, le=60_000, description="Longest pause between two scheduling cycles."
    )
    lease_ttl_s: int = Field(default=10, ge=2, le=300, description="How long the scheduler's lease lasts.")
    node_down_after_s: int = Field(
        default=20, ge=2, le=3600, description="Silence after which a node counts as down."
    )
    keep_days: int = Field(
        default=30, ge=1, le=3650, description="How long nodes keep the logs and outputs of what ended."
    )
    job_env: Path = Field(
        default=Path(".jobenv"),
        description="Python environment that ranks run in.",
        json_schema_extra=_MANAGED,
    )
    exporters: str = Field(
        default="",
        description="Base addresses of the node exporters, by commas; empty: no telemetry is kept.",
        json_schema_extra=_MANAGED,
    )
    exporter_token: str | None = Field(
        default=None,
        repr=False,
        description="Token that the node exporters ask for.",
        json_schema_extra=_SECRET,
    )
    metrics_token: str | None = Field(
        default=None,
        repr=False,
        description="Token that the API's `/metrics` asks for; without it everybody reads them.",
        json_schema_extra=_SECRET,
    )
    agents: str = Field(
        default="",
        description="Base addresses of the node agents, by commas; empty: the state folder's `agents.json`.",
        json_schema_extra=_MANAGED,
    )
    agent_secret: str | None = Field(
        default=None,
        repr=False,
        description="Secret that node agents ask for; without it the one in the state folder.",
        json_schema_extra=_SECRET,
    )
    agent_port: int = Field(
        default=0,
        ge=0,
        le=65_535,
        description="Port of every node agent; 0 takes a free one on each.",
        json_schema_extra=_MANAGED,
    )
    ray_address: str = Field(
        default="",
        description="`host:port` of the control store of the Ray cluster whose nodes get agents.",
        json_schema_extra=_MANAGED,
    )
    ray_token: str | None = Field(
        default=None,
        repr=False,
        description="Ray's authentication token.",
        json_schema_extra=_SECRET,
    )
    node: str = Field(
        default="",
        description="Name of the node of that Ray cluster that `agents` looks after; empty: all of them.",
        json_schema_extra=_MANAGED,
    )
    simulated_gpus: int = Field(
        default=0,
        ge=0,
        le=64,
        description="GPUs that the agent of a node of that Ray cluster simulates; 0: the real ones that NVML finds.",
        json_schema_extra=_MANAGED,
    )
    telemetry_interval_s: int = Field(
        default=30,
        ge=1,
        le=30,
        description="Pause between two readings of the exporters, and between two looks at idle jobs.",
    )
    scheduler_metrics: str = Field(
        default="",
        description="HOST:PORT where the scheduler serves its process's metrics; empty: nowhere.",
        json_schema_extra=_MANAGED,
    )
    log_level: str = Field(default="INFO", description="Level of the processes' own logs.")

    @property
    def secrets_dir(self) -> Path:
        """Folder (0700) of the secrets this machine made for itself."""
        return self.state_dir / "secrets"

    @property
    def is_production(self) -> bool:
        """Whether nothing may be left to a default that only one machine can do with."""
        return self.mode is Mode.PRODUCTION

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - no .env file is read: it may be anybody's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - secrets are read by name below
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the environment, then secrets' files, then the settings file."""
        return (init_settings, env_settings, _SecretFiles(settings_cls), _SettingsFile(settings_cls))


def is_secret(field: FieldInfo) -> bool:
    """Whether a setting is a secret, which a file may hold."""
    return bool(_extra(field).get("secret"))


def chart_role(field: FieldInfo) -> Chart:
    """Who sets a setting on Kubernetes."""
    return Chart(_extra(field).get("chart", Chart.VALUE))


def _extra(field: FieldInfo) -> dict[str, Any]:
    return cast("dict[str, Any]", field.json_schema_extra or {})


class _Read(PydanticBaseSettingsSource):
    """A source that finds all its values at once."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 - the base's
        """One value, as the base class asks for it."""
        return self().get(field_name), field_name, False


class _SecretFiles(_Read):
    """Secrets whose files the environment names, `KEZEK_AGENT_SECRET_FILE`."""

    def __call__(self) -> dict[str, Any]:
        """Return the secrets found.

        Raises:
            SettingsFileError: a file cannot be used, or a secret is given twice.
        """
        found = {}
        for name, field in self.settings_cls.model_fields.items():
            variable = f"{PREFIX}{name.upper()}"
            path = os.environ.get(f"{variable}_FILE")
            if not is_secret(field) or not path:
                continue
            if os.environ.get(variable):
                raise SettingsFileError(f"{variable} and {variable}_FILE are both set; keep one")
            found[name] = read_limited(Path(path), f"{variable}_FILE")
        return found


class _SettingsFile(_Read):
    """The settings file."""

    SUFFIXES: ClassVar = (".toml", ".yaml", ".yml")

    def __call__(self) -> dict[str, Any]:
        """Return what the file sets.

        Raises:
            SettingsFileError: it cannot be read, or sets something unknown.
        """
        named = os.environ.get(FILE_VARIABLE)
        if not named:
            return {}
        path = Path(named)
        if path.suffix not in self.SUFFIXES:
            raise SettingsFileError(f"{FILE_VARIABLE}: {path} ends in none of {', '.join(self.SUFFIXES)}")
        text = read_limited(path, FILE_VARIABLE)
        try:
            found = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
        except (tomllib.TOMLDecodeError, yaml.YAMLError) as error:
            raise SettingsFileError(f"{FILE_VARIABLE}: {path} is not {path.suffix[1:]}: {error}") from error
        if not isinstance(found, dict):
            raise SettingsFileError(f"{FILE_VARIABLE}: {path} must hold settings by name, like log_level")
        unknown = sorted(set(map(str, found)) - set(self.settings_cls.model_fields) - OTHERS)
        if unknown:
            raise SettingsFileError(f"{FILE_VARIABLE}: {path} sets unknown {', '.join(unknown)}")
        return {name: value for name, value in found.items() if name not in OTHERS}
