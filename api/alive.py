"""`kezek-server alive PROCESS`: whether a process without a listener still works; the probe of its container.

The process touches a file in the state folder at each turn. Standard library only: it runs every few seconds.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

FILES: Final = {"scheduler": "scheduler.alive", "agents": "agents.alive"}
"""Which file a process touches."""

EXIT_DEAD: Final = 1
"""Exit code when the process has not been heard of in time."""


def main(arguments: Sequence[str]) -> int:
    """Return 0 if the process has worked within the time given, 1 if not."""
    parser = argparse.ArgumentParser(prog="kezek-server alive", description=__doc__)
    parser.add_argument("process", choices=sorted(FILES))
    parser.add_argument("--within", type=float, default=60.0, metavar="S", help="seconds (default 60)")
    options = parser.parse_args(arguments)
    path = Path(os.environ.get("KEZEK_STATE_DIR", "var")) / FILES[options.process]
    try:
        silent_s = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        sys.stderr.write(f"{options.process}: {path} is not there; the process has not worked yet\n")
        return EXIT_DEAD
    if silent_s > options.within:
        sys.stderr.write(
            f"{options.process}: silent for {silent_s:.0f} s, more than {options.within:.0f} s\n"
        )
        return EXIT_DEAD
    sys.stdout.write(f"{options.process}: worked {silent_s:.0f} s ago\n")
    return 0
