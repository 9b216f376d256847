"""Where the platform is and with which token: environment first, then ~/.config/kezek/config.toml."""

from __future__ import annotations

import json
import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import httpx

from kezek.errors import ConfigError

URL_VARIABLE = "KEZEK_URL"
TOKEN_VARIABLE = "KEZEK_TOKEN"  # noqa: S105 - a name, not a secret
PRIVATE_MODE = 0o600
MAX_CONFIG_BYTES = 64 * 1024
"""Largest configuration file [bytes]: it holds two short lines."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Address of the platform and the bearer token; the token never appears in `repr`."""

    url: str
    token: str

    def __repr__(self) -> str:
        return f"Settings(url={self.url!r}, token=...)"


def config_path(env: Mapping[str, str]) -> Path:
    """Path of the configuration file. Source: XDG Base Directory Specification 0.8."""
    base = env.get("XDG_CONFIG_HOME", "")
    folder = Path(base) if base.startswith("/") else Path.home() / ".config"
    return folder / "kezek" / "config.toml"


def read_settings(env: Mapping[str, str]) -> Settings:
    """Return the settings in force.

    Raises:
        ConfigError: no address or no token, or the file cannot be read or is open to others.
    """
    path = config_path(env)
    url, token = env.get(URL_VARIABLE, ""), env.get(TOKEN_VARIABLE, "")
    if not (url and token):
        kept = _read_file(path)
        if not url:
            url = kept.get("url", "")
            token = token or kept.get("token", "")
        elif url.rstrip("/") == kept.get("url"):
            token = kept.get("token", "")
        # A token belongs to the platform that gave it: it is never sent to another address.
    if not url:
        raise ConfigError("config.no_url")
    if not token:
        raise ConfigError("config.no_token", url=url)
    return Settings(checked_url(url), token)


def checked_url(url: str) -> str:
    """Return the address without a trailing slash.

    Raises:
        ConfigError: it is not an http(s) address of a host, or holds a query, a fragment or credentials.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise ConfigError("config.bad_url", url=url) from error
    has_more = bool(parsed.query or parsed.fragment or parsed.userinfo)
    if parsed.scheme not in {"http", "https"} or not parsed.host or has_more:
        raise ConfigError("config.bad_url", url=url)
    return url.rstrip("/")


def is_loopback(url: str) -> bool:
    """Whether the address is of this machine, where no proxy and no encryption is needed."""
    host = httpx.URL(url).host
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def write_settings(env: Mapping[str, str], settings: Settings) -> Path:
    """Keep the settings in the configuration file, readable by its owner alone; returns its path.

    Raises:
        ConfigError: the file cannot be written.
    """
    path = config_path(env)
    # A TOML basic string and a JSON string escape the same way, DEL apart, which neither value may hold.
    text = f"url = {json.dumps(settings.url)}\ntoken = {json.dumps(settings.token)}\n"
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_MODE)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ConfigError("config.unwritable", path=str(path), why=str(error)) from error
    return path


def _read_file(path: Path) -> dict[str, str]:
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise ConfigError("config.open_to_others", path=str(path))
            document = tomllib.loads(file.read(MAX_CONFIG_BYTES).decode())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError("config.unreadable", path=str(path), why=str(error)) from error
    return {key: value for key, value in document.items() if isinstance(value, str)}
