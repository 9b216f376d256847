"""What start-up says about the confinement of tenants' programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def confinement(isolations: Sequence[Iterable[str]], *, is_root: bool) -> list[str]:
    """Say what confines ranks on every node, and what follows from the protections that some node lacks.

    Args:
        isolations: names of the protections in force, per node.
        is_root: whether the platform runs as root.
    """
    everywhere = set.intersection(*map(set, isolations)) if isolations else set()
    lines = [f"ranks are confined on every node by: {', '.join(sorted(everywhere)) or 'nothing'}"]
    if not any(name.startswith("landlock:") for name in everywhere):
        lines.append(
            "WARNING: no Landlock on some node: a tenant's program reads there what the platform's own user "
            "can read, its secrets and other tenants' files among it. Run trusted code only."
        )
    if "mount-ns" not in everywhere:
        lines.append(
            "WARNING: no mount namespaces on some node: a tenant's program can connect there to the Unix "
            "sockets of Ray and of the embedded PostgreSQL. Run trusted code only."
        )
    if "uid:per-attempt" not in everywhere:
        why = (
            "a folder on the way to the state or to the interpreter of the job environment is private"
            if is_root
            else "only a platform that runs as root can give others"
        )
        lines.append(f"ranks share the platform's uid: {why}")
    return lines
