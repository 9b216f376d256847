"""What a tenant's program might try. Prints one JSON object: attempt → what came of it. Addresses come as arguments."""

import contextlib
import functools
import json
import os
import signal
import socket
import struct
import sys
import urllib.error
import urllib.request
from pathlib import Path

agent, socket_dir, ray_dir, secrets, other_state, agent_pid = sys.argv[1:]
said = {}


def http(url, body=None, headers=None):
    request = urllib.request.Request(url, data=body, headers=headers or {}, method="POST" if body else "GET")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return f"{answer.status} {answer.read(200)!r}"
    except urllib.error.HTTPError as error:
        return str(error.code)


def attempt(name, call):
    try:
        said[name] = str(call())
    except BaseException as error:
        said[name] = type(error).__name__


def read_secrets():
    return [path.read_text() for path in Path(secrets).iterdir()]


def database():
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as link:
        link.settimeout(10)
        link.connect(f"{socket_dir}/.s.PGSQL.5432")
        startup = struct.pack("!I", 196608) + b"user\0kezek\0database\0kezek\0\0"
        link.sendall(struct.pack("!I", len(startup) + 4) + startup)
        answer = link.recv(64)
        kind = struct.unpack("!I", answer[5:9])[0]
        return "no password asked" if kind == 0 else f"authentication {kind} asked"


def ask(path):
    """Send a job to whatever listens there, as to Ray's job server, and return what it says."""
    job = json.dumps({"entrypoint": "id"})
    head = "POST /api/jobs/ HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as link:
        link.settimeout(5)
        link.connect(path)
        link.sendall(f"{head}{len(job)}\r\n\r\n{job}".encode())
        try:
            return f"connected: {link.recv(200)!r}"
        except TimeoutError:
            return "connected, no answer"


def sockets():
    """Paths of the platform's sockets, which the kernel tells everybody."""
    words = {word for line in Path("/proc/net/unix").read_text().splitlines() for word in line.split()[7:]}
    return sorted(word for word in words if word.startswith((socket_dir, ray_dir)))


said["sockets seen"] = str(len(sockets()))
for found in sockets():
    attempt(f"socket {found}", functools.partial(ask, found))
attempt("list ray's folder", lambda: list(Path(ray_dir).iterdir()))
attempt("ray's folder by the agent's root", lambda: list(Path(f"/proc/{agent_pid}/root{ray_dir}").iterdir()))
attempt("agent probe", lambda: http(f"{agent}/v1/probe"))
attempt(
    "agent launch",
    lambda: http(f"{agent}/v1/launch", b"{}", {"Authorization": "Bearer guess", "X-Kezek-Epoch": "99"}),
)
attempt("secrets", read_secrets)
attempt("database", database)
attempt("others' state", lambda: list(Path(other_state).iterdir()))
attempt("agent's environment", lambda: Path(f"/proc/{agent_pid}/environ").read_bytes())
attempt("kill the agent", lambda: os.kill(int(agent_pid), signal.SIGTERM))
attempt("write outside", lambda: Path("/etc/kezek-was-here").write_text("x"))
print(json.dumps(said), flush=True)
