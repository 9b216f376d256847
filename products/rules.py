"""The evidence rule as data: versions with the day each comes into force. Pure.

Source: the Concept (Government decree No 592 of 24 July 2024) counts products *developed on the platform* and says
no more; what proves that is this rule, published with every figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from itertools import pairwise
from typing import Final

import yaml

from products.indicator import ALMATY
from products.model import Stage

MAX_VERSIONS: Final = 100
"""Versions of the rule [count]: one a year for a century."""

MAX_RULES_CHARS: Final = 100_000
"""Length of the document of rules [characters]: more than `MAX_VERSIONS` of them need."""

SECONDS_PER_HOUR: Final = 3600

STAGES: Final = (Stage.IDEA, Stage.PROTOTYPE, Stage.PILOT, Stage.PRODUCTION)
"""Stages from the least to the most advanced; a retired product keeps the stage it had."""

_FIELDS: Final = ("version", "effective_from", "min_job_gpu_hours", "min_stage", "needs_ai", "reverify_days")


class BadRulesError(ValueError):
    """The document of rules is not one."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"evidence rules, {where}: {why}")
        self.where = where
        self.why = why


@dataclass(frozen=True, slots=True)
class EvidenceRule:
    """One version of the rule.

    Args:
        version: its name, printed beside every figure.
        effective_from: first day (Asia/Almaty) on which products are judged by it.
        min_job_gpu_seconds: least GPU time of one successful job [device-seconds].
        min_stage: least stage; never `retired`.
        needs_ai: whether the product must use AI.
        reverify_days: days after which a verification is to be renewed. One that is overdue is shown as such and takes
            nothing from the count: only an act, a return or a withdrawal, does.
    """

    version: str
    effective_from: date
    min_job_gpu_seconds: int
    min_stage: Stage
    needs_ai: bool
    reverify_days: int = 365

    @property
    def effective_at(self) -> datetime:
        """The midnight in Almaty at which it comes into force."""
        return datetime.combine(self.effective_from, time(), ALMATY)


def parse_rules(text: str) -> tuple[EvidenceRule, ...]:
    """Read the versions of the rule, oldest first.

    Raises:
        BadRulesError: no list of complete rules, a repeated version, or days out of order.
    """
    if len(text) > MAX_RULES_CHARS:
        raise BadRulesError("document", f"{len(text)} characters, at most {MAX_RULES_CHARS} are read")
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadRulesError("document", f"is no YAML: {error}") from error
    if not isinstance(document, list) or not 1 <= len(document) <= MAX_VERSIONS:
        raise BadRulesError("document", f"write a list of 1 to {MAX_VERSIONS} rules")
    rules = tuple(_rule(place, item) for place, item in enumerate(document, start=1))
    for place, (before, after) in enumerate(pairwise(rules), start=2):
        if after.effective_from <= before.effective_from:
            raise BadRulesError(f"rule {place}", "must come into force later than the one before it")
    if len({rule.version for rule in rules}) != len(rules):
        raise BadRulesError("document", "two rules have the same version; give each its own")
    return rules


def rule_in_force(rules: Sequence[EvidenceRule], at: datetime) -> EvidenceRule | None:
    """The newest rule in force at an instant; None before the first."""
    return next((rule for rule in reversed(rules) if rule.effective_at <= at), None)


def _rule(place: int, item: object) -> EvidenceRule:
    where = f"rule {place}"
    if not isinstance(item, dict) or set(item) != set(_FIELDS):
        raise BadRulesError(where, f"write exactly the fields {', '.join(_FIELDS)}")
    version, from_on, hours, stage, needs_ai, reverify_days = (item[name] for name in _FIELDS)
    if not isinstance(version, str) or not version.strip():
        raise BadRulesError(where, 'version must be a text, as "1"')
    if isinstance(from_on, datetime) or not isinstance(from_on, date):
        raise BadRulesError(where, "effective_from must be a day, as 2026-01-01")
    if isinstance(hours, bool) or not isinstance(hours, int) or hours < 1:
        raise BadRulesError(where, "min_job_gpu_hours must be a whole number from 1 on")
    if stage not in {known.value for known in STAGES}:
        raise BadRulesError(where, f"min_stage must be one of {', '.join(STAGES)}")
    if not isinstance(needs_ai, bool):
        raise BadRulesError(where, "needs_ai must be true or false")
    if isinstance(reverify_days, bool) or not isinstance(reverify_days, int) or reverify_days < 1:
        raise BadRulesError(where, "reverify_days must be a whole number from 1 on")
    return EvidenceRule(version, from_on, hours * SECONDS_PER_HOUR, Stage(stage), needs_ai, reverify_days)
