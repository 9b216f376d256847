"""Faults of the network: a small server that drops, delays and refuses on purpose."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from kezek.model import Output

from kezek import (
    ApiError,
    Client,
    ConfigError,
    DigestMismatchError,
    JobRequest,
    LogPlace,
    NetworkError,
    ProtocolError,
    UsageFaultError,
    logs,
    retry,
    transport,
)

TOKEN = "kzk_invented"
JOB = {
    "id": 7, "project": "p", "queue": "q", "state": "COMPLETED", "name": "n", "command": ["x"], "reason": None, "place": None,
    "gpus": 1, "nodes": None, "walltime_s": 60, "flavors": ["h200"], "is_held": False, "is_cancel_requested": False,
    "is_simulated": None, "attempts": 1, "attempt": None, "exit_code": 0, "exit_signal": None, "exit_error": None,
    "gpu_seconds": 1, "submitted_at": "2026-01-01T00:00:00Z", "first_started_at": None, "finished_at": None,
}  # fmt: skip


@dataclass
class Reply:
    """One answer: `cut` sends only so many bytes of the body and drops the connection; None = none at all."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    is_dropped: bool = False


@dataclass
class Asked:
    method: str
    path: str
    key: str | None
    body: bytes


@dataclass
class Faulty:
    """A server that gives the replies in turn, the last one for ever, and keeps what it was asked."""

    url: str
    replies: list[Reply] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)

    def says(self, *replies: Reply) -> None:
        self.replies[:] = replies

    def next(self) -> Reply:
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


@pytest.fixture
def faulty() -> Iterator[Faulty]:
    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length", "0"))
            made.asked.append(
                Asked(self.command, self.path, self.headers.get("Idempotency-Key"), self.rfile.read(length))
            )
            reply = made.next()
            self.close_connection = True
            if reply.is_dropped:
                return
            self.send_response(reply.status)
            for name, value in ({"Content-Length": str(len(reply.body))} | reply.headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body[: reply.cut])

        do_GET = do_POST = handle_any  # noqa: N815 - names of the standard library

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = Faulty(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def client(faulty: Faulty, pauses: list[float]) -> Iterator[Client]:
    with Client(faulty.url, TOKEN, pause=pauses.append) as made:
        yield made


def ok(value: object, **headers: str) -> Reply:
    return Reply(200, json.dumps(value).encode(), headers)


def problem(status: int, code: str, **headers: str) -> Reply:
    body = {
        "code": code,
        "title": "t",
        "detail": "d",
        "numbers": {"a": 1, "b": None},
        "errors": [{"place": "body.x", "message": "m"}],
    }
    return Reply(status, json.dumps(body).encode(), headers)


DROPPED = Reply(is_dropped=True)
REQUEST = JobRequest(project="p", command=("x",), gpus=1)


@pytest.mark.parametrize(
    "fault",
    [
        DROPPED,
        Reply(200, json.dumps(JOB).encode(), cut=20),
        problem(503, "UNAVAILABLE"),
        Reply(502, b"<html>"),
        problem(429, "RATE_LIMITED"),
        problem(409, "IDEMPOTENCY_IN_FLIGHT"),
    ],
    ids=["dropped", "cut short", "unavailable", "a proxy's page", "rate limited", "in flight"],
)
def test_a_submit_is_sent_again_with_the_same_key_until_it_is_answered(
    faulty: Faulty, client: Client, pauses: list[float], fault: Reply
) -> None:
    faulty.says(fault, fault, ok(JOB))
    assert client.submit(REQUEST).id == 7
    assert len(faulty.asked) == 3
    assert len(pauses) == 2
    assert len({one.key for one in faulty.asked}) == 1
    assert faulty.asked[0].key
    assert len({one.body for one in faulty.asked}) == 1


def test_each_submit_has_a_key_of_its_own(faulty: Faulty, client: Client) -> None:
    faulty.says(ok(JOB))
    client.submit(REQUEST)
    client.submit(REQUEST)
    assert faulty.asked[0].key != faulty.asked[1].key


def test_retries_end_and_their_pauses_are_bounded(
    faulty: Faulty, client: Client, pauses: list[float]
) -> None:
    faulty.says(DROPPED)
    with pytest.raises(NetworkError, match="/v1/jobs/7"):
        client.job(7)
    assert len(faulty.asked) == retry.MAX_TRIES == len(pauses) + 1
    assert all(
        0 <= pause <= min(retry.FIRST_PAUSE_S * 2**place, retry.MAX_PAUSE_S)
        for place, pause in enumerate(pauses)
    )
    faulty.says(problem(503, "UNAVAILABLE"))
    with pytest.raises(ApiError) as found:
        client.job(7)
    assert (found.value.code, found.value.status) == ("UNAVAILABLE", 503)


def test_what_is_not_idempotent_is_sent_once(faulty: Faulty, client: Client) -> None:
    from datetime import date

    from kezek import ProductRequest

    faulty.says(DROPPED)
    product = ProductRequest(
        slug="s", project="p", name={}, sector="other", stage="idea", started_on=date(2026, 1, 1)
    )
    with pytest.raises(NetworkError):
        client.register_product(product)
    assert len(faulty.asked) == 1


def test_a_refusal_is_final_and_carries_everything(
    faulty: Faulty, client: Client, pauses: list[float]
) -> None:
    faulty.says(problem(409, "BUDGET_EXHAUSTED"))
    with pytest.raises(ApiError) as found:
        client.submit(REQUEST)
    assert (found.value.code, found.value.title, found.value.detail) == ("BUDGET_EXHAUSTED", "t", "d")
    assert found.value.numbers == {"a": 1}
    assert [(one.where, one.detail) for one in found.value.errors] == [("body.x", "m")]
    assert len(faulty.asked) == 1
    assert not pauses


def test_the_platform_may_ask_for_a_longer_pause_but_not_for_ever(
    faulty: Faulty, client: Client, pauses: list[float]
) -> None:
    faulty.says(
        problem(503, "UNAVAILABLE", **{"Retry-After": "3"}),
        problem(503, "UNAVAILABLE", **{"Retry-After": "9999"}),
        ok(JOB),
    )
    client.job(7)
    assert 3 <= pauses[0] <= retry.MAX_PAUSE_S
    assert pauses[1] == retry.MAX_PAUSE_S


@pytest.mark.parametrize("body", [b"no json", b"[]", b"{}", b'{"id": true}', b"[" * 100_000])
def test_an_answer_of_another_kind_is_a_protocol_error(faulty: Faulty, client: Client, body: bytes) -> None:
    faulty.says(Reply(200, body))
    with pytest.raises(ProtocolError):
        client.job(7)


def test_a_redirect_is_not_followed_with_the_token(faulty: Faulty, client: Client) -> None:
    faulty.says(Reply(302, b"", {"Location": "http://127.0.0.1:9/"}))
    with pytest.raises(ApiError) as found:
        client.job(7)
    assert found.value.code == "HTTP_302"
    assert len(faulty.asked) == 1


def test_silence_is_given_up(faulty: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()

    def stay_silent(_: Faulty) -> Reply:
        gate.wait(20)
        return DROPPED

    monkeypatch.setattr(Faulty, "next", stay_silent)
    monkeypatch.setattr(transport, "READ_TIMEOUT_S", 0.05)
    monkeypatch.setattr(retry, "MAX_TRIES", 1)
    with Client(faulty.url, TOKEN) as hurried, pytest.raises(NetworkError, match="timed out"):
        hurried.job(7)
    gate.set()


def test_an_endless_answer_is_refused(
    faulty: Faulty, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "MAX_ANSWER_BYTES", 100)
    faulty.says(Reply(200, b" " * 101))
    with pytest.raises(ProtocolError, match="100 bytes"):
        client.job(7)


def log_reply(
    data: bytes,
    offset: int,
    *,
    attempt: str = "7-1",
    is_complete: bool = False,
    state: str = "RUNNING",
    cut: int | None = None,
) -> Reply:
    headers = {
        "X-Kezek-Attempt": attempt, "X-Kezek-Next-Offset": str(offset), "X-Kezek-Complete": str(is_complete).lower(), "X-Kezek-Job-State": state,
    }  # fmt: skip
    return Reply(200, data, headers, cut)


def test_following_goes_on_from_the_same_byte_after_a_break(faulty: Faulty, client: Client) -> None:
    broken = [DROPPED] * retry.MAX_TRIES
    cut = log_reply(b"second", 11, cut=3)
    faulty.says(
        log_reply(b"", 0, attempt=""),
        log_reply(b"first", 5),
        cut,
        *broken,
        log_reply(b"second", 11),
        log_reply(b"", 11, is_complete=True, state="FAILED"),
    )
    breaks: list[int] = []
    assert b"".join(client.follow(LogPlace(7), on_break=breaks.append)) == b"firstsecond"
    assert breaks == [5]
    assert "offset=5&wait_s=20&attempt=1" in faulty.asked[-2].path
    assert "offset=11" in faulty.asked[-1].path


def test_following_goes_over_to_the_next_attempt_at_its_first_byte(faulty: Faulty, client: Client) -> None:
    waiting = ok(JOB | {"state": "PENDING", "attempts": 1})
    again = ok(JOB | {"state": "RUNNING", "attempts": 2})
    faulty.says(
        log_reply(b"lost", 4, is_complete=True), waiting, again, log_reply(b"kept", 4, attempt="7-2"), log_reply(b"", 4, attempt="7-2", is_complete=True, state="COMPLETED"),
    )  # fmt: skip
    assert b"".join(client.follow(LogPlace(7))) == b"lostkept"
    assert "offset=0" in faulty.asked[3].path
    assert "attempt=2" in faulty.asked[3].path


def test_following_gives_up_in_the_end(faulty: Faulty, client: Client) -> None:
    faulty.says(problem(503, "AGENT_UNREACHABLE"))
    breaks: list[int] = []
    with pytest.raises(ApiError):
        list(client.follow(LogPlace(7), on_break=breaks.append))
    assert len(breaks) == logs.MAX_BREAKS - 1
    faulty.says(problem(404, "NOT_FOUND"))
    faulty.asked.clear()
    with pytest.raises(ApiError):
        list(client.follow(LogPlace(7)))
    assert len(faulty.asked) == 1


def output(path: str = "model.bin", data: bytes = b"good") -> Output:
    return Output("7-1", 0, path, len(data), hashlib.sha256(data).hexdigest(), {})


@pytest.mark.parametrize(
    ("reply", "error"),
    [(Reply(200, b"evil"), DigestMismatchError), (Reply(200, b"good", cut=2), NetworkError)],
)
def test_a_damaged_download_leaves_nothing(
    faulty: Faulty, client: Client, tmp_path: Path, reply: Reply, error: type[Exception]
) -> None:
    faulty.says(reply)
    with pytest.raises(error):
        client.download(7, output(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_download_is_named_as_it_was_kept(faulty: Faulty, client: Client, tmp_path: Path) -> None:
    faulty.says(Reply(200, b"good"))
    target = client.download(7, output("out/a b#?.bin"), tmp_path)
    assert target == tmp_path / "out" / "a b#?.bin"
    assert target.read_bytes() == b"good"
    assert faulty.asked[0].path == "/v1/jobs/7/outputs/0/out/a%20b%23%3F.bin"


@pytest.mark.parametrize("path", ["../evil", "/etc/evil", "a/../../evil", "..", "link/evil"])
def test_a_name_never_leaves_the_folder(faulty: Faulty, client: Client, tmp_path: Path, path: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(UsageFaultError, match="bad_output_path"):
        client.download(7, output(path), folder)
    assert faulty.asked == []


@pytest.mark.parametrize("token", ["a b", "жок", "a\nb", "x" * 513])
def test_a_token_that_cannot_be_one_is_not_sent(token: str) -> None:
    with pytest.raises(ConfigError):
        Client("http://127.0.0.1:9", token)


def kezek(faulty: Faulty, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {
        "KEZEK_URL": faulty.url,
        "KEZEK_TOKEN": TOKEN,
        "KEZEK_LANG": "en",
        "HOME": str(home),
        "HTTP_PROXY": "http://127.0.0.1:9",
    }
    return subprocess.run(
        [sys.executable, "-c", "from kezek.cli import main; main()", *arguments],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        cwd=home,
    )


def test_what_others_wrote_cannot_steer_a_terminal_or_a_script(faulty: Faulty, tmp_path: Path) -> None:
    faulty.says(ok({"items": [JOB | {"name": "a\x1b[31m\tb\n\u202ec"}], "next_cursor": None}))
    done = kezek(faulty, tmp_path, "jobs")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "\u202e" not in done.stdout
    assert [len(line.split("\t")) for line in done.stdout.splitlines()] == [8, 8]


def test_a_reader_that_stops_is_no_failed_job(faulty: Faulty, tmp_path: Path) -> None:
    faulty.says(ok({"items": [JOB] * 200, "next_cursor": "again"}))
    reader = "from kezek.cli import main; main()"
    env = {"KEZEK_URL": faulty.url, "KEZEK_TOKEN": TOKEN, "HOME": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", reader, "jobs", "--limit", "10000"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 141


def test_pages_end_even_when_the_platform_goes_on(
    faulty: Faulty, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kezek.client.MAX_PAGES", 3)
    faulty.says(ok({"items": [JOB], "next_cursor": "again"}))
    assert len(list(client.jobs())) == 3
    assert "cursor=again" in faulty.asked[1].path


def in_terminal(faulty: Faulty, home: Path, *arguments: str, **env: str) -> tuple[int, str]:
    """Run a command in a pseudo-terminal; its exit code and everything it drew."""
    plain = {
        "KEZEK_URL": faulty.url,
        "KEZEK_TOKEN": TOKEN,
        "HOME": str(home),
        "TERM": "xterm-256color",
        "COLUMNS": "120",
    }
    command = [sys.executable, "-c", "from kezek.cli import main; main()", *arguments]
    master, slave = pty.openpty()
    with subprocess.Popen(command, env=plain | env, stdin=slave, stdout=slave, stderr=slave) as process:
        os.close(slave)
        drawn = bytearray()
        with contextlib.suppress(OSError):  # the other end of a pseudo-terminal ends with an error
            while piece := os.read(master, 65_536):
                drawn += piece
        os.close(master)
        return process.wait(30), drawn.decode()


def test_a_terminal_shows_a_live_bar_and_colours_unless_told_not_to(faulty: Faulty, tmp_path: Path) -> None:
    attempt = {"ranks": [], "started_at": "2026-01-01T00:00:00Z"}
    waits = JOB | {"state": "PENDING", "place": 3, "reason": {"code": "HELD", "numbers": {}, "text": "x"}}
    faulty.says(ok(waits), ok(waits), ok(JOB | {"state": "RUNNING", "attempt": attempt}), ok(JOB))
    code, drawn = in_terminal(faulty, tmp_path, "job", "7", "-w")
    assert code == 0
    assert "Job 7: waiting, held; release it first" in drawn
    assert "Jobs ahead: 3" in drawn
    assert "of 1 min" in drawn
    assert "Job 7: completed" in drawn.splitlines()[-1]
    faulty.says(ok({"items": [JOB], "next_cursor": None}))
    assert "\x1b[32mcompleted" in in_terminal(faulty, tmp_path, "jobs")[1]
    assert "\x1b[3" not in in_terminal(faulty, tmp_path, "jobs", NO_COLOR="1")[1]
