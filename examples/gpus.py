"""Say which GPUs this rank was given, and check that they are as many as promised; writes gpus.json."""

import json
import os
import sys
from pathlib import Path


def main():
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    promised = int(os.environ.get("KEZEK_GPUS", len(visible)))
    seen = {
        "job": os.environ.get("KEZEK_JOB_ID"),
        "node": os.environ.get("KEZEK_NODE"),
        "rank": os.environ.get("RANK"),
        "gpus": visible,
    }
    print(f"job={seen['job']} node={seen['node']} rank={seen['rank']} gpus={len(visible)}", flush=True)
    for name in visible:
        print(f"gpu {name}", flush=True)
    Path("gpus.json").write_text(json.dumps(seen, indent=1), encoding="utf-8")
    if not visible:
        print("no GPU is visible: CUDA_VISIBLE_DEVICES is empty", file=sys.stderr)
        return 1
    if len(visible) != promised or len(set(visible)) != len(visible):
        print(f"{promised} GPUs were promised, {visible} are visible", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
