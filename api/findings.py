"""What is wrong with the single fields of a request, in the caller's language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from api import i18n

OTHER: Final = "other"
"""Kind of a finding that has no words of its own: its English message is told within a sentence."""
KINDS: Final = frozenset(
    {
        "missing",
        "extra_forbidden",
        "greater_than_equal",
        "greater_than",
        "less_than_equal",
        "less_than",
        "string_too_short",
        "string_too_long",
        "too_short",
        "too_long",
        "string_pattern_mismatch",
        "enum",
        "int_parsing",
        "int_type",
        "int_from_float",
        "string_type",
        "limit",
        "characters",
        "walltime",
        OTHER,
    }
)
"""Kinds that have words. Source: error types of pydantic 2, and the refusals of `scheduler.asked`."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong with a request.

    Args:
        place: where, as in "body.gpus".
        message: what, in English.
        kind: one of `KINDS`.
        values: figures of the kind's text.
    """

    place: str
    message: str
    kind: str = OTHER
    values: Mapping[str, object] = field(default_factory=dict)

    def text(self, language: str) -> str:
        """What is wrong, in `language`."""
        if self.kind == OTHER and language == "en":
            return self.message
        return i18n.translate(language, f"finding.{self.kind}", message=self.message, **self.values)


def of_validation(place: str, item: Mapping[str, object]) -> Finding:
    """A finding of the web framework's validation: one entry of pydantic's list of errors."""
    kind, given = str(item["type"]), item.get("ctx")
    values = {str(name): value for name, value in given.items()} if isinstance(given, Mapping) else {}
    values.pop("message", None)
    return Finding(place, str(item["msg"]), kind if kind in KINDS else OTHER, values)


def of_refusal(place: str, message: str, numbers: Mapping[str, int | str]) -> Finding:
    """A finding of the scheduler about one field of a job."""
    if "limit" in numbers:
        return Finding(place, message, "limit", numbers)
    if "least" in numbers:
        return Finding(place, message, "greater_than_equal", {"ge": numbers["least"]})
    if "job" in numbers:
        return Finding(place, message)
    return Finding(place, message, "walltime" if "queue" in numbers else "characters", numbers)
