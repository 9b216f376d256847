"""How the platform's values look in a terminal: rows and fields, no input or output."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from kezek.evidence import Chain, Initiative, Likeness, Verdict
from kezek.machine import Cluster, Grant, Queue
from kezek.messages import Messages
from kezek.model import WAITING, Job, Output
from kezek.register import Indicator, Product
from kezek.terminal import Cell

Pairs = list[tuple[str, Cell]]

_STYLES = {
    "PENDING": "yellow",
    "ADMITTED": "cyan",
    "RUNNING": "cyan",
    "COMPLETING": "cyan",
    "COMPLETED": "green",
    "CANCELLED": "dim",
}
_STYLE_OF_FAILURE = "red"

JOB_HEADS = ("id", "name", "project", "queue", "state", "gpus", "submitted", "reason")
_NODE_OPTIONS = (
    ("topology-required", "topology_required"),
    ("topology-preferred", "topology_preferred"),
    ("placement", "placement"),
    ("cpus-per-gpu", "cpus_per_gpu"),
    ("mem-per-gpu", "memory_bytes_per_gpu"),
)
OUTPUT_HEADS = ("rank", "path", "size", "digest")
NODE_HEADS = ("node", "flavor", "state", "total", "busy", "free", "down", "labels")
GRANT_HEADS = ("project", "flavor", "granted", "used", "pending", "remaining", "period")
QUEUE_HEADS = ("queue", "nominal", "in_use", "running", "waiting")
SLICE_HEADS = ("queue", "flavor", "slice_nominal", "slice_used", "slice_borrowed")
PRODUCT_HEADS = ("slug", "name", "sector", "stage", "status", "registered")
EVIDENCE_HEADS = ("jobs", "state", "gpu_hours", "counted", "digest")
YEAR_HEADS = ("year", "target", "cumulative", "added", "imported", "forecast")
CONTRIBUTION_HEADS = ("year", "contribution", "national_target")
CONDITION_HEADS = ("condition", "holds")
CHAIN_HEADS = ("jobs", "state", "gpu_hours", "policy", "queue", "decision", "energy", "digest", "breaks")
LIKENESS_HEADS = ("slug", "mark", "value")
INITIATIVE_HEADS = ("slug", "kpi", "direction", "fact", "target", "done", "deadline", "progress")


def state(job: Job, messages: Messages) -> tuple[str, str]:
    """The state of a job with its colour."""
    return messages.named("state", job.state), _STYLES.get(job.state, _STYLE_OF_FAILURE)


def reason(job: Job, messages: Messages) -> str:
    """Why a job waits, or that the platform has not looked at it yet; empty when it does not wait."""
    if job.reason is None:
        return messages.say("reason.not_yet") if job.state == WAITING else ""
    if messages.knows_reason(job.reason.code, job.reason.numbers):
        return messages.reason(job.reason.code, job.reason.numbers)
    return job.reason.text or messages.reason(job.reason.code, job.reason.numbers)


def job_rows(jobs: Iterable[Job], messages: Messages) -> list[Sequence[Cell]]:
    """Jobs as the rows of `JOB_HEADS`."""
    return [
        (
            str(job.id),
            job.name or messages.say("yesno.none"),
            job.project,
            job.queue,
            state(job, messages),
            str(job.gpus),
            messages.instant(job.submitted_at),
            reason(job, messages),
        )
        for job in jobs
    ]


def job_pairs(job: Job, messages: Messages) -> Pairs:
    """One job, field by field; fields that say nothing yet are left out."""
    pairs: Pairs = [
        ("id", str(job.id)),
        ("name", job.name or messages.say("yesno.none")),
        ("state", state(job, messages)),
        ("reason", reason(job, messages)),
        ("ahead", "" if job.place is None else str(job.place)),
        ("project", job.project),
        ("queue", job.queue),
        ("gpus", str(job.gpus)),
        ("nodes", "" if job.nodes is None else str(job.nodes)),
        ("flavor", ", ".join(job.flavors)),
        ("node_terms", _node_terms(job)),
        ("walltime", messages.duration(job.walltime_s)),
        ("command", "" if job.command is None else shlex.join(job.command)),
        ("interactive", messages.say("yesno.yes") if job.is_interactive else ""),
        ("attempt", str(job.attempts) if job.attempts else ""),
        ("placement", _placement(job, messages)),
        ("submitted", messages.instant(job.submitted_at)),
        ("started", messages.instant(job.first_started_at) if job.first_started_at else ""),
        ("finished", messages.instant(job.finished_at) if job.finished_at else ""),
        ("exit", exit_text(job, messages)),
        ("gpu_time", gpu_time(job, messages)),
    ]
    return [(head, cell) for head, cell in pairs if cell]


def exit_text(job: Job, messages: Messages) -> str:
    """How the job's first failed rank ended: code, signal and what went wrong; empty while unknown."""
    parts = []
    if job.exit_code is not None:
        parts.append(messages.say("job.exit_code", code=job.exit_code))
    if job.exit_signal is not None:
        parts.append(messages.say("job.exit_signal", signal=job.exit_signal))
    if job.exit_error:
        parts.append(_exit_error(job, messages))
    return ", ".join(parts)


def _exit_error(job: Job, messages: Messages) -> str:
    """What went wrong and what to do, with its code; of a code this client does not know, what the platform says."""
    code = job.exit_error or ""
    program = job.command[0] if job.command else "\N{HORIZONTAL ELLIPSIS}"
    if messages.knows(f"exit_error.{code}"):
        said = messages.say(f"exit_error.{code}", program=program)
    else:
        said = job.exit_error_text or messages.say("exit_error.other", code=code)
    return f"{said} [{code}]"


def gpu_time(job: Job, messages: Messages) -> str:
    """What was charged, in GPU-hours and in device-seconds, which small jobs need."""
    if not job.gpu_seconds:
        return ""
    hours = messages.say("unit.gpu_hours", value=messages.gpu_hours(job.gpu_seconds))
    return f"{hours} ({messages.say('unit.gpu_seconds', value=messages.number(job.gpu_seconds))})"


def _placement(job: Job, messages: Messages) -> str:
    """Where the job runs now; empty when it holds nothing, whatever its last attempt held."""
    if not job.is_placed:
        return ""
    nodes: dict[str, int] = {}
    for rank in job.ranks:
        nodes[rank.node] = nodes.get(rank.node, 0) + len(rank.gpu_uuids)
    listed = ", ".join(f"{node} ({messages.say('unit.gpus', value=gpus)})" for node, gpus in nodes.items())
    return f"{listed}; {messages.say('cluster.simulated_short')}" if job.is_simulated else listed


def output_rows(outputs: Iterable[Output], messages: Messages) -> list[Sequence[Cell]]:
    """Kept files as the rows of `OUTPUT_HEADS`."""
    return [(str(one.rank), one.path, messages.size(one.size_bytes), one.digest) for one in outputs]


def _node_terms(job: Job) -> str:
    """What a job asks of its nodes, as the options of `kezek submit`."""
    raw = job.raw
    labels = raw.get("node_labels")
    found = (
        [f"--node-label {key}={value}" for key, value in labels.items()] if isinstance(labels, dict) else []
    )
    for option, name in _NODE_OPTIONS:
        value = raw.get(name)
        if value not in {None, "pack"}:
            found.append(f"--{option} {value}")
    return " ".join(found)


def node_rows(cluster: Cluster, messages: Messages) -> list[Sequence[Cell]]:
    """Nodes as the rows of `NODE_HEADS`."""
    return [
        (
            node.name,
            f"{node.flavor} ({messages.say('cluster.simulated_short')})"
            if node.is_simulated
            else node.flavor,
            messages.named("node", node.state),
            *(str(count) for count in (node.gpus, node.busy, node.free, node.down)),
            ", ".join(f"{key}={value}" for key, value in node.labels.items() if value != node.name),
        )
        for node in cluster.nodes
    ]


def grant_rows(grants: Iterable[Grant], messages: Messages) -> list[Sequence[Cell]]:
    """Grants as the rows of `GRANT_HEADS`."""
    return [
        (
            grant.project or messages.say("yesno.none"),
            grant.flavor,
            *(
                messages.gpu_hours(part)
                for part in (grant.granted_s, grant.used_s, grant.pending_s, grant.remaining_s)
            ),
            f"{messages.instant(grant.starts_at)[:10]} \N{EN DASH} {messages.instant(grant.ends_at)[:10]}",
        )
        for grant in grants
    ]


def queue_rows(queues: Iterable[Queue], messages: Messages) -> list[Sequence[Cell]]:
    """Queues as the rows of `QUEUE_HEADS`."""
    return [
        (
            queue.path or messages.say("quota.whole"),
            *(str(count) for count in (queue.nominal_gpus, queue.used_gpus, queue.running, queue.pending)),
        )
        for queue in queues
    ]


def slice_rows(queues: Iterable[Queue], messages: Messages) -> list[Sequence[Cell]]:
    """Slices of each queue as the rows of `SLICE_HEADS`."""
    return [
        (
            queue.path or messages.say("quota.whole"),
            use.flavor,
            *(str(count) for count in (use.nominal, use.used, use.borrowed)),
        )
        for queue in queues
        for use in queue.slices
    ]


def product_name(product: Product, messages: Messages) -> str:
    """The product's name in the language spoken."""
    return product.name.get(messages.language) or next(iter(product.name.values()), product.slug)


def product_rows(products: Iterable[Product], messages: Messages) -> list[Sequence[Cell]]:
    """Products as the rows of `PRODUCT_HEADS`."""
    return [
        (
            product.slug,
            product_name(product, messages),
            messages.named("sector", product.sector),
            messages.named("stage", product.stage),
            messages.named("product_status", product.status),
            messages.instant(product.registered_at),
        )
        for product in products
    ]


def product_pairs(product: Product, messages: Messages) -> Pairs:
    """One product, field by field."""
    pairs: Pairs = [
        ("slug", product.slug),
        ("name", product_name(product, messages)),
        ("description", product.description),
        ("sector", messages.named("sector", product.sector)),
        ("stage", messages.named("stage", product.stage)),
        ("status", messages.named("product_status", product.status)),
        ("direction", messages.named("direction", product.direction) if product.direction else ""),
        ("ai_kind", messages.named("ai_kind", product.ai_kind) if product.ai_kind else ""),
        ("builds_on", ", ".join(messages.named("built_on", each) for each in product.builds_on)),
        ("users", product.users),
        ("programme", product.programme or ""),
        ("links", " ".join(product.links)),
        ("authors", ", ".join(product.authors)),
        ("data_sets", ", ".join(product.data_sets)),
        ("started_on", product.started_on),
        ("registered", messages.instant(product.registered_at)),
        ("verified", messages.instant(product.verified_at) if product.verified_at else ""),
        ("note", product.return_note or ""),
    ]
    return [(head, cell) for head, cell in pairs if cell]


def evidence_rows(product: Product, messages: Messages) -> list[Sequence[Cell]]:
    """The jobs a product was built by as the rows of `EVIDENCE_HEADS`."""
    return [
        (
            str(job.job_id),
            messages.named("state", job.state),
            messages.gpu_hours(job.gpu_seconds),
            messages.say("yesno.yes" if job.is_counted else "yesno.no"),
            " ".join(job.digests),
        )
        for job in product.evidence or ()
    ]


def year_rows(indicator: Indicator, messages: Messages) -> list[Sequence[Cell]]:
    """The indicator's years as the rows of `YEAR_HEADS`."""
    begun = messages.say("kpi.not_begun")
    return [
        (
            str(year.year),
            str(year.target),
            begun if year.cumulative is None else str(year.cumulative),
            begun if year.added is None else str(year.added),
            begun if year.imported is None else str(year.imported),
            "" if year.forecast_low is None else f"{year.forecast_low}-{year.forecast_high}",
        )
        for year in indicator.years
    ]


def condition_rows(verdict: Verdict, messages: Messages) -> list[Sequence[Cell]]:
    """The conditions of a verdict as the rows of `CONDITION_HEADS`."""
    said = {True: (messages.say("yesno.yes"), "green"), False: (messages.say("yesno.no"), "red")}
    return [(each.text, said[each.holds]) for each in verdict.conditions]


def chain_rows(chain: Chain, messages: Messages) -> list[Sequence[Cell]]:
    """The jobs of a chain as the rows of `CHAIN_HEADS`."""
    none = messages.say("yesno.none")
    return [
        (
            str(job.job_id),
            messages.named("state", job.state),
            messages.gpu_hours(job.gpu_seconds),
            " ".join(job.policies) or none,
            " ".join(job.queues) or none,
            "; ".join(job.decisions) or none,
            none if job.energy_kwh is None else messages.number(job.energy_kwh, 3),
            " ".join(job.digests) or none,
            ", ".join(messages.named("chain_break", each) for each in job.breaks) or none,
        )
        for job in chain.jobs
    ]


def likeness_rows(found: Iterable[Likeness], messages: Messages) -> list[Sequence[Cell]]:
    """Products that look like one as the rows of `LIKENESS_HEADS`."""
    return [
        (each.slug or messages.say("product.hidden"), messages.named("mark", each.mark), each.value)
        for each in found
    ]


def initiative_rows(found: Iterable[Initiative], messages: Messages) -> list[Sequence[Cell]]:
    """Initiatives as the rows of `INITIATIVE_HEADS`."""
    none = messages.say("yesno.none")
    return [
        (
            each.slug,
            f"{each.kpi.get(messages.language, '')}, {each.unit}",
            messages.named("direction", each.direction),
            none if each.value is None else str(each.value),
            str(each.target),
            none if each.done_percent is None else f"{each.done_percent} %",
            each.deadline,
            messages.named("progress", each.progress),
        )
        for each in found
    ]
