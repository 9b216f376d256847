"""What a tenant's program might try. Prints one JSON object: attempt → what came of it. Addresses come as arguments."""

import contextlib
import json
import os
import signal
import socket
import struct
import sys
import urllib.error
import urllib.request
from pathlib import Path

dashboard, agent, socket_dir, secrets, other_state, agent_pid = sys.argv[1:]
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


job = json.dumps({"entrypoint": "id"}).encode()
attempt("ray jobs", lambda: http(f"{dashboard}/api/jobs/", job, {"Content-Type": "application/json"}))
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
