"""The workload and the policy that `make run` plays hold together: identifiers, shares, budgets, expectations."""

import re
from collections import Counter
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml

from quota.model import GrantId
from quota.policy import load_policy_text, route, validate_against
from scheduler.model import Admit, GrantView, JobId, Node, NodeState, PendingJob, Request, Snapshot, Wait
from scheduler.plan import make_plan

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NODES, GPUS_PER_NODE = 4, 8
LANGUAGES = {"kk", "ru", "en"}
CATEGORIES = {
    "startup",
    "university",
    "research-institute",
    "government",
    "business",
    "citizen",
    "programme",
    "foreign",
}
PRIORITY = {
    "public-administration",
    "oil-and-gas",
    "mining",
    "energy",
    "transport",
    "logistics",
    "water-supply",
    "agriculture",
}
SECTORS = PRIORITY | {"education", "health-care", "other"}
UNIT_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def load(name: str) -> dict[str, Any]:
    loaded = yaml.safe_load((EXAMPLES / name).read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


WORKLOAD = load("workload.yaml")
POLICY = load("policy.yaml")["policy"]
ORGANISATIONS = {organisation["project"]["slug"]: organisation for organisation in WORKLOAD["organisations"]}
JOBS = {job["name"]: job for job in WORKLOAD["jobs"]}


def seconds(text: str) -> int:
    found = re.fullmatch(r"(\d+)([smhd])", text)
    assert found, text
    return int(found[1]) * UNIT_S[found[2]]


def control_digit(first_eleven: str) -> int | None:
    digits = [int(digit) for digit in first_eleven]
    for weights in ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], [3, 4, 5, 6, 7, 8, 9, 10, 11, 1, 2]):
        total = sum(weight * digit for weight, digit in zip(weights, digits, strict=True)) % 11
        if total != 10:
            return total
    return None


def whole_gpus(parent: int, shares: dict[str, Fraction]) -> dict[str, int]:
    """Largest remainder, ties by name; the rounded sum of the shares is handed out."""
    exact = {name: parent * share for name, share in shares.items()}
    got = {name: floor(value) for name, value in exact.items()}
    left = round(sum(exact.values())) - sum(got.values())
    for name in sorted(exact, key=lambda name: (got[name] - exact[name], name))[:left]:
        got[name] += 1
    return got


def ratio(nominal: str | int) -> Fraction:
    return Fraction(str(nominal).rstrip("%")) / 100


def nominals() -> dict[str, int]:
    """GPUs of each queue on the cluster of the example; children share by weight."""
    tree = POLICY["tree"]
    got = whole_gpus(NODES * GPUS_PER_NODE, {name: ratio(node["nominal"]) for name, node in tree.items()})
    for name, node in tree.items():
        weights = {
            child: (values or {}).get("weight", 1) for child, values in node.get("children", {}).items()
        }
        shares = {child: Fraction(weight, sum(weights.values())) for child, weight in weights.items()}
        got |= {f"{name}/{child}": gpus for child, gpus in whole_gpus(got[name], shares).items()}
    return got


def queue_of(organisation: dict[str, Any]) -> str:
    for rule in POLICY["routes"]:
        categories = rule.get("category", organisation["category"])
        sectors = rule.get("sector", organisation["sector"])
        programme = rule.get("programme", organisation["project"]["programme"])
        if organisation["category"] not in ([categories] if isinstance(categories, str) else categories):
            continue
        if sectors != organisation["sector"] and not (
            sectors == "*priority" and organisation["sector"] in PRIORITY
        ):
            continue
        if programme != organisation["project"]["programme"]:
            continue
        return str(rule["queue"]).replace("{sector}", organisation["sector"])
    pytest.fail(f"no route for {organisation['slug']}")


def claim_s(job: dict[str, Any]) -> int:
    return int(job["gpus"]) * seconds(job["walltime"])


def accepted(project: str) -> list[dict[str, Any]]:
    return [job for job in JOBS.values() if job["project"] == project and "refused" not in job["expect"]]


def test_shares_give_whole_gpus_of_the_example_cluster() -> None:
    got = nominals()
    assert got["kazllm"] >= 12
    assert got["startups"] == 3
    assert (got["science/universities"], got["science/research-institutes"]) == (4, 2)
    assert (got["priority-sectors/energy"], got["priority-sectors/public-administration"]) == (1, 1)
    assert sum(gpus for name, gpus in got.items() if "/" not in name) == NODES * GPUS_PER_NODE


def test_policy_shares_do_not_exceed_the_whole_and_its_grounds_enact() -> None:
    assert sum(ratio(node["nominal"]) for node in POLICY["tree"].values()) <= 1
    assert {"order", "officer-decision"} & {ground["kind"] for ground in POLICY["grounds"]}
    assert all(ground["number"].startswith("EXAMPLE-") for ground in POLICY["grounds"])
    assert isinstance(POLICY["version"], str)


def test_every_route_leads_to_a_queue_of_the_tree() -> None:
    queues = nominals()
    for rule in POLICY["routes"]:
        for sector in sorted(PRIORITY):
            assert rule["queue"].replace("{sector}", sector) in queues


@pytest.mark.parametrize(
    "organisation", ORGANISATIONS.values(), ids=lambda organisation: organisation["slug"]
)
def test_organisation_is_complete_and_its_bin_is_valid(organisation: dict[str, Any]) -> None:
    assert set(organisation["name"]) == LANGUAGES
    assert all(organisation["name"].values())
    assert organisation["category"] in CATEGORIES
    assert organisation["sector"] in SECTORS
    assert re.fullmatch(r"KZ-\d\d", organisation["region"])
    number = organisation["bin"]
    assert re.fullmatch(r"\d\d(0[1-9]|1[0-2])[456]\d{7}", number)
    assert control_digit(number[:11]) == int(number[11])
    for grant in organisation["project"]["grants"]:
        assert grant["gpu_hours"] > 0
        assert grant["starts"] < grant["ends"]
        assert grant["decision"]["kind"] == "order"
        assert grant["decision"]["number"].startswith("EXAMPLE-")


@pytest.mark.parametrize(
    ("first_eleven", "digit"),
    [
        ("10000000000", 1),
        ("00000000001", 0),
        ("00000000010", 1),  # 10 by the first weights, 1 by the second
        ("25014000046", None),  # 10 by both: no such number is given out
    ],
)
def test_control_digit_by_both_rows_of_weights(first_eleven: str, digit: int | None) -> None:
    assert control_digit(first_eleven) == digit


def test_organisations_are_unlike_each_other() -> None:
    assert len(ORGANISATIONS) == len(WORKLOAD["organisations"]) >= 5
    assert len({organisation["category"] for organisation in ORGANISATIONS.values()}) >= 5
    assert len({organisation["sector"] for organisation in ORGANISATIONS.values()}) >= 5
    assert len({organisation["bin"] for organisation in ORGANISATIONS.values()}) == len(ORGANISATIONS)


@pytest.mark.parametrize("job", JOBS.values(), ids=lambda job: job["name"])
def test_job_can_be_submitted_as_written(job: dict[str, Any]) -> None:
    assert job["project"] in ORGANISATIONS
    assert all((EXAMPLES / name).is_file() for name in job["files"])
    assert job["command"][0] == "python"
    assert job["command"][1] in job["files"]
    assert all(isinstance(word, str) for word in job["command"])
    assert 1 <= job["nodes"] <= NODES
    assert job["gpus"] % job["nodes"] == 0
    assert job["gpus"] // job["nodes"] <= GPUS_PER_NODE
    assert job["gpus"] <= nominals()[queue_of(ORGANISATIONS[job["project"]])]


def test_names_of_jobs_are_not_repeated() -> None:
    assert len(JOBS) == len(WORKLOAD["jobs"]) >= 12


def test_every_outcome_is_there() -> None:
    outcomes = Counter(job["expect"].get("state") or job["expect"]["refused"] for job in JOBS.values())
    assert set(outcomes) == {"COMPLETED", "FAILED", "TIMEOUT", "BUDGET_EXHAUSTED"}
    failed = [job for job in JOBS.values() if job["expect"].get("state") == "FAILED"]
    assert [(job["command"][1], job["expect"]["exit_code"]) for job in failed] == [("faulty.py", 3)]
    stopped = [job for job in JOBS.values() if job["expect"].get("state") == "TIMEOUT"]
    assert [(job["command"][1], seconds(job["walltime"])) for job in stopped] == [("endless.py", 3)]
    gangs = [job for job in JOBS.values() if job["nodes"] > 1]
    assert {ORGANISATIONS[job["project"]]["project"]["programme"] for job in gangs} == {"kazllm"}


def test_only_the_job_expected_to_be_refused_is_beyond_its_grant() -> None:
    for slug, organisation in ORGANISATIONS.items():
        granted_s = sum(grant["gpu_hours"] * 3_600 for grant in organisation["project"]["grants"])
        assert sum(claim_s(job) for job in accepted(slug)) <= granted_s
        for job in JOBS.values():
            if job["project"] == slug:
                assert (claim_s(job) > granted_s) == (job["expect"].get("refused") == "BUDGET_EXHAUSTED")


def test_jobs_that_wait_do_not_fit_beside_the_earlier_ones_of_their_queue() -> None:
    waiting = [job for job in JOBS.values() if "waits_for" in job["expect"]]
    assert len(waiting) >= 2
    for job in waiting:
        nominal = nominals()[queue_of(ORGANISATIONS[job["project"]])]
        earlier = accepted(job["project"])
        earlier = earlier[: earlier.index(job)]
        assert job["expect"]["waits_for"] == "QUEUE_LIMIT"
        assert sum(other["gpus"] for other in earlier) <= nominal
        assert sum(other["gpus"] for other in earlier) + job["gpus"] > nominal


def test_queues_full_at_once_leave_room_in_the_cluster_so_the_queue_is_what_a_job_waits_for() -> None:
    projects = Counter(queue_of(organisation) for organisation in ORGANISATIONS.values())
    assert set(projects.values()) == {1}
    assert (
        sum(nominals()[queue] for queue in projects)
        + max(job["gpus"] for job in JOBS.values() if "waits_for" in job["expect"])
        <= NODES * GPUS_PER_NODE
    )


def test_product_is_of_completed_jobs_of_its_project() -> None:
    product = WORKLOAD["product"]
    assert set(product["name"]) == LANGUAGES
    assert product["jobs"]
    for name in product["jobs"]:
        assert JOBS[name]["project"] == product["project"]
        assert JOBS[name]["expect"]["state"] == "COMPLETED"


def test_policy_is_read_by_the_platform_and_routes_as_this_file_does() -> None:
    _, policy = load_policy_text((EXAMPLES / "policy.yaml").read_text(encoding="utf-8"))
    validate_against(policy, NODES * GPUS_PER_NODE)
    for organisation in ORGANISATIONS.values():
        programme = organisation["project"]["programme"]
        assert route(policy, organisation["category"], organisation["sector"], programme) == queue_of(
            organisation
        )


def snapshot(jobs: list[dict[str, Any]]) -> Snapshot:
    """All jobs wait at once on the idle cluster of the example; ids are places in the list."""
    projects = {slug: UUID(int=number) for number, slug in enumerate(ORGANISATIONS, start=1)}
    return Snapshot(
        at_ms=1_000,
        version="test",
        nodes=tuple(
            Node(
                f"n{node}",
                "h200",
                tuple(f"GPU-{node}-{gpu}" for gpu in range(GPUS_PER_NODE)),
                NodeState.UP,
                is_simulated=True,
            )
            for node in range(NODES)
        ),
        live=(),
        pending=tuple(
            PendingJob(
                id=JobId(number),
                project_id=projects[job["project"]],
                queue=queue_of(ORGANISATIONS[job["project"]]),
                request=Request(job["gpus"], seconds(job["walltime"]), (job["flavor"],), job["nodes"]),
                priority=0,
                submitted_ms=number,
            )
            for number, job in enumerate(jobs)
        ),
        grants=tuple(
            GrantView(GrantId(project), project, "h200", 0, 10**12, grant["gpu_hours"] * 3_600, 0)
            for slug, project in projects.items()
            for grant in ORGANISATIONS[slug]["project"]["grants"]
        ),
        capacity={"h200": NODES * GPUS_PER_NODE},
    )


def test_the_first_cycle_starts_and_delays_what_the_workload_expects() -> None:
    _, policy = load_policy_text((EXAMPLES / "policy.yaml").read_text(encoding="utf-8"))
    jobs = [job for job in JOBS.values() if "refused" not in job["expect"]]
    entries = make_plan(snapshot(jobs), policy).entries
    started = {jobs[entry.job_id]["name"]: entry for entry in entries if isinstance(entry, Admit)}
    waits = {jobs[entry.job_id]["name"]: str(entry.reason) for entry in entries if isinstance(entry, Wait)}
    assert len(started) + len(waits) == len(jobs)
    assert waits == waits | {
        job["name"]: job["expect"]["waits_for"] for job in jobs if "waits_for" in job["expect"]
    }
    assert [len(slot.gpu_uuids) for slot in started["kazllm-gang"].slots] == [6, 6]
