"""Settings of the node exporter: the same names, files and rules as `store.settings`, with the standard library only.

The exporter must stay small and loads nothing of the platform, its settings neither; a test holds the two together.
"""

from __future__ import annotations

import ipaddress
import os
import platform
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PRODUCTION: Final = "production"
#: Fewest characters of a token on an open listener: 128 random bits in hexadecimal digits.
MIN_TOKEN_CHARS: Final = 32


#: Largest settings or secret file [bytes], as elsewhere in the platform.
MAX_FILE_BYTES: Final = 64 * 1024


class SettingsFileError(ValueError):
    """The settings file or the token's file cannot be used."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as documented: name in the settings file, default, meaning, and whether it is a secret."""

    name: str
    default: str
    description: str
    is_secret: bool = False


SETTINGS: Final = (
    Setting("exporter_listen", "127.0.0.1:0", "Address and port of the node exporter."),
    Setting("exporter_node", "", "Name of the exporter's node; empty: the host's."),
    Setting("exporter_gpus", "", "GPUs the exporter's node must have; empty: as many as were ever counted."),
    Setting(
        "exporter_agent_state",
        "",
        "State folder of the node's agent, by which the exporter knows ranks; empty: none.",
    ),
    Setting("exporter_token", "", "Token that the node exporters ask for.", is_secret=True),
    Setting("mode", "development", "`production` refuses what a cluster must not do."),
    Setting("log_level", "INFO", "Level of the processes' own logs."),
)
"""All that the exporter reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExporterSettings:
    """Values of `SETTINGS`; `token` is None where none is asked for."""

    listen: str
    node: str
    gpus: str
    agent_state: str
    token: str | None
    is_production: bool
    log_level: str


def load(environment: Mapping[str, str] = os.environ) -> ExporterSettings:
    """Read the settings: the environment, then a secret's file, then the settings file, then the default.

    Raises:
        SettingsFileError: a file cannot be used, or a secret is given twice.
        ValueError: the mode is unknown.
    """
    written = _file(environment.get("KEZEK_SETTINGS_FILE", ""))
    values = {}
    for setting in SETTINGS:
        variable = f"KEZEK_{setting.name.upper()}"
        given = environment.get(variable)
        named = environment.get(f"{variable}_FILE") if setting.is_secret else None
        if given and named:
            raise SettingsFileError(f"{variable} and {variable}_FILE are both set; keep one")
        if given is None and named:
            given = read_limited(Path(named), f"{variable}_FILE")
        values[setting.name] = str(written.get(setting.name, setting.default)) if given is None else given
    if values["mode"] not in {"development", PRODUCTION}:
        raise ValueError(f"KEZEK_MODE: {values['mode']!r} is neither 'development' nor 'production'")
    return ExporterSettings(
        listen=values["exporter_listen"],
        node=values["exporter_node"] or platform.node(),
        gpus=values["exporter_gpus"],
        agent_state=values["exporter_agent_state"],
        token=values["exporter_token"] or None,
        is_production=values["mode"] == PRODUCTION,
        log_level=values["log_level"],
    )


def check_listener(listen: str, token: str | None, *, is_production: bool) -> None:
    """Refuse a listener that strangers reach without a token, or with one that can be guessed.

    Raises:
        ValueError: saying what to set. What is no address at all is left to who binds it.
    """
    try:
        is_open = not ipaddress.ip_address(listen.rpartition(":")[0]).is_loopback
    except ValueError:
        return
    if is_open and token is None:
        raise ValueError(
            f"cannot listen on {listen!r}: others reach it and no token is set; set KEZEK_EXPORTER_TOKEN_FILE, or "
            "listen on a loopback address"
        )
    if (is_open or is_production) and token is not None and len(token) < MIN_TOKEN_CHARS:
        raise ValueError(
            f"KEZEK_EXPORTER_TOKEN has fewer than {MIN_TOKEN_CHARS} characters; make a longer one"
        )


def read_limited(path: Path, what: str) -> str:
    """Return a small text file without the blanks at its ends; the error names `what`, never its content.

    Raises:
        SettingsFileError: it cannot be read, is empty or too large.
    """
    try:
        with path.open(encoding="utf-8") as file:
            found = file.read(MAX_FILE_BYTES + 1).strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8"
        raise SettingsFileError(f"{what}: {path} cannot be read ({why})") from error
    if not 0 < len(found) <= MAX_FILE_BYTES:
        raise SettingsFileError(f"{what}: {path} is empty or longer than {MAX_FILE_BYTES} bytes")
    return found


def _file(named: str) -> Mapping[str, object]:
    """What the settings file sets; the other processes' settings are theirs to check."""
    if not named:
        return {}
    path = Path(named)
    text = read_limited(path, "KEZEK_SETTINGS_FILE")
    try:
        found: object = tomllib.loads(text) if path.suffix == ".toml" else _yaml(text)
    except ValueError as error:
        raise SettingsFileError(f"KEZEK_SETTINGS_FILE: {path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise SettingsFileError(f"KEZEK_SETTINGS_FILE: {path} must hold settings by name, like log_level")
    return found


def _yaml(text: str) -> object:
    import yaml  # noqa: PLC0415 - only who has such a file pays for it

    try:
        found: object = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    return found
