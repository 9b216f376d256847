"""Whether a product counts, since when and until when: the evidence rule applied to what happened. Pure.

What happened is a list of dated facts. A product begins to count at the first instant at which every condition of
the rule then in force holds. From then on it is judged by that version, so that a new rule takes nothing away; it
ceases when a condition fails again (it was withdrawn or returned, or its evidence was taken back) and may resume.
Because only facts up to an instant decide about it, an earlier as-of is never rewritten.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from products.model import ProductId, Stage
from products.rules import STAGES, EvidenceRule, rule_in_force
from tenants.model import Category, Sector

MAX_FACTS: Final = 10_000
"""Facts of one product [count]: a job or a change of its entry each; far above what one product has."""


class Condition(StrEnum):
    """The conditions of the rule, in the order in which they are shown."""

    RULE_IN_FORCE = "rule-in-force"
    VERIFIED = "verified"
    GPU_HOURS = "gpu-hours"
    USES_AI = "uses-ai"
    STAGE = "stage"


class Review(StrEnum):
    """What a review or a withdrawal made of the entry."""

    VERIFIED = "verified"
    RETURNED = "returned"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class Reviewed:
    """The entry was judged or withdrawn."""

    at: datetime
    review: Review


@dataclass(frozen=True, slots=True)
class Described:
    """What the entry said of the product from this instant on.

    Said of a verified product, what is less holds at once; what is more holds once a reviewer has verified it again.
    """

    at: datetime
    stage: Stage
    uses_ai: bool


@dataclass(frozen=True, slots=True)
class Trained:
    """A successful job with its GPU time is evidence from `at` on: the later of its end and its linking."""

    at: datetime
    job_id: int
    gpu_seconds: int


@dataclass(frozen=True, slots=True)
class EvidenceLost:
    """A job is evidence no more: it was unlinked, or a row of its chain is gone."""

    at: datetime
    job_id: int


Fact = Reviewed | Described | Trained | EvidenceLost


class TooManyFactsError(ValueError):
    """A product has more facts than are folded."""

    def __init__(self, slug: str, count: int) -> None:
        super().__init__(
            f"product {slug} has {count} facts, at most {MAX_FACTS} are folded; link only the jobs that made it"
        )
        self.slug = slug
        self.count = count


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A product with everything that happened to it, in any order.

    Args:
        product_id: the product.
        slug: its short name.
        sector: of the product.
        category: of its owner.
        programme: acceleration programme, None without one.
        facts: what happened; ties are taken in the order given.
    """

    product_id: ProductId
    slug: str
    sector: Sector
    category: Category
    programme: str | None
    facts: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """A condition and whether it held."""

    condition: Condition
    holds: bool


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch in which a product counted.

    Args:
        since: first instant at which every condition held.
        until: first instant at which one did not any more, None while it counts.
        rule: version it was judged by.
        failed: what ended it, in the order of `Condition`; empty while it counts.
    """

    since: datetime
    until: datetime | None
    rule: str
    failed: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """What the conditions were judged by.

    Args:
        review: the last review, None before the first.
        verified_at: the last verification, None before the first.
        stage: of the product, as far as a reviewer has seen it.
        uses_ai: whether it uses AI, as far as a reviewer has seen it.
        longest_job: the successful job with the most GPU time, None without one.
        longest_s: that time [device-seconds].
    """

    review: Review | None
    verified_at: datetime | None
    stage: Stage | None
    uses_ai: bool
    longest_job: int | None
    longest_s: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """A product at an instant.

    Args:
        history: the product.
        as_of: the instant.
        rule: version it is judged by, None before the first rule.
        conditions: every condition, held or not.
        spans: when it counted, up to `as_of`, oldest first.
        standing: what the conditions were judged by.
        review_due_at: when its verification is to be renewed, None while it is not verified.
    """

    history: History
    as_of: datetime
    rule: str | None
    conditions: tuple[Held, ...]
    spans: tuple[Span, ...]
    standing: Standing
    review_due_at: datetime | None

    @property
    def is_review_overdue(self) -> bool:
        """Whether its verification should have been renewed by `as_of`."""
        return self.review_due_at is not None and self.review_due_at <= self.as_of

    @property
    def counts(self) -> bool:
        """Whether it counts at `as_of`."""
        return bool(self.spans) and self.spans[-1].until is None

    @property
    def counted_at(self) -> datetime | None:
        """First moment at which every condition held; it decides the product's year."""
        return self.spans[0].since if self.spans else None


@dataclass(slots=True)
class _State:
    """What the facts so far say."""

    review: Review | None = None
    verified_at: datetime | None = None
    stage: Stage | None = None
    uses_ai: bool = False
    said_stage: Stage | None = None
    said_ai: bool = False
    jobs: dict[int, int] = field(default_factory=dict)

    def take(self, fact: Fact) -> None:
        jobs = self.jobs
        match fact:
            case Reviewed(at=at, review=review):
                self.review = review
                if review is Review.VERIFIED:
                    self.verified_at = at
                    self.stage, self.uses_ai = self.said_stage, self.said_ai
            case Described():
                self._describe(fact)
            case Trained(job_id=job_id, gpu_seconds=gpu_seconds):
                jobs[job_id] = gpu_seconds
            case EvidenceLost(job_id=job_id):
                jobs.pop(job_id, None)

    def _describe(self, fact: Described) -> None:
        self.said_ai = fact.uses_ai
        if fact.stage is not Stage.RETIRED:
            self.said_stage = fact.stage
        is_seen = self.review is not Review.VERIFIED
        self.uses_ai = self.said_ai and (is_seen or self.uses_ai)
        if is_seen or _rank(self.said_stage) < _rank(self.stage):
            self.stage = self.said_stage

    def standing(self) -> Standing:
        longest = max(self.jobs.items(), key=lambda item: (item[1], -item[0]), default=(None, 0))
        return Standing(self.review, self.verified_at, self.stage, self.uses_ai, *longest)

    def conditions(self, rule: EvidenceRule | None) -> tuple[Held, ...]:
        if rule is None:
            return (Held(Condition.RULE_IN_FORCE, holds=False),)
        longest_s = max(self.jobs.values(), default=0)
        is_far = _rank(self.stage) >= _rank(rule.min_stage)
        return (
            Held(Condition.RULE_IN_FORCE, holds=True),
            Held(Condition.VERIFIED, self.review is Review.VERIFIED),
            Held(Condition.GPU_HOURS, longest_s >= rule.min_job_gpu_seconds),
            Held(Condition.USES_AI, self.uses_ai or not rule.needs_ai),
            Held(Condition.STAGE, is_far),
        )


def judge(history: History, rules: Sequence[EvidenceRule], as_of: datetime) -> Verdict:
    """Apply the rules to a product as things stood at `as_of`. O(f log f) in its facts.

    Args:
        history: the product and what happened to it; facts after `as_of` are not read.
        rules: versions of the rule, oldest first.
        as_of: aware instant, included.

    Raises:
        TooManyFactsError: more than `MAX_FACTS` facts.
    """
    if len(history.facts) > MAX_FACTS:
        raise TooManyFactsError(history.slug, len(history.facts))
    facts = sorted((fact for fact in history.facts if fact.at <= as_of), key=lambda fact: fact.at)
    instants = sorted(
        {fact.at for fact in facts} | {rule.effective_at for rule in rules if rule.effective_at <= as_of}
    )
    state, spans, place = _State(), list[Span](), 0
    own: EvidenceRule | None = None
    for at in instants:
        while place < len(facts) and facts[place].at == at:
            state.take(facts[place])
            place += 1
        rule = own or rule_in_force(rules, at)
        failed = tuple(held.condition for held in state.conditions(rule) if not held.holds)
        is_open = bool(spans) and spans[-1].until is None
        if rule is not None and not failed and not is_open:
            own = rule
            spans.append(Span(at, None, rule.version, ()))
        elif failed and is_open:
            spans[-1] = Span(spans[-1].since, at, spans[-1].rule, failed)
    rule = own or rule_in_force(rules, as_of)
    standing = state.standing()
    due_at = None
    if rule is not None and standing.review is Review.VERIFIED and standing.verified_at is not None:
        due_at = standing.verified_at + timedelta(days=rule.reverify_days)
    return Verdict(
        history=history,
        as_of=as_of,
        rule=None if rule is None else rule.version,
        conditions=state.conditions(rule),
        spans=tuple(spans),
        standing=standing,
        review_due_at=due_at,
    )


def judge_all(
    histories: Iterable[History], rules: Sequence[EvidenceRule], as_of: datetime
) -> tuple[Verdict, ...]:
    """Every product at `as_of`, by slug.

    Raises:
        TooManyFactsError: a product has more than `MAX_FACTS` facts.
    """
    verdicts = (judge(history, rules, as_of) for history in histories)
    return tuple(sorted(verdicts, key=lambda verdict: verdict.history.slug))


def _rank(stage: Stage | None) -> int:
    """Place of a stage; below every other where none is known."""
    return -1 if stage is None else STAGES.index(stage)
