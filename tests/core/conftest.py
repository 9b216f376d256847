"""Builders of small worlds for the pure core: one line each, everything not named has a plain default."""

from __future__ import annotations

from uuid import UUID

import pytest

from quota.model import GrantId
from quota.policy import parse_policy
from scheduler.fit import Bounds, World
from scheduler.model import (
    GrantView,
    JobId,
    JobState,
    LiveAttempt,
    Node,
    NodeState,
    PendingJob,
    Request,
    Slot,
    Snapshot,
)

DAY_MS = 86_400_000
NOW_MS = 100 * DAY_MS


class Build:
    now_ms = NOW_MS
    project = UUID(int=1)

    @staticmethod
    def document(tree=None, **settings):
        tree = tree or {"q": {"nominal": "100%"}}
        path, level = [], tree
        while level:
            name, node = next(iter(level.items()))
            path.append(name)
            level = (node or {}).get("children")
        policy = {
            "version": "1",
            "effective_from": "2026-01-01",
            "grounds": [{"kind": "order", "body": "authorised body", "number": "7", "date": "2025-12-25"}],
            "tree": tree,
            "routes": [{"queue": "/".join(path)}],
        }
        return {"policy": policy | settings}

    @classmethod
    def policy(cls, tree=None, **settings):
        return parse_policy(cls.document(tree, **settings))

    @staticmethod
    def node(name, gpus=8, flavor="h200", state=NodeState.UP):
        return Node(name, flavor, tuple(f"{name}:{index}" for index in range(gpus)), state, is_simulated=True)

    @classmethod
    def nodes(cls, *sizes):
        return tuple(cls.node(f"n{number}", gpus) for number, gpus in enumerate(sizes))

    @staticmethod
    def request(gpus=1, wall_s=3_600, nodes=None, flavors=("h200",)):
        return Request(gpus, wall_s, tuple(flavors), nodes)

    @classmethod
    def job(
        cls, number=1, gpus=1, queue="q", *, wall_s=3_600, nodes=None, flavors=("h200",), age_s=60, **rest
    ):
        submitted_ms = NOW_MS - age_s * 1_000
        rest = {"project_id": cls.project, "priority": 0} | rest
        return PendingJob(
            id=JobId(number),
            queue=queue,
            request=cls.request(gpus, wall_s, nodes, flavors),
            submitted_ms=submitted_ms,
            **rest,
        )

    @classmethod
    def live(cls, number, held, queue="q", *, state=JobState.RUNNING, wall_s=3_600, ran_s=60, **rest):
        """`held`: text such as "n0:0 n0:1 n1:0"."""
        by_node = {}
        for uuid in held.split():
            by_node.setdefault(uuid.partition(":")[0], []).append(uuid)
        started_ms = NOW_MS - ran_s * 1_000
        rest = {"project_id": cls.project, "committed_ms": started_ms} | rest
        return LiveAttempt(
            id=f"{number}-1",
            job_id=JobId(number),
            queue=queue,
            request=cls.request(len(held.split()), wall_s),
            slots=tuple(Slot(node, tuple(uuids)) for node, uuids in by_node.items()),
            state=state,
            admitted_ms=started_ms,
            **rest,
        )

    @classmethod
    def grant(
        cls,
        number=1,
        *,
        remaining_s=10**9,
        pending_s=0,
        starts_ms=0,
        ends_ms=NOW_MS + 365 * DAY_MS,
        flavor="h200",
        project=None,
    ):
        return GrantView(
            GrantId(UUID(int=100 + number)),
            project or cls.project,
            flavor,
            starts_ms,
            ends_ms,
            remaining_s,
            pending_s,
        )

    @classmethod
    def snapshot(cls, nodes=None, pending=(), live=(), grants=None, **rest):
        nodes = cls.nodes(8) if nodes is None else nodes
        capacity = {}
        for node in nodes:
            if node.state is not NodeState.DRAINED:
                capacity[node.flavor] = capacity.get(node.flavor, 0) + len(node.gpu_uuids)
        return Snapshot(
            at_ms=NOW_MS,
            version="v1",
            nodes=tuple(nodes),
            live=tuple(live),
            pending=tuple(pending),
            grants=(cls.grant(),) if grants is None else tuple(grants),
            capacity=capacity,
            **rest,
        )

    @classmethod
    def bounds(cls, snapshot=None, policy=None):
        return Bounds(snapshot or cls.snapshot(), policy or cls.policy())

    @classmethod
    def world(cls, policy=None, **snapshot):
        found = cls.snapshot(**snapshot)
        return World(found, Bounds(found, policy or cls.policy()))


@pytest.fixture(scope="session")
def build():
    return Build
