"""The command line against a real platform: API, scheduler and agent, nothing in between."""
# ruff: noqa: RUF001 - Kazakh and Russian texts

import hashlib
import json
import signal
import stat

from kezek.exits import Exit

TRAIN = """
import os, sys, pathlib
print("rank", os.environ.get("RANK"), sys.argv[1:], os.environ["COLOUR"], flush=True)
pathlib.Path("model.bin").write_bytes(b"weights" * 10)
"""


def test_a_job_goes_from_submit_to_its_output_and_a_product(platform):
    platform.write("train.py", TRAIN)
    submitted = platform.kezek(
        "submit", "train.py", "--project", "aurora", "--gpus", "2", "--walltime", "5m", "--env", "COLOUR=көк",
        "--output-file", "*.bin", "--wait", "--", "--epochs", "3", "--output", "json",
    )  # fmt: skip
    assert submitted.code == 0, submitted.out + submitted.err
    lines = submitted.out.splitlines()
    assert lines[0] == "Job 1 submitted to queue science."
    assert lines[-1].startswith("Job 1: completed, charged ")

    logs = platform.kezek("logs", "-f", "1")
    assert (logs.code, logs.out) == (0, "rank 0 ['--epochs', '3', '--output', 'json'] көк\n")
    assert json.loads(platform.kezek("logs", "1", "-o", "json").out)["text"] == logs.out

    shown = json.loads(platform.kezek("job", "1", "--output", "json").out)
    assert (shown["state"], shown["command"]) == (
        "COMPLETED",
        ["python", "train.py", "--epochs", "3", "--output", "json"],
    )
    listed = platform.kezek("jobs", "--state", "completed")
    assert listed.out.splitlines()[1].split("\t")[:6] == [
        "1",
        "train.py",
        "aurora",
        "science",
        "completed",
        "2",
    ]
    assert platform.kezek("jobs", "--state", "failed", "-o", "json").out == "[]\n"

    kept = json.loads(platform.kezek("outputs", "list", "1", "-o", "json").out)
    digest = hashlib.sha256(b"weights" * 10).hexdigest()
    assert [(one["path"], one["sha256"]) for one in kept] == [("model.bin", digest)]
    saved = platform.kezek("outputs", "download", "1", "--to", "kept")
    assert (saved.code, saved.out) == (0, "kept/model.bin: 70 B, digest verified.\n")
    assert (platform.home / "kept" / "model.bin").read_bytes() == b"weights" * 10
    again = platform.kezek("outputs", "download", "1", "--to", "kept")
    assert again.code == 2
    assert "exists already" in again.err
    missing = platform.kezek("outputs", "download", "1", "other.bin")
    assert missing.code == 2
    assert "kept no file other.bin" in missing.err

    names = ["--name-kk", "Сынақ", "--name-ru", "Проба", "--name-en", "Trial"]
    more = ["--sector", "education", "--stage", "prototype", "--started-on", "2026-02-01", "--job", "1"]
    registered = platform.kezek("product", "register", "trial", "-p", "aurora", *names, *more)
    assert (registered.code, registered.out) == (0, "Product trial is registered and waits for a reviewer.\n")
    assert (
        "trial\tСынақ\tбілім беру\tпрототип\tтексеруді күтуде"
        in platform.kezek("products", "list", KEZEK_LANG="kk").out
    )
    product = platform.kezek("product", "show", "trial")
    assert digest in product.out
    assert "to be verified" in product.out

    quota = json.loads(platform.kezek("quota", "-o", "json").out)
    assert quota["grants"][0]["balance"]["pending_s"] == 0
    assert (
        quota["grants"][0]["balance"]["used_s"]
        == shown["gpu_seconds"]
        == json.loads(platform.kezek("job", "1", "-o", "json").out)["gpu_seconds"]
    )
    assert "aurora\th200\t10.00" in platform.kezek("quota").out
    kpi = platform.kezek("kpi", KEZEK_LANG="ru")
    assert "2029\t25\t" in kpi.out
    assert "Ещё не подтверждено продуктов: 1." in kpi.err
    assert [
        year["year"]
        for year in json.loads(platform.kezek("kpi", "--year", "2026", "-o", "json").out)["years"]
    ] == [2026]


def test_a_product_goes_through_its_life(platform):
    platform.write("train.py", 'open("model.bin", "wb").write(b"weights" * 10)')
    submitted = platform.kezek(
        "submit", "-p", "aurora", "-g", "2", "--output-file", "model.bin", "-w", "train.py"
    )
    assert submitted.code == 0, submitted.err
    digest = hashlib.sha256(b"weights" * 10).hexdigest()
    user = platform.call("POST", "/v1/users", {"name": "reviewer", "organisation": None})["id"]
    platform.call("POST", f"/v1/users/{user}/roles", {"role": "reviewer", "project": None})
    body = {"user_id": user, "scopes": ["write"], "lifetime_s": 3600}
    reviewer = platform.call("POST", "/v1/tokens", body)["secret"]

    def product(*arguments: str, **env: str) -> str:
        done = platform.kezek("product", *arguments, **env)
        assert done.code == 0, (arguments, done.err)
        return done.out + done.err

    names = ["--name-kk", "Сынақ", "--name-ru", "Проба", "--name-en", "Trial"]
    more = ["--sector", "education", "--stage", "pilot", "--started-on", "2026-02-01", "--draft"]
    further = ["--ai-kind", "vision", "--direction", "data", "--builds-on", "kazllm", "--author", "A. Author"]
    sets = ["--data-set", "meters,CC-BY-4.0", "--link", "https://trial.example.kz"]
    drafted = product("register", "trial", "-p", "aurora", *names, *more, *further, *sets)
    assert "kezek product submit trial" in drafted
    product("link", "trial", "1")
    assert digest in product("version", "trial", "1.0", "--job", "1", "--path", "model.bin")
    wrong = platform.kezek(
        "product", "version", "trial", "1.0", "--job", "1", "--path", "model.bin", "--digest", "0" * 64
    )
    assert (wrong.code, "DIGEST_MISMATCH" in wrong.err) == (4, True)
    said = product("describe", "trial", "--users", "two schools", "--programme", "accelerator")
    assert said == "Product trial: draft.\n"
    shown = product("show", "trial")
    for text in (
        "two schools",
        "accelerator",
        "the KazLLM model",
        "A. Author",
        "meters (CC-BY-4.0)",
        "vision",
    ):
        assert text in shown
    for nothing in ((), ("--data-set", "x")):
        assert platform.kezek("product", "describe", "trial", *nothing).code == Exit.USAGE
    assert "to be verified" in product("submit", "trial")
    assert platform.kezek("product", "verify", "trial").code == Exit.NOT_ALLOWED
    assert "returned" in product("return", "trial", "--note", "Say who uses it.", KEZEK_TOKEN=reviewer)
    product("submit", "trial")
    assert "verified" in product("verify", "trial", KEZEK_TOKEN=reviewer)
    verdict = product("verdict", "trial", KEZEK_LANG="ru")
    assert "GPU-часов" in verdict
    assert "В индикаторе 2 не учитывается." in verdict
    chain = product("chain", "trial")
    assert digest in chain
    assert "authorised body 2, 2026-01-05" in chain
    assert "simulated" in chain.casefold()
    assert "No other product" in product("duplicates", "trial")
    product("register", "copy", "-p", "aurora", *names, *more)
    assert "same name" in product("duplicates", "trial")
    product("unlink", "trial", "1")
    assert "withdrawn" in product("withdraw", "trial")

    kpi = platform.kezek("kpi", "--indicator", "7")
    assert "percentage" in kpi.err
    assert json.loads(platform.kezek("kpi", "--indicator", "8", "-o", "json").out)["contribution"] == 0
    assert platform.kezek("kpi", "--as-of", "2099-01-01T00:00:00Z").code == Exit.USAGE


def test_initiatives_are_entered_by_an_operator_and_seen_by_all(platform):
    assert "No initiatives." in platform.kezek("initiative", "list").err
    names = ["--kpi-kk", "Мектептер", "--kpi-ru", "Школы", "--kpi-en", "Schools", "--unit", "schools"]
    figures = ["--baseline", "0", "--target", "100", "--deadline", "2099-12-31", "--direction", "data"]
    add = ("initiative", "add", "tutor", *names, *figures)
    assert platform.kezek(*add).code == Exit.NOT_ALLOWED
    assert "no data" in platform.kezek(*add, KEZEK_TOKEN=platform.operator).out
    measured = platform.kezek(
        "initiative", "measure", "tutor", "43", "--on", "2026-01-02", "--source", "register",
        KEZEK_TOKEN=platform.operator,
    )  # fmt: skip
    assert "43 %" in measured.out, measured.err
    assert "Мектептер" in platform.kezek("initiative", "list", KEZEK_LANG="kk").out
    assert json.loads(platform.kezek("initiative", "list", "-o", "json").out)[0]["value"] == 43


def test_every_refusal_has_its_words_and_its_exit_code(platform):
    platform.write("train.py", "raise SystemExit(3)")
    submit = ("submit", "train.py", "--gpus", "1", "--walltime", "10m")
    failed = platform.kezek(*submit, "-p", "aurora", "--wait")
    assert failed.code == 1
    assert "failed (code 3" in failed.out
    whole = json.loads(platform.kezek(*submit, "-p", "aurora", "--wait", "-o", "json").out)
    assert whole["state"] == "FAILED"

    unknown = platform.kezek(*submit, "-p", "nowhere")
    assert (unknown.code, "UNKNOWN_PROJECT (404)" in unknown.err) == (3, True)
    assert platform.kezek(*submit, "-p", "boreal").code == 3
    poor = platform.kezek(
        "submit", "train.py", "-p", "aurora", "--gpus", "8", "--walltime", "10h", KEZEK_LANG="kk"
    )
    assert poor.code == 4
    assert "тапсырмаға 80,00 GPU-сағат керек" in poor.err
    assert "BUDGET_EXHAUSTED (409)" in poor.err
    never = platform.kezek("submit", "train.py", "-p", "aurora", "--gpus", "9", KEZEK_LANG="ru")
    assert never.code == 4
    assert "самое большое задание, которое поместится: 8 GPU" in never.err
    strange = platform.kezek("submit", "train.py", "-p", "aurora", "--gpus", "1", "--flavor", "b200")
    assert strange.code == 4
    assert "Ask for a flavor there is: --flavor; in service: h200" in strange.err
    absent = platform.kezek(
        "submit", "--command", "trian.py", "-p", "aurora", "--gpus", "1", "-t", "5m", "--wait"
    )
    assert absent.code == 1
    assert "there is no program trian.py" in absent.out
    assert "[EXEC_NOT_FOUND]" in absent.out
    invalid = platform.kezek("submit", "train.py", "-p", "Not A Slug", "--gpus", "1")
    assert invalid.code == 2
    assert "VALIDATION (422)" in invalid.err
    assert "--project: " in invalid.err
    assert platform.kezek("kpi", "--year", "2031").code == 2

    assert platform.kezek("job", "1", KEZEK_TOKEN=platform.stranger).code == 3
    assert platform.kezek("logs", "1", KEZEK_TOKEN=platform.stranger).code == 3
    assert platform.kezek("logs", "1", "--rank", "7").code == 3
    assert platform.kezek("jobs", KEZEK_TOKEN="kzk_" + "0" * 32 + "_000000").code == 5
    anonymous = platform.kezek("jobs", KEZEK_TOKEN="")
    assert anonymous.code == 5
    assert "kezek login" in anonymous.err
    assert platform.kezek("jobs", KEZEK_TOKEN="with spaces").code == 2
    for done in (unknown, poor, never, invalid, anonymous):
        assert "Traceback" not in done.err
        assert done.out == ""


def test_a_running_job_is_followed_interrupted_and_cancelled(platform, soon):
    platform.write("endless.py", "import time\nprint('first', flush=True)\nwhile True: time.sleep(0.1)")
    assert platform.kezek("submit", "endless.py", "-p", "aurora", "--gpus", "1", "-t", "5m").code == 0
    follower = platform.start("logs", "-f", "1")
    assert follower.stdout is not None
    assert follower.stdout.readline() == "first\n"

    watcher = platform.start("job", "1", "--watch")
    assert watcher.stdout is not None
    soon(lambda: "running" in watcher.stdout.readline())
    watcher.send_signal(signal.SIGINT)
    _, said = watcher.communicate(timeout=20)
    assert watcher.returncode == 130
    assert "Job 1 goes on without you" in said

    assert "n0\th200 (simulated)\tin service\t8\t1\t7\t0" in platform.kezek("cluster").out
    assert "Имитация" in platform.kezek("cluster", KEZEK_LANG="ru").err
    cancelled = platform.kezek("cancel", "1")
    assert (cancelled.code, cancelled.out) == (0, "Job 1 is being stopped.\n")
    rest, _ = follower.communicate(timeout=60)
    assert follower.returncode == 0, rest
    soon(lambda: json.loads(platform.kezek("job", "1", "-o", "json").out)["state"] == "CANCELLED")
    ended = platform.kezek("job", "1", "-w")
    assert ended.code == 1
    assert "Job 1: cancelled" in ended.out
    assert platform.kezek("cancel", "1").out == "Job 1: cancelled.\n"
    assert platform.kezek("cancel", "99").code == 3


def test_login_keeps_a_working_token_to_oneself(platform):
    (platform.home / "token").write_text(platform.token + "\n")
    no_env = {"KEZEK_TOKEN": "", "KEZEK_URL": ""}
    refused = platform.kezek("login", "--url", platform.url, **no_env)
    assert refused.code == 2
    assert "--token-stdin" in refused.err
    wrong = platform.kezek("login", KEZEK_TOKEN="kzk_wrong")
    kept = platform.home / "config" / "kezek" / "config.toml"
    assert wrong.code == 5
    assert not kept.exists()
    done = platform.kezek("login")
    assert done.code == 0
    assert "user-aurora" in done.out
    assert platform.token not in done.out + done.err
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert platform.kezek("jobs", **no_env).code == 0
    assert platform.kezek("jobs", KEZEK_TOKEN="", KEZEK_URL="http://127.0.0.1:9").code == 5, (
        "the token is of another platform"
    )
    assert platform.url in platform.kezek("version", **no_env).out
    kept.chmod(0o644)
    assert "chmod 600" in platform.kezek("jobs", **no_env).err
