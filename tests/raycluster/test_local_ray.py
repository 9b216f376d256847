"""A real Ray cluster, real agents on it, and what tenants and strangers can do there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from scheduler.dispatch.executor import AgentExecutor
from scheduler.dispatch.wire import Lease, PrepareRequest, RankLease

pytestmark = pytest.mark.ray
ROOT = Path(__file__).resolve().parents[2]
JOB_ENV = Path(os.environ.get("KEZEK_JOB_ENV", sys.prefix))
RING = """
import os, socket
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
end = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
mine = os.environ["CUDA_VISIBLE_DEVICES"]
if rank == 0:
    with socket.create_server(end) as server:
        peer, _ = server.accept()
        with peer:
            print("got", peer.makefile().readline().strip())
            peer.sendall((mine + "\\n").encode())
else:
    for _ in range(500):
        try:
            peer = socket.create_connection(end, 10)
            break
        except ConnectionRefusedError:
            __import__("time").sleep(0.02)
    with peer:
        peer.sendall((mine + "\\n").encode())
        print("got", peer.makefile().readline().strip())
"""
USES_RAY = """
import json, os, ray
ray.init(include_dashboard=False, num_cpus=2, logging_level="ERROR", log_to_driver=False, object_store_memory=80 * 1024 * 1024)
@ray.remote(num_gpus=1, num_cpus=0)
class Holder:
    def mine(self):
        return os.environ["CUDA_VISIBLE_DEVICES"]
holders = [Holder.remote() for _ in range(2)]
found = ray.get([h.mine.remote() for h in holders])
print("RESULT", json.dumps({"gpus": ray.cluster_resources().get("GPU"), "nodes": len(ray.nodes()), "mine": sorted(found)}))
"""
ASKS_RAY = """
import json, sys, ray
ray.init(address=sys.argv[1], namespace="kezek", log_to_driver=False, logging_level="ERROR")
print(json.dumps({"total": ray.cluster_resources().get("GPU"), "free": ray.available_resources().get("GPU", 0),
                  "labels": sorted(n["Labels"].get("kezek.io/node", "") for n in ray.nodes())}))
"""


def eventually(ask: Callable[[], object], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not ask():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)


@dataclass
class Cluster:
    base: Path
    process: subprocess.Popen[bytes]

    @property
    def ready(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.base / "ready.json").read_text())
        return found

    def ray_env(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        return kept | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.base / "token"),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        }

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(40) == 0


def start(base: Path, nodes: int) -> Cluster:
    base.mkdir(parents=True)
    for name, text in (("token", os.urandom(32).hex()), ("secret", os.urandom(16).hex())):
        (base / name).write_text(text)
        (base / name).chmod(0o600)
    with (base / "ray.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "scheduler.dispatch.raylocal", "--nodes", str(nodes), "--gpus", "8",
             "--token-file", str(base / "token"), "--ready-file", str(base / "ready.json")],
            cwd=ROOT, stdout=log, stderr=log,
        )  # fmt: skip
    eventually(lambda: (base / "ready.json").exists() or process.poll() is not None, 90)
    assert process.poll() is None, (base / "ray.log").read_text()[-3000:]
    return Cluster(base, process)


def bring_up_agents(cluster: Cluster) -> dict[str, str]:
    base = cluster.base
    subprocess.run(
        [sys.executable, "-m", "scheduler.dispatch.agents", "--ready-file", str(base / "ready.json"),
         "--token-file", str(base / "token"), "--secret-file", str(base / "secret"), "--state", str(base / "agents"),
         "--job-env", str(JOB_ENV), "--agents-file", str(base / "agents.json"), "--flavor", "h200"],
        cwd=ROOT, check=True, timeout=100, capture_output=True,
    )  # fmt: skip
    found: dict[str, str] = json.loads((base / "agents.json").read_text())
    return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    # A path of well over 120 characters: nothing of ours may depend on a short one.
    base = tmp_path_factory.mktemp("ray") / ("long-" * 20) / "base"
    found = start(base, nodes=2)
    try:
        bring_up_agents(found)
        yield found
    finally:
        temp_dir = Path(found.ready["temp_dir"])
        found.stop()
        assert not temp_dir.exists()


@pytest.fixture
def executor(cluster: Cluster) -> Iterator[AgentExecutor]:
    with AgentExecutor.from_files(cluster.base / "agents.json", cluster.base / "secret") as found:
        yield found


def lease_of(
    executor: AgentExecutor, node: str, attempt_id: str, rank: int, world: int, port: int, *command: str
) -> Lease:
    gpus = executor.probe(node).gpus
    return Lease(
        attempt_id=attempt_id, job_id=1, epoch=1, command=command, ranks=(RankLease(rank, (gpus[3].uuid, gpus[6].uuid)),),
        world_size=world, master_addr="127.0.0.2", master_port=port, walltime_s=80, kill_wait_s=1, flavor="h200", simulated=True,
    )  # fmt: skip


def log_at_end(executor: AgentExecutor, node: str, attempt_id: str, rank: int) -> str:
    eventually(lambda: not executor.attempt(node, attempt_id).is_alive, 80)
    text = executor.logs(node, attempt_id, rank, 0, 1_000_000).data.decode()
    assert executor.attempt(node, attempt_id).ranks[0].exit.exit_code == 0, text  # type: ignore[union-attr]
    return text


def test_rays_books_give_every_gpu_to_the_agents(cluster: Cluster) -> None:
    asked = subprocess.run(
        [sys.executable, "-c", ASKS_RAY, cluster.ready["address"]],
        env=cluster.ray_env(),
        check=True,
        capture_output=True,
        timeout=60,
    )
    books = json.loads(asked.stdout.splitlines()[-1])
    assert (books["total"], books["free"], books["labels"]) == (16, 0, ["", "n0", "n1"])


def test_a_gang_on_two_nodes_exchanges_data(executor: AgentExecutor) -> None:
    prepared = executor.prepare("n0", PrepareRequest(attempt_id="2-1", wants_endpoint=True), 1)
    assert prepared.master_addr == "127.0.0.2"
    assert prepared.master_port is not None
    for rank, node in enumerate(("n0", "n1")):
        executor.launch(
            node, lease_of(executor, node, "2-1", rank, 2, prepared.master_port, "python", "-c", RING)
        )
    gpus = {node: executor.probe(node).gpus for node in ("n0", "n1")}
    for rank, (node, other) in enumerate((("n0", "n1"), ("n1", "n0"))):
        expected = f"got {gpus[other][3].uuid},{gpus[other][6].uuid}\n"
        assert log_at_end(executor, node, "2-1", rank) == expected


def test_a_users_ray_program_sees_exactly_the_leased_gpus(executor: AgentExecutor) -> None:
    executor.launch("n1", lease_of(executor, "n1", "3-1", 0, 1, 20_000, "python", "-c", USES_RAY))
    text = log_at_end(executor, "n1", "3-1", 0)
    result = json.loads(text.partition("RESULT ")[2].splitlines()[0])
    gpus = executor.probe("n1").gpus
    assert result == {"gpus": 2.0, "nodes": 1, "mine": sorted([gpus[3].uuid, gpus[6].uuid])}


def test_a_stranger_and_a_tenant_cannot_submit_to_ray(cluster: Cluster, executor: AgentExecutor) -> None:
    jobs = f"{cluster.ready['dashboard_url']}/api/jobs/"
    body = {"entrypoint": "true"}
    assert httpx.post(jobs, json=body).status_code in {401, 403}
    assert httpx.post(jobs, json=body, headers={"Authorization": "Bearer guess"}).status_code in {401, 403}
    code = (
        "import sys, urllib.request, urllib.error\n"
        "try:\n    urllib.request.urlopen(urllib.request.Request(sys.argv[1], b'{\"entrypoint\": \"true\"}', {'Content-Type': 'application/json'}))\n"
        "except urllib.error.HTTPError as error:\n    print('refused', error.code)\n"
        "try:\n    open(sys.argv[2]).read()\n    print('READ')\n"
        "except OSError:\n    print('no token')\n"
    )
    token = str(cluster.base / "token")
    executor.launch("n0", lease_of(executor, "n0", "4-1", 0, 1, 20_000, "python", "-c", code, jobs, token))
    lines = log_at_end(executor, "n0", "4-1", 0).splitlines()
    assert lines[0] in {"refused 401", "refused 403"}
    if any(name.startswith("landlock:") for name in executor.probe("n0").isolation):
        assert lines[1] == "no token"


def test_bootstrap_again_keeps_the_agents_and_a_killed_one_comes_back(
    cluster: Cluster, executor: AgentExecutor
) -> None:
    before = json.loads((cluster.base / "agents.json").read_text())
    executor.launch("n0", lease_of(executor, "n0", "5-1", 0, 1, 20_000, "sh", "-c", "echo once; sleep 60"))
    eventually(lambda: executor.logs("n0", "5-1", 0, 0, 100).data == b"once\n", 20)
    lock = cluster.base / "agents" / "n0" / "agent.lock"
    os.kill(holder_of(lock), signal.SIGKILL)
    assert bring_up_agents(cluster) == before
    assert executor.attempt("n0", "5-1").is_alive
    executor.signal("n0", "5-1", "kill", 0, 1)  # type: ignore[arg-type]
    eventually(lambda: not executor.attempt("n0", "5-1").is_alive, 20)
    assert executor.logs("n0", "5-1", 0, 0, 100).data == b"once\n"


def control_store_of(cluster: Cluster) -> int:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if words[0].endswith(b"gcs_server") and parent == cluster.process.pid:
                return int(folder.name)
    return 0


def holder_of(path: Path) -> int:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if any(fd.readlink() == path for fd in (folder / "fd").iterdir()):
                    return int(folder.name)
            except OSError:
                continue
    raise AssertionError(f"nobody holds {path}")


def test_a_second_cluster_lives_beside_the_first_and_outlives_its_control_store(
    cluster: Cluster, executor: AgentExecutor, tmp_path: Path
) -> None:
    other = start(tmp_path / "other", nodes=1)
    try:
        assert other.ready["address"] != cluster.ready["address"]
        first = control_store_of(other)
        os.kill(first, signal.SIGKILL)
        eventually(lambda: control_store_of(other) not in {0, first}, 30)
        asked = subprocess.run(
            [sys.executable, "-c", ASKS_RAY, other.ready["address"]],
            env=other.ray_env(),
            check=True,
            capture_output=True,
            timeout=60,
        )
        books = json.loads(asked.stdout.splitlines()[-1])
        assert (books["total"], books["labels"]) == (8, ["", "n0"])
    finally:
        other.stop()
    assert executor.probe("n0").node == "n0"
