"""A scripted NVIDIA driver, and the processes that read it."""

import importlib.metadata
import importlib.util
import json
import os
import re
import select
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
START_DEADLINE_S = 20.0


def nvml_include_dir() -> Path:
    """Folder of NVIDIA's nvml.h (distribution nvidia-nvml-dev)."""
    files = importlib.metadata.files("nvidia-nvml-dev") or []
    return next(Path(str(file.locate())).parent for file in files if file.name == "nvml.h")


@dataclass
class Driver:
    """A directory with a libnvidia-ml.so.1 and the script it plays."""

    library_dir: Path
    state: Path
    is_recording: bool = False

    @property
    def calls_file(self) -> Path:
        return self.state.with_suffix(".calls")

    def calls(self) -> list[tuple[int, str]]:
        """Device and function of each call since the last time this was asked."""
        moved = self.calls_file.rename(self.calls_file.with_suffix(".read"))
        pairs = [line.split() for line in moved.read_text().splitlines()]
        return [(int(device), function) for device, function in pairs]

    def script(self, *lines: str) -> None:
        beside = self.state.with_suffix(".new")
        beside.write_text("".join(f"{line}\n" for line in lines))
        beside.rename(self.state)

    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "LD_LIBRARY_PATH": str(self.library_dir),
            "FAKENVML_STATE": str(self.state),
            **({"FAKENVML_CALLS": str(self.calls_file)} if self.is_recording else {}),
        }


@dataclass
class Probe:
    process: subprocess.Popen[str]

    def ask(self, command: str) -> object:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@dataclass
class Scrape:
    """One answer of an exporter: exposition names with their samples."""

    text: str
    status: int = 200
    kinds: dict[str, str] = field(default_factory=dict)
    samples: dict[str, list[tuple[dict[str, str], float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for family in text_string_to_metric_families(self.text):
            for sample in family.samples:
                self.kinds[sample.name] = family.type
                self.samples.setdefault(sample.name, []).append((dict(sample.labels), sample.value))

    def value(self, name: str, **labels: str) -> float | None:
        hits = [value for have, value in self.samples.get(name, []) if labels.items() <= have.items()]
        assert len(hits) <= 1, f"{name}{labels} is ambiguous: {hits}"
        return hits[0] if hits else None


@dataclass
class Served:
    process: subprocess.Popen[str]
    url: str
    first_line: str

    def get(self, path: str, **headers: str) -> str:
        request = urllib.request.Request(  # noqa: S310 (our own exporter on loopback)
            self.url + path, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )
        with urllib.request.urlopen(request, timeout=40) as answer:  # noqa: S310 (as above)
            return str(answer.read().decode())

    def scrape(self, timeout_s: float = 10.0) -> Scrape:
        return Scrape(self.get("/metrics", X_Prometheus_Scrape_Timeout_Seconds=str(timeout_s)))


@pytest.fixture(scope="session")
def build_driver(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Compile the library, with -DNAME if a variant is asked for, and give its directory."""
    built: dict[str, Path] = {}

    def build(variant: str) -> Path:
        if variant not in built:
            where = tmp_path_factory.mktemp("fakenvml")
            define = [f"-D{variant}"] if variant else []
            target, source = where / "libnvidia-ml.so.1", HERE / "fakenvml" / "fakenvml.c"
            warnings = ["-Wall", "-Wextra", "-Werror"]
            subprocess.run(
                [
                    "cc",
                    "-shared",
                    "-fPIC",
                    "-O1",
                    *warnings,
                    "-fvisibility=hidden",
                    *define,
                    # NVIDIA's header is not ours to warn about.
                    "-isystem",
                    nvml_include_dir(),
                    f"-Wl,-soname,{target.name}",
                    "-o",
                    target,
                    source,
                ],
                check=True,
            )
            built[variant] = where
        return built[variant]

    return build


@pytest.fixture
def make_driver(build_driver: Callable[[str], Path], tmp_path: Path) -> Callable[..., Driver]:
    def make(*lines: str, variant: str = "", is_recording: bool = False) -> Driver:
        driver = Driver(build_driver(variant), tmp_path / "state", is_recording)
        driver.script(*lines)
        return driver

    return make


@pytest.fixture
def no_driver(tmp_path: Path) -> Driver:
    empty = tmp_path / "nothing"
    empty.mkdir()
    return Driver(empty, tmp_path / "state")


@pytest.fixture
def probe() -> Iterator[Callable[[Driver], Probe]]:
    with ExitStack() as stack:

        def start(driver: Driver) -> Probe:
            process = subprocess.Popen(
                [sys.executable, str(HERE / "probe.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=driver.env(),
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return Probe(process)

        yield start


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Start an exporter on a free loopback port."""
    with ExitStack() as stack:

        def start(*args: str, driver: Driver) -> Served:
            log = stack.enter_context((tmp_path / "exporter.log").open("w"))
            process = subprocess.Popen(
                [sys.executable, "-m", "metrics.exporter_cli", *args],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=driver.env(),
                cwd=ROOT,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout is not None
            ready, _, _ = select.select([process.stdout], [], [], START_DEADLINE_S)
            assert ready, "the exporter did not start"
            line = process.stdout.readline()
            url = next(word for word in line.split() if word.startswith("http://"))
            return Served(process, url, line)

        yield start


@pytest.fixture
def once() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``exporter --once`` to its end."""

    def run(*args: str, driver: Driver) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "metrics.exporter_cli", "--once", *args],
            capture_output=True,
            text=True,
            env=driver.env(),
            cwd=ROOT,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture
def kubelet_socket(tmp_path: Path) -> Iterator[Path]:
    """The socket of a kubelet that gave the first GPU to a pod."""

    def field(number: int, data: bytes) -> bytes:
        assert len(data) < 128
        return bytes((number << 3 | 2, len(data))) + data

    devices = field(1, b"nvidia.com/gpu") + field(2, b"GPU-00000000-0000-0000-0000-000000000000")
    pod = field(1, b"train-0") + field(2, b"team-a") + field(3, field(1, b"main") + field(2, devices))
    answer = field(1, pod)
    server = grpc.server(ThreadPoolExecutor(1))
    methods = {"List": grpc.unary_unary_rpc_method_handler(lambda _request, _context: answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("v1.PodResourcesLister", methods),))
    server.add_insecure_port(f"unix:{tmp_path / 'kubelet.sock'}")
    server.start()
    yield tmp_path / "kubelet.sock"
    server.stop(0).wait(10)


@pytest.fixture(scope="session")
def rows() -> ModuleType:
    """Makers of the platform's rows (the folder is no package, so the file is loaded by its path)."""
    spec = importlib.util.spec_from_file_location("metrics_test_rows", HERE / "rows.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def nvml_include() -> Path:
    return nvml_include_dir()


@pytest.fixture
def parse() -> Callable[[str], Scrape]:
    return Scrape


@pytest.fixture(scope="session")
def documented() -> dict[str, frozenset[str]]:
    """Every name that a query may use, with its labels, from the tables of the documentation."""
    names: dict[str, frozenset[str]] = {}
    for page in ("telemetry.md", "telemetry-control-plane.md"):
        for line in (ROOT / "docs" / page).read_text().splitlines():
            if line.startswith("| `kezek_"):
                cells = [cell.strip() for cell in line.strip("|").split("|")]
                name, kind, labels = (
                    cells[0].strip("`"),
                    cells[1],
                    frozenset(re.findall(r"`(\w+)`", cells[3])),
                )
                if kind == "histogram":
                    names |= {
                        f"{name}_sum": labels,
                        f"{name}_count": labels,
                        f"{name}_bucket": labels | {"le"},
                    }
                else:
                    names[name] = labels
    return names


DEADLINE_S = 15.0


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, "the condition did not come true in time"
        threading.Event().wait(0.02)
