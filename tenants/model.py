"""Frozen values of the tenants room: organisations, projects, users, roles.

Rows never leave the shell; these do.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NewType
from uuid import UUID

OrganisationId = NewType("OrganisationId", UUID)
ProjectId = NewType("ProjectId", UUID)
UserId = NewType("UserId", UUID)
TokenId = NewType("TokenId", UUID)


class Category(StrEnum):
    """What kind of user an organisation is.

    Source: AI Concept 2024-2029 (Government decree No 592 of 24 July 2024): the supercomputer is rented out
    to citizens, business, organisations of the priority sectors and the scientific community; `programme`
    serves KazLLM, `foreign` the export of spare capacity.
    """

    STARTUP = "startup"
    UNIVERSITY = "university"
    RESEARCH_INSTITUTE = "research-institute"
    GOVERNMENT = "government"
    BUSINESS = "business"
    CITIZEN = "citizen"
    PROGRAMME = "programme"
    FOREIGN = "foreign"


class Sector(StrEnum):
    """Sector of the economy an organisation works in; `other` where none of the named ones fits.

    Source: AI Concept 2024-2029 names the first eight as sectors where AI products are wanted. Which of them
    are *priority* in a year is data of the policy, never of this list.
    """

    PUBLIC_ADMINISTRATION = "public-administration"
    OIL_AND_GAS = "oil-and-gas"
    MINING = "mining"
    ENERGY = "energy"
    TRANSPORT = "transport"
    LOGISTICS = "logistics"
    WATER_SUPPLY = "water-supply"
    AGRICULTURE = "agriculture"
    EDUCATION = "education"
    HEALTH_CARE = "health-care"
    OTHER = "other"


class Role(StrEnum):
    """What a user may do. Project roles are held on a project, platform roles on the whole platform."""

    RESEARCHER = "researcher"
    PROJECT_MANAGER = "project-manager"
    OPERATOR = "operator"
    REVIEWER = "reviewer"
    COUNCIL_VIEWER = "council-viewer"
    AUDITOR = "auditor"


PROJECT_ROLES = frozenset({Role.RESEARCHER, Role.PROJECT_MANAGER})
PLATFORM_ROLES = frozenset({Role.OPERATOR, Role.REVIEWER, Role.COUNCIL_VIEWER, Role.AUDITOR})


class Scope(StrEnum):
    """What a token may be used for; a token never gives more than its user's roles."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


class ProjectStatus(StrEnum):
    """Whether a project may start jobs."""

    ACTIVE = "active"
    SUSPENDED = "suspended"


@dataclass(frozen=True, slots=True)
class Organisation:
    """Who pays. `name` holds the keys kk, ru, en. `bin` is the BIN, or None for a foreign one or a citizen."""

    id: OrganisationId
    slug: str
    name: dict[str, str]
    category: Category
    sector: Sector
    region: str
    bin: str | None


@dataclass(frozen=True, slots=True)
class Project:
    """Groups jobs, grants and products of an organisation. `queue` is the path its route gave it."""

    id: ProjectId
    organisation_id: OrganisationId
    slug: str
    queue: str
    programme: str | None
    status: ProjectStatus


@dataclass(frozen=True, slots=True)
class Principal:
    """The authenticated caller: user, roles, and what the token allows.

    `project_roles` maps a project to the roles held there; `platform_roles` hold everywhere.
    """

    user_id: UserId
    user_name: str
    organisation_id: OrganisationId | None
    token_id: TokenId
    scopes: frozenset[Scope]
    platform_roles: frozenset[Role]
    project_roles: dict[ProjectId, frozenset[Role]]


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A new token. `secret` is shown once and stored nowhere."""

    id: TokenId
    secret: str
    prefix: str
    expires_at: datetime
