"""Fill the Alibaba GPU cluster of 2023 with its own pods and print how many of its GPUs get allocated. Simulated.

    python benchmarks/openb.py --folder openb --pods default --seeds 10 --json

The folder holds `openb_node_list_gpu_node.csv` and `openb_pod_list_*.csv` of alibaba/clusterdata,
cluster-trace-gpu-v2023. Pods are drawn in random order until they ask for 130 % of the GPUs; none departs. The
figure is the share of GPUs allocated when the pods that arrived ask for 100 %.

random: any node that holds the pod. best_fit: the least 0.5 free CPU / largest CPU + 0.5 free GPUs / 8.
fullest: the node with the least free GPUs that holds it, as `scheduler.place` does; then the least free CPU.
Pods with a share of a GPU go to the fullest GPU of the node. `scheduler.place` itself gives whole GPUs only: shares
and CPU are this script's.
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
from dataclasses import dataclass
from pathlib import Path

import numpy as np

WHOLE = 1_000
"""Thousandths of a GPU."""
POLICIES = ("random", "best_fit", "fullest")


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
        node = self.choose(nodes, policy, chance)
        self.cpu[node] -= pod.cpu
        self.memory[node] -= pod.memory
        holds = np.flatnonzero(self.gpus[node] >= pod.milli) if pod.gpus else np.zeros(0, dtype=np.int64)
        fullest = holds[np.argsort(self.gpus[node][holds], kind="stable")][: pod.gpus]
        self.gpus[node, fullest] -= pod.milli
        return True

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


def fill(rows: list[dict[str, str]], pods: list[Pod], policy: str, seed: int) -> float:
    """Percent of the GPUs that are allocated when 100 % were asked for."""
    chance = random.Random(seed)  # noqa: S311 - a reproducible order, no secret
    order = pods.copy()
    chance.shuffle(order)
    cluster = Cluster(rows)
    asked = allocated = 0
    while asked < cluster.total:
        pod = order.pop() if order else chance.choice(pods)
        asked += pod.demand
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
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with (args.folder / "openb_node_list_gpu_node.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    pods = pods_of(args.folder / f"openb_pod_list_{args.pods}.csv")
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    begun = time.perf_counter()
    found: dict[str, object] = {}
    for policy in POLICIES:
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
