"""Each example runs alone, with the environment a rank gets and nothing of the platform."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
DEADLINE_S = 90  # a loaded machine of two cores needs a few seconds


def job_python() -> str:
    """The interpreter of the job environment; the one of the tests where both are one."""
    candidate = Path(os.environ.get("KEZEK_JOB_ENV", ROOT / ".jobenv")) / "bin" / "python"
    return str(candidate) if candidate.exists() else sys.executable


def environment(home: Path, **extra: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home), "LANG": "C.UTF-8"} | extra


def start(home: Path, *argv: str, **extra: str) -> subprocess.Popen[str]:
    home.mkdir(exist_ok=True)
    return subprocess.Popen(
        [job_python(), str(EXAMPLES / argv[0]), *argv[1:]],
        cwd=home,
        env=environment(home, **extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


@dataclass
class Ended:
    code: int
    out: str
    err: str


def wait(process: subprocess.Popen[str]) -> Ended:
    try:
        out, err = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
    return Ended(process.returncode, out, err)


def run(home: Path, *argv: str, **extra: str) -> Ended:
    return wait(start(home, *argv, **extra))


def read_until(process: subprocess.Popen[str], word: str) -> str:
    """The first line with the word. The process is killed at the deadline, which ends the reading."""
    assert process.stdout is not None
    done: list[str] = []

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if word in line:
                done.append(line)
                return

    reader = Thread(target=read)
    reader.start()
    reader.join(DEADLINE_S)
    if reader.is_alive():
        process.kill()
        reader.join()
    assert done, f"no line with {word!r}"
    return done[0]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def gang(home: Path, port: int, worlds: tuple[int, ...], *argv: str) -> list[Ended]:
    """One process per entry of `worlds`, which says what world size that rank believes in."""
    home.mkdir(exist_ok=True)
    ranks = [
        start(
            home / f"rank-{rank}",
            "allreduce.py",
            *argv,
            RANK=str(rank),
            WORLD_SIZE=str(world),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
        for rank, world in enumerate(worlds)
    ]
    return [wait(process) for process in ranks]


def test_training_learns_and_leaves_model_and_metrics(tmp_path: Path) -> None:
    ended = run(tmp_path, "train_digits.py", "--epochs", "15", "--hidden", "32", "--seed", "1")
    assert ended.code == 0, ended.err
    assert "epoch=15/15 loss=" in ended.out
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["accuracy"] >= 0.9
    with np.load(tmp_path / "model.npz") as model:
        assert model["w1"].shape == (64, 32)


def test_training_that_learns_too_little_fails_and_says_what_to_do(tmp_path: Path) -> None:
    ended = run(tmp_path, "train_digits.py", "--epochs", "1", "--hidden", "1")
    assert ended.code == 1
    assert "give it more epochs" in ended.err


@pytest.mark.parametrize(
    "wrong", [("--epochs", "0"), ("--hidden", "-1"), ("--epochs", "10001"), ("--seed", "-1")]
)
def test_training_refuses_absurd_arguments(tmp_path: Path, wrong: tuple[str, str]) -> None:
    ended = run(tmp_path, "train_digits.py", *wrong)
    assert ended.code == 2
    assert "takes" in ended.err


def test_checkpoint_on_a_signal_then_resume_gives_the_weights_of_an_unbroken_run(tmp_path: Path) -> None:
    argv = ("train_digits.py", "--epochs", "400", "--hidden", "32", "--seed", "3")
    broken = start(tmp_path / "broken", *argv)
    read_until(broken, "epoch=2/")
    broken.send_signal(signal.SIGUSR1)
    read_until(broken, "checkpoint epoch=")
    broken.kill()
    wait(broken)
    assert not (tmp_path / "broken" / "model.npz").exists()

    resumed, whole = run(tmp_path / "broken", *argv), run(tmp_path / "whole", *argv)
    assert "resumed epoch=" in resumed.out
    assert "epoch=1/400" not in resumed.out
    assert whole.code == resumed.code == 0
    with np.load(tmp_path / "broken" / "model.npz") as a, np.load(tmp_path / "whole" / "model.npz") as b:
        assert all(a[name].tobytes() == b[name].tobytes() for name in ("w1", "b1", "w2", "b2"))


def test_gang_of_two_ends_with_the_same_weights(tmp_path: Path) -> None:
    ended = gang(tmp_path, free_port(), (2, 2))
    assert [rank.code for rank in ended] == [0, 0], [rank.err for rank in ended]
    digests = {
        line.split("sha256=")[1].split()[0]
        for rank in ended
        for line in rank.out.splitlines()
        if "sha256=" in line
    }
    assert len(digests) == 1
    metrics = json.loads((tmp_path / "rank-0" / "metrics.json").read_text())
    assert metrics["world_size"] == 2
    assert metrics["sha256"] in digests
    assert (tmp_path / "rank-0" / "model.npz").exists()
    assert not (tmp_path / "rank-1" / "model.npz").exists()


def test_gang_averages_gradients_of_all_ranks(tmp_path: Path) -> None:
    pair = gang(tmp_path / "pair", free_port(), (2, 2), "--steps", "100")
    alone = gang(tmp_path / "alone", free_port(), (1,), "--steps", "100")
    assert [rank.code for rank in (*pair, *alone)] == [0, 0, 0]
    with np.load(tmp_path / "pair/rank-0/model.npz") as a, np.load(tmp_path / "alone/rank-0/model.npz") as b:
        assert a["weights"].tobytes() != b["weights"].tobytes()


def test_gang_whose_neighbour_dies_says_so_and_fails(tmp_path: Path) -> None:
    port = free_port()
    first = start(
        tmp_path / "first",
        "allreduce.py",
        RANK="0",
        WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    deadline = time.monotonic() + DEADLINE_S
    while True:  # the port answers once rank 0 listens
        try:
            neighbour = socket.create_connection(("127.0.0.1", port), timeout=1)
            break
        except OSError:
            assert time.monotonic() < deadline
            Event().wait(0.05)  # between two looks; the deadline decides
    with neighbour:
        neighbour.sendall(b"KZ01" + (1).to_bytes(4, "big") + (2).to_bytes(4, "big"))
    ended = wait(first)
    assert ended.code == 1
    assert "gang broken" in ended.err


def test_gang_without_its_variables_says_which(tmp_path: Path) -> None:
    ended = run(tmp_path, "allreduce.py", RANK="0")
    assert ended.code == 1
    assert "WORLD_SIZE" in ended.err


def test_sweep_keeps_the_best_of_all_trials(tmp_path: Path) -> None:
    ended = run(tmp_path, "sweep.py")
    assert ended.code == 0, ended.err
    found = json.loads((tmp_path / "best.json").read_text())
    assert len(found["trials"]) == ended.out.count("trial=")
    assert found["best"]["accuracy"] == max(trial["accuracy"] for trial in found["trials"]) > 0.95


def test_tokens_join_back_into_the_words_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("бала балалар балаларға бала", encoding="utf-8")
    ended = run(tmp_path, "tokenize_kk.py", "text.txt", "--merges", "50")
    assert ended.code == 0, ended.err
    vocab = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    assert vocab["words"] == 4
    assert vocab["tokens"]["бала·"] == 2  # a whole word that repeats is one token
    letters = sum(len(token) * times for token, times in vocab["tokens"].items())
    assert letters == len("балабалаларбалаларғабала") + 4


def test_tokenizer_needs_kazakh_words_and_a_file(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("123 abc", encoding="utf-8")
    assert run(tmp_path, "tokenize_kk.py", "text.txt").code == 1
    assert run(tmp_path, "tokenize_kk.py", "absent.txt").code == 2
    assert run(tmp_path, "tokenize_kk.py", "text.txt", "--merges", "5001").code == 2


def test_corpus_gives_endings_as_tokens(tmp_path: Path) -> None:
    ended = run(tmp_path, "tokenize_kk.py", str(EXAMPLES / "corpus_kk.txt"))
    assert ended.code == 0, ended.err
    tokens = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))["tokens"]
    assert "еді·" in tokens  # the ending of a verb: "-еді"


def test_faulty_prints_its_line_then_fails_with_three(tmp_path: Path) -> None:
    ended = run(tmp_path, "faulty.py")
    assert ended.code == 3
    assert ended.out.startswith("reading 120 pictures")
    assert "LabelsMissingError" in ended.err


def test_endless_saves_and_ends_with_143_when_told_to_stop(tmp_path: Path) -> None:
    process = start(tmp_path, "endless.py")
    read_until(process, "step=10 ")
    process.terminate()
    ended = wait(process)
    assert ended.code == 143
    assert "progress.json is saved" in ended.out
    assert json.loads((tmp_path / "progress.json").read_text())["step"] >= 10


def test_gpus_lists_what_is_visible(tmp_path: Path) -> None:
    ended = run(tmp_path, "gpus.py", CUDA_VISIBLE_DEVICES="GPU-a,GPU-b", KEZEK_GPUS="2", KEZEK_JOB_ID="17")
    assert ended.code == 0, ended.err
    seen = json.loads((tmp_path / "gpus.json").read_text())
    assert (seen["gpus"], seen["job"]) == (["GPU-a", "GPU-b"], "17")


@pytest.mark.parametrize(
    ("visible", "promised"), [("", "1"), ("GPU-a", "2"), ("GPU-a,GPU-a", "2"), ("GPU-a,GPU-b", "1")]
)
def test_gpus_fails_when_it_was_not_given_what_was_promised(
    tmp_path: Path, visible: str, promised: str
) -> None:
    assert run(tmp_path, "gpus.py", CUDA_VISIBLE_DEVICES=visible, KEZEK_GPUS=promised).code == 1


@pytest.fixture
def short_home() -> Iterator[Path]:
    """Ray's sockets stand under it, and a socket's path has 107 characters at most."""
    with tempfile.TemporaryDirectory(prefix="kezek-r-") as folder:
        yield Path(folder)


@pytest.mark.ray
def test_ray_program_sees_exactly_its_gpus(short_home: Path) -> None:
    ended = run(
        short_home,
        "ray_tasks.py",
        CUDA_VISIBLE_DEVICES="GPU-a,GPU-b",
        RAY_OVERRIDE_RESOURCES='{"GPU": 2}',
        RAY_ADDRESS="local",
        RAY_TMPDIR=str(short_home),
        RAY_USAGE_STATS_ENABLED="0",
    )
    assert ended.code == 0, ended.err
    assert json.loads(ended.out.splitlines()[-1]) == {"gpus": 2, "tasks": ["GPU-a", "GPU-b"]}
