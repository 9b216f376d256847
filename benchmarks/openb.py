"""Fill the Alibaba GPU cluster of 2023 with its own pods and print how many of its GPUs get allocated. Simulated.

    python benchmarks/openb.py --folder openb --pods default --seeds 10 --json

The folder holds `openb_node_list_gpu_node.csv` and `openb_pod_list_*.csv` of alibaba/clusterdata,
cluster-trace-gpu-v2023. Pods are drawn in random order until they ask for 130 % of the GPUs; none departs. The
figure is the share of GPUs allocated when the pods that arrived ask for 100 %.

random: any node that holds the pod. best_fit: the least 0.5 free CPU / largest CPU + 0.5 free GPUs / 8.
fullest: the node with the least free GPUs that holds it, whatever its model; then the least free CPU.
room: the node where the pod takes least of the room that others could use. Room of a kind of pod is how many of it fit;
the loss is the share of all its room that goes, weighted by how often it came, summed over the SHAPES commonest kinds
that arrived before; then as fullest. So a pod that may use any model goes where fewest others
must, and one without GPUs where CPU is to spare.
Pods with a share of a GPU go to the fullest GPU of the node. All these rules are this script's: Kezek gives whole GPUs,
and its own placement of the pods that ask for them is measured by `openb_whole.py`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import random
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

WHOLE = 1_000
"""Thousandths of a GPU."""
POLICIES = ("random", "best_fit", "fullest", "room")
SHAPES = 60
"""Kinds of pods whose room is looked at: 8 of 10 pods are of these."""
LEARN_EVERY = 500
"""Arrivals after which the commonest kinds are counted anew."""
LEARN_FIRST = 50
"""Arrivals before which nothing is known of what may come; until then as fullest."""


@dataclass(frozen=True)
class Pod:
    """What a pod asks for; `milli` of each of `gpus`. `models` empty = any."""

    cpu: int
    memory: int
    gpus: int
    milli: int
    models: tuple[str, ...]

    @property
    def demand(self) -> int:
        """Thousandths of GPUs in all."""
        return self.gpus * self.milli


@dataclass(frozen=True)
class Free:
    """What is free on some nodes, one row each."""

    gpus: np.ndarray
    cpu: np.ndarray
    memory: np.ndarray


class Shapes:
    """The commonest kinds of pods that arrived so far, by how often they came."""

    def __init__(self, seen: Counter[Pod], models: np.ndarray) -> None:
        kinds = [(pod, times) for pod, times in seen.most_common(SHAPES) if pod.gpus]
        self.pods = [pod for pod, _ in kinds]
        self.may = [
            np.isin(models, pod.models) if pod.models else np.ones(len(models), bool) for pod in self.pods
        ]
        self.weights = np.array([times for _, times in kinds], dtype=float)

    def room(self, nodes: np.ndarray, free: Free) -> np.ndarray:
        """How many of each kind the nodes hold, one row per node, if so much is free on them."""
        fits = {pod.milli: (free.gpus // pod.milli).sum(axis=1) for pod in self.pods}
        found = np.empty((len(nodes), len(self.pods)))
        for place, (pod, may) in enumerate(zip(self.pods, self.may, strict=True)):
            room = np.minimum(fits[pod.milli] // pod.gpus, free.cpu // max(1, pod.cpu))
            found[:, place] = np.minimum(room, free.memory // max(1, pod.memory)) * may[nodes]
        return found


class Cluster:
    """Free CPU, memory and thousandths of each GPU."""

    def __init__(self, rows: list[dict[str, str]]) -> None:
        self.cpu = np.array([int(row["cpu_milli"]) for row in rows])
        self.memory = np.array([int(row["memory_mib"]) for row in rows])
        self.models = np.array([row["model"] for row in rows])
        counts = [int(row["gpu"]) for row in rows]
        self.gpus = np.zeros((len(rows), max(counts)), dtype=np.int64)
        for node, count in enumerate(counts):
            self.gpus[node, :count] = WHOLE
        self.total = int(self.gpus.sum())
        self.most_cpu = int(self.cpu.max())
        self._known: dict[tuple[object, ...], int] = {}
        self.alike = np.array([self.state_of(node) for node in range(len(rows))])
        self.seen: Counter[Pod] = Counter()
        self.arrived = 0
        self.shapes: Shapes | None = None
        self.room = np.zeros(0)

    def state_of(self, node: int) -> int:
        """A number that nodes of one model with the same left free have in common."""
        free = (self.cpu[node].item(), self.memory[node].item(), *sorted(self.gpus[node].tolist()))
        return self._known.setdefault((self.models[node].item(), *free), len(self._known))

    def arrive(self, pod: Pod) -> None:
        """Remember what was asked for; now and then count anew what is common."""
        self.seen[pod] += 1
        self.arrived += 1
        if self.arrived == LEARN_FIRST or self.arrived % LEARN_EVERY == 0:
            self.shapes = Shapes(self.seen, self.models)
            self.room = self.shapes.room(np.arange(len(self.cpu)), Free(self.gpus, self.cpu, self.memory))

    def place(self, pod: Pod, policy: str, chance: random.Random) -> bool:
        """Put the pod on a node; whether one holds it."""
        fits = (self.cpu >= pod.cpu) & (self.memory >= pod.memory)
        if pod.models:
            fits &= np.isin(self.models, pod.models)
        if pod.gpus:
            fits &= (self.gpus >= pod.milli).sum(axis=1) >= pod.gpus
        nodes = np.flatnonzero(fits)
        if not len(nodes):
            return False
        if policy == "room" and self.shapes is not None:
            node = self.least_loss(nodes, pod, self.shapes)
        else:
            node = self.choose(nodes, policy, chance)
        after = self.after(np.array([node]), pod)
        self.gpus[node], self.cpu[node], self.memory[node] = after.gpus[0], after.cpu[0], after.memory[0]
        self.alike[node] = self.state_of(node)
        if policy == "room" and self.shapes is not None:
            self.room[node] = self.shapes.room(np.array([node]), after)[0]
        return True

    def after(self, nodes: np.ndarray, pod: Pod) -> Free:
        """What would be free on each of these nodes with the pod on it: on its fullest GPUs that hold it."""
        gpus = self.gpus[nodes]
        if pod.gpus:
            order = np.argsort(np.where(gpus >= pod.milli, gpus, 2 * WHOLE), axis=1, kind="stable")
            rows = np.arange(len(nodes))[:, None]
            gpus[rows, order[:, : pod.gpus]] -= pod.milli
        return Free(gpus, self.cpu[nodes] - pod.cpu, self.memory[nodes] - pod.memory)

    def least_loss(self, nodes: np.ndarray, pod: Pod, shapes: Shapes) -> int:
        """The node where the pod takes the least room, of each kind as a share of what is left of it."""
        nodes = nodes[np.unique(self.alike[nodes], return_index=True)[1]]
        free = self.after(nodes, pod)
        lost = (self.room[nodes] - shapes.room(nodes, free)) / np.maximum(1, self.room.sum(axis=0))
        loss = np.round(lost @ shapes.weights, 6)
        order = np.lexsort((nodes, free.cpu, free.gpus.sum(axis=1), loss))
        return int(nodes[order[0]])

    def choose(self, nodes: np.ndarray, policy: str, chance: random.Random) -> int:
        """One of the nodes that hold the pod."""
        if policy == "random":
            return int(nodes[chance.randrange(len(nodes))])
        free = self.gpus[nodes].sum(axis=1) / WHOLE
        if policy == "best_fit":
            score = 0.5 * self.cpu[nodes] / self.most_cpu + 0.5 * free / 8
        else:
            score = free + self.cpu[nodes] / self.most_cpu / 1_000
        return int(nodes[int(score.argmin())])


def pods_of(path: Path) -> list[Pod]:
    with path.open(encoding="utf-8") as lines:
        return [
            Pod(
                int(row["cpu_milli"]),
                int(row["memory_mib"]),
                int(row["num_gpu"]),
                int(row["gpu_milli"]) if int(row["num_gpu"]) else 0,
                tuple(filter(None, row["gpu_spec"].split("|"))),
            )
            for row in csv.DictReader(lines)
        ]


def fill(
    rows: list[dict[str, str]], pods: list[Pod], policy: str, seed: int, kind: type[Cluster] = Cluster
) -> float:
    """Percent of the GPUs that are allocated when 100 % were asked for."""
    chance = random.Random(seed)  # noqa: S311 - a reproducible order, no secret
    order = pods.copy()
    chance.shuffle(order)
    cluster = kind(rows)
    asked = allocated = 0
    while asked < cluster.total:
        pod = order.pop() if order else chance.choice(pods)
        asked += pod.demand
        if policy.startswith("room"):
            cluster.arrive(pod)
        if cluster.place(pod, policy, chance):
            allocated += pod.demand
    return 100 * allocated / cluster.total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument(
        "--pods", default="default", help="the part of the pod list's name behind openb_pod_list_"
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--policy", choices=POLICIES, action="append")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with (args.folder / "openb_node_list_gpu_node.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    pods = pods_of(args.folder / f"openb_pod_list_{args.pods}.csv")
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    begun = time.perf_counter()
    found: dict[str, object] = {}
    for policy in args.policy or POLICIES:
        got = [fill(rows, pods, policy, 42 + seed) for seed in range(args.seeds)]
        found[policy] = {
            "mean_percent": round(sum(got) / len(got), 2),
            "min": round(min(got), 2),
            "max": round(max(got), 2),
        }
    found |= {
        "pods": args.pods,
        "seeds": f"42 to {41 + args.seeds}",
        "nodes": len(rows),
        "taken_s": round(time.perf_counter() - begun, 1),
        "load": [round(load, 1) for load in os.getloadavg()],
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "commit": commit,
        "simulated": True,
    }
    print(json.dumps(found) if args.json else "\n".join(f"{key} {value}" for key, value in found.items()))


if __name__ == "__main__":
    main()
