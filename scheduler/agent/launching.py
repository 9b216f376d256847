"""From a lease to a shepherd: the files of an attempt, the rank's environment, the start."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scheduler.agent.bundles import BundleStore
from scheduler.agent.checkpoints import CheckpointFolders, newest_ns
from scheduler.agent.cpus import Cpus, spell
from scheduler.agent.isolation import Protections
from scheduler.agent.spec import Spec
from scheduler.agent.state import StateDir, sync_folder, write_json
from scheduler.dispatch.wire import Lease, RankLease

LOG_CAP_BYTES = 64 * 1024 * 1024
"""A rank's log [bytes]: days of ordinary output; a runaway loop fills it in seconds and no more."""
_SHEPHERD = Path(__file__).with_name("shepherd.py")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class RankFiles:
    """The files of one rank inside its attempt's folder."""

    folder: Path
    rank: int

    def __post_init__(self) -> None:
        """A rank is a number; nothing else becomes a path.

        Raises:
            ValueError: negative.
        """
        if self.rank < 0:
            raise ValueError(f"rank {self.rank} is negative")

    @property
    def spec(self) -> Path:
        """What the shepherd is told."""
        return self.folder / f"rank-{self.rank}.spec"

    @property
    def log(self) -> Path:
        """Output and errors, merged."""
        return self.folder / f"rank-{self.rank}.log"

    @property
    def lock(self) -> Path:
        """Held by the living shepherd."""
        return self.folder / f"rank-{self.rank}.lock"

    @property
    def control(self) -> Path:
        """FIFO of commands to the shepherd."""
        return self.folder / f"control-{self.rank}"

    @property
    def start(self) -> Path:
        """Written when the rank runs or could not be run."""
        return self.folder / f"start-{self.rank}.json"

    @property
    def exit(self) -> Path:
        """Written when the absence of the rank is proven."""
        return self.folder / f"exit-{self.rank}.json"

    @property
    def seqs(self) -> Path:
        """Numbers of the rank's events."""
        return self.folder / f"seq-{self.rank}.json"

    @property
    def scratch(self) -> Path:
        """Working directory of the rank."""
        return self.folder / f"scratch-{self.rank}"

    @property
    def outputs(self) -> Path:
        """Files kept."""
        return self.folder / f"outputs-{self.rank}"


@dataclass(frozen=True, slots=True)
class RankCpus:
    """CPUs of a lease's ranks on this node.

    Attributes:
        own: those that a rank alone is bound to, by rank; a rank that is not here shares.
        left: those that ranks without CPUs of their own share.
        aside: how many are set aside for each rank, 1 or more: what its programs count on.
    """

    own: Mapping[int, Cpus]
    left: Cpus
    aside: Mapping[int, int]

    def of(self, rank: int) -> Cpus:
        """The CPUs that a rank begins on."""
        return self.own.get(rank, self.left)


@dataclass(frozen=True, slots=True)
class Launcher:
    """Starts ranks on one node.

    Attributes:
        node: the node's name.
        state: its state directory.
        bundles: its bundles.
        protections: what every rank gets.
        job_env: the environment ranks run in.
        checkpoints: where jobs save their work.
    """

    node: str
    state: StateDir
    bundles: BundleStore
    protections: Protections
    job_env: Path
    checkpoints: CheckpointFolders

    def folder(self, attempt_id: str) -> Path:
        """Where an attempt's files are."""
        return self.state.attempts / attempt_id

    def commit(self, lease: Lease, committed_at: float, uid: int | None, cpus: RankCpus) -> None:
        """Write the attempt's folder; when it returns, the attempt exists, whatever happens next.

        Raises:
            RefusalError: the bundle is not there.
            OSError: the file system fails; nothing is left.
        """
        final = self.folder(lease.attempt_id)
        made = self.state.trash / f"new-{secrets.token_hex(8)}"
        made.mkdir(mode=0o711)
        links: list[Path] = []
        try:
            links.extend(self._prepare_rank(lease, rank, made, uid, cpus) for rank in lease.ranks)
            own = {str(rank): spell(own) for rank, own in cpus.own.items()}
            record = {"lease": lease.to_json(), "committed_at": committed_at, "uid": uid, "cpus": own}
            write_json(made / "lease.json", record, is_durable=True)
            made.rename(final)
            sync_folder(self.state.attempts)
        except BaseException:
            for link in links:
                link.unlink(missing_ok=True)
            if made.exists():
                self.state.discard(made)
            raise

    def _prepare_rank(
        self, lease: Lease, rank: RankLease, made: Path, uid: int | None, cpus: RankCpus
    ) -> Path:
        final = RankFiles(self.folder(lease.attempt_id), rank.rank)
        here = RankFiles(made, rank.rank)
        here.scratch.mkdir(mode=0o700)
        here.outputs.mkdir(mode=0o700)
        if lease.bundle is not None:
            self.bundles.unpack(lease.bundle, here.scratch)
        for name in (".home", ".tmp"):
            (here.scratch / name).mkdir(mode=0o700, exist_ok=True)
        if uid is not None:
            for path in (here.scratch, *here.scratch.rglob("*")):
                os.chown(path, uid, uid)
        saved = self.checkpoints.open(lease.attempt_id, lease.job_id, rank.rank, uid)
        # What former attempts saved is no checkpoint of this one.
        write_json(here.seqs, {"newest_ns": newest_ns(saved)}, is_durable=False)
        os.mkfifo(here.control, 0o600)
        # A short path: sockets below it (Ray's, multiprocessing's) have at most 107 characters.
        link = Path(tempfile.gettempdir()) / f"kz-{secrets.token_hex(6)}"
        link.symlink_to(final.scratch / ".tmp")
        spec = self._spec(lease, rank, final, str(link), uid)
        spec["cpus"] = sorted(cpus.of(rank.rank))
        spec["env"] = _cpu_environment(cpus.aside[rank.rank], len(rank.gpu_uuids), spec["env"])
        write_json(here.spec, spec, is_durable=False)
        return link

    def _spec(self, lease: Lease, rank: RankLease, files: RankFiles, tmp: str, uid: int | None) -> Spec:
        return {
            "attempt_id": lease.attempt_id,
            "rank": rank.rank,
            "command": list(lease.command),
            "env": self._environment(lease, rank, files, tmp),
            "scratch": str(files.scratch),
            "log": str(files.log),
            "log_cap_bytes": LOG_CAP_BYTES,
            "lock": str(files.lock),
            "control": str(files.control),
            "notify": str(self.state.notify),
            "start_file": str(files.start),
            "exit_file": str(files.exit),
            "outputs": list(lease.outputs),
            "outputs_dir": str(files.outputs),
            "tmp_link": tmp,
            "walltime_s": lease.walltime_s,
            "kill_wait_s": lease.kill_wait_s,
            "memory_bytes": lease.memory_bytes_per_rank,
            "cpus": [],
            "isolation": self.protections.isolation(uid),
            "read": list(self.protections.read),
            "write": [
                str(files.scratch),
                str(self.checkpoints.folder(lease.job_id, rank.rank)),
                *self.protections.devices,
            ],
            "hidden": list(self.protections.hidden),
        }

    def _environment(self, lease: Lease, rank: RankLease, files: RankFiles, tmp: str) -> dict[str, str]:
        """The rank's whole environment; the platform's names win over the user's.

        Source: names read by ``torch.distributed`` (``env://``) and, with the prefix ``PET_``, by
        ``torchrun``; the NVIDIA container toolkit; Ray's ``ray_constants``.
        """
        gpus = ",".join(rank.gpu_uuids)
        world, number = str(lease.world_size), str(rank.rank)
        address, port = lease.master_addr, str(lease.master_port)
        own = {
            "PATH": f"{self.job_env / 'bin'}:{SYSTEM_PATH}",
            "HOME": str(files.scratch / ".home"),
            "TMPDIR": tmp,
            "LANG": "C.UTF-8",
            "USER": "kezek",
            "LOGNAME": "kezek",
            "PYTHONUNBUFFERED": "1",
            "KEZEK_JOB_ID": str(lease.job_id),
            "KEZEK_ATTEMPT": lease.attempt_id,
            "KEZEK_NODE": self.node,
            "KEZEK_RANK": number,
            "KEZEK_WORLD_SIZE": world,
            "KEZEK_GPUS": str(len(rank.gpu_uuids)),
            "KEZEK_CHECKPOINTS": str(self.checkpoints.folder(lease.job_id, rank.rank)),
            "KEZEK_FLAVOR": lease.flavor,
            "KEZEK_SIMULATED": "1" if lease.simulated else "0",
            "CUDA_VISIBLE_DEVICES": gpus,
            "NVIDIA_VISIBLE_DEVICES": gpus or "void",
            "RANK": number,
            "WORLD_SIZE": world,
            "LOCAL_RANK": "0",
            "NODE_RANK": number,
            "MASTER_ADDR": address,
            "MASTER_PORT": port,
            "PET_NNODES": world,
            "PET_NODE_RANK": number,
            "PET_NPROC_PER_NODE": str(max(1, len(rank.gpu_uuids))),
            "PET_MASTER_ADDR": address,
            "PET_MASTER_PORT": port,
            **_ray_environment(len(rank.gpu_uuids), tmp),
        }
        return {**lease.env, **own}

    def start(self, attempt_id: str, rank: int) -> subprocess.Popen[bytes]:
        """Start a rank's shepherd; the process returned ends as soon as the rank runs.

        Raises:
            OSError: no process can be made.
        """
        files = RankFiles(self.folder(attempt_id), rank)
        return subprocess.Popen(  # noqa: S603 - our own file in our own interpreter
            [sys.executable, "-I", "-S", "-E", str(_SHEPHERD), str(files.spec)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={"PATH": SYSTEM_PATH, "LANG": "C.UTF-8"},
        )


def _cpu_environment(aside: int, gpus: int, env: Mapping[str, str]) -> dict[str, str]:
    """The environment with the CPUs set aside; a number of threads that the user named stands.

    Source: OpenMP's OMP_NUM_THREADS is per process, and ``torchrun`` makes one for each GPU.
    """
    return {"OMP_NUM_THREADS": str(max(1, aside // max(1, gpus))), **env, "KEZEK_CPUS": str(aside)}


def _ray_environment(gpus: int, tmp: str) -> dict[str, str]:
    """So that ``ray.init()`` of a user's program makes a cluster of its own on the leased GPUs."""
    return {
        "RAY_ADDRESS": "local",
        "RAY_TMPDIR": tmp,
        "RAY_OVERRIDE_RESOURCES": json.dumps({"GPU": gpus}),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # stay on loopback instead of the first interface
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
