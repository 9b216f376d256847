"""Typed settings of every process but the exporter: environment variables with the prefix KEZEK_."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Settings read from the environment; every one has a documented default (docs/settings.md).

    Raises:
        pydantic.ValidationError: when a variable has a value of the wrong form; it names the variable.
    """

    model_config = SettingsConfigDict(env_prefix="KEZEK_", extra="ignore")

    database_url: str | None = Field(
        default=None,
        description="PostgreSQL 16 or newer; without it an embedded server runs in the state folder.",
    )
    state_dir: Path = Field(
        default=Path("var"), description="Where this machine keeps its state and secrets."
    )
    listen_host: str = Field(default="127.0.0.1", description="Address the API listens on.")
    listen_port: int = Field(default=0, ge=0, le=65_535, description="Port of the API; 0 takes a free one.")
    nodes: int = Field(default=4, ge=1, le=16, description="Nodes of the local Ray cluster on this machine.")
    gpus_per_node: int = Field(default=8, ge=1, le=16, description="Simulated GPUs of each local node.")
    flavor: str = Field(default="h200", description="Flavor given to the simulated GPUs.")
    policy_file: Path | None = Field(default=None, description="Policy enacted at the first start.")
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
    job_env: Path = Field(default=Path(".jobenv"), description="Python environment that ranks run in.")
    exporters: str = Field(
        default="",
        description="Base addresses of the node exporters, by commas; empty: no telemetry is kept.",
    )
    telemetry_interval_s: float = Field(
        default=30,
        ge=1,
        le=30,
        description="Pause between two readings of the exporters for jobs' telemetry.",
    )
    log_level: str = Field(default="INFO", description="Level of the processes' own logs.")

    @property
    def secrets_dir(self) -> Path:
        """Folder (0700) of the secrets this machine made for itself."""
        return self.state_dir / "secrets"
