"""What the API answers about products: wire types and how they are made of the room's values.

Indicators and initiatives stand in `api.indicator_answers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from uuid import UUID

from pydantic import BaseModel

from api.answers import NamesOut
from api.i18n import translate
from products.chain import Break, ChainAttempt, ChainJob
from products.duplicates import Likeness, Mark
from products.evidence import Condition, Review, Verdict
from products.model import (
    AiKind,
    BuiltOn,
    Direction,
    EvidenceJob,
    ModelVersion,
    Product,
    ProductStatus,
    Stage,
)
from products.rules import SECONDS_PER_HOUR, EvidenceRule
from quota.model import GroundKind
from store.clock import ALMATY
from tenants.authz import Action, may
from tenants.model import Principal, Sector


class DataSetOut(BaseModel):
    """Data a product was made with."""

    id: str
    digest: str | None
    licence: str


class ProductOut(BaseModel):
    """A product of the register. Authors and the reviewer's note are for its project and for reviewers."""

    id: UUID
    slug: str
    organisation_id: UUID
    project_id: UUID
    name: NamesOut
    description: str
    sector: Sector
    stage: Stage
    status: ProductStatus
    started_on: date
    direction: Direction | None
    ai_kind: AiKind | None
    builds_on: list[BuiltOn]
    links: list[str]
    users: str
    programme: str | None
    authors: list[str] | None
    data_sets: list[DataSetOut]
    author_id: UUID
    registered_at: datetime
    changed_at: datetime
    verified_by: UUID | None
    verified_at: datetime | None
    has_changed_since_verification: bool
    return_note: str | None

    @classmethod
    def of(cls, found: Product, caller: Principal) -> ProductOut:
        """The wire form; a reviewer's note is for the project and for reviewers."""
        may_read = may(caller, Action.READ_CONTENT, found.project_id) or may(caller, Action.REVIEW_PRODUCT)
        plain = ("id", "slug", "organisation_id", "project_id", "description", "sector", "stage", "status")
        said = ("direction", "ai_kind", "users", "programme")
        dated = ("started_on", "author_id", "registered_at", "changed_at", "verified_by", "verified_at")
        return cls(
            name=NamesOut.of(found.name),
            builds_on=list(found.builds_on),
            links=list(found.links),
            authors=list(found.authors) if may_read else None,
            data_sets=[
                DataSetOut(id=each.id, digest=each.digest, licence=each.licence) for each in found.data_sets
            ],
            has_changed_since_verification=found.verified_at is not None
            and found.changed_at > found.verified_at,
            return_note=found.return_note if may_read else None,
            **{name: getattr(found, name) for name in (*plain, *said, *dated)},
        )


class EvidenceFileOut(BaseModel):
    """A file a job kept; `path` is null for a caller who reads figures only."""

    attempt_id: str
    rank: int
    path: str | None
    size_bytes: int
    sha256: str


class EvidenceJobOut(BaseModel):
    """A job a product was built by; `is_counted` when it completed and used GPU time."""

    job_id: int
    state: str
    gpu_seconds: int
    finished_at: datetime | None
    is_counted: bool
    files: list[EvidenceFileOut]


class ModelVersionOut(BaseModel):
    """A version of a product's model; `sha256` is what the node's agent computed."""

    version: str
    job_id: int
    attempt_id: str
    rank: int
    path: str | None
    size_bytes: int
    sha256: str
    linked_at: datetime

    @classmethod
    def of(cls, found: ModelVersion) -> ModelVersionOut:
        """The wire form."""
        plain = ("version", "job_id", "attempt_id", "rank", "path", "size_bytes", "linked_at")
        return cls(sha256=found.digest, **{name: getattr(found, name) for name in plain})


class LikenessOut(BaseModel):
    """Another product with the same name, model or link; `slug` is null where the caller may not see it."""

    slug: str | None
    is_imported: bool
    mark: Mark
    value: str


class LikenessesOut(BaseModel):
    """Products that look like one: shown, never merged."""

    items: list[LikenessOut]

    @classmethod
    def of(cls, found: Sequence[Likeness]) -> LikenessesOut:
        """The wire form."""
        return cls(
            items=[
                LikenessOut(slug=each.slug, is_imported=each.is_imported, mark=each.mark, value=each.value)
                for each in found
            ]
        )


class ProductDetailOut(ProductOut):
    """A product with its evidence and the products that look like it."""

    evidence: list[EvidenceJobOut]
    model_versions: list[ModelVersionOut]
    duplicates: list[LikenessOut]

    @classmethod
    def with_evidence(
        cls,
        plain: ProductOut,
        evidence: Sequence[EvidenceJob],
        versions: Sequence[ModelVersion],
        likenesses: Sequence[Likeness],
    ) -> ProductDetailOut:
        """The wire form."""
        jobs = [
            EvidenceJobOut(
                job_id=job.job_id,
                state=job.state,
                gpu_seconds=job.gpu_seconds,
                finished_at=job.finished_at,
                is_counted=job.is_counted,
                files=[
                    EvidenceFileOut(
                        attempt_id=file.attempt_id,
                        rank=file.rank,
                        path=file.path,
                        size_bytes=file.size_bytes,
                        sha256=file.digest,
                    )
                    for file in job.files
                ],
            )
            for job in evidence
        ]
        return cls(
            **plain.model_dump(),
            evidence=jobs,
            model_versions=[ModelVersionOut.of(each) for each in versions],
            duplicates=LikenessesOut.of(likenesses).items,
        )


class ConditionOut(BaseModel):
    """A condition of the evidence rule: what it needs, what was found, and the same as a sentence."""

    condition: Condition
    holds: bool
    needed: float | str | None
    found: float | str | None
    text: str


class SpanOut(BaseModel):
    """A stretch in which the product counted; `until` is null while it counts, `failed` what ended it."""

    since: datetime
    until: datetime | None
    rule: str
    failed: list[Condition]


class VerdictOut(BaseModel):
    """Whether a product counts for indicator 2 at an instant, and why."""

    slug: str
    as_of: datetime
    rule: str | None
    counts: bool
    counted_at: datetime | None
    year: int | None
    conditions: list[ConditionOut]
    spans: list[SpanOut]
    longest_job: int | None
    review_due_at: datetime | None
    is_review_overdue: bool

    @classmethod
    def of(cls, found: Verdict, rule: EvidenceRule | None, language: str) -> VerdictOut:
        """The wire form."""
        counted_at = found.counted_at
        return cls(
            slug=found.history.slug,
            as_of=found.as_of,
            rule=found.rule,
            counts=found.counts,
            counted_at=counted_at,
            year=None if counted_at is None else counted_at.astimezone(ALMATY).year,
            conditions=[
                _condition(held.condition, found, rule, language, holds=held.holds)
                for held in found.conditions
            ],
            spans=[
                SpanOut(since=span.since, until=span.until, rule=span.rule, failed=list(span.failed))
                for span in found.spans
            ],
            longest_job=found.standing.longest_job,
            review_due_at=found.review_due_at,
            is_review_overdue=found.is_review_overdue,
        )


def _condition(
    condition: Condition, found: Verdict, rule: EvidenceRule | None, language: str, *, holds: bool
) -> ConditionOut:
    standing = found.standing
    needed: dict[Condition, float | str | None] = {Condition.VERIFIED: Review.VERIFIED.value}
    if rule is not None:
        needed |= {
            Condition.GPU_HOURS: rule.min_job_gpu_seconds / SECONDS_PER_HOUR,
            Condition.USES_AI: "yes" if rule.needs_ai else "any",
            Condition.STAGE: rule.min_stage.value,
        }
    has: dict[Condition, float | str | None] = {
        Condition.RULE_IN_FORCE: found.rule,
        Condition.VERIFIED: None if standing.review is None else standing.review.value,
        Condition.GPU_HOURS: round(standing.longest_s / SECONDS_PER_HOUR, 4),
        Condition.USES_AI: "yes" if standing.uses_ai else "no",
        Condition.STAGE: None if standing.stage is None else standing.stage.value,
    }
    figures = {
        name: "-" if value is None else value
        for name, value in (("needed", needed.get(condition)), ("found", has[condition]))
    }
    return ConditionOut(
        condition=condition,
        holds=holds,
        needed=needed.get(condition),
        found=has[condition],
        text=translate(language, f"condition.{condition.value}", **figures),
    )


class ChainGroundOut(BaseModel):
    """An act that a grant rests on."""

    kind: GroundKind
    body: str
    number: str
    date: date
    digest: str | None


class ChainGrantOut(BaseModel):
    """A grant that paid for an attempt, with its decision."""

    id: UUID
    flavor: str
    granted_gpu_seconds: int
    grounds: list[ChainGroundOut]


class ChainAttemptOut(BaseModel):
    """An attempt: the policy in force when it was admitted, its queue, the grant, and the ledger's charge."""

    id: str
    policy: str | None
    policy_sha256: str | None
    queue: str
    grant: ChainGrantOut
    posted_gpu_seconds: int

    @classmethod
    def of(cls, found: ChainAttempt) -> ChainAttemptOut:
        """The wire form."""
        grant = ChainGrantOut(
            id=found.grant.id,
            flavor=found.grant.flavor,
            granted_gpu_seconds=found.grant.granted_s,
            grounds=[ChainGroundOut.model_validate(ground) for ground in found.grant.grounds],
        )
        return cls(
            id=found.id,
            policy=found.policy,
            policy_sha256=found.policy_digest,
            queue=found.queue,
            grant=grant,
            posted_gpu_seconds=found.posted_s,
        )


class ChainJobOut(BaseModel):
    """A job of the chain; `breaks` says what is missing between its links."""

    job_id: int
    state: str
    linked_at: datetime
    unlinked_at: datetime | None
    finished_at: datetime | None
    gpu_seconds: int
    energy_kwh: float | None
    energy_coverage_ratio: float | None
    attempts: list[ChainAttemptOut]
    model_versions: list[ModelVersionOut]
    breaks: list[Break]

    @classmethod
    def of(cls, found: ChainJob) -> ChainJobOut:
        """The wire form."""
        plain = ("job_id", "state", "linked_at", "unlinked_at", "finished_at", "gpu_seconds")
        energy = ("energy_kwh", "energy_coverage_ratio")
        return cls(
            attempts=[ChainAttemptOut.of(each) for each in found.attempts],
            model_versions=[ModelVersionOut.of(each) for each in found.versions],
            breaks=list(found.breaks),
            **{name: getattr(found, name) for name in (*plain, *energy)},
        )


class ChainOut(BaseModel):
    """The chain of evidence of a product, from the policy to the indicator."""

    slug: str
    status: ProductStatus
    is_simulated: bool
    jobs: list[ChainJobOut]
    verdict: VerdictOut
