"""What the client says, in Kazakh, Russian or English: catalogues, figures and instants as each language has them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from importlib import resources
from typing import Final

LANGUAGES: Final = ("kk", "ru", "en")
"""Languages of the platform; the state language stands first."""
FALLBACK: Final = "en"
"""Language where the environment names none of ours."""
LANGUAGE_VARIABLES: Final = ("KEZEK_LANG", "LC_ALL", "LC_MESSAGES", "LANG")
"""Variables that choose the language; the first that is set decides. Source: POSIX.1-2017, section 8.2."""
ALMATY: Final = timezone(timedelta(hours=5), "UTC+5")
"""The one time zone of Kazakhstan since 1 March 2024."""

_SECONDS_PER_HOUR = 3_600
_DURATIONS = (("days", 86_400), ("hours", 3_600), ("minutes", 60), ("seconds", 1))
_DURATION_PARTS = 2
_SIZES = (("gibibytes", 1024**3), ("mebibytes", 1024**2), ("kibibytes", 1024))
_NEVER_FITS = "NEVER_FITS"
_GROUP_FROM = 10_000
_GPU_HOURS_FIGURES = frozenset({"claim_s", "remaining_s", "pending_s"})


def choose_language(env: Mapping[str, str]) -> str:
    """The language that the environment asks for; `FALLBACK` where it asks for none of ours."""
    for variable in LANGUAGE_VARIABLES:
        value = env.get(variable, "")
        if value:
            language = value.lower().replace("-", "_").split(".")[0].split("_")[0]
            return language if language in LANGUAGES else FALLBACK
    return FALLBACK


@cache
def catalogue(language: str) -> Mapping[str, str]:
    """Every text of a language by its dotted key, such as "state.RUNNING"."""
    data = resources.files("kezek").joinpath("locale", f"{language}.toml").read_text(encoding="utf-8")
    return {
        f"{section}.{key}": text
        for section, texts in tomllib.loads(data).items()
        for key, text in texts.items()
    }


class Messages:
    """Texts and figures of one language."""

    def __init__(self, language: str) -> None:
        """Speak `language`, one of `LANGUAGES`."""
        self.language: Final = language
        self._texts: Final = catalogue(language)
        self._point: Final = "." if language == "en" else ","
        self._group: Final = "," if language == "en" else "\N{NO-BREAK SPACE}"

    def say(self, key: str, **values: str | int) -> str:
        """The text of a key, filled in.

        Raises:
            KeyError: the catalogue has no such key, or the text names a value that is not given.
        """
        return self._texts[key].format_map(values)

    def named(self, section: str, code: str) -> str:
        """The text of a code of a closed list, or the code itself where a newer platform has one more."""
        return self._texts.get(f"{section}.{code}", code)

    def knows(self, key: str) -> bool:
        """Whether there is a text of a key."""
        return key in self._texts

    def hint(self, code: str, numbers: Mapping[str, int | str]) -> str | None:
        """What to do about a refusal, None where there is nothing to say beyond its detail."""
        special = f"never_fits_hint.{numbers.get('limit')}"
        if code == _NEVER_FITS and special in self._texts:
            return self.say(special, **self._shown(numbers))
        return self._texts.get(f"hint.{code}")

    def number(self, value: float, digits: int = 0) -> str:
        """A figure with that many digits after the point; thousands are grouped from 10 000 on."""
        whole = f"{value:,.{digits}f}" if abs(value) >= _GROUP_FROM else f"{value:.{digits}f}"
        return whole.replace(",", "\0").replace(".", self._point).replace("\0", self._group)

    def gpu_hours(self, device_seconds: int) -> str:
        """Device-seconds as GPU-hours, without the unit; seconds below a hundredth of an hour do not show."""
        return self.number(device_seconds / _SECONDS_PER_HOUR, 2)

    def duration(self, seconds: float) -> str:
        """A duration in its two largest units, such as "1 h 30 min"; of less than a second, "0 s"."""
        rest = int(seconds)
        parts: list[str] = []
        for unit, size in _DURATIONS:
            count, rest = divmod(rest, size)
            if count or (unit == "seconds" and not parts):
                parts.append(self.say(f"unit.{unit}", value=self.number(count)))
            if len(parts) == _DURATION_PARTS or (parts and not rest):
                break
        return " ".join(parts)

    def size(self, count_bytes: int) -> str:
        """A size in the largest binary unit that keeps it at one or above."""
        for unit, size in _SIZES:
            if count_bytes >= size:
                return self.say(f"unit.{unit}", value=self.number(count_bytes / size, 1))
        return self.say("unit.bytes", value=self.number(count_bytes))

    def instant(self, at: datetime | None) -> str:
        """Date and time in Almaty, or a dash."""
        return self._texts["yesno.none"] if at is None else f"{at.astimezone(ALMATY):%Y-%m-%d %H:%M:%S}"

    def knows_reason(self, code: str, numbers: Mapping[str, int | str]) -> bool:
        """Whether `reason` has words of its own for a code with these figures."""
        try:
            self._told(code, numbers)
        except KeyError:
            return False
        return True

    def reason(self, code: str, numbers: Mapping[str, int | str]) -> str:
        """Why a job waits or was refused, in words with its figures."""
        try:
            return self._told(code, numbers)
        except KeyError:
            listed = ", ".join(f"{name}={value}" for name, value in numbers.items())
            return self.say("reason.other", code=code, numbers=listed) if listed else code

    def _told(self, code: str, numbers: Mapping[str, int | str]) -> str:
        """The sentence of a reason; some have one of their own for the limit or cause that they name, or what lacks."""
        special = f"{code.lower()}.{numbers.get('limit', numbers.get('cause'))}"
        if "lacks" in numbers:
            special = f"lacks.{numbers['lacks']}"
        return self.say(special if special in self._texts else f"reason.{code}", **self._shown(numbers))

    def _shown(self, numbers: Mapping[str, int | str]) -> dict[str, str]:
        """Figures as people read them, by the name without the unit: `until_ms` becomes `until`."""
        shown: dict[str, str] = {}
        for name, value in numbers.items():
            if name in {"rule", "limit"}:
                shown[name] = self.named(name, str(value))
            elif not isinstance(value, int):
                shown[name] = value
            elif "_bytes" in name:
                shown[name.replace("_bytes", "")] = self.size(value)
            elif name in _GPU_HOURS_FIGURES:
                shown[name.removesuffix("_s")] = self.gpu_hours(value)
            elif name.endswith("_s"):
                shown[name.removesuffix("_s")] = self.duration(value)
            elif name.endswith("_ms"):
                shown[name.removesuffix("_ms")] = self.instant(datetime.fromtimestamp(value / 1000, UTC))
            else:
                shown[name] = str(value)
        return shown
