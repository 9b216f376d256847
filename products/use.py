"""How the machine was used by products: by the jobs they were built by, with their energy. Reads only."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from metrics.service import Use, ended_attempts, grouped
from products.tables import ProductJobRow, ProductRow
from scheduler.tables import JobRow
from tenants.authz import visible_to
from tenants.model import Principal


def use_by_product(
    session: Session, principal: Principal, since: datetime, until: datetime
) -> tuple[Use, ...]:
    """Use by attempts of the products' jobs that ended in a period, by the product's slug.

    A job that two products were built by counts for each of them, so products do not add up to a total.

    Args:
        session: A session.
        principal: The caller; only products of projects that it sees.
        since: First moment of the period.
        until: First moment after it.
    """
    statement = (
        ended_attempts(ProductRow.slug.expression, since, until)
        .join(ProductJobRow, ProductJobRow.job_id == JobRow.id)
        .join(ProductRow, ProductRow.id == ProductJobRow.product_id)
        .where(visible_to(principal, ProductRow.project_id))
    )
    return grouped(session, statement)
