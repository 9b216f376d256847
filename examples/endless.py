"""A job that never ends by itself: told to stop, it saves what it has and ends with 143."""

import json
import signal
import sys
import time
from pathlib import Path

STEP_S = 0.05
STEPS_PER_LINE = 10


class StopRequestedError(Exception):
    """SIGTERM came: the walltime is over, or somebody cancelled the job."""


def stop(*_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not break the saving
    raise StopRequestedError


def main():
    step, total = 0, 0.0
    try:
        signal.signal(signal.SIGTERM, stop)
        print("started: works until it is stopped", flush=True)
        while True:
            step += 1
            total += 1.0 / (step * step)
            if step % STEPS_PER_LINE == 0:
                print(f"step={step} total={total:.6f}", flush=True)
            time.sleep(STEP_S)
    except StopRequestedError:
        Path("progress.json").write_text(json.dumps({"step": step, "total": total}), encoding="utf-8")
        print(f"stopped at step {step}: progress.json is saved", flush=True)
        return 128 + signal.SIGTERM


if __name__ == "__main__":
    sys.exit(main())
