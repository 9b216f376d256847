"""The agent, the shepherd or the scheduler dies or misbehaves."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from scheduler.dispatch.executor import AgentExecutor, RefusedError, UnreachableError
from scheduler.dispatch.wire import AgentCode, RankLease


def shepherd_of(node: Any, attempt_id: str) -> int:
    start = node.folder(attempt_id) / "start-0.json"
    node.eventually(start.exists)  # it is written once the rank runs
    rank = json.loads(start.read_text())["pid"]
    return int(Path(f"/proc/{rank}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_killed_agent_comes_back_to_the_same_port_and_finds_its_rank(agent_node: Any) -> None:
    agent_node.launch("17-1", "sh", "-c", "echo once; sleep 98765.5")
    agent_node.eventually(lambda: "once" in agent_node.log("17-1"))
    before, url = agent_node.executor.observe("n0", 0, 5), agent_node.url
    agent_node.stop(signal.SIGKILL)
    agent_node.start()
    assert agent_node.url == url
    assert agent_node.status("17-1").is_alive
    assert agent_node.executor.observe("n0", 0, 0) == before
    lease = agent_node.lease("17-1", "sh", "-c", "echo once; sleep 98765.5")
    assert agent_node.executor.launch("n0", lease).committed_at == agent_node.status("17-1").committed_at
    assert len(agent_node.pids_with("98765.5")) == 1
    agent_node.executor.signal("n0", "17-1", "kill", 0, 1)
    assert agent_node.end("17-1").signal == 9
    assert agent_node.log("17-1") == "once\n"
    seqs = [e.seq for e in agent_node.executor.observe("n0", 0, 0).events]
    assert len(seqs) == 2
    assert seqs[1] > seqs[0]


def test_an_end_while_the_agent_is_away_is_told_after_its_return(agent_node: Any) -> None:
    agent_node.launch("17-1", "sh", "-c", "sleep 0.3; exit 4")
    agent_node.stop(signal.SIGKILL)
    agent_node.eventually((agent_node.folder("17-1") / "exit-0.json").exists)
    agent_node.start()
    assert agent_node.end("17-1").exit_code == 4


def test_a_killed_shepherd_takes_its_rank_along_and_is_reported(agent_node: Any) -> None:
    agent_node.launch("17-1", "sh", "-c", "setsid sleep 98765.75 & sleep 98765.75")
    agent_node.eventually(lambda: len(agent_node.pids_with("98765.75")) == 2)
    os.kill(shepherd_of(agent_node, "17-1"), signal.SIGKILL)
    end = agent_node.end("17-1")
    assert (end.exit_code, end.signal, end.error) == (None, None, "SHEPHERD_LOST")
    assert agent_node.pids_with("98765.75") == []


def test_the_epoch_outlives_the_agent(agent_node: Any) -> None:
    agent_node.executor.drain("n0", is_draining=True, epoch=9)
    agent_node.stop(signal.SIGKILL)
    agent_node.start()
    probe = agent_node.executor.probe("n0")
    assert (probe.highest_epoch, probe.draining) == (9, True)


def test_a_wrong_secret_opens_nothing(agent_node: Any) -> None:
    with AgentExecutor({"n0": agent_node.url}, "guess") as stranger:
        for call in (
            lambda: stranger.probe("n0"),
            lambda: stranger.list_attempts("n0"),
            lambda: stranger.remove("n0", "17-1", 99),
        ):
            with pytest.raises(RefusedError) as error:
                call()
            assert error.value.code == AgentCode.UNAUTHORIZED
    assert httpx.get(f"{agent_node.url}/v1/probe").status_code == 401
    assert agent_node.executor.probe("n0").highest_epoch == 0


def test_no_agent_is_unreachable() -> None:
    with (
        AgentExecutor({"n0": "http://127.0.0.2:1"}, "x") as executor,
        pytest.raises(UnreachableError) as error,
    ):
        executor.probe("n0")
    assert isinstance(error.value.__cause__, httpx.HTTPError)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"command": []}, "command"),
        ({"attempt_id": "../17-1"}, "attempt_id"),
        ({"walltime_s": 0}, "walltime_s"),
        ({"walltime_s": True}, "walltime_s"),
        ({"ranks": []}, "ranks"),
        ({"ranks": [{"rank": 1, "gpu_uuids": []}]}, "ranks"),
        ({"env": {"A=B": "x"}}, "env"),
        ({"outputs": ["../x"]}, "outputs"),
        ({"outputs": ["/etc/passwd"]}, "outputs"),
        ({"surprise": 1}, "surprise"),
        ({"bundle": "abc"}, "bundle"),
    ],
)
def test_a_bad_lease_is_refused_by_field_and_leaves_nothing(
    agent_node: Any, change: dict[str, object], field: str
) -> None:
    body = agent_node.lease("17-1", "true").to_json() | change
    headers = {"Authorization": "Bearer an-invented-secret-of-the-tests", "X-Kezek-Epoch": "1"}
    answer = httpx.post(f"{agent_node.url}/v1/launch", json=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "BAD_REQUEST")
    assert field in answer.json()["detail"]
    assert agent_node.executor.list_attempts("n0") == ()
    assert list((agent_node.state / "n0" / "attempts").iterdir()) == []


def test_a_command_without_epoch_or_of_unknown_path_or_too_large_is_refused(agent_node: Any) -> None:
    headers = {"Authorization": "Bearer an-invented-secret-of-the-tests"}
    assert (
        httpx.post(f"{agent_node.url}/v1/drain", json={"draining": True}, headers=headers).status_code == 400
    )
    assert httpx.get(f"{agent_node.url}/v2/probe", headers=headers).status_code == 404
    headers["X-Kezek-Epoch"] = "1"
    host, _, port = agent_node.url.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    connection.request(
        "PUT", f"/v1/bundles/{'0' * 64}", headers=headers | {"Content-Length": str(8 * 1024 * 1024 + 1)}
    )
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["code"]) == (413, "BODY_TOO_LARGE")
    connection.close()
    assert not agent_node.executor.probe("n0").draining


@pytest.mark.parametrize(
    ("members", "links"),
    [
        ((("../evil", b"x"),), ()),
        ((("/tmp/evil", b"x"),), ()),  # noqa: S108
        ((("a/../../evil", b"x"),), ()),
        ((), (("link", "/etc/passwd"),)),
        ((("big", b"0" * (65 * 1024 * 1024)),), ()),
        (tuple((f"f{i}", b"") for i in range(2001)), ()),
    ],
)
def test_a_bundle_that_could_escape_or_flood_is_refused(agent_node: Any, members: Any, links: Any) -> None:
    data = agent_node.tar_gz(*members, links=links)
    with pytest.raises(RefusedError) as error:
        agent_node.executor.put_bundle("n0", hashlib.sha256(data).hexdigest(), data, 1)
    assert error.value.code == AgentCode.BUNDLE_INVALID


def test_a_bundle_with_the_wrong_digest_or_no_archive_is_refused(agent_node: Any) -> None:
    for digest, data, code in (
        ("0" * 64, agent_node.tar_gz(("a", b"x")), AgentCode.DIGEST_MISMATCH),
        (hashlib.sha256(b"text").hexdigest(), b"text", AgentCode.BUNDLE_INVALID),
    ):
        with pytest.raises(RefusedError) as error:
            agent_node.executor.put_bundle("n0", digest, data, 1)
        assert error.value.code == code


def test_a_tenant_cannot_reach_what_is_the_platforms(agent_node: Any) -> None:
    if not any(name.startswith("landlock:") for name in agent_node.executor.probe("n0").isolation):
        pytest.skip("this kernel has no Landlock: a rank under the platform's uid cannot be confined")
    agent_node.launch("16-1", "sh", "-c", "echo private > f; sleep 60", gpu=1)
    other = agent_node.folder("16-1") / "scratch-0" / "f"
    agent_node.eventually(other.exists)
    port = agent_node.url.rpartition(":")[2]
    code = f"""
import os, signal, urllib.request
def refused(name, call):
    try:
        call()
        print("ALLOWED", name)
    except (OSError, urllib.error.HTTPError) as error:
        print("refused", name, getattr(error, "code", error.errno))
refused("secret", lambda: open({str(agent_node.state / "secret")!r}).read())
refused("other scratch", lambda: open({str(other)!r}).read())
refused("own lease", lambda: open({str(agent_node.folder("17-1") / "lease.json")!r}).read())
refused("state", lambda: os.listdir({str(agent_node.state)!r}))
refused("write system", lambda: open("/usr/evil", "w"))
refused("memory of the agent", lambda: open("/proc/{agent_node.process.pid}/environ").read())
refused("signal the agent", lambda: os.kill({agent_node.process.pid}, 0))
refused("call the agent", lambda: urllib.request.urlopen("http://127.0.0.2:{port}/v1/probe"))
open("mine", "w").write("ok"); open(os.environ["TMPDIR"] + "/t", "w").write("ok"); open(os.environ["HOME"] + "/h", "w").write("ok")
print(open("mine").read())
"""
    end = agent_node.run("17-1", f"{os.path.realpath('/proc/self/exe')}", "-c", code)
    lines = agent_node.log("17-1").splitlines()
    assert end.exit_code == 0, lines
    assert [line for line in lines if line.startswith("ALLOWED")] == []
    assert len(lines) == 9
    assert "refused call the agent 401" in lines
    assert lines[-1] == "ok"


def test_a_second_gpu_of_one_lease_is_not_given_twice(agent_node: Any) -> None:
    uuid = agent_node.executor.probe("n0").gpus[0].uuid
    with pytest.raises(RefusedError) as error:
        agent_node.launch("17-1", "true", ranks=(RankLease(0, (uuid,)), RankLease(1, (uuid,))), world_size=2)
    assert error.value.code == AgentCode.BAD_REQUEST
