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
    "body.env": "--env",
    "body.outputs": "--output-file",
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
    "query.project": "--project",
    "query.state": "--state",
    "query.queue": "--queue",
    "query.rank": "--rank",
    "query.attempt": "--attempt",
    "query.year": "--year",
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
