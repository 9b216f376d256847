"""Jobs: upload code, submit, look at, cancel, hold and release."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from api import bundles, idempotency, paging
from api.answers import PageOut
from api.auth import Caller, require
from api.context import Context, Ctx, Language
from api.errors import BODY_ERRORS, ApiError, ErrorCode, documented
from api.i18n import catalogue, gibibytes, instant, translate
from api.job_answers import AttemptOut, BundleOut, EventOut, EventsOut, JobOut, ReasonOut
from api.limits import MAX_EVENTS, MAX_ID, MAX_KEY_CHARS
from api.schemas import JobIn, JobsQuery, PageQuery
from quota.service import policy_in_force
from scheduler import jobs
from scheduler.model import Numbers
from scheduler.model import Request as GpuRequest
from store import journal
from store.clock import from_ms
from store.engine import snapshot, transaction
from tenants import directory
from tenants.authz import Action, may
from tenants.model import Principal

router = APIRouter(prefix="/v1", tags=["jobs"])

JobPath = Annotated[int, Path(ge=1, le=MAX_ID, description="Number of the job.")]
_JOB = documented(ErrorCode.NOT_FOUND)
_ACT = documented(ErrorCode.FORBIDDEN, ErrorCode.NOT_FOUND, ErrorCode.CONFLICT, *BODY_ERRORS)


def job_out(job: jobs.JobView, language: str) -> JobOut:
    """A job as the caller's language tells it."""
    reason = None if job.reason is None else reason_out(job.reason, job.reason_numbers, language)
    return JobOut.of(job, reason, None if job.exit_error is None else _exit_error(job, language))


def _exit_error(job: jobs.JobView, language: str) -> str:
    """What went wrong with a job's program, and what to do about it; a code without words is named."""
    key = f"exit_error.{job.exit_error}"
    if key not in catalogue(language):
        key = "exit_error.other"
    program = "…" if job.text is None else job.text.command[0]
    return translate(language, key, code=job.exit_error, program=program)


def reason_out(code: str, numbers: Numbers, language: str) -> ReasonOut:
    """A reason as a sentence: rules and limits are words of the catalogue, instants are told in Almaty's time."""
    shown: dict[str, object] = dict(numbers)
    for name, value in numbers.items():
        if name in {"rule", "limit"} and isinstance(value, str):
            shown[name] = translate(language, f"{name}.{value}")
        elif name.endswith("_ms") and isinstance(value, int):
            shown[name] = instant(language, from_ms(value))
        elif "_bytes" in name and isinstance(value, int):
            shown[name.replace("_bytes", "")] = gibibytes(language, value)
    special = f"{code.lower()}.{numbers.get('limit', numbers.get('cause'))}"
    if "lacks" in numbers:
        special = f"lacks.{numbers['lacks']}"
    text = translate(language, special if special in catalogue(language) else f"reason.{code}", **shown)
    return ReasonOut(code=code, numbers=dict(numbers), text=text)


async def bundle_body(request: Request) -> bytes:
    """The bytes of an upload.

    Raises:
        ApiError: UNSUPPORTED_MEDIA.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media not in {"application/gzip", "application/x-gzip", "application/octet-stream"}:
        raise ApiError(
            ErrorCode.UNSUPPORTED_MEDIA,
            f"the body's type is {media or 'not stated'}; send the tar.gz as application/gzip",
        )
    return await request.body()


@router.post(
    "/bundles",
    status_code=201,
    operation_id="uploadBundle",
    summary="Upload code",
    responses=documented(ErrorCode.FORBIDDEN, ErrorCode.BUNDLE_INVALID, *BODY_ERRORS),
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "A tar.gz of regular files and folders, at most 8 MiB.",
            "content": {"application/gzip": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
def upload_bundle(ctx: Ctx, caller: Caller, data: Annotated[bytes, Depends(bundle_body)]) -> BundleOut:
    """Keep a bundle of code under its SHA-256; the same bytes again give the same digest."""
    submits_somewhere = may(caller, Action.SUBMIT) or any(
        may(caller, Action.SUBMIT, project) for project in caller.project_roles
    )
    if not submits_somewhere:
        require(caller, Action.SUBMIT)
    bundles.check(data)
    with transaction(ctx.engine) as session:
        digest = jobs.put_bundle(session, data, ctx.now())
    return BundleOut(digest=digest, size_bytes=len(data))


@router.post(
    "/jobs",
    status_code=201,
    operation_id="submitJob",
    summary="Submit a job",
    response_model=JobOut,
    responses=documented(
        ErrorCode.FORBIDDEN,
        ErrorCode.UNKNOWN_PROJECT,
        ErrorCode.IDEMPOTENCY_IN_FLIGHT,
        ErrorCode.IDEMPOTENCY_MISMATCH,
        ErrorCode.NO_POLICY,
        ErrorCode.PROJECT_SUSPENDED,
        ErrorCode.NEVER_FITS,
        ErrorCode.GRANT_NOT_ACTIVE,
        ErrorCode.BUDGET_EXHAUSTED,
        ErrorCode.QUEUE_FULL,
        ErrorCode.QUEUE_UNKNOWN,
        ErrorCode.BUNDLE_MISSING,
        *BODY_ERRORS,
    ),
)
def submit_job(
    ctx: Ctx,
    caller: Caller,
    language: Language,
    body: JobIn,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=MAX_KEY_CHARS,
            pattern=r"^[\x21-\x7e]+$",
            description="Makes a repeated request safe: the same key and body give the same job for 24 hours.",
        ),
    ] = None,
) -> JSONResponse:
    """Accept a job, or refuse at once what can never run as asked, with what would be accepted.

    Of an array all jobs are entered at once, and the answer is the first; its number is the array's.
    """
    at = ctx.now()
    with transaction(ctx.engine) as session:

        def act() -> tuple[int, dict[str, object]]:
            job = _submit(session, caller, body, at)
            return 201, job_out(job, language).model_dump(mode="json")

        if idempotency_key is None:
            answer = idempotency.Answer(*act(), is_replayed=False)
        else:
            key = idempotency.Key.of(caller.user_id, idempotency_key, body.model_dump(mode="json"))
            answer = idempotency.once(session, key, at, act)
    headers = {"Location": f"/v1/jobs/{answer.body['id']}"}
    if answer.is_replayed:
        headers["Idempotency-Replayed"] = "true"
    return JSONResponse(answer.body, answer.status, headers=headers)


def _submit(session: Session, caller: Principal, body: JobIn, at: datetime) -> jobs.JobView:
    project = directory.project(session, caller, body.project)
    require(caller, Action.SUBMIT, project)
    if body.priority > 0 and not may(caller, Action.ADMINISTER):
        raise ApiError(
            ErrorCode.FORBIDDEN,
            "a priority above 0 puts a job before others of its queue; ask an operator, or leave it at 0 or below",
        )
    submission = jobs.Submission(
        project=project,
        user_id=caller.user_id,
        name=body.name,
        command=tuple(body.command),
        request=GpuRequest(
            gpus=body.gpus,
            walltime_s=body.walltime_s or 0,
            flavors=tuple(body.flavors),
            nodes=body.nodes,
            memory_bytes_per_rank=body.memory_bytes_per_rank,
            node_labels=tuple(sorted(body.node_labels.items())),
            topology_required=body.topology_required,
            topology_preferred=body.topology_preferred,
            placement=body.placement,
            cpus_per_gpu=body.cpus_per_gpu,
            memory_bytes_per_gpu=body.memory_bytes_per_gpu,
        ),
        env=body.env,
        outputs=tuple(body.outputs),
        bundle_digest=body.bundle,
        priority=body.priority,
        is_held=body.is_held,
        is_interactive=body.is_interactive,
        begin_at=body.begin_at,
        depends_on=tuple(jobs.Dependency(one.job_id, one.kind) for one in body.depends_on),
        array=None if body.array is None else jobs.ArrayAsked(body.array.count, body.array.cap),
    )
    return jobs.submit(session, submission, policy=policy_in_force(session, at), at=at)


@router.get(
    "/jobs",
    operation_id="listJobs",
    summary="List jobs",
    responses=documented(ErrorCode.UNKNOWN_PROJECT),
)
def list_jobs(
    ctx: Ctx, caller: Caller, language: Language, query: Annotated[JobsQuery, Query()]
) -> PageOut[JobOut]:
    """Jobs of the projects you see, the newest first."""
    before_id = paging.decode_number(query.cursor)
    with snapshot(ctx.engine) as session:
        project = None if query.project is None else directory.project(session, caller, query.project)
        found = jobs.list_jobs(
            session,
            caller,
            jobs.JobQuery(
                state=query.state,
                project_id=None if project is None else project.id,
                queue=query.queue,
                before_id=before_id,
                limit=query.limit,
            ),
        )
    more = None if found.next_before_id is None else paging.encode(found.next_before_id)
    return PageOut(items=[job_out(job, language) for job in found.items], next_cursor=more)


@router.get("/jobs/{job_id}", operation_id="getJob", summary="Show a job", responses=_JOB)
def get_job(ctx: Ctx, caller: Caller, language: Language, job_id: JobPath) -> JobOut:
    """A job with its latest attempt; while it waits, the one decisive reason and its figures."""
    with snapshot(ctx.engine) as session:
        return job_out(jobs.get(session, caller, job_id), language)


@router.post("/jobs/{job_id}/cancel", operation_id="cancelJob", summary="Cancel a job", responses=_ACT)
def cancel_job(ctx: Ctx, caller: Caller, language: Language, job_id: JobPath) -> JobOut:
    """Cancel a job: at once where it waits, else its ranks are stopped. One that ended stays as it is."""
    return _act(ctx, caller, language, job_id, jobs.cancel)


@router.post("/jobs/{job_id}/hold", operation_id="holdJob", summary="Hold a job", responses=_ACT)
def hold_job(ctx: Ctx, caller: Caller, language: Language, job_id: JobPath) -> JobOut:
    """Keep a waiting job from starting until it is released; its place is kept."""
    return _act(ctx, caller, language, job_id, jobs.hold)


@router.post(
    "/jobs/{job_id}/release", operation_id="releaseJob", summary="Release a held job", responses=_ACT
)
def release_job(ctx: Ctx, caller: Caller, language: Language, job_id: JobPath) -> JobOut:
    """Let a held job start again."""
    return _act(ctx, caller, language, job_id, jobs.release)


def _act(
    ctx: Context,
    caller: Principal,
    language: str,
    job_id: int,
    change: Callable[[Session, Principal, int, datetime], jobs.JobView],
) -> JobOut:
    with transaction(ctx.engine) as session:
        seen = jobs.get(session, caller, job_id)
        require(caller, Action.SUBMIT, directory.project(session, caller, seen.project))
        return job_out(change(session, caller, job_id, ctx.now()), language)


@router.get(
    "/jobs/{job_id}/attempts",
    operation_id="listAttempts",
    summary="Attempts of a job",
    responses=_JOB,
)
def list_attempts(
    ctx: Ctx, caller: Caller, job_id: JobPath, query: Annotated[PageQuery, Query()]
) -> PageOut[AttemptOut]:
    """Executions of a job, the latest first, with the nodes and GPUs they held."""
    before = paging.decode_number(query.cursor)
    with snapshot(ctx.engine) as session:
        found = jobs.attempts_of(session, caller, job_id, before=before)
    shown = found[: query.limit]
    more = paging.encode(shown[-1].number) if shown and shown[-1].number > 1 else None
    return PageOut(items=[AttemptOut.of(attempt) for attempt in shown], next_cursor=more)


@router.get(
    "/jobs/{job_id}/events",
    operation_id="listJobEvents",
    summary="What happened to a job",
    responses=_JOB,
)
def list_events(
    ctx: Ctx,
    caller: Caller,
    job_id: JobPath,
    after: Annotated[int, Query(ge=0, le=MAX_ID, description="Only records with a larger id.")] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_EVENTS)] = MAX_EVENTS,
) -> EventsOut:
    """Records of the journal about a job: each change of its state, in the order in which they were written."""
    with snapshot(ctx.engine) as session:
        jobs.get(session, caller, job_id)
        found = journal.of_subject(session, f"job:{job_id}", after_id=after, limit=limit)
    more = found[-1].id if len(found) == limit else None
    return EventsOut(items=[EventOut.of(record) for record in found], next_after=more)
