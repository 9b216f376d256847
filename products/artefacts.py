"""The files a product rests on: what its jobs kept, the versions of its model, and products that share them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from products import service
from products.duplicates import Likeness, Marks, alike
from products.errors import DigestMismatchError, JobNotLinkedError, NoSuchFileError
from products.evidence_tables import ImportedProductRow, ProductFactRow
from products.model import EvidenceFile, EvidenceJob, ModelVersion
from products.tables import ProductArtefactRow, ProductJobRow, ProductRow
from scheduler.model import JobState
from scheduler.tables import ArtefactRow, AttemptRow, JobRow
from store import journal
from tenants.authz import Action, may, visible_to
from tenants.model import Principal, ProjectId

MAX_FILES: Final = 1_000
"""Files shown of one product's evidence; digests of the rest stay in the journal."""


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A version of a model to be named; `digest`, where given, must be the one the agent computed."""

    version: str
    job_id: int
    rank: int
    path: str
    digest: str | None = None


def add_version(
    session: Session, principal: Principal, slug: str, new: NewVersion, *, actor: str, at: datetime
) -> ModelVersion:
    """Name a file that a linked job kept as a version of the product's model; naming it again changes nothing.

    The digest is the one the node's agent computed when the job ended. The caller may change the product.

    Raises:
        ProductNotFoundError: unknown or invisible.
        JobNotLinkedError: the job is not the product's evidence.
        NoSuchFileError: the job's last attempt kept no such file.
        DigestMismatchError: the file is another than the one that was named.
    """
    product = service.row_of(session, principal, slug, is_locked=True)
    if new.job_id not in _evidence_ids(session, product):
        raise JobNotLinkedError(slug, new.job_id)
    file = session.scalar(
        select(ArtefactRow)
        .join(JobRow, JobRow.id == ArtefactRow.job_id)
        .join(AttemptRow, AttemptRow.id == ArtefactRow.attempt_id)
        .where(
            visible_to(principal, JobRow.project_id),
            ArtefactRow.job_id == new.job_id,
            ArtefactRow.rank == new.rank,
            ArtefactRow.path == new.path,
        )
        .order_by(AttemptRow.admitted_at.desc(), ArtefactRow.id.desc())
        .limit(1)
    )
    if file is None:
        raise NoSuchFileError(new.job_id, new.rank, new.path)
    if new.digest is not None and new.digest != file.digest:
        raise DigestMismatchError(new.digest, file.digest, new.path)
    known = session.get(ProductArtefactRow, (product.id, file.id))
    if known is None:
        known = ProductArtefactRow(
            product_id=product.id, artefact_id=file.id, version=new.version, linked_at=at
        )
        session.add(known)
        product.changed_at = at
        data: dict[str, object] = {"job": new.job_id, "digest": file.digest}
        journal.append(
            session, "product.model_version", f"product:{product.id}", actor=actor, at=at, data=data
        )
        session.flush()
    return _version(known, file, may_read=True)


def versions(session: Session, principal: Principal, slug: str) -> tuple[ModelVersion, ...]:
    """The versions of a product's model, as they were named.

    Raises:
        ProductNotFoundError: unknown or invisible.
    """
    product = service.row_of(session, principal, slug)
    may_read = may(principal, Action.READ_CONTENT, ProjectId(product.project_id))
    rows = session.execute(
        select(ProductArtefactRow, ArtefactRow)
        .join(ArtefactRow, ArtefactRow.id == ProductArtefactRow.artefact_id)
        .where(ProductArtefactRow.product_id == product.id)
        .order_by(ProductArtefactRow.linked_at, ProductArtefactRow.artefact_id)
        .limit(MAX_FILES)
    )
    return tuple(_version(named, file, may_read=may_read) for named, file in rows)


def evidence(session: Session, principal: Principal, slug: str) -> tuple[EvidenceJob, ...]:
    """The jobs a product was built by with the digests of what they kept, by job.

    File names are content a tenant wrote: who may read figures only sees digests without the paths.

    Raises:
        ProductNotFoundError: unknown or invisible.
    """
    product = service.row_of(session, principal, slug)
    ids = _evidence_ids(session, product)
    jobs = session.scalars(
        select(JobRow).where(visible_to(principal, JobRow.project_id), JobRow.id.in_(ids)).order_by(JobRow.id)
    ).all()
    rows = session.scalars(
        select(ArtefactRow)
        .where(ArtefactRow.job_id.in_([job.id for job in jobs]))
        .order_by(ArtefactRow.job_id, ArtefactRow.attempt_id, ArtefactRow.rank, ArtefactRow.path)
        .limit(MAX_FILES)
    )
    may_read = may(principal, Action.READ_CONTENT, ProjectId(product.project_id))
    files: dict[int, list[EvidenceFile]] = {}
    for row in rows:
        path = row.path if may_read else None
        files.setdefault(row.job_id, []).append(
            EvidenceFile(row.attempt_id, row.rank, path, row.size_bytes, row.digest)
        )
    return tuple(
        EvidenceJob(
            job_id=job.id,
            state=job.state,
            gpu_seconds=job.gpu_seconds,
            finished_at=job.finished_at,
            is_counted=job.state == JobState.COMPLETED.value and job.gpu_seconds > 0,
            files=tuple(files.get(job.id, ())),
        )
        for job in jobs
    )


def duplicates(session: Session, principal: Principal, slug: str) -> tuple[Likeness, ...]:
    """Products of the whole register and imported ones that share a name, a model's digest or a link with this one.

    Of a product that the caller may not see, only that there is one is said. O(register).

    Raises:
        ProductNotFoundError: unknown or invisible.
    """
    own = service.row_of(session, principal, slug)
    digests: dict[UUID, list[str]] = {}
    for product_id, digest in session.execute(
        select(ProductArtefactRow.product_id, ArtefactRow.digest).join(
            ArtefactRow, ArtefactRow.id == ProductArtefactRow.artefact_id
        )
    ):
        digests.setdefault(product_id, []).append(digest)
    entries = session.execute(select(ProductRow.id, ProductRow.slug, ProductRow.name, ProductRow.links))
    marks = {
        product_id: Marks(
            slug=name,
            is_imported=False,
            names=tuple(names.values()),
            digests=tuple(digests.get(product_id, ())),
            links=tuple(links),
        )
        for product_id, name, names, links in entries
    }
    imported = session.execute(select(ImportedProductRow.slug, ImportedProductRow.name))
    others = [Marks(name, is_imported=True, names=tuple(names.values())) for name, names in imported]
    seen = set(session.scalars(select(ProductRow.slug).where(visible_to(principal, ProductRow.project_id))))
    return tuple(
        each if each.is_imported or each.slug in seen else replace(each, slug=None)
        for each in alike(marks[own.id], [*marks.values(), *others])
    )


def _evidence_ids(session: Session, product: ProductRow) -> set[int]:
    linked: Iterable[int] = session.scalars(
        select(ProductJobRow.job_id).where(ProductJobRow.product_id == product.id)
    )
    gone = session.scalars(
        select(ProductFactRow.job_id).where(
            ProductFactRow.product_id == product.id, ProductFactRow.kind == "unlinked"
        )
    )
    return set(linked) - set(gone)


def _version(named: ProductArtefactRow, file: ArtefactRow, *, may_read: bool) -> ModelVersion:
    return ModelVersion(
        version=named.version,
        job_id=file.job_id,
        attempt_id=file.attempt_id,
        rank=file.rank,
        path=file.path if may_read else None,
        size_bytes=file.size_bytes,
        digest=file.digest,
        linked_at=named.linked_at,
    )
