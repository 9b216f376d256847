"""Entries of the product register between their rows and their values."""

from __future__ import annotations

from products.model import (
    AiKind,
    BuiltOn,
    DataSet,
    Direction,
    Entry,
    Product,
    ProductId,
    ProductStatus,
    Stage,
)
from products.tables import ProductRow
from tenants.model import OrganisationId, ProjectId, Sector, UserId


def product_of(row: ProductRow) -> Product:
    """The value of a row."""
    return Product(
        id=ProductId(row.id),
        slug=row.slug,
        organisation_id=OrganisationId(row.organisation_id),
        project_id=ProjectId(row.project_id),
        status=ProductStatus(row.status),
        author_id=UserId(row.author_id),
        registered_at=row.registered_at,
        changed_at=row.changed_at,
        verified_by=None if row.verified_by is None else UserId(row.verified_by),
        verified_at=row.verified_at,
        return_note=row.return_note,
        name=dict(row.name),
        description=row.description,
        sector=Sector(row.sector),
        stage=Stage(row.stage),
        started_on=row.started_on,
        direction=None if row.direction is None else Direction(row.direction),
        ai_kind=None if row.ai_kind is None else AiKind(row.ai_kind),
        builds_on=tuple(BuiltOn(each) for each in row.builds_on),
        links=tuple(row.links),
        users=row.users,
        programme=row.programme,
        authors=tuple(row.authors),
        data_sets=tuple(
            DataSet(str(each["id"]), each["digest"], str(each["licence"])) for each in row.data_sets
        ),
    )


def write_entry(row: ProductRow, entry: Entry) -> None:
    """Put what a project says of its product into the row."""
    row.name, row.description, row.users = dict(entry.name), entry.description, entry.users
    row.sector, row.stage, row.started_on = entry.sector.value, entry.stage.value, entry.started_on
    row.direction = None if entry.direction is None else entry.direction.value
    row.ai_kind = None if entry.ai_kind is None else entry.ai_kind.value
    row.programme = entry.programme
    row.builds_on = [each.value for each in entry.builds_on]
    row.links, row.authors = list(entry.links), list(entry.authors)
    row.data_sets = [
        {"id": each.id, "digest": each.digest, "licence": each.licence} for each in entry.data_sets
    ]
