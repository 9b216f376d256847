"""Where a refused value was typed: places in a request as options of the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

OPTIONS: Final[Mapping[str, str]] = {
    "body.project": "--project",
    "body.name": "--name",
    "body.name.kk": "--name-kk",
    "body.name.ru": "--name-ru",
    "body.name.en": "--name-en",
    "body.command": "--command",
    "body.gpus": "--gpus",
    "body.nodes": "--nodes",
    "body.walltime_s": "--walltime",
    "body.flavors": "--flavor",
    "body.memory_bytes_per_rank": "--memory",
    "body.node_labels": "--node-label",
    "body.topology_required": "--topology-required",
    "body.topology_preferred": "--topology-preferred",
    "body.placement": "--placement",
    "body.cpus_per_gpu": "--cpus-per-gpu",
    "body.memory_bytes_per_gpu": "--mem-per-gpu",
    "body.env": "--env",
    "body.outputs": "--output-file",
    "body.is_interactive": "--interactive",
    "body.begin_at": "--begin",
    "body.depends_on": "--after",
    "body.array": "--array",
    "body.priority": "--priority",
    "body.is_held": "--hold",
    "body.reason": "--reason",
    "body.expires_at": "--for",
    "body.job_id": "--job",
    "body.queue": "--queue",
    "body.from_at": "--from",
    "body.to_at": "--to",
    "body.projects": "--project",
    "body.sector": "--sector",
    "body.stage": "--stage",
    "body.started_on": "--started-on",
    "body.description": "--description",
    "body.jobs": "--job",
    "body.starts_on": "--from",
    "body.ends_on": "--to",
    "body.parties": "--parties",
    "body.contracts": "--contracts",
    "body.payments": "--payments",
    "body.rates": "--rates",
    "body.responsible": "--responsible",
    "body.contact": "--contact",
    "body.issued_on": "--issued-on",
    "body.expires_on": "--expires-on",
    "body.state_register": "--register",
    "query.starts_on": "--from",
    "query.ends_on": "--to",
    "query.applied_on": "--applied-on",
    "body.direction": "--direction",
    "body.ai_kind": "--ai-kind",
    "body.builds_on": "--builds-on",
    "body.links": "--link",
    "body.users": "--users",
    "body.programme": "--programme",
    "body.authors": "--author",
    "body.data_sets": "--data-set",
    "body.path": "--path",
    "body.sha256": "--digest",
    "body.note": "--note",
    "body.kpi.kk": "--kpi-kk",
    "body.kpi.ru": "--kpi-ru",
    "body.kpi.en": "--kpi-en",
    "body.unit": "--unit",
    "body.baseline": "--baseline",
    "body.target": "--target",
    "body.deadline": "--deadline",
    "body.on": "--on",
    "body.source": "--source",
    "query.as_of": "--as-of",
    "query.project": "--project",
    "query.state": "--state",
    "query.queue": "--queue",
    "query.rank": "--rank",
    "query.attempt": "--attempt",
    "query.year": "--year",
    "query.by": "--by",
    "query.from": "--from",
    "query.to": "--to",
}
"""Option by the place its value has in a request."""


def option_of(place: str) -> str:
    """The option of a place or of the nearest one around it, such as "body.flavors.0"; else the place itself."""
    parts = place.split(".")
    for count in range(len(parts), 0, -1):
        option = OPTIONS.get(".".join(parts[:count]))
        if option is not None:
            return option
    return place
