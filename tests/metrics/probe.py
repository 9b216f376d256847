"""Run by the tests in a process of its own: reads NVML as the platform does, prints JSON lines.

One command a line on standard input: ``inventory``, ``sample UUID``, ``open`` (again), ``xids``, ``age S``
(seconds that the source's clock goes forward). A process of its own,
because a loaded libnvidia-ml.so.1 stays loaded and would show its GPUs to every later test.
"""

import dataclasses
import json
import sys
import time

from metrics.nvml import NvmlError, UnknownGpuError, open_source


def plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {"/".join(key) if isinstance(key, tuple) else key: plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, frozenset)):
        return sorted(value) if isinstance(value, frozenset) else [plain(item) for item in value]
    return value


source = None
ahead_s = 0.0


def clock() -> float:
    return time.monotonic() + ahead_s


for line in sys.stdin:
    command, _, argument = line.strip().partition(" ")
    try:
        if command == "open":
            source = open_source(clock)
            answer: object = source is not None
        elif command == "age":
            ahead_s += float(argument)
            answer = ahead_s
        elif source is None:
            raise SystemExit("open the source first")
        elif command == "inventory":
            answer = plain(source.inventory())
        elif command == "xids":
            answer = plain(source.xids())
        else:
            answer = plain(source.sample(argument))
    except NvmlError as error:
        answer = {"error": type(error).__name__, "function": error.function, "code": error.code}
    except UnknownGpuError as error:
        answer = {"error": type(error).__name__, "text": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
