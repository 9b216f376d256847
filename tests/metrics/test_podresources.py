"""Which pod holds which GPU: a real gRPC server on a socket of its own, and messages that protobuf itself encodes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from metrics.podresources import MAX_DEVICES, PodDevice, PodDevices, PodResourcesError, lister, parse

GPU0 = "GPU-00000000-0000-0000-0000-000000000000"
GPU1 = "GPU-00000000-0000-0000-0000-000000000001"
SLICE = "MIG-00000000-0000-0000-0000-000000000005"

# The part of kubelet's v1/api.proto that a GPU node fills, field numbers as there.
MESSAGES: dict[str, tuple[tuple[str, int, str], ...]] = {
    "TopologyInfo": (("id", 3, "int64"),),
    "ContainerDevices": (
        ("resource_name", 1, "string"),
        ("device_ids", 2, "string*"),
        ("topology", 3, "TopologyInfo"),
    ),
    "ContainerMemory": (("memory_type", 1, "string"), ("size", 2, "uint64")),
    "ContainerResources": (
        *(("name", 1, "string"), ("devices", 2, "ContainerDevices*"), ("cpu_ids", 3, "int64*")),
        ("memory", 4, "ContainerMemory*"),
    ),
    "PodResources": (
        ("name", 1, "string"),
        ("namespace", 2, "string"),
        ("containers", 3, "ContainerResources*"),
    ),
    "ListPodResourcesResponse": (("pod_resources", 1, "PodResources*"),),
}


def _schema() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="podresources.proto", package="v1", syntax="proto3")
    kinds = {"string": 9, "int64": 3, "uint64": 4}
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            plain = kind.removesuffix("*")
            label = 3 if kind.endswith("*") else 1
            if plain in kinds:
                message.field.add(name=field, number=number, type=kinds[plain], label=label)
            else:
                message.field.add(name=field, number=number, type=11, type_name=f".v1.{plain}", label=label)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"v1.{name}")) for name in MESSAGES
    }


SCHEMA = _schema()


def answer(*pods: tuple[str, str, list[tuple[str, list[tuple[str, list[str]]]]]]) -> bytes:
    """The encoded answer for pods: name, namespace, containers with their devices by resource."""
    made = SCHEMA["ListPodResourcesResponse"]()
    for name, namespace, containers in pods:
        pod = made.pod_resources.add(name=name, namespace=namespace)
        for container_name, resources in containers:
            container = pod.containers.add(name=container_name, cpu_ids=[0, 1, 130])
            container.memory.add(memory_type="memory", size=2**40)
            for resource, ids in resources:
                devices = container.devices.add(resource_name=resource, device_ids=ids)
                devices.topology.id = 1
    data: bytes = made.SerializeToString()
    return data


TRAINING = ("train-0", "team-a", [("main", [("nvidia.com/gpu", [GPU0, GPU1]), ("rdma/hca", ["mlx5_0"])])])
SLICED = ("notebook", "team-b", [("side", []), ("main", [("nvidia.com/mig-1g.10gb", [SLICE])])])


class Kubelet:
    """A gRPC server that answers as told."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.data = b""
        self.released = threading.Event()
        self.released.set()

    def list(self, _request: bytes, _context: Any) -> bytes:
        self.released.wait(20)
        return self.data

    def serve(self) -> grpc.Server:
        server = grpc.server(futures.ThreadPoolExecutor(2))
        methods = {"List": grpc.unary_unary_rpc_method_handler(self.list)}
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("v1.PodResourcesLister", methods),)
        )
        server.add_insecure_port(f"unix:{self.socket}")
        server.start()
        return server


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[Kubelet]:
    found = Kubelet(tmp_path / "kubelet.sock")
    server = found.serve()
    yield found
    found.released.set()
    server.stop(0).wait(10)


def test_devices_of_pods_are_listed(kubelet: Kubelet) -> None:
    kubelet.data = answer(TRAINING, SLICED, ("idle", "team-b", [("main", [])]))
    assert lister(kubelet.socket)() == PodDevices(
        (
            PodDevice(GPU0, "team-a", "train-0", "main"),
            PodDevice(GPU1, "team-a", "train-0", "main"),
            PodDevice(SLICE, "team-b", "notebook", "main"),
        ),
        unresolved=0,
    )
    kubelet.data = b""
    assert lister(kubelet.socket)() == PodDevices((), 0)


def test_a_kubelet_that_is_away_or_hangs_is_told(kubelet: Kubelet, tmp_path: Path) -> None:
    with pytest.raises(PodResourcesError, match="UNAVAILABLE"):
        lister(tmp_path / "none.sock")()
    kubelet.released.clear()
    with pytest.raises(PodResourcesError, match="DEADLINE_EXCEEDED"):
        lister(kubelet.socket)()


@pytest.mark.parametrize(
    ("device_id", "uuid"),
    [
        (GPU0, GPU0),
        (f"{GPU0}::3", GPU0),
        (SLICE, SLICE),
        ("MIG-GPU-8932f937-d72c-4106-c12f-20bd9faed9f6/1/0",) * 2,
    ],
)
def test_ids_of_devices_are_those_of_nvml(device_id: str, uuid: str) -> None:
    found = parse(answer(("p", "n", [("c", [("nvidia.com/gpu", [device_id])])])))
    assert found == PodDevices((PodDevice(uuid, "n", "p", "c"),), 0)


def test_an_index_is_no_uuid_and_nothing_is_guessed() -> None:
    ids = ["0", "nvidia0/gi3", "GPU-x", f"{GPU0}/vgpu 1"]
    assert parse(answer(("p", "n", [("c", [("nvidia.com/gpu", ids)])]))) == PodDevices((), len(ids))


def test_time_slicing_shows_every_holder() -> None:
    pods = [
        (f"p{number}", "n", [("c", [("nvidia.com/gpu.shared", [f"{GPU0}::{number}"])])])
        for number in range(3)
    ]
    found = parse(answer(*pods))
    assert [(device.uuid, device.pod) for device in found.devices] == [
        (GPU0, f"p{number}") for number in range(3)
    ]


def test_the_number_of_devices_is_bounded() -> None:
    ids = [f"GPU-00000000-0000-0000-0000-{number:012d}" for number in range(MAX_DEVICES + 5)]
    assert len(parse(answer(("p", "n", [("c", [("nvidia.com/gpu", ids)])]))).devices) == MAX_DEVICES


@given(st.binary(max_size=200))
def test_no_answer_breaks_the_reader(data: bytes) -> None:
    try:
        parse(data)
    except PodResourcesError:
        return


@given(st.integers(0, 300), st.integers(0, 255))
def test_an_answer_that_was_damaged_is_read_or_refused(place: int, byte: int) -> None:
    data = bytearray(answer(TRAINING, SLICED))
    data[place % len(data)] = byte
    try:
        parse(bytes(data))
    except PodResourcesError:
        return


def test_the_exporter_tells_which_pod_holds_which_gpu(
    kubelet: Kubelet, make_driver: Any, serve: Callable[..., Any]
) -> None:
    kubelet.data = answer(TRAINING, ("index", "team-b", [("main", [("nvidia.com/gpu", ["3"])])]))
    driver = make_driver("count 2")
    served = serve("--node", "n1", "--pod-resources", str(kubelet.socket), driver=driver)
    scrape = served.scrape()
    of = {"node": "n1", "kube_namespace": "team-a", "kube_pod": "train-0", "kube_container": "main"}
    assert scrape.samples["kezek_gpu_pod_info"] == [({"uuid": uuid, **of}, 1.0) for uuid in (GPU0, GPU1)]
    assert scrape.value("kezek_kubelet_query_success", node="n1") == 1
    assert scrape.value("kezek_kubelet_unresolved_devices", node="n1") == 1
    status = Path(f"/proc/{served.process.pid}/status").read_text()
    resident_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    assert resident_kib * 1024 < 60_000_000

    kubelet.released.clear()  # it hangs: the GPUs are told all the same
    scrape = served.scrape(timeout_s=4)
    assert scrape.value("kezek_kubelet_query_success", node="n1") == 0
    assert "kezek_gpu_pod_info" not in scrape.samples
    assert scrape.value("kezek_gpu_collect_success", node="n1") == 1
    assert scrape.value("kezek_gpus_live", node="n1") == 2
    kubelet.released.set()
    assert served.scrape().value("kezek_kubelet_query_success", node="n1") == 1


def test_without_a_kubelet_none_is_asked(make_driver: Any, once: Any) -> None:
    run = once("--node", "n1", driver=make_driver("count 1"))
    assert "kezek_kubelet" not in run.stdout
    refused = once("--simulated", "--pod-resources", "/x", driver=make_driver("count 1"))
    assert refused.returncode == 2
    assert "no pod holds a simulated one" in refused.stderr
