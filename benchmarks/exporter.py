"""What a scrape of the node exporter costs: time, CPU, memory, for 8 and 16 GPUs, each with a process of a rank.

Production's exporter runs over the scripted driver of the tests with a latency per driver call that is typical
of data-centre boards (assumed: 150 us; a call that reads a batch of fields 1.5 ms; MEASURED on no hardware).

Usage: python benchmarks/exporter.py [--scrapes N]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import select
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from metrics.procfs import boot_id

ROOT = Path(__file__).resolve().parents[1]
CALL_US, FIELDS_US = 150, 1500
ENDED = 1000  # attempts that an agent keeps beside those that run
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def commit() -> str:
    run = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return run.stdout.strip() or "unknown"


def machine() -> str:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return f"{os.cpu_count()} x {model}, Python {platform.python_version()}"


def build(folder: Path) -> None:
    header = next(file for file in importlib.metadata.files("nvidia-nvml-dev") or [] if file.name == "nvml.h")
    source = ROOT / "tests" / "metrics" / "fakenvml" / "fakenvml.c"
    library = folder / "libnvidia-ml.so.1"
    flags = ["-shared", "-fPIC", "-O2", "-fvisibility=hidden", f"-Wl,-soname,{library.name}"]
    include = ["-isystem", str(Path(str(header.locate())).parent)]
    subprocess.run(["cc", *flags, *include, "-o", str(library), str(source)], check=True)


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


def listening(process: subprocess.Popen[str]) -> str:
    """Address of an exporter that was just started."""
    if process.stdout is None or not select.select([process.stdout], [], [], 20)[0]:
        raise SystemExit("the exporter did not start")
    return next(word for word in process.stdout.readline().split() if word.startswith("http://"))


def ranks(folder: Path, gpus: int, stack: contextlib.ExitStack) -> list[int]:
    """Files of an agent with a rank for each GPU and many that ended; the ranks' processes, three deep."""
    for number in range(ENDED):
        ended = folder / "attempts" / f"{number}-1"
        ended.mkdir(parents=True, exist_ok=True)
        for name in ("rank-0.spec", "start-0.json", "exit-0.json"):
            (ended / name).touch()
    workers = []
    for number in range(gpus):
        leader = subprocess.Popen(
            ["sh", "-c", 'sh -c "sleep 600 & echo \\$!; wait"; true'],
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        stack.callback(os.killpg, leader.pid, 9)
        workers.append(int(leader.stdout.readline() if leader.stdout else 0))
        fields = Path(f"/proc/{leader.pid}/stat").read_text().rpartition(")")[2].split()
        lives = folder / "attempts" / f"{number}-2"
        lives.mkdir(exist_ok=True)
        (lives / "rank-0.spec").touch()
        start = {"pid": leader.pid, "start_ticks": int(fields[19]), "boot_id": boot_id()}
        (lives / "start-0.json").write_text(json.dumps(start))
    return workers


def measure(folder: Path, gpus: int, scrapes: int, latency: tuple[str, ...]) -> str:
    with contextlib.ExitStack() as stack:
        return _measure(folder, ranks(folder, gpus, stack), scrapes, latency)


def _measure(folder: Path, workers: list[int], scrapes: int, latency: tuple[str, ...]) -> str:
    state, gpus = folder / "state", len(workers)
    load = [
        line
        for index, pid in enumerate(workers)
        for line in (f"gpu {index} util 90", f"gpu {index} proc {pid} 1000")
    ]
    state.write_text("\n".join([f"count {gpus}", *latency, *load, ""]))
    env = {
        **os.environ,
        "LD_LIBRARY_PATH": str(folder),
        "FAKENVML_STATE": str(state),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "metrics.exporter_cli", "--node", "n1", "--gpus", str(gpus)]
    command += ["--agent-state", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, cwd=ROOT) as process:
        try:
            url = listening(process) + "/metrics"
            size = [len(httpx.get(url, timeout=30).content) for _ in range(3)][-1]
            before_s, took_s = cpu_s(process.pid), []
            for _ in range(scrapes):
                started_s = time.perf_counter()
                body = httpx.get(url, timeout=30).content
                took_s.append(time.perf_counter() - started_s)
            used_s = (cpu_s(process.pid) - before_s) / scrapes
            if body.count(b'evidence="descent"') != gpus:
                raise SystemExit("the exporter did not tell whose the processes are")
            series = sum(not line.startswith(b"#") for line in body.splitlines())
            resident = resident_mib(process.pid)
        finally:
            process.kill()
    p50, p99 = statistics.median(took_s) * 1000, sorted(took_s)[int(len(took_s) * 0.99)] * 1000
    share = used_s / 15 * 100
    return (
        f"| {gpus} | {'as hardware' if latency else 'none'} | {p50:.1f} | {p99:.1f} | {used_s * 1000:.1f} | "
        f"{share:.2f} % | {resident:.0f} | {series} | {size / 1024:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scrapes", type=int, default=100, help="scrapes per row (default %(default)s)")
    options = parser.parse_args()
    print(f"machine: {machine()}; commit {commit()}; {options.scrapes} scrapes a row")
    print(
        f"latency 'as hardware': {CALL_US} us a call, {FIELDS_US} us for the batch of field values (assumed)"
    )
    print(
        "| GPUs | driver latency | p50 ms | p99 ms | CPU ms per scrape | CPU at 15 s | resident MiB | series | KiB |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    slow = (f"latency {CALL_US}", f"latency nvmlDeviceGetFieldValues {FIELDS_US}")
    with tempfile.TemporaryDirectory(prefix="kezek-bench-") as name:
        folder = Path(name)
        build(folder)
        for gpus in (8, 16):
            for latency in ((), slow):
                print(measure(folder, gpus, options.scrapes, latency), flush=True)


if __name__ == "__main__":
    main()
