import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from kezek import UsageFaultError, bundle, pack
from scheduler.agent import bundles as agent
from scheduler.dispatch import limits


def names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        return archive.getnames()


def test_the_same_files_give_the_same_bytes_whenever_and_in_whatever_order(tmp_path: Path) -> None:
    for name in ("b.py", "a.py", "қаз.txt"):
        (tmp_path / name).write_text(name)
    paths = [tmp_path / name for name in ("b.py", "a.py", "қаз.txt")]
    first = pack(paths, tmp_path)
    os.utime(tmp_path / "a.py", (1, 1))
    (tmp_path / "a.py").chmod(0o600)
    assert pack(reversed(paths), tmp_path) == first
    assert list(first.names) == names(first.data) == ["a.py", "b.py", "қаз.txt"]
    assert first.digest == hashlib.sha256(first.data).hexdigest()
    (tmp_path / "a.py").chmod(0o700)
    assert pack(paths, tmp_path).digest != first.digest, "a program stays a program"


def test_folders_are_packed_without_caches_and_histories(tmp_path: Path) -> None:
    for name in ("src/pkg/m.py", "src/__pycache__/m.pyc", "src/.git/config", "src/z.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "src" / "link.txt").symlink_to(tmp_path / "src" / "z.txt")
    assert pack([tmp_path / "src"], tmp_path).names == ("src/link.txt", "src/pkg/m.py", "src/z.txt")
    assert pack([tmp_path / "src"], tmp_path / "src").names == ("link.txt", "pkg/m.py", "z.txt")


def test_a_file_from_elsewhere_goes_by_its_name_and_never_twice(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        (folder / "same.py").write_text(folder.name)
    assert pack([there / "same.py", here / ".." / "there" / "same.py"], here).names == ("same.py",)
    with pytest.raises(UsageFaultError, match=r"bundle\.same_name"):
        pack([here / "same.py", there / "same.py"], here)


def test_what_cannot_be_packed_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "folder" / "pipe")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "up").symlink_to(tmp_path)
    for path, key in (
        ("missing", "unreadable"),
        ("folder/pipe", "not_a_file"),
        ("folder", "not_a_file"),
        ("linked", "linked_folder"),
    ):
        with pytest.raises(UsageFaultError, match=rf"bundle\.{key} .*{path}"):
            pack([tmp_path / path], tmp_path)


@pytest.mark.parametrize("limit", ["MAX_BUNDLE_BYTES", "MAX_UNPACKED_BYTES", "MAX_FILES"])
def test_limits_hold_at_the_edge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    paths = [tmp_path / f"{number}.bin" for number in range(3)]
    for path in paths:
        path.write_bytes(os.urandom(3000))
    packed = pack(paths, tmp_path)
    edge = {"MAX_BUNDLE_BYTES": len(packed.data), "MAX_UNPACKED_BYTES": 20_480, "MAX_FILES": 3}[limit]
    monkeypatch.setattr(bundle, limit, edge)
    assert pack(paths, tmp_path) == packed
    monkeypatch.setattr(bundle, limit, edge - 1)
    with pytest.raises(UsageFaultError, match=r"bundle\.(too_large|unpacks_too_large|too_many)"):
        pack(paths, tmp_path)


def test_the_limits_are_those_of_the_nodes() -> None:
    assert bundle.MAX_BUNDLE_BYTES == limits.MAX_BUNDLE_BYTES
    assert bundle.MAX_UNPACKED_BYTES == agent.MAX_UNPACKED_BYTES
    assert bundle.MAX_FILES == agent.MAX_MEMBERS
