"""What a job wrote: logs that can be followed, and the files it kept. Read from the nodes, never through the database.

No database session is open while an agent is asked.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response, StreamingResponse
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from api import paging
from api.answers import PageOut
from api.auth import Caller, require
from api.context import Context, Ctx
from api.errors import ApiError, ErrorCode, documented
from api.job_answers import OutputOut
from api.limits import LOG_POLL_S, MAX_FOLLOWERS, MAX_ID, MAX_LOG_BYTES
from api.schemas import LogQuery, PageQuery
from scheduler import jobs
from scheduler.dispatch.executor import RefusedError
from scheduler.dispatch.limits import MAX_WORLD_SIZE
from scheduler.dispatch.wire import AgentCode, LogPage
from scheduler.model import FINAL_STATES, JobState
from scheduler.tables import ArtefactRow, JobRow
from store.engine import snapshot
from tenants import directory
from tenants.authz import Action, visible_to
from tenants.model import Principal

router = APIRouter(prefix="/v1", tags=["jobs"])

JobPath = Annotated[int, Path(ge=1, le=MAX_ID, description="Number of the job.")]
RankPath = Annotated[int, Path(ge=0, lt=MAX_WORLD_SIZE)]


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a rank's log is: no node while the job has no such attempt yet."""

    state: JobState
    attempt_id: str
    node: str | None


@router.get(
    "/jobs/{job_id}/logs",
    operation_id="readLog",
    summary="Read or follow the log of a rank",
    response_class=Response,
    responses={
        **documented(
            ErrorCode.FORBIDDEN,
            ErrorCode.NOT_FOUND,
            ErrorCode.OUTPUT_NOT_FOUND,
            ErrorCode.AGENT_UNREACHABLE,
        ),
        200: {
            "description": "Bytes of the log from `offset` on; the headers say where the next ones begin.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
            "headers": {
                "X-Kezek-Attempt": {
                    "description": "Attempt the bytes are of; empty before the first.",
                    "schema": {"type": "string"},
                },
                "X-Kezek-Next-Offset": {
                    "description": "Offset of the next byte.",
                    "schema": {"type": "integer"},
                },
                "X-Kezek-Complete": {
                    "description": "true when this attempt's log ends at the next offset for good.",
                    "schema": {"type": "boolean"},
                },
                "X-Kezek-Job-State": {"description": "State of the job.", "schema": {"type": "string"}},
            },
        },
    },
)
async def read_log(
    ctx: Ctx, caller: Caller, request: Request, job_id: JobPath, query: Annotated[LogQuery, Query()]
) -> Response:
    """A piece of the merged standard output and error of a rank. To follow, ask again from the next offset."""
    clock = asyncio.get_running_loop()
    deadline = clock.time() + query.wait_s
    is_waiting = query.wait_s > 0 and ctx.followers.waiting < MAX_FOLLOWERS
    ctx.followers.waiting += is_waiting
    try:
        source = await run_in_threadpool(_find, ctx, caller, job_id, query)
        while True:
            page = await run_in_threadpool(_read, ctx, source, query)
            is_late = not is_waiting or clock.time() + LOG_POLL_S > deadline
            if page.data or page.is_complete or is_late or await request.is_disconnected():
                return _log_answer(source, page)
            await asyncio.sleep(LOG_POLL_S)
            if source.node is None:  # the agent alone is asked once it is known: a follower costs no queries
                source = await run_in_threadpool(_find, ctx, caller, job_id, query)
    finally:
        ctx.followers.waiting -= is_waiting


def _find(ctx: Context, caller: Principal, job_id: int, query: LogQuery) -> _Source:
    rank, number = query.rank, query.attempt
    with snapshot(ctx.engine) as session:
        job = jobs.get(session, caller, job_id)
        require(caller, Action.READ_CONTENT, directory.project(session, caller, job.project))
        record = job.attempt
        if number == job.attempts + 1 and job.state not in FINAL_STATES:
            return _Source(job.state, "", None)  # the next attempt, which a follower may wait for
        if number is not None and (record is None or record.number != number):
            found = jobs.attempts_of(session, caller, job_id, before=min(number + 1, MAX_ID))
            record = next((each for each in found if each.number == number), None)
            if record is None:
                raise ApiError(
                    ErrorCode.NOT_FOUND, f"job {job_id} has no attempt {number}; it had {job.attempts} so far"
                )
    if record is None:
        return _Source(job.state, "", None)
    if rank >= len(record.ranks):
        raise ApiError(
            ErrorCode.NOT_FOUND,
            f"attempt {record.id} has {len(record.ranks)} ranks, the last is {len(record.ranks) - 1}; "
            f"there is no rank {rank}",
        )
    is_sent = record.dispatched_at is not None or record.started_at is not None
    has_ended = record.ended_at is not None
    return _Source(job.state, record.id, record.ranks[rank].node if is_sent or has_ended else None)


def _read(ctx: Context, source: _Source, query: LogQuery) -> LogPage:
    if source.node is None:
        return LogPage(b"", 0, is_complete=source.state in FINAL_STATES)
    try:
        return ctx.executor().logs(source.node, source.attempt_id, query.rank, query.offset, MAX_LOG_BYTES)
    except RefusedError as error:
        if error.code != AgentCode.NOT_FOUND or source.state in FINAL_STATES:
            raise
        return LogPage(b"", query.offset, is_complete=False)  # its node has the lease, but no rank yet


def _log_answer(source: _Source, page: LogPage) -> Response:
    headers = {
        "X-Kezek-Attempt": source.attempt_id,
        "X-Kezek-Next-Offset": str(page.next_offset),
        "X-Kezek-Complete": "true" if page.is_complete else "false",
        "X-Kezek-Job-State": source.state.value,
    }
    return Response(page.data, media_type="text/plain", headers=headers)


@router.get(
    "/jobs/{job_id}/outputs",
    operation_id="listOutputs",
    summary="Files a job kept",
    responses=documented(ErrorCode.FORBIDDEN, ErrorCode.NOT_FOUND),
)
def list_outputs(
    ctx: Ctx, caller: Caller, job_id: JobPath, query: Annotated[PageQuery, Query()]
) -> PageOut[OutputOut]:
    """Files a job kept, with the digests that the nodes' agents computed, in the order in which they were kept."""
    after_id = paging.decode_number(query.cursor) or 0
    with snapshot(ctx.engine) as session:
        job = jobs.get(session, caller, job_id)
        require(caller, Action.READ_CONTENT, directory.project(session, caller, job.project))
        found = jobs.artefacts_of(session, caller, job_id, after_id=after_id, limit=query.limit)
    more = paging.encode(found[-1].id) if len(found) == query.limit else None
    return PageOut(items=[OutputOut.of(item) for item in found], next_cursor=more)


@router.get(
    "/jobs/{job_id}/outputs/{rank}/{path:path}",
    operation_id="downloadOutput",
    summary="Download a file a job kept",
    response_class=Response,
    responses={
        **documented(
            ErrorCode.FORBIDDEN,
            ErrorCode.NOT_FOUND,
            ErrorCode.OUTPUT_NOT_FOUND,
            ErrorCode.AGENT_UNREACHABLE,
        ),
        200: {
            "description": "The file's bytes; `Repr-Digest` holds its SHA-256 (RFC 9530).",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        },
    },
)
def download_output(
    ctx: Ctx,
    caller: Caller,
    job_id: JobPath,
    rank: RankPath,
    path: Annotated[str, Path(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")],
) -> StreamingResponse:
    """A file of the latest attempt that kept one of this name, streamed from its node."""
    with snapshot(ctx.engine) as session:
        job = jobs.get(session, caller, job_id)
        require(caller, Action.READ_CONTENT, directory.project(session, caller, job.project))
        kept = _kept(session, caller, job_id, rank, path)
    pieces = ctx.executor().output(kept.node, kept.attempt_id, rank, path)
    # The first piece is read before the answer begins, so that a node that refuses is told as an error.
    first = next(pieces, b"")
    digest = base64.b64encode(bytes.fromhex(kept.digest)).decode()
    return StreamingResponse(
        itertools.chain([first], pieces),
        media_type="application/octet-stream",
        headers={"Content-Length": str(kept.size_bytes), "Repr-Digest": f"sha-256=:{digest}:"},
    )


@dataclass(frozen=True, slots=True)
class _Kept:
    """Where a kept file is."""

    node: str
    attempt_id: str
    size_bytes: int
    digest: str


def _kept(session: Session, caller: Principal, job_id: int, rank: int, path: str) -> _Kept:
    """The latest file of this name that the job kept on the rank."""
    row = session.scalar(
        select(ArtefactRow)
        .join(JobRow, JobRow.id == ArtefactRow.job_id)
        .where(
            visible_to(caller, JobRow.project_id, Action.READ_CONTENT),
            ArtefactRow.job_id == job_id,
            ArtefactRow.rank == rank,
            ArtefactRow.path == path,
        )
        .order_by(ArtefactRow.id.desc())
        .limit(1)
    )
    if row is None:
        raise ApiError(
            ErrorCode.OUTPUT_NOT_FOUND,
            f"rank {rank} of job {job_id} kept no file {path}; list /v1/jobs/{job_id}/outputs",
        )
    return _Kept(row.node, row.attempt_id, row.size_bytes, row.digest)
