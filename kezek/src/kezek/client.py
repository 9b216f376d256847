"""The SDK: one object per platform and token, one typed method per thing to do."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from importlib import metadata
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

from kezek import retry
from kezek.bundle import Bundle
from kezek.errors import ConfigError, DigestMismatchError, UsageFaultError
from kezek.evidence import Chain, Contribution, Initiative, Likeness, Verdict
from kezek.fields import Fields
from kezek.logs import Follower, LogPage, LogPlace
from kezek.machine import Cluster, Me, Quota
from kezek.messages import FALLBACK
from kezek.model import Job, JobRequest, Output
from kezek.register import ENTRY_FIELDS, Indicator, Product, ProductRequest
from kezek.settings import checked_url
from kezek.telemetry import Efficiency, IdleJobs, Notice, Use
from kezek.transport import DOWNLOAD_CHUNK_BYTES, Call, Query, Transport

VERSION: Final = metadata.version("kezek")
"""Version of this client."""
PAGE_ITEMS: Final = 200
"""Items asked for at once: the most the platform gives."""
MAX_PAGES: Final = 1_000
"""Pages of one listing: two hundred thousand items, more than anybody reads."""
MAX_TOKEN_CHARS: Final = 512
"""Longest token: ten times one of today."""


class Client:
    """A platform, as one user sees it. Close it, or use it in a `with` block; not for several threads at once."""

    def __init__(
        self, url: str, token: str, *, language: str = FALLBACK, pause: retry.Pause = retry.sleep
    ) -> None:
        """Prepare; nothing is sent.

        Args:
            url: address of the platform, such as "https://kezek.example.kz".
            token: bearer token, "kzk_…".
            language: language of the platform's messages: kk, ru or en.
            pause: waits so many seconds between two tries.

        Raises:
            ConfigError: the address or the token cannot be one.
        """
        if not (
            token.isascii() and token.isprintable() and " " not in token and len(token) <= MAX_TOKEN_CHARS
        ):
            raise ConfigError("config.bad_token")
        self.url: Final = checked_url(url)
        self._pause: Final = pause
        self._transport: Final = Transport(
            self.url, token, user_agent=f"kezek/{VERSION}", language=language, pause=pause
        )

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Every method below raises ApiError when the platform refuses, NetworkError when it does not answer, and
    # ProtocolError when its answer cannot be read.

    def me(self) -> Me:
        """Who the token stands for."""
        return Me.of(self._transport.json(Call.get("/v1/me")))

    def upload(self, bundle: Bundle) -> str:
        """Upload code; the same code again is fine. Returns the digest that goes into the job."""
        headers = {"Content-Type": "application/gzip"}
        call = Call("POST", "/v1/bundles", {}, bundle.data, headers, is_idempotent=True)
        return self._transport.json(call).text("digest")

    def submit(
        self, request: JobRequest, bundle: Bundle | None = None, *, idempotency_key: str | None = None
    ) -> Job:
        """Submit a job, its code first; a retry after a lost answer makes no second job.

        Args:
            request: what to run.
            bundle: code to upload, see `kezek.bundle.pack`.
            idempotency_key: key of this very submit; None makes one. The same key and request give the same job.
        """
        digest = None if bundle is None else self.upload(bundle)
        key = idempotency_key or secrets.token_urlsafe(24)
        return Job.of(
            self._transport.json(Call.post("/v1/jobs", request.document(digest), idempotency_key=key))
        )

    def job(self, job_id: int) -> Job:
        """One job."""
        return Job.of(self._transport.json(Call.get(f"/v1/jobs/{job_id}")))

    def jobs(
        self, *, project: str | None = None, state: str | None = None, queue: str | None = None
    ) -> Iterator[Job]:
        """The jobs you may see, the newest first, a page at a time as they are taken."""
        wanted = {"project": project, "state": state, "queue": queue}
        query = {name: value for name, value in wanted.items() if value is not None}
        return map(Job.of, self._pages("/v1/jobs", query))

    def cancel(self, job_id: int) -> Job:
        """Cancel a job; one that runs is stopped, which takes a moment, and one that has ended stays as it is."""
        call = Call("POST", f"/v1/jobs/{job_id}/cancel", is_idempotent=True)
        return Job.of(self._transport.json(call))

    def hold(self, job_id: int) -> Job:
        """Keep a waiting job from starting; again is fine."""
        return Job.of(self._transport.json(Call("POST", f"/v1/jobs/{job_id}/hold", is_idempotent=True)))

    def release(self, job_id: int) -> Job:
        """Let a held job start again; again is fine."""
        return Job.of(self._transport.json(Call("POST", f"/v1/jobs/{job_id}/release", is_idempotent=True)))

    def explanation(self, job_id: int) -> Fields:
        """Why a job waits: the platform's object as it comes."""
        return self._transport.json(Call.get(f"/v1/jobs/{job_id}/explanation"))

    def moved_starts(self, cause: str | None = None) -> Fields:
        """Planned starts that moved of late, all or for one cause; for those who oversee the platform."""
        query = {} if cause is None else {"cause": cause}
        return self._transport.json(Call.get("/v1/moved-starts", query))

    def acts(self) -> list[Fields]:
        """The operators' acts that stand."""
        return list(self._transport.json(Call.get("/v1/acts")).objects("items"))

    def set_act(self, asked: Mapping[str, object]) -> Fields:
        """Set an act: `kind`, `job_id` or `queue`, `reason`, `expires_at`."""
        return self._transport.json(Call.post("/v1/acts", asked))

    def end_act(self, number: int) -> Fields:
        """Take an act back."""
        return self._transport.json(Call("POST", f"/v1/acts/{number}/end"))

    def windows(self) -> list[Fields]:
        """The windows that have not ended."""
        return list(self._transport.json(Call.get("/v1/windows")).objects("items"))

    def add_window(self, asked: Mapping[str, object]) -> Fields:
        """Set nodes apart: `kind`, `nodes`, `projects`, `from_at`, `to_at`, `reason`."""
        return self._transport.json(Call.post("/v1/windows", asked))

    def nodes(self) -> list[Fields]:
        """Which nodes take work, and why others do not; for those who oversee the platform."""
        return list(self._transport.json(Call.get("/v1/nodes")).objects("items"))

    def drain(self, node: str, reason: str) -> Fields:
        """Take a node out of service; again is fine."""
        path = f"/v1/nodes/{quote(node, safe='')}/drain"
        return self._transport.json(Call.post(path, {"reason": reason}))

    def resume(self, node: str) -> Fields:
        """Put a drained node back into service; again is fine."""
        path = f"/v1/nodes/{quote(node, safe='')}/resume"
        return self._transport.json(Call("POST", path, is_idempotent=True))

    def remove_window(self, number: int) -> Fields:
        """Take a window back."""
        return self._transport.json(Call("POST", f"/v1/windows/{number}/remove"))

    def log(self, place: LogPlace, *, wait_s: int = 0) -> LogPage:
        """A piece of what a rank wrote; waits up to `wait_s` seconds, at most 20, for something new."""
        return LogPage.of(self._transport.whole(place.call(wait_s)))

    def read_log(self, place: LogPlace) -> Iterator[bytes]:
        """What a rank has written so far, from a place on."""
        while (page := self.log(place)).data:
            yield page.data
            place = replace(place, offset=page.next_offset, attempt=place.attempt or page.attempt)

    def follow(self, place: LogPlace, *, on_break: Callable[[int], None] | None = None) -> Iterator[bytes]:
        """What a rank writes until the job has ended, in further attempts too.

        After a broken connection it goes on from the same byte.

        Args:
            place: whose output and from which byte on; a job that waits is waited for.
            on_break: told the byte from which it goes on after a break.
        """
        return Follower(self.log, self.job, pause=self._pause, on_break=on_break).follow(place)

    def outputs(self, job_id: int) -> Iterator[Output]:
        """The files a job kept, a page at a time as they are taken."""
        return map(Output.of, self._pages(f"/v1/jobs/{job_id}/outputs", {}))

    def download(self, job_id: int, output: Output, folder: Path) -> Path:
        """Save a kept file below `folder` and check its digest; returns where it is.

        Raises:
            DigestMismatchError: what came is not what the job kept; nothing is left of it.
            UsageFaultError: the path leaves the folder, exists already, or cannot be written.
        """
        target = self._target(output, folder)
        partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            found = self._save(job_id, output, partial)
            if found != output.digest:
                raise DigestMismatchError(output.path, output.digest, found)
            partial.replace(target)
        except OSError as error:
            raise UsageFaultError("usage.not_saved", path=str(target), why=error.strerror or "") from error
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
        return target

    def _target(self, output: Output, folder: Path) -> Path:
        """Where a kept file goes; a name from the platform never leaves the folder."""
        path = PurePosixPath(output.path)
        has_separator = os.sep != "/" and os.sep in output.path
        if path.is_absolute() or ".." in path.parts or not path.name or has_separator:
            raise UsageFaultError("usage.bad_output_path", path=output.path)
        target = folder / path
        if target.exists() or target.is_symlink():
            raise UsageFaultError("usage.exists", path=str(target))
        if not target.resolve().is_relative_to(folder.resolve()):
            raise UsageFaultError("usage.bad_output_path", path=output.path)
        return target

    def _save(self, job_id: int, output: Output, partial: Path) -> str:
        """Stream a kept file into `partial`; the SHA-256 (hex) of what came."""
        digest = hashlib.sha256()
        address = f"/v1/jobs/{job_id}/outputs/{output.rank}/{quote(output.path)}"
        with self._transport.stream(Call.get(address)) as answer, partial.open("xb") as file:
            for chunk in answer.iter_bytes(DOWNLOAD_CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
        return digest.hexdigest()

    def quota(self) -> Quota:
        """What your projects have: grants and queues."""
        return Quota.of(self._transport.json(Call.get("/v1/quota")))

    def cluster(self) -> Cluster:
        """The nodes and their GPUs."""
        return Cluster.of(self._transport.json(Call.get("/v1/cluster")))

    def products(self) -> Iterator[Product]:
        """The products you may see."""
        return map(Product.of, self._pages("/v1/products", {}))

    def product(self, slug: str) -> Product:
        """One product with its evidence."""
        return Product.of(self._transport.json(Call.get(_product(slug))))

    def register_product(self, request: ProductRequest) -> Product:
        """Enter a product; it waits for a reviewer."""
        return Product.of(self._transport.json(Call.post("/v1/products", request.document())))

    def change_product(self, slug: str, changes: Mapping[str, object]) -> Product:
        """Say something else of a product: fields of `ENTRY_FIELDS`; those that are not named stay as they are."""
        known = self.product(slug).raw
        entry = {name: known[name] for name in ENTRY_FIELDS if known.get(name) is not None}
        return Product.of(self._transport.json(Call.put(_product(slug), {**entry, **changes})))

    def submit_product(self, slug: str) -> Product:
        """Submit a draft, or a returned product again, for review."""
        return Product.of(self._transport.json(Call.post(_product(slug, "submit"))))

    def withdraw_product(self, slug: str) -> Product:
        """Withdraw a product for good."""
        return Product.of(self._transport.json(Call.post(_product(slug, "withdraw"))))

    def verify_product(self, slug: str) -> Product:
        """Verify a product as an independent reviewer, or renew its verification."""
        return Product.of(self._transport.json(Call.post(_product(slug, "verify"))))

    def return_product(self, slug: str, note: str) -> Product:
        """Return a product to its author with a reason, as an independent reviewer."""
        return Product.of(self._transport.json(Call.post(_product(slug, "return"), {"note": note})))

    def link_jobs(self, slug: str, jobs: Sequence[int]) -> Product:
        """Name further jobs as a product's evidence."""
        return Product.of(self._transport.json(Call.post(_product(slug, "jobs"), {"jobs": list(jobs)})))

    def unlink_job(self, slug: str, job_id: int) -> Product:
        """Take a job back as a product's evidence, from now on."""
        return Product.of(self._transport.json(Call("DELETE", _product(slug, f"jobs/{job_id}"))))

    def add_version(self, slug: str, version: Mapping[str, object]) -> Fields:
        """Name a file a linked job kept as a version of the model: version, job, path and, if need be, rank, sha256."""
        return self._transport.json(Call.post(_product(slug, "model-versions"), dict(version)))

    def verdict(self, slug: str, as_of: str | None = None) -> Verdict:
        """Whether a product counts for indicator 2, condition by condition, now or as of an RFC 3339 instant."""
        return Verdict.of(self._transport.json(Call.get(_product(slug, "verdict"), _as_of(as_of))))

    def chain(self, slug: str) -> Chain:
        """The chain of evidence of a product, from the policy to the indicator."""
        return Chain.of(self._transport.json(Call.get(_product(slug, "chain"))))

    def duplicates(self, slug: str) -> tuple[Likeness, ...]:
        """Products that look like this one; they are shown, never merged."""
        found = self._transport.json(Call.get(_product(slug, "duplicates")))
        return tuple(map(Likeness.of, found.objects("items")))

    def initiatives(self) -> tuple[Initiative, ...]:
        """The icebreaker initiatives, and where each stands."""
        return tuple(map(Initiative.of, self._transport.json(Call.get("/v1/initiatives")).objects("items")))

    def add_initiative(self, initiative: Mapping[str, object]) -> Initiative:
        """Register an initiative: slug, direction, kpi, unit, baseline, target, deadline."""
        return Initiative.of(self._transport.json(Call.post("/v1/initiatives", dict(initiative))))

    def measure_initiative(self, slug: str, measurement: Mapping[str, object]) -> Initiative:
        """Enter a value of an initiative's KPI: on, value, source."""
        path = f"/v1/initiatives/{quote(slug, safe='')}/measurements"
        return Initiative.of(self._transport.json(Call.post(path, dict(measurement))))

    def indicator_2(self, year: int | None = None, as_of: str | None = None) -> Indicator:
        """Target indicator 2, every year or one, now or as of an RFC 3339 instant."""
        query: Query = {**_as_of(as_of), **({} if year is None else {"year": year})}
        return Indicator.of(self._transport.json(Call.get("/v1/kpi/indicators/2", query)))

    def efficiency(self, job_id: int) -> Efficiency:
        """How a job used its GPUs, with the share of the time that was observed."""
        return Efficiency.of(self._transport.json(Call.get(f"/v1/jobs/{job_id}/efficiency")))

    def notices(self, job_id: int | None = None, *, project: str | None = None) -> Iterator[Notice]:
        """What you were told because GPUs stood idle, the latest first: of one job (the latest 200), or of all."""
        if job_id is not None:
            found = self._transport.json(Call.get(f"/v1/jobs/{job_id}/notices"))
            return map(Notice.of, found.objects("items"))
        return map(Notice.of, self._pages("/v1/notices", {} if project is None else {"project": project}))

    def idle_jobs(self) -> IdleJobs:
        """The running jobs that stand idle now, of the projects you see."""
        return IdleJobs.of(self._transport.json(Call.get("/v1/idle-jobs")))

    def use(
        self, by: str = "project", *, since: datetime | None = None, until: datetime | None = None
    ) -> Use:
        """GPU time allocated, used and useful, and energy, of attempts that ended in a period.

        Args:
            by: project, sector, category or product.
            since: first moment, aware; None = 30 days before the end.
            until: first moment after the period, aware; None = now.
        """
        query: dict[str, str | int] = {"by": by}
        query |= {name: at.isoformat() for name, at in (("from", since), ("to", until)) if at is not None}
        return Use.of(self._transport.json(Call.get("/v1/telemetry/use", query)))

    @property
    def transport(self) -> Transport:
        """The connection, for the parts of the SDK that stand in files of their own."""
        return self._transport

    def pages(self, path: str, query: Query) -> Iterator[Fields]:
        """The objects of any list of the platform, a page at a time as they are taken."""
        return self._pages(path, query)

    def contribution(self, number: int, year: int | None = None, as_of: str | None = None) -> Contribution:
        """The platform's contribution to the national indicator 7 or 8."""
        query: Query = {**_as_of(as_of), **({} if year is None else {"year": year})}
        return Contribution.of(self._transport.json(Call.get(f"/v1/kpi/indicators/{number}", query)))

    def _pages(self, path: str, query: Query) -> Iterator[Fields]:
        """The objects of a list, asked for as they are taken."""
        cursor: Query = {}
        for _ in range(MAX_PAGES):
            page = self._transport.json(Call.get(path, {**query, "limit": PAGE_ITEMS, **cursor}))
            yield from page.objects("items")
            following = page.optional_text("next_cursor")
            if following is None:
                return
            cursor = {"cursor": following}


def _product(slug: str, part: str = "") -> str:
    return f"/v1/products/{quote(slug, safe='')}{'/' if part else ''}{part}"


def _as_of(as_of: str | None) -> Query:
    return {} if as_of is None else {"as_of": as_of}
