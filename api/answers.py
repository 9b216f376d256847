"""What the API answers about people and quota: wire types and how they are made of the rooms' values.

Durations are seconds, GPU time is raw device-seconds (GPU-hours stand beside it for people), instants are RFC 3339
in UTC. Jobs and the machine stand in `api.job_answers`, products in `api.product_answers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from fractions import Fraction
from typing import Annotated, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel, Field

from quota.model import Balance, Grant
from quota.service import EnactedPolicy
from store.clock import from_ms
from tenants.model import (
    Category,
    IssuedToken,
    Organisation,
    Principal,
    Project,
    ProjectId,
    ProjectStatus,
    Role,
    Scope,
    Sector,
)
from tenants.views import Token, User

T = TypeVar("T")

HOUR_S = 3600
"""Seconds of an hour."""

Figure = int | str | None


def gpu_hours(device_seconds: int) -> float:
    """GPU-hours for people, rounded to a hundredth; the books are kept in seconds."""
    return round(float(Fraction(device_seconds, HOUR_S)), 2)


class FindingOut(BaseModel):
    """One thing wrong with a request."""

    place: str
    message: str


class Problem(BaseModel):
    """An error as RFC 9457 describes it; `code` is stable, `title` is in the language asked for."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    errors: list[FindingOut]
    numbers: dict[str, Figure]


class PageOut(BaseModel, Generic[T]):
    """One page of a list; `next_cursor` gets the next one, null at the end."""

    items: list[T]
    next_cursor: str | None


class NamesOut(BaseModel):
    """A name in the three languages."""

    kk: str
    ru: str
    en: str

    @classmethod
    def of(cls, name: Mapping[str, str]) -> NamesOut:
        """The wire form; a language that is missing shows the Kazakh name."""
        kk = name.get("kk") or name.get("ru") or name.get("en") or ""
        return cls(kk=kk, ru=name.get("ru", kk), en=name.get("en", kk))


class OrganisationOut(BaseModel):
    """An organisation."""

    id: UUID
    slug: str
    name: NamesOut
    category: Category
    sector: Sector
    region: str
    bin: str | None

    @classmethod
    def of(cls, found: Organisation) -> OrganisationOut:
        """The wire form."""
        return cls(
            id=found.id,
            slug=found.slug,
            name=NamesOut.of(found.name),
            category=found.category,
            sector=found.sector,
            region=found.region,
            bin=found.bin,
        )


class ProjectOut(BaseModel):
    """A project and the queue its route gave it."""

    id: UUID
    slug: str
    organisation_id: UUID
    queue: str
    programme: str | None
    status: ProjectStatus

    @classmethod
    def of(cls, found: Project) -> ProjectOut:
        """The wire form."""
        return cls(
            id=found.id,
            slug=found.slug,
            organisation_id=found.organisation_id,
            queue=found.queue,
            programme=found.programme,
            status=found.status,
        )


class RoleOut(BaseModel):
    """A role and the project it is held on; null = the whole platform."""

    role: Role
    project_id: UUID | None


class UserOut(BaseModel):
    """A person or a service."""

    id: UUID
    name: str
    organisation_id: UUID | None
    is_active: bool
    roles: list[RoleOut]

    @classmethod
    def of(cls, found: User) -> UserOut:
        """The wire form."""
        return cls(
            id=found.id,
            name=found.name,
            organisation_id=found.organisation_id,
            is_active=found.is_active,
            roles=[RoleOut(role=held.role, project_id=held.project_id) for held in found.roles],
        )


class TokenOut(BaseModel):
    """A token without its secret."""

    id: UUID
    user_id: UUID
    prefix: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None

    @classmethod
    def of(cls, found: Token) -> TokenOut:
        """The wire form."""
        return cls(
            id=found.id,
            user_id=found.user_id,
            prefix=found.prefix,
            scopes=sorted(found.scopes),
            created_at=found.created_at,
            expires_at=found.expires_at,
            revoked_at=found.revoked_at,
        )


class IssuedTokenOut(BaseModel):
    """A new token; the secret is shown this once."""

    id: UUID
    secret: str
    prefix: str
    expires_at: datetime

    @classmethod
    def of(cls, issued: IssuedToken) -> IssuedTokenOut:
        """The wire form."""
        return cls(id=issued.id, secret=issued.secret, prefix=issued.prefix, expires_at=issued.expires_at)


class MyProjectOut(BaseModel):
    """A project of the caller's and the roles held on it."""

    id: UUID
    slug: str | None
    roles: list[Role]


class MeOut(BaseModel):
    """The caller, as the platform sees it."""

    user_id: UUID
    name: str
    organisation_id: UUID | None
    scopes: list[Scope]
    platform_roles: list[Role]
    projects: list[MyProjectOut]

    @classmethod
    def of(cls, caller: Principal, slugs: Mapping[ProjectId, str]) -> MeOut:
        """The wire form."""
        return cls(
            user_id=caller.user_id,
            name=caller.user_name,
            organisation_id=caller.organisation_id,
            scopes=sorted(caller.scopes),
            platform_roles=sorted(caller.platform_roles),
            projects=[
                MyProjectOut(id=project, slug=slugs.get(project), roles=sorted(roles))
                for project, roles in sorted(caller.project_roles.items())
            ],
        )


class BalanceOut(BaseModel):
    """A grant's account in device-seconds."""

    granted_s: int
    pending_s: int
    used_s: int
    expired_s: int
    returned_s: int
    clawed_back_s: int
    adjusted_s: int
    transferred_in_s: int
    transferred_out_s: int
    remaining_s: int

    @classmethod
    def of(cls, balance: Balance) -> BalanceOut:
        """The wire form."""
        return cls(**{name: getattr(balance, name) for name in cls.model_fields})


class GrantOut(BaseModel):
    """GPU time of a project, with its balance; hours are for people."""

    id: UUID
    project_id: UUID
    project: str | None
    flavor: str
    starts_at: datetime
    ends_at: datetime
    balance: BalanceOut
    granted_gpu_hours: float
    used_gpu_hours: float
    remaining_gpu_hours: float

    @classmethod
    def of(cls, grant: Grant, slugs: Mapping[ProjectId, str]) -> GrantOut:
        """The wire form."""
        return cls(
            id=grant.id,
            project_id=grant.project_id,
            project=slugs.get(ProjectId(grant.project_id)),
            flavor=grant.flavor,
            starts_at=from_ms(grant.starts_ms),
            ends_at=from_ms(grant.ends_ms),
            balance=BalanceOut.of(grant.balance),
            granted_gpu_hours=gpu_hours(grant.balance.granted_s),
            used_gpu_hours=gpu_hours(grant.balance.used_s),
            remaining_gpu_hours=gpu_hours(grant.balance.remaining_s),
        )


class PolicyOut(BaseModel):
    """A policy as it was entered."""

    version: str
    effective_from: date
    enacted_at: datetime
    digest: Annotated[str, Field(description="SHA-256 of the document as canonical JSON.")]
    document: dict[str, object]

    @classmethod
    def of(cls, enacted: EnactedPolicy) -> PolicyOut:
        """The wire form."""
        return cls(
            version=enacted.policy.version,
            effective_from=enacted.policy.effective_from,
            enacted_at=enacted.enacted_at,
            digest=enacted.digest,
            document=dict(enacted.document),
        )


class PoliciesOut(BaseModel):
    """The policies entered, the latest to come into force first."""

    items: list[PolicyOut]
