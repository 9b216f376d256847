"""Which files of a rank are kept."""

from __future__ import annotations

import os

from scheduler.agent.harvest import collect


def test_a_name_that_is_not_utf8_is_left_and_said(tmp_path):
    scratch, kept = tmp_path / "scratch", tmp_path / "kept"
    scratch.mkdir()
    (scratch / "model.bin").write_bytes(b"weights")
    unnamed = scratch / os.fsdecode(b"model-\xff.bin")
    unnamed.write_bytes(b"weights")
    found, why = collect(str(scratch), ["*.bin"], str(kept))
    assert [output["path"] for output in found] == ["model.bin"]
    assert why is not None
    assert why.startswith("files left whose names are not UTF-8: 1")
    assert list(scratch.iterdir()) == [unnamed]
