"""Keeping the files a rank was asked to leave, with their digests. Standard library only.

Runs when every process of the rank is dead, so that nothing can change underneath.
"""
# ruff: noqa: PTH101, PTH103, PTH104, PTH118, PTH120, PTH123, PTH207 - the shepherd does without pathlib

from __future__ import annotations

import glob
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator

MAX_OUTPUT_FILES = 1_000
"""Files kept per rank: outputs are results, not a file system."""
MAX_OUTPUT_BYTES = 4 * 1024**3
"""Bytes kept per rank: a checkpoint of a small model; larger data belongs to project storage."""
MAX_CANDIDATES = 100_000
"""Directory entries looked at per rank: bounds the walk over a scratch directory of any shape."""
_CHUNK_BYTES = 1024 * 1024


def collect(
    scratch: str, patterns: Iterable[str], kept_dir: str
) -> tuple[list[dict[str, object]], str | None]:
    """Move the matching regular files from `scratch` into `kept_dir`.

    A directory that matches is kept with all below. Symbolic links, devices and anything reached
    through a link are passed over; names beginning with a dot match only a pattern that says so.

    Args:
        scratch: the rank's scratch directory.
        patterns: shell patterns relative to it, ``**`` for any depth.
        kept_dir: where the files go, with their relative paths; on the same file system.

    Returns:
        The files (path, size_bytes, sha256) by path, and why some were left behind, None if none were.

    Raises:
        OSError: the file system fails.
    """
    root = os.path.realpath(scratch)
    found: list[dict[str, object]] = []
    total_bytes = 0
    matching = sorted(_candidates(root, patterns))
    named = [path for path in matching if _is_utf8(path)]
    unnamed = len(matching) - len(named)
    for path in named:
        source = os.path.join(root, path)
        size_bytes = os.lstat(source).st_size
        if len(found) >= MAX_OUTPUT_FILES:
            return found, f"more than {MAX_OUTPUT_FILES} files match; kept the first by name"
        if total_bytes + size_bytes > MAX_OUTPUT_BYTES:
            return (
                found,
                f"the outputs exceed {MAX_OUTPUT_BYTES} bytes at {path!r}; it and later ones are left",
            )
        target = os.path.join(kept_dir, path)
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        os.rename(source, target)
        os.chmod(target, 0o600)
        os.chown(target, os.geteuid(), os.getegid())
        found.append({"path": path, "size_bytes": size_bytes, "sha256": _digest(target)})
        total_bytes += size_bytes
    return found, f"files left whose names are not UTF-8: {unnamed}; rename them" if unnamed else None


def _is_utf8(path: str) -> bool:
    """Whether the platform can write the name down: Linux allows any bytes in one."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_safe_pattern(pattern: str) -> bool:
    """Whether a pattern stays below the scratch directory by its spelling."""
    return bool(pattern) and not pattern.startswith("/") and ".." not in pattern.split("/")


def _candidates(root: str, patterns: Iterable[str]) -> set[str]:
    found: set[str] = set()
    looked_at = 0
    for pattern in patterns:
        if not is_safe_pattern(pattern):
            continue
        for match in glob.iglob(pattern, root_dir=root, recursive=True):
            for path in _files_below(root, os.path.normpath(match)):
                looked_at += 1
                if looked_at > MAX_CANDIDATES:
                    return found
                found.add(path)
    return found


def _files_below(root: str, path: str) -> Iterator[str]:
    full = os.path.normpath(os.path.join(root, path))
    if os.path.realpath(full) != full:
        return  # a link somewhere on the way
    mode = os.lstat(full).st_mode
    if stat.S_ISREG(mode):
        yield path
    elif stat.S_ISDIR(mode):
        for base, folders, files in os.walk(full):
            folders[:] = sorted(f for f in folders if not f.startswith("."))
            for name in sorted(files):
                inner = os.path.join(base, name)
                if not name.startswith(".") and stat.S_ISREG(os.lstat(inner).st_mode):
                    yield os.path.relpath(inner, root)


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
