"""Planning: why a job waits, an operator's acts above the machine, windows, and what another policy would do."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query

from api.auth import Caller, require
from api.context import Ctx, Language
from api.errors import BODY_ERRORS, ErrorCode, documented
from api.i18n import duration, instant, translate
from api.limits import DEFAULT_PAGE, MAX_ID, MAX_PAGE
from api.planning_answers import (
    ActOut,
    ActsOut,
    AheadOut,
    ChangeOut,
    ExpectedStartOut,
    ExplanationOut,
    MovedStartOut,
    MovedStartsOut,
    PreviewOut,
    StartToldOut,
    WindowOut,
    WindowsOut,
)
from api.routes.jobs import JobPath, reason_out
from api.routes.quota import POLICY_BODY, policy_body
from api.schemas import ActIn, RepeatsIn, WindowIn
from quota.policy import load_policy_text, parse_policy
from scheduler import acts
from scheduler.causes import MoveCause
from scheduler.explaining import explain_job, preview_policy
from scheduler.model import JobId
from scheduler.recurring import Repeats
from scheduler.told import StartTold, moved_lately, starts_told
from store.clock import from_ms, to_ms
from store.engine import snapshot, transaction
from tenants import directory
from tenants.authz import Action, may

router = APIRouter(prefix="/v1", tags=["planning"])

Number = Annotated[int, Path(ge=1, le=MAX_ID, description="Number of the act or window.")]
_CHANGE = documented(ErrorCode.FORBIDDEN, *BODY_ERRORS)
_END = documented(ErrorCode.FORBIDDEN, ErrorCode.NOT_FOUND, *BODY_ERRORS)


@router.get(
    "/jobs/{job_id}/explanation",
    operation_id="explainJob",
    summary="Why a job waits",
    responses=documented(ErrorCode.NOT_FOUND, ErrorCode.NO_POLICY),
)
def explain(ctx: Ctx, caller: Caller, language: Language, job_id: JobPath) -> ExplanationOut:
    """The decisive reason as of now, who is ahead by which rule, when it starts, and what would start it now."""
    with snapshot(ctx.engine) as session:
        found = explain_job(session, caller, job_id, ctx.now(), ctx.explanations)
        told = [_told(one, language) for one in starts_told(session, JobId(job_id))]
    if found is None:
        return ExplanationOut(
            job_id=job_id,
            is_waiting=False,
            reason=None,
            place=None,
            ahead=[],
            starts_by=None,
            expected=None,
            changes=[],
            starts_told=told,
        )
    return ExplanationOut(
        job_id=job_id,
        is_waiting=True,
        reason=reason_out(found.wait.reason, found.wait.numbers, language),
        place=found.place,
        ahead=[
            AheadOut(job_id=other, rule=rule, text=translate(language, f"rule.{rule}"))
            for other, rule in found.ahead
        ],
        starts_by=None if found.start_ms is None else from_ms(found.start_ms),
        expected=None if found.expected is None else ExpectedStartOut.of(found.expected),
        changes=[
            ChangeOut(what=one.what, old=one.old, new=one.new, is_now=one.is_now) for one in found.changes
        ],
        starts_told=told,
    )


def _told(found: StartTold, language: str) -> StartToldOut:
    """A planned start as the caller's language tells it."""
    return StartToldOut(
        told_at=found.at,
        starts_at=found.start_at,
        later_s=found.later_s,
        cause=found.cause,
        text=_told_text(found, language),
    )


def _told_text(found: StartTold, language: str) -> str:
    figures = {
        "start": None if found.start_at is None else instant(language, found.start_at),
        "by": duration(language, abs(found.later_s or 0)),
        "cause": None if found.cause is None else translate(language, f"moved.{found.cause}"),
    }
    if found.later_s is None:
        how = "given_up"
    elif found.later_s > 0:
        how = "later"
    elif found.later_s < 0:
        how = "sooner"
    else:
        how = "first" if found.is_first else "elsewhere"
    return translate(language, f"told.{how}", **figures)


@router.get(
    "/moved-starts",
    operation_id="listMovedStarts",
    summary="Planned starts that moved",
    responses=documented(ErrorCode.FORBIDDEN),
)
def list_moved_starts(
    ctx: Ctx,
    caller: Caller,
    language: Language,
    cause: Annotated[MoveCause | None, Query(description="Only those that moved for it.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = DEFAULT_PAGE,
) -> MovedStartsOut:
    """Planned starts that were put off or given up of late, by cause; for those who oversee the platform."""
    require(caller, Action.READ)
    with snapshot(ctx.engine) as session:
        found = moved_lately(session)
    items = [
        MovedStartOut(job_id=one.job_id, **_told(one, language).model_dump())
        for one in found
        if cause in {None, one.cause}
    ]
    by_cause = Counter(one.cause for one in found if one.cause is not None)
    return MovedStartsOut(items=items[:limit], by_cause=dict(sorted(by_cause.items())))


@router.get(
    "/acts", operation_id="listActs", summary="Acts that stand", responses=documented(ErrorCode.FORBIDDEN)
)
def list_acts(ctx: Ctx, caller: Caller) -> ActsOut:
    """What operators set above the machine and what has not expired; for those who oversee the platform."""
    require(caller, Action.READ)
    with snapshot(ctx.engine) as session:
        return ActsOut(items=[ActOut.of(found) for found in acts.list_acts(session, ctx.now())])


@router.post(
    "/acts", status_code=201, operation_id="setAct", summary="Pause, expedite or pin", responses=_CHANGE
)
def set_act(ctx: Ctx, caller: Caller, body: ActIn) -> ActOut:
    """Pause a job or a queue, put a job first in its queue, or forbid to take its GPUs back; operators only."""
    require(caller, Action.ADMINISTER)
    asked = acts.NewAct(body.kind, body.job_id, body.queue, body.reason, body.expires_at)
    with transaction(ctx.engine) as session:
        return ActOut.of(acts.set_act(session, asked, user_id=caller.user_id, at=ctx.now()))


@router.post("/acts/{number}/end", operation_id="endAct", summary="Take an act back", responses=_END)
def end_act(ctx: Ctx, caller: Caller, number: Number) -> ActOut:
    """Take an act back before it expires; operators only."""
    require(caller, Action.ADMINISTER)
    with transaction(ctx.engine) as session:
        return ActOut.of(acts.end_act(session, number, user_id=caller.user_id, at=ctx.now()))


@router.get("/windows", operation_id="listWindows", summary="Windows to come", responses=documented())
def list_windows(ctx: Ctx, caller: Caller) -> WindowsOut:
    """Maintenance and advance reservations that have not ended, open to every caller."""
    is_whole = may(caller, Action.READ)
    with snapshot(ctx.engine) as session:
        found = acts.list_windows(session, ctx.now())
    return WindowsOut(items=[WindowOut.of(one, is_whole=is_whole) for one in found])


@router.post(
    "/windows",
    status_code=201,
    operation_id="addWindow",
    summary="Set nodes apart",
    responses=documented(ErrorCode.FORBIDDEN, ErrorCode.UNKNOWN_PROJECT, *BODY_ERRORS),
)
def add_window(ctx: Ctx, caller: Caller, body: WindowIn) -> WindowOut:
    """Set nodes apart for maintenance or for projects; what would run into the window is not started there."""
    require(caller, Action.ADMINISTER)
    with transaction(ctx.engine) as session:
        projects = tuple(directory.project(session, caller, slug).id for slug in dict.fromkeys(body.projects))
        asked = acts.NewWindow(
            body.kind,
            tuple(dict.fromkeys(body.nodes)),
            projects,
            body.from_at,
            body.to_at,
            body.reason,
            None if body.repeats is None else _repeats(body.repeats),
        )
        made = acts.add_window(session, asked, user_id=caller.user_id, at=ctx.now())
    return WindowOut.of(made, is_whole=True)


def _repeats(body: RepeatsIn) -> Repeats:
    return Repeats(body.every, body.interval, body.zone, to_ms(body.until))


@router.post(
    "/windows/{number}/remove", operation_id="removeWindow", summary="Take a window back", responses=_END
)
def remove_window(ctx: Ctx, caller: Caller, number: Number) -> WindowOut:
    """Put the nodes of a window back into the common use; operators only."""
    require(caller, Action.ADMINISTER)
    with transaction(ctx.engine) as session:
        made = acts.remove_window(session, number, user_id=caller.user_id, at=ctx.now())
    return WindowOut.of(made, is_whole=True)


@router.post(
    "/policies/preview",
    operation_id="previewPolicy",
    summary="What a policy would do",
    responses=documented(
        ErrorCode.FORBIDDEN,
        ErrorCode.NO_POLICY,
        ErrorCode.BAD_POLICY,
        ErrorCode.SHARES_EXCEED,
        ErrorCode.NO_ENACTING_ACT,
        *BODY_ERRORS,
    ),
    openapi_extra=POLICY_BODY,
)
def preview_a_policy(
    ctx: Ctx, caller: Caller, document: Annotated[str | dict[str, object], Depends(policy_body)]
) -> PreviewOut:
    """Set a policy beside the one in force on the machine as it stands: who gains, who loses, who is reclaimed."""
    require(caller, Action.ADMINISTER)
    policy = load_policy_text(document)[1] if isinstance(document, str) else parse_policy(document)
    with snapshot(ctx.engine) as session:
        found = preview_policy(session, policy, ctx.now())
    return PreviewOut.of(policy.version, found)
