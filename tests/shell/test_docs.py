from __future__ import annotations

import re
from pathlib import Path

from store.journal import KINDS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "journal.md"


def test_every_kind_of_record_is_documented_and_no_other():
    table = PAGE.read_text("utf-8").split("## Kinds")[1].split("\n## ")[0]
    first_cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    documented = [kind for cell in first_cells for kind in re.findall(r"`([a-z_.]+)`", cell)]
    assert sorted(documented) == sorted(KINDS)
