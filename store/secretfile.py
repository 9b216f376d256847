"""Small files that hold a setting: read with a limit, never shown. Loads the standard library only."""

from __future__ import annotations

from pathlib import Path
from typing import Final

MAX_FILE_BYTES: Final = 64 * 1024
"""Largest settings or secret file [bytes]: all settings written out are under 4 KiB."""


class SettingsFileError(ValueError):
    """The settings file or a secret's file cannot be used."""


def read_limited(path: Path, what: str) -> str:
    """Return a small text file, without the blanks at its ends.

    Args:
        path: the file.
        what: names the setting in the error.

    Raises:
        SettingsFileError: it cannot be read, is empty or too large; the message never shows its content.
    """
    try:
        with path.open(encoding="utf-8") as file:
            found = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SettingsFileError(f"{what}: {path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise SettingsFileError(f"{what}: {path} is not UTF-8") from error
    if len(found) > MAX_FILE_BYTES:
        raise SettingsFileError(f"{what}: {path} is longer than {MAX_FILE_BYTES} bytes")
    if not found.strip():
        raise SettingsFileError(f"{what}: {path} is empty")
    return found.strip()
