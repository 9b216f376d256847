"""Bundles: the user's files, checked when they arrive, unpacked when a rank starts."""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from scheduler.agent.refusal import RefusalError
from scheduler.dispatch.limits import MAX_BUNDLE_BYTES
from scheduler.dispatch.wire import AgentCode

MAX_UNPACKED_BYTES = 64 * 1024 * 1024
"""A bundle's size unpacked [bytes]: eight times the packed cap, ordinary for source text."""
MAX_MEMBERS = 2_000
"""Files and folders in a bundle: code of a project, not its data set."""
MAX_KEPT = 256
"""Bundles kept on a node: at the packed cap 2 GiB; the oldest goes, and is brought again if needed."""


class BundleStore:
    """The bundles a node has, by digest."""

    def __init__(self, folder: Path) -> None:
        """Keep them in `folder`."""
        self._folder = folder

    def has(self, sha256: str) -> bool:
        """Whether a bundle is there."""
        return self._path(sha256).exists()

    def put(self, sha256: str, data: bytes) -> None:
        """Check and keep a bundle; one already there is left as it is.

        Raises:
            RefusalError: too large, digest or contents wrong.
            OSError: the file system fails.
        """
        if len(data) > MAX_BUNDLE_BYTES:
            raise RefusalError(
                AgentCode.BODY_TOO_LARGE,
                f"the bundle has {len(data)} bytes, at most {MAX_BUNDLE_BYTES} are taken; stage data apart",
            )
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise RefusalError(AgentCode.DIGEST_MISMATCH, f"the bundle's digest is {found}; send it again")
        for _ in _members(data):
            pass
        partial = self._folder / f"{secrets.token_hex(8)}.part"
        partial.write_bytes(data)
        partial.rename(self._path(sha256))
        self._prune(sha256)

    def unpack(self, sha256: str, target: Path) -> None:
        """Unpack into an existing folder; only plain files and folders ever come out.

        Raises:
            RefusalError: it is not there (``BUNDLE_MISSING``).
            OSError: the file system fails.
        """
        try:
            data = self._path(sha256).read_bytes()
        except FileNotFoundError as error:
            raise RefusalError(
                AgentCode.BUNDLE_MISSING, f"bundle {sha256} is not on this node; PUT it, then launch again"
            ) from error
        os.utime(self._path(sha256))
        for archive, member in _members(data):
            path = target / member.name
            if member.isdir():
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            source = archive.extractfile(member)
            if source is not None:
                path.write_bytes(source.read())
                path.chmod(0o700 if member.mode & 0o111 else 0o600)

    def _path(self, sha256: str) -> Path:
        return self._folder / f"{sha256}.tar.gz"

    def _prune(self, newest: str) -> None:
        kept = sorted(self._folder.glob("*.tar.gz"), key=lambda p: (p.stat().st_mtime_ns, p.name))
        for path in kept[: max(0, len(kept) - MAX_KEPT)]:
            if path != self._path(newest):
                path.unlink(missing_ok=True)


def _members(data: bytes) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The members of a bundle, each checked before it is given out.

    Raises:
        RefusalError: not a gzipped tar, too large, too many, or a member that is not plain.
    """
    try:
        inflate = zlib.decompressobj(wbits=31)
        plain = inflate.decompress(data, MAX_UNPACKED_BYTES)
        if inflate.unconsumed_tail or not inflate.eof:
            raise _invalid(f"it is cut short or unpacks to more than {MAX_UNPACKED_BYTES} bytes")
        with tarfile.open(fileobj=io.BytesIO(plain), mode="r:") as archive:
            for count, member in enumerate(archive, 1):
                if count > MAX_MEMBERS:
                    raise _invalid(f"it has more than {MAX_MEMBERS} members")
                _check_member(member)
                yield archive, member
    except (zlib.error, tarfile.TarError, EOFError) as error:
        raise _invalid(f"it is not a tar.gz archive ({error})") from error


def _check_member(member: tarfile.TarInfo) -> None:
    name = member.name
    if not (member.isreg() or member.isdir()):
        raise _invalid(f"member {name!r} is neither a file nor a folder; links and devices are not taken")
    if name.startswith("/") or "\0" in name or ".." in name.split("/"):
        raise _invalid(f"member {name!r} leaves the bundle; use paths below the job's folder")


def _invalid(why: str) -> RefusalError:
    return RefusalError(AgentCode.BUNDLE_INVALID, f"the bundle is refused: {why}")
