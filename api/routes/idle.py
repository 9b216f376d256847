"""Idle jobs: the policy, what their users were told, and which stand idle now."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Final, Self

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from api import paging
from api.auth import Caller, require
from api.context import Ctx, Language
from api.errors import BODY_ERRORS, ErrorCode, documented
from api.i18n import duration, instant, translate
from api.routes.jobs import JobPath
from api.schemas import Body, PageQuery, Slug
from metrics import idle_policy, notices
from metrics.idle import Exemption, IdlePolicy, Step
from metrics.idle_policy import MAX_AFTER_S, SetPolicy
from metrics.notices import IdleJob, Notice
from scheduler import jobs
from store.engine import snapshot, transaction
from tenants import directory
from tenants.authz import Action
from tenants.service import actor_of

router = APIRouter(prefix="/v1", tags=["jobs"])

_DEFAULT: Final = IdlePolicy()

Seconds = Annotated[int, Field(ge=1, le=MAX_AFTER_S)]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class IdlePolicyIn(Body):
    """What follows when a job's GPUs stand idle. What is left out has the platform's default."""

    enabled: bool = Field(default=_DEFAULT.is_enabled, description="Whether anything is done.")
    dry_run: bool = Field(
        default=_DEFAULT.is_dry_run,
        description="Steps are journaled and shown to operators; nobody is told or stopped.",
    )
    notice_after_s: Seconds = _DEFAULT.notice_after // timedelta(seconds=1)
    second_notice_after_s: Seconds = _DEFAULT.second_notice_after // timedelta(seconds=1)
    cancel_after_s: Seconds = _DEFAULT.cancel_after // timedelta(seconds=1)
    min_busy_share: Share = Field(
        default=_DEFAULT.min_busy_share,
        description="A job with at least this share of its GPUs busy is not idle.",
    )
    min_coverage: Share = Field(
        default=_DEFAULT.min_coverage,
        description="Share of an idle stretch that must be observed; below it nothing is done.",
    )
    exempt_interactive: bool = Field(
        default=_DEFAULT.is_interactive_exempt, description="Interactive jobs are left alone."
    )

    def policy(self) -> IdlePolicy:
        """The policy.

        Raises:
            PolicyError: its times do not grow.
        """
        return idle_policy.made(
            flags={
                "is_enabled": self.enabled,
                "is_dry_run": self.dry_run,
                "is_interactive_exempt": self.exempt_interactive,
            },
            times={
                "notice_after": timedelta(seconds=self.notice_after_s),
                "second_notice_after": timedelta(seconds=self.second_notice_after_s),
                "cancel_after": timedelta(seconds=self.cancel_after_s),
            },
            shares={"min_busy_share": self.min_busy_share, "min_coverage": self.min_coverage},
        )


class IdlePolicyOut(BaseModel):
    """The policy in force. `id`, `digest`, `set_at` and `set_by` are null for the platform's own default."""

    id: int | None
    digest: str | None
    set_at: datetime | None
    set_by: str | None
    enabled: bool
    dry_run: bool
    notice_after_s: int
    second_notice_after_s: int
    cancel_after_s: int
    min_busy_share: float
    min_coverage: float
    exempt_interactive: bool

    @classmethod
    def of(cls, found: SetPolicy) -> Self:
        """The wire form."""
        policy = found.policy
        return cls(
            id=found.id,
            digest=found.digest,
            set_at=found.set_at,
            set_by=found.set_by,
            enabled=policy.is_enabled,
            dry_run=policy.is_dry_run,
            notice_after_s=policy.notice_after // timedelta(seconds=1),
            second_notice_after_s=policy.second_notice_after // timedelta(seconds=1),
            cancel_after_s=policy.cancel_after // timedelta(seconds=1),
            min_busy_share=policy.min_busy_share,
            min_coverage=policy.min_coverage,
            exempt_interactive=policy.is_interactive_exempt,
        )


class NoticeOut(BaseModel):
    """A step taken because a job's GPUs stood idle. `cleared_at`: when they were seen in use again."""

    id: int
    job_id: int
    attempt_id: str
    project: str
    step: Step
    at: datetime
    idle_s: int
    idle_gpus: int
    gpus: int
    next_step: Step | None
    next_at: datetime | None
    returned_gpu_seconds: int | None
    cleared_at: datetime | None
    text: str

    @classmethod
    def of(cls, found: Notice, language: str) -> Self:
        """The wire form, told in a language."""
        same = ("id", "job_id", "attempt_id", "project", "step", "at", "idle_s", "idle_gpus", "gpus")
        return cls(
            **{name: getattr(found, name) for name in same},
            next_step=found.next_step,
            next_at=found.next_at,
            returned_gpu_seconds=found.returned_s,
            cleared_at=found.cleared_at,
            text=translate(
                language,
                f"idle.{found.step.value}",
                idle=duration(language, found.idle_s),
                idle_gpus=found.idle_gpus,
                gpus=found.gpus,
                next="" if found.next_at is None else instant(language, found.next_at),
                returned_s=found.returned_s,
            ),
        )


class NoticesOut(BaseModel):
    """Notices, the latest first; `next_cursor` gets the next page, null at the end."""

    items: list[NoticeOut]
    next_cursor: str | None


class IdleJobOut(BaseModel):
    """A running job whose GPUs stand idle now. `exemption`: why it is left alone; null if it is not."""

    job_id: int
    attempt_id: str
    project: str
    gpus: int
    idle_gpus: int
    idle_since: datetime
    is_interactive: bool
    taken: list[Step]
    exemption: Exemption | None
    next_step: Step | None
    due_at: datetime | None

    @classmethod
    def of(cls, found: IdleJob) -> Self:
        """The wire form."""
        plain = {name: getattr(found, name) for name in cls.model_fields if name != "taken"}
        return cls(**plain, taken=list(found.taken))


class IdleJobsOut(BaseModel):
    """Jobs that stand idle now, under the policy in force; in a dry run `taken` was noted, not told."""

    policy: IdlePolicyOut
    items: list[IdleJobOut]


class NoticesQuery(PageQuery):
    """Which notices."""

    project: Slug | None = Field(default=None, description="Slug of a project; absent for all you see.")


@router.get(
    "/jobs/{job_id}/notices",
    operation_id="listJobNotices",
    summary="Notices of an idle job",
    responses=documented(ErrorCode.NOT_FOUND),
)
def list_job_notices(ctx: Ctx, caller: Caller, language: Language, job_id: JobPath) -> NoticesOut:
    """What the job's user was told because its GPUs stood idle, the latest first, at most 200."""
    with snapshot(ctx.engine) as session:
        jobs.get(session, caller, job_id)
        found = notices.list_notices(session, caller, job_id=job_id)
    return NoticesOut(items=[NoticeOut.of(notice, language) for notice in found], next_cursor=None)


@router.get(
    "/notices",
    operation_id="listNotices",
    summary="Notices of your idle jobs",
    responses=documented(ErrorCode.UNKNOWN_PROJECT),
)
def list_notices(
    ctx: Ctx, caller: Caller, language: Language, query: Annotated[NoticesQuery, Query()]
) -> NoticesOut:
    """Notices of all jobs that you see, the latest first."""
    before_id = paging.decode_number(query.cursor)
    with snapshot(ctx.engine) as session:
        project = None if query.project is None else directory.project(session, caller, query.project)
        found = notices.list_notices(
            session,
            caller,
            project_id=None if project is None else project.id,
            before_id=before_id,
            limit=query.limit,
        )
    more = paging.encode(found[-1].id) if len(found) == query.limit else None
    return NoticesOut(items=[NoticeOut.of(notice, language) for notice in found], next_cursor=more)


@router.get(
    "/idle-jobs", operation_id="listIdleJobs", summary="Jobs that stand idle now", responses=documented()
)
def list_idle_jobs(ctx: Ctx, caller: Caller) -> IdleJobsOut:
    """Running jobs whose GPUs stand idle, of the projects you see, with what is due and why some are left alone."""
    with snapshot(ctx.engine) as session:
        found = notices.idle_jobs(session, caller, ctx.now())
        policy = idle_policy.in_force(session)
    return IdleJobsOut(policy=IdlePolicyOut.of(policy), items=[IdleJobOut.of(one) for one in found])


@router.get(
    "/idle-policy",
    operation_id="getIdlePolicy",
    summary="Show the policy for idle jobs",
    responses=documented(),
)
def get_idle_policy(ctx: Ctx, _caller: Caller) -> IdlePolicyOut:
    """The policy in force; where none was set, the platform's default, which is a dry run."""
    with snapshot(ctx.engine) as session:
        return IdlePolicyOut.of(idle_policy.in_force(session))


@router.put(
    "/idle-policy",
    operation_id="setIdlePolicy",
    summary="Set the policy for idle jobs",
    responses=documented(ErrorCode.FORBIDDEN, ErrorCode.BAD_POLICY, *BODY_ERRORS),
)
def set_idle_policy(ctx: Ctx, caller: Caller, body: IdlePolicyIn) -> IdlePolicyOut:
    """Put a policy in force at once, as a new version; the journal keeps who set it."""
    require(caller, Action.ADMINISTER)
    with transaction(ctx.engine) as session:
        return IdlePolicyOut.of(idle_policy.put(session, body.policy(), at=ctx.now(), actor=actor_of(caller)))
