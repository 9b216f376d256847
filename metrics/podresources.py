"""Which pod the kubelet gave which GPU to: its pod-resources API, read through the kubelet's own socket.

The call is ``v1.PodResourcesLister/List``. Seven fields of its answer matter; they are decoded by hand, so that the
exporter stays small: gRPC is loaded only when a socket is named, protobuf never.

Source: k8s.io/kubelet/pkg/apis/podresources/v1/api.proto; protobuf.dev, "Encoding".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Seconds that the kubelet may take: it answers from memory; below the least scrape's limit.
CALL_TIMEOUT_S: Final = 2.0
#: Largest answer: 250 pods (the kubelet's common limit is 110) with every CPU and device listed.
MAX_ANSWER_BYTES: Final = 4 * 2**20
#: Devices shown: a node has at most 64 GPUs of up to 7 slices, each given to one container.
MAX_DEVICES: Final = 512

_METHOD: Final = "/v1.PodResourcesLister/List"
# "GPU-…" and "MIG-…" as NVML has them; NVIDIA's plugin adds "::2" to a GPU it gives out several times.
_UUID: Final = re.compile(r"((?:GPU|MIG)-[0-9A-Za-z/-]{8,90})(?:::[0-9]+)?")
_GPU_RESOURCE: Final = re.compile(r"nvidia\.com/(?:gpu|mig-[0-9a-z.+-]+)(?:\.shared)?")
_MAX_VARINT_BITS: Final = 64


class PodResourcesError(Exception):
    """The kubelet did not answer, or with something that is not its answer."""


@dataclass(frozen=True, slots=True, order=True)
class PodDevice:
    """A device that a container holds.

    Attributes:
        uuid: NVML's UUID of the GPU or the MIG instance.
        namespace: Of the pod.
        pod: Its name.
        container: Name of the container.
    """

    uuid: str
    namespace: str
    pod: str
    container: str


@dataclass(frozen=True, slots=True)
class PodDevices:
    """What the kubelet says of GPUs.

    Attributes:
        devices: By UUID.
        unresolved: GPU devices whose id is no UUID (a plugin that gives indexes); nothing is guessed of them.
    """

    devices: tuple[PodDevice, ...]
    unresolved: int


def parse(answer: bytes) -> PodDevices:
    """The GPUs in an encoded ``ListPodResourcesResponse``.

    Raises:
        PodResourcesError: It is not one.
    """
    found: list[PodDevice] = []
    unresolved = 0
    try:
        for namespace, pod, container, device_id in _devices(answer):
            uuid = _UUID.fullmatch(device_id)
            if uuid is None:
                unresolved += 1
            else:
                found.append(PodDevice(uuid[1], namespace, pod, container))
    except (IndexError, UnicodeDecodeError) as error:
        raise PodResourcesError(f"the kubelet's answer cannot be read: {error}") from error
    return PodDevices(tuple(sorted(set(found))[:MAX_DEVICES]), unresolved)


def lister(socket: Path) -> Callable[[], PodDevices]:
    """A function that asks the kubelet.

    Args:
        socket: The kubelet's, usually ``/var/lib/kubelet/pod-resources/kubelet.sock``.

    Returns:
        Raises ``PodResourcesError`` when called and the kubelet does not answer in ``CALL_TIMEOUT_S``.
    """
    import grpc  # noqa: PLC0415 (15 MiB that an exporter outside Kubernetes does not need)

    channel = grpc.insecure_channel(
        f"unix:{socket.absolute()}",
        options=(
            ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
            ("grpc.max_reconnect_backoff_ms", 1000),  # a restarted kubelet is found within a scrape
            ("grpc.enable_http_proxy", 0),
        ),
    )
    call = channel.unary_unary(_METHOD)

    def ask() -> PodDevices:
        try:
            answer = call(b"", timeout=CALL_TIMEOUT_S)
        except grpc.RpcError as error:
            raise PodResourcesError(
                f"the kubelet does not answer at {socket}: {error.code().name}"
            ) from error
        return parse(answer)

    return ask


def _devices(answer: bytes) -> Iterator[tuple[str, str, str, str]]:
    """Namespace, pod, container and device id of each GPU device."""
    for pod in _messages(answer, 1):
        name, namespace = _text(pod, 1), _text(pod, 2)
        for container in _messages(pod, 3):
            for devices in _messages(container, 2):
                if _GPU_RESOURCE.fullmatch(_text(devices, 1)):
                    for device_id in _messages(devices, 2):
                        yield namespace, name, _text(container, 1), device_id.decode()


def _text(message: bytes, number: int) -> str:
    """A string field; the last one counts, as everywhere in protobuf, and an absent one is empty."""
    text = b""
    for text in _messages(message, number):  # noqa: B007 (the last is wanted)
        pass
    return text.decode()


def _messages(message: bytes, number: int) -> Iterator[bytes]:
    """Fields of a message that have this number and a length; fields that we do not know are passed over."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        match key & 0x7:
            case 0:
                _, at = _varint(message, at)
            case 1:
                at += 8
            case 2:
                size, at = _varint(message, at)
                if at + size > len(message):
                    raise IndexError("a field ends behind its message")
                if key >> 3 == number:
                    yield message[at : at + size]
                at += size
            case 5:
                at += 4
            case kind:
                raise IndexError(f"a field of wire type {kind}")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number of variable length, and where it ends."""
    value = 0
    for shift in range(0, _MAX_VARINT_BITS + 6, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 (the bit that says that more follows)
            return value, at
    raise IndexError("a number that does not end")
