"""The user's files as one deterministic tar.gz: the same files give the same bytes, hence the same digest."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kezek.errors import UsageFaultError

MAX_BUNDLE_BYTES = 8 * 1024 * 1024
"""Largest bundle, packed [bytes]; the platform takes no larger one. Code, not data."""
MAX_UNPACKED_BYTES = 64 * 1024 * 1024
"""Largest bundle, unpacked [bytes], archive headers included; nodes take no larger one."""
MAX_FILES = 2_000
"""Files in a bundle; nodes take no more."""
SKIPPED_FOLDERS = frozenset(
    {"__pycache__", ".git", ".hg", ".venv", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
)
"""Folders left out of a folder that is packed: caches and histories, never code a job needs."""
_LEVEL = 6
"""Compression level: zlib's own default."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A packed bundle.

    Args:
        data: the tar.gz.
        names: path of every file in it, sorted.
        digest: SHA-256 (hex) of `data`.
    """

    data: bytes
    names: tuple[str, ...]
    digest: str


def name_in_bundle(path: Path, base: Path) -> str:
    """Path a file gets in the job's folder: relative to `base` if below it, else its bare name."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would rename symbolic links
    if absolute.is_relative_to(base):
        return absolute.relative_to(base).as_posix()
    return absolute.name


def pack(paths: Iterable[Path], base: Path) -> Bundle:
    """Pack files and folders.

    Args:
        paths: files, or folders with all they hold; symbolic links to files are packed as files.
        base: absolute folder against which names are taken.

    Raises:
        UsageFaultError: a path is missing, unreadable, not a file or folder, or two would get one name; the
            bundle would be larger than a limit.
    """
    files: dict[str, Path] = {}
    for name, path in (pair for given in paths for pair in _files(given, base)):
        if name in files and not path.samefile(files[name]):
            raise UsageFaultError("bundle.same_name", name=name, first=str(files[name]), second=str(path))
        files[name] = path
        if len(files) > MAX_FILES:
            raise UsageFaultError("bundle.too_many", limit=MAX_FILES)
    plain = _tar(files)
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=packed, mode="wb", compresslevel=_LEVEL, mtime=0) as zipped:
        zipped.write(plain)
    data = packed.getvalue()
    if len(data) > MAX_BUNDLE_BYTES:
        largest = max(files.values(), key=lambda path: path.stat().st_size)
        raise UsageFaultError(
            "bundle.too_large", size=len(data), limit=MAX_BUNDLE_BYTES, largest=str(largest)
        )
    return Bundle(data, tuple(sorted(files)), hashlib.sha256(data).hexdigest())


def _files(path: Path, base: Path) -> Iterator[tuple[str, Path]]:
    """Every file that a path stands for, with its name in the bundle."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise UsageFaultError("bundle.unreadable", path=str(path), why=error.strerror or "") from error
    if stat.S_ISREG(mode):
        yield name_in_bundle(path, base), path
    elif stat.S_ISDIR(mode):
        yield from _files_of_folder(path, base)
    else:
        raise UsageFaultError("bundle.not_a_file", path=str(path))


def _files_of_folder(folder: Path, base: Path) -> Iterator[tuple[str, Path]]:
    prefix = name_in_bundle(folder, base)
    for parent, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(set(folders) - SKIPPED_FOLDERS)
        for name in folders:
            if Path(parent, name).is_symlink():
                raise UsageFaultError("bundle.linked_folder", path=str(Path(parent, name)))
        for name in sorted(names):
            path = Path(parent, name)
            if not path.is_file():
                raise UsageFaultError("bundle.not_a_file", path=str(path))
            yield Path(prefix, path.relative_to(folder)).as_posix(), path


def _refuse(error: OSError) -> None:
    raise UsageFaultError("bundle.unreadable", path=str(error.filename), why=error.strerror or "") from error


def _tar(files: dict[str, Path]) -> bytes:
    """An uncompressed archive with nothing of this machine in it: no time, owner or mode but "may run"."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(files):
            path = files[name]
            try:
                room = MAX_UNPACKED_BYTES - plain.tell()
                if path.stat().st_size > room:
                    raise UsageFaultError(
                        "bundle.unpacks_too_large", path=str(path), limit=MAX_UNPACKED_BYTES
                    )
                data = path.read_bytes()
                is_program = bool(path.stat().st_mode & 0o100)
            except OSError as error:
                why = error.strerror or ""
                raise UsageFaultError("bundle.unreadable", path=str(path), why=why) from error
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(data), 0o755 if is_program else 0o644, 0
            archive.addfile(member, io.BytesIO(data))
    if plain.tell() > MAX_UNPACKED_BYTES:
        raise UsageFaultError("bundle.unpacks_too_large", path="", limit=MAX_UNPACKED_BYTES)
    return plain.getvalue()
