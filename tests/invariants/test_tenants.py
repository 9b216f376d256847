"""Invariant 11: every query of rows that a tenant owns starts from `visible_to`, or is named here with its reason."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("api", "products", "metrics", "scheduler", "quota", "tenants")
OWNED = {
    "JobRow", "JobTextRow", "AttemptRow", "AllocationRow", "ArtefactRow", "ProductRow", "ProductJobRow",
    "ProjectRow", "GrantRow", "LedgerEntryRow", "BalanceRow", "DossierRow",
}  # fmt: skip
READS = {"select", "get", "get_one", "exists", "query", "delete", "update"}

OWN_WORK = "the scheduler's own work: no caller is served"
FIGURE = "a figure over everybody, without names"
OVERSEEN = "served to those who may read every project only"
VERIFIED = "the books set beside the journal, whole"
FOUND_VISIBLE = "of rows that a query with visible_to found just before"

ALLOWED = {
    "api.simulation.write_holders": "which simulated GPU is busy, for the node exporter of this machine",
    "metrics.allocated._allocations": OVERSEEN,
    "metrics.allocated._balances": OVERSEEN,
    "metrics.controlplane._device_seconds": FIGURE,
    "metrics.controlplane._queue_jobs": FIGURE,
    "metrics.controlplane._queue_wait": FIGURE,
    "metrics.sampler._held": "who holds which GPU, to add readings to the right attempt",
    "metrics.idle_watch._held": OWN_WORK,
    "metrics.idle_watch._returned_s": OWN_WORK,
    "metrics.idle_watch.running": "the watch's own work; what is shown of it, metrics.notices narrows by visible_to",
    "metrics.idle_watch.settle": OWN_WORK,
    "metrics.service.ended_attempts": "each caller narrows it by visible_to before it is read",
    "products.gather._products": "reports name verified products only, which are public",
    "products.gather._served": FIGURE,
    "products.localisation_books.enter": "locks the dossier that the caller's query found visible",
    "products.opendata_gather._add_charges": FIGURE,
    "products.opendata_gather._add_jobs": FIGURE,
    "products.opendata_gather._uses": FIGURE,
    "products.registers_standing._due_documents": "the caller's scope comes in as a clause; the metric counts without it",
    "products.history.histories": "the national indicator counts every product",
    "metrics.quota_figures._could_start": FIGURE,
    "metrics.quota_figures._held": FIGURE,
    "products.service.count_by_status": FIGURE,
    "products.artefacts._evidence_ids": FOUND_VISIBLE,
    "products.artefacts.duplicates": "every product is compared; of one that is not visible only that there is one",
    "products.artefacts.evidence": FOUND_VISIBLE,
    "products.artefacts.versions": FOUND_VISIBLE,
    "products.chain._attempts": FOUND_VISIBLE,
    "products.history.import_products": "whether a short name is in use",
    "products.service._linked": FOUND_VISIBLE,
    "quota.till.__init__": "the ledger's own work under row lock",
    "quota.service.grants": "the plan's grants; a front door names projects that it found visible",
    "quota.service.open_claims": VERIFIED,
    "quota.service.verify": "the books recomputed whole",
    "scheduler.admitting.lock_waiting": OWN_WORK,
    "scheduler.admitting._write": OWN_WORK,
    "scheduler.changes.close": OWN_WORK,
    "scheduler.open_jobs.__init__": "locks jobs that the caller's query found visible, or the scheduler's own work",
    "scheduler.book.open": "locks a job that the caller's query found visible, or the scheduler's own work",
    "scheduler.compare._held": VERIFIED,
    "scheduler.compare._suspended": VERIFIED,
    "scheduler.compare.compare": VERIFIED,
    "scheduler.explaining.last_starts": "how far planned starts were from what was told, without saying whose",
    "scheduler.figures._held_by_queue": FIGURE,
    "scheduler.figures._slice_use": FIGURE,
    "scheduler.figures._uses": FIGURE,
    "scheduler.figures._waits_s": FIGURE,
    "scheduler.figures.cluster": FIGURE,
    "scheduler.figures.queue_use": FIGURE,
    "scheduler.launch.load_works": OWN_WORK,
    "scheduler.heard._keep": OWN_WORK,
    "scheduler.observe._sweep_orphans": OWN_WORK,
    "scheduler.observe.live_on": OWN_WORK,
    "scheduler.stops._read": OWN_WORK,
    "scheduler.stops.lock_jobs": OWN_WORK,
    "scheduler.stops.told_stops": OWN_WORK,
    "scheduler.stops.undelivered_stops": OWN_WORK,
    "scheduler.retention._note": OWN_WORK,
    "scheduler.retention.due": OWN_WORK,
    "scheduler.shutdown._kill_all": OWN_WORK,
    "scheduler.snapshot._live": OWN_WORK,
    "scheduler.notices._spare": OWN_WORK,
    "scheduler.notices._write_reservations": OWN_WORK,
    "scheduler.notices._note_sent": OWN_WORK,
    "scheduler.notices._noticed_on": OWN_WORK,
    "scheduler.notices.undelivered_notices": OWN_WORK,
    "scheduler.sampling._held_ms": FIGURE,
    "scheduler.snapshot._waiting": OWN_WORK,
    "scheduler.warm._admissions": FIGURE,
    "scheduler.warm._read_all": OWN_WORK,
    "scheduler.warm._snapshot": OWN_WORK,
    "scheduler.snapshot.load_usage": FIGURE,
    "scheduler.snapshot.pending_jobs": OWN_WORK,
    "scheduler.submission._check_dependencies": "jobs of the one project that the caller was found to have a role in",
    "scheduler.submission._check_projects": "locks the projects that the caller was found to have a role in",
    "scheduler.views._names": FOUND_VISIBLE,
    "scheduler.views._places": "how many jobs are ahead, without saying whose",
    "scheduler.views.views_of": FOUND_VISIBLE,
    "tenants.service.set_project_status": "the route found the project visible and asked `may`",
}


def reads():
    """Each read of an owned row: where it is, and whether `visible_to` stands in the same statement."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            tree = ast.parse(path.read_text())
            for function in ast.walk(tree):
                if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield from reads_of(path, function)


def reads_of(path, function):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for statement in ast.walk(function):
        if not isinstance(
            statement, ast.Assign | ast.AnnAssign | ast.Return | ast.Expr | ast.For | ast.withitem
        ):
            continue
        part = statement.iter if isinstance(statement, ast.For) else statement
        calls = [node for node in ast.walk(part) if isinstance(node, ast.Call)]
        names = {name_of(call) for call in calls}
        read = {
            name.id
            for call in calls
            if name_of(call) in READS
            for argument in call.args
            for name in ast.walk(argument)
            if isinstance(name, ast.Name) and name.id in OWNED
        }
        if read:
            yield f"{module}.{function.name}", "visible_to" in names, sorted(read)


def name_of(call):
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def test_every_query_of_owned_rows_starts_from_visible_to():
    bare = {where for where, is_scoped, _ in reads() if not is_scoped}
    assert sorted(bare - set(ALLOWED)) == []


def test_every_exception_is_still_one_and_has_its_reason():
    bare = {where for where, is_scoped, _ in reads() if not is_scoped}
    assert sorted(set(ALLOWED) - bare) == []
    assert all(ALLOWED.values())


def test_the_search_sees_the_front_door():
    scoped = {where for where, is_scoped, _ in reads() if is_scoped}
    assert {
        "api.routes.files._kept",
        "products.service.row_of",
        "products.service.listing",
        "scheduler.views.get",
        "scheduler.views.list_jobs",
        "scheduler.views.attempts_of",
        "scheduler.views.artefacts_of",
        "tenants.directory.projects",
    } <= scoped
