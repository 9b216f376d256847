"""Fill the Alibaba GPU cluster of 2023 with its pods of whole GPUs, by the core's own placement. Simulated.

    python benchmarks/openb_whole.py --folder openb --pods default --seeds 2 --json

The folder and the drawing of pods are those of `openb.py`; pods without GPUs or with a share of one are left out, as
Kezek gives whole GPUs only, and CPUs are rounded up to whole ones for each GPU, as a job asks for them.

kezek_*: `scheduler.place` and `scheduler.beside`, the flavor being the first of the pod's in which it fits; a pod that
may use any model lists them by how many GPUs they have, most first (plenty) or last (scarce), or by name.
room and fullest: the rules of `openb.py`, all models alike. room_within: room among the nodes of the first flavor in
which it fits, by plenty. fgd: the node where the GPUs that the FRAGMENTS commonest kinds cannot use grow least.
Source of fgd: Weng et al., "Beware of Fragmentation", USENIX ATC 2023, section 4; these lines are a reading of
it for whole GPUs, which knows the list of pods beforehand.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from openb import WHOLE, Cluster, Free, Pod, fill, pods_of

from scheduler.beside import folded
from scheduler.machines import read_openb
from scheduler.model import Node
from scheduler.place import Rooms, Shape
from scheduler.topology import Terms
from scheduler.traces import MIB

ORDERS = ("plenty", "scarce", "name")
POLICIES = (*(f"kezek_{order}" for order in ORDERS), "random", "fullest", "room", "room_within", "fgd")
FRAGMENTS = 60
"""Kinds of pods whose fragments are looked at."""
CPU = 1_000
"""Thousandths of a CPU."""


class Core:
    """Nodes of each flavor as the core sees them, and what is left of their CPUs and memory."""

    def __init__(self, nodes: Sequence[Node], order: Sequence[str]) -> None:
        self.order = order
        self.rooms = {}
        self.left = {}
        for flavor in order:
            own = [node for node in nodes if node.flavor == flavor]
            sizes = [(node.name, len(node.gpu_uuids), len(node.gpu_uuids)) for node in own]
            amounts = [(node.cpus or 0, node.memory_bytes or 0) for node in own]
            self.rooms[flavor] = Rooms(sizes, (), amounts)
            self.left[flavor] = tuple(amount.copy() for amount in self.rooms[flavor].site.amounts)

    def place(self, pod: Pod) -> bool:
        """Put the pod where the core puts it; whether any node holds it."""
        cpus, memory_bytes = pod.cpu // CPU // pod.gpus, pod.memory * MIB // pod.gpus
        terms = Terms(cpus_per_gpu=cpus, memory_bytes_per_gpu=memory_bytes)
        for flavor in self.order:
            if pod.models and flavor not in pod.models:
                continue
            rooms, left = self.rooms[flavor], self.left[flavor]
            free = folded(rooms.free, left, rooms.site, terms)
            picks = rooms.pick(free, Shape(flavor, pod.gpus, 1, terms))
            if picks is not None:
                for node, gpus in picks:
                    rooms.take(rooms.names[node], gpus)
                    left[0][node] -= gpus * cpus
                    left[1][node] -= gpus * memory_bytes
                return True
        return False


class Whole(Cluster):
    """The cluster of `openb.py` with two rules more."""

    kinds: Sequence[tuple[Pod, float]] = ()
    order: Sequence[str] = ()

    def place(self, pod: Pod, policy: str, chance: random.Random) -> bool:
        """Put the pod on a node; whether one holds it."""
        if policy not in {"fgd", "room_within"}:
            return super().place(pod, policy, chance)
        fits = (self.cpu >= pod.cpu) & (self.memory >= pod.memory)
        fits &= (self.gpus >= WHOLE).sum(axis=1) >= pod.gpus
        if pod.models:
            fits &= np.isin(self.models, pod.models)
        nodes = np.flatnonzero(fits)
        if not len(nodes):
            return False
        node = self.least_fragments(nodes, pod) if policy == "fgd" else self.within(nodes, pod, chance)
        after = self.after(np.array([node]), pod)
        self.gpus[node], self.cpu[node], self.memory[node] = after.gpus[0], after.cpu[0], after.memory[0]
        self.alike[node] = self.state_of(node)
        if self.shapes is not None:
            self.room[node] = self.shapes.room(np.array([node]), after)[0]
        return True

    def within(self, nodes: np.ndarray, pod: Pod, chance: random.Random) -> int:
        """By room among the nodes of the first flavor."""
        of_flavor = (nodes[self.models[nodes] == flavor] for flavor in self.order)
        nodes = next(found for found in of_flavor if len(found))
        return (
            self.choose(nodes, "fullest", chance)
            if self.shapes is None
            else self.least_loss(nodes, pod, self.shapes)
        )

    def least_fragments(self, nodes: np.ndarray, pod: Pod) -> int:
        """The node whose fragments grow least, the first by number of those."""
        nodes = nodes[np.unique(self.alike[nodes], return_index=True)[1]]
        before = self.fragments(nodes, Free(self.gpus[nodes], self.cpu[nodes], self.memory[nodes]))
        more = np.round(self.fragments(nodes, self.after(nodes, pod)) - before, 9)
        return int(nodes[np.lexsort((nodes, more))[0]])

    def fragments(self, nodes: np.ndarray, free: Free) -> np.ndarray:
        """GPUs of each node that a kind cannot use, on the mean over the kinds."""
        gpus = (free.gpus >= WHOLE).sum(axis=1)
        found = np.zeros(len(nodes))
        for pod, share in self.kinds:
            fits = (gpus >= pod.gpus) & (free.cpu >= pod.cpu) & (free.memory >= pod.memory)
            if pod.models:
                fits &= np.isin(self.models[nodes], pod.models)
            found += share * np.where(fits, 0, gpus)
        return found


def fill_core(nodes: Sequence[Node], order: Sequence[str], pods: list[Pod], seed: int) -> float:
    """As `fill` of `openb.py`, by the core's own placement."""
    chance = random.Random(seed)  # noqa: S311 - a reproducible order, no secret
    drawn = pods.copy()
    chance.shuffle(drawn)
    core = Core(nodes, order)
    total = sum(len(node.gpu_uuids) for node in nodes)
    asked = allocated = 0
    while asked < total:
        pod = drawn.pop() if drawn else chance.choice(pods)
        asked += pod.gpus
        allocated += pod.gpus if core.place(pod) else 0
    return 100 * allocated / total


def whole_pods(path: Path) -> list[Pod]:
    """Pods of whole GPUs, with whole CPUs for each."""
    own = [pod for pod in pods_of(path) if pod.gpus and pod.milli == WHOLE]
    return [replace(pod, cpu=-(-pod.cpu // (CPU * pod.gpus)) * CPU * pod.gpus) for pod in own]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument(
        "--pods", default="default", help="the part of the list's name behind openb_pod_list_"
    )
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--policy", choices=POLICIES, action="append")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with (args.folder / "openb_node_list_gpu_node.csv").open(encoding="utf-8") as lines:
        text = lines.read().splitlines()
    nodes, rows = read_openb(text), list(csv.DictReader(text))
    pods = whole_pods(args.folder / f"openb_pod_list_{args.pods}.csv")
    gpus: Counter[str] = Counter()
    for node in nodes:
        gpus[node.flavor] += len(node.gpu_uuids)
    plenty = [flavor for flavor, _ in gpus.most_common()]
    orders = {"plenty": plenty, "scarce": plenty[::-1], "name": sorted(gpus)}
    Whole.order = plenty
    Whole.kinds = [(pod, times / len(pods)) for pod, times in Counter(pods).most_common(FRAGMENTS)]
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    found: dict[str, object] = {}
    for policy in args.policy or POLICIES:
        rule, _, order = policy.partition("_")
        begun_s = time.process_time()
        got = [
            fill_core(nodes, orders[order], pods, seed)
            if rule == "kezek"
            else fill(rows, pods, policy, seed, Whole)
            for seed in range(42, 42 + args.seeds)
        ]
        found[policy] = {
            "mean_percent": round(sum(got) / len(got), 2),
            "min": round(min(got), 2),
            "max": round(max(got), 2),
            "cpu_s": round(time.process_time() - begun_s, 1),
        }
    found |= {
        "pods": args.pods,
        "of_whole_gpus": len(pods),
        "seeds": f"42 to {41 + args.seeds}",
        "nodes": len(nodes),
        "load": [round(load, 1) for load in os.getloadavg()],
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "commit": commit,
        "simulated": True,
    }
    print(json.dumps(found) if args.json else "\n".join(f"{key} {value}" for key, value in found.items()))


if __name__ == "__main__":
    main()
