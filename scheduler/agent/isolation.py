"""Which protections this node can put around a rank, found by trying them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from scheduler.agent import confine
from scheduler.agent.spec import Isolation

UID_FIRST = 50_000
"""First uid of a rank's own: below 65,536 so that containers map it, above people's and services'."""
UID_COUNT = 9_000
"""Uids before they are used again: far above the attempts alive on a node at a time."""
TRIAL_TIMEOUT_S = 20.0
"""Time for one trial [s]: it is a few system calls in a fresh interpreter."""
_SYSTEM_READ = (
    "/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin", "/usr", "/sys", "/proc",
    "/etc/alternatives", "/etc/debian_version", "/etc/fonts", "/etc/group", "/etc/gai.conf",
    "/etc/host.conf", "/etc/hostname", "/etc/hosts", "/etc/ld.so.cache", "/etc/ld.so.conf",
    "/etc/ld.so.conf.d", "/etc/localtime", "/etc/locale.alias", "/etc/mime.types",
    "/etc/nsswitch.conf", "/etc/nvidia", "/etc/OpenCL", "/etc/os-release", "/etc/passwd",
    "/etc/protocols", "/etc/resolv.conf", "/etc/services", "/etc/ssl", "/etc/timezone",
    "/run/systemd/resolve",
)  # fmt: skip
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/shm")  # noqa: S108
_GPU_DEVICES = ("nvidia*", "infiniband", "dri", "gdrdrv")


@dataclass(frozen=True, slots=True)
class Protections:
    """What every rank of this node gets.

    Attributes:
        names: as reported by the probe, ``()`` when nothing is in force.
        landlock: whether Landlock confines it.
        drop_caps: whether capabilities are dropped (root only; others have none).
        own_uid: whether each attempt gets a uid of its own.
        read: paths it may read and run.
        devices: paths it may read and write.
    """

    names: tuple[str, ...]
    landlock: bool
    drop_caps: bool
    own_uid: bool
    read: tuple[str, ...]
    devices: tuple[str, ...]

    def isolation(self, uid: int | None) -> Isolation:
        """For one rank's spec."""
        return {"landlock": self.landlock, "drop_caps": self.drop_caps, "uid": uid if self.own_uid else None}


def survey(attempts: Path, job_env: Path) -> Protections:
    """Find the strongest set of protections that works here.

    Args:
        attempts: directory of the attempts, which a rank's own uid must be able to pass through.
        job_env: the environment ranks run in.

    Returns:
        The protections; weaker ones when the kernel, a container or a path forbids the stronger.
    """
    is_root = os.geteuid() == 0
    abi = confine.landlock_abi()
    base = Path(os.path.realpath(job_env / "bin" / "python")).parent.parent
    passable = all(_others_pass(p) for p in (attempts, job_env, base))
    own_uid = is_root and passable and _works({"landlock": False, "drop_caps": True, "uid": UID_FIRST})
    drop_caps = own_uid or (is_root and _works({"landlock": False, "drop_caps": True, "uid": None}))
    landlock = abi > 0 and _works({"landlock": True, "drop_caps": False, "uid": None})
    names = ["no-new-privs"]
    names += [f"landlock:{abi}"] if landlock else []
    names += ["caps-dropped"] if drop_caps else []
    names += ["uid:per-attempt"] if own_uid else []
    gpu_devices = sorted(str(p) for pattern in _GPU_DEVICES for p in Path("/dev").glob(pattern))
    return Protections(
        names=tuple(names),
        landlock=landlock,
        drop_caps=drop_caps,
        own_uid=own_uid,
        read=(*_SYSTEM_READ, str(job_env), str(base)),
        devices=(*_DEVICES, *gpu_devices),
    )


def _works(wanted: Isolation) -> bool:
    trial = subprocess.run(  # noqa: S603 - our own file in our own interpreter
        [sys.executable, "-I", "-S", "-E", str(Path(confine.__file__)), json.dumps(wanted)],
        capture_output=True,
        timeout=TRIAL_TIMEOUT_S,
        check=False,
    )
    return trial.returncode == 0


def _others_pass(path: Path) -> bool:
    """Whether any uid may walk down to `path`."""
    try:
        real = path.resolve(strict=True)
        return all(p.stat().st_mode & 0o001 for p in (real, *real.parents))
    except OSError:
        return False
