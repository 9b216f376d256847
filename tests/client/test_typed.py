"""What is typed: durations, sizes, jobs, settings, addresses; and what of it is refused."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from kezek.messages import Messages
from kezek.settings import Settings, config_path, read_settings, write_settings
from kezek.submission import Typed, prepare
from kezek.units import parse_duration_s, parse_size_bytes

from api.schemas import JobIn
from kezek import ConfigError, UsageFaultError, show
from tests.client.conftest import job


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2h", 7200),
        ("90m", 5400),
        ("1d12h", 129_600),
        ("1h30m15s", 5415),
        ("45", 45),
        ("45s", 45),
        ("02:00:10", 7210),
    ],
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("4GiB", 4 * 1024**3),
        ("512M", 512 * 1024**2),
        ("2GB", 2 * 10**9),
        ("100", 100),
        ("100B", 100),
        ("1tib", 1024**4),
    ],
)
def test_sizes(text: str, count: int) -> None:
    assert parse_size_bytes(text) == count


@pytest.mark.parametrize(
    "text", ["", "0", "h", "-1h", "1.5h", "2 h", "1m2h", "1:00", "00:00:00", "٣h", "9" * 30]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageFaultError, match=r"usage\.duration"):
        parse_duration_s(text)


@pytest.mark.parametrize("text", ["", "0", "GiB", "-1", "1.5G", "1X", "1GiBs"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageFaultError, match=r"usage\.size"):
        parse_size_bytes(text)


def typed(tmp_path: Path, **given: object) -> Typed:
    (tmp_path / "sub").mkdir(exist_ok=True)
    (tmp_path / "sub" / "train.py").write_text("pass")
    plain: dict[str, object] = {
        "project": "p", "gpus": 1, "files": [tmp_path / "sub" / "train.py"], "arguments": [], "command": None, "name": None, "nodes": None,
        "walltime": None, "flavors": [], "memory": None, "env": [], "outputs": [],
    }  # fmt: skip
    return Typed(**(plain | given))  # type: ignore[arg-type]


def test_a_script_becomes_a_command_and_a_bundle(tmp_path: Path) -> None:
    request, bundle = prepare(
        typed(tmp_path, arguments=["--x", "1"], env=["A=b=c", "E="], walltime="1m", memory="1K"), tmp_path
    )
    assert (request.command, request.name) == (("python", "sub/train.py", "--x", "1"), "train.py")
    assert (request.env, request.walltime_s, request.memory_bytes_per_rank) == (
        {"A": "b=c", "E": ""},
        60,
        1024,
    )
    assert bundle is not None
    assert bundle.names == ("sub/train.py",)
    request, bundle = prepare(
        typed(tmp_path, command="bash -c 'echo hi'", files=[], arguments=["x"]), tmp_path
    )
    assert (request.command, request.name, bundle) == (("bash", "-c", "echo hi", "x"), "bash", None)


def test_what_is_asked_of_nodes_is_sent_and_shown_as_it_was_typed(tmp_path: Path) -> None:
    plain, _ = prepare(typed(tmp_path), tmp_path)
    asked, _ = prepare(
        typed(
            tmp_path,
            node_labels=["kezek.kz/rack=r1", "pool=a=b"],
            topology_required="kezek.kz/block",
            topology_preferred="kezek.kz/rack",
            placement="spread",
            cpus_per_gpu=4,
            memory_per_gpu="64GiB",
        ),
        tmp_path,
    )
    where = {
        "node_labels": {"kezek.kz/rack": "r1", "pool": "a=b"},
        "topology_required": "kezek.kz/block",
        "topology_preferred": "kezek.kz/rack",
        "placement": "spread",
        "cpus_per_gpu": 4,
        "memory_bytes_per_gpu": 64 * 2**30,
    }
    assert where.items() <= asked.document(None).items()
    assert JobIn.model_validate(asked.document(None)).placement == "spread"
    assert {"node_labels": {}, "placement": "pack", "cpus_per_gpu": None}.items() <= plain.document(
        None
    ).items()
    messages = Messages("en")
    shown = dict(show.job_pairs(job(**where), messages))
    assert shown["node_terms"] == (
        "--node-label kezek.kz/rack=r1 --node-label pool=a=b --topology-required kezek.kz/block "
        "--topology-preferred kezek.kz/rack --placement spread --cpus-per-gpu 4 --mem-per-gpu 68719476736"
    )
    assert "node_terms" not in dict(show.job_pairs(job(placement="pack"), messages))


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"files": []}, "nothing_to_run"), ({"command": " "}, "nothing_to_run"), ({"command": "a 'b"}, "command_quotes"),
        ({"files": [Path("run.sh")]}, "no_command"), ({"files": [Path("missing.py")]}, "script_not_a_file"),
        ({"node_labels": ["A"]}, "node_label"), ({"node_labels": ["A=1", "A=2"]}, "node_label_twice"),
        ({"env": ["A"]}, "env"), ({"env": ["=b"]}, "env"), ({"env": ["A=1", "A=2"]}, "env_twice"),
    ],
)  # fmt: skip
def test_what_cannot_be_submitted_is_refused_before_anything_is_sent(
    tmp_path: Path, given: dict[str, object], key: str
) -> None:
    with pytest.raises(UsageFaultError, match=rf"usage\.{key}\b"):
        prepare(typed(tmp_path, **given), tmp_path)


def test_settings_are_kept_private_and_read_back(tmp_path: Path) -> None:
    env = {"XDG_CONFIG_HOME": str(tmp_path / "c")}
    kept = write_settings(env, Settings("https://kezek.example", 'kzk_"\\x'))
    assert kept == config_path(env)
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert read_settings(env) == Settings("https://kezek.example", 'kzk_"\\x')
    assert "kzk_" not in repr(read_settings(env))
    write_settings(env, Settings("https://kezek.example", "second"))
    assert read_settings(env | {"KEZEK_TOKEN": "third"}).token == "third"
    with pytest.raises(ConfigError, match="no_token"):
        read_settings(env | {"KEZEK_URL": "https://elsewhere.example"})
    kept.chmod(0o640)
    with pytest.raises(ConfigError, match="open_to_others"):
        read_settings(env)
    kept.chmod(0o600)
    kept.write_text("url = [")
    with pytest.raises(ConfigError, match="unreadable"):
        read_settings(env)


@pytest.mark.parametrize(
    "url", ["kezek.example", "ftp://a", "https://", "https://u:p@a", "https://a/?x=1", "https://a/#f", ""]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        read_settings({"KEZEK_URL": url, "KEZEK_TOKEN": "x", "XDG_CONFIG_HOME": "/nonexistent"})
