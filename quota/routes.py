"""Routes of a policy: which queue a project gets, and what a document may say of it."""

from __future__ import annotations

from typing import Final

from quota import document as read
from quota.document import bad
from quota.model import Policy, Route
from tenants.model import Category, Sector

PRIORITY_SECTORS: Final = "*priority"
"""In a route's sectors: every sector that stands as a child of the route's cohort."""
SECTOR_SLOT: Final = "{sector}"
"""In a route's queue: replaced by the organisation's sector."""


def route(policy: Policy, category: str, sector: str, programme: str | None) -> str | None:
    """The queue of a project of an organisation: the first rule that matches, or None when none does."""
    paths = {node.path for node in policy.tree}
    for rule in policy.routes:
        queue = rule.queue.replace(SECTOR_SLOT, sector)
        is_match = (
            (not rule.categories or category in rule.categories)
            and (not rule.programmes or programme in rule.programmes)
            and (
                not rule.sectors
                or sector in rule.sectors
                or (PRIORITY_SECTORS in rule.sectors and queue in paths)
            )
        )
        if is_match:
            return queue
    return None


def parse_routes(value: object) -> tuple[Route, ...]:
    """The routes in the document's order.

    Raises:
        PolicyError: a key or a value that cannot be, or no route at all.
    """
    found: list[Route] = []
    for index, item in enumerate(read.items(value, "policy.routes")):
        path = f"policy.routes[{index}]"
        rule = read.section(item, path, {"queue", "category", "sector", "programme"})
        found.append(
            Route(
                queue=read.text(read.required(rule, "queue", path), f"{path}.queue"),
                categories=read.optional(rule, "category", path, _categories, ()),
                sectors=read.optional(rule, "sector", path, _sectors, ()),
                programmes=read.optional(rule, "programme", path, read.texts, ()),
            )
        )
    if not found:
        raise bad("policy.routes", "is empty; no project would get a queue")
    return tuple(found)


def _categories(value: object, path: str) -> tuple[str, ...]:
    """Categories of organisations, each a known one."""
    return tuple(read.member(word, path, Category).value for word in read.texts(value, path))


def _sectors(value: object, path: str) -> tuple[str, ...]:
    """Sectors, each a known one, or PRIORITY_SECTORS."""
    return tuple(
        word if word == PRIORITY_SECTORS else read.member(word, path, Sector).value
        for word in read.texts(value, path)
    )


def check_routes(policy: Policy, queues: frozenset[str]) -> None:
    """Check that every queue a route can give is one of these, the leaves of the tree.

    Raises:
        PolicyError: it is not, or could be anything.
    """
    for index, rule in enumerate(policy.routes):
        path = f"policy.routes[{index}].queue"
        for queue in _expansions(policy, rule, path):
            if queue not in queues:
                raise bad(path, f'"{queue}" is no queue of the tree{read.nearest(queue, queues)}')


def _expansions(policy: Policy, rule: Route, path: str) -> list[str]:
    """Every queue that a route can give."""
    if SECTOR_SLOT not in rule.queue:
        if PRIORITY_SECTORS in rule.sectors:
            raise bad(path, f'with sector "{PRIORITY_SECTORS}" the queue must end in "/{SECTOR_SLOT}"')
        return [rule.queue]
    cohort, _, last = rule.queue.rpartition("/")
    if last != SECTOR_SLOT or SECTOR_SLOT in cohort or not cohort:
        raise bad(path, f'"{SECTOR_SLOT}" must be the whole last name of the queue, below a cohort')
    if not rule.sectors:
        raise bad(path, f'name the sectors of the route, or sector: "{PRIORITY_SECTORS}"')
    below = [node.path for node in policy.tree if node.parent == cohort]
    if not below:
        raise bad(path, f'"{cohort}" has no children in the tree, so no sector has a queue there')
    for queue in below:
        name = queue.rpartition("/")[2]
        if name not in set(Sector):
            raise bad(path, f'"{queue}" is named after no known sector{read.nearest(name, set(Sector))}')
    named = [rule.queue.replace(SECTOR_SLOT, sector) for sector in rule.sectors if sector != PRIORITY_SECTORS]
    return named + (below if PRIORITY_SECTORS in rule.sectors else [])
