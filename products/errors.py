"""What the product register refuses, each with what happened, to what, and what to do next."""

from __future__ import annotations

from collections.abc import Iterable

from products.model import ProductStatus


class ProductsError(Exception):
    """Base of what this room refuses."""


class ProductNotFoundError(ProductsError):
    """There is no such product, or the caller may not know that there is."""

    def __init__(self, slug: str) -> None:
        super().__init__(f"there is no product {slug} that you can see; check the spelling")
        self.slug = slug


class ProductTakenError(ProductsError):
    """The slug is in use."""

    def __init__(self, slug: str) -> None:
        super().__init__(f"a product with the slug {slug} is already registered; choose another slug")
        self.slug = slug


class JobsNotOfProjectError(ProductsError):
    """Jobs named as evidence are not jobs of the product's project."""

    def __init__(self, job_ids: Iterable[int], owner: str) -> None:
        self.job_ids = tuple(sorted(job_ids))
        named = ", ".join(str(job_id) for job_id in self.job_ids)
        super().__init__(f"no job of {owner}: {named}; name jobs that the project itself ran")


class TooManyJobsError(ProductsError):
    """A product would rest on more jobs than the register keeps."""

    def __init__(self, slug: str, limit: int) -> None:
        super().__init__(f"product {slug} would have more than {limit} jobs; link only those that made it")
        self.slug = slug
        self.limit = limit


class JobNotLinkedError(ProductsError):
    """A job is not evidence of the product, or is so no more."""

    def __init__(self, slug: str, job_id: int) -> None:
        super().__init__(f"job {job_id} is not linked to product {slug}; see the product for its jobs")
        self.slug = slug
        self.job_id = job_id


class JobUnlinkedError(ProductsError):
    """A job was taken back as evidence, which stands."""

    def __init__(self, slug: str, job_id: int) -> None:
        super().__init__(
            f"job {job_id} was taken back as evidence of product {slug} and cannot be linked again; link another job"
        )
        self.slug = slug
        self.job_id = job_id


class DigestMismatchError(ProductsError):
    """A file is not the one it was said to be."""

    def __init__(self, said: str, found: str, path: str) -> None:
        super().__init__(
            f"{path}: the node's agent computed SHA-256 {found}, you name {said}; name the file that the product uses, "
            "or run the job again that makes it"
        )
        self.said = said
        self.found = found


class NoSuchFileError(ProductsError):
    """A job kept no such file."""

    def __init__(self, job_id: int, rank: int, path: str) -> None:
        super().__init__(
            f"job {job_id} kept no file {path} of rank {rank} in its last attempt; see the job's outputs"
        )
        self.job_id = job_id


class NotIndependentError(ProductsError):
    """The reviewer is the author, of the owner's organisation, or a member of the project."""

    def __init__(self, slug: str) -> None:
        super().__init__(
            f"product {slug} must be judged by a reviewer who neither wrote it nor belongs to its project or "
            "organisation; ask another reviewer"
        )
        self.slug = slug


class ProductStateError(ProductsError):
    """The product does not stand where this can be done."""

    def __init__(self, slug: str, status: ProductStatus, allowed: Iterable[ProductStatus], act: str) -> None:
        wanted = " or ".join(allowed)
        super().__init__(f"product {slug} is {status}, only one that is {wanted} can be {act}")
        self.slug = slug
        self.status = status


class NotDueError(ProductsError):
    """A verified product needs no new verification yet."""

    def __init__(self, slug: str, due_at: str) -> None:
        super().__init__(
            f"product {slug} is verified and unchanged since; its verification is to be renewed by {due_at}, "
            "and can be from 60 days before"
        )
        self.slug = slug


class SectorFixedError(ProductsError):
    """The sector of a product that was verified decides figures that were published."""

    def __init__(self, slug: str) -> None:
        super().__init__(
            f"the sector of product {slug} was verified and cannot be changed; withdraw it and register it anew"
        )
        self.slug = slug
